"""The losses of generator and discriminator (SQUID 4.4, SimSID 4)."""

import torch
import torch.nn.functional as F
from torch import nn

from ..config import Config
from ..model.networks import Reconstruction, soft_minimum

# A cell's target is "abnormal" from this strength of the drawn anomaly on.
CLEAR = 0.35

# What a step reports: the losses of both optimizers' steps, and the unweighted parts of the generator's.
LOSSES = ("discriminator", "generator", "student", "adversarial", "teacher", "distillation", "entropy")


def generator_loss(
    config: Config, images: torch.Tensor, out: Reconstruction, logits: torch.Tensor | None = None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the generator's loss and its parts.

    The loss is 10 MSE(student) + 0.01 MSE(teacher) + 0.001 sum over levels of MSE(teacher level, student level) +
    0.005 BCE(D(student), 1). The factors are the config's weights, and parts that the config lacks are left out. With
    `entropy_weight`, MemAE's entropy of the memory's weights is added (Gong et al., ICCV 2019, section 3.4). The
    distillation term stops no gradient.

    Args:
        config: of the detector.
        images: (B, 1, H, W) in the model's value range.
        out: of a pass with the teacher.
        logits: the discriminator's logits (B,) on the student's image; None without a discriminator that rejects
            reconstructions.

    Returns:
        the scalar loss, and its detached unweighted parts by name.
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
        assert out.teacher_levels is not None
        levels = [
            F.mse_loss(_wide(teacher), _wide(student))
            for teacher, student in zip(out.teacher_levels, out.student_levels)
        ]
        parts["distillation"] = sum(levels[1:], start=levels[0])
        loss = loss + config.teacher_weight * parts["teacher"] + config.distillation_weight * parts["distillation"]
    return loss, {name: part.detach() for name, part in parts.items()}


def discriminator_loss(config: Config, real: torch.Tensor, fake: torch.Tensor | None) -> torch.Tensor:
    """Return the discriminator's loss, 0.005 (BCE(D(image), 1) + BCE(D(student), 0)).

    Args:
        config: of the detector; 0.005 is its `discriminator_weight`.
        real: logits (B,) on healthy images.
        fake: logits (B,) on the student's images, of a pass of its own; None leaves the second term out.

    Returns:
        a scalar.
    """
    loss = _entropy(real, 1.0)
    if fake is not None:
        loss = loss + _entropy(fake, 0.0)
    return config.discriminator_weight * loss


def negative_loss(config: Config, real: torch.Tensor, negative: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the discriminator's loss on healthy images with a synthetic anomaly, with the config's weights.

    The loss is BCE(D(image with anomaly), 0). A discriminator with cells adds the BCE of each cell. The target of a
    healthy cell is 1. The target of another cell falls to 0 with the strength of the anomaly in it.

    Args:
        config: of the detector.
        real: logits on healthy images, (B,), or of their cells, (B, side, side).
        negative: the same for the images with an anomaly.
        masks: (B, 1, H, H) in [0, 1], the strength of the anomaly at each pixel.

    Returns:
        a scalar.
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


def image_logits(logits: torch.Tensor) -> torch.Tensor:
    """Return logits of images, (B,), from those or from logits of their cells, (B, side, side)."""
    return soft_minimum(_wide(logits)) if logits.ndim == 3 else logits


def gradient_penalty(discriminator: nn.Module, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient penalty at real images, and the discriminator's logits on them.

    Args:
        discriminator: takes images, gives logits (B,).
        real: images (B, 1, H, W).

    Returns:
        half the squared gradient of the logits with respect to the images, a mean over the batch; and the logits.

    Source: R1 of Mescheder et al., ICML 2018, section 4.1.
    """
    real = real.detach().requires_grad_()
    logits = discriminator(real)
    (gradient,) = torch.autograd.grad(_wide(logits).sum(), real, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean() / 2, logits


def _wide(x: torch.Tensor) -> torch.Tensor:
    """Return a half-precision tensor in float32, in which losses are summed."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _entropy(logits: torch.Tensor, target: float) -> torch.Tensor:
    """Return the binary cross-entropy of logits with one target for all."""
    logits = _wide(logits)
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
