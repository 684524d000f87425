"""Make a model that fastsquid ships of a finished run: its folder, with weights in half the size.

    python -m fastsquid.train --data zhanglab --preset fastsquid-small --seeds 0 1 2 --precision fp32 --compile off \\
        --threads 1 --out runs/zhanglab
    python bench/ship.py runs/zhanglab/seed-0 fastsquid/models/zhanglab --data zhanglab

`--data` is what the run was trained on. Parameters are rounded to float16. Calibration, thresholds, heat maps, input
check, scores and metrics are then computed again with the rounded weights, by what training uses. Unlabeled test images
are not scored. The folder is an ordinary finished run without optimizer and pictures. It names no path: its data is the
name of the folder. It appears complete or not at all.
"""

import dataclasses
import shutil
from pathlib import Path

import torch

from fastsquid.errors import UserError
from fastsquid.model.detector import Detector
from fastsquid.runs.checkpoint import latest_checkpoint, read_state, read_tensors, save_checkpoint
from fastsquid.runs.data import fingerprint_of, open_run_data
from fastsquid.runs.folder import GALLERY, METRICS, create_run, is_finished, new_folder, read_run, read_summary
from fastsquid.runs.records import RunRecord
from fastsquid.runs.trained import load_run
from fastsquid.scoring.scores import standardize
from fastsquid.training.results import measure_detector, report_run
from fastsquid.utils.cli import Parser, run_command
from fastsquid.utils.text import printable


def rounded(detector: Detector) -> dict[str, torch.Tensor]:
    """Return a detector's state dict with parameters in float16, and load it into the detector.

    Buffers, such as the statistics of BatchNorm, are small and keep their precision.

    Raises:
        UserError: a parameter is larger than float16 can hold.
    """
    parameters = dict(detector.named_parameters())
    tensors = {name: t.half() if name in parameters else t for name, t in detector.state_dict().items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"{name} does not fit into float16: train with a lower --lr")
    detector.load_state_dict(tensors)
    return tensors


def require_shippable(run: Path, record: RunRecord) -> None:
    """Check that a run can be shipped.

    Raises:
        UserError: it is not finished, was not trained from the beginning here, or labels have chosen its epoch.
    """
    if not is_finished(run):
        raise UserError(f"{run} is not finished: continue with python -m fastsquid.train --resume {run}")
    if record.converted or record.init:
        raise UserError(f"{run} began with other weights: give a run that was trained from the beginning")
    if load_run(run).checkpoint != "last":
        raise UserError(f"validation labels have chosen the epoch of {run}: give a run with --select last")


def ship(run: Path, out: Path, source: str) -> None:
    """Write the folder of a shipped model.

    Args:
        run: finished run.
        out: folder to make, named as the model.
        source: path of the data that the run was trained on.

    Raises:
        UserError: the run cannot be shipped, `out` exists, or the data is another.
    """
    record = read_run(run)
    if out.exists():
        raise UserError(f"{out} exists: remove it, or give another folder")
    require_shippable(run, record)
    data = open_run_data(record, source, splits=("train", "val"), contamination=record.config.contamination)
    if "train" not in data or fingerprint_of(data["train"]) != record.fingerprint:
        raise UserError(f"{source} does not hold the training images of {run}: give the same data")
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None  # the run is finished
    state, normal = read_state(checkpoint, record.config), data["train"].images
    detector = Detector(record.config).eval()
    detector.load_state_dict(read_tensors(checkpoint, state, "last"))
    rounded(detector)
    standardize(detector, normal)
    last = dataclasses.replace(measure_detector(detector, data, normal), epoch=state.epoch)
    with new_folder(out) as folder:
        create_run(folder, dataclasses.replace(record, data=out.name))
        shutil.copyfile(run / METRICS, folder / METRICS)
        state = dataclasses.replace(state, last=last)
        save_checkpoint(folder, state, rounded(detector), optimizers={})
        written = latest_checkpoint(folder)
        assert written is not None
        state = read_state(written, record.config)
        report_run(folder, detector, data, normal, state, record.seed, read_summary(run).facts)
        (folder / GALLERY).unlink(missing_ok=True)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{printable(out)}: {size / 1e6:.1f} MB")


def main(arguments: list[str] | None = None) -> None:
    """Write the folder of a shipped model."""
    parser = Parser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=Path, help="finished run folder")
    parser.add_argument("out", type=Path, help="folder to make, fastsquid/models/NAME")
    parser.add_argument("--data", required=True, help="what the run was trained on")
    options = parser.parse_args(arguments)
    ship(options.run, options.out, options.data)


if __name__ == "__main__":
    run_command(main)
