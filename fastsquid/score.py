"""`python -m fastsquid.score RUN IMAGE|FOLDER... --out scores.csv`: anomaly scores of any number of images."""

import csv
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from .checkpoint import load_run
from .cli import Parser, add_anonymous_option, add_device_options, choose_device, run_command
from .data.decoding import decoded
from .data.images import find_images, to_unit
from .data.patients import warn_of_ages
from .errors import UserError
from .files import replacing
from .model import calibrated


def main(arguments=None):
    parser = Parser(
        prog="python -m fastsquid.score", description="Write anomaly scores of images; larger = more abnormal."
    )
    parser.add_argument("run", metavar="RUN", help="run folder that fastsquid.train wrote")
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

    device = choose_device(options.device)
    files = _named_files([Path(image) for image in options.images])
    detector, run, state, name = load_run(options.run, options.checkpoint, options.impl, device)
    detector = detector.frozen(options.precision == "bf16")
    calibration = state[name]["calibration"]
    if calibration is None:
        print(
            f"the run has not finished: its scores are not calibrated yet, that column stays empty; "
            f"finish it with python -m fastsquid.train --resume {options.run}",
            file=sys.stderr,
        )

    anonymous = options.anonymous or run["anonymous"]
    failed, scoring, ages = 0, 0.0, []
    start = time.perf_counter()
    with replacing(options.out) as file:
        writer = csv.writer(file)
        names = run["config"].scores
        writer.writerow(["name", *names, "calibrated", "error"])
        for batch in tqdm(
            decoded(files, run["config"].image_size, options.batch_size, anonymous),
            unit="batch",
            total=-(-len(files) // options.batch_size),
            disable=not sys.stderr.isatty(),
        ):
            batch_start = time.perf_counter()
            rows = score_batch(detector, [item.image for item in batch if item.image is not None], calibration)
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
    warn_of_ages(ages, run["ages"])
    if failed:
        print(
            f"error: {failed} of {len(files)} images could not be read; {options.out} says why in its error column",
            file=sys.stderr,
        )
        return 1


def score_batch(detector, images, calibration):
    """Iterator of a row an image: the config's `scores` and its `score` calibrated, as text.

    Args:
        images: list of arrays (H, W), uint8 or uint16, at the model's size.
        calibration: mean and std by score, or None; the calibrated score is then empty.
    """
    if not images:
        return iter(())
    device = next(detector.parameters()).device
    batch = torch.cat([to_unit(torch.from_numpy(image)[None, None]) for image in images])
    scores, _ = detector.scores(batch.to(device))
    score = detector.config.score
    if calibration is None:
        shown = [""] * len(images)
    else:
        shown = [f"{value:.6g}" for value in calibrated(scores[score].cpu().double(), **calibration[score]).tolist()]
    columns = [[f"{value:.9g}" for value in column.tolist()] for column in scores.values()]
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
