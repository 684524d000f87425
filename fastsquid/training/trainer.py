"""One training iteration: losses and order of steps of both papers (SQUID 3 and 4.4, SimSID 3 and 4)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from ..data.negatives import with_anomaly
from ..model.detector import Detector
from ..model.networks import Reconstruction
from ..utils import distributed
from .ema import Average
from .losses import LOSSES, discriminator_loss, generator_loss, gradient_penalty, image_logits, negative_loss

Compiled = TypeVar("Compiled", bound=Callable[..., Any])


class Networks(NamedTuple):
    """The two networks as a step calls them. The discriminator is None where the config has none."""

    generator: nn.Module
    discriminator: nn.Module | None


class Trainer:
    """A detector, its optimizers and the order of their steps.

    In every iteration the discriminator steps, where there is one. In iterations 0, generator_every, ... the generator
    steps after it, against the updated discriminator. Then it commits its features to the memory queue. The teacher
    runs only in a pass that the generator's step uses. A graph of the generator is built only in such a pass.

    With several processes each steps on its own part of a batch. Gradients, and so weights, are those of the whole
    batch.

    Args:
        detector: on the device to train on.
        compile: run both networks and the generator's loss through torch.compile.
        precision: `fp32`, or `bf16` for autocast of convolutions and projections. Memory similarity, softmax,
            normalization and losses are float32 in both.

    Attributes:
        average: the running mean of the discriminator, or None.
        evaluated: the detector that is validated and saved: the average's, or the one that trains.
        lungs: where synthetic anomalies may be drawn, as `with_anomaly` takes it, or None.
    """

    def __init__(self, detector: Detector, compile: bool = False, precision: str = "fp32") -> None:
        self.detector, self.config, self.compiled = detector, detector.config, compile
        self.device = next(detector.parameters()).device
        self.half = precision == "bf16"
        self.channels_last = self.device.type in ("cpu", "cuda")  # convolutions are faster in this layout
        if self.channels_last:
            detector.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if self.config.sync_batchnorm and distributed.world() > 1:
            nn.SyncBatchNorm.convert_sync_batchnorm(detector)
        self.eager = Networks(
            distributed.parallel(detector.generator),
            None if detector.discriminator is None else distributed.parallel(detector.discriminator),
        )
        self.generator, self.discriminator = self.eager
        self.generator_loss = generator_loss
        if compile:
            self.generator = _compiled(self.generator)
            # Its gradients keep the memory layout of the features. `mse_loss` in eager gives contiguous ones.
            self.generator_loss = _compiled(generator_loss)
            # torch.compile has no second derivative. It would also change statistics that the penalty's pass has kept.
            if self.discriminator is not None and not self.config.gradient_penalty:
                self.discriminator = _compiled(self.discriminator)
        c = self.config
        parameters = list(detector.generator.parameters())
        self.generator_parameters = [p for p in parameters if p.requires_grad]
        # All of them: the optimizer numbers its parameters, and checkpoints of earlier versions have moments of each.
        self.generator_optimizer = self._adam(parameters, c.weight_decay)
        self.discriminator_optimizer = None
        if detector.discriminator is not None:
            self.discriminator_optimizer = self._adam(list(detector.discriminator.parameters()))
        self.average = Average(detector, c.averaging) if c.averaging else None
        self.evaluated = detector if self.average is None else self.average.detector
        self.lungs = None

    def _adam(self, parameters: list[nn.Parameter], weight_decay: float = 0.0) -> torch.optim.Adam:
        c, gpu = self.config, self.device.type == "cuda"
        return torch.optim.Adam(
            parameters,
            # A tensor on a GPU: a CUDA graph reads it again in every replay.
            lr=torch.tensor(c.lr, device=self.device) if gpu else c.lr,
            betas=(c.beta1, c.beta2),
            weight_decay=weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
            capturable=gpu,
        )

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the losses that steps of this configuration return, in a fixed order."""
        c = self.config
        given = {
            "discriminator": c.discriminator,
            "adversarial": c.rejects,
            "teacher": c.distillation,
            "distillation": c.distillation,
            "entropy": c.entropy_weight > 0,
        }
        return tuple(name for name in LOSSES if given.get(name, True))

    def loss_counts(self, steps: int) -> dict[str, int]:
        """Return how many of an epoch's first `steps` steps returned each loss."""
        generator_steps = -(-steps // self.config.generator_every)
        return {name: steps if name == "discriminator" else generator_steps for name in self.loss_names}

    def learning_rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, from 0: a cosine from lr to lr_final over the run."""
        c = self.config
        return c.lr_final + (c.lr - c.lr_final) * (1 + math.cos(math.pi * epoch / c.epochs)) / 2

    def set_epoch(self, epoch: int) -> None:
        """Set the optimizers' learning rates for an epoch, from 0."""
        c, lr = self.config, self.learning_rate(epoch)
        _set_lr(self.generator_optimizer, lr)
        if self.discriminator_optimizer is not None:
            _set_lr(self.discriminator_optimizer, lr if c.decay_discriminator else c.lr)

    def step(
        self, images: torch.Tensor, iteration: int, eager: bool = False, whole: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Run one iteration.

        Args:
            images: (B, 1, H, W) in [0, 1], augmented; B may be 1.
            iteration: index of the batch in its epoch.
            eager: run without torch.compile, for a batch size too rare to compile for.
            whole: number of images of the batch in all processes; None if every process has B of them.

        Returns:
            detached scalar losses by the names in `LOSSES`; the generator's only if it stepped. The mean over
            processes of these losses is the loss of the whole batch, also where their B differ.
        """
        networks = self.eager if eager else Networks(self.generator, self.discriminator)
        # Turns the mean over processes, which gradients and losses become, into the mean over all images.
        share = 1.0 if whole is None else len(images) * distributed.world() / whole
        images = self.detector.to_range(images)
        if self.channels_last:
            images = _channels_last(images)
        generator_steps = iteration % self.config.generator_every == 0
        shared = generator_steps and (self.config.order == "shared" or self.discriminator is None)
        losses: dict[str, torch.Tensor] = {}
        out = self._generate(networks, images, teacher=True) if shared else None
        if self.discriminator is not None:
            losses["discriminator"] = self._step_discriminator(networks, images, out, share)
        if generator_steps:
            if out is None:
                out = self._generate(networks, images, teacher=True)
            logits = self._logits(networks, out.student) if self.config.rejects else None
            loss, parts = (generator_loss if eager else self.generator_loss)(self.config, images, out, logits)
            self.generator_optimizer.zero_grad()
            (share * loss).backward(inputs=self.generator_parameters)
            self.generator_optimizer.step()
            self.detector.generator.commit()
            if self.average is not None:
                self.average.update()
            losses.update(generator=loss.detach(), **parts)
        return {name: share * loss for name, loss in losses.items()}

    def _step_discriminator(
        self, networks: Networks, images: torch.Tensor, out: Reconstruction | None, share: float
    ) -> torch.Tensor:
        """Step the discriminator and return its loss.

        It sees the reconstructions of the generator's pass `out`, or of a new pass if that is None. If it does not
        learn to reject reconstructions, it sees none, and the generator does not run.
        """
        assert networks.discriminator is not None and self.discriminator_optimizer is not None
        if out is None and self.config.reject_reconstructions:
            with torch.no_grad():
                out = self._generate(networks, images)
        penalty, weight = 0, self.config.gradient_penalty
        cells = self.config.discriminator_head == "cells"
        if weight:
            with self._autocast():
                penalty, real = gradient_penalty(networks.discriminator, images)
        else:
            real = self._logits(networks, images, cells)
        fake = None
        if out is not None and self.config.reject_reconstructions:  # cells too: no graph of its own to compile
            fake = image_logits(self._logits(networks, out.student.detach(), cells))
        loss = discriminator_loss(self.config, image_logits(real), fake)
        loss = loss + self.config.discriminator_weight * weight * penalty
        if self.config.negatives != "none":
            abnormal, masks = with_anomaly(self.config.negatives, self.detector.from_range(images), self.lungs)
            if self.config.value_range == "symmetric":
                abnormal = abnormal * 2 - 1
            logits = self._logits(networks, abnormal, cells)
            loss = loss + negative_loss(self.config, real, logits, masks)
        self.discriminator_optimizer.zero_grad()
        (share * loss).backward()
        self.discriminator_optimizer.step()
        return loss.detach()

    def _generate(self, networks: Networks, images: torch.Tensor, teacher: bool = False) -> Reconstruction:
        with self._autocast():
            return networks.generator(images, teacher=teacher)

    def _logits(self, networks: Networks, images: torch.Tensor, cells: bool = False) -> torch.Tensor:
        assert networks.discriminator is not None
        # Images and reconstructions get one dtype and layout: each other one would be another graph to compile.
        if self.half:
            images = images.to(torch.bfloat16)
        if self.channels_last:
            images = _channels_last(images)
        with self._autocast():
            return networks.discriminator(images, cells=True) if cells else networks.discriminator(images)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)


def _compiled(function: Compiled) -> Compiled:
    return torch.compile(function, dynamic=False)  # pyright: ignore[reportReturnType]  # a module gives a module


def _channels_last(images: torch.Tensor) -> torch.Tensor:
    """View images (B, 1, H, W) with the strides of channels_last. One channel needs no copy for this.

    `contiguous(memory_format=torch.channels_last)` would return them unchanged. The first convolution would then treat
    them as contiguous.
    """
    return images.reshape(len(images), *images.shape[2:], 1).permute(0, 3, 1, 2)


def _set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate; a tensor is filled in place, for CUDA graphs."""
    for group in optimizer.param_groups:
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
