"""WebDataset shards: tar archives of samples. Images are read in place, in any order and by any process."""

import errno
import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO, Literal, NamedTuple

from ...errors import UserError
from ...utils.files import require_regular
from ..dicom.patients import read_patients, reject_shared_patients
from ..filetypes import DICOM_SUFFIXES, IMAGE_SUFFIXES, MAX_FILE_BYTES
from ..finding import find_images
from ..labels import require_all_normal_samples
from ..names import PATH_NAMES, Names
from ..split import SPLITS, ReadOptions, Split, read_split, split_folders
from ..tables import decode, whole_number

# What tarfile raises of headers, which may say anything.
_DAMAGED = (tarfile.TarError, OSError, ValueError, OverflowError, MemoryError, RecursionError)
# Compressed shards are found too, and then rejected: they can only be read from the beginning.
_SHARDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_SUFFIXES = IMAGE_SUFFIXES | DICOM_SUFFIXES
_NOTES = (".json", ".txt", ".xml")


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A file in a shard, with the methods of a Path that reading needs; nothing is unpacked.

    Attributes:
        shard: Path of the archive.
        file: name in the archive.
        start: offset of the file's bytes in the archive.
        size: number of bytes.
    """

    shard: Path
    file: str
    start: int
    size: int

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.file).suffix

    @property
    def parts(self) -> tuple[str, ...]:
        return PurePosixPath(self.file).parts

    def read_bytes(self) -> bytes:
        """Return the file's bytes.

        Raises:
            OSError: it has more than `MAX_FILE_BYTES`, or the shard cannot be read.
        """
        if self.size > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"it has {self.size} bytes, where at most {MAX_FILE_BYTES} are read")
        with open(self.shard, "rb") as shard:
            shard.seek(self.start)
            return shard.read(self.size)

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:
        return io.BytesIO(self.read_bytes())

    def relative_to(self, folder: Path) -> Path:
        """Return the Path below a folder that holds the shard, or below the shard."""
        return Path(str(self)).relative_to(folder)

    def as_posix(self) -> str:
        return Path(f"{self.shard}/{self.file.lstrip('/')}").as_posix()

    def __str__(self) -> str:
        return self.as_posix()


class Sample(NamedTuple):
    """An image of a shard.

    Attributes:
        image: `ShardFile` of the image.
        label: `ShardFile` of its `.cls`, or None.
        notes: `ShardFile`s of text beside it that may hold a label in another form.
    """

    image: ShardFile
    label: ShardFile | None
    notes: tuple[ShardFile, ...]


def find_shards(folder: str | os.PathLike, images: Sequence[Path] = ()) -> list[Path]:
    """Find all shards below a folder. Names that start with "." are skipped; links to folders are not followed.

    Args:
        folder: where to look.
        images: other images in the folder. Beside them a compressed archive is no shard: they were unpacked from it.

    Returns:
        sorted Paths.
    """
    shards = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shards += [Path(parent, name) for name in files if is_shard(Path(name))]
    return sorted((shard for shard in shards if not images or _is_plain(shard)), key=Path.as_posix)


def is_shard(path: Path) -> bool:
    """Return whether a file is named as a shard."""
    return path.name.lower().endswith(_SHARDS) and not path.name.startswith(".")


def _is_plain(shard):
    return shard.suffix.lower() == ".tar"


def read_shard(shard: Path, names: Names = PATH_NAMES, folder: Path | None = None) -> list[Sample]:
    """Return the samples of a shard, in its order. Only headers are read; files other than image and class are skipped.

    A sample is defined as in WebDataset: files that follow each other and whose names are equal up to the first dot.
    It has one image. Its class, if it is known, is in `.cls`.

    Args:
        shard: Path of the archive.
        names: what messages call the shard and its files.
        folder: in which the shard was found; None if the user named the shard.

    Returns:
        list of `Sample`, at least one.

    Raises:
        UserError: webdataset is not installed; the archive is damaged, cut short, compressed, or several in one; a
            sample has several images, or a class and no image; an image is in no sample, or there twice; no images.
    """
    title = names.shard(shard, folder)
    try:
        from webdataset.tariterators import group_by_keys
    except ImportError:
        raise UserError(f"reading {title} needs webdataset: pip install webdataset") from None
    require_regular(shard)
    samples, images = [], {}
    try:
        for fields in group_by_keys(_files(shard, names, images)):
            found = [field for field in fields.values() if field in images]
            files = [field for name, field in fields.items() if name[:2] != "__"]
            labels = [file for file in files if file.suffix.lower() == ".cls"]
            label = labels[0] if labels else None
            notes = tuple(file for file in files if file.suffix.lower() in _NOTES)
            if len(labels) > 1:
                first, second = map(names.file, labels[:2])
                raise UserError(f"{first} and {second} are of one sample: give each its own")
            if len(found) > 1:
                first, second = map(names.file, found[:2])
                raise UserError(
                    f"{first} and {second} are one sample, because their names are the same up to the first dot: give "
                    "every image of a shard a name of its own before its first dot"
                )
            if found:
                samples.append(Sample(found[0], label, notes))
            elif label:
                raise UserError(f"{names.file(label)} is a class without an image: put it after its image in the shard")
    except UserError:
        raise
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise UserError(f"{title} cannot be read ({error.strerror}): give a readable one") from error
        if "duplicate file name" in str(error):  # webdataset's word
            raise UserError(f"{title} is no WebDataset, a file being there twice: write it again") from error
        why = error if isinstance(error, tarfile.TarError) else "it is damaged"
        raise UserError(
            f"{title} cannot be read as an uncompressed tar archive ({why}): write it again, whole and not compressed"
        ) from error
    for sample in samples:
        del images[sample.image]
    if images:
        raise UserError(
            f"{names.file(next(iter(images)))!r} is in no sample, as WebDataset reads names: call it "
            "NAME.SUFFIX, with no other dot, line break or __"
        )
    if not samples:
        raise UserError(f"{title} holds no images: put some there, as .png, .jpeg, .tif, .dcm or the like")
    return samples


def open_shards(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read shards by splits.

    The split is in the name, `train-000000.tar`, `val-...`, `test-...`, or in the folder's name. If no shard has a
    split, all are for training.

    Classes are whole numbers in `.cls`: 0 is normal, every other number abnormal. Of `train` only the normal images are
    read. If no image has a class, all are read; without `options.all_normal` only if nothing says that some are not
    healthy (`labels.require_all_normal_samples`). Names are the shard's path and the image's in it, unless
    `options.names` gives others.

    Args:
        root: Path of the folder.
        options: `ReadOptions`.

    Returns:
        dict of split name to Split, without the splits that have no shards.

    Raises:
        UserError: images beside the shards, a shard of no split or one that cannot be read (`read_shard`), classes of
            some images only, no normal image to train on, images that may not be healthy, or a patient in two splits.
    """
    found = _split_shards(root)
    _reject_others(root, found, options.names)
    listed = {}
    for name, shards in found.items():
        samples = [sample for shard in shards for sample in read_shard(shard, options.names, root)]
        classes = _classes(samples, options.names)
        if name == "train" and classes is not None:
            samples = [sample for sample, number in zip(samples, classes) if not number]
            if not samples:
                raise UserError(f"the training shards of {root} hold no normal images: the .cls of one should be 0")
            classes = [0] * len(samples)
        elif name == "train" and not options.all_normal:
            inside = [PurePath(*sample.image.parts) for sample in samples]
            notes = (note for sample in samples for note in sample.notes)
            require_all_normal_samples(root, inside, notes, options.names)
        listed[name] = [sample.image for sample in samples], classes
    patients = {name: read_patients(files, options.accept) for name, (files, _) in listed.items()}
    reject_shared_patients({name: list(zip(listed[name][0], patients[name])) for name in listed}, options.names)
    data = {}
    for name in options.splits:
        if name in listed:
            files, classes = listed[name]
            labels = None if classes is None else [int(number != 0) for number in classes]
            names = [file.relative_to(root).as_posix() for file in files]
            ages = [patient and patient.age for patient in patients[name]]
            named = None if classes is None else list(map(str, classes))
            data[name] = read_split(files, names, labels, options, ages, named)
    return data


def is_sharded(root: Path) -> bool:
    """Return whether the folder has shards of a split, or nothing but shards."""
    return any(_split_shards(root).values())


def _split_shards(root):
    """Return {split: its shards, sorted}, without splits that have none."""
    found, folders = {}, split_folders(root)
    for name in SPLITS:
        shards = [child for child in root.iterdir() if is_shard(child) and child.name.lower().startswith(name)]
        shards += [child for child in folders[name].iterdir() if is_shard(child)] if name in folders else []
        if shards:
            found[name] = sorted(shards, key=Path.as_posix)
    if not found:
        shards = sorted(child for child in root.iterdir() if is_shard(child))
        if shards and not find_images(root):
            found["train"] = shards
    elif not any(map(_is_plain, chain(*found.values()))) and find_images(root):
        return {}  # the images were unpacked from the compressed shards
    return found


def _reject_others(root, found, names):
    """Raise a UserError for what would be left out in silence: images in no shard, and shards of no split."""
    first = next(iter(found.values()))[0]
    if find_images(root):
        raise UserError(
            f"{root} holds both shards, such as {names.shard(first, root)}, and other images: keep one of them there"
        )
    known = {shard for shards in found.values() for shard in shards}
    if others := [shard for shard in find_shards(root) if shard not in known]:
        raise UserError(
            f"{names.shard(others[0], root)} is of no split: call shards train-000000.tar, val-000000.tar, "
            "test-000000.tar, or put them right into folders train, val and test"
        )


def _classes(samples, names):
    """Return the whole numbers in the `.cls` of samples, or None where none of them has one."""
    known = [sample for sample in samples if sample.label]
    if not known:
        for sample in samples:
            if "normal" in map(str.lower, sample.image.parts[:-1]):
                raise UserError(
                    f"{names.file(sample.image)} is in a class folder but has no class: write a .cls beside every "
                    "image, 0 for normal and 1 for abnormal"
                )
        return None
    if len(known) < len(samples):
        image = next(sample.image for sample in samples if not sample.label)
        raise UserError(
            f"{names.file(image)} has no class, but {names.file(known[0].image)} has one: give a .cls to all or none"
        )
    classes = []
    for sample in samples:
        try:
            classes.append(whole_number(decode(sample.label.read_bytes())))
        except (OSError, ValueError):
            raise UserError(
                f"the class of {names.file(sample.image)} is no whole number: write 0 for normal and 1 for abnormal "
                "into its .cls"
            ) from None
    return classes


def _files(shard, names, images):
    """Yield every regular file of an archive by its header, as webdataset groups them.

    Args:
        shard: Path of the archive.
        names: what messages call its files.
        images: dict; the images become its keys.
    """
    seen = set()
    with tarfile.open(shard, "r:") as archive:
        for member in archive:
            archive.members = []  # pyright: ignore[reportAttributeAccessIssue]  # else tarfile keeps all of them
            file = ShardFile(shard, member.name, member.offset_data, member.size)
            suffix = file.suffix.lower()
            if (not member.isreg() and not member.isdir() or member.issparse()) and suffix in _SUFFIXES:
                raise UserError(f"{names.file(file)} is a link or has holes: write the shard with whole files")
            if not member.isreg() or any(part[0] == "." and part != ".." for part in file.parts):
                continue  # hidden, as in folders
            # As in folders, DICOM is recognized by its first bytes, whatever its name.
            archive.fileobj.seek(file.start + 128)
            if suffix in _SUFFIXES or archive.fileobj.read(4) == b"DICM" and file.size > 132:
                if file.as_posix() in seen:
                    raise UserError(f"{names.file(file)} is there twice: give every image of a shard a name of its own")
                seen.add(file.as_posix())
                images[file] = True
            yield {"fname": member.name, "data": file, "__url__": str(shard)}
        # tarfile takes a damaged or missing header for the end. The true end is a block of zeros with nothing after it.
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it is damaged or cut short")
        while rest := archive.fileobj.read(2**20):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("data follow its end, as if it were several archives in one")
