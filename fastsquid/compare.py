"""`python -m fastsquid.compare GROUP GROUP`: whether two groups of runs differ in AUC, over seeds and over images."""

from .config import SCORES
from .utils.cli import Parser, run_command


def parser() -> Parser:
    """Return the command's argument parser."""
    parser = Parser(
        prog="python -m fastsquid.compare", description="Compare two groups of runs by their AUC on the same images."
    )
    parser.add_argument(
        "groups",
        metavar="GROUP",
        nargs=2,
        help="folder that fastsquid.train --seeds wrote; a run folder or a shipped model is a group of one seed",
    )
    parser.add_argument(
        "--score",
        choices=list(SCORES),
        help="score whose AUC is compared; default: the one that each group's configuration ranks by",
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Compare two groups of runs."""
    options = parser().parse_args(arguments)
    # Imported after the options are parsed, so that --help needs no PyTorch.
    from .evaluation.comparison import compare, comparison_table, require_same_images, warn_of_epochs
    from .models import resolve
    from .runs.scored import read_scored

    first, second = (read_scored(resolve(folder), options.score) for folder in options.groups)
    require_same_images(first, second)
    warn_of_epochs(first, second)
    print(comparison_table(first, second, compare(first, second)))


if __name__ == "__main__":
    run_command(main)
