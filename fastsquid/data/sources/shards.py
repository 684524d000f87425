"""WebDataset shards: tar archives of samples, whose images are read where they lie, in any order and by any process."""

import io
import os
import tarfile
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ...errors import UserError
from ..dicom.patients import read_patients, refuse_shared_patients
from ..filetypes import DICOM_SUFFIXES, IMAGE_SUFFIXES
from ..images import find_images
from ..names import content_name
from ..split import SPLITS, read_split

# Compressed ones are found too, to be refused: they can only be read from the beginning.
_SHARDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_SUFFIXES = IMAGE_SUFFIXES | DICOM_SUFFIXES


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A file in a shard, to be read as a Path is; nothing is unpacked.

    Attributes:
        shard: Path of the archive.
        file: its name there.
        start: of its bytes in the archive.
        size: how many they are.
    """

    shard: Path
    file: str
    start: int
    size: int

    @property
    def suffix(self):
        return PurePosixPath(self.file).suffix

    @property
    def parts(self):
        return PurePosixPath(self.file).parts

    def read_bytes(self):
        with open(self.shard, "rb") as shard:
            shard.seek(self.start)
            return shard.read(self.size)

    def open(self, mode="rb"):
        return io.BytesIO(self.read_bytes())

    def stat(self):
        """That of the shard, which changes whenever the file does."""
        return self.shard.stat()

    def relative_to(self, folder):
        """Its Path below a folder that the shard is in, or below the shard."""
        return Path(str(self)).relative_to(folder)

    def as_posix(self):
        return Path(f"{self.shard}/{self.file.lstrip('/')}").as_posix()

    def __str__(self):
        return self.as_posix()


class Sample(NamedTuple):
    """An image of a shard.

    Attributes:
        image: `ShardFile`.
        label: `ShardFile` of the text of its class, or None.
    """

    image: ShardFile
    label: ShardFile | None


def find_shards(folder, images=()):
    """All shards below a folder, sorted Paths; names that start with "." are skipped, and links to folders too.

    Args:
        images: that are in the folder besides. Among them a compressed archive is just what they were unpacked from.
    """
    shards = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shards += [Path(parent, name) for name in files if is_shard(Path(name))]
    return sorted((shard for shard in shards if not images or _is_plain(shard)), key=Path.as_posix)


def is_shard(path):
    """Whether a Path is named as a shard."""
    return path.name.lower().endswith(_SHARDS) and not path.name.startswith(".")


def _is_plain(shard):
    return shard.suffix.lower() == ".tar"


def read_shard(shard, called=str, title=None):
    """The samples of a shard, in its order. Only headers are read; what is neither image nor class is passed over.

    A sample is what WebDataset has it be: files that follow each other and whose names are the same up to the first
    dot. It has one image, and its class, if it is known, in `.cls`.

    Args:
        shard: Path.
        called: function of a `ShardFile` that gives what messages call it.
        title: what messages call the shard; its path by default.

    Returns:
        list of `Sample`, at least one.

    Raises:
        UserError: no webdataset; an archive that is damaged, cut short, several in one, or compressed; a sample with
            several images, or with a class and no image; an image that is in no sample, or there twice; no images.
    """
    title = title or f"the shard {shard}"
    try:
        from webdataset.tariterators import group_by_keys
    except ImportError:
        raise UserError(f"reading {title} needs webdataset: pip install 'fastsquid[shards]'") from None
    samples, images = [], {}
    try:
        for fields in group_by_keys(_files(shard, called, images)):
            found = [field for field in fields.values() if field in images]
            labels = [field for name, field in fields.items() if name[:2] != "__" and field.suffix.lower() == ".cls"]
            label = labels[0] if labels else None
            if len(labels) > 1:
                raise UserError(f"{called(labels[0])} and {called(labels[1])} are of one sample: give each its own")
            if len(found) > 1:
                raise UserError(
                    f"{called(found[0])} and {called(found[1])} are one sample, their names being the same up to the "
                    "first dot: give every image of a shard a name of its own before its first dot"
                )
            if found:
                samples.append(Sample(found[0], label))
            elif label:
                raise UserError(f"{called(label)} is a class without an image: let each follow its image in the shard")
    except UserError:
        raise
    except (tarfile.TarError, OSError, ValueError, OverflowError, MemoryError) as error:  # headers may say anything
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
            f"{called(next(iter(images)))!r} is in no sample, as WebDataset reads names: call it NAME.SUFFIX, with no "
            "other dot, line break or __"
        )
    if not samples:
        raise UserError(f"{title} holds no images: put some there, as .png, .jpeg, .tif, .dcm or the like")
    return samples


def shard_title(folder, anonymous):
    """What messages call a shard that was found in a folder, where its own name is not to be known; else None."""
    return f"a shard in {folder}" if anonymous else None


def open_shards(root, options):
    """Reads shards by splits, which their names say, `train-000000.tar`, `val-...`, `test-...`, or folders of these
    names; where nothing says one, all are for training.

    Classes are whole numbers in `.cls`, 0 normal and every other 1; of `train` only the normal images are read, all of
    them where none has a class. Names are the shard's path and the image's in it, or, if `options.anonymous`, hashes of
    the images' files.

    Args:
        root: Path of the folder.
        options: `ReadOptions`.

    Returns:
        dict of split name to Split, without the splits that there are no shards of.

    Raises:
        UserError: images beside the shards, a shard of no split or one that cannot be read (`read_shard`), classes of
            some images only, no normal image to train on, or a patient in two splits.
    """
    called = content_name if options.anonymous else str
    title = shard_title(root, options.anonymous)
    found = _split_shards(root)
    _refuse_others(root, found, title)
    listed = {}
    for name, shards in found.items():
        samples = [sample for shard in shards for sample in read_shard(shard, called, title)]
        classes = _classes(samples, called)
        if name == "train" and classes is not None:
            samples = [sample for sample, number in zip(samples, classes) if not number]
            if not samples:
                raise UserError(f"the training shards of {root} hold no normal images: the .cls of one should be 0")
            classes = [0] * len(samples)
        listed[name] = [sample.image for sample in samples], classes
    patients = {name: read_patients(files) for name, (files, _) in listed.items()}
    refuse_shared_patients({name: list(zip(listed[name][0], patients[name])) for name in listed}, called)
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


def is_sharded(root):
    """Whether the folder has shards of a split, or nothing but shards."""
    return any(_split_shards(root).values())


def _split_shards(root):
    """{split: its shards, sorted} of what there is."""
    found = {}
    for name in SPLITS:
        folder = root / name
        shards = [child for child in root.iterdir() if is_shard(child) and child.name.startswith(name)]
        shards += [child for child in folder.iterdir() if is_shard(child)] if folder.is_dir() else []
        if shards:
            found[name] = sorted(shards, key=Path.as_posix)
    if not found:
        shards = sorted(child for child in root.iterdir() if is_shard(child))
        if shards and not find_images(root):
            found["train"] = shards
    elif not any(map(_is_plain, chain(*found.values()))) and find_images(root):
        return {}  # which were unpacked
    return found


def _refuse_others(root, found, title):
    """Refuses what would be left out in silence: images that are in no shard, and shards that are of no split."""
    first = next(iter(found.values()))[0]
    if find_images(root):
        raise UserError(f"{root} holds both shards, as {title or first}, and other images: keep one of them there")
    known = {shard for shards in found.values() for shard in shards}
    if others := [shard for shard in find_shards(root) if shard not in known]:
        raise UserError(
            f"{title or others[0]} is of no split: call shards train-000000.tar, val-000000.tar, test-000000.tar, or "
            "put them right into folders train, val and test"
        )


def _classes(samples, called):
    """Return the whole numbers in the `.cls` of samples, or None where none of them has one."""
    known = [sample for sample in samples if sample.label]
    if not known:
        for sample in samples:
            if "normal" in map(str.lower, sample.image.parts[:-1]):
                raise UserError(
                    f"{called(sample.image)} is in a class folder but has no class: write a .cls beside every image, 0 "
                    "for normal and 1 for abnormal"
                )
        return None
    if len(known) < len(samples):
        image = next(sample.image for sample in samples if not sample.label)
        raise UserError(f"{called(image)} has no class, where {called(known[0].image)} has: give a .cls to all or none")
    classes = []
    for sample in samples:
        text = sample.label.read_bytes()
        try:
            classes.append(int(text))
        except ValueError:
            raise UserError(
                f"the class of {called(sample.image)} is no whole number: write 0 for normal and 1 for abnormal into "
                "its .cls"
            ) from None
    return classes


def _files(shard, called, images):
    """What webdataset groups: every regular file of an archive, by its header.

    Args:
        images: dict that those which are images become keys of.
    """
    names = set()
    with tarfile.open(shard, "r:") as archive:
        for member in archive:
            archive.members = []  # which tarfile would keep
            file = ShardFile(shard, member.name, member.offset_data, member.size)
            suffix = file.suffix.lower()
            if (not member.isreg() and not member.isdir() or member.issparse()) and suffix in _SUFFIXES:
                raise UserError(f"{called(file)} is a link or has holes: write the shard with whole files")
            if not member.isreg() or any(part[0] == "." and part != ".." for part in file.parts):
                continue  # hidden, as in folders
            # As in folders, DICOM is known by how it begins, whatever its name.
            archive.fileobj.seek(file.start + 128)
            if suffix in _SUFFIXES or archive.fileobj.read(4) == b"DICM" and file.size > 132:
                if file.as_posix() in names:
                    raise UserError(f"{called(file)} is there twice: give every image of a shard a name of its own")
                names.add(file.as_posix())
                images[file] = True
            yield {"fname": member.name, "data": file, "__url__": str(shard)}
        # tarfile takes a damaged header, or none, for the end, which is a block of zeros and followed by nothing else.
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it is damaged or cut short")
        while rest := archive.fileobj.read(2**20):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("it goes on after its end, as several in one do")
