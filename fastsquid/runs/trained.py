"""What was trained, opened for scoring: a run as its detector, a group of runs as one ensemble.

The ensemble's own calibration is of the scores that its runs left in `scores-val.csv`, so that no image is read again.
"""

from pathlib import Path

import numpy as np
import torch

from ..errors import CheckpointError, UserError
from ..evaluation.validation import auc_and_threshold
from ..model.detector import Detector
from ..model.ensemble import Ensemble
from .checkpoint import load_run, read_maps
from .folder import read_scores
from .group import finished_runs, is_group


def load_trained(
    folder: str | Path, which: str | None = None, impl: str = "auto", device: str | torch.device = "cpu"
) -> tuple[Detector | Ensemble, dict, dict, str]:
    """Open a run folder as `checkpoint.load_run` does, or a group folder as the ensemble of its runs.

    Args:
        folder: that `train` or `convert` wrote.
        which: `best`, `last`, or None for the best where the runs have one.
        impl: `auto`, `triton` or `torch`.
        device: of the detectors.

    Returns:
        the detector in eval mode; config.json of the run, or of the first run, with the lists `seeds` and `runs` (their
        folders); the checkpoint's state; and `best` or `last`. Of a group the state holds, under that name, the list
        of `epoch`s, and `calibration` and `validation` of the ensemble's scores; and under `sha256` the list of the
        weights' hashes.

    Raises:
        CheckpointError: a run that is missing, unfinished, damaged, or not of the group's configuration.
        UserError: runs that did not validate on the same images.
    """
    if is_group(folder):
        return _load_group(folder, which, impl, device)
    detector, run, state, name = load_run(folder, which, impl, device)
    return detector, {**run, "seeds": [run["seed"]], "runs": [Path(folder)]}, state, name


def load_maps(folder: str | Path, run: dict, state: dict, name: str) -> dict | None:
    """Return what is normal at every pixel, as `maps.calibrate_maps` does; None where a run has no such file.

    Args:
        folder: a run or a group.
        run, state, name: as `load_trained` returns them.

    Raises:
        CheckpointError: a file is damaged.
    """
    digests = state["sha256"][name]
    if not is_group(folder):
        return read_maps(folder, digests)
    found = [read_maps(run_folder, digest) for run_folder, digest in zip(run["runs"], digests)]
    if None in found:
        return None
    return {
        kind: tuple(torch.stack([maps[kind][moment] for maps in found]) for moment in (0, 1))
        for kind in found[0]
        if all(kind in maps for maps in found)
    }


def _load_group(folder, which, impl, device):
    runs = finished_runs(folder)
    loaded = [load_run(run, which, impl, device) for run in runs.values()]
    _, first, _, name = loaded[0]
    folders, states = list(runs.values()), [state for _, _, state, _ in loaded]
    calibrations = [state[name]["calibration"] for state in states]
    labels, scores = _validation(folders, states, name, first["config"].scores)
    moments = [
        _moments(first["config"].scores, calibration, labels, values)
        for calibration, values in zip(calibrations, scores)
    ]
    ensemble = Ensemble([detector for detector, *_ in loaded], moments).eval()
    calibration, validation = _calibrate(ensemble, labels, scores)
    state = {
        name: {
            "epoch": [state[name]["epoch"] for state in states],
            "calibration": calibration,
            "validation": validation,
        },
        "sha256": {name: [state["sha256"][name] for state in states]},
    }
    return ensemble, {**first, "seeds": list(runs), "runs": folders}, state, name


def _validation(folders, states, name, scores):
    """Labels (N,) of the validation images, and per run {score: float32 (N,)}; both None where they had no labels."""
    if all(state[name]["validation"] is None for state in states):
        return None, [None] * len(folders)
    found = []
    for folder, state in zip(folders, states):
        path = _score_file(folder, state, name)
        names, labels, values = read_scores(path)
        if missing := set(scores) - set(values):
            raise CheckpointError(
                f"{path} has no {min(missing)} scores: python -m fastsquid.train --resume {folder} writes it again"
            )
        found.append((names, labels.tolist(), values))
        if found[-1][:2] != found[0][:2]:
            raise UserError(
                f"{folder} and {folders[0]} did not validate on the same images: an ensemble needs runs of one data set"
            )
    # As the detectors gave them: combined in float64, they might fall on the other side of a threshold than new scores.
    return np.array(found[0][1]), [{name: values[name].astype(np.float32) for name in scores} for *_, values in found]


def _score_file(folder, state, name):
    """The validation scores of a run's detector; the one that the run stands for has those without a suffix."""
    stands = "best" if state["best"] else "last"
    suffix = "" if state[name]["epoch"] == state[stands]["epoch"] else f"-{name}"
    return folder / f"scores-val{suffix}.csv"


def _moments(names, calibration, labels, scores):
    """{score: (mean, standard deviation)} that standardize a run's scores: those of its normal validation images.

    Where there are none, or all have one score, those of the training images.
    """
    moments = {}
    for name in names:
        mean, std = calibration[name]["mean"], calibration[name]["std"]
        if labels is not None and np.ptp(scores[name][labels == 0]) > 0:
            normal = scores[name][labels == 0].astype(np.float64)
            mean, std = normal.mean(), normal.std()
        moments[name] = float(mean), max(float(std), 1e-12)
    return moments


def _calibrate(ensemble, labels, scores):
    """Calibration and validation of the ensemble's scores.

    Without labels, nothing but the training images standardizes the runs. Their mean is then 0, and their standard
    deviation counts as 1, which it cannot exceed: the runs' training scores are not kept.
    """
    if labels is None:
        return {name: {"mean": 0.0, "std": 1.0, "quantiles": None} for name in ensemble.config.scores}, None
    combined = ensemble.combine(scores)
    calibration = {
        name: {
            "mean": float(values[labels == 0].mean(dtype=np.float64)),
            "std": float(values[labels == 0].std(dtype=np.float64)),
            "quantiles": np.percentile(values[labels == 0], range(101)).tolist(),
        }
        for name, values in combined.items()
    }
    return calibration, auc_and_threshold(labels, combined)
