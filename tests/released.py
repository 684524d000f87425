"""Small trees in the form of released data sets, and one run over each."""

import csv
import json

import numpy as np
from PIL import Image

from fastsquid import evaluate, report, train

SMALLEST = "--preset squid-small --image-size 64 --width 4 --slots 5 --batch-size 4 --epochs 1 --device cpu".split()


def write_image(path, gray, shape=(20, 24)):
    """Write an X-ray's stand-in: a gradient, so that no two images of different `gray` (0 to 255) are alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(gray)
    values = rng.integers(0, 100, shape) + gray // 2
    Image.fromarray(values.astype(np.uint8)).save(path)


def write_table(path, rows, delimiter=","):
    """Write dicts as a CSV with the first one's columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def listed(data):
    """{split: [(name, label, class)]} of opened data."""
    return {
        name: list(zip(split.names, split.labels.tolist(), split.classes or ["?"] * len(split)))
        for name, split in data.items()
    }


def run_everything(command, data, folder, *more):
    """Train one epoch on data, evaluate and report; return the evaluation. `command` is the fixture."""
    run = folder / "run"
    code, _, err = command(train.main, "--data", data, "--out", run, *SMALLEST, *more)
    assert code == 0, err
    code, _, err = command(evaluate.main, run, "--json", folder / "metrics.json")
    assert code == 0, err
    found = json.loads((folder / "metrics.json").read_text())
    code, out, err = command(report.main, run, data, "--out", folder / "report.html")
    assert code == 0, err
    assert f"{found['images']['normal'] + found['images']['abnormal']} images shown" in out
    return found
