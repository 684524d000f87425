"""`python -m fastsquid.train`: trains a detector on normal images and leaves a run folder, or a group of them.

Without arguments: DigitAnatomy, the `digits` preset, on a GPU if there is one and else on the CPU.
"""

import argparse
import dataclasses
import gc
import hashlib
import json
import sys
from pathlib import Path
from typing import get_args

import torch

from . import checkpoint as ckpt
from .cli import Parser, add_device_options, choose_device, run_command
from .config import PRESETS, Config, preset
from .data import open_data, to_unit
from .errors import UserError
from .group import create_group, is_finished, is_group, read_group, report_group, seed_run
from .loop import Run
from .metrics import require_both_classes
from .model import Detector
from .ops.dispatch import HAS_TRITON


def main(arguments=None):
    options, changes = _parse(arguments)
    device = choose_device(options.device)
    if options.resume is not None:
        folder = Path(options.resume)
        if is_group(folder):
            return _train_group(folder, read_group(folder), options, device)
        return _train_single(folder, ckpt.read_run(folder), options, device)
    run = {
        "config": preset(options.preset, **changes),
        "skip_unreadable": options.skip_unreadable,
        "data": None if options.data is None else str(Path(options.data).resolve()),
    }
    folder = Path(options.out) if options.out else _free_folder(options.preset)
    ckpt.refuse_existing(folder)
    if options.seeds is not None:
        return _train_group(folder, {**run, "seeds": options.seeds}, options, device)
    return _train_single(folder, {**run, "seed": options.seed or 0}, options, device)


def _train_single(folder, run, options, device):
    if not _train_run(folder, run, options, device):
        return _stopped(folder)
    print(f"run folder: {folder}")


def _train_group(folder, group, options, device):
    """A run for each seed that has none or an unfinished one, and the summary of all."""
    for number, seed in enumerate(group["seeds"], 1):
        run_folder, run = seed_run(folder, group, seed)
        finished = is_finished(run_folder)
        print(f"seed {seed} ({number} of {len(group['seeds'])}): {run_folder}{' is finished' * finished}", flush=True)
        if not finished and not _train_run(run_folder, run, options, device, group):
            return _stopped(folder)
        gc.collect()  # the networks are in reference cycles: the next seed's would otherwise join them on the device
    report_group(folder)
    print(f"group folder: {folder}")


def _stopped(folder):
    print(f"\nstopped; go on with: python -m fastsquid.train --resume {folder}")
    return 130


def _train_run(folder, run, options, device, group=None):
    """Trains one run to its end and reports; False if a signal stopped it before.

    Args:
        run: config.json of a run that is resumed, or what a new one begins with.
        group: what a new run's group is to record before there is a run folder, or None.
    """
    data = _open_data(run)
    fingerprint = _fingerprint(data["train"])

    torch.manual_seed(run["seed"])
    detector = Detector(run["config"], options.impl).to(device)
    if options.impl == "triton":  # where it cannot run, say so before there is a run folder
        detector.eval().scores(to_unit(data["train"].images[:1]).to(device))
    if "fingerprint" not in run:
        if group is not None:
            create_group(folder.parent, group)
        ckpt.create_run(folder, **run, fingerprint=fingerprint)
    elif fingerprint != run["fingerprint"]:
        raise UserError(
            f"{run['data'] or 'the data'} does not hold the training images that {folder} began with: "
            "put them back, or start a new run"
        )
    compile, precision = _choose_speed(options, device)
    return Run(folder, detector, data, run["seed"], compile, precision).train()


def _choose_speed(options, device):
    """Whether to compile, and the precision, where the options leave it open."""
    gpu = device.type == "cuda"
    compile = options.compile == "on" or (options.compile == "auto" and gpu and HAS_TRITON)
    if options.precision != "auto":
        return compile, options.precision
    return compile, "bf16" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def _open_data(run):
    """The run's splits, after everything that training or its report would stumble over is refused."""
    data = open_data(run["data"], run["config"].image_size, run["seed"], run["skip_unreadable"])
    if "train" not in data:
        raise UserError(f"{run['data']} has no training images: put normal ones in train/NORMAL")
    for name in ("val", "test"):
        if name in data and data[name].labels is not None:
            require_both_classes(data[name].labels, f"the {name} split of {run['data']}")
    skipped = sum(split.skipped for split in data.values())
    if skipped:
        print(f"skipped {skipped} unreadable image{'s' * (skipped > 1)}", file=sys.stderr)
    return data


def _fingerprint(split):
    """sha256 of the training images, so that a run is only resumed on what it began with."""
    digest = hashlib.sha256(json.dumps([split.names, list(split.images.shape)]).encode())
    digest.update(split.images.numpy())
    return digest.hexdigest()


def _free_folder(name):
    number = 0
    while (folder := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return folder


def _parse(arguments):
    """The command's options, and the config fields among them as a dict."""
    parser = Parser(prog="python -m fastsquid.train", description="Train a detector on normal images.")
    parser.add_argument(
        "--data", help="folder of images, MNIST files, CheXpert or COVIDx release; default: scikit-learn's digits"
    )
    parser.add_argument("--preset", default="digits", help=f"{', '.join(PRESETS)}; default: digits")
    parser.add_argument("--seed", type=_seed, help="seed of weights, order and augmentation; default: 0")
    parser.add_argument(
        "--seeds", type=_seed, nargs="+", metavar="SEED", help="a group: a run for each of these, and their mean"
    )
    parser.add_argument("--out", help="run or group folder to make; default: the next free runs/PRESET-N")
    parser.add_argument("--resume", metavar="RUN", help="go on with an interrupted run or group, as it was begun")
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave out images that cannot be read, and count them"
    )
    parser.add_argument(
        "--compile",
        default="auto",
        choices=["auto", "on", "off"],
        help="torch.compile for both networks, and CUDA graphs of whole steps; auto: on a GPU. The first step then "
        "takes minutes, unless an earlier run left its compilations in PyTorch's cache",
    )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "fp32", "bf16"],
        help="of convolutions and projections in training; auto: bf16 on a GPU that has it",
    )
    add_device_options(parser)
    fields = [f for f in dataclasses.fields(Config) if f.name != "preset"]
    group = parser.add_argument_group("configuration", "change a field of the preset, which is the default of each")
    for f in fields:
        names = dict.fromkeys([f"--{f.name.replace('_', '-')}", f"--{f.name}"])
        choices = get_args(f.type)
        kind = str if choices else {bool: _boolean}.get(f.type, f.type)
        group.add_argument(
            *names,
            dest=f.name,
            default=argparse.SUPPRESS,
            type=kind,
            help=f.metadata["help"],
            metavar="|".join(choices) or f.type.__name__.upper(),
        )
    options = parser.parse_args(arguments)
    changes = {f.name: getattr(options, f.name) for f in fields if hasattr(options, f.name)}
    if options.data == "":
        raise UserError("--data is empty: give a folder, or leave it out for DigitAnatomy")
    if options.seeds is not None:
        if options.seed is not None:
            raise UserError("--seed and --seeds are both given: use --seed for one run, --seeds for a group of runs")
        for seed in options.seeds:
            if options.seeds.count(seed) > 1:
                raise UserError(f"--seeds has {seed} more than once: give each seed once")
    if options.resume is not None:
        given = sys.argv[1:] if arguments is None else arguments
        allowed = ("--resume", "--device", "--impl", "--compile", "--precision")
        for argument in given:
            if argument.startswith("--") and argument.split("=")[0] not in allowed:
                raise UserError(
                    f"{argument.split('=')[0]} cannot be changed in a resumed run, which goes on as it was begun "
                    f"(only {', '.join(allowed[1:])} may be given)"
                )
    return options, changes


def _seed(text):
    if not text.isdecimal() or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number from 0 to 2**64 - 1")
    return int(text)


def _boolean(text):
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} should be true or false")
    return text.lower() == "true"


if __name__ == "__main__":
    run_command(main)
