"""Run folders: the name of every file in them, and how the JSON and CSV files are written and read.

config.json                what the run is of (`RunRecord`)
splits.csv                 which images each split has, if fastsquid drew the splits
metrics.jsonl              one line per epoch
tensorboard/               losses and AUCs for TensorBoard, if asked for
checkpoint-000012/         weights and state; see checkpoint.py
scores-SPLIT.csv           scores of each image, written at the end
curves.png, gallery.png    pictures, written at the end
maps.safetensors           mean and standard deviation of each heat map on normal images
input-check.safetensors    what the training images look like
summary.json               metrics; a run that has this file is finished
train.lock                 names the process that trains the run; see utils/locks.py
"""

import csv
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..data.split import Split
from ..data.tables import read_label, read_number, read_table
from ..errors import CheckpointError, UserError
from ..utils.files import replacing, require_regular, write_json
from ..utils.locks import locked
from ..utils.text import join_names, split_names, to_cell
from .checks import config_of, require_fields
from .records import FORMAT, ConvertedRecord, GroupRecord, InitRecord, RunRecord, Summary, TrainedOnRecord

CONFIG = "config.json"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
DRAWN = "splits.csv"
GROUP = "group.json"
STUDY = "study.json"
STATE = "state.json"
CURVES = "curves.png"
GALLERY = "gallery.png"
MAPS = "maps.safetensors"
INPUT_CHECK = "input-check.safetensors"
LOCK = "train.lock"
_READ_AGAIN = frozenset((CONFIG, METRICS, SUMMARY, DRAWN, GROUP, STUDY, STATE, LOCK))
FINDINGS = "findings"  # a column of scores-SPLIT.csv


def scores_file(folder: str | Path, split: str, suffix: str = "") -> Path:
    """Return the path of the CSV with a split's scores; `suffix` is `-last` for the last detector beside the best."""
    return Path(folder) / f"scores-{split}{suffix}.csv"


def seed_folder(folder: str | Path, seed: int) -> Path:
    """Return the path of one seed's run folder in a group."""
    return Path(folder) / f"seed-{seed}"


def reject_existing(folder: str | Path) -> None:
    """Raise a UserError if a new run's folder exists."""
    if Path(folder).exists():
        raise UserError(f"{folder} exists: choose another --out, or continue with --resume {folder}")


def reject_own_file(path: str | Path) -> None:
    """Raise a UserError if `path`, where a command is to write, is a file of a run that later commands read."""
    path = Path(path)
    own = path.name in _READ_AGAIN or path.suffix == ".safetensors" or path.match("scores-*.csv")
    folder = path.parent.parent if path.parent.name.startswith("checkpoint-") else path.parent
    if own and path.exists() and any((folder / name).is_file() for name in (CONFIG, GROUP, STUDY)):
        raise UserError(f"{path} is a file of a run, which needs it: name another output")


def create_run(folder: str | Path, record: RunRecord) -> None:
    """Make a run folder with its config.json in one step.

    Raises:
        UserError: the folder exists.
    """
    create_folder(folder, CONFIG, record.to_json())


def create_folder(folder: str | Path, name: str, document: dict[str, Any]) -> None:
    """Make a folder with one JSON file in one step.

    Raises:
        UserError: the folder exists.
    """
    with new_folder(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / name, document)


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary path to make a folder at.

    It is renamed to `folder` when the block ends, and removed if the block fails.

    Raises:
        UserError: the folder exists.
    """
    folder = Path(folder)
    reject_existing(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.rename(temporary, folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(folder)
        raise


@contextmanager
def training_lock(folder: str | Path) -> Iterator[None]:
    """Keep other processes from training a run while the block runs.

    Args:
        folder: of a run that has begun.

    Raises:
        UserError: another process trains it.
    """
    with locked(Path(folder) / LOCK, f"{folder} is being trained by another process"):
        yield


def read_run(folder: str | Path) -> RunRecord:
    """Return the record in a run folder's config.json.

    Raises:
        CheckpointError: no run folder, or a config.json that is damaged or of another version.
    """
    folder = Path(folder)
    if folder.is_file():
        raise CheckpointError(
            f"{folder} is a file, not a run folder: give the folder that fastsquid.train wrote "
            "(checkpoints of other programs are never opened, because pickles can run code)"
        )
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(_why_no_run(folder))
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT or not isinstance(values.get("config"), dict):
        raise CheckpointError(f"{path} is not a configuration of this version of fastsquid")
    missing = {"data", "seed", "skip_unreadable", "fingerprint"} - set(values)
    if missing:
        raise CheckpointError(f"{path} is damaged: it has no {sorted(missing)[0]}")
    ages = values.get("ages")
    if ages is not None and (not isinstance(ages, list) or len(ages) != 2 or {*map(type, ages)} - {int, float}):
        raise CheckpointError(f"{path} is damaged: its ages should be two numbers or null")
    require_fields(path, RunRecord, values)
    if not 0 <= values["seed"] < 2**64:
        raise CheckpointError(f"{path} is damaged: its seed should be a whole number from 0 to 2**64 - 1")
    _require_parts(path, values)
    config_of(path, values["config"])
    return RunRecord.from_json(values)


def read_group(folder: str | Path) -> GroupRecord:
    """Return the record in a group folder's group.json.

    Raises:
        CheckpointError: it is damaged or of another version.
    """
    path = Path(folder) / GROUP
    group = read_json(path)
    if not isinstance(group, dict) or group.get("format") != FORMAT or not isinstance(group.get("config"), dict):
        raise CheckpointError(f"{path} is not a group of this version of fastsquid")
    missing = {"seeds", "data", "skip_unreadable"} - set(group)
    if missing:
        raise CheckpointError(f"{path} is damaged: it has no {sorted(missing)[0]}")
    seeds = group["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and 0 <= seed < 2**64 for seed in seeds):
        raise CheckpointError(f"{path} is damaged: its seeds should be a list of whole numbers from 0 to 2**64 - 1")
    require_fields(path, GroupRecord, group)
    _require_parts(path, group)
    config_of(path, group["config"])
    return GroupRecord.from_json(group)


def _require_parts(path: Path, values: dict[str, Any]) -> None:
    """Check the objects `init`, `converted` and `trained_on` of a record.

    Raises:
        CheckpointError: one of them lacks a part, or it is of another type.
    """
    for name, kind in (("init", InitRecord), ("converted", ConvertedRecord), ("trained_on", TrainedOnRecord)):
        if values.get(name) is not None:
            require_fields(path, kind, values[name])


def _why_no_run(folder: Path) -> str:
    """Return the sentence that explains why a folder without config.json is no run, and what to give."""
    inside = sorted(str(path.parent) for path in folder.glob(f"[!.]*/{CONFIG}"))
    if (folder / GROUP).is_file() and inside:
        return f"{folder} is a group of runs: give one or several of its runs here: {' '.join(inside)}"
    group = to_resume(folder)
    if group != folder and folder in [seed_folder(group, seed) for seed in read_group(group).seeds]:
        return f"{folder} has not begun: continue its group with python -m fastsquid.train --resume {group}"
    return f"{folder} is not a run folder: it has no {CONFIG}; give the folder that fastsquid.train wrote" + (
        f", such as {inside[0]}" if inside else ""
    )


def to_resume(folder: Path) -> Path:
    """Return what `train --resume` takes to finish a run and, where it is a run of a group, the others too."""
    return folder.parent if (folder.parent / GROUP).is_file() else folder


def why_uncalibrated(folder: str | Path, record: RunRecord) -> str:
    """Return the sentence that explains why a run's checkpoint has no calibration."""
    if record.converted:
        return (
            f"{folder} was converted without data and is not calibrated: python -m fastsquid.convert with --data, a "
            "folder of normal images, makes one that is"
        )
    return (
        f"{folder} has not finished and is not calibrated: python -m fastsquid.train --resume {to_resume(Path(folder))}"
    )


def is_finished(folder: str | Path) -> bool:
    """Return whether a run has written all its files; summary.json is the last."""
    return (Path(folder) / SUMMARY).is_file()


def is_unmeasured(folder: str | Path) -> bool:
    """Return whether a run has finished without a labeled split, so that no AUC is known."""
    return is_finished(folder) and read_summary(folder).split is None


def read_summary(folder: str | Path) -> Summary:
    """Return the summary of a finished run.

    Raises:
        CheckpointError: it is damaged.
    """
    path = Path(folder) / SUMMARY
    values = read_json(path)
    if not isinstance(values, dict) or not {"preset", "seed", "split", "images", "scores", "checkpoint"} <= set(values):
        raise CheckpointError(
            f"{path} is not the summary of a run: python -m fastsquid.train --resume {folder} writes it again"
        )
    require_fields(path, Summary, values)
    return Summary.from_json(values)


def write_scores(
    folder: str | Path, data: dict[str, Split], scores: dict[str, dict[str, np.ndarray]], suffix: str = ""
) -> None:
    """Write one CSV of scores per split: name, label (empty where unknown), findings, and every score.

    The column of findings, with the classes of each abnormal image (`join_names`), is there if there are two abnormal
    classes or more.

    Args:
        folder: the run folder.
        data: splits by name.
        scores: {split: {score: float32 (N,)}}.
        suffix: as for `scores_file`.
    """
    for name, values in scores.items():
        split = data[name]
        labels = [""] * len(split) if split.labels is None else split.labels.tolist()
        columns = {score: [f"{value:.9g}" for value in column.tolist()] for score, column in values.items()}  # exactly
        found = split.abnormal_findings()
        if found is not None and len(split.abnormal_classes) > 1:
            columns = {FINDINGS: [to_cell(join_names(names)) for names in found], **columns}
        with replacing(scores_file(folder, name, suffix)) as file:
            writer = csv.writer(file)
            writer.writerow(["name", "label", *columns])
            writer.writerows(zip(map(to_cell, split.names), labels, *columns.values()))


def write_drawn(folder: str | Path, data: dict[str, Split]) -> None:
    """Write which images are in which split: path, label and split, as `sources.own_list` reads them.

    Args:
        folder: the run folder.
        data: labeled splits by name.
    """
    with replacing(Path(folder) / DRAWN) as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for name, split in data.items():
            assert split.labels is not None
            writer.writerows(zip(map(to_cell, split.names), split.labels.tolist(), [name] * len(split)))


def read_scores(path: str | Path) -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
    """Return what `write_scores` wrote of a labeled split.

    Returns:
        names (N), labels int64 (N,), and {score: float64 (N,)}.

    Raises:
        UserError: no such file, another kind of file, or an image without a label.
    """
    path = Path(path)
    again = f"python -m fastsquid.train --resume {path.parent} writes it again"
    if not path.is_file():
        raise UserError(f"{path} is missing: {again}")
    names: list[str] = []
    labels: list[int] = []
    scores: dict[str, list[float]] = {}
    try:
        rows = list(read_table(path, ("name", "label")))
    except UserError as error:
        raise UserError(f"{error}; it is damaged, and {again}") from None
    for line, row in rows:
        names.append(row.pop("name"))
        labels.append(_value(path, line, "label", row.pop("label"), read_label, again))
        row.pop(FINDINGS, None)
        for score, text in row.items():
            scores.setdefault(score, []).append(_value(path, line, score, text, read_number, again))
    if not scores or len(set(names)) < len(set(zip(names, labels))):
        what = "one image with two labels" if scores else "no scores"
        raise UserError(f"{path} is damaged: it has {what}; {again}")
    return names, np.array(labels), {score: np.array(values, dtype=np.float64) for score, values in scores.items()}


def read_findings(path: str | Path) -> list[tuple[str, ...]] | None:
    """Return the findings of every image that `write_scores` wrote, N tuples; None if the file has no such column."""
    rows = [row for _, row in read_table(Path(path), ("name", "label"))]
    return [split_names(row[FINDINGS]) for row in rows] if rows and FINDINGS in rows[0] else None


def _value(path: Path, line: int, column: str, text: str, read: Callable[[str], Any], again: str) -> Any:
    """Return a label or a finite score of a table.

    Raises:
        UserError: the text is none; it ends with `again`.
    """
    try:
        value = read(text)
    except ValueError:
        value = None
    if value is None or not math.isfinite(value):
        raise UserError(
            f"{path} is damaged: {text!r} in line {line}, as {column}, should be a label 0 or 1 or a finite score; "
            f"{again}"
        )
    return value


def read_json(path: Path) -> Any:
    """Return a JSON document.

    Raises:
        CheckpointError: the file is not JSON, which has no NaN and no infinity; the message names it.
        UserError: it is no regular file, or too large.
    """
    require_regular(path, 2**23)
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except ValueError:  # UnicodeDecodeError is one
        raise CheckpointError(f"{path} is damaged: it is not JSON") from None


def parse_json(text: str) -> Any:
    """Return a JSON document.

    Raises:
        ValueError: the text is not JSON, holds NaN or infinity, or is nested deeper than Python can follow.
    """

    def reject(name: str) -> NoReturn:
        raise ValueError(name)

    def finite(number: str) -> float:
        return float(number) if math.isfinite(float(number)) else reject(number)

    try:
        return json.loads(text, parse_constant=reject, parse_float=finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
