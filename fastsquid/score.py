"""`python -m fastsquid.score RUN IMAGE|FOLDER... --out scores.csv`: anomaly scores of any number of images.

With `--ray` a Ray cluster scores an archive: its sources may lie in object stores, and OUT is a folder of Parquet.
"""

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
    add_ray_option,
    add_run,
    positive,
    require_any_machine,
    run_command,
)
from .utils.files import reject_replacing, require_new
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
        help="image files, WebDataset shards (.tar), and folders searched for either; with --ray also addresses such "
        "as s3://bucket/folder, and Parquet tables of paths or bytes",
    )
    parser.add_argument(
        "--out",
        help="CSV to write, one row per image (default: scores.csv); a single folder's or shard's images are named by "
        "their path inside it, all others by their path as given; with --ray a folder of Parquet files (default: "
        "scores.parquet), which the same command continues",
    )
    add_overwrite_option(parser)
    parser.add_argument(
        "--all-scores", action="store_true", help="compute all raw scores, not only the ranking one; a column for each"
    )
    parser.add_argument(
        "--checkpoint", choices=["best", "last"], help="which checkpoint; default: the run's best, where it has one"
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
    add_ray_option(parser, "score on a Ray cluster")
    parser.group("cluster").add_argument(
        "--actors",
        type=positive,
        metavar="N",
        help="with --ray: processes that score; default: one per GPU, or one per two CPU cores",
    )
    return parser


def main(arguments: list[str] | None = None) -> int | None:
    """Write the scores of images as a CSV; return the exit code."""
    options = parser().parse_args(arguments)
    options.out = options.out or ("scores.csv" if options.ray is None else "scores.parquet")
    if options.ray is None:
        require_new(options.out, options.overwrite)
    if options.actors and options.ray is None:
        raise UserError("--actors are of a Ray cluster: add --ray, or leave it out")
    if options.fast and options.all_scores:
        raise UserError("--fast computes one score only: leave out --fast or --all-scores")
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size} should be at least 1")
    return _score(options) if options.ray is None else _score_on_ray(options)


def _load(options, device):
    # Imported after the options are parsed, so that --help needs no PyTorch.
    from .api import load
    from .data.dicom.kinds import Accept

    scorer = load(
        options.run,
        options.checkpoint,
        device,
        options.impl,
        options.precision,
        options.fast,
        Accept.from_options(options.accept_body, options.accept_view),
    )
    _say_what_stays_empty(scorer)
    return scorer


def _score(options):
    """Write a CSV in this process; return the exit code."""
    from .data.listing import list_files
    from .data.names import choose_names
    from .data.records import TABLE_SUFFIXES
    from .reporting.table import Scoring, write_table
    from .runs.folder import reject_own_file

    reject_own_file(options.out)
    paths = [Path(image) for image in options.images]
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist")
        if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
            raise UserError(f"{path} is a list: give images, or a folder of them. `evaluate` takes a list, by --data")
    scorer = _load(options, options.device)
    names = choose_names(options.anonymous or scorer.run.record.anonymous)
    files = list_files(paths, names)
    reject_replacing(options.out, (file for _, file in files))
    scoring = Scoring(scorer, options.batch_size, names, options.all_scores)
    rows = chain.from_iterable(scoring.batches(files))
    counts = write_table(options.out, scoring.columns, rows, scoring.names)
    seconds, scored = time.perf_counter() - scoring.start, len(files) - counts.failed
    speed = ""
    if scored:
        speed = f"{scored / seconds:.1f} images/s from file to row, {scored / scoring.seconds:.1f} images/s"
        speed = f" ({speed} from tensor to score)"
    return _report(options, scorer, len(files), counts, speed)


def _score_on_ray(options):
    """Write a folder of Parquet files on a Ray cluster; return the exit code."""
    from .utils.ray_cluster import cluster, require_ray

    require_ray()
    from .archive.job import Job, count, run_job
    from .archive.sources import is_table, list_items, open_table, require_own_names
    from .archive.stores import place_of
    from .data.names import choose_names

    require_any_machine(options.device)
    scorer = _load(options, "cpu")
    names = choose_names(options.anonymous or scorer.run.record.anonymous)
    job = Job(
        *(scorer, names, options.precision, options.all_scores, options.batch_size),
        *(options.device, options.actors, options.threads),
    )
    tables = [open_table(source) for source in options.images if is_table(source)]
    listed = [source for source in options.images if not is_table(source)]
    items = list_items(listed, names, alone=len(options.images) == 1)
    if not job.anonymous:
        require_own_names(tables, items)
    out = place_of(options.out)
    start = time.perf_counter()
    with cluster(options.ray):
        before = run_job(job, options.images, tables, items, out, options.overwrite)
    seconds = time.perf_counter() - start
    rows, counts = count(out)
    new = f"{(rows - before) / seconds:.1f} images/s from file to row, with the start of the processes"
    speed = f" ({before} before, the rest at {new})" if before else f" ({new})"
    return _report(options, scorer, rows, counts, speed)


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


def _report(options, scorer, count, counts, speed):
    """Print a summary; return the exit code."""
    from .data.dicom.patients import warn_of_outside
    from .runs.folder import is_unmeasured
    from .scoring.input_check import describe_unlike
    from .scoring.thresholds import UNMEASURED

    failed, above, unlike, outside = counts
    scored = count - failed
    # Only now: whoever reads this may have gone, and the table is written first.
    thresholds = [f"threshold: {value:.6g}, {what}" for value, what in scorer.thresholds[:1]]
    print(f"score: {scorer.score_name}; {''.join(thresholds) or 'no threshold'}")
    print(f"{scored} of {count} images scored: {printable(options.out)}{speed}")
    if scored and thresholds:
        print(f"{above} of {scored} images are at or above the threshold")
    if scored and scorer.input_check is not None:
        print(describe_unlike(unlike, scored))
    if is_unmeasured(scorer.run.runs[0]):
        print(UNMEASURED)
    warn_of_outside(outside, count, scorer.run.record.ages)
    if failed:
        print(
            f"error: {failed} of {count} images could not be read; {printable(options.out)} says why in its error "
            "column",
            file=sys.stderr,
        )
        return 1 if scored else 2


if __name__ == "__main__":
    run_command(main)
