"""`python bench/resolution.py DATA OUT`: what detail is worth to `fastsquid`.

Trains `fastsquid-small` on images that were reduced to 32 x 32 pixels and enlarged to 64 x 64 again, with three seeds.
Nothing else differs from the preset. The small files go to `bench/results/zhanglab/detector/reduced-to-32`, as
bench/detector.py leaves a variant, and `python bench/results_page.py` makes the table. The same command continues what
is unfinished.
"""

import argparse
from pathlib import Path

from detector import measure
from write_images import write_images

from fastsquid.data import open_data

SIDE = 32  # pixels that are left


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of X-rays with train/NORMAL and a labeled val")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()

    data = options.out / f"{SIDE}-pixels"
    write_images(open_data(options.data, size=SIDE, splits=("train", "val"), crop=True), data)
    return 130 if measure(f"reduced-to-{SIDE}", {}, data, options.out, ["0", "1", "2"], "fp32") else 0


if __name__ == "__main__":
    raise SystemExit(main())
