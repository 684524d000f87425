"""Checkpoints: weights, optimizers and state of a training, complete on disk at any moment.

    checkpoint-000012/   state.json, and last, best, training and optimizer .safetensors
    maps.safetensors     mean and standard deviation of each heat map at every pixel, on normal images

A run folder holds one checkpoint. It is written beside the one before and renamed into place as a whole. Tensors are
safetensors and everything else is JSON: nothing is ever unpickled.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from ..config import Config
from ..errors import CheckpointError
from ..scoring.maps import Moments
from ..utils.files import replacing, require_regular, write_json
from .checks import config_of, require_fields
from .folder import CONFIG, MAPS, STATE, read_json
from .records import CheckpointState
from .sealed import damaged, read_sealed, save_sealed

Tensors = dict[str, torch.Tensor]
_NAME = re.compile(r"checkpoint-[0-9]{1,9}|\.checkpoint-[0-9]{1,9}\.tmp")


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
    number = _number(previous[-1]) + 1 if previous else 1
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
        document = {**state.to_json(), "sha256": digests, "number": number, "record": _lasting(folder)}
        write_json(temporary / STATE, {**document, "state_sha256": _digest(document)})
        _sync(temporary)
        os.rename(temporary, new)
        _sync(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    remove_others(new)


def remove_others(latest: Path) -> None:
    """Remove a run's checkpoints before its latest, and what a killed process left of others."""
    for other in latest.parent.iterdir():
        if other != latest and _NAME.fullmatch(other.name):
            shutil.rmtree(other, ignore_errors=True)


def latest_checkpoint(folder: str | Path) -> Path | None:
    """Return the path of a run's newest checkpoint, or None before the first.

    Raises:
        CheckpointError: it is damaged.
    """
    found = _folders(Path(folder))
    if not found:
        return None
    # A killed process leaves at most an older one without state.json.
    if not (found[-1] / STATE).is_file():
        raise CheckpointError(f"{found[-1]} is damaged: it has no {STATE}; use another copy of the run")
    return found[-1]


def read_state(checkpoint: Path, config: Config) -> CheckpointState:
    """Return the state of a checkpoint.

    Raises:
        CheckpointError: it is damaged, or was made with another configuration than `config`.
    """
    path = checkpoint / STATE
    values = read_json(path)
    if not isinstance(values, dict) or values.pop("state_sha256", None) != _digest(values):
        raise CheckpointError(f"{path} is damaged: its checksum does not match; use another copy of the run")
    require_fields(path, CheckpointState, values)
    state = CheckpointState.from_json(values)
    if wrong := _contradiction(state, config):
        raise CheckpointError(f"{path} is damaged: {wrong}; use another copy of the run")
    if state.number is not None and state.number != _number(checkpoint):
        raise CheckpointError(
            f"{checkpoint} is a copy of checkpoint-{state.number:06d}: remove it, or give it its name again"
        )
    # A field that the checkpoint lacks was added later; its default is what held before.
    ours, theirs = config.to_dict(), config_of(path, state.config).to_dict()
    for name in sorted(ours):
        if ours[name] != theirs[name]:
            raise CheckpointError(
                f"{checkpoint} is from another configuration: {name} is {theirs[name]!r} there and {ours[name]!r} in "
                f"the run's {CONFIG}"
            )
    now = _lasting(checkpoint.parent)
    if state.record is not None and now is not None:
        for name in sorted({*state.record, *now}):
            if state.record.get(name) != now.get(name):
                raise CheckpointError(
                    f"{checkpoint.parent / CONFIG} was changed: its {name} is not the one that {checkpoint.name} was "
                    "trained with; put it back"
                )
    return state


def _contradiction(state: CheckpointState, config: Config) -> str | None:
    """Return what cannot be true of a checkpoint whose fields have the right types, or None."""
    if not 0 <= state.epoch <= config.epochs or state.iteration < 0:
        return f"epoch {state.epoch} and step {state.iteration} do not exist"
    if state.last is None and (state.finished or state.epoch or state.iteration):
        return "it has no last detector"
    chosen = state.detector(state.chosen)
    if state.finished and chosen and chosen.epoch is not None and chosen.calibration is None:
        return f"its {state.chosen} detector is finished without a calibration"
    for name in ("best", "last"):
        known = state.detector(name)
        if known is None:
            continue
        if name not in state.sha256:
            return f"its sha256 has no {name}"
        for score in config.scores:
            if known.validation is not None and not {"auc", "threshold"} <= set(known.validation.get(score, ())):
                return f"its {name}.validation has no auc and threshold of {score}"
            if known.calibration is None:
                continue
            usual = known.calibration.get(score)
            if usual is None or usual.quantiles is not None and len(usual.quantiles) != 101:
                return f"its {name}.calibration has no {score} with 101 quantiles"
    return None


def read_tensors(checkpoint: Path, state: CheckpointState, name: str) -> Tensors:
    """Return the tensors of `last`, `best`, `training` or `optimizer`. Their checksum is verified before parsing.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = checkpoint / f"{name}.safetensors"
    try:
        require_regular(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: the checkpoint is damaged") from None
    digest = hashlib.sha256()
    with open(path, "rb") as file:  # in pieces: a wrong file may be larger than memory
        start = file.read(2)
        file.seek(0)
        while piece := file.read(2**24):
            digest.update(piece)
    if digest.hexdigest() != state.sha256.get(name):
        if start in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise CheckpointError(f"{path} is a pickle, not safetensors: pickles can run code and are never opened")
        raise CheckpointError(
            f"{path} is damaged: its checksum is not the one in state.json; use another copy of the run"
        )
    try:
        return load(path.read_bytes())
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
    save_sealed(Path(folder) / MAPS, tensors, {"detector": digest})


def read_maps(folder: str | Path, digest: str) -> dict[str, Moments] | None:
    """Return what `save_maps` wrote, on the CPU; None where it is missing or of another detector.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = Path(folder) / MAPS
    if not path.exists():
        return None
    tensors, facts = read_sealed(path)
    names = dict.fromkeys(key.rsplit(".", 1)[0] for key in tensors)
    complete = set(tensors) == {f"{name}.{moment}" for name in names for moment in ("mean", "std")}
    shapes = {tuple(tensor.shape) for tensor in tensors.values()}
    if "detector" not in facts or not complete or len(shapes) > 1:
        raise damaged(path)
    if facts["detector"] != digest:
        return None
    return {name: (tensors[f"{name}.mean"], tensors[f"{name}.std"]) for name in names}


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


def digest_history(lines: list[dict[str, Any]]) -> str:
    """Return the sha256 of lines of metrics.jsonl, as `CheckpointState.metrics_sha256` holds it."""
    return _digest(lines)


def _digest(state):
    """sha256 of a JSON document, whatever its layout on disk."""
    try:
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    except RecursionError:
        raise CheckpointError("state.json is damaged: it is nested too deeply; use another copy of the run") from None


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


def _folders(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first; those that are not complete too."""
    return sorted((path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)), key=_number)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in _folders(folder) if (path / STATE).is_file()]


def _number(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _lasting(folder: Path) -> dict[str, Any] | None:
    """Return the parts of config.json that no user changes, beside `config`; None without a config.json.

    The path of the data may change when a folder moves. The fingerprint says whether its images are the same.
    """
    if not (folder / CONFIG).is_file():
        return None
    values = read_json(folder / CONFIG)
    return {
        name: value for name, value in values.items() if name not in ("format", "config", "data", "fastsquid", "torch")
    }


def _sync(folder):
    """Makes a rename durable, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
