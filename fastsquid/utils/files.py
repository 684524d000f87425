"""Files that are there whole or not at all: written under a temporary name, flushed to disk, renamed."""

import json
import os
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError


def require_place(path):
    """Raises UserError where no file of that path can be."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file to write")
    if not path.parent.is_dir():
        raise UserError(f"{path} cannot be written, for there is no folder {path.parent}: make it")


@contextmanager
def replacing(path, mode="w"):
    """Opens a temporary file that takes `path`'s place when the block ends well, and vanishes when it does not."""
    path = Path(path)
    require_place(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # surrogateescape: a file name that is not UTF-8 is written as the bytes it is.
    text = {} if "b" in mode else {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    try:
        with open(temporary, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a failed write does not know of what
            error.filename = str(path)
        raise


def write_json(path, value):
    """Writes one JSON document; NaN and infinity are refused, since JSON has no word for them."""
    with replacing(path) as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.write("\n")
