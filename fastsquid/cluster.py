"""`ScoreImages`: a trained run as a stage of a pipeline of one's own, on Ray Data or Spark."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from .api import Scorer, load
from .archive.stages import BytesFile, as_text, schema_of, score
from .data.decoding import Decoded, Decoder
from .data.names import choose_names
from .errors import UserError
from .reporting.table import Scoring

__all__ = ["ScoreImages"]


class ScoreImages:
    """Score batches of image files whose bytes are in memory.

    >>> from pathlib import Path
    >>> score = ScoreImages(RUN)
    >>> path = "tests/data/xrays/test/0000.jpeg"
    >>> table = score({"name": [path, "broken.png"], "bytes": [Path(path).read_bytes(), b""]})
    >>> table.column_names
    ['name', 'score', 'percentile', 'above_threshold', 'unlike_training', 'error', 'age_outside_training']
    >>> table["error"].to_pylist()[0] is None, "broken.png" in table["error"].to_pylist()[1]
    (True, True)

    Args:
        run: path of a run or group folder, or a `Scorer`, as `fastsquid.load` returns it with options of its own.
        all_scores: add all scores of the run, a column for each.
        batch_size: largest number of images that are scored at once.
        threads: CPU threads of PyTorch in this process; None leaves their number as it is.

    Attributes:
        schema: of the tables that it returns: `name` and `error` are text, `above_threshold` and
            `age_outside_training` are flags, all others float64. What is not known is null.

    Raises:
        UserError: as `fastsquid.load` raises it.
    """

    def __init__(
        self,
        run: str | Path | Scorer,
        all_scores: bool = False,
        batch_size: int = 64,
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        scorer = run if isinstance(run, Scorer) else load(run)
        names = choose_names(scorer.run.record.anonymous)
        self._decode = Decoder(scorer.image_size, names, scorer.crop, accept=scorer.accept)
        self._scoring = Scoring(scorer, batch_size, names, all_scores)
        self.schema = schema_of(self._scoring)

    def __call__(self, batch: Mapping[str, Any]) -> pa.Table:
        """Score a batch.

        Args:
            batch: columns of N rows, such as a dict of arrays or a pandas DataFrame: `name`, the images' names, and
                `bytes`, the contents of their files, None for one that could not be read. Other columns are ignored.

        Returns:
            a table of N rows with the columns of `python -m fastsquid.score`.

        Raises:
            UserError: a column is missing.
        """
        for column in ("name", "bytes"):
            if column not in batch:
                raise UserError(
                    f"the batch has no column {column!r}: give the names of images, and the bytes of their files"
                )
        found = []
        for name, content in zip(batch["name"], batch["bytes"], strict=True):
            name = as_text(str(name))
            if content is None:
                found.append(Decoded(name, None, None, None, False, f"{name} cannot be read (there are no bytes)"))
            else:
                found.append(self._decode(name, BytesFile(name, bytes(content))))
        return score(self._scoring, found)
