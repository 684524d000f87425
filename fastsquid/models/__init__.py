"""Models that fastsquid ships: run folders inside the package, which every command that takes a run finds by name."""

import difflib
from pathlib import Path

from ..errors import CheckpointError
from ..runs.folder import CONFIG, GROUP

# Each is the name of a folder beside this file. bench/ship.py makes it of a finished run; docs/models has its page.
MODELS = ("zhanglab",)
_HERE = Path(__file__).parent


def resolve(run: str | Path) -> Path:
    """Return the folder that a user means by RUN.

    The name of a shipped model stands for its folder, unless the working directory has a run or a group of that name.
    A folder of that name without a run, such as a data set, does not count.

    >>> resolve("runs/mine").as_posix()
    'runs/mine'

    Args:
        run: path of a run or group folder, or name of a shipped model.

    Raises:
        CheckpointError: there is no such folder, and the name resembles that of a shipped model.
    """
    folder, name = Path(run), str(run)
    if name in MODELS:
        return folder if _holds_run(folder) else model_folder(name)
    near = difflib.get_close_matches(folder.name.lower(), MODELS, 1)
    if near and len(folder.parts) == 1 and not folder.exists():  # a name, also as zhanglab/, which a shell completes
        raise CheckpointError(f"{name} does not exist: did you mean {near[0]}?")
    return folder


def model_folder(name: str) -> Path:
    """Return the run folder of a shipped model."""
    return _HERE / name


def shipped_name(folder: str | Path) -> str | None:
    """Return the name of the shipped model whose run folder this is, or None."""
    folder = Path(folder).resolve()
    return folder.name if folder.parent == _HERE.resolve() and folder.name in MODELS else None


def output_folder(folder: str | Path, name: str) -> Path:
    """Return where a command writes pictures of a run by default.

    It is a folder in the run's own, or, as nothing is written into the installed package, `MODEL-NAME` in the working
    directory.

    Args:
        folder: of the run.
        name: what is written, such as `evaluation`.
    """
    model = shipped_name(folder)
    return Path(folder) / name if model is None else Path(f"{model}-{name}")


def _holds_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file() or (folder / GROUP).is_file()
