"""Run folders: config.json, score files and summary."""

import csv
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..config import Config
from ..errors import CheckpointError, UserError
from ..utils.files import replacing, write_json


def write_scores(folder, data, scores, suffix=""):
    """Writes scores-SPLIT[suffix].csv for each split of `scores`: name, label (empty without labels), every score."""
    for name, values in scores.items():
        split = data[name]
        labels = [""] * len(split) if split.labels is None else split.labels.tolist()
        columns = [[f"{value:.9g}" for value in column.tolist()] for column in values.values()]  # float32, exactly
        with replacing(Path(folder) / f"scores-{name}{suffix}.csv") as file:
            writer = csv.writer(file)
            writer.writerow(["name", "label", *values])
            writer.writerows(zip(split.names, labels, *columns))


def read_scores(path):
    """What `write_scores` wrote of a labelled split.

    Returns:
        names, a list of N; labels, int64 (N,); and dict of float64 (N,) by score.

    Raises:
        UserError: no such file, not of this kind, or an image without a label.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is missing: python -m fastsquid.train --resume {path.parent} writes it again")
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            head, *rows = csv.reader(file)
        columns = dict(zip(head, zip(*rows, strict=True), strict=True))
        names, labels = list(columns.pop("name")), [("0", "1").index(label) for label in columns.pop("label")]
        scores = {score: np.array(values, dtype=np.float64) for score, values in columns.items()}
        intact = all(np.isfinite(values).all() for values in scores.values())
    except (KeyError, ValueError, csv.Error):
        intact = False
    if not intact:
        raise UserError(
            f"{path} is damaged: each row should be a name, a label 0 or 1, and finite scores; "
            f"python -m fastsquid.train --resume {path.parent} writes it again"
        )
    return names, np.array(labels), scores


FORMAT = 1


def refuse_existing(folder):
    """Raises UserError if a new run's folder exists."""
    if Path(folder).exists():
        raise UserError(f"{folder} exists: choose another --out, or go on with --resume {folder}")


def create_run(
    folder,
    config,
    data,
    seed,
    skip_unreadable,
    fingerprint,
    anonymous=False,
    ages=None,
    trained_on=None,
    init=None,
    converted=None,
):
    """Makes a run folder with its config.json, in one step.

    Args:
        folder: to make.
        config: a `Config`.
        data: path of the training data as text, or None for DigitAnatomy; of a converted run of the data that it was
            calibrated on, or None without any.
        seed, skip_unreadable, anonymous: as `open_data` takes them.
        fingerprint: of the training images.
        ages: lowest and highest of the training images' patients in years, or None.
        trained_on: for reports, {"images": how many, "source": as `data.known_source` gives it}.
        init: the weights that it begins with, as `launch.describe_init` gives them, or None.
        converted: of a run that fastsquid.convert makes {"system": `squid` or `simsid`, "generator" and
            "discriminator": sha256 of the published files, "images": how many it is calibrated on}, or None.

    Raises:
        UserError: the folder exists.
    """
    create_folder(
        folder,
        "config.json",
        {
            "format": FORMAT,
            "fastsquid": __version__,
            "torch": torch.__version__,
            "data": data,
            "seed": seed,
            "skip_unreadable": skip_unreadable,
            "anonymous": anonymous,
            "init": init,
            "converted": converted,
            "ages": ages,
            "fingerprint": fingerprint,
            "trained_on": trained_on,
            "config": config.to_dict(),
        },
    )


def create_folder(folder, name, document):
    """Makes a folder with one JSON file in it, in one step.

    Raises:
        UserError: the folder exists.
    """
    with new_folder(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / name, document)


@contextmanager
def new_folder(folder):
    """A name for the block to make a folder of; it takes the name `folder` when the block ends well, and vanishes else.

    Raises:
        UserError: the folder exists.
    """
    folder = Path(folder)
    refuse_existing(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_run(folder):
    """config.json of a run folder, with `config` as a `Config`."""
    folder = Path(folder)
    if folder.is_file():
        raise CheckpointError(
            f"{folder} is a file, not a run folder: give the folder that fastsquid.train wrote "
            "(checkpoints of other programs are never opened, since pickles can run code)"
        )
    if not (folder / "config.json").is_file():
        inside = sorted(folder.glob("[!.]*/config.json"))  # of a group, or of the folder above the runs
        raise CheckpointError(
            f"{folder} is not a run folder: it has no config.json; give the folder that fastsquid.train wrote"
            + (f", such as {inside[0].parent}" if inside else "")
        )
    run = read_json(folder / "config.json")
    if not isinstance(run, dict) or run.get("format") != FORMAT or not isinstance(run.get("config"), dict):
        raise CheckpointError(f"{folder / 'config.json'} is not a configuration of this version of fastsquid")
    missing = {"data", "seed", "skip_unreadable", "fingerprint"} - set(run)
    if missing:
        raise CheckpointError(f"{folder / 'config.json'} is damaged: it has no {sorted(missing)[0]}")
    run = {"anonymous": False, "ages": None, "init": None, "converted": None, **run}  # which older runs do not have
    ages = run["ages"]
    if ages is not None and (not isinstance(ages, list) or len(ages) != 2 or {*map(type, ages)} - {int, float}):
        raise CheckpointError(f"{folder / 'config.json'} is damaged: its ages should be two numbers or null")
    return {**run, "config": Config.from_dict(run["config"])}


def why_uncalibrated(folder, run):
    """What is to be said of a run, `read_run` of its folder, whose checkpoint has no calibration."""
    if run["converted"]:
        return (
            f"{folder} was converted without data, and is not calibrated: python -m fastsquid.convert with --data, a "
            "folder of normal images, makes one that is"
        )
    return f"{folder} has not finished, and is not calibrated: python -m fastsquid.train --resume {folder}"


def read_json(path):
    """A JSON document, or a CheckpointError that names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # UnicodeDecodeError is one
        raise CheckpointError(f"{path} is damaged: it is not JSON") from None


def is_finished(run_folder):
    """Whether a run has left everything; its summary.json comes last."""
    return (run_folder / "summary.json").is_file()


def read_summary(run_folder):
    """summary.json of a finished run.

    Raises:
        CheckpointError: it is damaged.
    """
    path = run_folder / "summary.json"
    summary = read_json(path)
    if not isinstance(summary, dict) or not {"preset", "split", "images", "scores", "checkpoint"} <= set(summary):
        raise CheckpointError(
            f"{path} is not what a run leaves: python -m fastsquid.train --resume {run_folder} writes it again"
        )
    return summary
