"""One training iteration: losses and order of work of both papers (SQUID 3 and 5.1, SimSID 3 and 4)."""

import math

import torch
import torch.nn.functional as F

# What a step reports: the two that are stepped on, and the generator's unweighted parts.
LOSSES = ("discriminator", "generator", "student", "adversarial", "teacher", "distillation")


def generator_loss(config, images, out, logits):
    """Loss of the generator, and its parts.

    10 MSE(student) + 0.01 MSE(teacher) + 0.001 sum over levels of MSE(teacher level, student level) +
    0.005 BCE(D(student), 1), with the config's weights. The distillation term stops no gradient.

    Args:
        images: (B, 1, H, W) in the model's value range.
        out: the `Reconstruction` of a pass with teacher.
        logits: D's logits (B,) on the student's image.

    Returns:
        scalar loss, and a dict of its detached unweighted parts.
    """
    parts = {
        "student": F.mse_loss(_wide(out.student), images),
        "adversarial": _entropy(logits, 1.0),
    }
    loss = config.student_weight * parts["student"] + config.adversarial_weight * parts["adversarial"]
    if out.teacher is not None:
        parts["teacher"] = F.mse_loss(_wide(out.teacher), images)
        levels = zip(out.teacher_levels, out.student_levels)
        parts["distillation"] = sum(F.mse_loss(_wide(t), _wide(s)) for t, s in levels)
        loss = loss + config.teacher_weight * parts["teacher"] + config.distillation_weight * parts["distillation"]
    return loss, {name: part.detach() for name, part in parts.items()}


def discriminator_loss(config, real, fake):
    """0.005 (BCE(D(image), 1) + BCE(D(student), 0)), logits (B,) of two separate passes; a scalar."""
    return config.discriminator_weight * (_entropy(real, 1.0) + _entropy(fake, 0.0))


def _wide(x):
    """Half precision -> float32, in which losses are summed."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _entropy(logits, target):
    logits = _wide(logits)
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


class Trainer:
    """Detector, optimizers and the order of work.

    In every iteration the discriminator steps; in iterations 0, generator_every, ... the generator steps after it,
    against the updated discriminator, and commits its features to the memory queue. The teacher runs, and a
    generator graph is built, only in a pass that the generator's step uses.

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
        self.generator, self.discriminator = detector.generator, detector.discriminator
        if compile:
            # There are two batch sizes in a run, which is cheaper than one graph for any.
            options = dict(dynamic=False) if gpu else {}
            self.generator = torch.compile(self.generator, **options)
            self.discriminator = torch.compile(self.discriminator, **options)
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
        self.discriminator_optimizer = torch.optim.Adam(detector.discriminator.parameters(), **options)

    def set_epoch(self, epoch):
        """Learning rates of an epoch: a cosine from lr to lr_final over the run, one step an epoch."""
        c = self.config
        lr = c.lr_final + (c.lr - c.lr_final) * (1 + math.cos(math.pi * epoch / c.epochs)) / 2
        _set_lr(self.generator_optimizer, lr)
        _set_lr(self.discriminator_optimizer, lr if c.decay_discriminator else c.lr)
        return lr

    def step(self, images, iteration):
        """One iteration.

        Args:
            images: (B, 1, H, W) in [0, 1], augmented; B may be 1.
            iteration: index of the batch in its epoch.

        Returns:
            dict of detached scalar losses by the names in `LOSSES`; the generator's only where it stepped.
        """
        images = self.detector.to_range(images)
        if self.device.type == "cuda":
            images = images.contiguous(memory_format=torch.channels_last)
        generator_steps = iteration % self.config.generator_every == 0
        shared = generator_steps and self.config.order == "shared"
        if shared:
            out = self._generate(images, teacher=True)
        else:
            with torch.no_grad():
                out = self._generate(images)

        real, fake = self._judge(images), self._judge(out.student.detach())
        loss = discriminator_loss(self.config, real, fake)
        self.discriminator_optimizer.zero_grad()
        loss.backward()
        self.discriminator_optimizer.step()
        losses = {"discriminator": loss.detach()}

        if generator_steps:
            if not shared:
                out = self._generate(images, teacher=True)
            loss, parts = generator_loss(self.config, images, out, self._judge(out.student))
            self.generator_optimizer.zero_grad()
            loss.backward(inputs=self.generator_parameters)
            self.generator_optimizer.step()
            self.detector.generator.commit()
            losses.update(generator=loss.detach(), **parts)
        return losses

    def _generate(self, images, teacher=False):
        with self._autocast():
            return self.generator(images, teacher=teacher)

    def _judge(self, images):
        with self._autocast():
            return self.discriminator(images)

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)


def _set_lr(optimizer, lr):
    for group in optimizer.param_groups:
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
