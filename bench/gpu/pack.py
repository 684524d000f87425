"""`python bench/gpu/pack.py DATA TARGET [SIZE]`: a folder of X-rays as small as training can use it, to carry to a GPU.

Every image that training, validation and scoring read, under its own name, as a gray PNG of SIZE x SIZE (128) pixels
whatever the name's suffix says. A run on TARGET gets the same bits as one on DATA, unless its preset crops: it
then finds the exposed field in these pixels, for which 256 is a better size.
"""

import sys
from pathlib import Path

from PIL import Image

from fastsquid.data import open_data
from fastsquid.data.filetypes import IMAGE_SUFFIXES
from fastsquid.errors import UserError
from fastsquid.utils.cli import run_command


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    if not 2 <= len(arguments) <= 3 or not (arguments[2:] or ["128"])[0].isdecimal():
        raise UserError("give the folder of X-rays, a folder to make, and, if it is not 128, the side in pixels")
    source, target = map(Path, arguments[:2])
    if not (source / "train").is_dir():
        raise UserError(f"{source} has no folder train: give one with train/NORMAL, val and test")
    if target.exists():
        raise UserError(f"{target} exists: give a folder to make")
    size = int((arguments[2:] or [128])[0])
    written = 0
    for name, split in open_data(source, size).items():
        for image, called in zip(split.images[:, 0].numpy(), split.names):
            path = target / name / called
            if path.suffix.lower() not in IMAGE_SUFFIXES:  # it would be taken for DICOM
                path = path.with_name(path.name + ".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                Image.fromarray(image).save(file, "PNG", optimize=True)
            written += path.stat().st_size
        print(f"{name}: {len(split)} images")
    print(f"{target}: {written / 2**20:.1f} MiB")


if __name__ == "__main__":
    run_command(main)
