"""Several processes that do one job, as torchrun starts them: their ranks, and what they exchange.

Without torchrun, or in a process group of one, every function here acts as for a single process. Nothing is sent, and
results are the same bits. Ranks count from 0.
"""

import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UserError

# Long timeout: other ranks wait here while rank 0 validates. A dead rank is detected by its closed connections, not by
# this timeout.
PATIENCE = timedelta(days=1)
_ENDED = "exit code"
# The job's store lives in torchrun's own process. It stays when torchrun starts the processes again.
_store: "dist.Store | None" = None  # pyright: ignore[reportPrivateImportUsage]
# The same store with separate keys for each start, because the addresses of ended processes stay in it.
_attempt: "dist.Store | None" = None  # pyright: ignore[reportPrivateImportUsage]


class _ToldToEnd(KeyboardInterrupt):
    """SIGTERM from torchrun. It is no Exception, so that no code mistakes it for a damaged file."""


def start() -> None:
    """Join the job that torchrun started this process for; do nothing without torchrun.

    From then on SIGTERM is an interrupt: torchrun sends it to the remaining processes when one has died. Only rank 0
    keeps its standard output.

    Raises:
        SystemExit: the job has already ended, with the exit code that `conclude` recorded.
    """
    global _store, _attempt
    if _joined() or not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        return
    _store, number, count = next(dist.rendezvous("env://"))  # pyright: ignore[reportPrivateImportUsage]
    if _store.check([_ENDED]):
        raise SystemExit(int(_store.get(_ENDED)))
    restart = os.environ["TORCHELASTIC_RESTART_COUNT"]
    _attempt = dist.PrefixStore(restart, _store)  # pyright: ignore[reportPrivateImportUsage]
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=_attempt, rank=number, world_size=count, timeout=PATIENCE)
    signal.signal(signal.SIGTERM, _told_to_end)
    _end_with_torchrun()
    if number:
        sys.stdout = open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")


def finish() -> None:
    """Ignore SIGTERM from now on. A process of a job calls this last, so that torchrun cannot interrupt its exit."""
    if _store is not None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def conclude(code: int) -> None:
    """Record that the job is done, with an exit code that another start would not change.

    Without this record, torchrun's --max-restarts would start the job again after every exit code but 0.

    Args:
        code: exit code of the job.
    """
    if _store is not None:
        _store.set(_ENDED, str(code))


def first_to_fail() -> bool:
    """Return whether this process is the first of its job to ask. That one reports why the job has ended."""
    if _attempt is None:
        return True
    try:
        return _attempt.add("failed", 1) == 1
    except RuntimeError:  # torchrun itself has ended
        return True


@contextmanager
def job(remedy: Callable[[], str]) -> Iterator[None]:
    """Turn the end of another process, or a request to end, into a UserError inside this block.

    Args:
        remedy: returns how to continue; the message ends with it.

    Raises:
        UserError: another process of the job has ended, or torchrun has asked this one to end.
    """
    try:
        yield
    except (_ToldToEnd, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _connection_lost(error):
            raise
        raise UserError(f"another process of this job has ended, or was told to: {remedy()}") from None


def world() -> int:
    """Return the number of processes of the job."""
    return dist.get_world_size() if _joined() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _joined() else 0


def local_processes() -> int:
    """Return how many processes of the job run on this machine and share its cores."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if _store is not None else 1


def leads() -> bool:
    """Return whether this process is rank 0, which alone validates, writes and reports."""
    return rank() == 0


def command(module: str) -> str:
    """Return the start of a command line that the user is to give again.

    Args:
        module: such as `fastsquid.train`.
    """
    return f"{'python' if world() == 1 else 'torchrun ...'} -m {module}"


def device(name: str) -> str:
    """Return the device of this process, if it is one of several: the CPU with gloo, or its own GPU with NCCL.

    Args:
        name: the option --device.

    Returns:
        `cpu`, or `cuda:N` with the number of the process on its machine.

    Raises:
        UserError: several processes cannot share the device, or there are fewer GPUs than processes.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if name not in ("auto", "cuda"):
        raise UserError(
            f"device {name!r} cannot be used by several processes: use cpu, or cuda, which gives each process its own "
            "GPU"
        )
    local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= there:
        raise UserError(
            f"this machine has {local_processes()} processes but {there} GPU{'s' * (there != 1)}: start one process "
            "per GPU, or use --device cpu"
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def barrier() -> None:
    """Wait for all processes."""
    if world() > 1:
        gather(None)  # over gloo, also where the job has GPUs


def gather(value: Any) -> list[Any]:
    """Return a value of every process, in the order of ranks.

    Args:
        value: of this process; anything that pickle can hold.
    """
    if world() == 1:
        return [value]
    values = [None] * world()
    dist.all_gather_object(values, value)
    return values


def any_of(flag: bool) -> bool:
    """Return whether a flag is true in any process."""
    return any(gather(flag)) if world() > 1 else flag


def part(batch: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a batch. The parts in the order of ranks are the batch.

    Args:
        batch: (B, ...).

    Returns:
        (B', ...), with B' = B / world() rounded up or down.
    """
    return batch.tensor_split(world())[rank()]


def weight(count: int) -> float:
    """Return the factor of this process's mean that makes the mean over processes the mean over all images.

    Args:
        count: number of images of this process.

    Returns:
        count * world() / the number of images of all processes; 1 for a single process.
    """
    return 1.0 if world() == 1 else count * world() / sum(gather(count))


def mean(values: torch.Tensor) -> torch.Tensor:
    """Return the mean over processes of a tensor of any shape."""
    return _Sum.apply(values) / world() if world() > 1 else values  # pyright: ignore[reportOperatorIssue]


def parallel(network: nn.Module) -> nn.Module:
    """Return a network as training calls it. With several processes every one gets the mean of their gradients.

    Each process keeps its own buffers. The memory queue is nevertheless the same in all of them. BatchNorm's running
    statistics follow the process's own images unless they are synchronized.
    """
    if world() == 1:
        return network
    # A memory with one bank has a dimension of size 1, whose stride has no meaning.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    with warnings.catch_warnings():  # PyTorch 2.13 renames broadcast_buffers to a name that 2.8 does not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(network, broadcast_buffers=False)


def synchronize_batchnorm(network: nn.Module, twice: bool = False) -> nn.Module:
    """Make BatchNorm use the statistics of all processes, in place. Parameters, buffers and names stay.

    PyTorch's own SyncBatchNorm is used where it works: it rejects CPUs and has no second derivative.

    Args:
        network: to change.
        twice: whether the second derivative is needed.

    Returns:
        the network.
    """
    if world() == 1:
        return network
    if next(network.parameters()).is_cuda and not twice:
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for layer in network.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = BatchNorm2d  # the same layer, with another forward
    return network


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that takes its training statistics over the images of all processes.

    Processes may have different numbers of images. It works on every device. A gradient penalty can differentiate it
    twice.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize a batch; half precision is normalized in float32.

        Args:
            x: (N, C, H, W).

        Returns:
            the same shape and dtype.
        """
        if not self.training:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = wide.new_tensor([x.numel() // x.shape[1]])
        sums: torch.Tensor = _Sum.apply(torch.cat([wide.sum((0, 2, 3)), count]))  # pyright: ignore[reportAssignmentType]
        total, count = sums.split([self.num_features, 1])
        mean = total / count
        centered = wide - mean[:, None, None]
        # From the deviations: E[x^2] - E[x]^2 would cancel.
        squares: torch.Tensor = _Sum.apply(centered.square().sum((0, 2, 3)))  # pyright: ignore[reportAssignmentType]
        variance = squares / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, in every one of them. Its gradient is such a sum too."""

    @staticmethod
    def forward(ctx, values):
        total = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return _Sum.apply(gradient)


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _end_with_torchrun() -> None:
    """Make the system send SIGTERM when torchrun is killed. Else this process would write beside its successor."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _told_to_end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise _ToldToEnd


def _connection_lost(error: RuntimeError) -> bool:
    """Return whether gloo or NCCL raised this error because another process has died."""
    return world() > 1 and (isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL")))
