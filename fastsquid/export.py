"""`python -m fastsquid.export RUN --to onnx|pt2`: a run as one file that other programs can score images with."""

from pathlib import Path

from .errors import UserError
from .utils.cli import Parser, add_overwrite_option, add_reading_options, add_threads_option, run_command
from .utils.files import replacing, require_new
from .utils.text import printable


def parser() -> Parser:
    """Return the command's argument parser."""
    parser = Parser(
        prog="python -m fastsquid.export",
        description="Write a finished run as one file that scores images without fastsquid: ONNX, or torch.export's.",
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="finished run or group folder from fastsquid.train, or the name of a shipped model: zhanglab",
    )
    parser.add_argument(
        "--to", required=True, choices=["onnx", "pt2"], help="onnx, or pt2, which torch.export.load opens"
    )
    parser.add_argument("--out", metavar="FILE", help="file to write; default: scorer.onnx or scorer.pt2")
    add_overwrite_option(parser)
    parser.add_argument(
        "--verify",
        action="store_true",
        help="run the file beside the run on real images, in batches of 1 and 7: it is written only if no output "
        "differs by more than 0.001; also prints images per second of both",
    )
    parser.add_argument("--data", help="data whose images --verify takes; default: what the run was trained with")
    add_reading_options(parser)
    add_threads_option(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Write a run as one file for other programs."""
    options = parser().parse_args(arguments)
    out = Path(options.out or f"scorer.{options.to}")
    require_new(out, options.overwrite)
    # Imported after the options are parsed, so that --help needs no PyTorch.
    from .api import load
    from .data.dicom.kinds import Accept
    from .exporting.portable import READERS, WRITERS, require_packages
    from .exporting.verification import IMAGES, agreement_table, compare, require_agreement
    from .runs.data import data_of, real_images
    from .runs.folder import reject_own_file

    reject_own_file(out)
    reading = ("data", "skip_unreadable", "anonymous", "accept_body", "accept_view")
    if not options.verify and (given := [name for name in reading if getattr(options, name)]):
        name = f"--{given[0].replace('_', '-')}"
        raise UserError(f"{name} is for --verify: add it, or leave {name} out")
    require_packages(options.to)

    scorer = load(options.run, device="cpu", impl="torch")
    scorer.normal_map()  # raises before there is work
    images = None
    if options.verify:
        images = real_images(
            scorer.run.record,
            IMAGES,
            data_of(scorer.run.folder, scorer.run.record, options.data),
            skip_unreadable=options.skip_unreadable,
            anonymous=options.anonymous,
            accept=Accept.from_options(options.accept_body, options.accept_view),
        )
    print(f"{printable(options.run)}: building the graph, which may take minutes", flush=True)
    with replacing(out, "wb") as file:
        WRITERS[options.to](scorer, file)
        file.flush()
        if images is not None:
            largest, speeds = compare(scorer, READERS[options.to](file.name), images)
            print(agreement_table(largest, speeds, options.to))
            require_agreement(largest, out)
    print(f"{printable(out)} ({out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    run_command(main)
