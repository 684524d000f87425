"""Groups of runs that differ in their seed: their record, and what their scores are worth together.

    group.json         seeds, configuration and data, written before any run
    seed-0/, seed-1/   an ordinary run folder each
    summary.json       at the end

A run in a group is what it would be alone.
"""

from pathlib import Path

import numpy as np

from . import __version__
from .checkpoint import FORMAT, CheckpointError, create_folder, read_json, read_run
from .config import Config
from .errors import UserError
from .evaluation import read_scores
from .files import write_json
from .metrics import bootstrap_auc


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


def is_finished(run_folder):
    """Whether a run has left everything; its summary.json comes last."""
    return (run_folder / "summary.json").is_file()


def read_summary(run_folder):
    """summary.json of a finished run.

    Raises:
        CheckpointError: it is damaged.
    """
    path = run_folder / "summary.json"
    summary = read_json(path)
    if not isinstance(summary, dict) or not {"preset", "split", "images", "scores", "checkpoint"} <= set(summary):
        raise CheckpointError(
            f"{path} is not what a run leaves: python -m fastsquid.train --resume {run_folder} writes it again"
        )
    return summary


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


def report_group(folder):
    """Writes summary.json of a group whose runs have all finished, and prints it."""
    summary = summarize(finished_runs(folder))
    write_json(Path(folder) / "summary.json", summary)
    print_summary(summary)


def summarize(runs):
    """What {seed: run folder} are worth together, on the split that their summaries report.

    Returns:
        dict: `seeds`; `split` (None if nothing is labelled) and `images` as in a run's summary; `scores`, by name the
        `mean` and sample standard deviation `std` (None of a single seed) over seeds of `auc`, and of `accuracy` and
        `f1` at the threshold chosen on validation (None without one); and `runs`, of each seed its `checkpoint` and
        by score its `auc` (`value`) with the `low` and `high` end of the 95 % bootstrap interval over images.

    Raises:
        UserError: a run's summary or scores are damaged, or of other images than the first run's.
    """
    reports = {seed: read_summary(run) for seed, run in runs.items()}
    first = next(iter(reports.values()))
    for seed, report in reports.items():
        if (report["split"], report["images"]) != (first["split"], first["images"]):
            raise UserError(
                f"{runs[seed]} was evaluated on other images than {next(iter(runs.values()))}, since the data changed: "
                "python -m fastsquid.train --resume RUN evaluates each of them again"
            )
    scores = {}
    for score in first["scores"]:
        metrics = [report["scores"][score] for report in reports.values()]
        scores[score] = {"auc": mean_and_std([m["auc"] for m in metrics])}
        for name in ("accuracy", "f1"):
            chosen = [m["validation_threshold"] for m in metrics]
            scores[score][name] = None if None in chosen else mean_and_std([at[name] for at in chosen])
    return {
        "preset": first["preset"],
        "seeds": list(runs),
        "split": first["split"],
        "images": first["images"],
        "scores": scores,
        "runs": [
            {"seed": seed, "checkpoint": report["checkpoint"], "auc": _intervals(runs[seed], report)}
            for seed, report in reports.items()
        ],
    }


def mean_and_std(values):
    """`mean` and sample standard deviation `std`, None of a single value."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def mean_and_std_text(values, width):
    """What `mean_and_std` gives, or None, as a cell of a table."""
    if values is None:
        return f"{'-':>{width}}"
    std = "" if values["std"] is None else f" ± {values['std']:.3f}"
    return f"{values['mean']:.3f}{std}".rjust(width)


def print_summary(summary):
    """The summary of a group as tables for people."""
    if summary["split"] is None:
        print("\nno labelled images: nothing to summarize")
        return
    seeds, images = len(summary["seeds"]), summary["images"]
    print(
        f"\n{seeds} seed{'s' * (seeds > 1)} on the {summary['split']} split: {images['normal']} normal, "
        f"{images['abnormal']} abnormal; mean ± sample standard deviation over seeds"
    )
    print(f"{'':22} {'':15}   {'threshold chosen on validation':^33}")
    print(f"{'score':22} {'AUC':>15}   {'accuracy':>15}   {'F1':>15}")
    for score, metrics in summary["scores"].items():
        print(f"{score:22} " + "   ".join(mean_and_std_text(metrics[name], 15) for name in ("auc", "accuracy", "f1")))
    print("\nAUC of each seed, with a 95 % bootstrap interval over images")
    print(f"{'seed':8} " + "   ".join(f"{score:>21}" for score in summary["scores"]))
    for run in summary["runs"]:
        cells = (f"{auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]" for auc in run["auc"].values())
        print(f"{run['seed']:<8} " + "   ".join(f"{cell:>21}" for cell in cells))


def _intervals(run_folder, report):
    """By score the AUC of a run and its interval."""
    if report["split"] is None:
        return {}
    _, labels, scores = read_scores(run_folder / f"scores-{report['split']}.csv")
    result = {}
    for score, metrics in report["scores"].items():
        low, high = bootstrap_auc(labels, scores[score])
        result[score] = {"value": metrics["auc"], "low": low, "high": high}
    return result
