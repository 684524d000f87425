"""Several detectors as one: the mean of their standardized scores, of their maps and of their reconstructions."""

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from .detector import Detector

Values = TypeVar("Values", torch.Tensor, np.ndarray)


class Ensemble(nn.Module):
    """Detectors of one configuration, where scoring code takes a `Detector` in eval mode.

    Runs give scores on different scales, so each score of each run is standardized before the mean is taken.

    Args:
        members: R `Detector`s of one configuration.
        moments: per member {score: (mean, standard deviation)}, which standardize its scores.

    Attributes:
        config: the members' `Config`.
    """

    members: Sequence[Detector]  # an nn.ModuleList

    def __init__(self, members: Sequence[Detector], moments: Sequence[dict[str, tuple[float, float]]]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)  # pyright: ignore[reportAttributeAccessIssue]
        self.moments = list(moments)
        self.config = members[0].config

    def frozen(self, half: bool = False) -> "Ensemble":
        """Return the ensemble of the members' `Detector.frozen` copies."""
        return Ensemble([member.frozen(half) for member in self.members], self.moments).eval()

    def reconstruct(self, images: torch.Tensor) -> list[tuple]:
        """Return `Detector.reconstruct` of every member for images, float32 (B, 1, H, W) in [0, 1]."""
        return [member.reconstruct(images) for member in self.members]

    def scores(
        self, images: torch.Tensor, reconstructed: list[tuple] | None = None, names: Collection[str] | None = None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Return the mean of the members' standardized scores, and the mean of their reconstructions.

        Args:
            images: float32 (B, 1, H, W) in [0, 1].
            reconstructed: what `reconstruct` returned for them, where it is there already.
            names: as for `Detector.scores`.

        Returns:
            dict of float32 tensors (B,) by score, larger = more abnormal; and float32 (B, 1, H, W) in [0, 1], or None
            as for `Detector.scores`.

        Raises:
            RuntimeError: a member is in training mode.
        """
        every = reconstructed or [None] * len(self.members)
        found = [member.scores(images, one, names) for member, one in zip(self.members, every)]
        scores = self.combine([scores for scores, _ in found])
        students = [student for _, student in found if student is not None]
        return scores, sum(students[1:], start=students[0]) / len(found) if students else None

    def combine(self, found: Sequence[dict[str, Values]]) -> dict[str, Values]:
        """Return the ensemble's scores from those of its members.

        Args:
            found: per member {score: tensor or array (N,)}.

        Returns:
            {score: the mean over members of (score - mean) / standard deviation}, (N,).
        """
        return {  # pyright: ignore[reportReturnType]
            name: sum(
                (scores[name] - moments[name][0]) / moments[name][1] for scores, moments in zip(found, self.moments)
            )
            / len(self.members)
            for name in found[0]
        }

    def every_map(
        self,
        give: Callable[..., dict[str, torch.Tensor]],
        images: torch.Tensor,
        reconstructed: list[tuple] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the maps of all members side by side.

        Args:
            give: function of a member, the images and what `Detector.reconstruct` returned for them; it returns a
                dict of maps (B, H, W).
            images, reconstructed: as for `scores`.

        Returns:
            dict of (B, R, H, W).
        """
        every = reconstructed or [None] * len(self.members)
        found = [give(member, images, one) for member, one in zip(self.members, every)]
        return {name: torch.stack([maps[name] for maps in found], 1) for name in found[0]}
