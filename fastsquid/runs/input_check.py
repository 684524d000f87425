"""The input check of a run on disk: input-check.safetensors."""

from pathlib import Path

import torch

from ..scoring.input_check import SIDE, InputCheck
from .folder import INPUT_CHECK
from .records import RunRecord
from .sealed import damaged, read_sealed, save_sealed


def save_check(folder: str | Path, check: InputCheck) -> None:
    """Write the input check of a run: 64 means, 64 x 64 numbers of the covariance, and the threshold."""
    tensors = {
        "mean": check.mean,
        "whitening": check.whitening,
        "threshold": torch.tensor([check.threshold], dtype=torch.float64),
    }
    save_sealed(Path(folder) / INPUT_CHECK, tensors, {})


def read_check(folder: str | Path) -> InputCheck | None:
    """Return what `save_check` wrote, or None where a run has no such file.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = Path(folder) / INPUT_CHECK
    shapes = {"mean": (SIDE**2,), "whitening": (SIDE**2, SIDE**2), "threshold": (1,)}
    if not path.exists():
        return None
    tensors, _ = read_sealed(path)
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes:
        raise damaged(path)
    return InputCheck(tensors["mean"], tensors["whitening"], tensors["threshold"].item())


def why_unchecked(folder: str | Path, record: RunRecord) -> str:
    """Return the sentence that explains why a run has no input check."""
    if record.converted:
        return (
            f"{folder} was converted without data, or by an earlier version: python -m fastsquid.convert with --data, "
            "a folder of normal images, makes one that has an input check"
        )
    return f"{folder} has no input check: python -m fastsquid.train --resume {folder} writes it"
