"""Files that are complete or absent: written under a temporary name, flushed to disk, renamed."""

import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..errors import UserError


def require_place(path: str | Path) -> None:
    """Check that a file can have this path.

    Raises:
        UserError: the path is a folder, a device or a pipe, or its folder does not exist.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file to write")
    if path.exists() and not path.is_file():  # a file would replace it, /dev/null for the whole machine
        raise UserError(f"{path} is not a regular file: give the name of a file to write")
    if not path.parent.is_dir():
        raise UserError(f"{path} cannot be written, because the folder {path.parent} does not exist: make it")


def require_new(path: str | Path, overwrite: bool) -> None:
    """Check that a file can have this path, and that nothing is lost by writing it.

    Args:
        path: of the file.
        overwrite: whether the user allows replacing an existing file.

    Raises:
        UserError: as for `require_place`; or the file exists and `overwrite` is false.
    """
    require_place(path)
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{path} exists: name another output, or add --overwrite to replace it")


def reject_replacing(path: str | Path, inputs: Iterable[Any]) -> None:
    """Raise a UserError if the file to write is one of the files to read.

    Args:
        path: of the file to write.
        inputs: the files to read. A `Path` is compared; a file inside an archive is not.
    """
    path = Path(path)
    if path.exists():
        for each in inputs:
            if isinstance(each, Path) and each.name == path.name and each.exists() and each.samefile(path):
                raise UserError(f"{path} is one of the files to read: name another output")


def require_new_in(folder: str | Path, names: Iterable[str], overwrite: bool) -> None:
    """Check that files can be written to a folder, and that nothing is lost by writing them.

    Args:
        folder: which need not exist.
        names: of the files.
        overwrite: as for `require_new`.

    Raises:
        UserError: the folder is a file; or one of the files exists and `overwrite` is false.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give a folder")
    if folder.is_dir():
        for name in names:
            require_new(folder / name, overwrite)


def require_regular(path: str | Path, most: int | None = None) -> None:
    """Check that reading a file ends and that its content fits into memory. A device or a pipe may never end.

    Args:
        path: of the file, or a link to it.
        most: largest size in bytes, or None.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is no regular file, or larger.
    """
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):
        raise UserError(f"{path} is not a regular file: put the file itself there, not a link to a device or a pipe")
    if most is not None and facts.st_size > most:
        raise UserError(f"{path} has {facts.st_size} bytes, more than the {most} that it can have: replace it")


@contextmanager
def replacing(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file that replaces `path` when the block succeeds, and is removed when it fails.

    Args:
        path: of the file.
        mode: `w` for text in UTF-8, `wb` for bytes.

    Raises:
        UserError: the path is a folder, or its folder does not exist.
    """
    path = Path(path)
    require_place(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _open(temporary, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)  # a failed write does not name its file
        raise


def _open(path: Path, mode: str) -> IO[Any]:
    if "b" in mode:
        return open(path, mode)
    # surrogateescape: a file name that is not UTF-8 is written as the bytes it is.
    return open(path, mode, encoding="utf-8", errors="surrogateescape", newline="")


def write_json(path: str | Path, value: Any) -> None:
    """Write one JSON document.

    Args:
        path: of the file.
        value: what `json.dump` can write.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot represent.
        UserError: the path is a folder, or its folder does not exist.
    """
    with replacing(path) as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.write("\n")
