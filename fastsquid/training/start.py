"""From a run's record to a trained run: open its data, build its detector, make or resume its folder."""

import dataclasses
import gc
import logging
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch

from ..config import Config
from ..data import known_source, to_unit
from ..data.dicom.patients import age_range
from ..data.duplicates import count_copies
from ..data.sources import source_of
from ..data.split import Split
from ..errors import UserError
from ..model.detector import Detector
from ..models import MODELS, model_folder, resolve, shipped_name
from ..ops.dispatch import HAS_TRITON
from ..runs import checkpoint as ckpt
from ..runs.data import fingerprint_of, open_run_data, open_training_data
from ..runs.folder import CONFIG, create_run, training_lock, write_drawn
from ..runs.group import create_group
from ..runs.records import GroupRecord, RunRecord
from ..runs.trained import load_run, load_weights
from ..utils import distributed
from ..utils.devices import multiplies_bfloat16
from .announce import describe_data, describe_settings
from .loop import Run
from .tensorboard import require_tensorboard

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Speed:
    """How a run is trained; this changes only rounding and speed.

    Attributes:
        compile: `auto`, `on` or `off`: torch.compile of both networks. `auto` compiles on a GPU.
        precision: `auto`, `fp32` or `bf16`, of convolutions and projections. `auto` is bf16 on a GPU or CPU that
            multiplies it natively.
        impl: `auto`, `triton` or `torch`, of the memory read and the neighbor attention.
        cache: folder of decoded images, as `open_data` takes it.
    """

    compile: Literal["auto", "on", "off"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    impl: Literal["auto", "triton", "torch"] = "auto"
    cache: str | None = None


def train_run(
    folder: Path,
    record: RunRecord,
    speed: Speed,
    device: torch.device,
    group: GroupRecord | None = None,
    tensorboard: bool = False,
    again: str = "",
) -> bool:
    """Train one run to its end and write its report.

    Args:
        folder: the run folder, to make or to resume.
        record: config.json of a run that is resumed, or the record that a new run begins with.
        speed: compilation, precision and kernels.
        device: to train on.
        group: the group that a new run belongs to, or None.
        tensorboard: write losses and validation for TensorBoard too.
        again: options to give beside --resume, for the message of a job whose process has ended.

    Returns:
        False if a signal stopped the training; the folder can be resumed.

    Raises:
        UserError: the data cannot be trained on, another training has this folder, or another process of the job has
            ended.
        DivergedError: losses or weights are not finite.
    """
    gc.collect()  # networks of an earlier run are in reference cycles: these would otherwise join them on the device
    torch.compiler.reset()  # PyTorch compiles only so many networks in one process
    begun = folder if group is None else folder.parent

    def remedy() -> str:
        if not begun.exists():
            return "give the same command again"
        return f"continue with {distributed.command('fastsquid.train')} --resume {shlex.quote(str(begun))}{again}"

    try:
        with distributed.job(remedy), ExitStack() as held:
            if record.fingerprint is not None:  # it has begun
                _lock(held, folder)
            return _train_run(folder, record, speed, device, group, tensorboard, held)
    except KeyboardInterrupt:
        if not (folder / CONFIG).is_file():
            raise
        return False


def default_preset(data: str | None, device: torch.device) -> str:
    """Return the preset of a new run for which none is given.

    Args:
        data: path of the data, or None for DigitAnatomy.
        device: to train on.

    Returns:
        `digits` for DigitAnatomy; for other data `fastsquid`, or on a CPU `fastsquid-small`, which takes minutes
        instead of hours there.
    """
    if data is None or (Path(data).exists() and source_of(Path(data)).name == "digits"):
        return "digits"
    return "fastsquid-small" if device.type == "cpu" else "fastsquid"


def describe_init(folder: str | Path) -> tuple[dict[str, Any], RunRecord]:
    """Return what a run records about another run whose weights it begins with.

    Args:
        folder: of the other run, or the name of a shipped model.

    Returns:
        a dict, and the other run's record. The dict holds `run`, the other run's path or the shipped model's name;
        `checkpoint`, `best`, or `last` where it has no best; `sha256` of the weights; and `trained_on`, the training
        images of that run.

    Raises:
        CheckpointError: the run or its checkpoint is missing, or the checkpoint is damaged.
    """
    folder = resolve(folder)
    theirs = load_run(folder)
    name = shipped_name(folder) or str(folder.resolve())
    init = {"run": name, "checkpoint": theirs.checkpoint, "sha256": theirs.weights}
    return {**init, "trained_on": theirs.record.trained_on}, theirs.record


def require_idle(folders: Sequence[Path]) -> None:
    """Check that no other process trains one of these run folders.

    Raises:
        UserError: one does.
    """
    with ExitStack() as held:
        _lock(held, *folders)


def _lock(held: ExitStack, *folders: Path) -> None:
    """Keep other trainings out of the run folders until `held` closes. The processes of one job share the locks.

    Raises:
        UserError: another training has one of them. Every process of the job raises it.
    """
    problem = None
    if distributed.leads():
        try:
            for folder in folders:
                held.enter_context(training_lock(folder))
        except UserError as error:
            problem = str(error)
    if problem := distributed.gather(problem)[0]:
        raise UserError(problem)


def _train_run(
    folder: Path,
    record: RunRecord,
    speed: Speed,
    device: torch.device,
    group: GroupRecord | None,
    tensorboard: bool,
    held: ExitStack,
) -> bool:
    if tensorboard:
        require_tensorboard()
    if (latest := ckpt.latest_checkpoint(folder)) is not None:  # before images are read
        ckpt.read_state(latest, record.config)
    _check_batchnorm(record.config, device)
    compile, precision = _choose_speed(speed, device)
    data, copies = open_training_data(record, (folder if group is None else folder.parent).exists(), speed.cache)
    if "train" not in data:
        raise UserError(f"{record.data} has no training images: put normal images in train/NORMAL")
    log.info(describe_data(record.data, data))
    log.info(describe_settings(record.config, record.seed, device, precision, compile))
    fingerprint = fingerprint_of(data["train"])
    _check_processes(record.config, len(data["train"]), fingerprint)

    torch.manual_seed(record.seed)
    detector = Detector(record.config, speed.impl).to(device)
    if record.init is not None and ckpt.latest_checkpoint(folder) is None:
        _load_init(detector, record.init)
    if speed.impl == "triton":  # if Triton cannot run, fail before there is a run folder
        detector.eval().scores(to_unit(data["train"].images[:1]).to(device))
    if record.fingerprint is None:
        if distributed.leads():
            record = dataclasses.replace(record, fingerprint=fingerprint, copies=count_copies(copies))
            _create(folder, record, group, data)
        distributed.gather(None)
        _lock(held, folder)
    elif fingerprint != record.fingerprint:
        raise UserError(
            f"{record.data or 'the data'} does not hold the training images that {folder} began with: "
            "put them back, or start a new run"
        )
    uncropped = _open_uncropped(record, speed.cache)
    return Run(folder, detector, data, record.seed, compile, precision, uncropped, tensorboard).train()


def _create(folder: Path, record: RunRecord, group: GroupRecord | None, data: dict[str, Split]) -> None:
    """Make a new run's folder, and its group's folder where there is a group."""
    if group is not None:
        create_group(folder.parent, group)
        if folder.exists():
            raise UserError(f"another process has begun {folder} meanwhile: wait until it has ended, or stop it")
    source = known_source(record.data)
    train = data["train"]
    known_ages = list(source.ages) if source and source.ages else None
    ages = age_range(train.ages or ()) or known_ages
    trained_on = {"images": len(train), "source": source.name if source else None}
    create_run(folder, dataclasses.replace(record, ages=ages, trained_on=trained_on))
    if any(split.drawn for split in data.values()):
        write_drawn(folder, data)


def _open_uncropped(record: RunRecord, cache: str | None) -> Split | None:
    """Open the validation images before cropping, for a run that monitors perturbations and crops; else None."""
    if not (record.config.monitor and record.config.crop and distributed.leads()):
        return None
    return open_run_data(record, record.data, splits=("val",), uncropped=True, cache=cache).get("val")


def _check_batchnorm(config: Config, device: torch.device) -> None:
    """Check that BatchNorm can be synchronized, if several processes should.

    Raises:
        UserError: it cannot, by PyTorch's SyncBatchNorm.
    """
    if not config.sync_batchnorm or distributed.world() == 1:
        return
    if device.type != "cuda":
        raise UserError("several processes have --sync-batchnorm true on GPUs only: leave it out, or use one process")
    if config.gradient_penalty:
        raise UserError(
            "--sync-batchnorm true has no second derivative, which --gradient-penalty needs: leave one of them out, or "
            "use one process"
        )


def _check_processes(config: Config, images: int, fingerprint: str) -> None:
    """Check that the processes of a job can train together; return when all have arrived here.

    Raises:
        UserError: a batch has fewer images than there are processes, or the processes read different images.
    """
    if min(config.batch_size, images) < distributed.world():
        raise UserError(
            f"{distributed.world()} processes cannot share batches of {min(config.batch_size, images)} images: use "
            "fewer processes or a larger --batch-size"
        )
    if len(set(distributed.gather(fingerprint))) > 1:
        raise UserError("the processes do not read the same training images: give all machines the same data")


def _load_init(detector: Detector, init: dict[str, Any]) -> None:
    """Load the weights that a run begins with into its detector.

    Raises:
        UserError: the other run's weights have changed, or do not fit.
    """
    run = init["run"]
    theirs = load_run(model_folder(run) if run in MODELS else run, init["checkpoint"])
    if theirs.weights != init["sha256"]:
        raise UserError(
            f"{run} no longer holds the weights that this run should begin with: put them back, or start a new run"
        )
    load_weights(detector, theirs)


def _choose_speed(speed: Speed, device: torch.device) -> tuple[bool, str]:
    """Return whether to compile, and the precision, `fp32` or `bf16`."""
    gpu = device.type == "cuda"
    compile = speed.compile == "on" or (speed.compile == "auto" and gpu and HAS_TRITON)
    if speed.precision != "auto":
        return compile, speed.precision
    return compile, "bf16" if multiplies_bfloat16(device) else "fp32"
