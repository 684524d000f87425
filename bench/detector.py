"""`python bench/detector.py DATA OUT`: train every variant of `fastsquid-small` that the study of negatives compares.

One group per variant, `OUT/VARIANT`, three seeds. Its small files go to `bench/results/zhanglab/detector/VARIANT`,
with each run's AUC of perturbed images; `python bench/results_page.py` makes the table. A variant that is finished is
skipped and a stopped one is resumed, so the same command continues the study. `--share 0 2` and `--share 1 2` split
the variants between two processes.
"""

import argparse
from pathlib import Path

from collect import collect

from fastsquid import evaluate, train
from fastsquid.runs.group import is_group

RESULTS = Path(__file__).parent / "results" / "zhanglab" / "detector"
# What each variant changes in the preset, most important first.
VARIANTS = {
    "negatives-none": dict(negatives="none"),
    "negatives-opacity": dict(negatives="opacity"),
    "negatives-both": dict(negatives="both"),
    "negatives-cutpaste": dict(negatives="cutpaste"),
    "cells-8-pixels": dict(discriminator_stride=8),
    "weight-0.3": dict(negative_weight=0.3),
    "weight-3": dict(negative_weight=3.0),
    "width-64": dict(discriminator_width=64),
    "width-256-slow": dict(discriminator_width=256, averaging=0.99, lr=3e-4),
    "no-average": dict(averaging=0.0),
    "average-0.995": dict(averaging=0.995, lr=5e-4),
    "average-0.995-slow": dict(averaging=0.995, lr=3e-4),
    "closer-0.5-slow": dict(closer=0.5, averaging=0.99, lr=3e-4),
    "epochs-20": dict(epochs=20),
    "epochs-30": dict(epochs=30),
    "size-128": dict(image_size=128),
    "appearance-1": dict(appearance=1.0),
    "size-128-appearance-1": dict(image_size=128, appearance=1.0),
    "decay-0": dict(weight_decay=0.0),
    "size-128-decay-0": dict(image_size=128, weight_decay=0.0),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of X-rays with train/NORMAL and a labeled val")
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=int, nargs=2, default=(0, 1), metavar=("NUMBER", "OF"), help="of the variants")
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of training")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    options = parser.parse_args()

    number, count = options.share
    for name in options.only[number::count]:
        if measure(name, VARIANTS[name], options.data, options.out, options.seeds, options.precision):
            return 130


def measure(name, changes, data, out, seeds, precision):
    """Train a variant, evaluate it on changed images, and keep its small files, unless they are there. True if stopped.

    Args:
        name: of its folders, in `out` and in `RESULTS`.
        changes: {field: value} in `fastsquid-small`.
        data: folder of X-rays.
        out: Path, folder of all variants.
        seeds, precision: as `fastsquid.train` takes them.
    """
    folder = out / name
    if (RESULTS / name / "summary.json").is_file():
        return False
    arguments = ["--resume", str(folder)]
    if not is_group(folder):
        arguments = ["--data", str(data), "--preset", "fastsquid-small", "--out", str(folder), "--seeds", *seeds]
        for field, value in changes.items():
            arguments += [f"--{field.replace('_', '-')}", str(value)]
    finished = (folder / "summary.json").is_file()
    if not finished and train.main([*arguments, "--precision", precision, "--compile", "off"]):
        return True
    for run in sorted(folder.glob("seed-*")):
        evaluate.main([str(run), "--robustness", "--json", str(run / "evaluation.json"), "--overwrite"])
    collect(folder, RESULTS / name)
    return False


if __name__ == "__main__":
    raise SystemExit(main())
