"""From a run's record to a trained run: its data, its detector, its folder; new, or resumed where it was left."""

from pathlib import Path

import torch

from ..data import known_source, to_unit
from ..data.dicom.patients import SOURCE_AGES, age_range
from ..errors import UserError
from ..model.detector import Detector
from ..ops.dispatch import HAS_TRITON
from ..runs import checkpoint as ckpt
from ..runs.data import fingerprint_of, open_run_data, open_uncropped
from ..runs.folder import create_run
from ..runs.group import create_group
from ..utils import distributed
from .loop import Run


def train_run(folder, run, options, device, group=None):
    """Train one run to its end and report; return False if a signal stopped it before, in a folder to resume.

    Args:
        run: config.json of a run that is resumed, or what a new one begins with.
        group: what a new run's group is to record before there is a run folder, or None.
    """
    begun = folder if group is None else folder.parent

    def remedy():
        if not begun.exists():
            return "give the same command again"
        return f"go on with {distributed.command('fastsquid.train')} --resume {begun}"

    try:
        with distributed.job(remedy):
            return _train_run(folder, run, options, device, group)
    except KeyboardInterrupt:
        if not (folder / "config.json").is_file():
            raise
        return False


def _train_run(folder, run, options, device, group):
    compile, precision = _choose_speed(options, device)
    data = open_run_data(run)
    if "train" not in data:
        raise UserError(f"{run['data']} has no training images: put normal ones in train/NORMAL")
    fingerprint = fingerprint_of(data["train"])
    _refuse_processes(run["config"], len(data["train"]), fingerprint)

    torch.manual_seed(run["seed"])
    detector = Detector(run["config"], options.impl).to(device)
    if run["init"] is not None and ckpt.latest_checkpoint(folder) is None:
        _load_init(detector, run["init"])
    if options.impl == "triton":  # where it cannot run, say so before there is a run folder
        detector.eval().scores(to_unit(data["train"].images[:1]).to(device))
    if "fingerprint" not in run:
        if distributed.leads():
            _create(folder, run, group, data["train"], fingerprint)
        distributed.barrier()
    elif fingerprint != run["fingerprint"]:
        raise UserError(
            f"{run['data'] or 'the data'} does not hold the training images that {folder} began with: "
            "put them back, or start a new run"
        )
    return Run(folder, detector, data, run["seed"], compile, precision, open_uncropped(run)).train()


def _create(folder, run, group, train, fingerprint):
    """The new run's folder, in its group's where there is one."""
    if group is not None:
        create_group(folder.parent, group)
    source = known_source(run["data"], train)
    ages = age_range(train.ages or ()) or SOURCE_AGES.get(source)
    trained_on = {"images": len(train), "source": source}
    create_run(folder, **run, fingerprint=fingerprint, ages=ages, trained_on=trained_on)


def _refuse_processes(config, images, fingerprint):
    """Raises UserError where the processes of a job cannot train together; all have come here when it returns."""
    if min(config.batch_size, images) < distributed.world():
        raise UserError(
            f"{distributed.world()} processes cannot share batches of {min(config.batch_size, images)} images: use at "
            "most as many processes, or a larger --batch-size"
        )
    if len(set(distributed.gather(fingerprint))) > 1:
        raise UserError("the processes do not read the same training images: give all machines the same data")


def describe_init(folder):
    """What a run records of another whose weights it begins with, and that run's config.json.

    Returns:
        dict of `run`, the folder's path; `checkpoint`, `best`, or `last` where it has no best; `sha256` of the
        weights; and whom that run was `trained_on`; and what `checkpoint.read_run` gives.

    Raises:
        CheckpointError: no such run, no checkpoint yet, or one that is damaged.
    """
    _, theirs, state, name = ckpt.load_run(folder)
    record = {"run": str(Path(folder).resolve()), "checkpoint": name, "sha256": state["sha256"][name]}
    return {**record, "trained_on": theirs.get("trained_on")}, theirs


def _load_init(detector, init):
    """Puts the weights that a run begins with into its detector."""
    theirs, _, state, _ = ckpt.load_run(init["run"], init["checkpoint"])
    if state["sha256"][init["checkpoint"]] != init["sha256"]:
        raise UserError(
            f"{init['run']} does not hold the weights any more that this run is to begin with: put them back, or start "
            "a new run"
        )
    try:
        detector.load_state_dict(theirs.state_dict())
    except RuntimeError:
        ours = detector.config.to_dict()
        differing = [
            name for name, value in theirs.config.to_dict().items() if value != ours[name] and name != "preset"
        ]
        raise UserError(
            f"the weights of {init['run']} do not fit this configuration, which differs in {', '.join(differing)}: "
            "leave out those that change the architecture"
        ) from None


def _choose_speed(options, device):
    """Whether to compile, and the precision, where the options leave it open."""
    gpu, alone = device.type == "cuda", distributed.world() == 1
    if options.compile == "on" and not alone:
        raise UserError("--compile on is for one process: leave it out under torchrun")
    compile = options.compile == "on" or (options.compile == "auto" and gpu and HAS_TRITON and alone)
    if options.precision != "auto":
        return compile, options.precision
    return compile, "bf16" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
