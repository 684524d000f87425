"""The folder of a study: its record, the CSV and the figure of all finished runs."""

import csv
from pathlib import Path
from typing import Any

from ..drawing.study import draw_study
from ..errors import CheckpointError, UserError
from ..runs.folder import STUDY, create_folder, is_finished, read_group, read_json, read_summary, seed_folder
from ..runs.group import is_group
from ..runs.records import FORMAT, GroupRecord, Summary
from ..utils.files import replacing
from .study import STUDIES, Row

COLUMNS = (
    *("system", "row", "parameter", "value", "seed", "epochs", "seconds"),
    *("checkpoint", "epoch", "split", "score", "ranks", "auc"),
)


def begin_study(folder: Path, record: dict[str, Any]) -> None:
    """Make the study's folder, or check that an existing one is of the same study.

    Args:
        folder: of the study.
        record: `name`, `scale`, `data` (None is DigitAnatomy) and `seeds`, as study.json holds them.

    Raises:
        UserError: the folder is of another study or of none.
        CheckpointError: its study.json is damaged.
    """
    path = folder / STUDY
    if not folder.exists():
        create_folder(folder, path.name, {"format": FORMAT, **record})
        return
    if not path.is_file():
        raise UserError(f"{folder} exists and is not the folder of a study: choose another --out")
    begun = read_json(path)
    if not isinstance(begun, dict) or begun.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a study of this version of fastsquid")
    for key, value in record.items():
        if begun.get(key) != value:
            raise UserError(
                f"{folder} was begun with {key} {_words(begun.get(key))}, not {_words(value)}: use that value again, "
                "or choose another --out"
            )


def _words(value: Any) -> str:
    """Return a value of study.json as an option takes it."""
    if value is None:
        return "DigitAnatomy"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def require_same_group(folder: Path, group: GroupRecord) -> None:
    """Check that a row was begun with the configuration that the study has now.

    Raises:
        CheckpointError: another version of fastsquid began it with another configuration.
    """
    if is_group(folder) and read_group(folder) != group:
        raise CheckpointError(f"{folder} was begun with another configuration than this study's: choose another --out")


def write_study(folder: Path, record: dict[str, Any]) -> None:
    """Write the CSV and the figure of the runs that have finished.

    Args:
        folder, record: as for `begin_study`.
    """
    lines = []
    for row in STUDIES[record["name"]][record["scale"]]:
        for seed in record["seeds"]:
            run = seed_folder(folder / row.slug, seed)
            if is_finished(run):
                lines += _lines(row, seed, read_summary(run), row.config(record["scale"]).score)
    with replacing(folder / f"{record['name']}.csv") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    if lines:
        draw_study(record, lines, folder / f"{record['name']}.png")


def _lines(row: Row, seed: int, summary: Summary, own: str) -> list[dict[str, Any]]:
    """Return lines of the CSV as dicts by `COLUMNS`: for each curve of the row, one per score.

    `ranks` is 1 in the line of `own`, the score that the configuration ranks by.
    """
    return [
        {
            "system": row.system,
            "row": row.name,
            "parameter": parameter,
            "value": value,
            "seed": seed,
            "epochs": summary.facts["epochs"],
            "seconds": summary.facts["seconds"],
            "checkpoint": summary.checkpoint["name"],
            "epoch": summary.checkpoint["epoch"],
            "split": summary.split,
            "score": score,
            "ranks": int(score == own),
            "auc": metrics["auc"],
        }
        for parameter, value in row.points.items() or [("", "")]
        for score, metrics in summary.scores.items()
    ]
