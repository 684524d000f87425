"""Other libraries' methods on fastsquid's images: time, memory, validation AUC, and scores of the test images.

    python bench/peers.py DATA OUT [--only NAME ...] [--seeds 0 1 2] [--limit-minutes 30] [--features FILE]
    python bench/peer_table.py OUT                   keeps the small files in bench/results/peers, and writes the tables

Each method and seed is a process of its own, one after the other, with as many threads as OMP_NUM_THREADS says. It
leaves `OUT/METHOD/seed-N` with `record.json`, `scores-val.csv` and `scores-test.csv`. What has a record is skipped,
a failed run too: delete its record to try again. Labels are used for the validation AUC alone, after training.
Times are processor time of the process: with OMP_NUM_THREADS=1 it is what a run takes on an idle core.

The methods need the extras `peers` (anomalib, PyOD) and `features` (timm), in an environment of their own. anomalib
needs a torchvision that was built for the installed PyTorch, here for CPUs:

    pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu
    pip install '.[peers,features]'

Nothing is downloaded at run time: `--features` takes a local file with the weights of a timm model.
"""

import subprocess
import sys
import time
import traceback
from importlib import import_module, metadata
from pathlib import Path

import numpy as np
import torch
from peer_features import load_backbone
from peer_methods import Job, methods
from peer_table import RECORD, write_tables
from rows import about
from sklearn.metrics import roc_auc_score

import fastsquid
from fastsquid.config import preset
from fastsquid.data import open_data
from fastsquid.errors import UserError
from fastsquid.evaluation.metrics import require_both_classes
from fastsquid.runs.folder import write_scores
from fastsquid.utils.cli import Parser, run_command
from fastsquid.utils.devices import peak_memory_mb
from fastsquid.utils.files import write_json

LOG = "log.txt"


def parser():
    """The command's argument parser."""
    parser = Parser(prog="python bench/peers.py", description="Compare other libraries' methods on the same images.")
    parser.add_argument("data", help="data with healthy training images and a labeled val")
    parser.add_argument("out", type=Path, help="folder of the runs; the same command continues it")
    parser.add_argument("--preset", default="fastsquid-small", help="whose images all get; it is a row too")
    parser.add_argument("--size", type=int, help="side of the images; default: the preset's")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="methods to run; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--limit-minutes",
        type=float,
        default=30,
        help="of processor time for one training; anomalib's models end there, others fail; default: %(default)g",
    )
    parser.add_argument(
        "--features", type=Path, metavar="FILE", help="weights of a timm model, for patchcore and padim"
    )
    parser.add_argument("--backbone", default="resnet18", help="name of that model; default: %(default)s")
    parser.add_argument("--here", action="store_true", help="run one method and seed in this process")
    return parser


def open_images(options):
    """The splits that all methods get, decoded once and kept in OUT; val is labeled."""
    config = preset(options.preset)
    size = options.size or config.image_size
    data = open_data(options.data, size, crop=config.crop, cache=options.out / "cache")
    if "val" not in data or data["val"].labels is None:
        raise UserError(f"{options.data} has no labeled val split: the methods cannot be compared")
    require_both_classes(data["val"].labels, f"the val split of {options.data}")
    return data


def run(name, seed, options):
    """Train and score one method, and write its scores and its record.

    Args:
        name: of the method.
        seed: of all that it draws.
        options: of the command.
    """
    method = methods(options.preset, options.features)[name]
    folder = options.out / name / f"seed-{seed}"
    for module in method.modules:
        import_module(module)
    data = open_images(options)
    val = data["val"]
    torch.manual_seed(seed)
    np.random.seed(seed)
    cache = options.out / "cache"
    job = Job(options.data, folder, seed, cache, options.limit_minutes, options.features, options.backbone)

    start = time.process_time()
    fitted = method.fit(data["train"].images, job)
    trained = time.process_time() - start
    fitted.score(val.images[:8])  # what is allocated at the first call
    splits = [split for split in ("val", "test") if split in data]
    start = time.process_time()
    scores = {split: np.asarray(fitted.score(data[split].images), np.float64) for split in splits}
    scored = time.process_time() - start
    for split, values in scores.items():
        if values.shape != (len(data[split]),) or not np.isfinite(values).all():
            raise UserError(f"the {split} scores of {name} are not one finite number per image")

    write_scores(folder, data, {split: {"score": values} for split, values in scores.items()})
    record = {
        **started(name, seed, options),
        "images": {split: len(found) for split, found in data.items()},
        "settings": fitted.settings,
        "train_s": trained,
        "images_per_s": sum(map(len, scores.values())) / scored,
        "peak_mb": peak_memory_mb(),
        "auc": float(roc_auc_score(val.labels, scores["val"])),
    }
    write_json(folder / RECORD, record)


def started(name, seed, options):
    """What a record says of a run that may have failed."""
    method = methods(options.preset, options.features)[name]
    given = "".join(f" --{key} {value}" for key in ("preset", "size") if (value := getattr(options, key)) is not None)
    command = f"python bench/peers.py DATA OUT{given} --limit-minutes {options.limit_minutes:g}"
    if options.features:
        command += f" --features {options.features.name} --backbone {options.backbone}"
    return {
        "method": name,
        "library": method.library,
        "version": version(method.library),
        "seed": seed,
        "random": method.random,
        "image_size": options.size or preset(options.preset).image_size,
        "command": command,
        "about": about(torch.device("cpu")),
    }


def version(library):
    """The version of an installed package; empty if it is missing."""
    if library == "fastsquid":
        return fastsquid.__version__
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def run_apart(name, seed, options):
    """`run` in a process of its own. If it fails, its record has the reason, which is returned; else ""."""
    folder = options.out / name / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, options.data, options.out, "--preset", options.preset]
    command += ["--only", name, "--seeds", seed, "--limit-minutes", options.limit_minutes, "--here"]
    if options.size:
        command += ["--size", options.size]
    if options.features:
        command += ["--features", options.features, "--backbone", options.backbone]
    with open(folder / LOG, "w", encoding="utf-8") as log:
        code = subprocess.run(list(map(str, command)), stdout=log, stderr=log).returncode
    if not code:
        return ""
    reason = last_line(folder / LOG, code)
    write_json(folder / RECORD, {**started(name, seed, options), "failed": reason})
    return reason


def last_line(path, code):
    """The last line of a failed process's log, which is its error; else what its exit code says."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if code > 0 else []
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if said else f"the process ended with code {code}"


def main(arguments=None):
    """Run what has no record yet."""
    options = parser().parse_args(arguments)
    found = methods(options.preset, options.features)
    names = options.only or list(found)
    for name in names:
        if name not in found:
            raise UserError(f"--only {name} is no method: choose from {', '.join(found)}")
    if options.here:
        try:
            return run(names[0], options.seeds[0], options)
        except Exception:
            traceback.print_exc()  # run_apart takes its last line
            return 1
    if options.features:
        load_backbone(options.features, options.backbone)
    options.out.mkdir(parents=True, exist_ok=True)
    open_images(options)
    for name in names:
        for seed in options.seeds if found[name].random else options.seeds[:1]:
            if (options.out / name / f"seed-{seed}" / RECORD).is_file():
                print(f"{name}, seed {seed}: has a record", flush=True)
                continue
            reason = run_apart(name, seed, options)
            print(f"{name}, seed {seed}: {f'failed: {reason}' if reason else 'finished'}", flush=True)
    print("\n".join(write_tables(options.out)))


if __name__ == "__main__":
    run_command(main)
