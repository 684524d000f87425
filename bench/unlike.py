"""Which images does the input check flag? Healthy, sick, reframed, turned, inverted ones, and what is no X-ray.

    python bench/unlike.py DATA [--mnist FOLDER]     writes bench/results/zhanglab/unlike.md

DATA is ZhangLab's release as docs/reproduce.md describes it; FOLDER holds MNIST's idx files. Simpler distances stand
beside the check, each with a threshold by the same rule. Two checks are tried: of X-rays, and of DigitAnatomy.
"""

import argparse
from pathlib import Path

import matplotlib.cbook
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from fastsquid.data import find_images, open_data, read_images, to_unit
from fastsquid.data.images import convert_image
from fastsquid.scoring.input_check import FRAMES, MARGIN, QUANTILE, fit_check, reframe, to_thumbnails
from fastsquid.utils.files import replacing

REPORT = Path(__file__).parent / "results" / "zhanglab" / "unlike.md"
SIZE = 64


def resize(images, size=SIZE):
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def crop(images, share):
    """Without this share of the side at every edge."""
    cut = round(share * SIZE)
    return resize(images[..., cut:-cut, cut:-cut])


def pad(images, share, value=0.0):
    return resize(F.pad(images, [round(share * SIZE)] * 4, value=value))


def contrast(images, factor):
    mean = images.mean((1, 2, 3), keepdim=True)
    return (mean + factor * (images - mean)).clamp(0, 1)


# Changes that a clinic may make, and changes that make an image wrong: functions of images in [0, 1].
USUAL = {
    "gamma 0.8": lambda x: x**0.8,
    "gamma 1.25": lambda x: x**1.25,
    "contrast 0.8": lambda x: contrast(x, 0.8),
    "contrast 1.2": lambda x: contrast(x, 1.2),
    "mirrored": lambda x: x.flip(3),
    "cropped by 5 %": lambda x: crop(x, 0.05),
    "cropped by 10 %": lambda x: crop(x, 0.1),
    "cropped by 15 %": lambda x: crop(x, 0.15),
    "rotated by 10 degrees": lambda x: reframe(x, 1, 10, False),
    "rotated by -10 degrees": lambda x: reframe(x, 1, -10, False),
    "black border of 10 %": lambda x: pad(x, 0.1),
    "black border of 20 %": lambda x: pad(x, 0.2),
    "white border of 10 %": lambda x: pad(x, 0.1, 1.0),
}
WRONG = {
    "upside-down": lambda x: x.flip(2),
    "turned by 180 degrees": lambda x: x.flip(2, 3),
    "turned by 90 degrees": lambda x: x.rot90(1, (2, 3)),
    "turned by -90 degrees": lambda x: x.rot90(-1, (2, 3)),
    "inverted": lambda x: 1 - x,
    "rotated by 45 degrees": lambda x: reframe(x, 1, 45, False),
    "left half, stretched": lambda x: resize(x[..., : SIZE // 2]),
    "right half, stretched": lambda x: resize(x[..., SIZE // 2 :]),
    "upper half, stretched": lambda x: resize(x[..., : SIZE // 2, :]),
}


def photographs(count=300):
    """Random squares of three photographs that scikit-learn and Matplotlib bring along."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    pictures.append(Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    squares = []
    for i in range(count):
        picture = pictures[i % 3]
        side = rng.uniform(0.3, 1) * min(picture.size)
        left, top = rng.uniform(0, picture.width - side), rng.uniform(0, picture.height - side)
        square = picture.crop((int(left), int(top), int(left + side), int(top + side)))
        squares.append(convert_image(square, SIZE))
    return to_unit(torch.from_numpy(np.stack(squares))[:, None])


def other_things(mnist):
    """What is neither a chest nor DigitAnatomy, by name."""
    generator = torch.Generator().manual_seed(0)
    blurred = resize(torch.rand(200, 1, 6, 6, generator=generator))
    digits = torch.from_numpy(load_digits().images[:400]).float()[:, None] / 16
    found = {
        "photographs": photographs(),
        "single digits (scikit-learn)": resize(digits),
        "noise": torch.rand(200, 1, SIZE, SIZE, generator=generator),
        "blurred noise": blurred,
        "one gray value": torch.linspace(0, 1, 5).view(5, 1, 1, 1).expand(5, 1, SIZE, SIZE),
    }
    if mnist:
        found["DigitAnatomy of MNIST"] = to_unit(open_data(mnist, SIZE, splits=("val",))["val"].images)
    return found


class Nearest:
    """Distance of a thumbnail to the nearest training image's."""

    def __init__(self, images):
        self.known = to_thumbnails(images)[0].flatten(1)

    def __call__(self, images):
        return torch.cdist(to_thumbnails(images)[0].flatten(1), self.known).amin(1)


class Mean:
    """1 less the correlation of a thumbnail with the training images' mean one."""

    def __init__(self, images):
        self.mean = F.normalize(to_thumbnails(images)[0].flatten(1).mean(0), dim=0)

    def __call__(self, images):
        return 1 - to_thumbnails(images)[0].flatten(1) @ self.mean


def in_all_frames(images):
    return torch.cat([reframe(images, *frame) for frame in FRAMES])


def measures(train):
    """{name: function of images to ratios}, above 1 = unlike: the check, its distance alone, and simpler distances.

    Those have the check's rule: both halves of the training images, in every frame, by the other half.
    """
    check = fit_check(train)
    found = {
        "check": check.ratios,
        "distance alone": lambda images: check.distances(to_thumbnails(images)[0]) / check.threshold,
    }
    for name, measure in (("nearest image", Nearest), ("mean image", Mean)):
        halves = [in_all_frames(train[start::2]) for start in (0, 1)]
        unseen = torch.cat([measure(a)(b) for a, b in (halves, halves[::-1])])
        threshold, fitted = MARGIN * np.quantile(unseen, QUANTILE), measure(in_all_frames(train))
        found[name] = lambda images, fitted=fitted, threshold=threshold: fitted(images) / threshold
    return found


def table(title, groups, measures):
    """Lines of a table of {name: images}, a share of flagged images per measure."""
    lines = [
        f"| {title} | images | {' | '.join(measures)} | lowest, median, highest ratio |",
        f"|---|---:|{'---:|' * len(measures)}---|",
    ]
    for name, images in groups.items():
        shares = [f"{100 * (measure(images) > 1).double().mean():.1f} %" for measure in measures.values()]
        low, middle, high = np.quantile(measures["check"](images), (0, 0.5, 1))
        lines.append(f"| {name} | {len(images):,} | {' | '.join(shares)} | {low:.2f}, {middle:.2f}, {high:.2f} |")
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--mnist")
    options = parser.parse_args()
    torch.manual_seed(0)
    xrays = open_data(options.data, SIZE)
    val = xrays["val"]
    healthy, sick = (to_unit(val.images[val.labels == label]) for label in (0, 1))
    unused, _ = read_images(find_images(options.data / "train" / "PNEUMONIA"), SIZE)
    digits = open_data(None, SIZE)
    test = to_unit(digits["test"].images)
    of_kind = {kind: test[[found == kind for found in digits["test"].classes]] for kind in set(digits["test"].classes)}
    others = other_things(options.mnist)

    both = torch.cat([healthy, sick])
    groups = {
        "healthy, validation": healthy,
        "pneumonia, validation": sick,
        "pneumonia, not used in training": to_unit(unused),
        "test, not labeled here": to_unit(xrays["test"].images),
    }
    groups |= {f"healthy, {name}": change(healthy) for name, change in USUAL.items()}
    groups |= {f"pneumonia, {name}": USUAL[name](sick) for name in USUAL if " by " in name or "border" in name}
    groups |= {f"both, {name}": change(both) for name, change in WRONG.items()}
    groups |= {"DigitAnatomy": test, **others}
    of_digits = {f"DigitAnatomy, {kind}": of_kind[kind] for kind in sorted(of_kind)}
    of_digits |= {f"DigitAnatomy, {name}": WRONG[name](test) for name in list(WRONG)[:5]}
    of_digits |= {"X-rays, healthy": healthy, "X-rays, pneumonia": sick, **others}
    lines = ["Flagged as unlike the training images, by `python bench/unlike.py`.", ""]
    lines += table("check of 1,241 healthy X-rays", groups, measures(xrays["train"].images))
    lines += ["", *table("check of DigitAnatomy", of_digits, measures(digits["train"].images))]
    with replacing(REPORT) as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
