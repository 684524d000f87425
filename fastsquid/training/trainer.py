"""One training iteration: losses and order of work of both papers (SQUID 3 and 4.4, SimSID 3 and 4)."""

import math
from typing import NamedTuple

import torch

from ..data.negatives import with_anomaly
from ..utils import distributed
from .ema import Average
from .losses import LOSSES, discriminator_loss, generator_loss, gradient_penalty, image_logits, negative_loss


class Networks(NamedTuple):
    """The two networks as a step calls them; the discriminator is None where the config has none."""

    generator: torch.nn.Module
    discriminator: torch.nn.Module | None


class Trainer:
    """Detector, optimizers and the order of work.

    In every iteration the discriminator steps, where there is one; in iterations 0, generator_every, ... the generator
    steps after it, against the updated discriminator, and commits its features to the memory queue. The teacher runs,
    and a generator graph is built, only in a pass that the generator's step uses. `average` is the `Average`, or None;
    `judge` is the detector that scores: the average's, or the one that trains.

    In several processes each steps on its own part of a batch; gradients, and so weights, are those of the whole.

    Args:
        detector: a `Detector`, on the device to train on.
        compile: run both networks through torch.compile.
        precision: `fp32`, or `bf16` for autocast of convolutions and projections; memory similarity, softmax,
            normalisation and losses are float32 in both.
    """

    def __init__(self, detector, compile=False, precision="fp32"):
        self.detector, self.config, self.compiled = detector, detector.config, compile
        self.device = next(detector.parameters()).device
        self.half = precision == "bf16"
        gpu = self.device.type == "cuda"
        if gpu:  # the layout of a GPU's convolutions
            detector.to(memory_format=torch.channels_last)
        if self.config.sync_batchnorm:
            distributed.synchronize_batchnorm(detector, twice=self.config.gradient_penalty > 0)
        self.eager = Networks(
            distributed.parallel(detector.generator),
            detector.discriminator and distributed.parallel(detector.discriminator),
        )
        self.generator, self.discriminator = self.eager
        if compile:
            self.generator = torch.compile(self.generator, dynamic=False)
            # torch.compile has no second derivative, and would change statistics that the penalty's pass has kept.
            if self.discriminator is not None and not self.config.gradient_penalty:
                self.discriminator = torch.compile(self.discriminator, dynamic=False)
        c = self.config
        self.generator_parameters = list(detector.generator.parameters())
        # A tensor as learning rate: a CUDA graph reads it anew in every replay.
        options = dict(
            lr=torch.tensor(c.lr, device=self.device) if gpu else c.lr,
            betas=(c.beta1, c.beta2),
            fused=self.device.type in ("cpu", "cuda"),
            capturable=gpu,
        )
        self.generator_optimizer = torch.optim.Adam(self.generator_parameters, weight_decay=c.weight_decay, **options)
        self.discriminator_optimizer = None
        if self.discriminator is not None:
            self.discriminator_optimizer = torch.optim.Adam(detector.discriminator.parameters(), **options)
        self.average = Average(detector, c.averaging) if c.averaging else None
        self.judge = detector if self.average is None else self.average.detector
        self.lungs = None  # where negatives may be drawn, as `with_anomaly` takes it

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the losses that steps of this configuration return, in a fixed order."""
        c = self.config
        given = {
            "discriminator": c.discriminator,
            "adversarial": c.discriminator,
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

    def step(self, images, iteration, eager=False):
        """One iteration.

        Args:
            images: (B, 1, H, W) in [0, 1], augmented; B may be 1.
            iteration: index of the batch in its epoch.
            eager: do without torch.compile, for a batch size that is not worth a compilation.

        Returns:
            dict of detached scalar losses by the names in `LOSSES`; the generator's only where it stepped. The mean of
            several processes' losses is that of the whole batch, also where their B differ.
        """
        networks = self.eager if eager else Networks(self.generator, self.discriminator)
        share = distributed.weight(len(images))
        images = self.detector.to_range(images)
        if self.device.type == "cuda":
            images = _channels_last(images)
        generator_steps = iteration % self.config.generator_every == 0
        shared = generator_steps and (self.config.order == "shared" or self.discriminator is None)
        losses, out = {}, self._generate(networks, images, teacher=True) if shared else None
        if self.discriminator is not None:
            losses["discriminator"] = self._step_discriminator(networks, images, out, share)
        if generator_steps:
            if not shared:
                out = self._generate(networks, images, teacher=True)
            logits = None if self.discriminator is None else self._judge(networks, out.student)
            loss, parts = generator_loss(self.config, images, out, logits)
            self.generator_optimizer.zero_grad()
            (share * loss).backward(inputs=self.generator_parameters)
            self.generator_optimizer.step()
            self.detector.generator.commit()
            if self.average is not None:
                self.average.update()
            losses.update(generator=loss.detach(), **parts)
        return {name: share * loss for name, loss in losses.items()}

    def _step_discriminator(self, networks, images, out, share):
        """D's step on the generator's pass `out`, or on one of its own where that is None; the loss."""
        if out is None:
            with torch.no_grad():
                out = self._generate(networks, images)
        penalty, weight = 0, self.config.gradient_penalty
        cells = self.config.discriminator_head == "cells"
        if weight:
            with self._autocast():
                penalty, real = gradient_penalty(networks.discriminator, images)
        else:
            real = self._judge(networks, images, cells)
        loss = discriminator_loss(self.config, image_logits(real), self._judge(networks, out.student.detach()))
        loss = loss + self.config.discriminator_weight * weight * penalty
        if self.config.negatives != "none":
            abnormal, masks = with_anomaly(self.config.negatives, self.detector.from_range(images), self.lungs)
            if self.config.value_range == "symmetric":
                abnormal = abnormal * 2 - 1
            logits = self._judge(networks, abnormal, cells)
            loss = loss + negative_loss(self.config, real, logits, masks)
        self.discriminator_optimizer.zero_grad()
        (share * loss).backward()
        self.discriminator_optimizer.step()
        return loss.detach()

    def _generate(self, networks, images, teacher=False):
        with self._autocast():
            return networks.generator(images, teacher=teacher)

    def _judge(self, networks, images, cells=False):
        # Images and reconstructions in one dtype and layout: each other one would be another graph to compile.
        if self.half:
            images = images.to(torch.bfloat16)
        if self.device.type == "cuda":
            images = _channels_last(images)
        with self._autocast():
            return networks.discriminator(images, cells=True) if cells else networks.discriminator(images)

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)


def _channels_last(images):
    """View images (B, 1, H, W) with the strides of channels_last, which one channel has no need to be copied for.

    `contiguous(memory_format=torch.channels_last)` would return them as they are, and the first convolution would take
    them for contiguous ones.
    """
    return images.reshape(len(images), *images.shape[2:], 1).permute(0, 3, 1, 2)


def _set_lr(optimizer, lr):
    for group in optimizer.param_groups:
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
