"""`python bench/resolution.py DATA OUT`: what detail is worth to `fastsquid`, and whether full size can be better.

Trains `fastsquid-small` on images that were reduced to 32 x 32 pixels and enlarged to 64 x 64 again, with three seeds.
Nothing else differs from the preset.

The small files go to `bench/results/zhanglab/detector/reduced-to-32`, with each run's AUC of changed images, and
`python bench/results_page.py` makes the table. The same command continues what is unfinished.
"""

import argparse
from pathlib import Path

from collect import collect
from detector import RESULTS
from finetune import write_images

from fastsquid import evaluate, train
from fastsquid.data import open_data

SIDE = 32  # pixels that are left


def train_one(data, folder, seed):
    """Train one seed, and evaluate it on changed images: evaluation.json in its folder. True if it was stopped."""
    arguments = ["--resume", str(folder)]
    if not folder.exists():
        arguments = ["--data", str(data), "--preset", "fastsquid-small", "--seed", str(seed), "--out", str(folder)]
    if train.main([*arguments, "--precision", "fp32", "--compile", "off"]):
        return True
    evaluate.main([str(folder), "--robustness", "--json", str(folder / "evaluation.json"), "--overwrite"])
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of X-rays with train/NORMAL and a labeled val")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()

    data = options.out / f"{SIDE}-pixels"
    write_images(open_data(options.data, size=SIDE, splits=("train", "val"), crop=True), data)
    for seed in options.seeds:
        folder = options.out / f"seed-{seed}"
        if not (folder / "evaluation.json").is_file() and train_one(data, folder, seed):
            return 130
    collect(options.out, RESULTS / f"reduced-to-{SIDE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
