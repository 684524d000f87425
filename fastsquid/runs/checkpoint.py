"""Checkpoints: weights, optimizers and state of a training, complete on disk at any moment.

    checkpoint-000012/   state.json, and last, best, training and optimizer .safetensors
    maps.safetensors     mean and standard deviation of each heat map at every pixel, on normal images

A run folder holds one checkpoint. It is written beside the one before and renamed into place as a whole. Tensors are
safetensors and everything else is JSON: nothing is ever unpickled.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import nn

from ..config import Config
from ..errors import CheckpointError
from ..scoring.maps import Moments
from ..utils.files import replacing, write_json
from .folder import CONFIG, MAPS, STATE, read_json
from .records import CheckpointState

Tensors = dict[str, torch.Tensor]


def save_checkpoint(
    folder: str | Path,
    state: CheckpointState,
    last: Tensors,
    optimizers: dict[str, torch.optim.Optimizer],
    best: Tensors | None = None,
    training: Tensors | None = None,
) -> None:
    """Write the next checkpoint and remove the one before it.

    Args:
        folder: the run folder.
        state: everything but the tensors; `sha256` is filled in.
        last: state dict of the latest detector.
        optimizers: by name.
        best: state dict of a new best detector; None keeps the previous checkpoint's.
        training: state dict of the detector that trains, where `last` is its average.
    """
    folder = Path(folder)
    previous = _checkpoints(folder)
    number = int(previous[-1].name.split("-")[1]) + 1 if previous else 1
    new = folder / f"checkpoint-{number:06d}"
    temporary = folder / f".{new.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        digests = {
            "last": _write_tensors(temporary / "last.safetensors", last),
            "optimizer": _write_tensors(temporary / "optimizer.safetensors", _optimizer_tensors(optimizers)),
        }
        if training is not None:
            digests["training"] = _write_tensors(temporary / "training.safetensors", training)
        if best is not None:
            digests["best"] = _write_tensors(temporary / "best.safetensors", best)
            if digests["best"] == digests["last"]:  # the same bytes, once
                (temporary / "best.safetensors").unlink()
                _link(temporary / "last.safetensors", temporary / "best.safetensors")
        elif previous and (previous[-1] / "best.safetensors").exists():
            _link(previous[-1] / "best.safetensors", temporary / "best.safetensors")
            digests["best"] = read_json(previous[-1] / STATE)["sha256"]["best"]
        document = {**state.to_json(), "sha256": digests}
        write_json(temporary / STATE, {**document, "state_sha256": _digest(document)})
        _sync(temporary)
        os.rename(temporary, new)
        _sync(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in folder.glob("*checkpoint-*"):  # the one before, and what a killed process left of others
        if old != new:
            shutil.rmtree(old, ignore_errors=True)


def latest_checkpoint(folder: str | Path) -> Path | None:
    """Return the path of a run's newest checkpoint, or None before the first.

    Raises:
        CheckpointError: it is damaged.
    """
    checkpoints = _checkpoints(Path(folder))
    if not checkpoints and (broken := sorted(Path(folder).glob("checkpoint-*"))):
        raise CheckpointError(f"{broken[-1]} is damaged: it has no {STATE}; use another copy of the run")
    return checkpoints[-1] if checkpoints else None


def read_state(checkpoint: Path, config: Config) -> CheckpointState:
    """Return the state of a checkpoint.

    Raises:
        CheckpointError: it is damaged, or was made with another configuration than `config`.
    """
    path = checkpoint / STATE
    values = read_json(path)
    if not isinstance(values, dict) or values.pop("state_sha256", None) != _digest(values):
        raise CheckpointError(f"{path} is damaged: its checksum does not match; use another copy of the run")
    state = CheckpointState.from_json(values)
    # A field that the checkpoint lacks was added later; its default is what held before.
    ours, theirs = config.to_dict(), Config.from_dict(state.config).to_dict()
    for name in sorted(ours):
        if ours[name] != theirs[name]:
            raise CheckpointError(
                f"{checkpoint} is from another configuration: {name} is {theirs[name]!r} there and {ours[name]!r} in "
                f"the run's {CONFIG}"
            )
    return state


def read_tensors(checkpoint: Path, state: CheckpointState, name: str) -> Tensors:
    """Return the tensors of `last`, `best`, `training` or `optimizer`. Their checksum is verified before parsing.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = checkpoint / f"{name}.safetensors"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: the checkpoint is damaged") from None
    if hashlib.sha256(data).hexdigest() != state.sha256.get(name):
        if data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise CheckpointError(f"{path} is a pickle, not safetensors: pickles can run code and are never opened")
        raise CheckpointError(
            f"{path} is damaged: its checksum is not the one in state.json; use another copy of the run"
        )
    try:
        return load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def load_detector(detector: nn.Module, checkpoint: Path, state: CheckpointState, name: str) -> None:
    """Load the tensors of `last`, `best` or `training` into a detector.

    Raises:
        CheckpointError: they are missing, damaged, or do not fit the detector.
    """
    try:
        detector.load_state_dict(read_tensors(checkpoint, state, name))
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint} does not fit the run's configuration: {str(error).splitlines()[-1].strip()}"
        ) from None


def save_maps(folder: str | Path, calibration: dict[str, Moments], digest: str) -> None:
    """Write maps.safetensors of a run.

    Args:
        folder: the run folder.
        calibration: as `scoring.maps.calibrate_maps` returns it.
        digest: sha256 of the weights of the calibrated detector.
    """
    tensors = {
        f"{name}.{moment}": values.cpu().contiguous()
        for name, moments in calibration.items()
        for moment, values in zip(("mean", "std"), moments)
    }
    with replacing(Path(folder) / MAPS, "wb") as file:
        file.write(save(tensors, {"detector": digest}))


def read_maps(folder: str | Path, digest: str) -> dict[str, Moments] | None:
    """Return what `save_maps` wrote, on the CPU; None where it is missing or of another detector.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = Path(folder) / MAPS
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("detector") != digest:
                return None
            names = dict.fromkeys(key.rsplit(".", 1)[0] for key in file.keys())
            return {name: tuple(file.get_tensor(f"{name}.{moment}") for moment in ("mean", "std")) for name in names}
    except SafetensorError:
        raise CheckpointError(
            f"{path} is damaged: remove it, and python -m fastsquid.train --resume {folder} writes it again"
        ) from None


def load_optimizers(optimizers: dict[str, torch.optim.Optimizer], checkpoint: Path, state: CheckpointState) -> None:
    """Load the saved state of the optimizers, each tensor in the memory layout of its parameter.

    Args:
        optimizers: dict of optimizers by name, as `save_checkpoint` took them.
        checkpoint, state: Path of the checkpoint, and what `read_state` returned for it.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    tensors = read_tensors(checkpoint, state, "optimizer")
    for name, optimizer in optimizers.items():
        loaded = {}
        for key, tensor in tensors.items():
            owner, index, field = key.split(".")
            if owner == name:
                loaded.setdefault(int(index), {})[field] = tensor
        optimizer.load_state_dict({"state": loaded, "param_groups": optimizer.state_dict()["param_groups"]})
        # The file holds contiguous tensors. CUDA's fused Adam requires moments with the strides of their parameter.
        for parameter, fields in optimizer.state.items():
            for field, tensor in fields.items():
                if tensor.shape == parameter.shape:
                    fields[field] = torch.empty_like(parameter).copy_(tensor)


def _digest(state):
    """sha256 of a JSON document, whatever its layout on disk."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _optimizer_tensors(optimizers):
    return {
        f"{name}.{index}.{field}": tensor
        for name, optimizer in optimizers.items()
        for index, fields in optimizer.state_dict()["state"].items()
        for field, tensor in fields.items()
    }


def _write_tensors(path, tensors):
    """Writes and returns the sha256. Through a file of our own, so that a full disk is an ordinary OSError."""
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    with replacing(path, "wb") as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _checkpoints(folder):
    return sorted(path for path in folder.glob("checkpoint-*") if (path / STATE).is_file())


def _sync(folder):
    """Makes a rename durable, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
