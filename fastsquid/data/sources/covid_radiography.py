"""COVID-19 Radiography Database as on Kaggle (Chowdhury et al. 2020, Rahman et al. 2021): a folder per class.

Healthy: `Normal`. Abnormal: `COVID`, `Lung_Opacity` and `Viral Pneumonia`; the folder's name is the finding. The
release has no splits and names no patients, so fastsquid draws the splits, and each image counts as a patient. The
folders `masks` hold masks of the lungs, not of findings: they are never read.
"""

from pathlib import Path

from ...errors import UserError
from ..finding import find_files, no_images
from ..listed import Listed, draw_splits, open_listed
from ..split import ReadOptions, Split

NORMAL = "normal"
# In lower case: the first releases have NORMAL and COVID-19.
CLASSES = frozenset((NORMAL, "covid", "covid-19", "lung_opacity", "viral pneumonia"))
TABLE = ".metadata.xlsx"


def is_covid_radiography(root: Path) -> bool:
    """Return whether a folder has a spreadsheet of the release, or a class folder that holds images and masks apart."""
    return bool(_tables(root)) or any((folder / "images").is_dir() for folder in _class_folders(root).values())


def open_covid_radiography(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read the images of the class folders, in `images` or, in the first releases, in the class folder itself.

    Args:
        root: Path of the folder with the class folders.
        options: `ReadOptions`.

    Returns:
        dict of split name to Split, drawn by fastsquid.

    Raises:
        UserError: a class folder is missing or has no images, or as `listed.open_listed` raises it.
    """
    folders = _class_folders(root)
    for name in (*_tables(root), "Normal"):
        if name.lower() not in folders:
            raise UserError(f"{root} is the COVID-19 Radiography Database, but its folder {name} is missing: add it")
    rows = []
    for label, folder in folders.items():
        found = find_files(folder, base=root)
        if not found.images:
            raise no_images(folder, found)
        healthy = label == NORMAL
        rows += [Listed(file, int(not healthy), findings=() if healthy else (folder.name,)) for file in found.images]
    return open_listed(root, draw_splits(rows), options, drawn=True)


def _class_folders(root: Path) -> dict[str, Path]:
    """Return {name of a class in lower case: its folder}."""
    named = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    return {name: path for name, path in named.items() if name in CLASSES}


def _tables(root: Path) -> list[str]:
    """Return the names of the classes that have a spreadsheet, such as Normal.metadata.xlsx."""
    names = [path.name[: -len(TABLE)] for path in sorted(root.glob(f"*{TABLE}"))]
    return [name for name in names if name.lower() in CLASSES]
