"""The metrics of one run or of a group of runs, as dicts and as tables for people."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..config import Config
from ..data.split import Split
from ..scoring.thresholds import UNMEASURED
from ..utils.text import printable
from .metrics import evaluate, evaluate_kinds
from .validation import reported_split


def evaluate_run(
    data: dict[str, Split],
    scores: dict[str, dict[str, np.ndarray]],
    config: Config,
    checkpoint: str,
    epoch: int | list[int | None] | None,
    validation: dict[str, dict[str, float]] | None,
) -> dict[str, Any]:
    """Return the metrics of a detector on the reported split.

    Args:
        data: splits by name.
        scores: {split: {score: (N,)}}, of the reported split at least.
        config: of the detector; its `score` ranks images, and with `select` it chose the epoch.
        checkpoint: `best` or `last`.
        epoch: that the detector was trained to; None for converted weights.
        validation: {score: {"auc", "threshold"}} on validation images, or None.

    Returns:
        dict with `split` (None if nothing is labeled), `images`, `scores` by name, `checkpoint`, whose `epoch` and
        `chosen_by` are None for converted weights, and `by_class`: {"score": the one that ranks, "classes": as
        `evaluate_kinds` returns them for it}, or None for fewer than two abnormal classes.

    Raises:
        UserError: the split has only one class.
    """
    chosen = None if epoch is None else "last epoch"
    if checkpoint == "best":
        # Only a run of an earlier version, which selected by synthetic opacities, has a best epoch without `auc`.
        images = "validation" if config.select == "auc" else "synthetic opacity"
        chosen = f"{images} AUC of {config.score}"
    which = {"name": checkpoint, "epoch": epoch, "chosen_by": chosen}
    name = reported_split(data)
    if name is None:
        return {"split": None, "images": None, "scores": {}, "checkpoint": which, "by_class": None}
    split = data[name]
    assert split.labels is not None
    kinds = split.abnormal_masks()
    found = evaluate_kinds(split.labels, scores[name][config.score], kinds)
    return {
        "split": name,
        "images": {
            "normal": int((split.labels == 0).sum()),
            "abnormal": int((split.labels == 1).sum()),
            "skipped": split.skipped,
        },
        "scores": {
            score: evaluate(split.labels, values, validation[score]["threshold"] if validation else None, kinds)
            for score, values in scores[name].items()
        },
        "checkpoint": which,
        "by_class": {"score": config.score, "classes": found} if found else None,
    }


def run_table(result: dict, own_data: bool = True) -> str:
    """Return the metrics of `evaluate_run` as a table for people.

    Args:
        result: of `evaluate_run`.
        own_data: whether it is of the data that the run was trained with. A `val` split of that data also chose the
            thresholds, so there is one half to print.
    """
    if result["split"] is None:
        return f"no labeled images: nothing to evaluate. {UNMEASURED}"
    images, checkpoint = result["images"], result["checkpoint"]
    by_validation = own_data and result["split"] == "val"
    halves = {"test_threshold": "threshold chosen on these labels"}
    if not by_validation:
        halves = {"validation_threshold": "threshold chosen on validation"}
        halves["test_threshold"] = "chosen on these labels (papers)"
    head = f"{'accuracy':>9} {'F1':>6} {'sens.':>6} {'spec.':>6}"
    lines = [
        f"{result['split']} split: {images['normal']} normal, {images['abnormal']} abnormal; "
        + describe_checkpoint(checkpoint["name"], checkpoint["epoch"])
        + (f" (chosen by {checkpoint['chosen_by']})" if checkpoint["name"] == "best" else ""),
        "   ".join([f"{'':22} {'':6}", *(f"{title:^30}" for title in halves.values())]).rstrip(),
        "   ".join([f"{'score':22} {'AUC':>6}", *[head] * len(halves)]),
    ]
    for name, metrics in result["scores"].items():
        lines.append("   ".join([f"{name:22} {metrics['auc']:6.3f}", *(_cells(metrics[key]) for key in halves)]))
    if by_validation:
        lines.append(_validation_note(checkpoint["name"] == "best"))
    return "\n".join([*lines, *_class_lines(result)])


def _class_lines(result: dict) -> list[str]:
    """Return the AUC of every abnormal class by every score, the one that ranks first; no lines without `by_class`."""
    if not result.get("by_class"):  # which a summary of an earlier version lacks
        return []
    ranking, classes = result["by_class"]["score"], result["by_class"]["classes"]
    others = [score for score in result["scores"] if score != ranking]
    width = max(22, *(len(printable(name)) for name in classes))
    lines = [
        "",
        f"{'AUC by class':{width}} {'images':>6}   {ranking:>21}" + "".join(f"   {score:>13}" for score in others),
    ]
    for name, found in classes.items():
        cells = [f"{interval_text(found['auc'], found):>21}"]
        cells += [f"{result['scores'][score]['auc_by_kind'][name]:{max(13, len(score))}.3f}" for score in others]
        lines.append("   ".join([f"{printable(name):{width}} {found['images']:>6}", *cells]))
    several = sum(found["images"] for found in classes.values()) > result["images"]["abnormal"]
    note = "An interval is a 95 % bootstrap interval over images."
    return [*lines, note + " An image with several findings counts for each." * several]


def _validation_note(best: bool) -> str:
    """Return the sentence that says how an AUC on `val` was found."""
    chosen = "epoch, threshold and AUC all" if best else "threshold and AUC both"
    return f"No test split has labels: {chosen} come from val. On unseen images they may be worse."


def _cells(at):
    if at is None:
        return f"{'-':>9} {'-':>6} {'-':>6} {'-':>6}"
    return f"{at['accuracy']:9.3f} {at['f1']:6.3f} {at['sensitivity']:6.3f} {at['specificity']:6.3f}"


def mean_and_std(values: Sequence[float] | np.ndarray) -> dict[str, float | None]:
    """Return `mean` and the sample standard deviation `std`, which is None for a single value."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def mean_and_std_text(values: dict[str, float | None] | None, width: int) -> str:
    """Return the result of `mean_and_std`, or None, as a cell of a table."""
    if values is None:
        return f"{'-':>{width}}"
    std = "" if values["std"] is None else f" ± {values['std']:.3f}"
    return f"{values['mean']:.3f}{std}".rjust(width)


def interval_text(auc: float, ends: dict[str, Any]) -> str:
    """Return an AUC and the `low` and `high` end of its interval for people."""
    return f"{auc:.3f} [{ends['low']:.3f}, {ends['high']:.3f}]"


def group_table(summary: dict) -> str:
    """Return the summary of a group of runs as tables for people."""
    if summary["split"] is None:
        return f"no labeled images: nothing to summarize. {UNMEASURED}"
    seeds, images = len(summary["seeds"]), summary["images"]
    lines = [
        f"{seeds} seed{'s' * (seeds > 1)} on the {summary['split']} split: {images['normal']} normal, "
        f"{images['abnormal']} abnormal" + "; mean ± sample standard deviation over seeds" * (seeds > 1),
        f"{'':22} {'':15}   {'threshold chosen on validation':^33}",
        f"{'score':22} {'AUC':>15}   {'accuracy':>15}   {'F1':>15}",
    ]
    for score, metrics in summary["scores"].items():
        cells = (mean_and_std_text(metrics[name], 15) for name in ("auc", "accuracy", "f1"))
        lines.append(f"{score:22} " + "   ".join(cells))
    if summary["split"] == "val":
        lines.append(_validation_note(any(run["checkpoint"].get("name") == "best" for run in summary["runs"])))
    kinds = next(iter(summary["scores"].values())).get("auc_by_kind", ())
    if kinds:
        width = max(22, *(len(printable(kind)) for kind in kinds))
        lines += ["", "   ".join([f"{'AUC by class':{width}}", *(f"{score:>15}" for score in summary["scores"])])]
    for kind in kinds:
        cells = (
            mean_and_std_text(metrics["auc_by_kind"][kind], max(15, len(score)))
            for score, metrics in summary["scores"].items()
        )
        lines.append("   ".join([f"{printable(kind):{width}}", *cells]))
    lines += [
        "",
        "AUC of each seed, with a 95 % bootstrap interval over images",
        f"{'seed':8} " + "   ".join(f"{score:>21}" for score in summary["scores"]),
    ]
    for run in summary["runs"]:
        cells = (interval_text(auc["value"], auc) for auc in run["auc"].values())
        lines.append(f"{run['seed']:<8} " + "   ".join(f"{cell:>21}" for cell in cells))
    return "\n".join(lines)


def describe_seeds(seeds: Sequence[int]) -> str:
    """Return the seed of a run, or the seeds of a group, for people."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def describe_checkpoint(name: str, epoch: int | list[int | None] | None) -> str:
    """Return `best` or `last` and its epoch for people. Converted weights have no epoch; a group has several."""
    if isinstance(epoch, list):
        return f"{name} checkpoint of each run, epoch{'s' * (len(epoch) > 1)} {', '.join(map(str, epoch))}"
    return "converted weights" if epoch is None else f"{name} checkpoint, epoch {epoch}"


def describe_runs(result: dict, score: str) -> str:
    """Return a line for people: the AUC of one score for a group's ensemble and each of its runs."""
    runs = ", ".join(f"seed {run['seed']}: {run['auc']:.3f}" for run in result["runs"])
    return f"AUC of {score}: ensemble {result['scores'][score]['auc']:.3f}; {runs}"
