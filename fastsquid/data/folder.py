"""Folders of images: split and class folders as in ZhangLab (Kermany et al. 2018), or just images."""

import re

import numpy as np

from ..errors import UserError
from .images import find_images
from .split import SPLITS, read_split

# Normal training images of the ZhangLab release. Its numbers begin at 115: other programs, too, write IM-0001-0001.
_ZHANGLAB = re.compile(r"NORMAL/(?:NORMAL2-)?IM-(\d{4})-\d{4}(?:-\d{4})?\.jpeg")


def open_folder(root, size, seed, skip_unreadable, splits, contamination):
    """Reads a folder of images by its layout.

    - `train`, `val`, `test` folders, any of them: in `train` only the class folder NORMAL (in any case) is opened,
      unless there is contamination; in `val` and `test` class folders give labels, NORMAL 0 and every other 1, and
      images without class folders none.
    - class folders, NORMAL among them: one labelled "test" split.
    - images: one unlabelled "train" split, taken as normal.

    Names are paths relative to the split's folder, with "/".

    Args:
        root: Path of the folder.
        seed: draws what contamination replaces.
        splits: the splits to decode.
        contamination: share of the normal training images that abnormal ones replace, which the other class folders
            of `train` hold.

    Returns:
        dict of split name to Split, without the splits that the folder does not have.

    Raises:
        UserError: a split without images, a train folder without normal images or with too few abnormal ones, or a
            data set deeper inside.
    """
    folders = {name: root / name for name in SPLITS if (root / name).is_dir()}
    if not folders and any(map(_is_normal, _class_folders(root))):
        folders = {"test": root}
    if folders:
        return {
            name: _read_train(folders[name], size, seed, skip_unreadable, contamination)
            if name == "train"
            else _read_evaluation(folders[name], size, skip_unreadable)
            for name in splits
            if name in folders
        }
    paths = find_images(root)
    if not paths:
        raise _empty(root)
    _refuse_nested(root, paths)
    return {"train": _read(paths, root, None, size, skip_unreadable)} if "train" in splits else {}


def is_zhanglab(names):
    """Whether the normal ones among the names of training images are named as in the ZhangLab release."""
    found = [_ZHANGLAB.fullmatch(name) for name in names if name.lower().startswith("normal/")]
    return bool(found) and all(match and int(match[1]) >= 115 for match in found)


def folder_labels(root, paths):
    """Labels by class folders: beside each other in `root`, in its `val` or its `test`, and NORMAL among them.

    Args:
        root: Path of a folder.
        paths: N Paths below it.

    Returns:
        list of N, 0 in NORMAL, 1 in a class folder beside it, None of any other image.
    """
    classes = {}
    for folder in (root, root / "val", root / "test"):
        found = _class_folders(folder) if folder.is_dir() else []
        if any(map(_is_normal, found)):
            classes |= {child: int(not _is_normal(child)) for child in found}
    return [next((classes[parent] for parent in path.parents if parent in classes), None) for path in paths]


def _read_train(folder, size, seed, skip_unreadable, contamination):
    paths = [path for child in _class_folders(folder) if _is_normal(child) for path in find_images(child)]
    if not paths:
        raise UserError(f"{folder} holds no normal images to train on: put them in {folder / 'NORMAL'}")
    labels = [0] * len(paths)
    if contamination:
        paths, labels = _contaminate(folder, paths, contamination, seed)
    return _read(paths, folder, labels, size, skip_unreadable)


def _contaminate(folder, normal, contamination, seed):
    """The paths and labels of as many training images, a share of them abnormal; still in order, normal ones first."""
    classes = [child for child in _class_folders(folder) if not _is_normal(child)]
    abnormal = [path for child in classes for path in find_images(child)]
    count = round(contamination * len(normal))
    if count > len(abnormal):
        most = int(100 * len(abnormal) / len(normal)) / 100
        raise UserError(
            f"contamination = {contamination} of the {len(normal)} training images needs {count} abnormal ones, but "
            f"{folder} has {len(abnormal)} beside NORMAL: put more into folders like {folder / 'PNEUMONIA'}, or use "
            f"contamination <= {most:g}"
        )
    # Beginnings of one order each, so that more contamination adds to less; a stream that DigitAnatomy does not draw.
    rng = np.random.default_rng((3, seed % 2**64))
    staying, joining = rng.permutation(len(normal))[count:], rng.permutation(len(abnormal))[:count]
    paths = [normal[i] for i in sorted(staying)] + [abnormal[i] for i in sorted(joining)]
    return paths, [0] * len(staying) + [1] * count


def _read_evaluation(folder, size, skip_unreadable):
    loose = [path for path in find_images(folder) if path.parent == folder]
    # Class by class, so that a class folder may be a link.
    classed = [path for child in _class_folders(folder) for path in find_images(child)]
    if not loose:
        if not classed:
            raise _empty(folder)
        labels = [int(not _is_normal(folder / path.relative_to(folder).parts[0])) for path in classed]
        return _read(classed, folder, labels, size, skip_unreadable)
    if classed:
        raise UserError(
            f"{folder} holds images both in class folders and beside them, such as {loose[0].name}: "
            "put all of them in class folders, or none"
        )
    return _read(loose, folder, None, size, skip_unreadable)


def _empty(folder):
    return UserError(f"{folder} holds no images: put some there, as .png, .jpeg, .tif or the like")


def _refuse_nested(root, paths):
    """Refuses what would train on a whole data set, its abnormal images too, given the folder above it."""
    for path in paths:
        for parent in path.relative_to(root).parents:
            if parent.name.lower() in (*SPLITS, "normal"):
                raise UserError(f"{root} is not a data set but has one deeper inside: give {root / parent.parent}")


def _class_folders(folder):
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _is_normal(folder):
    return folder.name.lower() == "normal"


def _read(paths, folder, labels, size, skip_unreadable):
    return read_split(paths, [path.relative_to(folder).as_posix() for path in paths], labels, size, skip_unreadable)
