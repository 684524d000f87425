"""`python -m fastsquid.report RUN FOLDER`: one HTML file in which images, their scores and maps are looked at."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import features
from tqdm import tqdm

from .api import load
from .data.decoding import decoded
from .data.dicom.patients import warn_of_ages
from .errors import DivergedError, UserError
from .reporting.content import count_normal, page_data, page_title
from .reporting.images import csv_images, folder_images, label_images, readable_error
from .reporting.page import page, strip
from .runs.folder import why_uncalibrated
from .scoring.input_check import warn_of_unlike
from .utils.cli import Parser, add_anonymous_option, add_device_options, add_run, run_command
from .utils.files import replacing


def main(arguments=None):
    options = _parse(arguments)
    if not features.check("webp"):
        raise UserError("Pillow cannot write WebP here: pip install --upgrade pillow")
    scorer = load(options.run, None, options.device, options.impl)
    if scorer.calibration is None and scorer.run.record.converted:
        raise UserError(why_uncalibrated(options.run, scorer.run.record))
    anonymous = options.anonymous or scorer.run.record.anonymous
    if options.images is None:
        images = folder_images(options.source, anonymous)
    else:
        images = csv_images(options.source, options.images, scorer.score_name, anonymous)
    if options.labels is not None:
        label_images(images, options.labels)
    normal = count_normal(scorer)

    with replacing(options.out) as file:
        strips, ages = _examine(scorer, images, options)
        data = page_data(scorer, images, options)
        data["unlike_note"] = warn_of_unlike(np.array([image.unlike for image in images if image.unlike is not None]))
        data |= {"normal": normal, "ages": warn_of_ages(ages, scorer.run.record.ages)}
        data |= page_title(scorer.run, images, options.source, options.images, options.trained_on, anonymous)
        file.write(page(data, strips))
    failed = sum(bool(image.error) for image in images)
    size = Path(options.out).stat().st_size / 1e6
    print(f"{len(images) - failed} of {len(images)} images shown: {options.out} ({size:.1f} MB)")
    if failed:
        print(
            f"error: {failed} of {len(images)} images could not be read; {options.out} lists them as unreadable",
            file=sys.stderr,
        )
        return 1


def parser() -> Parser:
    """Return the command's argument parser."""
    parser = Parser(
        prog="python -m fastsquid.report",
        description="Write a report to look at: one HTML file with every image, its healthy reconstruction, its "
        "anomaly map and its score.",
    )
    add_run(parser)
    parser.add_argument(
        "source",
        metavar="FOLDER|CSV",
        help="folder searched for images, labelled by class folders beside a NORMAL one; or a CSV that fastsquid.score "
        "or a training run wrote, of the images below --images",
    )
    parser.add_argument("--images", metavar="FOLDER", help="the folder that the CSV's names are relative to")
    parser.add_argument(
        "--labels", metavar="CSV", help="columns name and label: 0 or normal, 1 or abnormal; in place of all others"
    )
    parser.add_argument("--out", default="report.html", help="HTML file to write; default: report.html")
    parser.add_argument(
        "--trained-on", metavar="TEXT", help="whom the training images show; default: what the run recorded"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images a batch; default: 64")
    add_anonymous_option(parser)
    add_device_options(parser)
    return parser


def _parse(arguments):
    options = parser().parse_args(arguments)
    source = Path(options.source)
    if not source.exists():
        raise UserError(f"{source} does not exist: give a folder of images, or a CSV of scores with --images FOLDER")
    if source.is_dir() and options.images is not None:
        raise UserError(f"{source} is a folder, and --images goes with a CSV of scores: leave it out")
    if source.is_file() and options.images is None:
        raise UserError(f"{source} is a file: a CSV of scores needs --images FOLDER, with the images that it names")
    if options.images is not None and not Path(options.images).is_dir():
        raise UserError(f"--images {options.images} is no folder: give the one that the names in {source} are in")
    for given in (source, options.labels):
        if given is not None and Path(options.out).resolve() == Path(given).resolve():
            raise UserError(f"--out {options.out} would take the place of what it is made from: give another name")
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size} should be at least 1")
    return options


def _examine(scorer, images, options):
    """Opens every image once; fills in its score, or why it cannot be read.

    Returns:
        its strip, b"" without, and its patient's age in years, or None: two lists.
    """
    files = [(index, image.path) for index, image in enumerate(images) if image.path is not None]
    strips, ages = [b""] * len(images), []
    with ThreadPoolExecutor() as pool:
        for batch in tqdm(
            decoded(files, scorer.image_size, options.batch_size, crop=scorer.crop),
            unit="batch",
            total=-(-len(files) // options.batch_size),
            disable=not sys.stderr.isatty(),
        ):
            for index, _, age, error in batch:
                images[index].error = readable_error(error) if error else ""
                ages.append(age)
            found = {index: square for index, square, _, error in batch if not error}
            if not found:
                continue
            squares = list(found.values())
            scores, drawn, heat = scorer.examine(squares, len(squares), cropped=True)
            if not all(np.isfinite(values).all() for values in (*scores.values(), drawn, heat)):
                raise DivergedError(f"{options.run} gives values that are not finite: its training has diverged")
            if scorer.input_check is not None:
                for index, ratio in zip(found, scorer.unlike_training(squares, len(squares), cropped=True)):
                    images[index].unlike = float(f"{ratio:.4g}")  # as a CSV has it
            made = pool.map(strip, squares, drawn, heat)
            for index, score, pictures in zip(found, scores[scorer.score_name], made):
                _settle_score(scorer, images[index], float(score), options)
                strips[index] = pictures
    if not any(strips):
        raise UserError(f"none of the {len(images)} images could be read; of the first: {images[0].error}")
    return strips, ages


def _settle_score(scorer, image, score, options):
    """Gives the image its score, or refuses that of a CSV which is of something else."""
    if image.score is None:
        image.score = float(f"{score:.9g}")  # as a CSV has it: float32, exactly
    # What half precision and other devices change is well within it, see test_half_precision.
    elif abs(image.score - score) > 0.02 * (abs(score) + scorer.calibration[scorer.score_name].std):
        raise UserError(
            f"{options.source} says {image.score:.6g} for {image.name}, but {options.run} gives {score:.6g}: its "
            "scores are of another run, checkpoint or image; write them again with python -m fastsquid.score"
        )


if __name__ == "__main__":
    run_command(main)
