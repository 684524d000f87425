"""`python -m fastsquid.score RUN IMAGE|FOLDER... --out scores.csv`: anomaly scores of any number of images."""

import sys
import time
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from .errors import UserError
from .utils.cli import Parser, add_anonymous_option, add_device_options, add_run, join_job, run_command
from .utils.files import require_place


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
        help="CSV to write (default: scores.csv): name, raw scores, calibrated score, unlike_training, error; a single "
        "folder's or shard's images are named by their path inside it, all others by their path as given",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images per batch; default: 64")
    parser.add_argument(
        "--checkpoint", choices=["best", "last"], help="which detector; default: the run's best, where it has one"
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=["fp32", "bf16"],
        help="precision of convolutions and projections; bf16 ranks images nearly the same; default: fp32",
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help="only discriminator_image, the score of the image itself; the generator does not run",
    )
    add_anonymous_option(parser)
    add_device_options(parser)
    return parser


def main(arguments: list[str] | None = None) -> int | None:
    """Write the scores of images as a CSV; return the exit code."""
    join_job()
    options = parser().parse_args(arguments)
    # Imported after the options are parsed, so that --help needs no PyTorch.
    from .utils import distributed

    require_place(options.out)
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size} should be at least 1")
    with distributed.job(lambda: "give the same command again to continue"):
        return _score(options)


def _score(options):
    from .api import load
    from .data.listing import list_files
    from .data.names import choose_names
    from .reporting.parts import Parts, any_parts, digest
    from .reporting.table import Scoring
    from .runs.folder import why_uncalibrated
    from .runs.input_check import why_unchecked
    from .utils import distributed

    paths = [Path(image) for image in options.images]
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist")
    scorer = load(options.run, options.checkpoint, options.device, options.impl, options.precision, options.fast)
    if scorer.calibration is None and distributed.leads():
        why = why_uncalibrated(options.run, scorer.run.record)
        print(f"the columns calibrated and unlike_training stay empty: {why}", file=sys.stderr)
    elif scorer.input_check is None and distributed.leads():
        print(
            f"the unlike_training column stays empty: {why_unchecked(options.run, scorer.run.record)}", file=sys.stderr
        )

    anonymous = options.anonymous or scorer.run.record.anonymous
    names = choose_names(anonymous)
    files = list_files(paths, names)
    scoring = Scoring(scorer, options.batch_size, names)
    if distributed.world() == 1 and not any_parts(options.out):
        return _finish(options, scoring, len(files), chain.from_iterable(scoring.batches(files)))
    threshold = scorer.input_check and scorer.input_check.threshold
    calibration = scorer.calibration and {name: asdict(usual) for name, usual in scorer.calibration.items()}
    settings = [scorer.run.weights, scorer.score_name, scorer.score_names, calibration]
    settings += [options.precision, anonymous, threshold]
    with Parts(options.out, digest(settings, files), len(files)) as parts:
        share = parts.share()
        parts.write(share, scoring.batches([files[index] for index in share]))
        return _finish(options, scoring, len(files), parts.rows(), parts)


def _finish(options, scoring, count, rows, parts=None):
    """Write the CSV in the first process and print a summary; return the exit code."""
    from .data.dicom.patients import warn_of_ages
    from .reporting.table import write_table
    from .scoring.input_check import describe_unlike
    from .utils import distributed

    # This waits for all parts. A single process has no ages yet: writing the table fills its list.
    ages: list[Any] = distributed.gather(scoring.ages)
    if not distributed.leads():
        return 0
    failed, unlike = write_table(options.out, scoring.scorer.score_names, rows, scoring.names)
    seconds = time.perf_counter() - scoring.start
    scored = count - failed
    if parts is not None:
        parts.remove()
        before = int(parts.done.sum())
        speed = f"{before} before, the rest at {(count - before) / seconds:.1f} images/s from file to row"
        speed = f" ({speed}, processes: {distributed.world()})"
    elif scored:
        speed = f"{scored / seconds:.1f} images/s from file to row, {scored / scoring.seconds:.1f} images/s"
        speed = f" ({speed} from tensor to score)"
    else:
        speed = ""
    print(f"{scored} of {count} images scored: {options.out}{speed}")
    if scored and scoring.scorer.input_check is not None:
        print(describe_unlike(unlike, scored))
    warn_of_ages(list(chain.from_iterable(ages)), scoring.scorer.run.record.ages)
    if failed:
        print(
            f"error: {failed} of {count} images could not be read; {options.out} says why in its error column",
            file=sys.stderr,
        )
        distributed.conclude(1)
        return 1


if __name__ == "__main__":
    run_command(main)
