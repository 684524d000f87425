"""`python bench/map_methods.py RUN TABLE.md`: which heat map explains the score that a run ranks by.

Every method is measured on the same held-out healthy images with synthetic anomalies, by pixel AUROC and AUPRO. Each
map is given raw, and in standard deviations from healthy training images at the same pixel. A raw map may owe part of
its figures to knowing where lungs are: compare it with `lung_prior`, which does not look at the image. Occlusion takes
a pass of the detector per cell, and most of the time.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from fastsquid.data.augment import gaussian_blur
from fastsquid.evaluation.localization import KINDS, PRIOR, STRENGTH, healthy_images, measure_synthetic
from fastsquid.runs.data import data_of, open_run_data
from fastsquid.runs.trained import load_run
from fastsquid.scoring.maps import calibrate_maps, raw_maps, smooth
from fastsquid.scoring.scores import spread_images

OCCLUDED = 8  # cells a side that occlusion covers in turn


def input_gradient(detector, images):
    """Absolute gradient of the ranking score in each pixel, smoothed by a Gaussian of 1/32 of the side: (B, H, W)."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        score = detector._scores(images, None)[0][detector.config.score]  # `scores` runs in inference mode
        (gradient,) = torch.autograd.grad(score.sum(), images)
    return smooth(gradient.abs(), images.shape[-1] / 32)[:, 0]


def occlusion(detector, images):
    """Fall of the ranking score when a cell is replaced by the blurred image, interpolated: (B, H, W)."""
    score, size = detector.config.score, images.shape[-1]
    blurred, side = gaussian_blur(images, size / 16), size // OCCLUDED
    before, falls = detector.scores(images)[0][score], []
    for row in range(0, size, side):
        for column in range(0, size, side):
            covered, cell = images.clone(), (..., slice(row, row + side), slice(column, column + side))
            covered[cell] = blurred[cell]
            falls.append(before - detector.scores(covered)[0][score])
    falls = torch.stack(falls, 1).view(len(images), 1, OCCLUDED, OCCLUDED)
    return F.interpolate(falls, size=(size, size), mode="bilinear")[:, 0]


METHODS = {
    "passes": raw_maps,
    "gradient": lambda *arguments: {"input_gradient": input_gradient(*arguments)},
    "occlusion": lambda *arguments: {"occlusion": occlusion(*arguments)},
}


def measure(detector, give, normal, healthy):
    """Metrics of the maps of one method, raw and standardized.

    Returns:
        {map: {"raw" or "standardized": {kind of anomaly: {pixel_auroc, aupro}}}}; a sum has no raw values.
    """
    calibration = calibrate_maps(detector, normal, maps=give)

    def both(batch):
        raw = give(detector, batch)
        maps = {name: (raw[name] - mean) / deviation for name, (mean, deviation) in calibration.items()}
        if "combined" in maps and "memory_distance" in maps:
            maps["combined + memory_distance"] = maps["combined"] + maps["memory_distance"]
        return {("raw", name): values for name, values in raw.items()} | {
            ("standardized", name): values for name, values in maps.items()
        }

    found, result = measure_synthetic(both, healthy), {}
    for kind, metrics in found.items():
        metrics["raw", PRIOR] = metrics.pop(PRIOR)
        for (form, name), values in metrics.items():
            result.setdefault(name, {}).setdefault(form, {})[kind] = values
    return result


def table(found, config):
    """Markdown, best standardized map first; the reference last."""
    heads = [f"{kind}, {form}" for form in ("standardized", "raw") for kind in KINDS]
    lines = [f"| map | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]

    def mean(name):
        forms = found[name]
        return sum(forms["standardized"][kind]["aupro"] for kind in KINDS) if "standardized" in forms else -1

    for name in sorted(found, key=mean, reverse=True):
        cells = []
        for form in ("standardized", "raw"):
            for kind in KINDS:
                values = found[name].get(form, {}).get(kind)
                cells.append("" if values is None else f"{values['pixel_auroc']:.3f}, {values['aupro']:.3f}")
        label = f"**{name}**" if name == config.map else name
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="finished run folder")
    parser.add_argument("table", type=Path, help="Markdown file to write")
    parser.add_argument("--data", help="default: the run's own")
    parser.add_argument("--images", type=int, default=100, help="healthy images of each kind; default: 100")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--checkpoint", choices=("best", "last"))
    options = parser.parse_args()

    run = load_run(options.run, options.checkpoint, "torch", "cpu")
    detector, config = run.detector.frozen(), run.record.config
    data = open_run_data(run.record, data_of(options.run, run.record, options.data))
    split, healthy = healthy_images(data, "test")
    healthy, normal = (spread_images(images, options.images) for images in (healthy, data["train"].images))
    found = {}
    for method in options.methods:
        start = time.perf_counter()
        found |= measure(detector, METHODS[method], normal, healthy)
        print(f"{method}: {time.perf_counter() - start:.0f} s", flush=True)
    text = (
        f"Pixel AUROC and AUPRO of maps of `{config.preset}`, seed {run.record.seed}, {run.checkpoint} checkpoint, "
        f"ranked by `{config.score}`: {len(healthy)} healthy {split} images, each with a synthetic anomaly whose "
        f"strength is above {STRENGTH} in abnormal pixels. The map of the score is bold.\n\n"
    )
    options.table.write_text(text + table(found, config), encoding="utf-8")
    print(f"\n{text}{table(found, config)}")


if __name__ == "__main__":
    main()
