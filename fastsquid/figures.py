"""`python -m fastsquid.figures RUN...`: the figures of the papers, from one finished run or from several seeds."""

from pathlib import Path

from .errors import UserError
from .utils.cli import (
    Parser,
    add_cache_option,
    add_device_options,
    add_overwrite_option,
    add_reading_options,
    run_command,
)
from .utils.files import require_new_in
from .utils.text import printable

# What `drawing.papers.draw_figures` names its figures.
FIGURES = ("roc", "precision_recall", "reconstructions", "gradcam", "memory_tsne", "slot_usage", "score_histograms")


def parser() -> Parser:
    """Return the command's argument parser."""
    parser = Parser(
        prog="python -m fastsquid.figures",
        description="Draw the figures of the papers: ROC and precision-recall curves (of several seeds their mean), "
        "and of the first run reconstructions, Grad-CAM, t-SNE and use of the memory, and histograms of the scores.",
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="run folders of one configuration and data, such as runs/mine/seed-*"
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="folder for the figures; default: RUN/figures, for a shipped model NAME-figures; several runs need it",
    )
    parser.add_argument(
        "--format",
        nargs="+",
        choices=["png", "pdf", "svg"],
        default=["png"],
        help="file formats, one or several; a PNG is at least 1,500 pixels wide; default: png",
    )
    add_overwrite_option(parser)
    parser.add_argument("--data", help="data to draw from; default: what the runs were trained with")
    parser.add_argument(
        "--checkpoint", choices=["best", "last"], help="which checkpoint; default: each run's best, where it has one"
    )
    add_reading_options(parser)
    add_cache_option(parser)
    add_device_options(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Draw the figures of the papers."""
    options = parser().parse_args(arguments)
    if len(options.runs) > 1 and options.out is None:
        raise UserError("figures of several runs belong to none of their folders: say where with --out FOLDER")
    # Imported after the options are parsed, so that --help needs no PyTorch.
    from .models import output_folder, resolve

    run_folders = [resolve(run) for run in options.runs]
    folder = Path(options.out or output_folder(run_folders[0], "figures"))
    require_new_in(folder, [f"{name}.{kind}" for name in FIGURES for kind in options.format], options.overwrite)
    from .data.dicom.kinds import Accept
    from .drawing.papers import draw_figures
    from .drawing.save import save_figure
    from .runs.data import data_of, open_run_data, reject_redrawn
    from .runs.folder import why_uncalibrated
    from .runs.group import read_agreeing_runs
    from .runs.trained import load_run
    from .utils.devices import choose_device

    device = choose_device(options.device)
    first = read_agreeing_runs(run_folders)
    source = data_of(run_folders[0], first, options.data)
    data = open_run_data(
        first,
        source,
        skip_unreadable=options.skip_unreadable,
        anonymous=options.anonymous,
        accept=Accept.from_options(options.accept_body, options.accept_view),
        cache=options.cache,
    )
    reject_redrawn(run_folders[0], first, source, data)
    runs = [load_run(run, options.checkpoint, options.impl, device) for run in run_folders]
    for run in runs:
        if run.calibration is None:
            raise UserError(why_uncalibrated(run.folder, run.record))
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in draw_figures(runs, data):
        if isinstance(figure, str):
            for kind in options.format:  # those of other data, which --overwrite gives up
                (folder / f"{name}.{kind}").unlink(missing_ok=True)
            print(f"{name} skipped: {figure}")
        else:
            for kind in options.format:
                save_figure(figure, folder / f"{name}.{kind}")
                print(printable(folder / f"{name}.{kind}"))


if __name__ == "__main__":
    run_command(main)
