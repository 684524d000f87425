"""The images that a run is trained, calibrated or evaluated on."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..data import SPLITS, Accept, known_source, open_data, to_unit
from ..data.dicom.kinds import NOTHING_ELSE
from ..data.duplicates import Copies, warn_of_copies
from ..data.finding import log_skipped
from ..data.images import select_images
from ..data.names import choose_names
from ..data.split import Split
from ..data.tables import read_table
from ..errors import UserError
from ..evaluation.metrics import require_both_classes
from ..evaluation.robustness import uncropped_size
from ..models import MODELS, shipped_name
from .folder import DRAWN
from .records import RunRecord

log = logging.getLogger(__name__)


def open_run_data(
    record: RunRecord,
    source: str | None,
    splits: Sequence[str] = SPLITS,
    *,
    skip_unreadable: bool = False,
    anonymous: bool = False,
    uncropped: bool = False,
    contamination: float = 0.0,
    all_normal: bool = True,
    accept: Accept = NOTHING_ELSE,
    cache: str | Path | None = None,
    protocol: str | None = None,
) -> dict[str, Split]:
    """Open data as a run sees it: at its size, cropped where it crops, named as it names images.

    Args:
        record: of the run.
        source: path of the data, or None for DigitAnatomy.
        splits: to open.
        skip_unreadable, anonymous, accept: what the command asks for beside what the run records.
        uncropped: open images larger and not cropped, as `evaluation.robustness.perturbed_scores` takes them.
        contamination, all_normal, cache: as `open_data` takes them.
        protocol: as `open_data` takes it; None for the run's own, where the data is the run's own.

    Returns:
        {split: `Split`}, without those that the data does not have. Skipped images, masks and other files are logged.

    Raises:
        UserError: as `open_data`, or a protocol other than the run's for the run's own data.
    """
    config = record.config
    own = is_own(record, source)
    if own and protocol not in (None, record.protocol):
        raise UserError(
            f"the run was trained with another split of {source} than --protocol {protocol}, which may hold its "
            "training images in val or test: leave --protocol out, or train with it"
        )
    data = open_data(
        source,
        uncropped_size(config) if uncropped else config.image_size,
        record.seed,
        skip_unreadable or record.skip_unreadable,
        splits,
        contamination,
        anonymous or record.anonymous,
        config.crop and not uncropped,
        all_normal,
        accept | record.accept,
        cache,
        record.protocol if own else protocol,
    )
    skipped = sum(split.skipped for split in data.values())
    if skipped and not uncropped:
        log.warning("skipped %d unreadable image%s", skipped, "s" * (skipped > 1))
    if not uncropped:
        beside = [split.beside for split in data.values() if split.beside is not None]
        log_skipped(beside, choose_names(anonymous or record.anonymous))
    return data


def is_own(record: RunRecord, source: str | None) -> bool:
    """Return whether a path is that of the run's own data.

    A shipped model has no path of its data. Its own data is the public data set that it was trained on, wherever it is.
    """
    if record.data in MODELS:
        known = known_source(source) if source is not None and Path(source).exists() else None
        return known is not None and known.name == (record.trained_on or {}).get("source")
    return source == record.data or (source is not None and str(Path(source).resolve()) == record.data)


def reject_redrawn(run: str | Path, record: RunRecord, source: str | None, data: dict[str, Split]) -> None:
    """Check that splits of a run's own data that fastsquid drew hold none of its training images in val or test.

    They can after images were added to or removed from the data: all splits are then drawn anew.

    Args:
        run, record: the run folder, with `splits.csv` if its splits were drawn, and its record.
        source: path of the data. Nothing is checked of other data than the run's own.
        data: its splits.

    Raises:
        UserError: a training image is in another split.
    """
    path = Path(run) / DRAWN
    if not (is_own(record, source) and path.is_file() and any(split.drawn for split in data.values())):
        return
    trained = {row["path"] for _, row in read_table(path, ("path", "split")) if row["split"] == "train"}
    for name, split in data.items():
        if name == "train":
            continue
        # With --anonymous, names are hashes of the files. Those of the training images are paths all the same.
        shared = sum(bool(trained.intersection(both)) for both in zip(split.names, split.by_path or split.names))
        if shared:
            raise UserError(
                f"{shared} images of {name} are training images of {run}: the data has changed since, and its "
                f"splits are drawn anew. Put {path} into the folder of the data, and give it there as --data"
            )


def open_training_data(
    record: RunRecord, begun: bool = False, cache: str | Path | None = None
) -> tuple[dict[str, Split], list[Copies]]:
    """Open the data that a run is trained or calibrated on, and warn of images that are in two splits.

    Args:
        record: of the run.
        begun: whether the run or its group has begun. Then its images were accepted as normal before.
        cache: as `open_data` takes it.

    Returns:
        {split: `Split`}, and what `find_copies` finds in it.

    Raises:
        UserError: as `open_data`, or a labeled split of only one class, which the final report could not evaluate.
    """
    data = open_run_data(
        record,
        record.data,
        contamination=record.config.contamination,
        all_normal=begun or record.all_normal,
        cache=cache,
    )
    copies = warn_of_copies(data)
    for name in ("val", "test"):
        if name in data and data[name].labels is not None:
            require_both_classes(data[name].labels, f"the {name} split of {record.data}")
    return data, copies


def fingerprint_of(split: Split) -> str:
    """Return the sha256 of a split's names and images, so that a run is only resumed on the same data."""
    digest = hashlib.sha256(json.dumps([split.names, list(split.images.shape)]).encode())
    digest.update(split.images.numpy().data)
    return digest.hexdigest()


def data_of(folder: str | Path, record: RunRecord, given: str | None = None) -> str | None:
    """Return the path of the data that a command looks at, as `open_data` takes it.

    Args:
        folder, record: a run folder and its record.
        given: the value of --data, or None for the run's own data.

    Raises:
        UserError: a shipped model or a converted run, which have no data of their own, or a run whose data is gone.
    """
    if not given and (model := shipped_name(folder)):
        raise UserError(f"{model} is shipped without its training images: give images by --data")
    if not given and record.converted and record.data is None:
        raise UserError(f"{folder} was converted without data: say by --data which images to look at")
    if not given and record.data is not None and not Path(record.data).exists():
        raise UserError(f"the data of {folder}, {record.data}, does not exist: say by --data where it is now")
    return given or record.data


def real_images(
    record: RunRecord,
    count: int,
    source: str | None = None,
    *,
    skip_unreadable: bool = False,
    anonymous: bool = False,
    accept: Accept = NOTHING_ELSE,
) -> torch.Tensor:
    """Return images to compare on: of the test split, or where there is none of validation, or of training.

    Args:
        record: of the run.
        count: number of images.
        source: path of the data; None for the data that the run was trained with.
        skip_unreadable, anonymous, accept: as `open_run_data` takes them.

    Returns:
        float32 (count, 1, S, S) in [0, 1], evenly from the whole split; fewer images repeat.

    Raises:
        UserError: as `open_run_data`, or no images.
    """
    source = source or record.data
    for name in reversed(SPLITS):
        data = open_run_data(
            record, source, splits=(name,), skip_unreadable=skip_unreadable, anonymous=anonymous, accept=accept
        )
        if name in data:
            images = data[name].images
            return to_unit(select_images(images, np.linspace(0, len(images) - 1, count).round().astype(int)))
    raise UserError(f"{source} has no images to compare on")


def choose_normal(data: dict[str, Split], path: str) -> tuple[Split, torch.Tensor]:
    """Return the split that calibrates converted weights, and its normal images.

    It is `train`; without it `val`, or else `test`, where they are labeled.

    Args:
        data: splits by name.
        path: of the data, for messages.

    Returns:
        the split, and uint8 or uint16 (N, 1, H, W).

    Raises:
        UserError: nothing is known to be normal.
    """
    if "train" in data:
        return data["train"], data["train"].images
    for name in ("val", "test"):
        labels = data[name].labels if name in data else None
        if labels is not None:
            return data[name], select_images(data[name].images, labels == 0)
    raise UserError(f"{path} has no images that are known to be normal: put some in train/NORMAL")
