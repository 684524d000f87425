"""Load a trained detector and what its run recorded: of one run, or of a group of runs as one ensemble.

The calibration of an ensemble uses the scores in its runs' `scores-val.csv`, so no image is read again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import CheckpointError, UserError
from ..model.detector import Detector
from ..model.ensemble import Ensemble
from ..models import shipped_name
from ..ops.dispatch import Impl
from ..scoring.maps import Moments
from ..scoring.scores import Calibration
from .checkpoint import latest_checkpoint, load_detector, read_maps, read_state
from .folder import read_run, read_scores, scores_file, to_resume
from .group import finished_runs, is_group
from .records import CheckpointState, RunRecord


@dataclass(frozen=True, eq=False)
class TrainedDetector:
    """A detector for scoring, in eval mode, which need not have a run folder.

    Attributes:
        detector: a `Detector`, or an `Ensemble` of a group's detectors.
        calibration: {score: `Calibration`}; None before a run has finished, and for weights converted without data.
    """

    detector: Detector | Ensemble
    calibration: dict[str, Calibration] | None


@dataclass(frozen=True, eq=False)
class TrainedRun(TrainedDetector):
    """The detector of a run folder, and what the run recorded.

    Attributes:
        detector, calibration: as for `TrainedDetector`.
        folder: of the run.
        record: config.json of the run.
        checkpoint: `best` or `last`.
        epoch: number of epochs that the detector was trained; None for converted weights.
        validation: {score: {"auc", "threshold"}} on labeled validation images, or None.
        weights: sha256 of the weights.
    """

    detector: Detector
    folder: Path
    record: RunRecord
    checkpoint: str
    epoch: int | None
    validation: dict[str, dict[str, float]] | None
    weights: str

    @property
    def runs(self) -> tuple[Path, ...]:
        """The run folder, as a group has several."""
        return (self.folder,)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of the run, as a group has several."""
        return (self.record.seed,)


@dataclass(frozen=True, eq=False)
class TrainedGroup(TrainedDetector):
    """The ensemble of a group folder, and what its runs recorded.

    Attributes:
        detector, calibration: as for `TrainedDetector`.
        folder: of the group.
        record: config.json of its first run.
        runs, seeds: the run folders and their seeds.
        checkpoint: `best` or `last`, as for the first run.
        epoch: per run the number of epochs that its detector was trained.
        validation: {score: {"auc", "threshold"}} of the ensemble on labeled validation images, or None.
        weights: per run the sha256 of its weights.
    """

    detector: Ensemble
    folder: Path
    record: RunRecord
    runs: tuple[Path, ...]
    seeds: tuple[int, ...]
    checkpoint: str
    epoch: list[int | None]
    validation: dict[str, dict[str, float]] | None
    weights: list[str]


def load_run(
    folder: str | Path, which: str | None = None, impl: Impl = "auto", device: str | torch.device = "cpu"
) -> TrainedRun:
    """Load a trained detector from a run folder.

    Args:
        folder: a run folder, as `train` or `convert` writes it.
        which: `best`, `last`, or None for the best if the run has one.
        impl: `auto`, `triton` or `torch`, for the memory read and the neighbor attention.
        device: of the detector.

    Returns:
        the detector in eval mode, with what the run recorded.

    Raises:
        CheckpointError: no checkpoint yet, or one that is damaged or of another configuration.
    """
    return _load(Path(folder), which, impl, device)[0]


def load_weights(detector: Detector, run: TrainedRun) -> None:
    """Load the weights of a trained run into a detector that is to be trained.

    Raises:
        UserError: they do not fit the detector's configuration.
    """
    try:
        detector.load_state_dict(run.detector.state_dict())
    except RuntimeError:
        ours, theirs = detector.config.to_dict(), run.record.config.to_dict()
        differing = [name for name, value in theirs.items() if value != ours[name] and name != "preset"]
        raise UserError(
            f"the weights of {shipped_name(run.folder) or run.folder} do not fit this configuration, which differs in "
            f"{', '.join(differing)}: leave out those that change the architecture"
        ) from None


def load_trained(
    folder: str | Path, which: str | None = None, impl: Impl = "auto", device: str | torch.device = "cpu"
) -> TrainedRun | TrainedGroup:
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
    labels, scores = _validation(loaded, names) or (None, [{}] * len(runs))
    moments = [_moments(run, names, labels, values) for run, values in zip(runs, scores)]
    ensemble = Ensemble([run.detector for run in runs], moments).eval()
    calibration, validation = _calibrate(ensemble, labels, scores)
    return TrainedGroup(
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


def load_maps(run: TrainedRun | TrainedGroup) -> dict[str, Moments] | None:
    """Return the normal values of every heat map at every pixel, as `scoring.maps.calibrate_maps` returns them.

    Returns:
        {map: (mean, standard deviation)}, each float32 (H, W), or (R, H, W) of a group of R runs; None if a run has no
        such file.

    Raises:
        CheckpointError: a file is damaged.
    """
    if isinstance(run, TrainedRun):
        return read_maps(run.folder, run.weights)
    found: list[dict[str, Moments]] = []
    for folder, digest in zip(run.runs, run.weights):
        maps = read_maps(folder, digest)
        if maps is None:
            return None
        found.append(maps)
    return {
        kind: (torch.stack([maps[kind][0] for maps in found]), torch.stack([maps[kind][1] for maps in found]))
        for kind in found[0]
        if all(kind in maps for maps in found)
    }


def _load(
    folder: Path, which: str | None, impl: Impl, device: str | torch.device
) -> tuple[TrainedRun, CheckpointState]:
    try:
        return _read(folder, which, impl, device)
    except CheckpointError:
        model = shipped_name(folder)
        if model is None or which == "best":  # which no shipped model has
            raise
        raise CheckpointError(f"the shipped model {model} is damaged or incomplete: install fastsquid again") from None


def _read(
    folder: Path, which: str | None, impl: Impl, device: str | torch.device
) -> tuple[TrainedRun, CheckpointState]:
    record = read_run(folder)
    latest = latest_checkpoint(folder)
    if latest is None:
        raise CheckpointError(
            f"{folder} has no checkpoint yet: continue with python -m fastsquid.train --resume {to_resume(folder)}"
        )
    state = read_state(latest, record.config)
    name = which or state.chosen
    known = state.detector(name)
    if known is None:
        raise CheckpointError(
            f"{shipped_name(folder) or folder} has no best checkpoint, because no epoch was chosen by an AUC: use "
            "--checkpoint last"
        )
    detector = Detector(record.config, impl).float()  # whatever the default dtype is
    load_detector(detector, latest, state, name)
    run = TrainedRun(
        detector=detector.to(device).eval(),
        calibration=known.calibration,
        folder=folder,
        record=record,
        checkpoint=name,
        epoch=known.epoch,
        validation=known.validation,
        weights=state.sha256[name],
    )
    return run, state


def _validation(
    loaded: Sequence[tuple[TrainedRun, CheckpointState]], names: Iterable[str]
) -> tuple[np.ndarray, list[dict[str, np.ndarray]]] | None:
    """Return the labels (N,) of the validation images, and per run {score: float32 (N,)}.

    None if no validation image has a label.
    """
    if all(run.validation is None for run, _ in loaded):
        return None
    found: list[tuple[list[str], list[int], dict[str, np.ndarray]]] = []
    for run, state in loaded:
        # The files without a suffix hold the scores of the chosen detector.
        chosen = state.detector(state.chosen)
        path = scores_file(run.folder, "val", "" if chosen and chosen.epoch == run.epoch else f"-{run.checkpoint}")
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


def _moments(
    run: TrainedRun, names: Iterable[str], labels: np.ndarray | None, scores: dict[str, np.ndarray]
) -> dict[str, tuple[float, float]]:
    """Return {score: (mean, standard deviation)} that standardize a run's scores.

    They are those of its normal validation images. If there are none, or all have the same score, they are those of
    the training images.
    """
    assert run.calibration is not None  # a finished run is calibrated
    moments: dict[str, tuple[float, float]] = {}
    for name in names:
        mean, std = run.calibration[name].mean, run.calibration[name].std
        if labels is not None and np.ptp(scores[name][labels == 0]) > 0:
            normal = scores[name][labels == 0].astype(np.float64)
            mean, std = normal.mean(), normal.std()
        moments[name] = float(mean), max(float(std), 1e-12)
    return moments


def _calibrate(
    ensemble: Ensemble, labels: np.ndarray | None, scores: list[dict[str, np.ndarray]]
) -> tuple[dict[str, Calibration], dict[str, dict[str, float]] | None]:
    """Return calibration and validation of the ensemble's scores.

    Without labels the training images standardize each run, so the mean over them is 0. The standard deviation is taken
    as 1. It cannot exceed 1, and its value is unknown because the runs' training scores are not kept.
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
    from ..evaluation.validation import auc_and_threshold  # of scikit-learn, which scoring need not wait for

    return calibration, auc_and_threshold(labels, combined)
