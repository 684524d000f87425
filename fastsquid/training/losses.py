"""The losses of generator and discriminator (SQUID 4.4, SimSID 4)."""

import torch
import torch.nn.functional as F

from ..model.networks import soft_minimum

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
    loss = config.negative_weight * _entropy(image_logits(negative), 0.0)
    if negative.ndim == 3:
        real, negative = _wide(real), _wide(negative)
        targets = 1 - (F.adaptive_max_pool2d(masks, negative.shape[-1])[:, 0] / CLEAR).clamp(0, 1)
        loss = loss + config.cell_weight * (
            F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
            + F.binary_cross_entropy_with_logits(negative, targets)
        )
    return config.discriminator_weight * loss


def image_logits(logits):
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
