"""`python -m fastsquid.score RUN IMAGE|FOLDER... --out scores.csv`: anomaly scores of any number of images."""

import csv
import sys
import time
from pathlib import Path

from tqdm import tqdm

from .checkpoint import why_uncalibrated
from .cli import Parser, add_anonymous_option, add_device_options, run_command
from .data.decoding import decoded
from .data.images import find_images
from .data.patients import warn_of_ages
from .errors import UserError
from .files import replacing
from .scorer import load


def main(arguments=None):
    parser = Parser(
        prog="python -m fastsquid.score", description="Write anomaly scores of images; larger = more abnormal."
    )
    parser.add_argument("run", metavar="RUN", help="run folder that fastsquid.train or fastsquid.convert wrote")
    parser.add_argument("images", metavar="IMAGE|FOLDER", nargs="+", help="image files, and folders searched for them")
    parser.add_argument(
        "--out",
        default="scores.csv",
        help="CSV to write (default: scores.csv): name, raw scores, calibrated score, error; a single "
        "folder's images are named by their path inside it, all others by their path as given",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images a batch; default: 64")
    parser.add_argument("--checkpoint", choices=["best", "last"], help="default: the run's best, where it has one")
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=["fp32", "bf16"],
        help="of convolutions and projections; scores of bf16 rank nearly the same; default: fp32",
    )
    add_anonymous_option(parser)
    add_device_options(parser)
    options = parser.parse_args(arguments)
    if Path(options.out).is_dir():
        raise UserError(f"--out {options.out} is a folder: give the name of a CSV to write")
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size} should be at least 1")

    files = _named_files([Path(image) for image in options.images])
    scorer = load(options.run, options.checkpoint, options.device, options.impl, options.precision)
    if scorer.calibration is None:
        print(f"the calibrated column stays empty: {why_uncalibrated(options.run, scorer.run)}", file=sys.stderr)

    anonymous = options.anonymous or scorer.run["anonymous"]
    failed, scoring, ages = 0, 0.0, []
    start = time.perf_counter()
    with replacing(options.out) as file:
        writer = csv.writer(file)
        names = scorer.score_names
        writer.writerow(["name", *names, "calibrated", "error"])
        for batch in tqdm(
            decoded(files, scorer.image_size, options.batch_size, anonymous),
            unit="batch",
            total=-(-len(files) // options.batch_size),
            disable=not sys.stderr.isatty(),
        ):
            batch_start = time.perf_counter()
            rows = score_batch(scorer, [item.image for item in batch if item.image is not None])
            scoring += time.perf_counter() - batch_start
            for image_name, image, age, error in batch:
                writer.writerow([image_name, *(next(rows) if image is not None else [""] * (len(names) + 1)), error])
                failed += image is None
                ages.append(age)
    seconds = time.perf_counter() - start
    scored = len(files) - failed
    speed = (
        f" ({scored / seconds:.1f} images/s from file to row, {scored / scoring:.1f} images/s from tensor to score)"
        if scored
        else ""
    )
    print(f"{scored} of {len(files)} images scored: {options.out}{speed}")
    warn_of_ages(ages, scorer.run["ages"])
    if failed:
        print(
            f"error: {failed} of {len(files)} images could not be read; {options.out} says why in its error column",
            file=sys.stderr,
        )
        return 1


def score_batch(scorer, images):
    """Iterator of a row an image: its `scorer.score_names` and its calibrated score, as text.

    Args:
        scorer: a `Scorer`; the calibrated score is empty where it has no calibration.
        images: list of arrays (H, W), uint8 or uint16, at the model's size.
    """
    if not images:
        return iter(())
    scores = scorer.scores(images, len(images))
    shown = [""] * len(images)
    if scorer.calibration is not None:
        shown = [f"{value:.6g}" for value in scorer.calibrated(scores[scorer.score_name])]
    columns = [[f"{value:.9g}" for value in column] for column in scores.values()]
    return zip(*columns, shown)


def _named_files(paths):
    """[(name, path)] of every image that the arguments stand for; what does not exist is refused before any work."""
    files = []
    for path in paths:
        if path.is_dir():
            found = find_images(path)
            if not found:
                raise UserError(f"{path} holds no images")
            files += [((file.relative_to(path) if len(paths) == 1 else file).as_posix(), file) for file in found]
        elif path.exists():
            files.append((path.as_posix(), path))
        else:
            raise UserError(f"{path} does not exist")
    return files


if __name__ == "__main__":
    run_command(main)
