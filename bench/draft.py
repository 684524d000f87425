"""`python bench/draft.py RUN DATA OUT.md`: may a large JPEG be decoded at a reduced scale before it is scored?

X-rays of DATA are enlarged, get noise as of a detector, and are saved as JPEG. Each is decoded whole, as commands do,
and by libjpeg at a quarter to an eighth of its size (Pillow's `draft`), then cropped where the run crops, resized and
scored. The file says how much scores differ, beside their standard deviation, and the time for decoding.
"""

import io
import time

import numpy as np
from PIL import Image

import fastsquid
from fastsquid.data import open_data
from fastsquid.data.images import convert_image
from fastsquid.utils.cli import Parser, run_command
from fastsquid.utils.files import replacing

SIDES, TIMES, IMAGES, NOISE = (1024, 2048), (1, 2, 4), 24, 4


def enlarged(pixels, side, random):
    """The bytes of a JPEG of side x side pixels."""
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    noisy = np.asarray(image) + random.normal(0, NOISE, (side, side))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def squares(files, size, crop, times=None):
    """The squares of JPEG files, and seconds per file; `times` the square's side at least is decoded, None for all."""
    start, found = time.perf_counter(), []
    for data in files:
        image = Image.open(io.BytesIO(data))
        if times:
            image.draft("L", (times * size, times * size))
        found.append(convert_image(image, size, crop))
    return np.stack(found), (time.perf_counter() - start) / len(files)


def main(arguments=None):
    parser = Parser(description=__doc__.splitlines()[0])
    for name in ("run", "data", "out"):
        parser.add_argument(name)
    options = parser.parse_args(arguments)
    run, random = fastsquid.load(options.run, device="cpu"), np.random.default_rng(0)
    images = open_data(options.data, size=224, splits=("val",))["val"].images[:, 0].numpy()
    images = images[:: len(images) // IMAGES][:IMAGES]
    lines = [
        "# Decoding large JPEGs at a reduced scale",
        "",
        f"Written by `python bench/draft.py`: {len(images)} X-rays, `{run.detector.config.preset}`, "
        f"{run.image_size} x {run.image_size} pixels. The largest difference of a score, in standard deviations of it.",
        "",
        "| file, pixels | crop | decoded at least | decoding, ms | whole, ms | largest difference, "
        + run.score_name
        + " |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for side in SIDES:
        files = [enlarged(pixels, side, random) for pixels in images]
        for crop in (False, True):
            whole, before = squares(files, run.image_size, crop)
            expected = run.scores(whole, cropped=True)[run.score_name]
            for times in TIMES:
                reduced, seconds = squares(files, run.image_size, crop, times)
                found = run.scores(reduced, cropped=True)[run.score_name]
                difference = np.abs(found - expected).max() / expected.std()
                lines.append(
                    f"| {side} | {'yes' if crop else 'no'} | {times * run.image_size} | {1e3 * seconds:.1f} | "
                    f"{1e3 * before:.1f} | {difference:.2g} |"
                )
    with replacing(options.out) as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    run_command(main)
