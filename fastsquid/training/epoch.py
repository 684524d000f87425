"""Training steps without a word to the host: images, augmentation, losses and their check stay on the device."""

from collections.abc import Iterator

import numpy as np
import torch

from ..data.augment import augment, change_appearance
from ..data.images import to_unit
from ..errors import DivergedError
from ..utils import distributed

# A step runs this often as it is, which compiles it and lets its memory settle, before it is captured.
WARM_UP = 3


class Steps:
    """Runs training steps on batches of images that live on the device.

    The host only queues work: losses are summed on the device, and the first step with a loss that is not finite is
    noted there, to be read once an epoch. Where the trainer is compiled for a GPU, a step on a whole batch becomes one
    CUDA graph, and one more with the generator's step. A smaller last batch runs eager, neither compiled nor captured.

    Several processes share every batch of a process alone: each takes its part, in their order, and draws by itself.

    Args:
        trainer: a `Trainer`.
        images: uint8 or uint16 (N, 1, H, W), or float32 in [0, 1], on the trainer's device.
    """

    def __init__(self, trainer, images):
        self.trainer, self.config = trainer, trainer.config
        device = images.device
        # The same bits: CUDA cannot index uint16.
        self.sixteen_bit = images.dtype == torch.uint16
        self.images = images.view(torch.int16) if self.sixteen_bit else images
        self.whole = min(self.config.batch_size, len(images))
        self.names = trainer.loss_names
        self.sums = torch.zeros(len(self.names), device=device)
        self.done = torch.zeros((), dtype=torch.int64, device=device)  # steps of this epoch
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.bad_losses = torch.zeros(len(self.names), device=device)
        self.graphs = {} if trainer.compiled and device.type == "cuda" else None
        self.stream = torch.cuda.Stream(device) if self.graphs is not None else None

    @property
    def per_epoch(self) -> int:
        """Number of steps in an epoch. A last batch of fewer images than processes is left out."""
        count, size = len(self.images), self.config.batch_size
        return count // size + (count % size >= distributed.world() if count % size else 0)

    def begin(self, seed, epoch, iteration=0, sums=None):
        """Begins an epoch, or goes on with it.

        Args:
            seed: of the training; with it every epoch has an order of its own, and every step a seed of its own, so
                that a training which goes on needs no random state.
            epoch: from 0.
            iteration: steps of the epoch that are done.
            sums: {name: sum} of their losses.

        Returns:
            the calls of `run` that are left, a list of (batch, iteration, seed). A last batch of fewer images than
            processes is left out.
        """
        sums = sums or {}
        self.trainer.detector.train()
        self.sums.copy_(torch.tensor([sums.get(name, 0.0) for name in self.names]))
        self.done.fill_(iteration)
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(_mixed(seed, epoch)))
        batches = order.to(self.images.device).split(self.config.batch_size)
        batches = [distributed.part(batch) for batch in batches if len(batch) >= distributed.world()]
        own = [distributed.rank()] if distributed.rank() else []  # process 0 draws what a process alone would
        return [(batch, i, _mixed(seed, epoch, i, *own)) for i, batch in enumerate(batches)][iteration:]

    def epoch(self, seed: int, epoch: int, iteration: int = 0, sums: dict[str, float] | None = None) -> Iterator[None]:
        """Set the learning rate and run the steps that are left of an epoch; yield after each.

        Args:
            seed, epoch, iteration, sums: as for `begin`.
        """
        self.trainer.set_epoch(epoch)
        for step in self.begin(seed, epoch, iteration, sums):
            self.run(*step)
            yield

    def require_finite(self, epoch: int, remedy: str) -> None:
        """Raise a DivergedError if a loss of the epoch was not finite; this waits for the device.

        Args:
            epoch: from 0.
            remedy: how the message ends.
        """
        broken = self.broken()
        if broken is not None:
            step, name, value = broken
            raise DivergedError(
                f"the {name} loss is {value} at step {step + 1} of epoch {epoch + 1}: training stopped; {remedy}"
            )

    def run(self, batch, iteration, seed):
        """One step on images[batch]; everything that it draws comes from `seed`."""
        torch.manual_seed(seed)
        images = self.images[batch]
        images = images.view(torch.uint16) if self.sixteen_bit else images
        odd = self.trainer.compiled and len(batch) != self.whole
        if self.graphs is None or odd:
            self._step(images, iteration, eager=odd)
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

    def broken(self):
        """(step from 0, name, value) of the first loss that was not finite, or None; waits for the device."""
        step = self.bad_step.item()
        if step < 0:
            return None
        values = self.bad_losses.tolist()
        index = int((~torch.isfinite(self.bad_losses)).int().argmax())
        return step, self.names[index], values[index]

    def _step(self, images, iteration, eager=False):
        c = self.config
        augmented = augment(to_unit(images), c.shift, c.zoom, c.rotation, c.closer)
        if c.appearance:
            augmented = change_appearance(augmented, c.appearance)
        losses = self.trainer.step(augmented, iteration, eager)
        zero = torch.zeros((), device=self.sums.device)
        values = torch.stack([losses[name].float() if name in losses else zero for name in self.names])
        values = distributed.mean(values)  # every process knows of every loss
        first = (self.bad_step < 0) & ~values.isfinite().all()
        self.bad_step.copy_(torch.where(first, self.done, self.bad_step))
        self.bad_losses.copy_(torch.where(first, values, self.bad_losses))
        self.sums += values
        self.done += 1


def _mixed(*numbers):
    """A 64-bit seed from several non-negative integers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


class _Captured:
    """A function of one tensor that becomes a CUDA graph after `WARM_UP` calls; all of them on one side stream."""

    def __init__(self, function, stream):
        self.function, self.stream, self.calls, self.graph = function, stream, 0, None

    def __call__(self, x):
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
