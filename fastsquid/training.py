"""One training iteration: losses and order of work of both papers (SQUID 3 and 4.4, SimSID 3 and 4)."""

import copy
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from . import distributed
from .data.negatives import with_anomaly
from .networks import soft_minimum

# An anomaly of this strength or more is one for the cell's target.
CLEAR = 0.35

# What a step reports: the two that are stepped on, and the generator's unweighted parts.
LOSSES = ("discriminator", "generator", "student", "adversarial", "teacher", "distillation", "entropy")


def generator_loss(config, images, out, logits=None):
    """Loss of the generator, and its parts.

    10 MSE(student) + 0.01 MSE(teacher) + 0.001 sum over levels of MSE(teacher level, student level) +
    0.005 BCE(D(student), 1), with the config's weights; of those parts that the config has, and plus MemAE's entropy
    of the memory's weights (Gong et al., ICCV 2019, section 3.4) where it is weighed. The distillation term stops no
    gradient.

    Args:
        images: (B, 1, H, W) in the model's value range.
        out: the `Reconstruction` of a pass with teacher.
        logits: D's logits (B,) on the student's image; None without a discriminator.

    Returns:
        scalar loss, and a dict of its detached unweighted parts.
    """
    parts = {"student": F.mse_loss(_wide(out.student), images)}
    loss = config.student_weight * parts["student"]
    if logits is not None:
        parts["adversarial"] = _entropy(logits, 1.0)
        loss = loss + config.adversarial_weight * parts["adversarial"]
    if out.entropy is not None:
        parts["entropy"] = out.entropy
        loss = loss + config.entropy_weight * parts["entropy"]
    if out.teacher is not None:
        parts["teacher"] = F.mse_loss(_wide(out.teacher), images)
        levels = zip(out.teacher_levels, out.student_levels)
        parts["distillation"] = sum(F.mse_loss(_wide(t), _wide(s)) for t, s in levels)
        loss = loss + config.teacher_weight * parts["teacher"] + config.distillation_weight * parts["distillation"]
    return loss, {name: part.detach() for name, part in parts.items()}


def discriminator_loss(config, real, fake):
    """0.005 (BCE(D(image), 1) + BCE(D(student), 0)), logits (B,) of two separate passes; a scalar."""
    return config.discriminator_weight * (_entropy(real, 1.0) + _entropy(fake, 0.0))


def negative_loss(config, real, negative, masks):
    """Loss of the discriminator on healthy images with a synthetic anomaly, a scalar with the config's weights.

    BCE(D(image with anomaly), 0), and where D has cells their BCE: the target of a healthy cell is 1, that
    of another falls to 0 with the strength of the anomaly in it.

    Args:
        real: D's logits on healthy images, (B,), or of their cells, (B, side, side).
        negative: the same of the images with an anomaly.
        masks: (B, 1, H, H) in [0, 1], how strong the anomaly is at each pixel.
    """
    loss = config.negative_weight * _entropy(_image_logits(negative), 0.0)
    if negative.ndim == 3:
        real, negative = _wide(real), _wide(negative)
        targets = 1 - (F.adaptive_max_pool2d(masks, negative.shape[-1])[:, 0] / CLEAR).clamp(0, 1)
        loss = loss + config.cell_weight * (
            F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
            + F.binary_cross_entropy_with_logits(negative, targets)
        )
    return config.discriminator_weight * loss


def _image_logits(logits):
    """Logits of images (B,), also from those of their cells (B, side, side)."""
    return soft_minimum(_wide(logits)) if logits.ndim == 3 else logits


def gradient_penalty(discriminator, real):
    """Half the squared gradient of D's logits at real images, its mean over the batch, and the logits (B,).

    Source: R1 of Mescheder et al., ICML 2018, section 4.1.
    """
    real = real.detach().requires_grad_()
    logits = discriminator(real)
    (gradient,) = torch.autograd.grad(_wide(logits).sum(), real, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean() / 2, logits


def _wide(x):
    """Half precision -> float32, in which losses are summed."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _entropy(logits, target):
    logits = _wide(logits)
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


class Average:
    """A detector whose discriminator is the running mean of another's, which swings from step to step.

    The mean begins with the untrained discriminator, of which decay^n is left after n updates. The generator is the
    other's as of the latest update: averaged weights that still change fast would need BatchNorm statistics of their
    own, and draw nothing with averaged ones.

    Args:
        detector: a `Detector`, whose discriminator is the first mean.
        decay: part of the mean that an update keeps, in [0, 1).
        prefix: of the names of the tensors that are averaged.

    Source: ours, after Polyak and Juditsky's averaging of iterates, 1992.
    """

    def __init__(self, detector, decay, prefix="discriminator."):
        self.detector, self.decay = copy.deepcopy(detector).requires_grad_(False), decay
        mine, theirs = self.detector.state_dict(), detector.state_dict()
        # Spectral norm's vectors have length 1, which a mean of them has not.
        averaged = [
            name
            for name, tensor in theirs.items()
            if name.startswith(prefix) and tensor.is_floating_point() and not name.endswith(("_u", "_v"))
        ]
        # Training writes every tensor in place, so that these lists hold for the whole run.
        self.averaged = [mine[name] for name in averaged], [theirs[name] for name in averaged]
        copied = {}  # by dtype, as foreach wants them
        for name, tensor in theirs.items():
            if name not in averaged:
                to, source = copied.setdefault(tensor.dtype, ([], []))
                to.append(mine[name])
                source.append(tensor)
        self.copied = list(copied.values())

    @torch.no_grad()
    def update(self):
        """Move one step nearer to the weights of the averaged detector as they are now."""
        torch._foreach_lerp_(*self.averaged, 1 - self.decay)
        for mine, theirs in self.copied:
            torch._foreach_copy_(mine, theirs)


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

    def set_epoch(self, epoch):
        """Learning rates of an epoch: a cosine from lr to lr_final over the run, one step an epoch."""
        c = self.config
        lr = c.lr_final + (c.lr - c.lr_final) * (1 + math.cos(math.pi * epoch / c.epochs)) / 2
        _set_lr(self.generator_optimizer, lr)
        if self.discriminator_optimizer is not None:
            _set_lr(self.discriminator_optimizer, lr if c.decay_discriminator else c.lr)
        return lr

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
        loss = discriminator_loss(self.config, _image_logits(real), self._judge(networks, out.student.detach()))
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
