"""`python bench/finetune.py DATA OUT`: how much the shipped model helps with few healthy X-rays.

The data is ZhangLab's, darkened by gamma 2 as if another system had taken it, which the shipped model has not seen. Of
its training images the first 50 or 200 are kept, and all validation images. `fastsquid-small` is trained on them from
random weights, and the shipped model is fine-tuned in two ways: by the same number of steps at the same learning rate,
and by a third of them at a sixth of it. Validation labels choose nothing but the threshold. What has ended is not
repeated.
"""

import json
from pathlib import Path

import numpy as np
from rows import RESULTS
from write_images import write_images

from fastsquid import evaluate, train
from fastsquid.data import open_data
from fastsquid.drawing.curves import mean_deviation
from fastsquid.utils.allocator import keep_freed_memory
from fastsquid.utils.cli import Parser, run_command
from fastsquid.utils.files import replacing

MODEL, PRESET, SCORE = "zhanglab", "fastsquid-small", "combined"
COUNTS, GAMMA, SEEDS, BATCH = (50, 200), 2.0, (0, 1, 2), 16
SIDE = 256  # of the images that are written, pixels
# {what: (steps, options)}; the preset takes 936 steps on all images
TRAININGS = {
    "random weights": (312, ["--preset", PRESET]),
    "shipped model, fine-tuned": (312, ["--init", MODEL]),
    "shipped model, fine-tuned shortly": (104, ["--init", MODEL, "--lr", "1e-4"]),
}


def write_data(source, folder):
    """Write validation images and the first training images of `source`, darkened.

    Returns:
        {number of training images: folder}.
    """
    splits = open_data(source, size=SIDE, splits=("train", "val"))
    folders = {count: folder / str(count) for count in COUNTS}
    for count, target in folders.items():
        write_images(splits, target, count, lambda pixels: np.round((pixels / 255) ** GAMMA * 255))
    return folders


def measure(folders, out, seed):
    """{(what, number of images): (steps, AUC)} of one seed; the shipped model without training has 0 images."""
    path, found = out / "shipped.json", {}
    if not path.exists():
        evaluate.main([MODEL, "--data", str(folders[COUNTS[0]]), "--json", str(path), "--out", str(out / "pictures")])
    found["shipped model, as it is", 0] = 0, json.loads(path.read_text())["scores"][SCORE]["auc"]
    for what, (steps, options) in TRAININGS.items():
        for count in COUNTS:
            run = out / f"{what.replace(', ', '-').replace(' ', '-')}-{count}" / f"seed-{seed}"
            per_epoch = -(-count // BATCH)
            epochs = -(-steps // per_epoch)
            if not (run / "summary.json").exists():
                new = [*options, "--data", str(folders[count]), "--epochs", str(epochs), "--seed", str(seed)]
                begin = ["--resume", str(run)] if run.exists() else ["--out", str(run), *new]
                train.main([*begin, "--precision", "fp32", "--compile", "off"])
            summary = json.loads((run / "summary.json").read_text())
            found[what, count] = epochs * per_epoch, summary["scores"][SCORE]["auc"]
    return found


def table(found):
    """The text of finetune.md, from the results of `measure` of every seed."""
    lines = [
        "# Fine-tuning the shipped model",
        "",
        f"Written by `python bench/finetune.py`: validation AUC of `{SCORE}` on 200 X-rays darkened by gamma 2, mean",
        "and sample standard deviation over seeds.",
        "",
        "| begins with | healthy images | steps | seeds | validation AUC |",
        "|---|---:|---:|---:|---:|",
    ]
    for what, count in found[0]:
        steps = found[0][what, count][0]
        aucs = [each[what, count][1] for each in found[: len(found) if count else 1]]
        lines.append(f"| {what} | {count} | {steps} | {len(aucs) if steps else ''} | {mean_deviation(aucs)} |")
    return "\n".join(lines) + "\n"


def main(arguments=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    folders, found = write_data(options.data, options.out / "data"), []
    for seed in SEEDS:
        found.append(measure(folders, options.out, seed))
        with replacing(RESULTS / "finetune.md") as file:
            file.write(table(found))


if __name__ == "__main__":
    run_command(main)
