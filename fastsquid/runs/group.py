"""Groups of runs that differ in their seed.

    group.json         seeds, configuration and data, written before any run (`GroupRecord`)
    seed-0/, seed-1/   one ordinary run folder per seed
    summary.json       metrics over seeds, written at the end

A run in a group is the same as it would be alone.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ..data.sources.digits import is_mnist
from ..errors import CheckpointError, UserError
from .folder import GROUP, create_folder, is_finished, read_group, read_run, seed_folder
from .records import GroupRecord, RunRecord


def is_group(folder: str | Path) -> bool:
    """Return whether the folder is a group's."""
    return (Path(folder) / GROUP).is_file()


def create_group(folder: str | Path, group: GroupRecord) -> None:
    """Make a group folder with its group.json in one step, unless it exists."""
    if not is_group(folder):
        create_folder(folder, GROUP, group.to_json())


def seed_run(folder: str | Path, group: GroupRecord, seed: int) -> tuple[Path, RunRecord]:
    """Return the folder of a seed's run, and its record; of a run that has not begun, the record it begins with.

    Raises:
        CheckpointError: a run that is damaged, or not of this group.
    """
    run_folder, planned = seed_folder(folder, seed), group.run(seed)
    if not run_folder.exists():
        return run_folder, planned
    record = read_run(run_folder)
    for name in ("seed", *(f.name for f in dataclasses.fields(group) if f.name != "seeds")):
        if getattr(record, name) != getattr(planned, name):
            raise CheckpointError(f"{run_folder} is not a run of this group: its {name} differs from {GROUP}")
    return run_folder, record


def finished_runs(folder: str | Path) -> dict[int, Path]:
    """Return {seed: run folder} of a group whose runs have all finished; a single run is a group of one.

    Raises:
        CheckpointError: neither a group nor a run, or not finished.
    """
    folder = Path(folder)
    if is_group(folder):
        group = read_group(folder)
        runs = {seed: seed_run(folder, group, seed)[0] for seed in group.seeds}
    else:
        runs = {read_run(folder).seed: folder}
    for seed, run_folder in runs.items():
        if not is_finished(run_folder):
            raise CheckpointError(
                f"{folder} is not finished (seed {seed}): continue with python -m fastsquid.train --resume {folder}"
            )
    return runs


def read_agreeing_runs(folders: Sequence[str | Path]) -> RunRecord:
    """Return the record of the first run.

    Raises:
        UserError: a run that is given twice, or is not another seed of the first run.
    """
    runs = [read_run(folder) for folder in folders]
    resolved = [Path(folder).resolve() for folder in folders]
    for i, (folder, run) in enumerate(zip(folders, runs)):
        if resolved[i] in resolved[:i]:
            raise UserError(f"{folder} is given twice: give each run once")
        ours, theirs = (one.config.to_dict() for one in (runs[0], run))
        for name in ours:
            if ours[name] != theirs[name]:
                raise UserError(
                    f"{folder} is of another configuration than {folders[0]}: {name} is {theirs[name]!r} there and "
                    f"{ours[name]!r} here; give runs that differ in their seed"
                )
        drawn = run.data is None or is_mnist(Path(run.data))  # DigitAnatomy's training images are the seed's
        if run.fingerprint != runs[0].fingerprint and not (drawn and run.data == runs[0].data):
            raise UserError(f"{folder} was trained on other images than {folders[0]}: give runs of the same data")
    return runs[0]
