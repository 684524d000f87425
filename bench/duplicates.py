"""Which copies of X-rays are found as near duplicates, and are different X-rays taken for copies?

    python bench/duplicates.py DATA [--mnist FOLDER]     writes bench/results/zhanglab/duplicates.md

DATA is ZhangLab's release as docs/reproduce.md describes it; FOLDER holds MNIST's idx files. All images of the release
count, also the sick ones of `train`. The pairs nearest to the limits are drawn to OUT with `--show OUT.png`.
"""

import argparse
import io
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from fastsquid.data import find_images, open_data
from fastsquid.data.duplicates import BITS, CORRELATION, RADIUS, near_copies, perceptual_hashes, thumbnails
from fastsquid.data.images import convert_image
from fastsquid.utils.files import replacing

REPORT = Path(__file__).parent / "results" / "zhanglab" / "duplicates.md"
EVERY = 8  # of the images are copied
MANY = 112_120  # as NIH ChestX-ray14 has


def as_jpeg(quality):
    def change(image):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return change


def resized(share, kind):
    return lambda image: image.resize((round(share * image.width), round(share * image.height)), kind)


def recalculated(function):
    """A change of gray values in 0..255."""

    def change(image):
        return Image.fromarray(np.clip(function(np.asarray(image, float)), 0, 255).round().astype(np.uint8))

    return change


def cropped(*pixels):
    left, top, right, bottom = pixels
    return lambda image: image.crop((left, top, image.width - right, image.height - bottom))


def bordered(share):
    """With a black border that takes this share of the side at every edge."""

    def change(image):
        width, height = image.size
        framed = Image.new("L", (round(width / (1 - 2 * share)), round(height / (1 - 2 * share))))
        framed.paste(image, ((framed.width - width) // 2, (framed.height - height) // 2))
        return framed

    return change


def in_16_bits(image):
    """The image with 16 bits whose lower ones are not 0."""
    gray = np.minimum(np.asarray(image, np.uint16), 254) * 257
    return Image.fromarray(gray + np.arange(gray.size, dtype=np.uint16).reshape(gray.shape) % 200)


def noisy(image):
    noise = np.random.default_rng(0).normal(0, 5, (image.height, image.width))
    return recalculated(lambda gray: gray + noise)(image)


KINDS = Image.Resampling
CHANGES = {
    "JPEG, quality 90": as_jpeg(90),
    "JPEG, quality 70": as_jpeg(70),
    "JPEG, quality 50": as_jpeg(50),
    "half the size and back": lambda image: resized(2, KINDS.BICUBIC)(resized(0.5, KINDS.BICUBIC)(image)),
    "three quarters of the size, Lanczos": resized(0.75, KINDS.LANCZOS),
    "three quarters of the size, nearest pixel": resized(0.75, KINDS.NEAREST),
    "a quarter of the size, then JPEG, quality 50": lambda image: as_jpeg(50)(resized(0.25, KINDS.BICUBIC)(image)),
    "16 bits": in_16_bits,
    "2 of 255 gray levels brighter": recalculated(lambda gray: gray + 2),
    "2 of 255 gray levels darker": recalculated(lambda gray: gray - 2),
    "20 of 255 gray levels brighter": recalculated(lambda gray: gray + 20),
    "contrast 0.8": recalculated(lambda gray: 128 + 0.8 * (gray - 128)),
    "contrast 1.2": recalculated(lambda gray: 128 + 1.2 * (gray - 128)),
    "gamma 0.8": recalculated(lambda gray: 255 * (gray / 255) ** 0.8),
    "gamma 1.25": recalculated(lambda gray: 255 * (gray / 255) ** 1.25),
    "noise of deviation 5 of 255": noisy,
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "cropped by 1 % at one edge": cropped(2, 0, 0, 0),
    "cropped by 1 % at every edge": cropped(2, 2, 2, 2),
    "cropped by 2 % at every edge": cropped(4, 4, 4, 4),
    "cropped by 5 % at every edge": cropped(11, 11, 11, 11),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "inverted": recalculated(lambda gray: 255 - gray),
}


def squares(images, size, crop=False):
    """Pictures as fastsquid reads them: uint8 or uint16 (N, 1, size, size)."""
    with ThreadPoolExecutor() as threads:
        return torch.from_numpy(
            np.stack(list(threads.map(lambda image: convert_image(image, size, crop), images)))[:, None]
        )


def differing(hashes, others):
    """Bits by which each of M hashes differs from each of N: (M, N)."""
    return (BITS - hashes @ others.T) / 2


def small(images):
    return torch.cat([thumbnails(some) for some in images.split(256)])


def copies_row(name, images, copies):
    """A line of how many copies are found, of images at the same places."""
    bits = (BITS - (perceptual_hashes(images) * perceptual_hashes(copies)).sum(1)) / 2
    correlations = (small(images) * small(copies)).sum(1)
    found = (bits <= RADIUS) & (correlations >= CORRELATION)
    share = 100 * found.double().mean()
    return f"| {name} | {share:.1f} % | {int(bits.median())} | {int(bits.max())} | {float(correlations.min()):.4f} |"


def different(images):
    """Count pairs of different images.

    Returns:
        a dict, and the 24 pairs that correlate most: (correlation, differing bits, index, index).
    """
    _, kept = np.unique(images.flatten(1).numpy(), axis=0, return_index=True)
    kept = torch.from_numpy(np.sort(kept))
    hashes, pixels = perceptual_hashes(images[kept]), small(images[kept])
    counts = dict.fromkeys(("pairs", "by bits", "by correlation", "by both"), 0)
    nearest, least = [], BITS
    for rows in torch.arange(len(kept)).split(512):
        before = torch.arange(len(kept)) < rows[:, None]
        bits = differing(hashes[rows], hashes).masked_fill(~before, BITS)
        correlations = (pixels[rows] @ pixels.T).masked_fill(~before, -1)
        near, like = bits <= RADIUS, correlations >= CORRELATION
        for name, which in zip(counts, (before, near, like, near & like)):
            counts[name] += int(which.sum())
        least = min(least, int(bits.min()))
        for place in correlations.flatten().topk(24).indices.tolist():
            i, j = divmod(place, len(kept))
            nearest.append((float(correlations[i, j]), int(bits[i, j]), int(kept[rows[i]]), int(kept[j])))
    nearest = sorted(nearest, reverse=True)[:24]
    return {"images": len(kept), **counts, "least bits": least, "most correlation": nearest[0][0]}, nearest


def different_row(name, images):
    found, nearest = different(images)
    numbers = " | ".join(f"{found[key]:,}" for key in ("images", "pairs", "by bits", "by correlation", "by both"))
    return f"| {name} | {numbers} | {found['least bits']} | {found['most correlation']:.4f} |", nearest


def show(images, pairs, path):
    """Draw pairs of images, one above the other."""
    columns = [torch.cat([images[i, 0], images[j, 0]]) for _, _, i, j in pairs]
    rows = [torch.cat(columns[start : start + 8], 1) for start in range(0, len(columns), 8)]
    Image.fromarray(torch.cat(rows).numpy()).save(path)


def cost(count):
    """Seconds and MB to look up random hashes among themselves, each among those before it."""
    generator = torch.Generator().manual_seed(0)
    hashes = torch.where(torch.rand(count, BITS, generator=generator) < 0.5, -1.0, 1.0)
    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(count, 1, 16, 16)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert not near_copies(images, images, hashes, hashes, range(count), own=True)
    seconds = time.process_time() - start
    return seconds, hashes.nbytes / 1e6, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--mnist")
    parser.add_argument(
        "--show", metavar="PNG", type=Path, help="also draw the pairs of different X-rays that correlate most"
    )
    options = parser.parse_args()

    seconds, held, more = cost(MANY)  # first, while this process is small
    paths = sorted(find_images(options.data))
    pictures = [Image.open(path).convert("L") for path in paths]
    xrays = squares(pictures, 128)
    start = time.process_time()
    hashes = perceptual_hashes(xrays)
    hashing = time.process_time() - start
    start = time.process_time()
    near_copies(xrays, xrays, hashes, hashes, range(len(xrays)), own=True)
    searching = time.process_time() - start

    row, nearest = different_row("X-rays, 128 x 128", xrays)
    if options.show:
        show(squares(pictures, 224), nearest, options.show)
    lines = [
        f"Near duplicates: at most {RADIUS} of {BITS} bits differ, and the correlation is at least {CORRELATION}.",
        "Written by `python bench/duplicates.py`.",
        "",
        "Pairs of different images, and how many of them are taken for near duplicates by bits, correlation and both:",
        "",
        "| images | different images | pairs | by bits | by correlation | by both | least bits | highest correlation |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        row,
    ]
    for size in (16, 32, 224):
        lines.append(different_row(f"X-rays, {size} x {size}", squares(pictures, size))[0])
    lines.append(different_row("X-rays, 128 x 128, cropped to the exposed field", squares(pictures, 128, True))[0])
    for share in (0.1, 0.25):
        framed = squares([bordered(share)(picture) for picture in pictures], 128)
        lines.append(different_row(f"X-rays, 128 x 128, with a black border of {100 * share:.0f} %", framed)[0])
    for name, source in (("scikit-learn", None), ("MNIST", options.mnist)):
        for size in (16, 48) if source or name == "scikit-learn" else ():
            images = torch.cat([split.images for split in open_data(source, size).values()])
            lines.append(different_row(f"DigitAnatomy of {name}, {size} x {size}", images)[0])

    some = pictures[::EVERY]
    for size, crop in ((128, False), (128, True), (32, False), (16, False)):
        images = squares(some, size, crop)
        lines += [
            "",
            f"Copies of {len(some):,} X-rays that are found, {size} x {size}{', cropped to the exposed field' * crop}:",
            "",
            "| copy | found | median bits | most bits | lowest correlation |",
            "|---|---:|---:|---:|---:|",
        ]
        for name, change in CHANGES.items():
            lines.append(copies_row(name, images, squares([change(picture) for picture in some], size, crop)))
    lines += [
        "",
        f"CPU time on one thread: {hashing:.1f} s to hash {len(xrays):,} X-rays of 128 x 128, and {searching:.1f} s to",
        f"compare each with those before it. For {MANY:,} random hashes the comparison takes {seconds:.0f} s. The",
        f"hashes take {held:.0f} MB, and the comparison {more:.0f} MB more.",
    ]
    with replacing(REPORT) as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))
    for correlation, bits, i, j in nearest:
        print(f"{correlation:.4f}, {bits} bits: {paths[i].name} and {paths[j].name}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
