"""Folders of images: split and class folders as in ZhangLab (Kermany et al. 2018), or just images."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ..dicom.patients import read_patients, reject_shared_patients
from ..finding import Found, find_files, no_images
from ..labels import require_all_normal
from ..names import PATH_NAMES, Names
from ..split import ReadOptions, Split, read_split, split_folders, split_of

# Normal training images of the ZhangLab release, and of its third version, whose names are longer. The numbers of the
# release begin at 115; other programs write IM-0001-0001.
_ZHANGLAB = re.compile(r"NORMAL/(?:(?:NORMAL2-)?IM-(\d{4})-\d{4}(?:-\d{4})?|NORMAL-\d{4,}-\d{4})\.jpeg")


def open_folder(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read a folder of images by its layout.

    - `train`, `val`, `test` folders, any of them, also as `Training`, `valid` and so on (`split.split_of`). In `train`
      only the class folder NORMAL (in any case) is opened, unless there is contamination. In `val` and `test` class
      folders are labels: NORMAL is 0, every other 1. Images without class folders are unlabeled.
    - class folders, NORMAL among them: one labeled "test" split.
    - images: one unlabeled "train" split, taken as normal; without `options.all_normal` only if nothing says that some
      may be abnormal.

    Masks of images are skipped. They and the files that are no images are `Split.beside`.

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
            patient in two splits, a data set deeper inside, or a plain folder that may hold abnormal images.
    """
    listed = _list(root, options)
    patients = {name: read_patients(one.paths, options.accept) for name, one in listed.items()}
    reject_shared_patients({name: list(zip(listed[name].paths, patients[name])) for name in listed}, options.names)
    data = {}
    for name in options.splits:
        if name in listed:
            folder, paths, labels, found = listed[name]
            classes = None
            if labels is not None:
                classes = options.names.classes([path.relative_to(folder).parts[0] for path in paths], labels)
            names = [path.relative_to(folder).as_posix() for path in paths]
            ages = [patient and patient.age for patient in patients[name]]
            data[name] = read_split(paths, names, labels, options, ages, classes)
            data[name].beside = found
    return data


ABOVE, MOST_BELOW = 6, 50  # folders that are looked at


class _Listed(NamedTuple):
    """The images of a split before they are decoded; without labels if the split is not to be decoded."""

    folder: Path
    paths: list[Path]
    labels: list[int] | None
    found: Found


def _list(root: Path, options: ReadOptions) -> dict[str, _Listed]:
    folders = split_folders(root)
    if not folders and any(map(_is_normal, _class_folders(root))):
        folders = {"test": root}
    if not folders:
        return {"train": _list_plain(root, options)}
    listed = {}
    for name, folder in folders.items():
        if name not in options.splits:
            if name == "train":
                loose, found = Found(), _normal_files(folder, options.names)
            else:
                loose, found = _evaluation_files(folder, options.names)
            listed[name] = _Listed(folder, loose.images + found.images, None, found)
        elif name == "train":
            listed[name] = _list_train(folder, options)
        else:
            listed[name] = _list_evaluation(folder, options.names)
    return listed


def _list_plain(root: Path, options: ReadOptions) -> _Listed:
    found = find_files(root, names=options.names)
    if not found.images:
        raise no_images(root, found)
    for path in found.images:
        for parent in path.relative_to(root).parents:
            # Else training would read a whole data set, its abnormal images too.
            if split_of(parent) or _is_normal(parent):
                raise UserError(f"{root} is not a data set but has one deeper inside: give {root / parent.parent}")
    if "train" in options.splits and not options.all_normal:
        require_all_normal(root, found, options.names)
        _reject_part(root)
    return _Listed(root, found.images, None, found)


def _reject_part(root: Path) -> None:
    """Reject a folder inside of a public data set, or just above one, whose images are not all healthy.

    In a folder NORMAL they are.

    Raises:
        UserError: names the data set's folder.
    """
    from . import SOURCES  # which is made of this module

    released = [source for source in SOURCES if source.open is not open_folder]
    folder, around = root.resolve(), []
    while not _is_normal(folder) and folder != folder.parent and len(around) < ABOVE:
        folder = folder.parent
        around.append((folder, [source for source in released if source.has_parts]))
    below = [child for child in _class_folders(root) if not _is_normal(child)]
    around += [(child, released) for child in below[:MOST_BELOW]]
    for folder, sources in around:
        try:
            source = next((source for source in sources if source.recognize(folder)), None)
        except (OSError, UserError):  # a folder around may be closed to us, or contradict itself
            continue
        if source is not None:
            raise UserError(
                f"{root} is not a data set, but {folder} is one ({source.name}) and says which images are healthy: "
                "give that folder, or --all-normal if all images of this one are healthy"
            )


def is_zhanglab(root: Path) -> bool:
    """Return whether all normal training images of a folder are named as in the ZhangLab release."""
    train = split_folders(root).get("train")
    if train is None or next(train.glob("NORMAL/*.jpeg"), None) is None:  # most folders are not listed twice
        return False
    names = [path.relative_to(train).as_posix() for path in _normal_files(train).images]
    matches = [_ZHANGLAB.fullmatch(name) for name in names]
    return bool(names) and all(match and int(match[1] or 115) >= 115 for match in matches)


def has_abnormal_training(root: Path) -> bool:
    """Return whether a folder keeps normal and abnormal training images apart, as contamination needs."""
    return "train" in split_folders(root)


def folder_labels(root: Path, paths: Sequence[Path]) -> tuple[list[int | None], list[str]]:
    """Return labels by class folders: beside each other in `root`, in its `val` or `test`, with NORMAL among them.

    Args:
        root: Path of a folder.
        paths: N Paths below it.

    Returns:
        N labels: 0 in NORMAL, 1 in a class folder beside it, None for any other image. And N names of these folders,
        "" for any other image.
    """
    classes: dict[Path, int] = {}
    for folder in (root, *(child for child in _class_folders(root) if split_of(child) in ("val", "test"))):
        found = _class_folders(folder)
        if any(map(_is_normal, found)):
            classes |= {child: int(not _is_normal(child)) for child in found}
    found = [next((parent for parent in path.parents if parent in classes), None) for path in paths]
    labels = [None if one is None else classes[one] for one in found]
    return labels, ["" if one is None else one.name for one in found]


def _list_train(folder: Path, options: ReadOptions) -> _Listed:
    found = _normal_files(folder, options.names)
    if not found.images:
        raise UserError(f"{folder} holds no normal images to train on: put them in {folder / 'NORMAL'}")
    if options.contamination:
        return _contaminate(folder, found, options)
    return _Listed(folder, found.images, [0] * len(found.images), found)


def _contaminate(folder: Path, found: Found, options: ReadOptions) -> _Listed:
    """List as many training images, a share of them abnormal; normal ones first, in order."""
    normal, contamination, seed = found.images, options.contamination, options.seed
    abnormal_folders = (child for child in _class_folders(folder) if not _is_normal(child))
    others = find_files(*abnormal_folders, base=folder, names=options.names)
    abnormal, count = others.images, round(contamination * len(normal))
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
    found = Found(
        masks=found.masks + others.masks, others=found.others + others.others, links=found.links + others.links
    )
    return _Listed(folder, paths, [0] * len(staying) + [1] * count, found)


def _list_evaluation(folder: Path, names: Names) -> _Listed:
    loose, found = _evaluation_files(folder, names)
    every = Found(masks=loose.masks + found.masks, others=loose.others + found.others, links=found.links)
    if not loose.images:
        if not found.images:
            raise no_images(folder, every)
        labels = [int(not _is_normal(folder / path.relative_to(folder).parts[0])) for path in found.images]
        return _Listed(folder, found.images, labels, every)
    if found.images:
        raise UserError(
            f"{folder} holds images both in class folders and beside them, such as {names.file(loose.images[0])}: "
            "put all of them in class folders, or none"
        )
    return _Listed(folder, loose.images, None, every)


def _evaluation_files(folder: Path, names: Names) -> tuple[Found, Found]:
    """Return the files in a folder, and those in its class folders."""
    # Class by class, because find_files does not follow links and a class folder may be one.
    inside = find_files(*_class_folders(folder), base=folder, names=names)
    return find_files(folder, deep=False, names=names), inside


def _normal_files(folder: Path, names: Names = PATH_NAMES) -> Found:
    return find_files(*filter(_is_normal, _class_folders(folder)), base=folder, names=names)


def _class_folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _is_normal(folder: Path) -> bool:
    return folder.name.lower() == "normal"
