"""Run folders: what a training run leaves, complete at any moment.

    config.json          configuration, data and seed
    metrics.jsonl        a line an epoch
    checkpoint-000012/   state.json, last, best and optimizer .safetensors; one at a time, renamed into place whole
    scores-SPLIT.csv, curves.png, gallery.png    at the end
    maps.safetensors     what is normal at every pixel, for the detector that the run stands for
    input-check.safetensors    what the training images look like (unlike.py)
    summary.json         after them: a run that has one is finished

Tensors are safetensors and everything else is JSON: nothing is ever unpickled.
"""

import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from . import __version__
from .config import Config
from .errors import UserError
from .files import replacing, write_json
from .model import Detector

FORMAT = 1


class CheckpointError(UserError):
    """A run folder or checkpoint that is missing, damaged or of another configuration."""


def refuse_existing(folder):
    """Raises UserError if a new run's folder exists."""
    if Path(folder).exists():
        raise UserError(f"{folder} exists: choose another --out, or go on with --resume {folder}")


def create_run(
    folder,
    config,
    data,
    seed,
    skip_unreadable,
    fingerprint,
    anonymous=False,
    ages=None,
    trained_on=None,
    init=None,
    converted=None,
):
    """Makes a run folder with its config.json, in one step.

    Args:
        folder: to make.
        config: a `Config`.
        data: path of the training data as text, or None for DigitAnatomy; of a converted run of the data that it was
            calibrated on, or None without any.
        seed, skip_unreadable, anonymous: as `open_data` takes them.
        fingerprint: of the training images.
        ages: lowest and highest of the training images' patients in years, or None.
        trained_on: for reports, {"images": how many, "source": as `data.known_source` gives it}.
        init: the weights that it begins with, as `launch.describe_init` gives them, or None.
        converted: of a run that fastsquid.convert makes {"system": `squid` or `simsid`, "generator" and
            "discriminator": sha256 of the published files, "images": how many it is calibrated on}, or None.

    Raises:
        UserError: the folder exists.
    """
    create_folder(
        folder,
        "config.json",
        {
            "format": FORMAT,
            "fastsquid": __version__,
            "torch": torch.__version__,
            "data": data,
            "seed": seed,
            "skip_unreadable": skip_unreadable,
            "anonymous": anonymous,
            "init": init,
            "converted": converted,
            "ages": ages,
            "fingerprint": fingerprint,
            "trained_on": trained_on,
            "config": config.to_dict(),
        },
    )


def create_folder(folder, name, document):
    """Makes a folder with one JSON file in it, in one step.

    Raises:
        UserError: the folder exists.
    """
    with new_folder(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / name, document)


@contextmanager
def new_folder(folder):
    """A name for the block to make a folder of; it takes the name `folder` when the block ends well, and vanishes else.

    Raises:
        UserError: the folder exists.
    """
    folder = Path(folder)
    refuse_existing(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_run(folder):
    """config.json of a run folder, with `config` as a `Config`."""
    folder = Path(folder)
    if folder.is_file():
        raise CheckpointError(
            f"{folder} is a file, not a run folder: give the folder that fastsquid.train wrote "
            "(checkpoints of other programs are never opened, since pickles can run code)"
        )
    if not (folder / "config.json").is_file():
        inside = sorted(folder.glob("[!.]*/config.json"))  # of a group, or of the folder above the runs
        raise CheckpointError(
            f"{folder} is not a run folder: it has no config.json; give the folder that fastsquid.train wrote"
            + (f", such as {inside[0].parent}" if inside else "")
        )
    run = read_json(folder / "config.json")
    if not isinstance(run, dict) or run.get("format") != FORMAT or not isinstance(run.get("config"), dict):
        raise CheckpointError(f"{folder / 'config.json'} is not a configuration of this version of fastsquid")
    missing = {"data", "seed", "skip_unreadable", "fingerprint"} - set(run)
    if missing:
        raise CheckpointError(f"{folder / 'config.json'} is damaged: it has no {sorted(missing)[0]}")
    run = {"anonymous": False, "ages": None, "init": None, "converted": None, **run}  # which older runs do not have
    ages = run["ages"]
    if ages is not None and (not isinstance(ages, list) or len(ages) != 2 or {*map(type, ages)} - {int, float}):
        raise CheckpointError(f"{folder / 'config.json'} is damaged: its ages should be two numbers or null")
    return {**run, "config": Config.from_dict(run["config"])}


def data_of(folder, run, given=None):
    """Path of the data that a command looks at, as `open_data` takes it.

    Args:
        folder, run: a run folder and what `read_run` gave of it.
        given: what --data says, or None for the run's own.

    Raises:
        UserError: a converted run that has no data of its own.
    """
    if not given and run["converted"] and run["data"] is None:
        raise UserError(f"{folder} was converted without data: say by --data which images to look at")
    return given or run["data"]


def why_uncalibrated(folder, run):
    """What is to be said of a run, `read_run` of its folder, whose checkpoint has no calibration."""
    if run["converted"]:
        return (
            f"{folder} was converted without data, and is not calibrated: python -m fastsquid.convert with --data, a "
            "folder of normal images, makes one that is"
        )
    return f"{folder} has not finished, and is not calibrated: python -m fastsquid.train --resume {folder}"


def describe_seeds(seeds: list[int]) -> str:
    """Return the seed of a run, or the seeds of a group, for people."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def describe_checkpoint(name, epoch):
    """`best` or `last` and its epoch for people; converted weights have none, and a group has a list of them."""
    if isinstance(epoch, list):
        return f"{name} checkpoint of each run, epoch{'s' * (len(epoch) > 1)} {', '.join(map(str, epoch))}"
    return "converted weights" if epoch is None else f"{name} checkpoint, epoch {epoch}"


def load_run(folder, which=None, impl="auto", device="cpu"):
    """A trained detector from a run folder.

    Args:
        which: `best`, `last`, or None for the best where the run has one.

    Returns:
        the detector in eval mode, the run's config.json, the checkpoint's state, and `best` or `last`.

    Raises:
        CheckpointError: no checkpoint yet, or one that is damaged or of another configuration.
    """
    run = read_run(folder)
    latest = latest_checkpoint(folder)
    if latest is None:
        raise CheckpointError(f"{folder} has no checkpoint yet: go on with python -m fastsquid.train --resume {folder}")
    state = read_state(latest, run["config"])
    name = which or ("best" if state["best"] else "last")
    if state[name] is None:
        raise CheckpointError(
            f"{folder} has no best checkpoint, since none was chosen by an AUC: use --checkpoint last"
        )
    detector = Detector(run["config"], impl)
    load_detector(detector, latest, state, name)
    return detector.to(device).eval(), run, state, name


def save_checkpoint(folder, state, last, optimizers, best=None, training=None):
    """Writes the next checkpoint and removes the one before it.

    Args:
        folder: the run folder.
        state: JSON-able dict; `config` must be in it.
        last: state dict of the detector as it is.
        optimizers: dict of optimizers by name.
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
            digests["best"] = read_json(previous[-1] / "state.json")["sha256"]["best"]
        state = {**state, "sha256": digests}
        write_json(temporary / "state.json", {**state, "state_sha256": _digest(state)})
        _sync(temporary)
        os.rename(temporary, new)
        _sync(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in folder.glob("*checkpoint-*"):  # the one before, and what a killed process left of others
        if old != new:
            shutil.rmtree(old, ignore_errors=True)


def latest_checkpoint(folder):
    """Path of a run's newest checkpoint, or None before the first."""
    checkpoints = _checkpoints(Path(folder))
    if not checkpoints and (broken := sorted(Path(folder).glob("checkpoint-*"))):
        raise CheckpointError(f"{broken[-1]} is damaged: it has no state.json; use another copy of the run")
    return checkpoints[-1] if checkpoints else None


def read_state(checkpoint, config):
    """state.json of a checkpoint, refused where it was made with another configuration."""
    state = read_json(checkpoint / "state.json")
    if not isinstance(state, dict) or state.pop("state_sha256", None) != _digest(state):
        raise CheckpointError(
            f"{checkpoint / 'state.json'} is damaged: its checksum is not the one in it; use another copy of the run"
        )
    # A field that the checkpoint does not know is younger than it: its default is what there was before.
    ours, theirs = config.to_dict(), Config.from_dict(state["config"]).to_dict()
    for name in sorted(ours):
        if ours[name] != theirs[name]:
            raise CheckpointError(
                f"{checkpoint} is from another configuration: {name} is {theirs[name]!r} "
                f"there and {ours[name]!r} in the run's config.json"
            )
    return state


def read_tensors(checkpoint, state, name):
    """The tensors of `last`, `best`, `training` or `optimizer`; their bytes are checked before they are parsed."""
    path = checkpoint / f"{name}.safetensors"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: the checkpoint is damaged") from None
    if hashlib.sha256(data).hexdigest() != state["sha256"].get(name):
        if data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise CheckpointError(f"{path} is a pickle, not safetensors: pickles can run code and are never opened")
        raise CheckpointError(
            f"{path} is damaged: its checksum is not the one in state.json; use another copy of the run"
        )
    try:
        return load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def load_detector(detector, checkpoint, state, name):
    """Loads `last`, `best` or `training` into a detector."""
    try:
        detector.load_state_dict(read_tensors(checkpoint, state, name))
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint} does not fit the run's configuration: {str(error).splitlines()[-1].strip()}"
        ) from None


def save_maps(folder, calibration, digest):
    """Writes maps.safetensors of a run.

    Args:
        calibration: as `maps.calibrate_maps` gives it.
        digest: sha256, in the checkpoint's state, of the detector that was calibrated.
    """
    tensors = {
        f"{name}.{moment}": values.cpu().contiguous()
        for name, moments in calibration.items()
        for moment, values in zip(("mean", "std"), moments)
    }
    with replacing(Path(folder) / "maps.safetensors", "wb") as file:
        file.write(save(tensors, {"detector": digest}))


def read_maps(folder, digest):
    """What `save_maps` wrote, on the CPU, or None where it is missing or of another detector.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = Path(folder) / "maps.safetensors"
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


def load_optimizers(optimizers, checkpoint, state):
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


def read_json(path):
    """A JSON document, or a CheckpointError that names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # UnicodeDecodeError is one
        raise CheckpointError(f"{path} is damaged: it is not JSON") from None


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
    return sorted(path for path in folder.glob("checkpoint-*") if (path / "state.json").is_file())


def _sync(folder):
    """Makes a rename durable, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
