"""The networks around the memory: encoder, generators, discriminator (SQUID 3 and Appendix A, SimSID 3)."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..config import Config
from ..ops.dispatch import Impl
from .inpainting import InpaintingBlock, Rebuilt, masked_shortcut
from .layers import Block, Layers, upsample
from .memory import SpaceAwareMemory2d
from .patches import to_image, to_patches


class Encoder(nn.Module):
    """Encode patches into the features of every level.

    Args:
        config: a `Config`; `width` and `levels` matter.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = [config.width * 2**i for i in range(config.levels + 1)]
        self.blocks = nn.ModuleList([Block(1, widths[0])] + [Block(a, b, stride=2) for a, b in zip(widths, widths[1:])])

    def forward(self, patches: Tensor) -> list[Tensor]:
        """Return (N, width * 2^i, s / 2^i, s / 2^i) for i = 0 ... levels from patches (N, 1, s, s)."""
        features = []
        for block in self.blocks:
            patches = block(patches)
            features.append(patches)
        return features


class Decoder(nn.Module):
    """Decode patch features into an image: the student, or the teacher, which has no memories.

    Each level upsamples by two, concatenates the encoder's skip at the deepest levels, and runs a block. Memories
    follow the deepest levels. Patches are stitched into the image before level `combine` upsamples.

    Args:
        config: a `Config`.
        memories: number of deepest levels that a memory follows.
        impl: `auto`, `triton` or `torch`.
    """

    memories: Sequence[SpaceAwareMemory2d]  # an nn.ModuleList

    def __init__(self, config: Config, memories: int = 0, impl: Impl = "auto") -> None:
        super().__init__()
        self.grid, self.skips, self.combine, self.shortcut = config.grid, config.skips, config.combine, config.shortcut
        widths = [config.width * 2**i for i in reversed(range(config.levels + 1))]
        self.blocks = nn.ModuleList(
            [Block(a + (b if i < config.skips else 0), b) for i, (a, b) in enumerate(zip(widths, widths[1:]))]
        )
        self.memories = nn.ModuleList(  # pyright: ignore[reportAttributeAccessIssue]
            [
                SpaceAwareMemory2d(
                    widths[i + 1],
                    (config.grid * config.feature_size * 2 ** (i + 1),) * 2,
                    config.grid,
                    config.slots,
                    config.decoder_scope,
                    top_k=config.top_k,
                    selection=config.selection,
                    shrinkage=config.shrinkage,
                    threshold=config.shrink_threshold,
                    impl=impl,
                )
                for i in range(memories)
            ]
        )
        self.output = nn.Conv2d(config.width, 1, 1)
        self.activation = nn.Sigmoid() if config.value_range == "unit" else nn.Tanh()

    def forward(self, x: Tensor, skips: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the image and the features of every level.

        Args:
            x: patch features (B * P, C0, h, h).
            skips: the encoder's features of the other levels, deepest first.

        Returns:
            image (B, 1, H, W) in the model's value range, and the list of features, deepest first.
        """
        levels = []
        for i, block in enumerate(self.blocks):
            if i == self.combine:
                x = to_image(x, self.grid)
            x = upsample(x)
            if i < self.skips:
                x = torch.cat([skips[i], x], dim=1)
            x = block(x)
            if i < len(self.memories):
                x = masked_shortcut(self.memories[i].read_patches(x), x, self.shortcut, self.training)
            levels.append(x)
        if self.combine == len(self.blocks):
            x = to_image(x, self.grid)
        return self.activation(self.output(x)), levels


class Reconstruction(NamedTuple):
    """What a generator pass returns.

    Attributes:
        student: reconstruction (B, 1, H, W) in the model's value range.
        student_levels: features of every level of the student, deepest first.
        teacher, teacher_levels: the same of the teacher, None if it did not run.
        memory_distance: (B, P), of the in-painting memory; None in training.
        entropy: scalar, in training, where the config weighs it; otherwise None.
    """

    student: Tensor
    student_levels: list[Tensor]
    teacher: Tensor | None
    teacher_levels: list[Tensor] | None
    memory_distance: Tensor | None
    entropy: Tensor | None


class Generator(nn.Module):
    """Reconstruct images: encoder, in-painting block, student, and (for training) the teacher.

    Args:
        config: a `Config`.
        impl: `auto`, `triton` or `torch`.
    """

    def __init__(self, config: Config, impl: Impl = "auto") -> None:
        super().__init__()
        self.grid, self.stop_gradient, self.patch_dropout = config.grid, config.stop_gradient, config.patch_dropout
        self.encoder = Encoder(config)
        self.inpaint = None if config.inpainting == "off" else InpaintingBlock(config, impl)
        self.student = Decoder(config, config.decoder_memory, impl)
        self.teacher = Decoder(config) if config.distillation else None

    def forward(self, images: Tensor, teacher: bool = False) -> Reconstruction:
        """Return the reconstruction of images.

        Args:
            images: (B, 1, H, W) in the model's value range.
            teacher: run the teacher too, if there is one; only its loss needs it.
        """
        patches = to_patches(images, self.grid)
        if self.training and self.patch_dropout:
            patches = patches * torch.empty_like(patches[:, :1, :1, :1]).bernoulli_(1 - self.patch_dropout)
        *skips, deepest = self.encoder(patches)
        skips = skips[::-1]
        rebuilt = Rebuilt(deepest, None, None) if self.inpaint is None else self.inpaint.rebuild(deepest)
        student, student_levels = self.student(rebuilt.features, skips)
        if not (teacher and self.teacher is not None):
            return Reconstruction(student, student_levels, None, None, rebuilt.distance, rebuilt.entropy)
        if self.stop_gradient:
            deepest, skips = deepest.detach(), [skip.detach() for skip in skips]
        image, levels = self.teacher(deepest, skips)
        return Reconstruction(student, student_levels, image, levels, rebuilt.distance, rebuilt.entropy)

    def commit(self) -> None:
        """Write the latest training forward into the memory queue; do nothing without a queue."""
        if self.inpaint is not None:
            self.inpaint.memory.commit()


class Discriminator(nn.Module):
    """Judge images: one logit per image, large where the image looks like a real healthy one.

    Five 5x5 stride-2 convolutions, BatchNorm on all but the first, LeakyReLU 0.2, one linear layer. Where the config
    says so, each weight is divided by its spectral norm (Miyato et al., ICLR 2018, section 2.1). With
    `discriminator_stride` 16 or 8 the last one or two convolutions have stride 1. With `discriminator_norm` instance,
    instance normalization replaces BatchNorm.

    The linear layer is a sum over the cells of the last feature map. With `discriminator_head` cells, each cell's part
    of the sum is a logit of its own. The image's logit is then their soft minimum, so that one abnormal cell is enough.

    Args:
        config: a `Config`.
    """

    logit: nn.Linear

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = [1, 16, 32, 64, 128, config.discriminator_width]
        normed = spectral_norm if config.spectral_norm else nn.Identity()
        layers = []
        for i, (a, b) in enumerate(zip(widths, widths[1:])):
            stride = 2 if 2 ** (i + 1) <= config.discriminator_stride else 1
            layers.append(normed(nn.Conv2d(a, b, 5, stride=stride, padding=2)))
            if i:
                norm = nn.BatchNorm2d(b) if config.discriminator_norm == "batch" else nn.InstanceNorm2d(b, affine=True)
                layers.append(norm)
            layers.append(nn.LeakyReLU(0.2))
        self.layers = Layers(*layers)
        self.side = -(-config.image_size // config.discriminator_stride)
        self.logit = normed(nn.Linear(widths[-1] * self.side**2, 1))  # pyright: ignore[reportAttributeAccessIssue]
        self.has_cells = config.discriminator_head == "cells"

    def forward(self, images: Tensor, norm: Literal["running", "image"] = "running", cells: bool = False) -> Tensor:
        """Return the logits (B,) of images, or of each of their cells, (B, side, side).

        Args:
            images: (B, 1, H, W) in the model's value range.
            norm: `running`, BatchNorm as the module's mode has it; `image`, each image by its own statistics. The
                published code scores one image at a time with BatchNorm in training mode, so the papers' numbers were
                made with `image`. It changes no running statistics.
            cells: return the logits of the cells; `soft_minimum` turns them into the image's.
        """
        x = self.layers(images, norm)
        if self.has_cells:
            logits = (x * self.logit.weight.view(x.shape[1:])).sum(1) + self.logit.bias
            return logits if cells else soft_minimum(logits)
        if norm == "image":  # a row's own sum, which a matrix product would round by batch size
            return (x.flatten(1) * self.logit.weight).sum(1) + self.logit.bias
        return self.logit(x.flatten(1)).squeeze(1)


def soft_minimum(cells: Tensor) -> Tensor:
    """Return -log(mean(exp(-cell))) of each image: near the lowest logit, and equal to all of them if they are equal.

    Args:
        cells: logits, (B, side, side).

    Returns:
        (B,).
    """
    cells = cells.flatten(1)
    return math.log(cells.shape[1]) - torch.logsumexp(-cells, 1)
