"""The running mean of the discriminator's weights."""

import copy

import torch

from ..model.detector import Detector


class Average:
    """A copy of a detector whose discriminator is the running mean of the trained one, which swings between steps.

    The mean begins with the untrained discriminator. After n updates decay^n of that one is left. The generator is a
    copy of the trained one at the latest update. It is not averaged: weights that still change fast would need
    BatchNorm statistics of their own, and reconstruct nothing with averaged statistics.

    Args:
        detector: the detector that trains; its discriminator is the first mean.
        decay: part of the mean that an update keeps, in [0, 1).
        prefix: of the names of the tensors that are averaged.

    Source: ours, after Polyak and Juditsky's averaging of iterates, 1992.
    """

    def __init__(self, detector: Detector, decay: float, prefix: str = "discriminator.") -> None:
        self.detector, self.decay = copy.deepcopy(detector).requires_grad_(False), decay
        mine, theirs = self.detector.state_dict(), detector.state_dict()
        # Spectral norm's vectors have length 1; their mean would not.
        averaged = [
            name
            for name, tensor in theirs.items()
            if name.startswith(prefix) and tensor.is_floating_point() and not name.endswith(("_u", "_v"))
        ]
        # Training writes every tensor in place, so these lists stay valid for the whole run.
        self.averaged = [mine[name] for name in averaged], [theirs[name] for name in averaged]
        copied = {}  # by dtype: foreach needs lists of one dtype
        for name, tensor in theirs.items():
            if name not in averaged:
                to, source = copied.setdefault(tensor.dtype, ([], []))
                to.append(mine[name])
                source.append(tensor)
        self.copied = list(copied.values())

    @torch.no_grad()
    def update(self) -> None:
        """Move the mean one step toward the current weights of the detector that trains, and copy all else."""
        mean, current = self.averaged
        torch._foreach_lerp_(mean, current, 1 - self.decay)  # pyright: ignore[reportPrivateImportUsage]
        for mine, theirs in self.copied:
            torch._foreach_copy_(mine, theirs)  # pyright: ignore[reportPrivateImportUsage]
