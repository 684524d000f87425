"""Decoded images on disk: a data set is decoded once, and later mapped into memory instead of read into it."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL
import torch

from ..errors import UserError
from ..utils.bars import bar
from ..utils.files import replacing, write_json
from .filetypes import ImageFile
from .framing import Frame

_READERS = ("pydicom", "python-gdcm")  # optional: without them, files are left out or are an error
FORMAT = 1  # another one wherever the same file gives other pixels


def cached_images(
    folder: Path,
    paths: Sequence[ImageFile],
    size: int,
    facts: Sequence[Any],
    decode: Callable[[], Iterable[tuple[np.ndarray, Frame] | None]],
) -> tuple[torch.Tensor, list[int], list[Frame]]:
    """Return decoded images from a cache; on their first use decode and add them.

    The key is a hash of the content of all files, of the versions of the packages that read them, of the size and of
    `facts`. So a file that was changed, added or removed is noticed, and all images are decoded again. The cache can be
    deleted at any time. Entries are written to a temporary file first: several processes may use one cache, and an
    interrupted one leaves no entry.

    Args:
        folder: of the cache; made if it is missing.
        paths: N files. All of them are read, to hash them.
        size: side of the square images in pixels.
        facts: what else changes the pixels, of types that JSON has.
        decode: function that decodes the files in order, with None for a file that is left out.

    Returns:
        images: (M, 1, size, size) uint8 or uint16, mapped from the cache: only what is used is read into memory, and
            what is not used any more can leave it.
        kept: indices into `paths` of the images.
        frames: M `Frame`s.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--cache {folder} cannot be made ({error.strerror}): give a folder that can be written to"
        ) from error
    name = _key(paths, [FORMAT, PIL.__version__, *map(_version, _READERS), size, *facts])
    pixels, about = folder / f"{name}.pixels", folder / f"{name}.json"
    known = _read(about, pixels, size, len(paths))
    if known is None:
        try:
            frames, depth = _write(pixels, size, decode())
            kept = [i for i, frame in enumerate(frames) if frame is not None]
            known = {"depth": depth, "kept": kept, "frames": [frame for frame in frames if frame is not None]}
            write_json(about, known)
        except OSError as error:
            raise UserError(
                f"--cache {folder} cannot be written to ({error.strerror}): give another folder, or leave it out"
            ) from error
    kept = known["kept"]
    if not kept:
        return torch.empty(0, 1, size, size, dtype=torch.uint8), [], []
    # Copy on write, because PyTorch warns of memory that cannot be written to.
    images = np.memmap(pixels, known["depth"], "c", shape=(len(kept), 1, size, size))
    return torch.from_numpy(images), kept, [Frame(*frame) for frame in known["frames"]]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _key(paths: Sequence[ImageFile], facts: Sequence[Any]) -> str:
    """Return a hash of the content of files and of facts."""

    def content(path: ImageFile) -> bytes:
        try:
            return hashlib.sha256(path.read_bytes()).digest()
        except OSError as error:
            return f"unreadable: {error.errno}".encode()

    digest = hashlib.sha256(json.dumps(facts).encode())
    with ThreadPoolExecutor() as pool:
        contents = bar(pool.map(content, paths), "looking into the cache", total=len(paths))
        for path, one in zip(paths, contents):  # how a file is read depends on its suffix
            for part in (path.suffix.lower().encode("utf-8", "surrogateescape"), one):
                digest.update(len(part).to_bytes(2, "big") + part)
    return digest.hexdigest()[:32]


def _read(about: Path, pixels: Path, size: int, count: int) -> dict[str, Any] | None:
    """Return what an entry says of its pixels; None if there is none, or if it is not whole."""
    try:
        known = json.loads(about.read_text(encoding="utf-8"))
        whole = len(known["kept"]) * size**2 * np.dtype(known["depth"]).itemsize
        frames = [Frame(*frame) for frame in known["frames"]]
        fits = len(frames) == len(known["kept"]) and all(0 <= i < count for i in known["kept"])
        return known if fits and pixels.stat().st_size == whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, size: int, decoded: Iterable[tuple[np.ndarray, Frame] | None]) -> tuple[list[Frame | None], str]:
    """Write squares one after the other. Return their frames, None where there is none, and their dtype.

    If one square is uint16, all are: 8-bit values are multiplied by 257.
    """
    frames: list[Frame | None] = []
    depths: list[np.dtype] = []
    with replacing(path, "wb") as file:
        for found in decoded:
            frames.append(found and found[1])
            if found is not None:
                depths.append(found[0].dtype)
                file.write(found[0].tobytes())
        depth = np.result_type(np.uint8, *set(depths))
        if len(set(depths)) > 1:
            file.flush()
            _widen(Path(file.name), file, size, depths, depth)
    return frames, depth.name


def _widen(path: Path, file: IO[bytes], size: int, depths: Sequence[np.dtype], depth: np.dtype) -> None:
    """Write squares of several dtypes again, all of one.

    Args:
        path: of the file of the squares.
        file: the same file, open for writing.
        size: side of a square in pixels.
        depths: dtype of each square.
        depth: the one dtype.
    """
    with tempfile.TemporaryFile(dir=path.parent) as wide:
        with open(path, "rb") as mixed:
            for own in depths:
                square = np.frombuffer(mixed.read(size**2 * own.itemsize), own)
                wide.write((square.astype(depth) * (257 if own != depth else 1)).tobytes())
        wide.seek(0)
        file.seek(0)
        shutil.copyfileobj(wide, file)
