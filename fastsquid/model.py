"""The detector: generator and discriminator of one configuration, and the anomaly scores they give."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .networks import Discriminator, Generator
from .patches import to_patches

SCORES = ("discriminator", "discriminator_running", "residual", "patch_residual")


class Detector(nn.Module):
    """SQUID, SimSID and their ablations: what differs is in the config.

    Args:
        config: a `Config`.
        impl: `auto`, `triton` or `torch`, for the memory read and the neighbor attention.
    """

    def __init__(self, config, impl="auto"):
        super().__init__()
        self.config = config
        self.generator = Generator(config, impl)
        self.discriminator = Discriminator(config)
        self.half_precision = False  # of `scores`; `half` is a method of nn.Module

    def to_range(self, images):
        """Images in [0, 1] -> the model's value range."""
        return images if self.config.value_range == "unit" else images * 2 - 1

    def from_range(self, images):
        """The inverse of `to_range`."""
        return images if self.config.value_range == "unit" else (images + 1) / 2

    def frozen(self, half=False):
        """A copy for scoring, in eval mode: without the teacher, BatchNorm folded into the generator's convolutions.

        It computes what this detector does in eval mode, to rounding, and follows none of its later changes. The
        discriminator keeps its BatchNorm, which one of the scores uses with each image's own statistics.

        Args:
            half: `scores` runs the generator's convolutions and projections in bfloat16.
        """
        detector = copy.deepcopy(self).eval().requires_grad_(False)
        detector.half_precision = half
        detector.generator.teacher = None
        for layers in detector.generator.modules():
            if isinstance(layers, nn.Sequential):
                for i in range(len(layers) - 1):
                    if isinstance(layers[i], nn.Conv2d) and isinstance(layers[i + 1], nn.BatchNorm2d):
                        layers[i] = fuse_conv_bn_eval(layers[i], layers[i + 1])
                        layers[i + 1] = nn.Identity()
        # The layout that convolutions are fastest in, on a CPU too where no gradients are asked for.
        return detector.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def scores(self, images):
        """Anomaly scores of images and their healthy reconstructions; in eval mode, without the teacher or gradients.

        Args:
            images: float32 (B, 1, H, W) in [0, 1].

        Returns:
            dict of float32 tensors (B,), larger = more abnormal, and the reconstruction (B, 1, H, W) in [0, 1]:
            `discriminator`, minus D's logit with each image normalised by its own statistics (the papers' score as
            their code computes it, SQUID 3.4); `discriminator_running`, the same with running statistics;
            `residual`, mean squared error; `patch_residual`, mean squared error of the worst patch.

        Raises:
            RuntimeError: the detector is in training mode.
        """
        if self.training:
            raise RuntimeError("Detector.scores needs eval mode: call detector.eval() first")
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.half_precision):
            student = self.generator(self.to_range(images)).student
        # The discriminator stays in float32: little of the work, and in bfloat16 many of its logits would tie.
        student = student.to(images.dtype)
        reconstruction = self.from_range(student)
        errors = to_patches((images - reconstruction) ** 2, self.config.grid).mean((1, 2, 3))
        errors = errors.view(-1, self.config.patches)
        return {
            "discriminator": -self.discriminator(student, norm="image"),
            "discriminator_running": -self.discriminator(student),
            "residual": errors.mean(1),
            "patch_residual": errors.amax(1),
        }, reconstruction


def calibrated(score, mean, std):
    """sigmoid((score - mean) / std), mean and std of the training images' scores (SQUID 3.4); in [0, 1].

    For display: rank on the raw score, because the sigmoid saturates in float32 and makes ties.
    """
    return torch.sigmoid((score - mean) / max(std, 1e-12))
