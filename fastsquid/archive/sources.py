"""The images of an archive, listed: folders, WebDataset shards, single files and Parquet tables, wherever they lie."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from pyarrow import dataset, fs

from ..data.filetypes import DICOM_SUFFIXES, IMAGE_SUFFIXES
from ..data.finding import find_files as find_local
from ..data.finding import masks_among, no_images
from ..data.names import PATH_NAMES, Names
from ..data.sources.shards import find_shards, is_shard, read_shard
from ..errors import UserError
from ..utils.text import printable
from .stages import as_text, digests
from .stores import WEB, Place, file_system, open_stream, place_of, reason, without_options

TABLE_SUFFIX = ".parquet"
# `path` is bytes, because a file name need not be text. `content` is the file's, where a table holds it.
_BINARY = (pa.types.is_binary, pa.types.is_large_binary)
_TEXT = (pa.types.is_string, pa.types.is_large_string)
ITEMS = pa.schema([("name", pa.string()), ("store", pa.string()), ("path", pa.binary()), ("content", pa.binary())])


Item: TypeAlias = tuple[str, Place]  # name and place of an image or shard


class Table(NamedTuple):
    """A Parquet table of images.

    Attributes:
        place: of its file, or of the folder of its files.
        columns: those that are read, of `name`, `path` and `bytes`.
    """

    place: Place
    columns: list[str]

    @property
    def folder(self) -> Place:
        """The folder that its paths are relative to: the one that it lies in, also where it is a folder itself."""
        return Place(self.place.store, self.place.path.rpartition("/")[0])


def is_shard_at(place: Place) -> bool:
    """Return whether a place is named as a shard."""
    return is_shard(Path(place.file))


def is_table(source: str) -> bool:
    """Return whether a source is named as a Parquet table: a file, or a folder of files."""
    return without_options(source).lower().endswith(TABLE_SUFFIX)


def list_items(sources: Sequence[str], names: Names, alone: bool) -> list[Item]:
    """Return name and place of every image and shard that sources stand for; of a shard the images are not listed.

    Args:
        sources: paths or addresses of folders, shards and image files.
        names: what messages call files.
        alone: there is one source only. The images of a folder or shard are then named by their path inside it, all
            others by their path as given.

    Raises:
        UserError: a source is missing or cannot be listed, or a folder has no images, or both images and shards.
    """
    items: dict[Place, str] = {}
    for source in sources:
        place = place_of(source)
        for relative, found in _list(source, place, names):
            inside_it = alone and (relative or is_shard_at(found))
            prefix = "" if inside_it else without_options(source)
            items.setdefault(found, as_text("/".join(part for part in (prefix, relative) if part)))
    return [(name, place) for place, name in items.items()]


def _list(source: str, place: Place, names: Names) -> list[tuple[str, Place]]:
    """Return the path inside a source, "" for a source that is a file, and the place, of all that it holds."""
    if place.store in WEB:
        return [("", place)]
    if place.local:
        path = Path(place.path)
        if not path.exists():
            raise UserError(f"{source} does not exist")
        if not path.is_dir():
            return [("", place)]
        found = find_local(path)
        shards = find_shards(path, found.images)
        images = sorted(set(found.images).difference(shards), key=Path.as_posix)
        if not (images or shards):
            raise no_images(path, found)
        _reject_both(source, images, shards, names)
        return [(file.relative_to(path).as_posix(), Place("", str(file))) for file in images or shards]
    return _list_store(source, place, names)


def _list_store(source: str, place: Place, names: Names) -> list[tuple[str, Place]]:
    """List a folder of an object store, as `find_files` lists one of a disk.

    The first bytes of a file without a suffix are not looked at, since that would take a request for each: it is read,
    and if it is no DICOM file its row says so.
    """
    system = file_system(place.store)
    try:
        (whole,) = system.get_file_info([place.path])
        if whole.type == fs.FileType.File:
            return [("", place)]
        infos = system.get_file_info(fs.FileSelector(place.path, recursive=True))
    except OSError as error:
        raise UserError(f"{source} cannot be listed ({reason(error)}): check the address and your access") from None
    files = [PurePosixPath(info.path).relative_to(place.path) for info in infos if info.type == fs.FileType.File]
    files = [path for path in files if not any(part.startswith(".") for part in path.parts)]
    files.sort(key=lambda path: (path.parent, path.name))
    shards = [path for path in files if is_shard(Path(path))]
    images: list[PurePosixPath] = []
    for folder, group in groupby(files, key=lambda path: path.parent):
        own = [path for path in group if _may_be_image(path)]
        masks = set(masks_among(own, folder))
        images += [path for path in own if path not in masks]
    if not (images or shards):
        raise UserError(f"{source} holds no images: give a folder with some, as .png, .jpeg, .tif, .dcm or the like")
    _reject_both(source, images, shards, names)
    return [(str(path), place / str(path)) for path in images or shards]


def _may_be_image(path: PurePosixPath) -> bool:
    suffix = path.suffix.lower()
    return suffix in IMAGE_SUFFIXES | DICOM_SUFFIXES or not suffix.strip(".0123456789") and path.name != "DICOMDIR"


def _reject_both(source: str, images: Sequence[Any], shards: Sequence[Any], names: Names) -> None:
    if images and shards:
        raise UserError(
            f"{source} holds both images, such as {names.file(images[0])}, and shards, such as "
            f"{names.shard(shards[0], Path(source))}: move one of them elsewhere, or give them one by one"
        )


def to_items(items: Sequence[Item]) -> pa.Table:
    """Return names and places as a table with the schema `ITEMS`."""
    columns = {
        "name": [name for name, _ in items],
        "store": [place.store for _, place in items],
        "path": [place.path.encode("utf-8", "surrogateescape") for _, place in items],
        "content": [None] * len(items),
    }
    return pa.table(columns, ITEMS)


def place_at(row: dict[str, Any]) -> Place:
    """Return the place of a row of `ITEMS`."""
    return Place(row["store"], row["path"].decode("utf-8", "surrogateescape"))


def open_table(source: str) -> Table:
    """Return where a Parquet table lies and which of its columns are read.

    Raises:
        UserError: it cannot be read, a column has another type, or it says neither where its images are nor what they
            hold.
    """
    place = place_of(source)
    try:
        schema = _rows_at(place).schema
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{source} cannot be read as a Parquet table ({reason(error)})") from None
    types = {name: schema.field(name).type for name in ("name", "path", "bytes") if name in schema.names}
    for name, type in types.items():
        wanted, known = ("binary", _BINARY) if name == "bytes" else ("string", _TEXT)
        if not any(is_type(type) for is_type in known):
            raise UserError(f"{source}: column {name} has type {type}, it should be {wanted}")
    if "path" not in types and not {"name", "bytes"} <= set(types):
        raise UserError(
            f"{source} has neither a column path nor the columns name and bytes: give one row per image, with the path "
            "of its file, or with its name and the bytes of its file"
        )
    return Table(place, list(types))


def require_own_names(tables: Sequence[Table], items: Sequence[Item]) -> None:
    """Check that every row of Parquet tables has a name of its own: a job that goes on skips the names in its results.

    Args:
        tables: from `open_table`.
        items: from `list_items`. Names of images inside of shards are not compared.

    Raises:
        UserError: a row has no name, or another image has the same; or a table cannot be read.
    """
    if not tables:
        return
    found = [digests(name for name, _ in items)]  # hashes, because there may be very many
    for table in tables:
        for names in _names_in(table):
            if not all(names):
                raise UserError(f"{printable(table.place.path)} has a row without a name: give one to every image")
            found.append(digests(names))
    every = np.sort(np.concatenate(found))
    repeated = every[1:][every[1:] == every[:-1]]
    if len(repeated):
        place, name = _find_name(tables, repeated[0])
        raise UserError(f"{place}: the name {name!r} is there twice: give every image a name of its own")


def _find_name(tables: Sequence[Table], digest: bytes) -> tuple[str, str]:
    """Return the table that has a name with this digest, for a message, and the name."""
    return next(
        (printable(table.place.path), name)
        for table in tables
        for names in _names_in(table)
        for name, one in zip(names, digests(names))
        if one == digest
    )


def _names_in(table: Table) -> Iterator[list[str]]:
    """Yield the names of the rows of a table, in parts."""
    columns = [name for name in table.columns if name != "bytes"]
    try:
        for batch in _rows_at(table.place).to_batches(columns=columns):
            yield [row.get("name") or row.get("path") for row in batch.to_pylist()]
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{printable(table.place.path)} cannot be read as a Parquet table ({reason(error)})") from None


def _rows_at(place: Place) -> dataset.Dataset:
    """Return the rows of a Parquet file, or of all files in a folder that are named so, which are those that Ray reads.

    Raises:
        OSError, pa.ArrowInvalid: they cannot be read.
    """
    system, files = file_system(place.store), [place.path]
    if system.get_file_info(place.path).type == fs.FileType.Directory:
        infos = system.get_file_info(fs.FileSelector(place.path, recursive=True))
        files = sorted(info.path for info in infos if info.path.lower().endswith(TABLE_SUFFIX) and info.is_file)
    return dataset.dataset(files, filesystem=system, format="parquet")


def items_of_table(table: pa.Table, folder: Place) -> pa.Table:
    """Return rows of a Parquet table as `ITEMS`.

    Args:
        table: with the columns that `open_table` found.
        folder: that its paths are relative to.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ITEMS.names}
    for row in table.to_pylist():
        path, content = row.get("path"), row.get("bytes")
        try:
            place = Place("", "") if content is not None or not path else place_of(path, folder)
        except UserError:  # no address: as a path it is a file that does not exist, which its row will say
            place = Place("", path)
        columns["name"].append(row.get("name") or path or "")
        columns["store"].append(place.store)
        columns["path"].append(place.path.encode("utf-8", "surrogateescape"))
        columns["content"].append(content)
    return pa.table(columns, ITEMS)


def open_shard(place: Place, name: str) -> Iterator[tuple[str, bytes | Exception]]:
    """Yield name and content of every image of a shard, or why the image cannot be read.

    A shard of an object store is copied to this machine first.

    Args:
        place: of the shard.
        name: of the shard in results; "" where images are named by their path inside it.

    Raises:
        UserError: as `data.sources.shards.read_shard` raises it.
        OSError: the shard cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="fastsquid-") as folder:
        shard = Path(place.path)
        if not place.local:
            shard = Path(folder) / PurePosixPath(place.file).name
            with open_stream(place) as stream, open(shard, "wb") as file:
                shutil.copyfileobj(stream, file, 2**20)
        try:
            samples = read_shard(shard, PATH_NAMES)
        except UserError as error:
            raise UserError(str(error).replace(str(shard), place.path)) from None
        for sample in samples:
            inside = sample.image.relative_to(shard).as_posix()
            try:
                content = sample.image.read_bytes()
            except OSError as error:  # it is too large: the others are read
                content = error
            yield as_text(f"{name}/{inside}" if name else inside), content
