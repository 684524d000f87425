"""Image files decoded in batches, in worker processes, while the caller uses the batches before."""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError
from ..utils.threads import available_cores
from .dicom.kinds import NOTHING_ELSE, Accept
from .dicom.patients import warn_of_malformed_ages
from .filetypes import ImageFile
from .images import ImageError, gray_range, read_with_patient, warn_of_darkness
from .names import PATH_NAMES, Names

# Up to this many files are decoded between batches, without workers: worker processes take two seconds to start.
MAX_WITHOUT_WORKERS = 256


class Decoded(NamedTuple):
    """One decoded file.

    Attributes:
        name: the image's name, by `Names.image_and_file`.
        image: as `read_image` returns it, or None if the file cannot be read.
        picture: as `images.ReadImage` has it, or None.
        age, malformed_age: as a `Patient` has them.
        error: why the file cannot be read, or "".
    """

    name: Any
    image: np.ndarray | None
    picture: np.ndarray | None
    age: float | None
    malformed_age: bool
    error: str


class Decoder:
    """Decode image files to squares; a file that cannot be read gives its error.

    Args:
        size: side of the squares in pixels.
        names: how images are named.
        crop, accept: as `read_image` takes them.
        picture: as `images.read_with_patient` takes it.
    """

    def __init__(
        self, size: int, names: Names, crop: bool = False, picture: int = 0, accept: Accept = NOTHING_ELSE
    ) -> None:
        self.size, self.names, self.crop, self.picture, self.accept = size, names, crop, picture, accept

    def __call__(self, name: Any, path: ImageFile) -> Decoded:
        """Return a decoded file.

        Args:
            name: of the image, of any type.
            path: of its file.
        """
        name, title = self.names.image_and_file(name, path)
        try:
            read = read_with_patient(path, self.size, title, self.crop, self.picture, self.accept)
        except ImageError as error:
            return Decoded(name, None, None, None, False, str(error))
        age, malformed = (read.patient.age, read.patient.malformed_age) if read.patient else (None, False)
        return Decoded(name, read.square, read.picture, age, malformed, "")


class _Files(Dataset):
    """A `Decoded` for each of `files`, [(name, path)]."""

    def __init__(self, files: Sequence[tuple[Any, ImageFile]], decode: Decoder) -> None:
        self.files, self.decode = files, decode

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Decoded:
        return self.decode(*self.files[index])


def decoded(
    files: Sequence[tuple[Any, ImageFile]],
    size: int,
    batch_size: int,
    names: Names = PATH_NAMES,
    crop: bool = False,
    picture: int = 0,
    accept: Accept = NOTHING_ELSE,
) -> Iterator[list[Decoded]]:
    """Decode image files in order; more than `MAX_WITHOUT_WORKERS` of them ahead of use, in worker processes.

    Args:
        files: [(name, path)], names of any type, paths a Path or a `ShardFile`.
        size: side of the square images in pixels.
        batch_size: files per batch; the last batch may hold fewer.
        names: how images are named. Equal files may get equal names.
        crop, accept: as `read_image` takes them.
        picture: as `images.read_with_patient` takes it.

    Yields:
        batches, lists of `Decoded`.

    Raises:
        UserError: a worker process was killed.
    """
    workers = len(files) > MAX_WITHOUT_WORKERS
    loader = DataLoader(
        _Files(files, Decoder(size, names, crop, picture, accept)),
        batch_size,
        num_workers=min(8, available_cores()) if workers else 0,
        collate_fn=list,
        multiprocessing_context=_worker_context() if workers else None,
    )
    try:
        with _interrupt_waits() if workers else nullcontext():
            batches = iter(loader)
        ranges, malformed = [], 0
        for batch in batches:
            malformed += sum(item.malformed_age for item in batch)
            images = [item.image for item in batch if item.image is not None]
            ranges += [gray_range(image) for image in images]
            yield batch
    except RuntimeError as error:
        if not workers:
            raise
        # DataLoader says so when a worker dies. What is wrong with a file is in its `Decoded`.
        raise UserError(
            f"a process that decodes images has died ({error}), usually because memory ran out: free some memory, or "
            "use a smaller --batch-size"
        ) from error
    warn_of_darkness(ranges)
    warn_of_malformed_ages(malformed, len(files))


def _worker_context():
    """Return how workers start: never as forks of this process, which has threads. Workers ignore Ctrl-C."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver  # not on every system

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fastsquid.data.images"])  # and with it torch, once for all workers
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server inherits this, and its workers too
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, handler)
    return context


@contextmanager
def _interrupt_waits():
    """Delay Ctrl-C to the end of the block: half-started workers would end in tracebacks."""
    pressed = []
    handler = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if pressed:
        raise KeyboardInterrupt
