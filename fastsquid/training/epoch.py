"""The steps of one epoch. Images, augmentation, losses and their check stay on the device."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from ..data.augment import augment, change_appearance
from ..data.images import to_unit
from ..errors import DivergedError
from ..utils import distributed
from .trainer import Trainer

# A step runs this often before it is captured as a CUDA graph: it is compiled, and its memory settles.
WARM_UP = 3


class Steps:
    """Run training steps on batches of images that are on the device.

    The host only queues work. The device sums the losses, and notes the first step with a loss that is not finite. The
    host reads both once per epoch. Where the trainer is compiled for a GPU, a step on a whole batch becomes a CUDA
    graph. There are two: with and without the generator's step. A smaller last batch runs eager, neither compiled nor
    captured.

    Several processes share each batch that a single process would have. Each takes its part, in the order of ranks,
    and draws its own random numbers. They capture no CUDA graphs.

    Args:
        trainer: whose steps run.
        images: uint8 or uint16 (N, 1, H, W), or float32 in [0, 1], on the trainer's device.
    """

    def __init__(self, trainer: Trainer, images: torch.Tensor) -> None:
        self.trainer, self.config = trainer, trainer.config
        device = images.device
        # CUDA cannot index uint16: view the same bits as int16.
        self.sixteen_bit = images.dtype == torch.uint16
        self.images = images.view(torch.int16) if self.sixteen_bit else images
        self.whole = min(self.config.batch_size, len(images))
        self.names = trainer.loss_names
        self.sums = torch.zeros(len(self.names), device=device)
        self.done = torch.zeros((), dtype=torch.int64, device=device)  # steps of this epoch
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.bad_losses = torch.zeros(len(self.names), device=device)
        self.loss: float | None = None  # as the GPU last reported it, by way of `report`, which is filled at `reported`
        self.report = torch.zeros(2, dtype=torch.float64, pin_memory=device.type == "cuda")
        self.reported: torch.cuda.Event | None = None
        captures = trainer.compiled and device.type == "cuda" and distributed.world() == 1
        self.graphs: dict[bool, _Captured] | None = {} if captures else None
        self.stream = torch.cuda.Stream(device) if self.graphs is not None else None

    @property
    def per_epoch(self) -> int:
        """Number of steps per epoch. A last batch with fewer images than processes is left out."""
        count, size = len(self.images), self.config.batch_size
        return count // size + (count % size >= distributed.world() if count % size else 0)

    def begin(
        self, seed: int, epoch: int, iteration: int = 0, sums: dict[str, float] | None = None
    ) -> list[tuple[torch.Tensor, int, int]]:
        """Begin an epoch, or resume it.

        Args:
            seed: of the training. It gives every epoch its own order and every step its own seed, so a resumed
                training needs no random state.
            epoch: from 0.
            iteration: number of steps of the epoch that are done.
            sums: {name: sum} of their losses.

        Returns:
            the arguments (batch, iteration, seed) of the remaining calls of `run`. A batch is indices of images, of
            all processes. A last batch with fewer images than processes is left out.
        """
        sums = sums or {}
        self.trainer.detector.train()
        self.sums.copy_(torch.tensor([sums.get(name, 0.0) for name in self.names]))
        self.done.fill_(iteration)
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(_mixed(seed, epoch)))
        batches = order.to(self.images.device).split(self.config.batch_size)
        batches = [batch for batch in batches if len(batch) >= distributed.world()]
        own = [distributed.rank()] if distributed.rank() else []  # rank 0 draws what a single process would
        return [(batch, i, _mixed(seed, epoch, i, *own)) for i, batch in enumerate(batches)][iteration:]

    def epoch(self, seed: int, epoch: int, iteration: int = 0, sums: dict[str, float] | None = None) -> Iterator[None]:
        """Set the learning rate and run the remaining steps of an epoch; yield after each.

        Args:
            seed, epoch, iteration, sums: as for `begin`.
        """
        self.trainer.set_epoch(epoch)
        for step in self.begin(seed, epoch, iteration, sums):
            self.run(*step)
            yield

    def require_finite(self, epoch: int, remedy: str) -> None:
        """Check that all losses of the epoch are finite. This waits for the device.

        Args:
            epoch: from 0.
            remedy: the end of the message.

        Raises:
            DivergedError: a loss is not finite.
        """
        broken = self.broken()
        if broken is not None:
            step, name, value = broken
            raise DivergedError(
                f"the {name} loss is {value} at step {step + 1} of epoch {epoch + 1}: training stopped; {remedy}"
            )

    def run(self, batch: torch.Tensor, iteration: int, seed: int) -> None:
        """Run one step on images[batch], or on this process's part of them.

        Args:
            batch: indices of images, int64 (B,), the same in all processes.
            iteration: index of the step in its epoch.
            seed: of all random numbers of the step.
        """
        torch.manual_seed(seed)
        images = self.images[distributed.part(batch)]
        images = images.view(torch.uint16) if self.sixteen_bit else images
        odd = self.trainer.compiled and len(batch) != self.whole
        if self.graphs is None or self.stream is None or odd:
            self._step(images, iteration, odd, len(batch))
            return
        generator_steps = iteration % self.config.generator_every == 0
        if generator_steps not in self.graphs:
            captured = _Captured(lambda images: self._step(images, 0 if generator_steps else 1), self.stream)
            self.graphs[generator_steps] = captured
        self.graphs[generator_steps](images)

    def totals(self, iteration: int) -> tuple[dict[str, float], dict[str, int]]:
        """Return {loss: sum} and {loss: number of steps} over the epoch's first `iteration` steps.

        This waits for the device.
        """
        counts = {name: count for name, count in self.trainer.loss_counts(iteration).items() if count}
        sums = dict(zip(self.names, self.sums.tolist()))
        return {name: sums[name] for name in counts}, counts

    def loss_so_far(self) -> float | None:
        """Return the mean loss of the generator over this epoch's steps, as the device last reported it, or None.

        This never waits for the device: on a GPU the number is that of a few steps ago.
        """
        index = self.names.index("generator")
        if self.sums.device.type != "cuda":
            return self._mean(float(self.sums[index]), int(self.done))
        if self.reported is None or self.reported.query():
            if self.reported is not None:
                total, done = self.report.tolist()
                self.loss = self._mean(total, int(done))
            # Both are doubles: a count of steps is exact, and so is a float32 sum.
            self.report.copy_(torch.stack([self.sums[index].double(), self.done.double()]), non_blocking=True)
            self.reported = torch.cuda.Event()
            self.reported.record()
        return self.loss

    def _mean(self, total: float, steps: int) -> float | None:
        count = self.trainer.loss_counts(steps)["generator"]
        return total / count if count else None

    def broken(self) -> tuple[int, str, float] | None:
        """Return (step from 0, name, value) of the first loss that was not finite, or None.

        This waits for the device.
        """
        step = int(self.bad_step.item())
        if step < 0:
            return None
        values = self.bad_losses.tolist()
        index = int((~torch.isfinite(self.bad_losses)).int().argmax())
        return step, self.names[index], values[index]

    def _step(self, images: torch.Tensor, iteration: int, eager: bool = False, whole: int | None = None) -> None:
        c = self.config
        augmented = augment(to_unit(images), c.shift, c.zoom, c.rotation, c.closer)
        if c.appearance:
            augmented = change_appearance(augmented, c.appearance)
        losses = self.trainer.step(augmented, iteration, eager, whole)
        zero = torch.zeros((), device=self.sums.device)
        values = torch.stack([losses[name].float() if name in losses else zero for name in self.names])
        values = distributed.mean(values)  # the same in every process
        first = (self.bad_step < 0) & ~values.isfinite().all()
        self.bad_step.copy_(torch.where(first, self.done, self.bad_step))
        self.bad_losses.copy_(torch.where(first, values, self.bad_losses))
        self.sums += values
        self.done += 1


def _mixed(*numbers: int) -> int:
    """Return a 64-bit seed made from non-negative integers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


class _Captured:
    """A function of one tensor that becomes a CUDA graph after `WARM_UP` calls, all on one side stream."""

    def __init__(self, function: Callable[[torch.Tensor], None], stream: torch.cuda.Stream) -> None:
        self.function, self.stream, self.calls = function, stream, 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, x: torch.Tensor) -> None:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            if self.graph is None and self.calls < WARM_UP:
                self.calls += 1
                self.function(x)
            else:
                if self.graph is None:
                    self.input, self.graph = x.clone(), torch.cuda.CUDAGraph()
                    with torch.cuda.graph(self.graph, stream=self.stream):
                        self.function(self.input)
                self.input.copy_(x)
                self.graph.replay()
        torch.cuda.current_stream().wait_stream(self.stream)
        x.record_stream(self.stream)
