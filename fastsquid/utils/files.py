"""Files that are complete or absent: written under a temporary name, flushed to disk, renamed."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..errors import UserError


def require_place(path: str | Path) -> None:
    """Check that a file can have this path.

    Raises:
        UserError: the path is a folder, or its folder does not exist.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file to write")
    if not path.parent.is_dir():
        raise UserError(f"{path} cannot be written, because the folder {path.parent} does not exist: make it")


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _open(temporary, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a failed write does not name its file
            error.filename = str(path)
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
