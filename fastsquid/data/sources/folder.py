"""Folders of images: split and class folders as in ZhangLab (Kermany et al. 2018), or just images."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import UserError
from ..dicom.patients import read_patients, reject_shared_patients
from ..images import find_images
from ..split import SPLITS, ReadOptions, Split, read_split

# Normal training images of the ZhangLab release, and of its third version, whose names are longer. The numbers of the
# release begin at 115; other programs write IM-0001-0001.
_ZHANGLAB = re.compile(r"NORMAL/(?:(?:NORMAL2-)?IM-(\d{4})-\d{4}(?:-\d{4})?|NORMAL-\d{4,}-\d{4})\.jpeg")


def open_folder(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read a folder of images by its layout.

    - `train`, `val`, `test` folders, any of them. In `train` only the class folder NORMAL (in any case) is opened,
      unless there is contamination. In `val` and `test` class folders are labels: NORMAL is 0, every other 1. Images
      without class folders are unlabeled.
    - class folders, NORMAL among them: one labeled "test" split.
    - images: one unlabeled "train" split, taken as normal.

    Names are paths relative to the split's folder, with "/", and classes are the names of class folders, unless
    `options.names` gives others.

    No patient of DICOM files may be in two splits, also if a split is not decoded. In a `train` that is not decoded,
    the files in NORMAL count.

    Args:
        root: Path of the folder.
        options: contamination replaces normal training images by images of the other class folders of `train`.

    Returns:
        dict of split name to Split, without the splits that the folder does not have.

    Raises:
        UserError: a split without images, a train folder without normal images or with too few abnormal ones, a
            patient in two splits, or a data set deeper inside.
    """
    listed = _list(root, options)
    patients = {name: read_patients(paths) for name, (_, paths, _) in listed.items()}
    reject_shared_patients({name: list(zip(listed[name][1], patients[name])) for name in listed}, options.names)
    data = {}
    for name in options.splits:
        if name in listed:
            folder, paths, labels = listed[name]
            classes = None
            if labels is not None:
                classes = options.names.classes([path.relative_to(folder).parts[0] for path in paths], labels)
            names = [path.relative_to(folder).as_posix() for path in paths]
            ages = [patient and patient.age for patient in patients[name]]
            data[name] = read_split(paths, names, labels, options, ages, classes)
    return data


def _list(root, options):
    """Return {split: (its folder, paths, labels)}. Labels of a split that is not to be decoded mean nothing."""
    folders = {name: root / name for name in SPLITS if (root / name).is_dir()}
    if not folders and any(map(_is_normal, _class_folders(root))):
        folders = {"test": root}
    if not folders:
        return {"train": (root, _list_plain(root), None)}
    listed = {}
    for name, folder in folders.items():
        if name not in options.splits:
            loose, classed = ([], _normal_images(folder)) if name == "train" else _evaluation_images(folder)
            listed[name] = folder, loose + classed, None
        elif name == "train":
            listed[name] = folder, *_list_train(folder, options.contamination, options.seed)
        else:
            listed[name] = folder, *_list_evaluation(folder, options.names)
    return listed


def _list_plain(root):
    paths = find_images(root)
    if not paths:
        raise _empty(root)
    for path in paths:
        for parent in path.relative_to(root).parents:
            # Else training would read a whole data set, its abnormal images too.
            if parent.name.lower() in (*SPLITS, "normal"):
                raise UserError(f"{root} is not a data set but has one deeper inside: give {root / parent.parent}")
    return paths


def is_zhanglab(root: Path) -> bool:
    """Return whether all normal training images of a folder are named as in the ZhangLab release."""
    train = root / "train"
    if next(train.glob("NORMAL/*.jpeg"), None) is None:  # most folders are not listed twice
        return False
    names = [path.relative_to(train).as_posix() for path in _normal_images(train)]
    matches = [_ZHANGLAB.fullmatch(name) for name in names]
    return bool(names) and all(match and int(match[1] or 115) >= 115 for match in matches)


def has_abnormal_training(root: Path) -> bool:
    """Return whether a folder keeps normal and abnormal training images apart, as contamination needs."""
    return (root / "train").is_dir()


def folder_labels(root: Path, paths: Sequence[Path]) -> list[int | None]:
    """Return labels by class folders: beside each other in `root`, in its `val` or its `test`, with NORMAL among them.

    Args:
        root: Path of a folder.
        paths: N Paths below it.

    Returns:
        N labels: 0 in NORMAL, 1 in a class folder beside it, None for any other image.
    """
    classes: dict[Path, int] = {}
    for folder in (root, root / "val", root / "test"):
        found = _class_folders(folder) if folder.is_dir() else []
        if any(map(_is_normal, found)):
            classes |= {child: int(not _is_normal(child)) for child in found}
    return [next((classes[parent] for parent in path.parents if parent in classes), None) for path in paths]


def _list_train(folder, contamination, seed):
    """Return the paths and labels of the training images."""
    paths = _normal_images(folder)
    if not paths:
        raise UserError(f"{folder} holds no normal images to train on: put them in {folder / 'NORMAL'}")
    labels = [0] * len(paths)
    if contamination:
        paths, labels = _contaminate(folder, paths, contamination, seed)
    return paths, labels


def _contaminate(folder, normal, contamination, seed):
    """Return paths and labels of as many training images, a share of them abnormal; normal ones first, in order."""
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
    # Both are the beginnings of one random order, so that more contamination contains less. DigitAnatomy draws from
    # other streams.
    rng = np.random.default_rng((3, seed % 2**64))
    staying, joining = rng.permutation(len(normal))[count:], rng.permutation(len(abnormal))[:count]
    paths = [normal[i] for i in sorted(staying)] + [abnormal[i] for i in sorted(joining)]
    return paths, [0] * len(staying) + [1] * count


def _list_evaluation(folder, names):
    """Return the paths and labels of a split's images."""
    loose, classed = _evaluation_images(folder)
    if not loose:
        if not classed:
            raise _empty(folder)
        labels = [int(not _is_normal(folder / path.relative_to(folder).parts[0])) for path in classed]
        return classed, labels
    if classed:
        raise UserError(
            f"{folder} holds images both in class folders and beside them, such as {names.file(loose[0])}: "
            "put all of them in class folders, or none"
        )
    return loose, None


def _normal_images(folder):
    return [path for child in _class_folders(folder) if _is_normal(child) for path in find_images(child)]


def _evaluation_images(folder):
    """Return the images beside class folders, and those in them."""
    loose = [path for path in find_images(folder) if path.parent == folder]
    # Class by class, because find_images does not follow links and a class folder may be one.
    return loose, [path for child in _class_folders(folder) for path in find_images(child)]


def _empty(folder):
    return UserError(f"{folder} holds no images: put some there, as .png, .jpeg, .tif, .dcm or the like")


def _class_folders(folder):
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _is_normal(folder):
    return folder.name.lower() == "normal"
