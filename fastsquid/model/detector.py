"""The detector: generator and discriminator of one configuration, and the anomaly scores they give."""

import copy
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..config import COMBINED, Config
from ..ops.dispatch import Impl
from .layers import BATCH_NORMS
from .networks import Discriminator, Generator, Reconstruction, soft_minimum
from .patches import to_patches

# Mean and standard deviation of a standardized image's values: 2.5 deviations fit in [0, 1].
MEAN, DEVIATION = 0.5, 0.2
Reconstructed = tuple[Tensor, Reconstruction]  # what `Detector.reconstruct` returns


class Detector(nn.Module):
    """Score X-rays with SQUID, SimSID or one of their ablations; the config holds what differs between them.

    Args:
        config: a `Config`.
        impl: `auto`, `triton` or `torch`, for the memory read and the neighbor attention.

    Example:
        >>> import torch
        >>> from fastsquid.config import preset
        >>> from fastsquid.model.detector import Detector
        >>> detector = Detector(preset("squid-small"))  # random weights: fastsquid.load returns trained ones
        >>> images = torch.rand(2, 1, 64, 64)  # in [0, 1]
        >>> scores, reconstruction = detector.frozen().scores(images)
        >>> scores["discriminator"].shape, reconstruction.shape  # larger = more abnormal
        (torch.Size([2]), torch.Size([2, 1, 64, 64]))
    """

    usual: Tensor

    def __init__(self, config: Config, impl: Impl = "auto") -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(config, impl)
        self.discriminator = Discriminator(config) if config.discriminator else None
        self.has_cells = config.discriminator and config.discriminator_head == "cells"
        if config.score == "combined":  # mean and deviation of each of COMBINED over healthy images
            self.register_buffer("usual", torch.tensor([[0.0, 1.0]] * len(COMBINED)))
        self.half_precision = False  # of `scores`; `half` is a method of nn.Module
        self.is_frozen = False

    def prepare(self, images: Tensor) -> Tensor:
        """Return images as the detector sees them, standardized where the config says so; both in [0, 1]."""
        if not self.config.standardize:
            return images
        mean, deviation = _moments(images)
        return ((images - mean) / deviation * DEVIATION + MEAN).clamp(0, 1)

    def to_range(self, images: Tensor) -> Tensor:
        """Return images in [0, 1] prepared and in the model's value range."""
        images = self.prepare(images)
        return images if self.config.value_range == "unit" else images * 2 - 1

    def from_range(self, images: Tensor) -> Tensor:
        """Return images of the model's value range in [0, 1], as the detector sees them."""
        return images if self.config.value_range == "unit" else (images + 1) / 2

    def restore(self, seen: Tensor, images: Tensor) -> Tensor:
        """Return what the detector sees or reconstructs in the exposure of the original images.

        Args:
            seen: (B, 1, H, W) in [0, 1], as `prepare` or `from_range` returns it.
            images: the images that the detector was given (B, 1, H, W) in [0, 1].
        """
        if not self.config.standardize:
            return seen
        mean, deviation = _moments(images)
        return ((seen - MEAN) / DEVIATION * deviation + mean).clamp(0, 1)

    def frozen(self, half: bool = False) -> "Detector":
        """Return a copy for scoring, in eval mode.

        The copy has no teacher. BatchNorm is folded into the generator's convolutions, and the key and value of every
        slot of the in-painting memory are computed once. The copy computes what this detector computes in eval mode, to
        rounding. Later changes of this detector do not reach it. It can move to another device or dtype; its weights
        should not change otherwise. The discriminator keeps its BatchNorm, because one score uses it with each image's
        own statistics. A detector that is already frozen in the same precision is returned as it is, because freezing
        costs a deep copy.

        Args:
            half: `scores` runs the generator's convolutions and projections in bfloat16.
        """
        if self.is_frozen and self.half_precision == half:
            return self
        without_teacher = {id(self.generator.teacher): None}  # what stands for it in the copy
        detector = copy.deepcopy(self, without_teacher).eval().requires_grad_(False)
        detector.half_precision, detector.is_frozen = half, True
        for layers in detector.generator.modules():
            if isinstance(layers, nn.Sequential):
                for i in range(len(layers) - 1):
                    first, second = layers[i], layers[i + 1]
                    if isinstance(first, nn.Conv2d) and isinstance(second, BATCH_NORMS):
                        layers[i] = fuse_conv_bn_eval(first, second)
                        layers[i + 1] = nn.Identity()
        if detector.generator.inpaint is not None:
            detector.generator.inpaint.fold()
        # Convolutions are fastest in this layout. The discriminator has it too, although instance normalization on a
        # CPU copies it to the other one and back: contiguous convolutions round by the number of images.
        return detector.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def reconstruct(self, images: Tensor) -> Reconstructed:
        """Return the generator's pass, from which scores and maps are computed.

        Args:
            images: float32 (B, 1, H, W) in [0, 1].

        Returns:
            the images in the model's value range, and their `Reconstruction`.
        """
        inputs = self.to_range(images)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.half_precision):
            return inputs, self.generator(inputs)

    def scores(
        self, images: Tensor, reconstructed: Reconstructed | None = None, names: Collection[str] | None = None
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the anomaly scores of images and their healthy reconstructions, without gradients.

        The config's `scores` are, larger = more abnormal:

        - `discriminator`: minus the discriminator's logit on the reconstruction, each image normalized by its own
          statistics (the papers' score as their code computes it, SQUID 3.4).
        - `discriminator_running`: the same with running statistics.
        - `discriminator_image`: as `discriminator`, on the image itself.
        - `residual`: mean squared error.
        - `patch_residual`: mean squared error of the worst patch.
        - `memory_distance`: mean over patches of |z - m|^2 / |z|^2 between a patch's token and its in-painting memory.
        - `combined`: sum of the scores in `COMBINED`, each standardized by its mean and deviation over healthy images
          (`set_usual`).

        Where the discriminator has cells, an image's logit is their soft minimum.

        Args:
            images: float32 (B, 1, H, W) in [0, 1].
            reconstructed: what `reconstruct` returned for them, if it ran already.
            names: which scores to compute; None for all. The generator does not run for `discriminator_image` alone.

        Returns:
            dict of float32 tensors (B,), and the reconstruction (B, 1, H, W) in [0, 1]; None if the generator did not
            run.

        Raises:
            RuntimeError: the detector is in training mode.
        """
        if self.training:
            raise RuntimeError("Detector.scores needs eval mode: call detector.eval() first")
        # torch.compile of PyTorch 2.11 fails in inference mode, at the first linear layer.
        with torch.no_grad() if torch.compiler.is_compiling() else torch.inference_mode():
            return self._scores(images, reconstructed, self.config.scores if names is None else names)

    def cell_scores(self, images: Tensor, reconstructed: Reconstructed | None = None) -> dict[str, Tensor]:
        """Return minus the discriminator's logit of every cell of images and of their reconstructions.

        A discriminator without cells has one, the whole image.

        Args:
            images, reconstructed: as for `scores`.

        Returns:
            {"discriminator": of the reconstruction, "discriminator_image": of the image}, where the config gives these
            scores: minus the logits, each image normalized by its own statistics, float32 (B, side, side), larger =
            more abnormal.
        """
        inputs, out = reconstructed or self.reconstruct(images)
        seen = {"discriminator": out.student.to(images.dtype), "discriminator_image": inputs}
        return {name: self._cell_scores(each) for name, each in seen.items() if name in self.config.scores}

    def _cell_scores(self, images: Tensor) -> Tensor:
        assert self.discriminator is not None
        if self.has_cells:
            return -self.discriminator(images, norm="image", cells=True)
        return -self.discriminator(images, norm="image").view(-1, 1, 1)

    def set_usual(self, scores: Mapping) -> None:
        """Set the mean and deviation by which `combined` standardizes each score.

        Args:
            scores: {name: array (N,)} of healthy images, for each of `COMBINED` at least.
        """
        for moments, name in zip(self.usual, COMBINED):
            values = torch.as_tensor(scores[name], dtype=torch.float64)
            moments[0], moments[1] = values.mean(), values.std(correction=0).clamp_min(1e-12)

    def _scores(
        self, images: Tensor, reconstructed: Reconstructed | None, names: Collection[str]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        needed = {*names, *(COMBINED if "combined" in names else ())}
        scores: dict[str, Tensor] = {}
        if reconstructed is None and needed == {"discriminator_image"}:
            scores["discriminator_image"] = self._pool(self._cell_scores(self.to_range(images)))
            return scores, None
        inputs, out = reconstructed or self.reconstruct(images)
        # The discriminator stays in float32: little of the work, and in bfloat16 many of its logits would tie.
        student = out.student.to(images.dtype)
        reconstruction = self.from_range(student)
        if "residual" in needed or "patch_residual" in needed:
            errors = to_patches((self.from_range(inputs) - reconstruction) ** 2, self.config.grid).mean((1, 2, 3))
            errors = errors.view(-1, self.config.patches)
            scores |= {"residual": errors.mean(1), "patch_residual": errors.amax(1)}
        for name, seen in (("discriminator", student), ("discriminator_image", inputs)):
            if name in needed:
                scores[name] = self._pool(self._cell_scores(seen))
        if "combined" in needed:
            moments = zip(COMBINED, self.usual)
            parts = [(scores[name].float() - mean) / deviation for name, (mean, deviation) in moments]
            scores["combined"] = sum(parts[1:], start=parts[0])
        if "discriminator_running" in needed and self.discriminator is not None:
            scores["discriminator_running"] = -self.discriminator(student)
        if out.memory_distance is not None:
            scores["memory_distance"] = out.memory_distance.mean(1)
        return {name: scores[name] for name in names}, self.restore(reconstruction, images)

    def _pool(self, cells: Tensor) -> Tensor:
        """Return the scores (B,) of images from their cells, as `_cell_scores` returns them."""
        return -soft_minimum(-cells) if self.has_cells else cells.flatten()


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of each image (B, 1, 1, 1); an image of one value has deviation 1."""
    deviation, mean = torch.std_mean(images, (1, 2, 3), keepdim=True, correction=0)
    return mean, torch.where(deviation > 1e-6, deviation, 1)
