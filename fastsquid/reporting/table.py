"""Image files to rows of scores, as `fastsquid.score` writes them."""

import csv
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..api import Scorer
from ..data.decoding import Decoded, decoded
from ..data.dicom.patients import outside_ages
from ..data.names import Names
from ..utils.bars import bar
from ..utils.files import replacing
from ..utils.text import printable, to_cell

# Of every table; the scores of --all-scores follow, each under its own name.
COLUMNS = ("name", "score", "percentile", "above_threshold", "unlike_training", "error", "age_outside_training")


class Counts(NamedTuple):
    """Numbers of images of a table.

    Attributes:
        failed: with an error.
        above: at or above the threshold.
        unlike: unlike the training images.
        outside: of patients whose age training has not seen.
    """

    failed: int
    above: int
    unlike: int
    outside: int


class Scoring:
    """Score image files, and record the time.

    Args:
        scorer: of a run or group.
        batch_size: images per batch.
        names: how images are named.
        all_scores: whether rows end with all scores of the run.

    Attributes:
        columns: of a row.
        start: when it began, in seconds of `time.perf_counter`.
        seconds: time that the scorer took.
    """

    def __init__(self, scorer: Scorer, batch_size: int, names: Names, all_scores: bool = False) -> None:
        self.scorer, self.batch_size, self.names, self.all_scores = scorer, batch_size, names, all_scores
        self.columns = (*COLUMNS, *(scorer.score_names if all_scores else ()))
        self.start, self.seconds = time.perf_counter(), 0.0

    def batches(self, files: Sequence[tuple[str, Any]]) -> Iterator[list[list[str]]]:
        """Yield batches of rows, lists of text with one cell per column.

        Args:
            files: [(name, Path or `ShardFile`)].
        """
        batches = decoded(
            files,
            self.scorer.image_size,
            self.batch_size,
            self.names,
            self.scorer.crop,
            accept=self.scorer.accept,
        )
        for batch in bar(batches, "scoring", total=-(-len(files) // self.batch_size)):
            yield self.rows(batch)

    def rows(self, batch: Sequence[Decoded]) -> list[list[str]]:
        """Return the rows of decoded images, lists of text with one cell per column."""
        start = time.perf_counter()
        scored = score_batch(self.scorer, [item.image for item in batch if item.image is not None], self.all_scores)
        self.seconds += time.perf_counter() - start
        outside = outside_ages([item.age for item in batch], self.scorer.run.record.ages)
        rows = []
        for item, is_outside in zip(batch, outside):
            cells, error = None if item.image is None else next(scored), item.error
            if cells is None and not error:
                error = f"{item.name} has scores that are not finite: the run's weights are damaged"
            known = {
                "name": item.name,
                "error": error,
                "age_outside_training": "" if is_outside is None else str(int(is_outside)),
            }
            known.update(cells or {})
            rows.append([known.get(column, "") for column in self.columns])
        return rows


def write_table(out: str | Path, columns: Sequence[str], rows: Iterable[Sequence[str]], names: Names) -> Counts:
    """Write the CSV of all rows, or leave no file. Anonymous images of the same content get names that differ.

    Names lose nothing, not even bytes that are no UTF-8: `text.from_cell` returns them. Errors are one printable line.
    """
    failed = above_count = unlike_count = outside_count = 0
    distinct = names.distinct()
    with replacing(out) as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            name, _, _, above, unlike, error, outside = row[: len(COLUMNS)]
            cells = dict(zip(columns, row), name=to_cell(distinct(name)), error=to_cell(printable(error)))
            writer.writerow(cells.values())
            failed += bool(error)
            above_count += above == "1"
            unlike_count += float(unlike or 0) > 1
            outside_count += outside == "1"
    return Counts(failed, above_count, unlike_count, outside_count)


def score_batch(
    scorer: Scorer, images: Sequence[np.ndarray], all_scores: bool = False
) -> Iterator[dict[str, str] | None]:
    """Return an iterator of {column: text} per image. A column that the run cannot fill is absent.

    The entry of an image is None if one of its scores is not finite.

    Args:
        scorer: of a run or group.
        images: list of arrays (H, W), uint8 or uint16, at the model's size, cropped where the run crops.
        all_scores: whether to compute all scores of the run, and not only the one that ranks.
    """
    if not images:
        return iter(())
    given = {"images": images, "batch_size": len(images), "cropped": True}
    scores = scorer.scores(**given, names=None if all_scores else [scorer.score_name])
    ranking = scores[scorer.score_name]
    columns = {"score": [f"{value:.9g}" for value in ranking]}
    if scorer.has_percentiles:
        columns["percentile"] = [f"{value:.4g}" for value in scorer.percentile(ranking)]
    for value, _ in scorer.thresholds[:1]:
        columns["above_threshold"] = [str(int(above)) for above in ranking.astype(np.float64) >= value]
    if scorer.input_check is not None:
        columns["unlike_training"] = [f"{value:.4g}" for value in scorer.unlike_training(**given)]
    if all_scores:
        columns |= {name: [f"{value:.9g}" for value in values] for name, values in scores.items()}
    finite: np.ndarray = np.all(np.isfinite(list(scores.values())), axis=0)
    return (dict(zip(columns, row)) if good else None for good, row in zip(finite, zip(*columns.values())))
