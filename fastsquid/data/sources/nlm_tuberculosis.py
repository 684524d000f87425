"""The tuberculosis sets of Shenzhen and Montgomery County as released (Jaeger et al. 2014): file names are labels.

Healthy: `CHNCXR_0001_0.png` or `MCUCXR_0001_0.png`. Abnormal, with manifestations of tuberculosis: names that end in
`_1`. The release has no splits, so fastsquid draws them; each number is a patient. All images are frontal. Masks of
the lungs (`ManualMask`, or `CHNCXR_0001_0_mask.png`) and the texts of `ClinicalReadings` are never read.
"""

import re
from pathlib import Path

from ...errors import UserError
from ..filetypes import is_mask_folder
from ..finding import find_files, no_images
from ..listed import Listed, draw_splits, open_listed
from ..split import ReadOptions, Split

IMAGES = "CXR_png"
PREFIXES = ("CHNCXR", "MCUCXR")
# Where files of the release lie; only the first two may hold its images.
_FOLDERS = ("", IMAGES, "ClinicalReadings", "ManualMask/leftMask", "ManualMask/rightMask", "leftMask", "rightMask")
_NAME = re.compile(r"((?:CHNCXR|MCUCXR)_\d+)_([01])")


def is_nlm_tuberculosis(root: Path) -> bool:
    """Return whether files are named as in the release: in the folder, in its `CXR_png`, or in one deeper inside."""
    return any(_is_named(root / name) for name in _FOLDERS) or any(map(_is_named, root.glob(f"*/{IMAGES}")))


def open_nlm_tuberculosis(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read the images in `CXR_png`, or in the folder itself.

    Args:
        root: Path of `ChinaSet_AllFiles` (Shenzhen) or `MontgomerySet`, or of their folder `CXR_png`.
        options: `ReadOptions`.

    Returns:
        dict of split name to Split, drawn by fastsquid.

    Raises:
        UserError: `CXR_png` is missing, lies deeper inside or is a folder of masks, an image is named in another way,
            or as `listed.open_listed` raises it.
    """
    folder = root / IMAGES if (root / IMAGES).is_dir() else root
    if deeper := [path.parent for path in sorted(root.glob(f"*/{IMAGES}")) if _is_named(path)]:
        raise UserError(f"{root} is not a data set but has one deeper inside: give {' or '.join(map(str, deeper))}")
    if is_mask_folder(folder.resolve().name):
        raise UserError(f"{folder} holds masks of lungs, not X-rays: give the folder that has {IMAGES}")
    found = find_files(folder, deep=False)
    if not found.images:
        if folder != root:
            raise no_images(folder, found)
        raise UserError(f"{root} is a tuberculosis set, but its folder {IMAGES} is missing: put the X-rays there")
    rows = []
    for file in found.images:
        match = _NAME.fullmatch(file.stem)
        if match is None:
            name = options.names.file(file)
            raise UserError(f"{name} is not named as CHNCXR_0001_0.png or MCUCXR_0001_0.png: rename or remove it")
        label = int(match[2])
        rows.append(Listed(file, label, match[1], ("Tuberculosis",) if label else ()))
    return open_listed(root, draw_splits(rows), options, drawn=True)


def _is_named(folder: Path) -> bool:
    return any(next(folder.glob(f"{prefix}_*"), None) for prefix in PREFIXES)
