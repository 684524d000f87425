"""`python -m fastsquid.train`: trains a detector on normal images and leaves a run folder.

Without arguments: DigitAnatomy, the `digits` preset, on a GPU if there is one and else on the CPU.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from tqdm import tqdm

from . import checkpoint as ckpt
from . import plots
from .cli import Parser, add_device_options, choose_device, run_command
from .config import PRESETS, Config, preset
from .data import open_data
from .data.augment import augment
from .data.images import to_unit
from .errors import UserError
from .evaluation import calibrate, evaluate_run, print_table, score_images, validate
from .files import replacing, write_json
from .metrics import require_both_classes
from .model import Detector
from .training import Trainer


def main(arguments=None):
    options, changes = _parse(arguments)
    device = choose_device(options.device)
    if options.resume:
        folder = Path(options.resume)
        run = ckpt.read_run(folder)
    else:
        config = preset(options.preset, **changes)
        run = {"config": config, "seed": options.seed, "skip_unreadable": options.skip_unreadable,
               "data": options.data and str(Path(options.data).resolve())}
    config = run["config"]
    data = open_data(run["data"], config.image_size, run["seed"], run["skip_unreadable"])
    if "train" not in data:
        raise UserError(f"{run['data']} has no training images: put normal ones in train/NORMAL")
    for name in ("val", "test"):
        if name in data and data[name].labels is not None:
            require_both_classes(data[name].labels, f"the {name} split of {run['data']}")
    skipped = sum(split.skipped for split in data.values())
    if skipped:
        print(f"skipped {skipped} unreadable images", file=sys.stderr)
    fingerprint = _fingerprint(data["train"])

    torch.manual_seed(run["seed"])
    detector = Detector(config, options.impl).to(device)
    if options.resume:
        if fingerprint != run["fingerprint"]:
            raise UserError(f"{run['data'] or 'the data'} does not hold the training images that {folder} began with: "
                            "put them back, or start a new run")
    else:
        folder = Path(options.out) if options.out else _free_folder(options.preset)
        ckpt.create_run(folder, config, run["data"], run["seed"], run["skip_unreadable"], fingerprint)
    finished = Run(folder, detector, data, run["seed"], options.compile).train()
    if not finished:
        print(f"\nstopped; go on with: python -m fastsquid.train --resume {folder}")
        return 130
    print(f"run folder: {folder}")


class Run:
    """A run folder and everything that its next checkpoint must hold."""

    def __init__(self, folder, detector, data, seed, compile):
        self.folder, self.detector, self.config, self.seed = folder, detector, detector.config, seed
        self.device = next(detector.parameters()).device
        self.data = data
        self.images = data["train"].images.to(self.device)
        validation = data.get("val")
        self.validation = validation if validation is not None and validation.labels is not None else None
        self.trainer = Trainer(detector, compile)
        self.optimizers = {"generator": self.trainer.generator_optimizer, "discriminator": self.trainer.discriminator_optimizer}
        self.select = self.config.select if self.validation is not None else "last"
        # `best` describes best.safetensors, `last` last.safetensors: epoch, validation, calibration.
        self.state = {"epoch": 0, "iteration": 0, "sums": {}, "counts": {}, "seconds": 0.0, "finished": False, "best": None,
                      "last": None, "peak_memory_mb": 0.0}
        self.latest = ckpt.latest_checkpoint(folder)
        if self.latest:
            self.state = ckpt.read_state(self.latest, self.config)
            ckpt.load_detector(detector, self.latest, self.state, "last")
            ckpt.load_optimizers(self.optimizers, self.latest, self.state)
        self.history = self._read_history()
        self.stop = False

    def train(self):
        """Trains to the last epoch; False if it was interrupted (and saved) before."""
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.started = time.monotonic() - self.state["seconds"]
            while self.state["epoch"] < self.config.epochs:
                if not self._train_epoch():
                    self.state["last"] = {"epoch": self.state["epoch"], "validation": None, "calibration": None}
                    self._save()
                    return False
                self._end_epoch()
            if not self.state["finished"]:
                self._finish()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        self._report()
        return True

    def _train_epoch(self):
        epoch, state = self.state["epoch"], self.state
        lr = self.trainer.set_epoch(epoch)
        batches = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(_mixed(self.seed, epoch)))
        batches = batches.to(self.device).split(self.config.batch_size)
        self.detector.train()
        bar = tqdm(batches[state["iteration"]:], desc=f"epoch {epoch + 1}/{self.config.epochs}", unit="step",
                   initial=state["iteration"], total=len(batches), leave=False, disable=not sys.stderr.isatty())
        for batch in bar:
            # Every step has a seed of its own, so that a resumed run needs no random state.
            torch.manual_seed(_mixed(self.seed, epoch, state["iteration"]))
            images = augment(to_unit(self.images[batch]), self.config.shift, self.config.zoom)
            losses = self.trainer.step(images, state["iteration"])
            for name, loss in losses.items():
                value = loss.item()
                if not np.isfinite(value):
                    kept = ckpt.latest_checkpoint(self.folder)
                    raise UserError(
                        f"the {name} loss is {value} at step {state['iteration'] + 1} of epoch {epoch + 1}: training stopped; " +
                        (f"the last good checkpoint is {kept}" if kept else "no checkpoint had been written yet") +
                        "; a lower --lr may help")
                state["sums"][name] = state["sums"].get(name, 0.0) + value
                state["counts"][name] = state["counts"].get(name, 0) + 1
            state["iteration"] += 1
            bar.set_postfix(loss=f"{losses.get('generator', losses['discriminator']).item():.4g}", lr=f"{lr:.2g}")
            if self.stop:
                return False
        return True

    def _end_epoch(self):
        state = self.state
        line = {"epoch": state["epoch"] + 1, "lr": self.trainer.set_epoch(state["epoch"]),
                "losses": {name: total / state["counts"][name] for name, total in state["sums"].items()}}
        validation = validate(self.detector, self.validation) if self.validation is not None else None
        if validation:
            line["validation"] = {name: result["auc"] for name, result in validation.items()}
        state.update(epoch=state["epoch"] + 1, iteration=0, sums={}, counts={},
                     last={"epoch": state["epoch"] + 1, "validation": validation, "calibration": None})
        better = self.select == "auc" and (
            state["best"] is None or validation["discriminator"]["auc"] > state["best"]["validation"]["discriminator"]["auc"])
        if better:
            state["best"] = {**state["last"], "calibration": calibrate(self.detector, self.images)}
        line["seconds"] = round(time.monotonic() - self.started, 3)
        self.history.append(line)
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._save(best=better)
        _print_line(line, self.config.epochs, better)

    def _finish(self):
        best, last = self.state["best"], self.state["last"]
        same = best is not None and best["epoch"] == last["epoch"]
        last["calibration"] = best["calibration"] if same else calibrate(self.detector, self.images)
        self.state["finished"] = True
        self._save()

    def _save(self, best=False):
        self.state["seconds"] = time.monotonic() - self.started
        self.state["peak_memory_mb"] = max(self.state["peak_memory_mb"], _peak_memory_mb())
        tensors = self.detector.state_dict()
        ckpt.save_checkpoint(self.folder, {**self.state, "config": self.config.to_dict()}, tensors, self.optimizers,
                             best=tensors if best else None)

    def _report(self):
        """summary.json, curves and gallery, from the checkpoint that the run stands for."""
        latest = ckpt.latest_checkpoint(self.folder)
        state = ckpt.read_state(latest, self.config)
        name = "best" if state["best"] else "last"
        ckpt.load_detector(self.detector, latest, state, name)
        summary = {"preset": self.config.preset, "seed": self.seed, "epochs": self.config.epochs,
                   "seconds": round(state["seconds"], 1), "peak_memory_mb": round(state["peak_memory_mb"]),
                   "device": _device_name(self.device), "torch": torch.__version__, "threads": torch.get_num_threads()}
        summary.update(evaluate_run(self.detector, self.data, state, name))
        write_json(self.folder / "summary.json", summary)
        plots.curves(self.history, self.folder / "curves.png")
        split = self.data.get(summary["split"] or "train")
        draw_gallery(self.detector, split, state[name]["calibration"], self.folder / "gallery.png")
        print_table(summary)

    def _read_history(self):
        """Lines of metrics.jsonl up to the checkpoint; a killed run may have left one more, or half of one."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()[:self.state["epoch"]]
        with replacing(path) as file:
            file.writelines(line + "\n" for line in lines)
        return [json.loads(line) for line in lines]

    def _on_signal(self, number, frame):
        if self.stop:  # a second Ctrl-C does not wait
            raise KeyboardInterrupt
        self.stop = True


def draw_gallery(detector, split, calibration, path):
    """Eight images of a split, normal ones first, with what the detector makes of them."""
    if split.labels is None:
        chosen = np.linspace(0, len(split) - 1, min(8, len(split))).astype(int)
    else:
        normal, abnormal = (np.flatnonzero(split.labels.numpy() == label) for label in (0, 1))
        if split.kinds is not None:  # one of every kind
            kinds = np.asarray(split.kinds)
            abnormal = np.array([of_kind[len(of_kind) // 2] for kind in sorted(set(kinds[abnormal]))
                                 for of_kind in [np.flatnonzero(kinds == kind)]])
        chosen = np.concatenate([part[np.linspace(0, len(part) - 1, min(4, len(part))).astype(int)] for part in (normal, abnormal)])
    images = split.images[torch.as_tensor(chosen)]
    scores, reconstructions = score_images(detector, images)
    titles = []
    for row, index in enumerate(chosen):
        name = split.kinds[index] if split.kinds is not None else "" if split.labels is None else ("normal", "abnormal")[split.labels[index]]
        shown = [f"{short} {_standardised(scores[key][row], calibration[key]):+.1f}" for short, key in
                 (("D", "discriminator"), ("residual", "residual"), ("patch", "patch_residual"))]
        titles.append("\n".join([name, *shown]).strip())
    plots.gallery(to_unit(images)[:, 0].numpy(), reconstructions[:, 0].numpy(), titles,
                  None if split.cells is None else split.cells[torch.as_tensor(chosen)].numpy(), path)


def _standardised(score, calibration):
    return (score - calibration["mean"]) / max(calibration["std"], 1e-12)


def _print_line(line, epochs, better):
    losses = "  ".join(f"{name} {value:.4g}" for name, value in line["losses"].items() if name in ("student", "discriminator"))
    aucs = line.get("validation")
    text = f"epoch {line['epoch']}/{epochs}  {losses}"
    if aucs:
        text += f"  validation AUC: discriminator {aucs['discriminator']:.3f}  residual {aucs['residual']:.3f}  patch_residual {aucs['patch_residual']:.3f}"
    tqdm.write(f"{text}  {line['seconds']:.0f} s{'  best so far' if better else ''}")
    sys.stdout.flush()


def _fingerprint(split):
    """sha256 of the training images, so that a run is only resumed on what it began with."""
    digest = hashlib.sha256(json.dumps([split.names, list(split.images.shape)]).encode())
    digest.update(split.images.numpy().tobytes())
    return digest.hexdigest()


def _mixed(*numbers):
    """A 64-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _free_folder(name):
    number = 0
    while (folder := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return folder


def _peak_memory_mb():
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({os.cpu_count()} cores)"


def _parse(arguments):
    """The command's options, and the config fields among them as a dict."""
    parser = Parser(prog="python -m fastsquid.train", description="Train a detector on normal images.")
    parser.add_argument("--data", help="folder of images, MNIST files, CheXpert or COVIDx release; default: scikit-learn's digits")
    parser.add_argument("--preset", default="digits", help=", ".join(PRESETS))
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation")
    parser.add_argument("--out", help="run folder to make; default: the next free runs/PRESET-N")
    parser.add_argument("--resume", metavar="RUN", help="go on with an interrupted run, as it was begun")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out images that cannot be read, and count them")
    parser.add_argument("--compile", action="store_true", help="run both networks through torch.compile")
    add_device_options(parser)
    fields = [f for f in dataclasses.fields(Config) if f.name != "preset"]
    group = parser.add_argument_group("configuration", "change a field of the preset")
    for f in fields:
        names = dict.fromkeys([f"--{f.name.replace('_', '-')}", f"--{f.name}"])
        choices = get_args(f.type)
        group.add_argument(*names, dest=f.name, default=argparse.SUPPRESS, type=str if choices else _boolean if f.type is bool else f.type,
                           metavar="|".join(choices) if choices else f.type.__name__.upper(), help=f.metadata["help"])
    options = parser.parse_args(arguments)
    changes = {f.name: getattr(options, f.name) for f in fields if hasattr(options, f.name)}
    if options.resume:
        given = sys.argv[1:] if arguments is None else arguments
        allowed = ("--resume", "--device", "--impl", "--compile")
        for argument in given:
            if argument.startswith("--") and argument.split("=")[0] not in allowed:
                raise UserError(f"{argument.split('=')[0]} cannot be changed in a resumed run: --resume goes on as the run was begun "
                                f"(only {', '.join(allowed[1:])} may be given)")
    return options, changes


def _boolean(text):
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} should be true or false")
    return text.lower() == "true"


if __name__ == "__main__":
    run_command(main)
