"""Losses and validation of a run for TensorBoard, beside metrics.jsonl."""

from pathlib import Path
from typing import Any

from ..errors import UserError

FOLDER = "tensorboard"


def require_tensorboard() -> None:
    """Check that tensorboard is installed.

    Raises:
        UserError: it is not.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise UserError("--tensorboard needs the package tensorboard: pip install tensorboard") from None


class Board:
    """Write one point per epoch to the folder `tensorboard` of a run.

    Args:
        folder: the run folder.
        epoch: number of epochs that are done. Points of later epochs, which a killed run left, are hidden.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=epoch + 1)

    def add(self, line: dict[str, Any]) -> None:
        """Write one line of metrics.jsonl."""
        groups = {
            "losses": line["losses"],
            "AUC": line.get("validation", {}),
            "settings": {"lr": line["lr"]},
        }
        groups |= {f"AUC, {name}": aucs for name, aucs in line.get("perturbed", {}).items()}
        for group, values in groups.items():
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, line["epoch"])
        self._writer.flush()
