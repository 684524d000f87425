"""What is written when a run or a group of runs ends."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.split import Split
from ..drawing.gallery import draw_gallery
from ..errors import CheckpointError, UserError
from ..evaluation.metrics import bootstrap_auc
from ..evaluation.summary import evaluate_run, group_table, mean_and_std, run_table
from ..evaluation.validation import validate
from ..model.detector import Detector
from ..runs import checkpoint as ckpt
from ..runs.folder import (
    GALLERY,
    SUMMARY,
    read_scores,
    read_summary,
    scores_file,
    write_scores,
)
from ..runs.group import finished_runs
from ..runs.input_check import save_check
from ..runs.records import CheckpointState, DetectorState, Summary
from ..scoring.input_check import fit_check
from ..scoring.maps import calibrate_maps, forward_maps
from ..scoring.scores import calibrate, score_splits
from ..utils.files import write_json

log = logging.getLogger(__name__)


def report_run(
    folder: Path,
    detector: Detector,
    data: dict[str, Split],
    normal: torch.Tensor,
    state: CheckpointState,
    seed: int,
    facts: dict[str, Any],
) -> None:
    """Write the results of the detector that a run stands for, and log its metrics.

    The files are the scores of all images outside `train`, a gallery, the calibration of the heat maps, the input
    check, and summary.json.

    Args:
        folder: the run folder.
        detector: loaded from the run's checkpoint.
        data: splits by name.
        normal: normal images that calibrate maps and input check, uint8 or uint16 (N, 1, H, W).
        state: of the checkpoint.
        seed: of the run.
        facts: about the training, for the summary.
    """
    known, config = state.detector(state.chosen), detector.config
    assert known is not None and known.calibration is not None  # the run is finished
    detector = detector.eval().frozen()
    log.info("scoring %d images of val and test", sum(len(split) for name, split in data.items() if name != "train"))
    scores = score_splits(detector, data)
    write_scores(folder, data, scores)
    metrics = evaluate_run(data, scores, config, state.chosen, known.epoch, known.validation)
    summary = Summary(preset=config.preset, seed=seed, facts=facts, **metrics)
    draw_gallery(detector, data[summary.split or "train"], known.calibration, folder / GALLERY)
    log.info("calibrating the heat maps and the input check on %d normal images", len(normal))
    ckpt.save_maps(folder, calibrate_maps(detector, normal, maps=forward_maps), state.sha256[state.chosen])
    save_check(folder, fit_check(normal))
    write_json(folder / SUMMARY, summary.to_json())  # last: it marks the run as finished
    log.info("\n%s", run_table(metrics))


def report_group(folder: Path) -> None:
    """Write and log summary.json of a group whose runs have all finished.

    Raises:
        UserError: as `summarize` raises it.
    """
    summary = summarize(finished_runs(folder))
    write_json(Path(folder) / SUMMARY, summary)
    log.info("\n%s", group_table(summary))


def summarize(runs: dict[int, Path]) -> dict[str, Any]:
    """Return the metrics of several runs over their seeds, on the split that their summaries report.

    Args:
        runs: {seed: run folder}.

    Returns:
        a dict of
        `preset` and `seeds`;
        `split` and `images`, as in a run's summary; `split` is None if nothing is labeled;
        `scores`: by score, `mean` and sample standard deviation `std` over seeds (None for a single seed) of `auc`,
        and of `accuracy` and `f1` at the threshold chosen on validation (None without one); with several abnormal
        classes also `auc_by_kind`, the same of the AUC of each class;
        `runs`: for each seed its `checkpoint`, and by score its `auc` as `value`, with the `low` and `high` end of the
        95 % bootstrap interval over images.

    Raises:
        UserError: a run's summary or scores are damaged, or of other images than the first run's.
    """
    reports = {seed: read_summary(run) for seed, run in runs.items()}
    first = next(iter(reports.values()))
    images = None
    for seed, report in reports.items():
        same = (report.split, report.images) == (first.split, first.images)
        own = _scored_images(runs[seed], report) if same else None
        images = images or own
        if not same or own != images:
            raise UserError(
                f"{runs[seed]} was evaluated on other images than {next(iter(runs.values()))}: the data has changed. "
                "Evaluate each run again with python -m fastsquid.train --resume RUN"
            )
    scores = {}
    for score in first.scores:
        metrics = [report.scores[score] for report in reports.values()]
        scores[score] = {"auc": mean_and_std([m["auc"] for m in metrics])}
        for name in ("accuracy", "f1"):
            chosen = [m["validation_threshold"] for m in metrics]
            scores[score][name] = None if None in chosen else mean_and_std([at[name] for at in chosen])
        kinds = [m.get("auc_by_kind", {}) for m in metrics]
        if kinds[0] and all(one.keys() == kinds[0].keys() for one in kinds):
            scores[score]["auc_by_kind"] = {kind: mean_and_std([one[kind] for one in kinds]) for kind in kinds[0]}
    return {
        "preset": first.preset,
        "seeds": list(runs),
        "split": first.split,
        "images": first.images,
        "scores": scores,
        "runs": [
            {"seed": seed, "checkpoint": report.checkpoint, "auc": _intervals(runs[seed], report)}
            for seed, report in reports.items()
        ],
    }


def _scored_images(run_folder: Path, report: Summary) -> tuple[list[str], list[int]] | None:
    """Return names and labels of the images that a run's metrics are of; None if nothing is labeled."""
    if report.split is None:
        return None
    names, labels, _ = read_scores(scores_file(run_folder, report.split))
    return list(names), np.asarray(labels).tolist()


def _intervals(run_folder: Path, report: Summary) -> dict[str, dict[str, float]]:
    """Return the AUC of a run and its interval by score."""
    if report.split is None:
        return {}
    _, labels, scores = read_scores(scores_file(run_folder, report.split))
    result = {}
    for score, metrics in report.scores.items():
        if score not in scores:
            path = scores_file(run_folder, report.split)
            raise CheckpointError(
                f"{path} has no {score} scores: python -m fastsquid.train --resume {run_folder} writes it again"
            )
        low, high = bootstrap_auc(labels, scores[score])
        result[score] = {"value": metrics["auc"], "low": low, "high": high}
    return result


def measure_detector(detector: Detector, data: dict[str, Split], normal: torch.Tensor | None) -> DetectorState:
    """Return the validation and calibration of a detector, as far as there are images for them.

    Args:
        detector: to measure.
        data: splits by name; a labeled `val` is used for validation.
        normal: normal images for calibration, uint8 or uint16 (N, 1, H, W); or None.
    """
    validation = data.get("val")
    if validation is not None and validation.labels is None:
        validation = None
    return DetectorState(
        epoch=None,
        validation=None if validation is None else validate(detector, validation),
        calibration=None if normal is None else calibrate(detector, normal, validation),
    )
