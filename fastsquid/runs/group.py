"""Groups of runs that differ in their seed: their record, and what their scores are worth together.

    group.json         seeds, configuration and data, written before any run
    seed-0/, seed-1/   an ordinary run folder each
    summary.json       at the end

A run in a group is what it would be alone.
"""

from pathlib import Path

from .. import __version__
from ..config import Config
from ..errors import CheckpointError
from .folder import FORMAT, create_folder, is_finished, read_json, read_run


def is_group(folder):
    """Whether the folder is a group's."""
    return (Path(folder) / "group.json").is_file()


def create_group(folder, group):
    """Makes a group folder with its group.json in one step, unless it is there.

    Args:
        group: dict of `seeds`, and of `config` (a `Config`), `data`, `skip_unreadable`, `anonymous` and `init` as
            `create_run` takes them.
    """
    if not is_group(folder):
        record = {"format": FORMAT, "fastsquid": __version__, **group, "config": group["config"].to_dict()}
        create_folder(folder, "group.json", record)


def read_group(folder):
    """The dict that `create_group` was given.

    Raises:
        CheckpointError: group.json is damaged or of another version.
    """
    path = Path(folder) / "group.json"
    group = read_json(path)
    if not isinstance(group, dict) or group.get("format") != FORMAT or not isinstance(group.get("config"), dict):
        raise CheckpointError(f"{path} is not a group of this version of fastsquid")
    missing = {"seeds", "data", "skip_unreadable"} - set(group)
    if missing:
        raise CheckpointError(f"{path} is damaged: it has no {sorted(missing)[0]}")
    seeds = group["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and 0 <= seed < 2**64 for seed in seeds):
        raise CheckpointError(f"{path} is damaged: its seeds should be a list of whole numbers from 0 to 2**64 - 1")
    return {
        "config": Config.from_dict(group["config"]),
        "data": group["data"],
        "skip_unreadable": group["skip_unreadable"],
        "anonymous": group.get("anonymous", False),
        "init": group.get("init"),
        "seeds": seeds,
    }


def seed_run(folder, group, seed):
    """Folder of a seed's run, and the run's config.json, or what it is to begin with.

    Raises:
        CheckpointError: a run that is damaged, or not of this group.
    """
    run_folder = Path(folder) / f"seed-{seed}"
    planned = {key: value for key, value in group.items() if key != "seeds"} | {"seed": seed}
    if not run_folder.exists():
        return run_folder, planned
    run = read_run(run_folder)
    for key, value in planned.items():
        if run[key] != value:
            raise CheckpointError(f"{run_folder} is no run of this group: its {key} is not the one in group.json")
    return run_folder, run


def finished_runs(folder):
    """{seed: run folder} of a group whose runs have all finished; a single run is a group of one.

    Raises:
        CheckpointError: neither a group nor a run, or not finished.
    """
    folder = Path(folder)
    if is_group(folder):
        group = read_group(folder)
        runs = {seed: seed_run(folder, group, seed)[0] for seed in group["seeds"]}
    else:
        runs = {read_run(folder)["seed"]: folder}
    for seed, run_folder in runs.items():
        if not is_finished(run_folder):
            raise CheckpointError(
                f"{folder} is not finished (seed {seed}): go on with python -m fastsquid.train --resume {folder}"
            )
    return runs
