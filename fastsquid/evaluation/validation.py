"""AUC and thresholds on labeled images."""

from ..errors import UserError
from ..scoring.scores import score_images
from .metrics import evaluate, require_both_classes


def validate(detector, split):
    """AUC and accuracy-best threshold of every score on a labelled split: {name: {"auc": ..., "threshold": ...}}."""
    return auc_and_threshold(split.labels, score_images(detector, split.images))


def auc_and_threshold(labels, scores):
    """As `validate`, of labels (N,) and {score: (N,)}."""
    results = {name: evaluate(labels, values) for name, values in scores.items()}
    return {
        name: {"auc": result["auc"], "threshold": result["test_threshold"]["threshold"]}
        for name, result in results.items()
    }


def reported_split(data):
    """Name of the split that is reported: test where it is labelled, else val, else None.

    Raises:
        UserError: the split has only one class.
    """
    for name in ("test", "val"):
        if name in data and data[name].labels is not None:
            require_both_classes(data[name].labels, f"the {name} split")
            return name
    return None


def shown_split(data):
    """Name of the split that is reported; of images without both classes there is still a picture."""
    try:
        labelled = reported_split(data)
    except UserError:
        labelled = None
    return labelled or next(name for name in ("test", "val", "train") if name in data)
