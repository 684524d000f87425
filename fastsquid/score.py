"""`python -m fastsquid.score RUN IMAGE|FOLDER... --out scores.csv`: anomaly scores of any number of images."""

import sys
import time
from itertools import chain
from pathlib import Path

from .errors import UserError
from .utils.cli import (
    Parser,
    add_accept_options,
    add_anonymous_option,
    add_device_options,
    add_overwrite_option,
    add_run,
    run_command,
)
from .utils.files import require_new
from .utils.text import printable


def parser() -> Parser:
    """Return the command's argument parser."""
    parser = Parser(
        prog="python -m fastsquid.score", description="Write anomaly scores of images; larger = more abnormal."
    )
    add_run(parser)
    parser.add_argument(
        "images",
        metavar="IMAGE|FOLDER",
        nargs="+",
        help="image files, WebDataset shards (.tar), and folders searched for either",
    )
    parser.add_argument(
        "--out",
        default="scores.csv",
        help="CSV to write, one row per image (default: scores.csv); a single folder's or shard's images are named by "
        "their path inside it, all others by their path as given",
    )
    add_overwrite_option(parser)
    parser.add_argument(
        "--all-scores", action="store_true", help="compute all raw scores, not only the ranking one; a column for each"
    )
    parser.add_argument(
        "--checkpoint", choices=["best", "last"], help="which detector; default: the run's best, where it has one"
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help="only discriminator_image, the score of the image itself; the generator does not run",
    )
    add_anonymous_option(parser)
    add_accept_options(parser)
    add_device_options(parser)
    speed = parser.group("device and speed")
    speed.add_argument("--batch-size", type=int, default=64, help="images per batch; default: 64")
    speed.add_argument(
        "--precision",
        default="fp32",
        choices=["fp32", "bf16"],
        help="precision of convolutions and projections; bf16 ranks images nearly the same; default: fp32",
    )
    return parser


def main(arguments: list[str] | None = None) -> int | None:
    """Write the scores of images as a CSV; return the exit code."""
    options = parser().parse_args(arguments)
    require_new(options.out, options.overwrite)
    if options.fast and options.all_scores:
        raise UserError("--fast computes one score only: leave out --fast or --all-scores")
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size} should be at least 1")
    # Imported after the options are parsed, so that --help needs no PyTorch.
    from .api import load
    from .data.dicom.kinds import Accept
    from .data.listing import list_files
    from .data.names import choose_names
    from .reporting.table import Scoring

    paths = [Path(image) for image in options.images]
    if "" in options.images:
        raise UserError("an image's path is empty: give image files, shards or folders")
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist")
    scorer = load(
        options.run,
        options.checkpoint,
        options.device,
        options.impl,
        options.precision,
        options.fast,
        Accept.from_options(options.accept_body, options.accept_view),
    )
    _say_what_stays_empty(scorer)
    names = choose_names(options.anonymous or scorer.run.record.anonymous)
    files = list_files(paths, names)
    scoring = Scoring(scorer, options.batch_size, names, options.all_scores)
    return _finish(options, scoring, len(files), chain.from_iterable(scoring.batches(files)))


def _say_what_stays_empty(scorer):
    """Print which columns of the table stay empty, and why."""
    from .api import NO_PERCENTILES
    from .runs.folder import why_uncalibrated
    from .runs.input_check import why_unchecked

    run = scorer.run
    empty = {}
    if not scorer.has_percentiles:
        empty["percentile"] = why_uncalibrated(run.folder, run.record) if scorer.calibration is None else NO_PERCENTILES
    if not scorer.thresholds:
        empty["above_threshold"] = why_uncalibrated(run.folder, run.record)
    if scorer.input_check is None:
        empty["unlike_training"] = why_unchecked(run.folder, run.record)
    for reason in dict.fromkeys(empty.values()):
        columns = [column for column in empty if empty[column] == reason]
        stay = "columns {} stay" if len(columns) > 1 else "column {} stays"
        print(f"the {stay.format(' and '.join(columns))} empty: {printable(reason)}", file=sys.stderr)


def _finish(options, scoring, count, rows):
    """Write the CSV and print a summary; return the exit code."""
    from .data.dicom.patients import warn_of_outside
    from .reporting.table import write_table
    from .runs.folder import is_unmeasured
    from .scoring.input_check import describe_unlike
    from .scoring.thresholds import UNMEASURED

    failed, above, unlike, outside = write_table(options.out, scoring.columns, rows, scoring.names)
    seconds = time.perf_counter() - scoring.start
    scored = count - failed
    if scored:
        speed = f"{scored / seconds:.1f} images/s from file to row, {scored / scoring.seconds:.1f} images/s"
        speed = f" ({speed} from tensor to score)"
    else:
        speed = ""
    # Only now: whoever reads this may have gone, and the table is written first.
    thresholds = [f"threshold: {value:.6g}, {what}" for value, what in scoring.scorer.thresholds[:1]]
    print(f"score: {scoring.scorer.score_name}; {''.join(thresholds) or 'no threshold'}")
    print(f"{scored} of {count} images scored: {printable(options.out)}{speed}")
    if scored and thresholds:
        print(f"{above} of {scored} images are at or above the threshold")
    if scored and scoring.scorer.input_check is not None:
        print(describe_unlike(unlike, scored))
    if is_unmeasured(scoring.scorer.run.runs[0]):
        print(UNMEASURED)
    warn_of_outside(outside, count, scoring.scorer.run.record.ages)
    if failed:
        print(
            f"error: {failed} of {count} images could not be read; {printable(options.out)} says why in its error "
            "column",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    run_command(main)
