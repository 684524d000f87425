"""`python bench/lungs.py DATA CSV`: where negatives are drawn: around both lungs, on a prior, or on a mask per image.

Trains `fastsquid-small` with `Trainer.lungs` set to nothing, to `lung_prior`, or to the `lung_mask` of each training
image, moved with it. One line per epoch and score: AUC on clean validation images, and the mean over them and the
perturbations. `python bench/lungs.py DATA PNG --show` draws masks instead.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from fastsquid.config import preset
from fastsquid.data import open_data, to_unit
from fastsquid.data.augment import augment, change_appearance
from fastsquid.data.negatives import lung_prior
from fastsquid.evaluation.robustness import perturbed_aucs, uncropped_size
from fastsquid.model.detector import Detector
from fastsquid.scoring.scores import score_images, standardize
from fastsquid.training.trainer import Trainer

WHERE = ("around", "prior", "mask")
SMALLEST = 0.06  # of the image; a smaller mask has missed a lung, and the mean mask takes its place
SHOWN = 12


def lung_mask(image: np.ndarray) -> np.ndarray:
    """Find the lungs of one frontal X-ray without labels: what is dark among its neighborhood, and not at the border.

    Local contrast equalization, Otsu's threshold, removal of components at the border, closing and filling of holes, as
    the anatomy-aware pasting of Sato et al. (AnatPaste, iScience 2023) does.

    Args:
        image: float (S, S) in [0, 1].

    Returns:
        bool (S, S).
    """
    size = len(image)
    smooth = ndimage.gaussian_filter(image, size / 64)
    mean = ndimage.gaussian_filter(smooth, size / 6)
    deviation = np.sqrt(np.maximum(ndimage.gaussian_filter(smooth**2, size / 6) - mean**2, 1e-6))
    equalized = np.clip(((smooth - mean) / deviation + 2) / 4, 0, 1)
    dark = ndimage.binary_opening(equalized < otsu(equalized), iterations=max(1, size // 64))
    parts, count = ndimage.label(dark)
    lungs = np.zeros_like(dark)
    for part in range(1, count + 1):
        found = parts == part
        at_border = sum(line.sum() for line in (found[0], found[-1], found[:, 0], found[:, -1]))
        if found.mean() >= 0.012 and at_border <= 0.03 * size:
            lungs |= found
    edge = size // 8
    closed = ndimage.binary_closing(np.pad(lungs, edge), iterations=size // 16)[edge:-edge, edge:-edge]
    return ndimage.binary_fill_holes(closed)


def otsu(values: np.ndarray) -> float:
    """Return Otsu's threshold of values in [0, 1]: the one with the largest variance between both classes."""
    counts, edges = np.histogram(values, 256, (0, 1))
    centers = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * centers)
    above = below[-1] - below
    valid = (below > 0) & (above > 0)
    between = np.zeros(256)
    difference = sums[valid] / below[valid] - (sums[-1] - sums[valid]) / above[valid]
    between[valid] = below[valid] * above[valid] * difference**2
    return float(centers[between.argmax()])


def lung_masks(images: torch.Tensor) -> torch.Tensor:
    """Return `lung_mask` of each image, (N, 1, S, S) float in [0, 1], with a soft edge."""
    masks = np.stack([lung_mask(image) for image in to_unit(images)[:, 0].numpy()]).astype(np.float32)
    mean = masks.mean(0)
    masks[masks.mean((1, 2)) < SMALLEST] = mean / mean.max()
    soft = [ndimage.gaussian_filter(mask, images.shape[-1] / 48) for mask in masks]
    return torch.from_numpy(np.stack(soft))[:, None]


def train(where, options, data, uncropped, writer):
    """Train one seed and write its lines."""
    images, split = data["train"].images, data["val"]
    config = preset("fastsquid-small", epochs=options.epochs)
    labels, masks = split.labels.numpy(), lung_masks(images) if where == "mask" else None
    torch.manual_seed(options.seed)
    trainer = Trainer(Detector(config), precision="bf16")
    trainer.lungs = lung_prior(config.image_size) if where == "prior" else None
    for epoch in range(config.epochs):
        trainer.set_epoch(epoch)
        trainer.detector.train()
        for i, batch in enumerate(torch.randperm(len(images)).split(config.batch_size)):
            inputs = to_unit(images[batch])
            if masks is not None:  # moved together
                inputs = torch.cat([inputs, masks[batch]], 1)
            inputs = augment(inputs, config.shift, config.zoom, config.rotation, config.closer)
            if masks is not None:
                trainer.lungs = inputs[:, 1:]
            trainer.step(change_appearance(inputs[:, :1], config.appearance), i)
        frozen = trainer.evaluated.eval().frozen()
        standardize(frozen, images)
        clean, perturbed = score_images(frozen, split.images), perturbed_aucs(frozen, uncropped)
        for score in ("combined", "discriminator", "discriminator_image"):
            aucs = [roc_auc_score(labels, clean[score]), *(found[score] for found in perturbed.values())]
            writer.writerow((where, options.seed, epoch + 1, score, f"{aucs[0]:.4f}", f"{np.mean(aucs):.4f}"))
        print(f"{where}, seed {options.seed}: epoch {epoch + 1} of {config.epochs}", flush=True)


def show(images, path):
    """Draw images above their masks."""
    images, masks = to_unit(images[:SHOWN])[:, 0].numpy(), lung_masks(images)[:SHOWN, 0].numpy()
    rows = [np.concatenate(list(some), 1) for some in (images, images * (0.3 + 0.7 * masks))]
    Image.fromarray((np.concatenate(rows) * 255).astype(np.uint8)).save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of X-rays with train/NORMAL and a labeled val")
    parser.add_argument("out", type=Path)
    parser.add_argument("--where", nargs="+", choices=WHERE, default=WHERE)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="draw the masks, train nothing")
    options = parser.parse_args()

    config = preset("fastsquid-small")
    data = open_data(options.data, config.image_size, splits=("train", "val"), crop=config.crop)
    if options.show:
        return show(data["train"].images, options.out)
    uncropped = open_data(options.data, uncropped_size(config), splits=("val",))["val"]
    with open(options.out, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if not file.tell():
            writer.writerow(("where", "seed", "epoch", "score", "auc", "mean_auc"))
        for where in options.where:
            train(where, options, data, uncropped, writer)
            file.flush()


if __name__ == "__main__":
    main()
