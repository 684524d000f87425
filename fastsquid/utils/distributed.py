"""Several processes that train one run, as torchrun starts them: their ranks, and what they exchange.

Without torchrun, or in a process group of one, every function here acts as for a single process. Nothing is sent, and
results are the same bits. Ranks count from 0.
"""

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UserError


def start() -> None:
    """Join the processes that torchrun has started. From then on only rank 0 keeps its standard output."""
    if not _joined():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        store, number, count = next(dist.rendezvous("env://"))  # pyright: ignore
        # After a restart torchrun's store still has the addresses of the dead processes: look under other names.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)  # pyright: ignore
        # A long timeout: other ranks wait while rank 0 validates. Closed connections tell when a rank has died.
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=timedelta(days=1))
        if number:
            sys.stdout = open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")


def first_to_fail() -> bool:
    """Return whether this process is the first of its job to ask, which then says why the job has ended."""
    try:
        return not _joined() or dist.distributed_c10d._get_default_store().add("failed", 1) == 1
    except RuntimeError:  # torchrun itself has ended
        return True


@contextmanager
def job(remedy: Callable[[], str]) -> Iterator[None]:
    """Turn the end of another process into a UserError inside this block, and SIGTERM into KeyboardInterrupt.

    Args:
        remedy: returns how to continue; the message ends with it.

    Raises:
        UserError: another process of the job has ended.
    """
    if world() == 1:
        yield
        return
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)  # torchrun sends it when one has died
    try:
        yield
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this process ends by itself, and must first say why
        if connection_lost(error):
            raise UserError(f"another process of this job has ended: {remedy()}") from None
        raise
    signal.signal(signal.SIGTERM, handler)


def connection_lost(error: BaseException) -> bool:
    """Return whether gloo or NCCL raised this error because another process has died."""
    named = any(name in str(error) for name in ("gloo", "NCCL"))
    return world() > 1 and isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or named)


def world() -> int:
    """Return the number of processes of the job."""
    return dist.get_world_size() if _joined() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _joined() else 0


def leads() -> bool:
    """Return whether this process is rank 0, which alone validates, writes and reports."""
    return rank() == 0


def command(module: str) -> str:
    """Return the start of a command line that the user is to give again, for a module such as `fastsquid.train`."""
    return f"{'python' if world() == 1 else 'torchrun ...'} -m {module}"


def device(name: str) -> str:
    """Return the device that --device is for one of several processes: the CPU with gloo, or its own GPU with NCCL.

    Raises:
        UserError: several processes cannot share the device, or there are fewer GPUs than processes.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if name not in ("auto", "cuda"):
        raise UserError(f"several processes cannot share {name!r}: use --device cpu, or cuda for one GPU per process")
    local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= there:
        raise UserError(
            f"this machine has {os.environ['LOCAL_WORLD_SIZE']} processes but {there} GPU{'s' * (there != 1)}: start "
            "one process per GPU, or use --device cpu"
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def gather(value: Any) -> list[Any]:
    """Return a value of every process, in the order of ranks, when all have come here. It is pickled: not for steps."""
    values = [value] * world()
    if world() > 1:
        dist.all_gather_object(values, value)  # over gloo, also where the job has GPUs
    return values


def any_of(flag: bool) -> bool:
    """Return whether a flag is true in any process."""
    found = torch.tensor(int(flag))  # on the CPU: nobody waits for a GPU
    if world() > 1:
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def part(batch: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a batch (B, ...). The parts of all processes in order are the batch."""
    return batch.tensor_split(world())[rank()]


def mean(values: torch.Tensor) -> torch.Tensor:
    """Return the mean over processes of a tensor of any shape, which is overwritten."""
    if world() > 1:
        dist.all_reduce(values)
        values /= world()
    return values


def parallel(network: nn.Module) -> nn.Module:
    """Return a network as training calls it. With several processes every one gets the mean of their gradients.

    Each process keeps its own buffers: BatchNorm's running statistics follow its own images, unless they are
    synchronized. The memory queue is nevertheless the same in all processes.
    """
    if world() == 1:
        return network
    # A memory with one bank has a dimension of size 1, whose stride has no meaning.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    with warnings.catch_warnings():  # PyTorch 2.13 renames broadcast_buffers to a name that 2.8 does not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(network, broadcast_buffers=False)


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
