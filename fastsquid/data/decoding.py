"""Image files decoded beside what is done with them: in worker processes, batch after batch."""

import multiprocessing
import os
import signal
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError
from .dicom.read import read_patient
from .images import ImageError, read_image
from .names import content_name

# Up to so many files are decoded between batches instead of beside them: worker processes take two seconds to start.
MAX_WITHOUT_WORKERS = 256


class Decoded(NamedTuple):
    """What became of a file.

    Attributes:
        name: of the image.
        image: as `read_image` gives it, or None where it cannot be read.
        age: of the patient in years, or None.
        error: why it cannot be read, or "".
    """

    name: str
    image: np.ndarray | None
    age: float | None
    error: str


class _Files(Dataset):
    """`Decoded` of each of `files`, [(name, path)]."""

    def __init__(self, files, size, anonymous, crop):
        self.files, self.size, self.anonymous, self.crop = files, size, anonymous, crop

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        name, path = self.files[index]
        called = None
        if self.anonymous:
            name = called = content_name(path)
        try:
            image = read_image(path, self.size, called, self.crop)
        except ImageError as error:
            return Decoded(name, None, None, str(error))
        patient = read_patient(path)
        return Decoded(name, image, patient and patient.age, "")


def decoded(files, size, batch_size, anonymous=False, crop=False, processes=1):
    """Decodes image files in their order; many of them ahead of their use, in worker processes.

    Args:
        files: [(name, path)], the names being of any type, a path a Path or a `ShardFile`.
        size: side of the square images in pixels.
        batch_size: of the files, the last batch may hold fewer.
        anonymous: call images and files by what is in the files instead, in errors too; the same files alike.
        crop: as `read_image` takes it.
        processes: how many processes like this one share the machine's cores.

    Yields:
        batches, lists of `Decoded`.

    Raises:
        UserError: a worker process was killed.
    """
    workers = len(files) > MAX_WITHOUT_WORKERS
    loader = DataLoader(
        _Files(files, size, anonymous, crop),
        batch_size,
        num_workers=max(1, min(8, _cores() // processes)) if workers else 0,
        collate_fn=list,
        multiprocessing_context=_worker_context() if workers else None,
    )
    try:
        with _interrupt_waits() if workers else nullcontext():
            batches = iter(loader)
        yield from batches
    except RuntimeError as error:
        if not workers:
            raise
        # DataLoader's word for it; what is wrong with files is part of the batches.
        raise UserError(
            f"a process that decodes images has died ({error}), usually for want of memory: free some, or use a "
            "smaller --batch-size"
        ) from error


def _cores():
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _worker_context():
    """How workers start: never as forks of this process, which has threads. Only this process is to hear Ctrl-C."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver  # of systems that have it

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fastsquid.data.images"])  # and with it torch, once for all workers
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the server inherits, and its workers from it
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, handler)
    return context


@contextmanager
def _interrupt_waits():
    """Ctrl-C takes effect at the end of the block: workers that are left half-started would end in tracebacks."""
    pressed = []
    handler = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if pressed:
        raise KeyboardInterrupt
