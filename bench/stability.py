"""`python bench/stability.py DATA CSV`: one training run, judged every epoch in every way that might steady its score.

Weights: the latest, and running means of both networks with several horizons. Scores: each of `SCORES`; the mean of
`discriminator_image` over the last epochs; and sums of scores, all standardised on normal training images, for which no
label is used. A line each: AUC on the clean validation images, and its mean over them and the perturbations.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from fastsquid.config import preset
from fastsquid.data import open_data, to_unit
from fastsquid.data.augment import augment
from fastsquid.evaluation.robustness import perturbed_scores, uncropped_size
from fastsquid.model.detector import Detector
from fastsquid.scoring.scores import score_images
from fastsquid.training.ema import Average
from fastsquid.training.trainer import Trainer

DECAYS = (0.98, 0.995)  # a generator step
LAST = (3, 5)  # epochs whose scores are averaged
SUMS = (
    ("discriminator_image", "memory_distance"),
    ("discriminator_image", "patch_residual"),
    ("discriminator_image", "discriminator"),
    ("discriminator", "residual", "memory_distance"),
    ("discriminator_image", "patch_residual", "memory_distance"),
)


def standardised(detector, train, split, uncropped):
    """{images: {score: (N,)}} of the clean and the perturbed images, in deviations from normal training images."""
    normal = score_images(detector, train)
    found = {"clean": score_images(detector, split.images), **perturbed_scores(detector, uncropped.images)}
    return {
        name: {
            score: (values - normal[score].mean()) / max(normal[score].std(), 1e-12) for score, values in scores.items()
        }
        for name, scores in found.items()
    }


def candidates(history):
    """{name: {images: (N,)}} of everything that the epochs so far, lists of `standardised`, can be judged by."""
    now = history[-1]
    sums = {score: (score,) for score in now["clean"]} | {" + ".join(parts): parts for parts in SUMS}
    result = {name: {images: sum(now[images][p] for p in parts) for images in now} for name, parts in sums.items()}
    for count in LAST:
        if len(history) >= count:
            result[f"discriminator_image, mean of {count} epochs"] = {
                images: sum(epoch[images]["discriminator_image"] for epoch in history[-count:]) for images in now
            }
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of X-rays with train/NORMAL and a labeled val")
    parser.add_argument("csv", type=Path)
    parser.add_argument("--preset", default="fastsquid-small")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    config = preset(options.preset, epochs=options.epochs, averaging=0.0)
    data = open_data(options.data, config.image_size, options.seed, splits=("train", "val"), crop=config.crop)
    uncropped = open_data(options.data, uncropped_size(config), options.seed, splits=("val",))["val"]
    images, split = data["train"].images, data["val"]
    labels, some = split.labels.numpy(), images[::4]
    torch.manual_seed(options.seed)
    detector = Detector(config)
    trainer = Trainer(detector)
    averages = {f"mean of {decay}": Average(detector, decay, prefix="") for decay in DECAYS}
    judged = {"latest": detector, **{name: average.detector for name, average in averages.items()}}
    histories = {weights: [] for weights in judged}
    with open(options.csv, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("preset", "seed", "epoch", "weights", "score", "auc", "mean_auc"))
        for epoch in range(config.epochs):
            trainer.set_epoch(epoch)
            detector.train()
            for i, batch in enumerate(torch.randperm(len(images)).split(config.batch_size)):
                trainer.step(augment(to_unit(images[batch]), config.shift, config.zoom), i)
                if i % config.generator_every == 0:
                    for average in averages.values():
                        average.update()
            for weights, one in judged.items():
                histories[weights].append(standardised(one, some, split, uncropped))
                for name, scores in candidates(histories[weights]).items():
                    aucs = [roc_auc_score(labels, values) for values in scores.values()]
                    row = (epoch + 1, weights, name, f"{aucs[0]:.4f}", f"{np.mean(aucs):.4f}")
                    writer.writerow((options.preset, options.seed, *row))
            file.flush()
            print(f"epoch {epoch + 1} of {config.epochs}", flush=True)


if __name__ == "__main__":
    main()
