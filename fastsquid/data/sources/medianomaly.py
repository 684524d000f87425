"""RSNA and VinCXR as MedIAnomaly releases them (Cai et al. 2024), and as DDAD splits them (Cai et al. 2022): data.json.

Healthy and abnormal are the lists "0" and "1" of data.json, which are the authors' choice. Train is the list "0" of its
train, and test is its test. There is no list for val. DDAD's `unlabeled` images have lists "0" and "1" too, and it
never trains on their labels. So val is drawn from them: a tenth of the healthy ones, and no more abnormal ones.
Without `unlabeled` there is no val, and training keeps its last epoch.
"""

import json
import re
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...utils.files import require_regular
from ..listed import Listed, draw_splits, open_listed
from ..split import ReadOptions, Split
from ..tables import decode, read_text

LIST = "data.json"
FOLDERS = ("images", "train_png_512")  # of MedIAnomaly, and of DDAD
CHESTS = ("RSNA", "VinCXR")
OTHERS = ("BrainTumor", "LAG")  # MedIAnomaly releases these in the same form
_START = re.compile(r'\s*\{\s*"(train|test)"\s*:\s*\{\s*"(0|1|unlabeled)"\s*:')


def is_medianomaly(root: Path) -> bool:
    """Return whether data.json begins as MedIAnomaly's, or a folder of images lies where data.json should be."""
    if (root / FOLDERS[1]).is_dir() or root.resolve().name in CHESTS and (root / FOLDERS[0]).is_dir():
        return True
    try:
        require_regular(root / LIST)
        with open(root / LIST, "rb") as file:
            return bool(_START.match(decode(file.read(2**8), errors="replace")))
    except (OSError, UserError):
        return False


def open_medianomaly(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read the images that data.json lists.

    Args:
        root: Path of the folder with data.json and `images` (MedIAnomaly) or `train_png_512` (DDAD).
        options: `ReadOptions`.

    Returns:
        dict of split name to Split.

    Raises:
        UserError: data.json or the folder of images is missing, data.json has another form or names an image twice,
            the images are no chest X-rays, or as `listed.open_listed` raises it.
    """
    path = root / LIST
    if root.resolve().name in OTHERS:
        raise UserError(f"{root} is MedIAnomaly's {root.resolve().name}, no chest X-rays: give {' or '.join(CHESTS)}")
    if not path.exists():
        raise UserError(f"{root} has a folder of images but no {LIST}, which says which are healthy: add it")
    folder = next((root / name for name in FOLDERS if (root / name).is_dir()), None)
    if folder is None:
        raise UserError(f"{root} has {LIST} but no folder {' or '.join(FOLDERS)}: put the images there")
    try:
        content = json.loads(read_text(path, "JSON"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): download it again") from None

    def rows(label: int, *keys: str) -> list[Listed]:
        return [Listed(folder / name, label) for name in _names(path, content, *keys, str(label))]

    train, test = rows(0, "train"), rows(0, "test") + rows(1, "test")
    unlabeled = rows(0, "train", "unlabeled") + rows(1, "train", "unlabeled") if _has_unlabeled(content) else []
    seen = set()
    for row in train + test + unlabeled:
        if row.file in seen:
            raise UserError(f"{path} lists {options.names.quote(row.file.name)} twice: download it again")
        seen.add(row.file)
    return open_listed(
        root, {"train": train, "val": draw_splits(unlabeled)["val"], "test": test}, options, drawn=bool(unlabeled)
    )


def _has_unlabeled(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("train"), dict) and "unlabeled" in content["train"]


def _names(path: Path, content: Any, *keys: str) -> list[str]:
    """Return the list of names at {first key: {second key: ...}}."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        where = "".join(f'["{key}"]' for key in keys)
        raise UserError(f"{path} has no list of names at {where}: download it again")
    return content
