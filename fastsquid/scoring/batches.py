"""The batch loop: a function of a batch, over many images."""

from collections.abc import Callable, Iterable, Iterator

import torch

from ..data.images import to_unit
from ..utils.bars import bar


def split_batches(images: torch.Tensor, device: torch.device, batch_size: int = 64) -> Iterator[torch.Tensor]:
    """Yield batches of images as a detector takes them, with a progress bar on a terminal.

    Args:
        images: uint8 or uint16 (N, 1, H, W), or float32 in [0, 1], on any device.
        device: of the batches.
        batch_size: images per batch; the last batch may hold fewer.

    Yields:
        float32 (B, 1, H, W) in [0, 1], on the device.
    """
    for batch in bar(images.split(batch_size), "scoring"):
        yield to_unit(batch.to(device))


def gather(
    compute: Callable[[torch.Tensor], dict[str, torch.Tensor]], batches: Iterable[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Apply a function to every batch and join its results.

    Args:
        compute: function of a batch, which returns {name: tensor (B, ...)}, the same names for every batch.
        batches: float32 (B, 1, H, W), as `split_batches` yields them.

    Returns:
        {name: float32 (N, ...)} on the CPU.
    """
    parts: dict[str, list[torch.Tensor]] = {}
    for batch in batches:
        for name, values in compute(batch).items():
            parts.setdefault(name, []).append(values.float().cpu())
    return {name: torch.cat(values) for name, values in parts.items()}
