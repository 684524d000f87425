"""Compare an exported file with its run on the same real images: outputs and speed."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..api import Scorer
from ..errors import UserError
from ..model.ensemble import Ensemble
from ..utils.bars import bar
from .portable import RUNTIMES, logit_name

BATCHES = (1, 7)  # images per batch
IMAGES = 66  # nine batches of seven, and one of three
ROUNDS = 3  # the fastest counts
LIMIT = 1e-3  # largest difference that is accepted


def compare(
    scorer: Scorer, exported: Callable[[torch.Tensor], dict[str, np.ndarray]], images: torch.Tensor
) -> tuple[dict[str, float], dict[int, tuple[float, float]]]:
    """Compare the outputs of a file and of its run, and measure the speed of both.

    Logits, and scores and maps that are made of logits, are compared in units of a logit (`_units`). Outputs that are
    made of residuals are compared in standard deviations from the training images.

    Args:
        scorer: of a finished run or group, on the CPU.
        exported: function of images, as `portable.READERS` return it.
        images: float32 (N, 1, S, S) in [0, 1].

    Returns:
        {output: largest difference over all batch sizes}, NaN if an output is NaN; and {images per batch: (images per
        second of the run, of the file)}.
    """
    units = _units(scorer)
    largest: dict[str, float] = {}
    speeds: dict[int, tuple[float, float]] = {}
    for size in BATCHES:
        batches, fastest = images.split(size), [np.inf, np.inf]
        for _ in bar(
            range(ROUNDS), f"comparing, batches of {size}"
        ):  # in turn, so that other work on the machine slows both
            answers = []
            for who, answer in enumerate((lambda batch: _original(scorer, batch), exported)):
                start = time.perf_counter()
                answers.append([answer(batch) for batch in batches])
                fastest[who] = min(fastest[who], time.perf_counter() - start)
        speeds[size] = len(images) / fastest[0], len(images) / fastest[1]
        for batch, ours, theirs in zip(batches, *answers):
            ours |= _residual_map(scorer, batch)
            for name, values in ours.items():
                difference = np.abs(theirs[name] - values) / units[name]
                largest[name] = float(np.maximum(largest.get(name, 0), difference.max()))
    return largest, speeds


def require_agreement(largest: dict[str, float], what: str | Path) -> None:
    """Check the differences that `compare` found.

    Args:
        largest: {output: largest difference}.
        what: what the message calls the file.

    Raises:
        UserError: a difference is NaN or above `LIMIT`.
    """
    for name, difference in largest.items():
        if not difference <= LIMIT:  # also true of a NaN
            raise UserError(
                f"{what} was not written: its {name} differs by {difference:.3g} from the run's, and {LIMIT:g} is the "
                "limit. Report this as a bug, with the versions of PyTorch and ONNX Runtime"
            )


def _units(scorer):
    """Return the unit in which each output's differences are measured, {output: number or array}.

    For a score of logits and its map it is the effect of a difference of 1 in every logit. A score that divides by the
    small deviation of a short training would else magnify the rounding of a logit.
    """
    detector, name = scorer.detector, scorer.score_name
    score, heat = max(scorer.calibration[name].std, 1e-12), 1
    if name.startswith("discriminator") or name == "combined":
        ensemble = isinstance(detector, Ensemble)
        members = detector.members if ensemble else [detector]
        effects = np.array([float((1 / run.usual[:, 1]).sum()) if name == "combined" else 1 for run in members])
        score = (effects / [moments[name][1] for moments in detector.moments] if ensemble else effects).mean()
        if detector.config.map == name:
            deviations = scorer.normal_map()[1].numpy()
            heat = (effects[:, None, None] / deviations.reshape(len(members), *deviations.shape[-2:])).mean(0)
    return {
        "score": score,
        "logit": 1,
        "residual_map": scorer.normal_map("residual")[1].numpy(),
        "anomaly_map": heat,
    }


def _original(scorer, images):
    """Return the outputs of `Portable` without its residual map, from one call of `Scorer.examine`."""
    scores, _, heat = scorer.examine(images, len(images), cropped=True)
    logit = logit_name(scorer.detector)
    return {
        "score": scores[scorer.score_name],
        **({"logit": -scores[logit]} if logit else {}),
        "anomaly_map": heat,
    }


def _residual_map(scorer, images):
    """Return the raw residual map, which the file of a run has. It is not timed: it may need a pass of its own."""
    if isinstance(scorer.detector, Ensemble):
        return {}
    mean, deviation = (moment.numpy() for moment in scorer.normal_map("residual"))
    heat = scorer.heatmap(images, "residual", len(images), cropped=True)
    return {"residual_map": heat * deviation + mean}


def agreement_table(largest: dict[str, float], speeds: dict[int, tuple[float, float]], kind: str) -> str:
    """Return the results of `compare` as a table for people; `kind` is `onnx` or `pt2`."""
    lines = [
        f"{IMAGES} images, in batches of {' and of '.join(map(str, BATCHES))}",
        f"{'':20}" + "".join(f"{name:>14}" for name in largest),
        f"{'largest difference':20}" + "".join(f"{difference:14.1e}" for difference in largest.values()),
        "",
        f"{f'images/s, threads: {torch.get_num_threads()}':20}" + "".join(f"{f'of {size}':>14}" for size in BATCHES),
    ]
    for row, who in enumerate(("fastsquid", RUNTIMES[kind])):
        lines.append(f"{who:20}" + "".join(f"{speeds[size][row]:14.1f}" for size in BATCHES))
    return "\n".join(lines)
