"""`fastsquid COMMAND ...`, or `python -m fastsquid COMMAND ...`: one entry to all commands."""

import difflib
import sys
from importlib import import_module

from . import __version__
from .errors import UserError
from .utils.cli import run_command

# Each command is a module of this name.
COMMANDS = {
    "train": "train a detector on normal images",
    "score": "write anomaly scores of images",
    "report": "write an HTML report of images, scores and heat maps",
    "evaluate": "measure a run on labeled images",
    "locate": "draw heat maps, and measure how well they find anomalies",
    "figures": "draw the figures of the papers",
    "compare": "compare two groups of runs by their AUC",
    "export": "write a run as an ONNX or torch.export file",
    "convert": "make a run of a published checkpoint",
    "study": "train every row of a study of the papers",
}


def main(arguments: list[str] | None = None) -> int | None:
    """Run the command that the first argument names."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print("usage: fastsquid COMMAND ...\n\n" + "\n".join(f"  {c:9} {what}" for c, what in COMMANDS.items()))
        print("\n`fastsquid COMMAND --help` shows its options; `fastsquid --version` the version.")
        return None
    if name == "--version":
        print(f"fastsquid {__version__}")
        return None
    if name not in COMMANDS:
        near = difflib.get_close_matches(name.lower(), COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {name!r}: {hint}")
    return import_module(f".{name}", __package__).main(rest)


def console() -> None:
    """Run as a console script."""
    run_command(main)


if __name__ == "__main__":
    console()
