"""Several processes that do one job, as torchrun starts them: who is who, and what they tell each other.

Without torchrun, or with a process group of one, every function here is that of a process alone: nothing is sent, and
results are the same bits. Processes are counted from 0, by `rank`.
"""

import ctypes
import os
import signal
import sys
import warnings
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UserError

# While process 0 validates, the others wait; that one has died is told by its closed connections, not by this.
PATIENCE = timedelta(days=1)
_ENDED = "exit code"
_store = None  # of the job, in torchrun's own process, which keeps it when it starts processes again
_attempt = None  # the same, with keys of its own for each start: the addresses of processes that are gone stay there


class _ToldToEnd(KeyboardInterrupt):  # which no code takes for a damaged file
    pass


def start():
    """Joins the job that torchrun has started this process for, if it has; only process 0 says what all would say.

    From then on SIGTERM, by which torchrun ends the processes that are left when one has died, is an interrupt.
    """
    global _store, _attempt
    if _joined() or not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        return
    _store, number, count = next(dist.rendezvous("env://"))
    if _store.check([_ENDED]):
        raise SystemExit(int(_store.get(_ENDED)))
    _attempt = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], _store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=_attempt, rank=number, world_size=count, timeout=PATIENCE)
    signal.signal(signal.SIGTERM, _told_to_end)
    _end_with_torchrun()
    if number:
        sys.stdout = open(os.devnull, "w")


def finish():
    """The last thing before a process of a job exits: torchrun's SIGTERM would only interrupt its tidying up."""
    if _store is not None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def conclude(code):
    """The job is done and ends with this exit code, which another start would not change: torchrun's --max-restarts
    takes everything but 0 for a reason to do it all again."""
    if _store is not None:
        _store.set(_ENDED, str(code))


def first_to_fail():
    """Whether this process is the first of its job to ask this: the one that says why the job has ended."""
    if _store is None:
        return True
    try:
        return _attempt.add("failed", 1) == 1
    except RuntimeError:  # torchrun itself is gone
        return True


@contextmanager
def job(remedy):
    """In this block the end of another process, or being told to end, is a UserError with `remedy()`, how to go on."""
    try:
        yield
    except (_ToldToEnd, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _connection_lost(error):
            raise
        raise UserError(f"another process of this job has ended, or was told to: {remedy()}") from None


def world():
    """How many processes the job has."""
    return dist.get_world_size() if _joined() else 1


def rank():
    """Which of them this is, from 0."""
    return dist.get_rank() if _joined() else 0


def neighbours():
    """How many of them are on this machine, and share its cores."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if _store is not None else 1


def leads():
    """Whether this process alone validates, writes and reports."""
    return rank() == 0


def command(module):
    """How a command line begins that is to be given again."""
    return f"{'python' if world() == 1 else 'torchrun ...'} -m {module}"


def device(name):
    """The device option of one of several processes: that of its own number on its machine, gloo's CPU or NCCL's GPU.

    Raises:
        UserError: a device that several processes cannot share, or fewer GPUs than processes.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if name not in ("auto", "cuda"):
        raise UserError(f"device {name!r} is not for several processes: use cpu, or cuda, of which each takes its own")
    local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= there:
        raise UserError(
            f"this machine has {neighbours()} processes but {there} GPU{'s' * (there != 1)}: start "
            "one process a GPU, or use --device cpu"
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def barrier():
    """Waits for all processes."""
    if world() > 1:
        gather(None)  # over gloo also where the job has GPUs


def gather(value):
    """Any value of every process: a list in the processes' order."""
    if world() == 1:
        return [value]
    values = [None] * world()
    dist.all_gather_object(values, value)
    return values


def any_of(flag):
    """Whether it is true in any process."""
    return any(gather(flag)) if world() > 1 else flag


def part(batch):
    """This process's share of a batch (B, ...): the processes' shares, one after the other, are the batch."""
    return batch.tensor_split(world())[rank()]


def weight(count):
    """What the mean over this process's `count` images counts in the processes' mean, which is then that over all."""
    return 1.0 if world() == 1 else count * world() / sum(gather(count))


def mean(values):
    """The processes' mean of a tensor, without gradients."""
    return _Sum.apply(values) / world() if world() > 1 else values


def parallel(network):
    """The network as training calls it: in several processes its gradients become their mean, in every one of them.

    Buffers stay each process's own: the queue is the same in all without, and BatchNorm's running statistics follow
    the process's own images unless they are synchronised.
    """
    if world() == 1:
        return network
    # Of memories with one bank: a stride of a dimension of one, which is none.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    with warnings.catch_warnings():  # PyTorch 2.13 has another name for broadcast_buffers, which 2.6 does not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(network, broadcast_buffers=False)


def synchronize_batchnorm(network, twice=False):
    """Makes BatchNorm take its statistics over all processes, in place; parameters, buffers and names stay.

    PyTorch's own where it can: it refuses CPUs, and has no second derivative.

    Args:
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
    """BatchNorm whose statistics in training are those of all processes' images, whatever each one's number of them.

    On every device, and as often differentiable as the sums over processes: twice for a gradient penalty.
    """

    def forward(self, x):
        """(N, C, H, W) -> the same shape and dtype; half precision is normalised in float32."""
        if not self.training:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = wide.new_tensor([x.numel() // x.shape[1]])
        total, count = _Sum.apply(torch.cat([wide.sum((0, 2, 3)), count])).split([self.num_features, 1])
        mean = total / count
        centred = wide - mean[:, None, None]
        # From the deviations, not from E[x^2] - E[x]^2, which would cancel.
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, in every one of them; its gradient is such a sum too."""

    @staticmethod
    def forward(ctx, values):
        total = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return _Sum.apply(gradient)


def _joined():
    return dist.is_available() and dist.is_initialized()


def _end_with_torchrun():
    """Has the system send SIGTERM when torchrun is killed: whoever goes on meanwhile writes beside its successor."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _told_to_end(number, frame):
    signal.signal(number, signal.SIG_IGN)
    raise _ToldToEnd


def _connection_lost(error):
    """Whether an error is what gloo or NCCL say where another process has died."""
    return world() > 1 and (isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL")))
