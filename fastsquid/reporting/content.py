"""What a report says: scores, labels, thresholds, metrics and facts of the run, as JSON for its page."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from .. import __version__
from ..api import Scorer
from ..config import SCORES
from ..data.names import Names
from ..data.sources import describe_source
from ..data.split import class_masks
from ..evaluation.metrics import at_sensitivity, bootstrap_auc, evaluate_kinds
from ..evaluation.summary import describe_checkpoint, describe_seeds
from ..model.ensemble import Ensemble
from ..runs.folder import is_unmeasured, read_scores, scores_file
from ..runs.records import RunRecord
from ..runs.trained import TrainedGroup, TrainedRun
from ..scoring.thresholds import UNMEASURED
from ..utils.text import printable
from .images import ReportImage
from .page import DEVIATIONS

SENSITIVITY = 0.95  # at which a specificity is reported
FEWEST = 20  # images of each class from which on an interval of the AUC is given


def page_data(scorer: Scorer, images: Sequence[ReportImage]) -> dict[str, Any]:
    """Return the data of the page, as `page.page` takes it.

    Args:
        scorer: of a calibrated run or group.
        images: as `examine.examine_images` leaves them.
    """
    read = [image for image in images if not image.error]
    scores = np.array([image.score for image in read])
    percentiles = None
    if scorer.has_percentiles:
        below = iter(np.floor(scorer.percentile(scores)).astype(int).tolist())
        percentiles = [None if image.error else next(below) for image in images]
    labeled = [image for image in read if image.label is not None]
    labels, values = [image.label for image in labeled], [image.score for image in labeled]
    metrics = _metrics(labels, values)
    thresholds = [list(threshold) for threshold in scorer.thresholds]
    if metrics:
        metrics["classes"] = _classes(labels, values, [image.findings for image in labeled])
        thresholds.append(
            [metrics["threshold"], f"{100 * SENSITIVITY:.0f} % sensitivity on the labels of these images"]
        )
    return {
        "names": [printable(image.name) for image in images],
        "scores": [None if image.error else image.score for image in images],
        "percentiles": percentiles,
        "labels": [image.label for image in images],
        "ages_outside": [bool(image.age_outside) for image in images],
        "unlike": None if scorer.input_check is None else [image.unlike for image in images],
        "places": {
            str(index): [[*(round(edge, 4) for edge in box[1:]), printable(box.finding)] for box in image.places]
            for index, image in enumerate(images)
            if image.places
        },
        "errors": {str(index): image.error for index, image in enumerate(images) if image.error},
        "thresholds": thresholds,
        "metrics": metrics,
        "deviations": DEVIATIONS,
        "map": _map_of(scorer.run.record.config),
        "run": _facts(scorer),
    }


def count_normal(scorer: Scorer) -> int | None:
    """Return the number of normal validation images behind the scorer's percentiles; None where it has none."""
    if not scorer.has_percentiles:
        return None
    _, labels, _ = read_scores(scores_file(scorer.run.runs[0], "val"))
    return int((labels == 0).sum())


def page_title(
    run: TrainedRun | TrainedGroup,
    images: Sequence[ReportImage],
    source: str,
    folder: str | None,
    trained_on: str | None,
    names: Names,
) -> dict[str, str]:
    """Return the page's title, and sentences on the training patients and on whether an AUC is known.

    Only a folder's own name is shown: its path could name people. An anonymous report shows none.

    Args:
        run: that scored the images.
        images: of the report.
        source: folder of the images, or path of a CSV of their scores.
        folder: folder of the images of a CSV, or None.
        trained_on: who the training patients were; None for what the run recorded.
        names: what the report calls folders.
    """
    title = f"{len(images):,} images"
    if name := names.folder(Path(source if folder is None else folder).resolve()):
        title = name if folder is None else f"{names.folder(source)} of {name}"
    about = _trained_on(run.record, run.seeds, trained_on, names)
    if is_unmeasured(run.runs[0]) and not {0, 1} <= {image.label for image in images}:
        about += f" {UNMEASURED}"
    return {"title": printable(title), "trained_on": printable(about)}


def _metrics(labels, scores):
    """Return metrics of scores at every threshold; None unless both classes are present."""
    if len(set(labels)) < 2:
        return None
    fpr, tpr, _ = roc_curve(labels, scores)
    precision, recall, _ = precision_recall_curve(labels, scores, drop_intermediate=True)
    threshold, specificity = at_sensitivity(labels, scores, SENSITIVITY)
    return {
        "auc": float(roc_auc_score(labels, scores)),
        "interval": bootstrap_auc(labels, scores) if min(labels.count(0), labels.count(1)) >= FEWEST else None,
        "fewest": FEWEST,
        "average_precision": float(average_precision_score(labels, scores)),
        "sensitivity": SENSITIVITY,
        "specificity": specificity,
        "threshold": threshold,
        "roc": _points(fpr, tpr),
        "precision_recall": _points(recall, precision),
    }


def _classes(labels, scores, findings):
    """Return one dict per abnormal class, as `evaluate_kinds` has it; none for fewer than two classes."""
    found = evaluate_kinds(labels, scores, class_masks(labels, findings))
    return [{"name": printable(name), **values} for name, values in found.items()]


def _points(x, y):
    return np.stack([x, y], 1).round(5).tolist()


def _trained_on(record: RunRecord, seeds: Sequence[int], text: str | None, names: Names) -> str:
    """Return sentences on the training patients.

    Args:
        record: of the run, or of a group's first run.
        seeds: of its runs.
        text: who they are; None for what the run recorded.
        names: what the report calls the folder of the training images.
    """
    name = names.folder(record.data) if record.data else ""
    folder = f" of the folder {name}" if name else ""
    if record.converted:
        return (
            f"Scored by published weights of {record.converted['system']}, which were not trained here: "
            f"{text or 'who the training patients were is not recorded'}. "
            f"Calibrated on {record.converted['images']:,} normal images{folder}."
        )
    trained_on = record.trained_on or {"images": None, "source": None}  # a run of an earlier version has none
    known = describe_source("digits" if record.data is None else trained_on["source"])
    words = text or known or "who the training patients were is not recorded"
    if record.ages and not known:
        words += f"; patients of {record.ages[0]:.3g} to {record.ages[1]:.3g} years"
    by = f"{len(seeds)} runs, each" if len(seeds) > 1 else "a run that was"
    sentence = f"Scored by {by} trained on {_count(trained_on)}images{folder}, all taken as healthy: {words}."
    if record.init:
        first = record.init.get("trained_on") or {"images": None, "source": None}
        begun = describe_source(first["source"]) or "who the training patients were is not recorded"
        sentence += f" It began with the weights of a run that was trained on {_count(first)}images: {begun}."
    return sentence


def _count(record):
    return "" if record["images"] is None else f"{record['images']:,} "


def _facts(scorer):
    """Return [what, text] lines about the run."""
    run, config = scorer.run, scorer.run.record.config
    runs = "mean of all runs, each standardized; " if isinstance(scorer.detector, Ensemble) else ""
    label = SCORES[config.score].label
    score = label if label.startswith(config.score) else f"{config.score}: {label}"
    return [
        ["Score", f"{score}; {runs}larger is more abnormal"],
        ["Map", _map_of(config)],
        [
            "Preset",
            config.preset
            if run.record.converted
            else f"{config.preset}, {config.epochs} epochs, {describe_seeds(run.seeds)}",
        ],
        *([["Input check", "none: an earlier version made the run"]] if scorer.input_check is None else []),
        ["Checkpoint", describe_checkpoint(run.checkpoint, run.epoch)],
        ["Image size", f"{config.image_size} x {config.image_size} pixels"],
        [
            "Version",
            run.record.fastsquid + (f"; report by {__version__}" if run.record.fastsquid != __version__ else ""),
        ],
        ["Date", datetime.date.today().isoformat()],
    ]


def _map_of(config):
    """Return what the map shows. If the score is made of something else, say so."""
    unit = "in standard deviations from normal images at each pixel"
    judged = {
        "discriminator": "the reconstruction",
        "discriminator_image": "the image",
        "combined": "the image and of its reconstruction",
    }
    if config.map in judged:
        return f"how abnormal the discriminator finds each cell of {judged[config.map]}, {unit}"
    error = f"the reconstruction's squared error, {unit}"
    return error if config.score in ("residual", "patch_residual") else f"{error}; the score goes by something else"
