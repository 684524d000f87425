"""`python bench/tokens.py DATA OUT.csv RUN...`: how much of the in-painting memory is left in trained runs.

One row per run, over every fourth validation image. The tokens are what the memory is asked with. `weight` is the
median of |w| of the deepest encoder block's first convolution; `scale_low` and `scale_high` are the smallest and the
largest scale of its BatchNorm, which begin at 1. `dependence` says how much the rebuilt features depend
on the image: their mean standard deviation over images, over that of all of them together.
"""

import argparse
import csv
from pathlib import Path

import torch

from fastsquid.data import open_data, to_unit
from fastsquid.model.patches import to_patches
from fastsquid.runs.trained import load_run
from fastsquid.utils.files import replacing

FIELDS = ["preset", "pixels", "width", "seed", "epochs", "weight_decay", "lr"]
FIELDS += ["weight", "scale_low", "scale_high", "token_norm", "distance", "dependence"]


@torch.no_grad()
def row(data, folder):
    """{field: value} of a run."""
    run = load_run(folder, "last")
    generator, config = run.detector.generator, run.record.config
    images = open_data(data, config.image_size, splits=("val",), crop=config.crop)["val"].images[::4]
    deepest = generator.encoder(to_patches(run.detector.to_range(to_unit(images)), config.grid))[-1]
    tokens = generator.inpaint.reduce(deepest).flatten(1)
    rebuilt = generator.inpaint.rebuild(deepest)
    by_image = rebuilt.features.unflatten(0, (-1, config.patches))
    first, norm = generator.encoder.blocks[-1].conv1[:2]
    return {
        "preset": config.preset,
        "pixels": config.image_size,
        "width": config.width,
        "seed": run.record.seed,
        "epochs": run.epoch,
        "weight_decay": config.weight_decay,
        "lr": config.lr,
        "weight": f"{first.weight.abs().median().item():.3g}",
        "scale_low": f"{norm.weight.min().item():.4f}",
        "scale_high": f"{norm.weight.max().item():.4f}",
        "token_norm": f"{tokens.norm(dim=1).median().item():.3g}",
        "distance": f"{rebuilt.distance.median().item():.3g}",
        "dependence": f"{(by_image.std(0).mean() / by_image.std()).item():.3g}",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of X-rays with a labeled val")
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    options = parser.parse_args()
    with replacing(options.out) as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        for folder in options.runs:
            writer.writerow(row(options.data, folder))


if __name__ == "__main__":
    main()
