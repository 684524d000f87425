"""Whether an exported file answers as its run does: both on the same real images, with the speed of both."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from ..model.ensemble import Ensemble
from .portable import RUNTIMES, logit_name

BATCHES = (1, 7)  # images a batch
IMAGES = 66  # nine batches of seven, and one of three
ROUNDS = 3  # of which the fastest counts
LIMIT = 1e-3


def compare(
    scorer: Any, exported: Callable[[torch.Tensor], dict[str, np.ndarray]], images: torch.Tensor
) -> tuple[dict[str, float], dict[int, tuple[float, float]]]:
    """What a file and its run give for the same images, and how fast.

    A logit is compared as it is, also where a group's score is the mean of standardized ones. What is made of residuals
    counts in standard deviations from the training images: by itself its size says nothing.

    Args:
        scorer: a `Scorer` of a finished run, on the CPU.
        exported: function of images, as `portable.READERS` give it.
        images: as `real_images` gives them.

    Returns:
        {output: largest difference}, over all batch sizes, NaN where either gives one; and {images a batch: (images a
        second of the run, of the file)}.
    """
    units, largest, speeds = _units(scorer), {}, {}
    for size in BATCHES:
        batches, fastest = images.split(size), [np.inf, np.inf]
        for _ in range(ROUNDS):  # in turn, so that whatever else the machine does slows both
            answers = []
            for who, answer in enumerate((lambda batch: _original(scorer, batch), exported)):
                start = time.perf_counter()
                answers.append([answer(batch) for batch in batches])
                fastest[who] = min(fastest[who], time.perf_counter() - start)
        speeds[size] = tuple(len(images) / seconds for seconds in fastest)
        for batch, ours, theirs in zip(batches, *answers):
            ours |= _residual_map(scorer, batch)
            for name, values in ours.items():
                difference = np.abs(theirs[name] - values) / units[name]
                largest[name] = float(np.maximum(largest.get(name, 0), difference.max()))
    return largest, speeds


def require_agreement(largest: dict[str, float], what: str | Path) -> None:
    """Raises UserError if a difference of `compare` is above the limit; `what` the file is called."""
    for name, difference in largest.items():
        if not difference <= LIMIT:  # which a NaN is not either
            raise UserError(
                f"{what} does not answer as the run does: {name} differs by {difference:.2g}, and {LIMIT:g} is the "
                "limit; it was not written"
            )


def _units(scorer):
    """By what the differences of each output are divided."""
    name, score = scorer.score_name, 1
    if not name.startswith("discriminator") and (name != "combined" or isinstance(scorer.detector, Ensemble)):
        score = max(scorer.calibration[name].std, 1e-12)
    elif isinstance(scorer.detector, Ensemble):  # what a difference of 1 in every run's logit makes
        score = fmean(1 / moments[name][1] for moments in scorer.detector.moments)
    return {
        "score": score,
        "logit": 1,
        "residual_map": scorer.normal_map("residual")[1].numpy(),
        "anomaly_map": 1,
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
    """The raw residual map, which a run's file has; not timed, because it may need a pass of its own."""
    if isinstance(scorer.detector, Ensemble):
        return {}
    mean, deviation = (moment.numpy() for moment in scorer.normal_map("residual"))
    heat = scorer.heatmap(images, "residual", len(images), cropped=True)
    return {"residual_map": heat * deviation + mean}


def agreement_table(largest: dict[str, float], speeds: dict[int, tuple[float, float]], kind: str) -> str:
    """Return what `compare` found as a table for people; `kind` is the kind of file."""
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
