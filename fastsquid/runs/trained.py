"""A trained detector and what is known of it: of one run, or of a group of runs as one ensemble.

The calibration of an ensemble uses the scores in its runs' `scores-val.csv`, so no image is read again.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import CheckpointError, UserError
from ..evaluation.validation import auc_and_threshold
from ..model.detector import Detector
from ..model.ensemble import Ensemble
from ..scoring.maps import Moments
from ..scoring.scores import Calibration
from .checkpoint import latest_checkpoint, load_detector, read_maps, read_state
from .folder import read_run, read_scores, scores_file
from .group import finished_runs, is_group
from .records import CheckpointState, RunRecord


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """A detector for scoring, and what its run recorded.

    Attributes:
        detector: a `Detector` in eval mode, or an `Ensemble` of a group's detectors.
        calibration: {score: `Calibration`}; None before a run has finished, and for converted weights without data.
        folder: of the run or group; None for a detector that no folder holds.
        record: config.json of the run, or of a group's first run; None without a folder.
        runs, seeds: the run folders and their seeds, one or several.
        checkpoint: `best` or `last`.
        epoch: that the detector was trained to; None for converted weights; a list for a group.
        validation: {score: {"auc", "threshold"}} on labeled validation images, or None.
        weights: sha256 of the weights; a list for a group.
    """

    detector: Detector | Ensemble
    calibration: dict[str, Calibration] | None
    folder: Path | None = None
    record: RunRecord | None = None
    runs: tuple[Path, ...] = ()
    seeds: tuple[int, ...] = ()
    checkpoint: str = "last"
    epoch: int | list[int | None] | None = None
    validation: dict[str, dict[str, float]] | None = None
    weights: str | list[str] | None = None


def load_run(
    folder: str | Path, which: str | None = None, impl: str = "auto", device: str | torch.device = "cpu"
) -> TrainedRun:
    """Load a trained detector from a run folder.

    Args:
        folder: that `train` or `convert` wrote.
        which: `best`, `last`, or None for the best where the run has one.
        impl: `auto`, `triton` or `torch`.
        device: of the detector.

    Raises:
        CheckpointError: no checkpoint yet, or one that is damaged or of another configuration.
    """
    return _load(Path(folder), which, impl, device)[0]


def load_trained(
    folder: str | Path, which: str | None = None, impl: str = "auto", device: str | torch.device = "cpu"
) -> TrainedRun:
    """Load a run folder as `load_run` does, or a group folder as the ensemble of its runs.

    Args:
        folder, which, impl, device: as for `load_run`.

    Raises:
        CheckpointError: a run that is missing, unfinished, damaged, or not of the group's configuration.
        UserError: runs that did not validate on the same images.
    """
    if not is_group(folder):
        return load_run(folder, which, impl, device)
    loaded = [_load(run, which, impl, device) for run in finished_runs(folder).values()]
    runs = [run for run, _ in loaded]
    first, names = runs[0], runs[0].record.config.scores
    labels, scores = _validation(loaded, names)
    moments = [_moments(names, run.calibration, labels, values) for run, values in zip(runs, scores)]
    ensemble = Ensemble([run.detector for run in runs], moments).eval()
    calibration, validation = _calibrate(ensemble, labels, scores)
    return TrainedRun(
        detector=ensemble,
        calibration=calibration,
        folder=Path(folder),
        record=first.record,
        runs=tuple(run.folder for run in runs),
        seeds=tuple(run.record.seed for run in runs),
        checkpoint=first.checkpoint,
        epoch=[run.epoch for run in runs],
        validation=validation,
        weights=[run.weights for run in runs],
    )


def load_maps(run: TrainedRun) -> dict[str, Moments] | None:
    """Return the normal values of every heat map at every pixel, as `scoring.maps.calibrate_maps` returns them.

    For a group of R runs, each mean and standard deviation is (R, H, W). None where a run has no such file.

    Raises:
        CheckpointError: a file is damaged.
    """
    if not is_group(run.folder):
        return read_maps(run.folder, run.weights)
    found = [read_maps(folder, digest) for folder, digest in zip(run.runs, run.weights)]
    if None in found:
        return None
    return {
        kind: tuple(torch.stack([maps[kind][moment] for maps in found]) for moment in (0, 1))
        for kind in found[0]
        if all(kind in maps for maps in found)
    }


def _load(folder: Path, which, impl, device) -> tuple[TrainedRun, CheckpointState]:
    record = read_run(folder)
    latest = latest_checkpoint(folder)
    if latest is None:
        raise CheckpointError(f"{folder} has no checkpoint yet: go on with python -m fastsquid.train --resume {folder}")
    state = read_state(latest, record.config)
    name = which or state.chosen
    known = state.detector(name)
    if known is None:
        raise CheckpointError(
            f"{folder} has no best checkpoint, because no epoch was chosen by an AUC: use --checkpoint last"
        )
    detector = Detector(record.config, impl)
    load_detector(detector, latest, state, name)
    run = TrainedRun(
        detector=detector.to(device).eval(),
        calibration=known.calibration,
        folder=folder,
        record=record,
        runs=(folder,),
        seeds=(record.seed,),
        checkpoint=name,
        epoch=known.epoch,
        validation=known.validation,
        weights=state.sha256[name],
    )
    return run, state


def _validation(loaded, names):
    """Return the labels (N,) of the validation images, and per run {score: float32 (N,)}.

    Both are None (per run) where no validation image has a label.
    """
    if all(run.validation is None for run, _ in loaded):
        return None, [None] * len(loaded)
    found = []
    for run, state in loaded:
        # The files without a suffix are of the detector that the run stands for.
        stands = run.epoch == state.detector(state.chosen).epoch
        path = scores_file(run.folder, "val", "" if stands else f"-{run.checkpoint}")
        images, labels, values = read_scores(path)
        if missing := set(names) - set(values):
            raise CheckpointError(
                f"{path} has no {min(missing)} scores: python -m fastsquid.train --resume {run.folder} writes it again"
            )
        found.append((images, labels.tolist(), values))
        if found[-1][:2] != found[0][:2]:
            raise UserError(
                f"{run.folder} and {loaded[0][0].folder} did not validate on the same images: an ensemble needs runs "
                "of one data set"
            )
    # float32, as detectors give scores: float64 sums could fall on the other side of a threshold than new scores.
    return np.array(found[0][1]), [{name: values[name].astype(np.float32) for name in names} for *_, values in found]


def _moments(names, calibration, labels, scores):
    """Return {score: (mean, standard deviation)} that standardize a run's scores.

    They are those of its normal validation images. Where there are none, or all have one score, those of the training
    images.
    """
    moments = {}
    for name in names:
        mean, std = calibration[name].mean, calibration[name].std
        if labels is not None and np.ptp(scores[name][labels == 0]) > 0:
            normal = scores[name][labels == 0].astype(np.float64)
            mean, std = normal.mean(), normal.std()
        moments[name] = float(mean), max(float(std), 1e-12)
    return moments


def _calibrate(ensemble, labels, scores):
    """Return calibration and validation of the ensemble's scores.

    Without labels, only the training images standardize the runs. Their mean is then 0. Their standard deviation counts
    as 1, which it cannot exceed: the runs' training scores are not kept.
    """
    if labels is None:
        return {name: Calibration(0.0, 1.0) for name in ensemble.config.scores}, None
    combined = ensemble.combine(scores)
    calibration = {
        name: Calibration(
            float(values[labels == 0].mean(dtype=np.float64)),
            float(values[labels == 0].std(dtype=np.float64)),
            np.percentile(values[labels == 0], range(101)).tolist(),
        )
        for name, values in combined.items()
    }
    return calibration, auc_and_threshold(labels, combined)
