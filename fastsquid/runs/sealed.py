"""Files of tensors that hold a checksum of themselves: maps.safetensors and input-check.safetensors."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ..errors import CheckpointError
from ..models import shipped_name
from ..utils.files import replacing, require_regular

_CHECKSUM = "sha256"
_MOST = 2**30  # bytes; heat maps of 1024 x 1024 pixels take 50 MB


def save_sealed(path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, str]) -> None:
    """Write tensors with a checksum over them and the facts. The same input gives the same bytes.

    Args:
        path: of the file.
        tensors: by name; contiguous, on the CPU.
        facts: further metadata of the file.
    """
    data = save(dict(tensors), {**facts, _CHECKSUM: _digest(tensors, facts)})
    end = 8 + int.from_bytes(data[:8], "little")  # of the header, JSON whose order safetensors draws anew each time
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    with replacing(path, "wb") as file:
        file.write(data[:8] + header.ljust(end - 8) + data[end:])


def read_sealed(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return what `save_sealed` wrote. A file of an earlier version has no checksum, but must be finite.

    Returns:
        the tensors by name, and the facts.

    Raises:
        CheckpointError: the file is damaged.
        UserError: it is no regular file, or too large to be one of ours.
    """
    require_regular(path, _MOST)
    try:
        content = path.read_bytes()  # safetensors cannot open a path that is not UTF-8
        tensors = dict(sorted(load(content).items()))  # safetensors draws their order anew each time
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts = dict(header.get("__metadata__") or {})
        checksum = facts.pop(_CHECKSUM, None)
        intact = checksum is None or checksum == _digest(tensors, facts)
        intact = intact and all(tensor.isfinite().all() for tensor in tensors.values())
    except (SafetensorError, RuntimeError, ValueError, TypeError):  # of a damaged header, almost anything
        intact = False
    if not intact:
        raise damaged(path)
    return tensors, facts


def damaged(path: Path) -> CheckpointError:
    """Return the error for a file that is damaged, and that training, or for a shipped model pip, can write again."""
    if shipped_name(path.parent):
        return CheckpointError(f"{path} is damaged: install fastsquid again")
    return CheckpointError(
        f"{path} is damaged: remove it, and python -m fastsquid.train --resume {path.parent} writes it again"
    )


def _digest(tensors: Mapping[str, torch.Tensor], facts: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
