"""The layout of MVTec AD (Bergmann et al. 2019) and of anomalib: `good` beside folders of defects, with masks.

Healthy: images in a folder `good`. Abnormal: images in every other folder of val and test; its name is the finding. The
splits are the folders. MVTec AD has no val; then there is none here, and training keeps its last epoch.
"""

from pathlib import Path

from ...errors import UserError
from ..filetypes import masked_stem
from ..finding import find_files
from ..listed import Listed, open_listed
from ..names import Names
from ..split import ReadOptions, Split, split_folders

GOOD, TRUTH = "good", "ground_truth"


def is_mvtec(root: Path) -> bool:
    """Return whether one of the folders of splits holds a folder `good`."""
    return any(map(_good, split_folders(root).values()))


def open_mvtec(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read `train/good`, and `good` and the other folders of `val` and `test`.

    The mask of `test/crack/000.png` is `ground_truth/crack/000_mask.png` or `ground_truth/crack/000.png`. Without a
    folder `ground_truth` it is not known where the findings are. Other folders of `train` are never opened.

    Args:
        root: Path of the folder with `train` and `test`: in MVTec AD, the folder of one category.
        options: `ReadOptions`.

    Returns:
        dict of split name to Split, without the splits that have no folder.

    Raises:
        UserError: `train` without `good`, a split with both `good` and NORMAL or with images beside them, an abnormal
            image without a mask, or as `listed.open_listed` raises it.
    """
    masks = _find_masks(root / TRUTH, options.names) if (root / TRUTH).is_dir() else None
    rows = {name: _list(name, folder, masks, options.names) for name, folder in split_folders(root).items()}
    return open_listed(root, rows, options)


def _list(name: str, folder: Path, masks: dict[tuple[str, str], Path] | None, names: Names) -> list[Listed]:
    """Return the images of a split; of train only the healthy ones."""
    good = _good(folder)
    if name == "train" and not good:
        raise UserError(f"{folder} has no folder {GOOD}: put the healthy images into {folder / GOOD}")
    children = [child for child in sorted(folder.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    if good and (normal := next((child for child in children if child.name.lower() == "normal"), None)):
        raise UserError(f"{folder} has both {good.name} and {normal.name}: put the healthy images into one of them")
    if loose := find_files(folder, deep=False).images:
        raise UserError(
            f"{names.file(loose[0])} of {folder} is in no class folder: put it into {folder / GOOD} if it is healthy"
        )
    if name == "train":
        return [Listed(file, 0) for file in find_files(good or folder, base=folder).images]
    rows = []
    for child in children:
        for file in find_files(child, base=folder).images:
            if child == good:
                rows.append(Listed(file, 0))
            else:
                mask = _mask_of(file, folder, masks, names) if masks is not None else None
                rows.append(Listed(file, 1, findings=(child.name,), mask=mask))
    return rows


def _good(folder: Path) -> Path | None:
    return next((child for child in folder.iterdir() if child.name.lower() == GOOD and child.is_dir()), None)


def _find_masks(truth: Path, names: Names) -> dict[tuple[str, str], Path]:
    """Return {(folder below `ground_truth`, stem of the image): mask}."""
    found = find_files(truth)
    masks: dict[tuple[str, str], Path] = {}
    for path in found.images + found.masks:
        key = path.parent.relative_to(truth).as_posix(), masked_stem(path.stem) or path.stem.lower()
        if key in masks:
            raise UserError(
                f"{names.file(masks[key])} and {names.file(path)} are masks of one image: join them into one file"
            )
        masks[key] = path
    return masks


def _mask_of(file: Path, folder: Path, masks: dict[tuple[str, str], Path], names: Names) -> Path:
    inside = file.parent.relative_to(folder)
    mask = masks.get((inside.as_posix(), file.stem.lower()))
    if mask is None:
        wanted = Path(TRUTH, inside, f"{file.stem}_mask.png")
        raise UserError(
            f"{names.file(file)} is abnormal but has no mask: add {names.quote(wanted.as_posix())}, or remove the "
            f"folder {TRUTH} if masks do not matter"
        )
    return mask
