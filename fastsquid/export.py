"""`python -m fastsquid.export RUN --to onnx|pt2`: a run as one file that other programs can score images with."""

from pathlib import Path

import numpy as np
import torch

from .api import load
from .data import SPLITS, to_unit
from .errors import UserError
from .runs.data import open_run_data
from .runs.trained import TrainedRun
from .scoring.portable import READERS, RUNTIMES, WRITERS, require_packages
from .scoring.verification import BATCHES, IMAGES, compare, require_agreement
from .utils.cli import Parser, add_reading_options, run_command
from .utils.files import replacing, require_place


def parser() -> Parser:
    """Return the command's argument parser."""
    parser = Parser(
        prog="python -m fastsquid.export",
        description="Write a finished run as one file that scores images without fastsquid: ONNX, or torch.export's.",
    )
    parser.add_argument("run", metavar="RUN", help="run or group folder that fastsquid.train wrote, finished")
    parser.add_argument(
        "--to", required=True, choices=list(WRITERS), help="onnx, or pt2, which torch.export.load opens"
    )
    parser.add_argument("--out", metavar="FILE", help="file to write; default: scorer.onnx or scorer.pt2")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="run the file beside the run on real images, in batches of 1 and 7: it is written only if no output "
        "differs by more than 0.001; also prints images a second of both",
    )
    parser.add_argument("--data", help="data whose images --verify takes; default: what the run was trained with")
    add_reading_options(parser)
    return parser


def main(arguments=None):
    options = parser().parse_args(arguments)
    if options.data is not None and not options.verify:
        raise UserError("--data is for --verify: add it, or leave --data out")
    if options.data == "":
        raise UserError("--data is empty: give a folder, or leave it out for the run's own data")
    require_packages(options.to)

    out = Path(options.out or f"scorer.{options.to}")
    require_place(out)
    scorer = load(options.run, device="cpu", impl="torch")
    scorer.normal_map()  # or refused before there is work
    images = None
    if options.verify:
        images = real_images(scorer.run, options.data, options.skip_unreadable, options.anonymous)
    with replacing(out, "wb") as file:
        WRITERS[options.to](scorer, file)
        file.flush()
        if options.verify:
            largest, speeds = compare(scorer, READERS[options.to](file.name), images)
            _print(largest, speeds, options.to)
            require_agreement(largest, out)
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")


def _print(largest, speeds, kind):
    """What `compare` found, for people."""
    print(f"{IMAGES} images, in batches of {' and of '.join(map(str, BATCHES))}")
    print(f"{'':20}" + "".join(f"{name:>14}" for name in largest))
    print(f"{'largest difference':20}" + "".join(f"{difference:14.1e}" for difference in largest.values()))
    print(
        f"\n{f'images/s, threads: {torch.get_num_threads()}':20}" + "".join(f"{f'of {size}':>14}" for size in BATCHES)
    )
    for row, who in enumerate(("fastsquid", RUNTIMES[kind])):
        print(f"{who:20}" + "".join(f"{speeds[size][row]:14.1f}" for size in BATCHES))


def real_images(
    run: TrainedRun, source: str | None = None, skip_unreadable: bool = False, anonymous: bool = False
) -> torch.Tensor:
    """Return images to compare on: of the test split, or where there is none of validation, or of training.

    Args:
        run: as `load` opens it.
        source: path of the data; None for the data that the run was trained with.
        skip_unreadable, anonymous: as `open_run_data` takes them.

    Returns:
        float32 (66, 1, S, S) in [0, 1], evenly from the whole split; fewer images repeat.

    Raises:
        UserError: as `open_run_data`, or no images.
    """
    source = source or run.record.data
    for name in reversed(SPLITS):
        data = open_run_data(run.record, source, splits=(name,), skip_unreadable=skip_unreadable, anonymous=anonymous)
        if name in data:
            images = data[name].images
            return to_unit(images[np.linspace(0, len(images) - 1, IMAGES).round().astype(int)])
    raise UserError(f"{source} has no images to compare on")


if __name__ == "__main__":
    run_command(main)
