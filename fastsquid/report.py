"""`python -m fastsquid.report RUN FOLDER`: one HTML file in which images, their scores and maps are looked at."""

import sys
from pathlib import Path

from .errors import UserError
from .utils.cli import (
    Parser,
    add_accept_options,
    add_anonymous_option,
    add_cache_option,
    add_device_options,
    add_overwrite_option,
    add_run,
    run_command,
)
from .utils.files import replacing, require_new
from .utils.text import printable


def main(arguments: list[str] | None = None) -> int | None:
    """Write an HTML report; return the exit code, or None."""
    options = _parse(arguments)
    # Imported after the options are parsed, so that --help needs no PyTorch.
    import numpy as np
    from PIL import features

    from .api import load
    from .data.dicom.kinds import Accept
    from .data.dicom.patients import warn_of_outside
    from .data.names import choose_names
    from .evaluation.validation import shown_split
    from .reporting.content import count_normal, page_data, page_title
    from .reporting.examine import examine_images
    from .reporting.images import csv_images, folder_images, is_data_set, label_images, split_images
    from .reporting.page import page
    from .runs.data import open_run_data, reject_redrawn
    from .runs.folder import reject_own_file, why_uncalibrated
    from .scoring.input_check import warn_of_unlike

    reject_own_file(options.out)
    if not features.check("webp"):
        raise UserError("Pillow cannot write WebP here: pip install --upgrade pillow")
    accept = Accept.from_options(options.accept_body, options.accept_view)
    scorer = load(options.run, None, options.device, options.impl, accept=accept)
    if scorer.calibration is None and scorer.run.record.converted:
        raise UserError(why_uncalibrated(options.run, scorer.run.record))
    names = choose_names(options.anonymous or scorer.run.record.anonymous)
    if options.images is not None:
        images = csv_images(options.source, options.images, scorer.score_name, names)
    elif is_data_set(Path(options.source)):
        record = scorer.run.record
        data = open_run_data(
            record,
            options.source,
            ("val", "test"),
            skip_unreadable=True,
            anonymous=options.anonymous,
            accept=accept,
            cache=options.cache,
        )
        if not data:
            raise UserError(f"{options.source} has neither val nor test images: give the folder of those to report")
        reject_redrawn(scorer.run.runs[0], record, options.source, data)
        images = split_images(data[shown_split(data)], names)
    else:
        images = folder_images(options.source, names)
    if options.labels is not None:
        label_images(images, options.labels)
    normal = count_normal(scorer)

    with replacing(options.out) as file:
        strips = examine_images(scorer, images, options.source, options.batch_size)
        data = page_data(scorer, images)
        data["unlike_note"] = warn_of_unlike(np.array([image.unlike for image in images if image.unlike is not None]))
        outside = sum(bool(image.age_outside) for image in images)
        data |= {"normal": normal, "ages": warn_of_outside(outside, len(images), scorer.run.record.ages)}
        data |= page_title(scorer.run, images, options.source, options.images, options.trained_on, names)
        file.write(page(data, strips))
    failed = sum(bool(image.error) for image in images)
    size = Path(options.out).stat().st_size / 1e6
    print(f"{len(images) - failed} of {len(images)} images shown: {printable(options.out)} ({size:.1f} MB)")
    if failed:
        print(
            f"error: {failed} of {len(images)} images could not be read; {printable(options.out)} lists them as "
            "unreadable",
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
        help="folder searched for images, labeled by class folders beside a NORMAL one; a public data set or a list of "
        "images, of which the test or val split is shown; or a CSV that fastsquid.score or a training run wrote, of "
        "the images below --images",
    )
    parser.add_argument("--out", default="report.html", help="HTML file to write; default: report.html")
    add_overwrite_option(parser)
    parser.add_argument("--images", metavar="FOLDER", help="the folder that the CSV's names are relative to")
    parser.add_argument(
        "--labels", metavar="CSV", help="columns name and label: 0 or normal, 1 or abnormal; replaces all other labels"
    )
    parser.add_argument(
        "--trained-on", metavar="TEXT", help="who the training patients were; default: what the run recorded"
    )
    add_anonymous_option(parser)
    add_accept_options(parser)
    add_cache_option(parser)
    add_device_options(parser)
    parser.group("device and speed").add_argument(
        "--batch-size", type=int, default=64, help="images per batch; default: 64"
    )
    return parser


def _parse(arguments):
    options = parser().parse_args(arguments)
    from .reporting.images import is_data_set  # after the options are parsed, so that --help needs no PyTorch

    source = Path(options.source)
    if not source.exists():
        raise UserError(f"{source} does not exist: give a folder of images, or a CSV of scores with --images FOLDER")
    if source.is_dir() and options.images is not None:
        raise UserError(f"{source} is a folder, and --images goes with a CSV of scores: leave it out")
    if source.is_file() and options.images is None and not is_data_set(source):
        raise UserError(f"{source} is a file: a CSV of scores needs --images FOLDER, with the images that it names")
    if options.images is not None and not Path(options.images).is_dir():
        raise UserError(f"--images {options.images} is no folder: give the one that the names in {source} are in")
    for given in (source, options.labels):
        if given is not None and Path(options.out).resolve() == Path(given).resolve():
            raise UserError(f"--out {options.out} would take the place of what it is made from: give another name")
    require_new(options.out, options.overwrite)
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size} should be at least 1")
    return options


if __name__ == "__main__":
    run_command(main)
