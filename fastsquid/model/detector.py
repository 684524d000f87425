"""The detector: generator and discriminator of one configuration, and the anomaly scores they give."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..config import COMBINED
from .networks import Discriminator, Generator, soft_minimum
from .patches import to_patches

# Mean and standard deviation of a standardised image's values: 2.5 deviations fit in [0, 1].
MEAN, DEVIATION = 0.5, 0.2


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
        self.discriminator = Discriminator(config) if config.discriminator else None
        self.has_cells = config.discriminator and config.discriminator_head == "cells"
        if config.score == "combined":  # mean and deviation of each of COMBINED over healthy images
            self.register_buffer("usual", torch.tensor([[0.0, 1.0]] * len(COMBINED)))
        self.half_precision = False  # of `scores`; `half` is a method of nn.Module
        self.is_frozen = False

    def prepare(self, images):
        """Images in [0, 1] as the detector sees them, in [0, 1]: standardised where the config says so."""
        if not self.config.standardize:
            return images
        mean, deviation = _moments(images)
        return ((images - mean) / deviation * DEVIATION + MEAN).clamp(0, 1)

    def to_range(self, images):
        """Images in [0, 1] -> prepared, and in the model's value range."""
        images = self.prepare(images)
        return images if self.config.value_range == "unit" else images * 2 - 1

    def from_range(self, images):
        """The model's value range -> [0, 1], as the detector sees images."""
        return images if self.config.value_range == "unit" else (images + 1) / 2

    def restore(self, seen, images):
        """What the detector sees or draws -> the exposure of the images (B, 1, H, W) that it was given."""
        if not self.config.standardize:
            return seen
        mean, deviation = _moments(images)
        return ((seen - MEAN) / DEVIATION * deviation + mean).clamp(0, 1)

    def frozen(self, half=False):
        """Return a copy for scoring, in eval mode: no teacher, BatchNorm folded into the generator's convolutions.

        The copy computes what this detector computes in eval mode, to rounding. Later changes of this detector do not
        reach it. The discriminator keeps its BatchNorm, because one score uses it with each image's own statistics.
        A detector that is frozen already, in the same precision, is returned as it is: freezing costs a deep copy.

        Args:
            half: `scores` runs the generator's convolutions and projections in bfloat16.
        """
        if self.is_frozen and self.half_precision == half:
            return self
        detector = copy.deepcopy(self).eval().requires_grad_(False)
        detector.half_precision, detector.is_frozen = half, True
        detector.generator.teacher = None
        for layers in detector.generator.modules():
            if isinstance(layers, nn.Sequential):
                for i in range(len(layers) - 1):
                    if isinstance(layers[i], nn.Conv2d) and isinstance(
                        layers[i + 1], (nn.BatchNorm2d, nn.SyncBatchNorm)
                    ):
                        layers[i] = fuse_conv_bn_eval(layers[i], layers[i + 1])
                        layers[i + 1] = nn.Identity()
        # The layout that convolutions are fastest in, on a CPU too where no gradients are asked for.
        return detector.to(memory_format=torch.channels_last)

    def draw(self, images):
        """The generator's pass that scores and maps are made of.

        Args:
            images: float32 (B, 1, H, W) in [0, 1].

        Returns:
            the images in the model's value range, and its `Reconstruction` of them.
        """
        inputs = self.to_range(images)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.half_precision):
            return inputs, self.generator(inputs)

    def scores(self, images, drawn=None, fast=False):
        """Anomaly scores of images and their healthy reconstructions; in eval mode, without the teacher or gradients.

        Args:
            images: float32 (B, 1, H, W) in [0, 1].
            drawn: what `draw` gave of them, where it is there already.
            fast: give `discriminator_image` alone, for which the generator does not run; the reconstruction is None.

        Returns:
            dict of float32 tensors (B,), larger = more abnormal, those that the config gives, and the reconstruction
            (B, 1, H, W) in [0, 1]: `discriminator`, minus D's logit on the reconstruction with each image normalised by
            its own statistics (the papers' score as their code computes it, SQUID 3.4); `discriminator_running`, the
            same with running statistics; `discriminator_image`, as the first, on the image itself; `residual`, mean
            squared error; `patch_residual`, mean squared error of the worst patch; `memory_distance`, mean over patches
            of |z - m|^2 / |z|^2 between a patch's token and its in-painting memory.

            Where the discriminator has cells, an image's logit is their soft minimum. `combined` is the sum of the
            scores in `COMBINED`, each less its mean and divided by its deviation over healthy images (`set_usual`).

        Raises:
            RuntimeError: the detector is in training mode.
        """
        if self.training:
            raise RuntimeError("Detector.scores needs eval mode: call detector.eval() first")
        # torch.compile of PyTorch 2.11 fails in inference mode, at the first linear layer.
        with torch.no_grad() if torch.compiler.is_compiling() else torch.inference_mode():
            if fast:
                judged = {"discriminator_image": self._judge(self.to_range(images))}
                return self._of_discriminator(judged), None
            return self._scores(images, drawn)

    def judge_cells(self, images: torch.Tensor, drawn: tuple | None = None) -> dict[str, torch.Tensor]:
        """Return what the discriminator says of every cell of images and of their reconstructions.

        A discriminator without cells has one, the whole image.

        Args:
            images, drawn: as for `scores`.

        Returns:
            {"discriminator": of the reconstruction, "discriminator_image": of the image}: minus the logits, each image
            normalized by its own statistics, float32 (B, side, side), larger = more abnormal.
        """
        inputs, out = drawn or self.draw(images)
        return {"discriminator": self._judge(out.student.to(images.dtype)), "discriminator_image": self._judge(inputs)}

    def _judge(self, images):
        if self.has_cells:
            return -self.discriminator(images, norm="image", cells=True)
        return -self.discriminator(images, norm="image").view(-1, 1, 1)

    def set_usual(self, scores: dict) -> None:
        """Set what `combined` standardizes by.

        Args:
            scores: {name: array (N,)} of healthy images, of each of `COMBINED` at least.
        """
        for moments, name in zip(self.usual, COMBINED):
            values = torch.as_tensor(scores[name], dtype=torch.float64)
            moments[0], moments[1] = values.mean(), values.std(correction=0).clamp_min(1e-12)

    def _scores(self, images, drawn):
        inputs, out = drawn or self.draw(images)
        # The discriminator stays in float32: little of the work, and in bfloat16 many of its logits would tie.
        student = out.student.to(images.dtype)
        reconstruction = self.from_range(student)
        errors = to_patches((self.from_range(inputs) - reconstruction) ** 2, self.config.grid).mean((1, 2, 3))
        errors = errors.view(-1, self.config.patches)
        scores = {"residual": errors.mean(1), "patch_residual": errors.amax(1)}
        if self.discriminator is not None:
            scores |= self._of_discriminator(self.judge_cells(images, (inputs, out)))
        if self.config.score == "combined":
            moments = zip(COMBINED, self.usual)
            scores["combined"] = sum((scores[name].float() - mean) / deviation for name, (mean, deviation) in moments)
        if "discriminator_running" in self.config.scores:
            scores["discriminator_running"] = -self.discriminator(student)
        if out.memory_distance is not None:
            scores["memory_distance"] = out.memory_distance.mean(1)
        return {name: scores[name] for name in self.config.scores}, self.restore(reconstruction, images)

    def _of_discriminator(self, judged):
        """Return the scores (B,) of images from their cells, as `judge_cells` returns them."""
        return {name: -soft_minimum(-cells) if self.has_cells else cells.flatten() for name, cells in judged.items()}


def _moments(images):
    """Mean and standard deviation of each image (B, 1, 1, 1); of an image of one value the deviation counts as 1."""
    deviation, mean = torch.std_mean(images, (1, 2, 3), keepdim=True, correction=0)
    return mean, torch.where(deviation > 1e-6, deviation, 1)
