"""Where files lie: this machine's disks, object stores that Arrow opens, and web addresses."""

import http.client
import os
import re
import urllib.error
import urllib.request
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from pyarrow import fs

from ..data.filetypes import MAX_FILE_BYTES
from ..data.opening import require_file
from ..errors import UserError

WEB = ("http", "https")
# Keys may have # and ? in them: options are `?name=value` at the end.
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?]*)(/.*?)?(\?[\w.-]+=[^/]*)?", re.S)
_SECONDS = 60  # that a web server may take to send something


class Place(NamedTuple):
    """A file or folder.

    Attributes:
        store: "" for this machine's disks; `http`; or the address of a bucket with its options, such as
            `s3://bucket?region=eu-west-1`.
        path: inside the store: a path of this machine, a whole web address, or `bucket/key`.
    """

    store: str
    path: str

    def __truediv__(self, name: str) -> "Place":
        return Place(self.store, f"{self.path.rstrip('/')}/{name}")

    @property
    def file(self) -> str:
        """The path, of a web address without what follows a question mark."""
        return self.path.split("?")[0] if self.store == "http" else self.path

    @property
    def local(self) -> bool:
        """Whether the place is on this machine's disks."""
        return not self.store


def place_of(address: str, folder: Place | None = None) -> Place:
    """Return the place that an address stands for.

    Args:
        address: a path, `http://...`, or an address that Arrow opens, such as `s3://bucket/folder` or `gs://...`.
            Arrow's options may follow a `?`, such as `s3://bucket/folder?region=eu-west-1`.
        folder: that a relative path starts from; None for the folder of this process.
    """
    if "://" not in address:
        if folder is None or folder.local or os.path.isabs(address):
            return Place("", os.path.abspath(os.path.join(folder.path if folder else "", address)))
        return folder / address
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise UserError(f"{address} is no address of a file or folder: give one such as s3://bucket/folder")
    scheme, bucket, path, options = (part or "" for part in parts.groups())
    if scheme in WEB:
        return Place("http", address)
    if scheme == "file":
        return Place("", unquote(path))
    return Place(f"{scheme}://{bucket}{options}", (bucket.split("@")[-1] + path).rstrip("/"))


def without_options(address: str) -> str:
    """Return an address without Arrow's options, and without a slash at its end."""
    parts = _ADDRESS.fullmatch(address)
    options = parts[4] if parts and parts[1] not in WEB else None
    return address.removesuffix(options or "").rstrip("/")


@lru_cache(maxsize=64)
def file_system(store: str) -> fs.FileSystem:
    """Return Arrow's file system of a store.

    Raises:
        UserError: Arrow does not know such a store, or cannot open it.
    """
    if not store:
        return fs.LocalFileSystem()
    if store in WEB:
        raise UserError("a web address cannot be listed or written: give a Parquet table of addresses instead")
    try:
        return fs.FileSystem.from_uri(quote(store, safe=":/?&=%@+"))[0]
    except (OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{store} cannot be opened ({_first_line(error)})") from None


def read_bytes(place: Place) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: it cannot be read, or has more than `MAX_FILE_BYTES`.
        ValueError: it is no file, or its store cannot be opened.
    """
    try:
        with open_stream(place) as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except http.client.HTTPException as error:
        raise OSError(_first_line(error)) from error
    if len(content) > MAX_FILE_BYTES:
        raise OSError(f"it has more than the {MAX_FILE_BYTES} bytes that are read")
    return content


def open_stream(place: Place) -> Any:
    """Return an open file to read from its start to its end.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no file, or its store cannot be opened.
    """
    if place.local:
        require_file(Path(place.path))
    if place.store == "http":
        return urllib.request.urlopen(place.path, timeout=_SECONDS)
    # Arrow would take the suffix .gz for compression.
    return file_system(place.store).open_input_stream(place.path, compression=None)


def reason(error: Exception) -> str:
    """Return why a file cannot be read, as one line without its path."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
