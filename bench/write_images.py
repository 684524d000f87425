"""Write X-rays, changed, as a data set of class folders that training reads."""

import shutil

import numpy as np
from PIL import Image


def write_images(splits, folder, count=None, change=lambda pixels: pixels):
    """Write training and validation images as PNG files of class folders, if the folder does not exist.

    Args:
        splits: what `open_data` read.
        folder: Path, which appears complete or not at all.
        count: of training images; None for all.
        change: function of an image's pixels, uint8 (H, W), that returns those to write, 0 to 255.
    """
    if folder.exists():
        return
    new = folder.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    for name, kept in (("train", count), ("val", None)):
        split = splits[name]
        for index, image in enumerate(split.images[:kept]):
            label = "NORMAL" if split.labels is None or not split.labels[index] else "PNEUMONIA"
            path = new / name / label / f"{index:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(change(image[0].numpy()).astype(np.uint8)).save(path)
    new.rename(folder)
