"""Scores of many images, and what they are worth: what training and the evaluate command share."""

import csv
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from . import plots
from .checkpoint import describe_checkpoint
from .data.images import convert_array, to_unit
from .data.perturb import CHANGES, CONFOUNDS, PERTURBATIONS
from .errors import UserError
from .files import replacing
from .metrics import at_threshold, evaluate, require_both_classes


class DivergedError(UserError):
    """A detector that gives scores which are not finite."""


def score_images(detector, images, batch_size=64, change=None):
    """Scores of images, in their order.

    Args:
        detector: a `Detector`; it is put in eval mode, and frozen first where it is not.
        images: uint8 or uint16 (N, 1, H, W) at the model's size, on any device.
        change: function of the images in [0, 1], a batch at a time, before they are scored; or None.

    Returns:
        dict of float32 numpy arrays (N,), by the names in the config's `scores`.

    Raises:
        DivergedError: a score is not finite.
    """
    return _score(detector.eval().frozen(), images, batch_size, change)


def require_finite(detector, images):
    """Score images without freezing the detector first, which takes longer than scoring a few.

    Args:
        detector: a `Detector`; it is put in eval mode.
        images: as `score_images` takes them.

    Raises:
        DivergedError: a score is not finite.
    """
    _score(detector.eval(), images)


def _score(detector, images, batch_size=64, change=None):
    """`score_images` by a detector as it is, in eval mode."""
    device = next(detector.parameters()).device
    parts = {name: [] for name in detector.config.scores}
    for batch in images.split(batch_size):
        batch = to_unit(batch.to(device))
        scores, _ = detector.scores(batch if change is None else change(batch))
        for name in parts:
            parts[name].append(scores[name].float().cpu())
    result = {name: torch.cat(values).numpy() for name, values in parts.items()}
    for name, values in result.items():
        if not np.isfinite(values).all():
            raise DivergedError(f"the detector's {name} scores are not finite: its training has diverged")
    return result


def standardize(detector, images, *others):
    """Set what the score `combined` standardizes by, over at most 256 healthy training images; without it do nothing.

    Args:
        detector: a `Detector`.
        images: as `score_images` takes them.
        others: detectors that get the same values.
    """
    if "combined" in detector.config.scores:
        scores = score_images(detector, spread_images(images, 256))
        for each in (detector, *others):
            each.set_usual(scores)


def spread_images(images: torch.Tensor, most: int) -> torch.Tensor:
    """Return at most `most` of the images (N, ...), evenly spread."""
    return images[:: -(-len(images) // most)]


def calibrate(detector, images, validation=None):
    """What scores are usual: of each score the mean and standard deviation over the training images (SQUID 3.4).

    Args:
        images: of training, as `score_images` takes them.
        validation: a labelled `Split`, or None.

    Returns:
        {score: {mean, std, quantiles}}, the last being the 0th to 100th percentile over the normal validation images,
        which the detector has not seen; None without any.
    """
    detector = detector.eval().frozen()
    seen, unseen = score_images(detector, images), None
    if validation is not None:
        unseen = score_images(detector, validation.images[validation.labels == 0])
    return {
        name: {
            "mean": float(np.mean(values, dtype=np.float64)),
            "std": float(np.std(values, dtype=np.float64)),
            "quantiles": None if unseen is None else np.percentile(unseen[name], range(101)).tolist(),
        }
        for name, values in seen.items()
    }


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


def uncropped_size(config):
    """Side of the square images that perturbations are to change: where the config crops, enough to crop after them."""
    return 4 * config.image_size if config.crop else config.image_size


def perturbed_scores(detector, images):
    """Return the scores of images that are all perturbed alike, for each of `PERTURBATIONS`.

    Where the detector's config crops, a changed image is cropped and resized like any image that is read.

    Args:
        detector: a `Detector`; it is put in eval mode.
        images: uint8 or uint16 (N, 1, S, S), not cropped, S = `uncropped_size(detector.config)`.

    Returns:
        {perturbation: {score: float32 (N,)}}.

    Raises:
        DivergedError: a score is not finite.
    """
    frozen, config = detector.eval().frozen(), detector.config
    if not config.crop:
        return {name: _score(frozen, images, change=change) for name, change in PERTURBATIONS.items()}

    def cropped(change):
        def changed(batch):
            squares = [convert_array(image[0], config.image_size, crop=True) for image in change(batch).cpu().numpy()]
            return torch.from_numpy(np.stack(squares))[:, None].to(batch)

        return changed

    return {name: _score(frozen, images, change=cropped(change)) for name, change in CHANGES.items()}


def perturbed_aucs(detector, split):
    """AUC of every score on a labelled split whose images are all perturbed alike: {perturbation: {score: AUC}}.

    `split` has images as `perturbed_scores` takes them.
    """
    return {
        name: {score: float(roc_auc_score(split.labels, values)) for score, values in scores.items()}
        for name, scores in perturbed_scores(detector, split.images).items()
    }


def confounds(detector, split):
    """Return the AUC of every score where only the lungs are left of each image, and where they are removed.

    A score that goes by disease keeps its AUC on the lungs alone, and falls to 0.5 without them. The region is the same
    in every image: a mask of its own would already tell sick lungs, which are hard to outline.

    Args:
        detector: a `Detector`; it is put in eval mode.
        split: a labelled `Split` of images as the model sees them.

    Returns:
        {score: {"lungs only": AUC, "without lungs": AUC}}.
    """
    frozen, result = detector.eval().frozen(), {}
    for name, change in CONFOUNDS.items():
        for score, values in _score(frozen, split.images, change=change).items():
            result.setdefault(score, {})[name] = float(roc_auc_score(split.labels, values))
    return result


def robustness(labels, scores, ranking, threshold=None):
    """Say how scores hold where all images are perturbed alike.

    Args:
        labels: (N,) 0 normal, 1 abnormal, both present.
        scores: {images: {score: (N,)}}: `score_images` as "clean", and `perturbed_scores`.
        ranking: the score that the threshold is of.
        threshold: at which an image is called abnormal, or None.

    Returns:
        dict: `robustness`, {score: {clean, each perturbation, mean: AUC}}, the mean over the clean images and all
        perturbations; and, with a threshold, `healthy_above_threshold`, {clean, each perturbation: share}, in [0, 1],
        of the normal images that are called abnormal.
    """
    result = {"robustness": {}}
    for score in scores["clean"]:
        aucs = {name: float(roc_auc_score(labels, found[score])) for name, found in scores.items()}
        result["robustness"][score] = {**aucs, "mean": fmean(aucs.values())}
    if threshold is not None:
        result["healthy_above_threshold"] = {
            name: 1 - at_threshold(labels, found[ranking], threshold)["specificity"] for name, found in scores.items()
        }
    return result


def score_splits(detector, data):
    """`score_images` of every split but train, by the split's name."""
    detector = detector.eval().frozen()
    return {name: score_images(detector, split.images) for name, split in data.items() if name != "train"}


def write_scores(folder, data, scores, suffix=""):
    """Writes scores-SPLIT[suffix].csv for each split of `scores`: name, label (empty without labels), every score."""
    for name, values in scores.items():
        split = data[name]
        labels = [""] * len(split) if split.labels is None else split.labels.tolist()
        columns = [[f"{value:.9g}" for value in column.tolist()] for column in values.values()]  # float32, exactly
        with replacing(Path(folder) / f"scores-{name}{suffix}.csv") as file:
            writer = csv.writer(file)
            writer.writerow(["name", "label", *values])
            writer.writerows(zip(split.names, labels, *columns))


def read_scores(path):
    """What `write_scores` wrote of a labelled split.

    Returns:
        names, a list of N; labels, int64 (N,); and dict of float64 (N,) by score.

    Raises:
        UserError: no such file, not of this kind, or an image without a label.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is missing: python -m fastsquid.train --resume {path.parent} writes it again")
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            head, *rows = csv.reader(file)
        columns = dict(zip(head, zip(*rows, strict=True), strict=True))
        names, labels = list(columns.pop("name")), [("0", "1").index(label) for label in columns.pop("label")]
        scores = {score: np.array(values, dtype=np.float64) for score, values in columns.items()}
        intact = all(np.isfinite(values).all() for values in scores.values())
    except (KeyError, ValueError, csv.Error):
        intact = False
    if not intact:
        raise UserError(
            f"{path} is damaged: each row should be a name, a label 0 or 1, and finite scores; "
            f"python -m fastsquid.train --resume {path.parent} writes it again"
        )
    return names, np.array(labels), scores


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


def evaluate_run(data, scores, state, name, config, pictures=None):
    """Metrics on the reported split.

    Args:
        data: splits by name.
        scores: `score_images` by split, of the reported one at least.
        state, name: the checkpoint's state, and which of its detectors this is.
        config: its `Config`, by whose score and rule the best one was chosen.
        pictures: folder for ROC and precision-recall curves, or None.

    Returns:
        dict: `split` (None if nothing is labelled), `images`, `checkpoint` (of converted weights without epoch and
        `chosen_by`, which are then None), and `scores` by name.

    Raises:
        UserError: the split has only one class.
    """
    chosen = None if state[name]["epoch"] is None else "last epoch"
    if name == "best":
        # Only a run of an earlier version, which selected by synthetic opacities, has a best epoch without `auc`.
        images = "validation" if config.select == "auc" else "synthetic opacity"
        chosen = f"{images} AUC of {config.score}"
    result = {
        "split": reported_split(data),
        "images": None,
        "scores": {},
        "checkpoint": {"name": name, "epoch": state[name]["epoch"], "chosen_by": chosen},
    }
    if result["split"] is None:
        return result
    split, scores = data[result["split"]], scores[result["split"]]
    if pictures is not None:
        Path(pictures).mkdir(parents=True, exist_ok=True)
        plots.roc(split.labels, scores, Path(pictures) / "roc.png")
        plots.precision_recall(split.labels, scores, Path(pictures) / "precision_recall.png")
    validation = state[name]["validation"]
    return {
        **result,
        "images": {
            "normal": int((split.labels == 0).sum()),
            "abnormal": int((split.labels == 1).sum()),
            "skipped": split.skipped,
        },
        "scores": {
            score: evaluate(split.labels, values, validation and validation[score]["threshold"], split.kinds)
            for score, values in scores.items()
        },
    }


def print_table(result):
    """The metrics of `evaluate_run` as a table for people."""
    if result["split"] is None:
        print("no labelled images: nothing to evaluate")
        return
    images, checkpoint = result["images"], result["checkpoint"]
    print(
        f"\n{result['split']} split: {images['normal']} normal, {images['abnormal']} abnormal; "
        + describe_checkpoint(checkpoint["name"], checkpoint["epoch"])
        + (f" (chosen by {checkpoint['chosen_by']})" if checkpoint["chosen_by"] else "")
    )
    head = f"{'accuracy':>9} {'F1':>6} {'sens.':>6} {'spec.':>6}"
    print(f"{'':22} {'':6}   {'threshold chosen on validation':^30}   {'chosen on these labels (papers)':^30}")
    print(f"{'score':22} {'AUC':>6}   {head}   {head}")
    for name, metrics in result["scores"].items():
        cells = "   ".join(_cells(metrics[key]) for key in ("validation_threshold", "test_threshold"))
        print(f"{name:22} {metrics['auc']:6.3f}   {cells}")
    kinds = next(iter(result["scores"].values())).get("auc_by_kind")
    if kinds:
        print(f"\n{'AUC by kind':22} " + " ".join(f"{kind:>9}" for kind in kinds))
        for name, metrics in result["scores"].items():
            print(f"{name:22} " + " ".join(f"{value:9.3f}" for value in metrics["auc_by_kind"].values()))


def _cells(at):
    if at is None:
        return f"{'-':>9} {'-':>6} {'-':>6} {'-':>6}"
    return f"{at['accuracy']:9.3f} {at['f1']:6.3f} {at['sensitivity']:6.3f} {at['specificity']:6.3f}"


def print_confounds(aucs):
    """Print `confounds` as a table for people: a row per score."""
    names = list(next(iter(aucs.values())))
    print(f"\n{'AUC of parts of images':22} " + "  ".join(names))
    for score, values in aucs.items():
        print(f"{score:22} " + "  ".join(f"{values[name]:{len(name)}.3f}" for name in names))


def print_robustness(aucs, healthy=None):
    """The two parts of `robustness` as a table for people: a row per perturbation, a column per score."""
    head = f"{'AUC of changed images':22} " + "  ".join(f"{score:>6}" for score in aucs)
    print(f"\n{head}" + "  healthy above threshold" * (healthy is not None))
    for name in next(iter(aucs.values())):
        row = f"{name:22} " + "  ".join(f"{values[name]:{max(6, len(score))}.3f}" for score, values in aucs.items())
        print(row + (f"  {healthy[name]:23.1%}" if healthy and name in healthy else ""))
