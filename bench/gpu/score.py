"""Phase `score`: images per second from tensor to score, published against ours in fp32 and bf16; how alike they rank.

Then the discriminator alone, as `score --fast` runs it for the preset fastsquid. On a GPU, torch.compile comes last. No
command compiles for scoring: PyTorch compiles for longer than most folders of images take.

The detector trains for an epoch first: an untrained one gives nearly equal scores, whose ranks are noise. Spearman's
correlation is that of the float32 and the bfloat16 scores of all validation and test images, for every score.
"""

import sys

import baselines
import torch
from cases import SMALLEST_MODEL
from iterations import EPOCH, VALIDATION, images_of
from phase import DEVICE, OUT, SMALLEST, data_folder, left
from rows import Results
from scipy.stats import spearmanr
from timing import Variant, measure

from fastsquid.config import SCORES, preset
from fastsquid.data import open_data, to_unit
from fastsquid.model.detector import Detector
from fastsquid.scoring.scores import score_images
from fastsquid.training.epoch import Steps
from fastsquid.training.trainer import Trainer
from fastsquid.utils.cli import stop_compile_workers

BATCHES = [2] if SMALLEST else [16, 1024]
COMPILING = 30  # seconds that a network's compilation may take


def main():
    torch.manual_seed(0)
    config = SMALLEST_MODEL if SMALLEST else preset("simsid", selection="published")
    train, others = images(config)
    detector = Detector(config).to(DEVICE).train()
    steps = Steps(Trainer(detector, False, "bf16" if DEVICE.type == "cuda" else "fp32"), train.to(DEVICE))
    for _ in steps.epoch(0, 0):
        pass
    detector.eval()
    alike = {}
    scores = {half: score_images(Precision(detector, half), others) for half in (False, True)}
    for name in config.scores:
        alike[f"spearman_{name}"] = float(spearmanr(scores[False][name], scores[True][name]).statistic)
    results = Results(DEVICE, OUT / "score.csv", SMALLEST, [f"spearman_{name}" for name in SCORES])
    print(f"{'case':21} {'variant':10} {'dtype':9} {'ms':>9} {'images/s':>9}")
    for batch in BATCHES:
        speed(results, config, detector, batch, alike)
    print(f"Spearman's correlation of fp32 and bf16 scores, {len(others)} images:")
    for name, value in alike.items():
        print(f"{name.removeprefix('spearman_'):24} {value:.5f}")
    further(results, detector)
    return 0


def images(config):
    """Training images, and all others, uint8: those of $DATA, or random ones."""
    folder = data_folder()
    if folder is None:
        print("no DATA: random images")
        return images_of(EPOCH, config, "cpu"), images_of(EPOCH + VALIDATION, config, "cpu")[EPOCH:]
    data = open_data(folder, config.image_size, 0)
    return data["train"].images, torch.cat([split.images for name, split in data.items() if name != "train"])


class Precision:
    """A detector that `score_images` freezes in one precision."""

    def __init__(self, detector, half):
        self.detector, self.half = detector, half

    def eval(self):
        return self

    def frozen(self):
        return self.detector.frozen(self.half)


def speed(results, config, detector, batch, alike):
    """Rows of one batch size."""
    inputs = to_unit(images_of(batch, config, DEVICE))
    generator = baselines.Generator(detector.generator).eval()

    def published(_):
        detector.discriminator.train()
        found = baselines.scores(detector, generator, inputs)
        detector.discriminator.eval()
        return found

    frozen = {"float32": detector.frozen(), "bfloat16": detector.frozen(half=True)}
    runs = {("published", "float32"): published}
    for dtype, ours in frozen.items():
        runs["ours", dtype] = lambda _, ours=ours: ours.scores(inputs)
    if batch > 64:  # image by image, it takes as long for each of them
        runs.pop(("published", "float32"))
    report(results, f"{config.preset} {batch}", runs, batch, alike)


def further(results, detector):
    """Rows of `score --fast`, and of torch.compile where there is a GPU and the time to compile."""
    fast = Detector(SMALLEST_MODEL if SMALLEST else preset("fastsquid")).to(DEVICE).frozen()
    half, batch, names = detector.frozen(half=True), BATCHES[-1], {"discriminator_image"}
    inputs = {each: to_unit(images_of(batch, each.config, DEVICE)) for each in (fast, half)}
    case = f"{fast.config.preset} --fast {batch}"
    report(results, case, {("ours", "float32"): lambda _: fast.scores(inputs[fast], names=names)}, batch)
    compiled = (
        (case, "float32", torch.compile(lambda x: fast.scores(x, names=names)), inputs[fast]),
        (f"{detector.config.preset} {batch}", "bfloat16", torch.compile(half.scores), inputs[half]),
    )
    for case, dtype, scores, x in compiled:
        if DEVICE.type == "cuda" and left() > COMPILING:
            report(results, case, {("compiled", dtype): lambda _, scores=scores, x=x: scores(x)}, batch)


def report(results, case, runs, count, alike=None):
    """Rows of {(variant, dtype): function} that each score `count` images; `alike` is of bfloat16."""
    variants = {key: Variant(lambda i: None, run) for key, run in runs.items()}
    for (name, dtype), samples in measure(variants, 1, DEVICE, SMALLEST, 0.5).items():
        key = "scoring", case, name, "forward", dtype
        row = results.add(key, samples, images=count, **(alike if alike and dtype == "bfloat16" else {}))
        print(f"{case:21} {name:10} {dtype:9} {row['p50_ms']:9.3f} {row['images_per_s']:9.0f}", flush=True)


if __name__ == "__main__":
    code = main()
    stop_compile_workers()
    sys.exit(code)
