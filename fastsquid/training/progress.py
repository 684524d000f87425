"""What training shows while it runs: a bar on a terminal, or a line now and then; and how long it will take."""

import logging
import sys
import time
from collections.abc import Iterator

import torch
from tqdm import tqdm

from ..utils import distributed
from .epoch import Steps

log = logging.getLogger(__name__)
SILENCE = 30.0  # seconds without a line, at most, where there is no bar
MEASURED = 3.0  # seconds of steps that an estimate needs, and
FEWEST = 5  # steps


class Progress:
    """Show the steps of a training. Only rank 0 shows anything.

    Args:
        steps: of the training.
        epochs: number of epochs.
    """

    def __init__(self, steps: Steps, epochs: int) -> None:
        self.steps, self.epochs = steps, epochs
        self.bar = distributed.leads() and sys.stderr.isatty()
        self.lines = distributed.leads() and not self.bar
        self.first: tuple[float, int] | None = None  # time after the first step of this process, and steps since then
        self.estimated = not distributed.leads()
        self.shown = 0.0

    def epoch(self, steps: Iterator[None], epoch: int, iteration: int) -> Iterator[None]:
        """Show the steps of one epoch, and yield after each.

        Args:
            steps: yields after each of the remaining steps.
            epoch: from 0.
            iteration: number of steps of the epoch that are done.
        """
        total = self.steps.per_epoch
        self.first = None  # an estimate does not reach over the validation between two epochs
        self.shown = time.monotonic()  # the end of an epoch has a line of its own
        bar = tqdm(
            steps,
            f"epoch {epoch + 1}/{self.epochs}",
            unit="step",
            leave=False,
            initial=iteration,
            total=total,
            disable=not self.bar,
        )
        for done, _ in enumerate(bar, iteration + 1):
            if self.bar and (loss := self.steps.loss_so_far()) is not None:
                bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            if not self.estimated:
                self._estimate(epoch, done)
            if self.lines and time.monotonic() - self.shown >= SILENCE:
                log.info("epoch %d/%d: step %d of %d", epoch + 1, self.epochs, done, total)
                self.shown = time.monotonic()
            yield

    def _estimate(self, epoch: int, done: int) -> None:
        """Say once how long an epoch and the rest of the training take, after some steps of this process."""
        if self.first is None:  # the first step may compile
            self._wait()
            self.first = time.monotonic(), 0
            return
        start, count = self.first[0], self.first[1] + 1
        self.first = start, count
        if count < FEWEST or time.monotonic() - start < MEASURED:
            return
        self._wait()
        self.estimated = True
        seconds = (time.monotonic() - start) / count
        total = self.steps.per_epoch
        rest = (self.epochs - epoch) * total - done
        log.info(
            "about %s per epoch; the rest of the training takes about %s, plus validation",
            duration(seconds * total),
            duration(seconds * rest),
        )

    def _wait(self) -> None:
        if self.steps.sums.device.type == "cuda":
            torch.cuda.synchronize(self.steps.sums.device)


def duration(seconds: float) -> str:
    """Return a time for people: `0.4 s`, `12 s`, `3 min` or `2.5 h`.

    >>> [duration(seconds) for seconds in (0.42, 12.4, 200, 9000)]
    ['0.4 s', '12 s', '3 min', '2.5 h']
    """
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
