"""Image files to rows of scores, as `fastsquid.score` writes them."""

import csv
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..api import Scorer
from ..data.decoding import decoded
from ..data.names import Names
from ..utils import distributed
from ..utils.files import replacing


class Scoring:
    """Score image files, and record time and ages.

    Args:
        scorer: of a run or group.
        batch_size: images per batch.
        names: how images are named.

    Attributes:
        start: when it began, in seconds of `time.perf_counter`.
        seconds: time that the scorer took.
        ages: of the patients in years; None where unknown.
    """

    def __init__(self, scorer: Scorer, batch_size: int, names: Names) -> None:
        self.scorer, self.batch_size, self.names = scorer, batch_size, names
        self.start, self.seconds = time.perf_counter(), 0.0
        self.ages: list[float | None] = []

    def batches(self, files: Sequence[tuple[str, Any]]) -> Iterator[list[list[str]]]:
        """Yield batches of rows, lists of text: name, scores, calibrated score, `unlike_training`, and the error.

        Args:
            files: [(name, Path or `ShardFile`)].
        """
        nothing = [""] * (len(self.scorer.score_names) + 2)
        for batch in tqdm(
            decoded(
                files,
                self.scorer.image_size,
                self.batch_size,
                self.names,
                self.scorer.crop,
                processes=distributed.local_processes(),
            ),
            unit="batch",
            total=-(-len(files) // self.batch_size),
            disable=not (distributed.leads() and sys.stderr.isatty()),
        ):
            start = time.perf_counter()
            scores = score_batch(self.scorer, [item.image for item in batch if item.image is not None])
            self.seconds += time.perf_counter() - start
            self.ages += [item.age for item in batch]
            rows = []
            for name, image, _, error in batch:
                cells = nothing if image is None else next(scores)
                if cells is None:
                    cells, error = nothing, f"{name} has scores that are not finite: the run's weights are damaged"
                rows.append([name, *cells, error])
            yield rows


def write_table(
    out: str | Path, score_names: Sequence[str], rows: Iterable[Sequence[str]], names: Names
) -> tuple[int, int]:
    """Write the CSV of all rows, or leave no file. Anonymous images of the same content get names that differ.

    Returns:
        the number of images with an error, and the number of images unlike the training images.
    """
    failed, unlike, distinct = 0, 0, names.distinct()
    with replacing(out) as file:
        writer = csv.writer(file)
        writer.writerow(["name", *score_names, "calibrated", "unlike_training", "error"])
        for name, *cells, error in rows:
            writer.writerow([distinct(name), *cells, error])
            failed += bool(error)
            unlike += float(cells[-1] or 0) > 1
    return failed, unlike


def score_batch(scorer: Scorer, images: Sequence[np.ndarray]) -> Iterator[list[str] | None]:
    """Return an iterator of one row per image: its scores, its calibrated score and `unlike_training`, as text.

    The row of an image is None if one of its scores is not finite.

    Args:
        scorer: of a run or group. Without a calibration the calibrated score is empty, and without an input check
            `unlike_training` is.
        images: list of arrays (H, W), uint8 or uint16, at the model's size, cropped where the run crops.
    """
    if not images:
        return iter(())
    scores = scorer.scores(images, len(images), cropped=True)
    shown = unlike = [""] * len(images)
    if scorer.calibration is not None:
        shown = [f"{value:.6g}" for value in scorer.calibrated(scores[scorer.score_name])]
    if scorer.input_check is not None:
        unlike = [f"{value:.4g}" for value in scorer.unlike_training(images, len(images), cropped=True)]
    columns = [[f"{value:.9g}" for value in column] for column in scores.values()]
    finite: np.ndarray = np.all(np.isfinite(list(scores.values())), axis=0)
    return (row if good else None for good, *row in zip(finite, *columns, shown, unlike))
