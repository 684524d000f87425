"""One training iteration: losses and order of work of both papers (SQUID 3 and 5.1, SimSID 3 and 4)."""

import math

import torch
import torch.nn.functional as F


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
        "student": F.mse_loss(out.student, images),
        "adversarial": F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits)),
    }
    loss = config.student_weight * parts["student"] + config.adversarial_weight * parts["adversarial"]
    if out.teacher is not None:
        parts["teacher"] = F.mse_loss(out.teacher, images)
        parts["distillation"] = sum(F.mse_loss(t, s) for t, s in zip(out.teacher_levels, out.student_levels))
        loss = loss + config.teacher_weight * parts["teacher"] + config.distillation_weight * parts["distillation"]
    return loss, {name: part.detach() for name, part in parts.items()}


def discriminator_loss(config, real, fake):
    """0.005 (BCE(D(image), 1) + BCE(D(student), 0)), logits (B,) of two separate passes; a scalar."""
    return config.discriminator_weight * (
        F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
        + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    )


class Trainer:
    """Detector, optimizers and the order of work.

    In every iteration the discriminator steps; in iterations 0, generator_every, ... the generator steps after it,
    against the updated discriminator, and commits its features to the memory queue. The teacher runs, and a
    generator graph is built, only in a pass that the generator's step uses.

    Args:
        detector: a `Detector`, on the device to train on.
        compile: run both networks through torch.compile.
    """

    def __init__(self, detector, compile=False):
        self.detector, self.config = detector, detector.config
        self.generator, self.discriminator = detector.generator, detector.discriminator
        if compile:
            self.generator, self.discriminator = torch.compile(self.generator), torch.compile(self.discriminator)
        c = self.config
        self.generator_parameters = list(detector.generator.parameters())
        self.generator_optimizer = torch.optim.Adam(
            self.generator_parameters, lr=c.lr, betas=(c.beta1, c.beta2), weight_decay=c.weight_decay
        )
        self.discriminator_optimizer = torch.optim.Adam(
            detector.discriminator.parameters(), lr=c.lr, betas=(c.beta1, c.beta2)
        )

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
            dict of detached scalar losses; the generator's only where it stepped.
        """
        images = self.detector.to_range(images)
        generator_steps = iteration % self.config.generator_every == 0
        shared = generator_steps and self.config.order == "shared"
        if shared:
            out = self.generator(images, teacher=True)
        else:
            with torch.no_grad():
                out = self.generator(images)

        real, fake = self.discriminator(images), self.discriminator(out.student.detach())
        loss = discriminator_loss(self.config, real, fake)
        self.discriminator_optimizer.zero_grad()
        loss.backward()
        self.discriminator_optimizer.step()
        losses = {"discriminator": loss.detach()}

        if generator_steps:
            if not shared:
                out = self.generator(images, teacher=True)
            loss, parts = generator_loss(self.config, images, out, self.discriminator(out.student))
            self.generator_optimizer.zero_grad()
            loss.backward(inputs=self.generator_parameters)
            self.generator_optimizer.step()
            self.detector.generator.commit()
            losses.update(generator=loss.detach(), **parts)
        return losses


def _set_lr(optimizer, lr):
    for group in optimizer.param_groups:
        group["lr"] = lr
