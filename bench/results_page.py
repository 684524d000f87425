"""`python bench/results_page.py [--check]`: tables of docs/results.md, and README's of results, from committed files.

Each table stands between `<!-- NAME -->` and `<!-- end of NAME -->`. `--check` writes nothing, and exits with 1 if a
page differs. The files are in bench/results: `zhanglab/small` and `zhanglab/full` have a folder per preset as
bench/collect.py leaves it, `zhanglab/begun` has runs that have not finished, and `zhanglab/quoted.csv` has the AUCs on
the official test labels and those of the papers.
"""

import json
import sys
from functools import cache
from pathlib import Path

import detector_table
import numpy as np
import peer_table
import tables
from rows import RESULTS
from sklearn.metrics import roc_auc_score

from fastsquid.drawing.curves import mean_deviation
from fastsquid.evaluation.metrics import bootstrap_aucs, interval
from fastsquid.runs.folder import read_scores

ROOT = Path(__file__).resolve().parents[1]
XRAYS = RESULTS / "zhanglab"
SIZES = {"small": "64 x 64", "full": "128 x 128"}
UNMEASURED = "not measured"
CLASSIFIERS = ("cutpaste", "anatpaste")


def found_runs():
    """{(size, preset): folders of its runs} of everything that is committed, in the order of the tables."""
    named = {
        (size, preset): tuple(sorted((XRAYS / size / preset).glob("seed-*")))
        for size in SIZES
        for preset in tables.ORDER
    }
    return {key: runs for key, runs in named.items() if runs}


def marks():
    """{(preset, size, score, what): "AUC ± deviation"} of quoted.csv."""
    rows = detector_table.rows_of(XRAYS / "quoted.csv")
    return {
        (row["preset"], row["size"], row["score"], row["what"]): row["auc"] + (f" ± {row['std']}" if row["std"] else "")
        for row in rows
    }


@cache
def last_scores(runs):
    """Labels of the validation images, (N,), and each run's own score of them after the last epoch, a list of (N,)."""
    files = []
    for run in runs:
        last = run / "scores-val-last.csv"
        files.append(read_scores(last if last.exists() else run / "scores-val.csv"))
    return files[0][1], [values[tables.own_score(runs[0])] for _, _, values in files]


def last_aucs(runs, score=None):
    """AUCs of a score, by default the runs' own, after the last epoch."""
    return [tables.read_lines(run)[-1]["validation"][score or tables.own_score(run)] for run in runs]


def ensemble(runs):
    """AUC of the mean over runs of their scores, each run's standardized by the healthy images."""
    labels, scores = last_scores(runs)
    return roc_auc_score(labels, sum((each - each[labels == 0].mean()) / each[labels == 0].std() for each in scores))


def perturbed(size, runs):
    """Mean and deviation of the AUC over clean and perturbed images, where the runs were monitored with these."""
    if not all(map(tables.is_monitored, runs)):
        return UNMEASURED
    names = tables.monitored(run for (where, _), found in found_runs().items() if where == size for run in found)
    return mean_deviation([tables.numbers(run, names)[0][2] for run in runs])


def located(runs):
    """Mean and deviation of the pixel AUROC on synthetic haze, of the map of the score, where it was measured."""
    paths = [run / "locate.json" for run in runs if (run / "locate.json").exists()]
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    aurocs = [each["synthetic"]["haze"][each["map"]]["pixel_auroc"] for each in found]
    return mean_deviation(aurocs) if aurocs else UNMEASURED


def overview():
    """One row per preset and size: how good it is."""
    known = marks()
    lines = [
        "| preset | pixels | score | seeds | validation AUC | 95 % interval over images | ensemble | perturbed "
        "| haze, pixel AUROC | official test | published |",
        "|---|---|---|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for (size, preset), runs in found_runs().items():
        score = tables.own_score(runs[0])
        low, high = interval(bootstrap_aucs(*last_scores(runs)).mean(0))
        official = known.get((preset, size, score, "official test"), UNMEASURED)
        found = [mean_deviation(last_aucs(runs)), f"{low:.3f} to {high:.3f}"]
        found += [f"{ensemble(runs):.3f}" if len(runs) > 1 else "", perturbed(size, runs), located(runs), official]
        paper = known.get((preset, "full", score, "published"), "")
        lines.append(f"| `{preset}` | {SIZES[size]} | `{score}` | {len(runs)} | {' | '.join(found)} | {paper} |")
    missing = [name for name in tables.ORDER if ("full", name) not in found_runs()]
    for what, is_begun in (("not finished", True), (UNMEASURED, False)):
        names = [f"`{name}`" for name in missing if (XRAYS / "begun" / name).is_dir() == is_begun]
        if names:
            lines.append(f"| {', '.join(names)} | 128 x 128 | {'| ' * 2}{what} {'| ' * 6}|")
    return lines


def papers():
    """One row per score of the papers' presets at full size, of runs that have ended and of those that have not."""
    lines = [
        "| preset | seed | epochs | score | last epoch | mean of the last five | best | best epoch |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    folders = (XRAYS / size / preset for preset in tables.ORDER if preset != "fastsquid" for size in ("full", "begun"))
    for run in (run for folder in folders for run in sorted(folder.glob("seed-*"))):
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]
        epochs = tables.read_lines(run)
        for score in dict.fromkeys((config["score"], "discriminator_image")):
            aucs = [epoch["validation"][score] for epoch in epochs if score in epoch["validation"]]
            if aucs:
                best = max(range(len(aucs)), key=aucs.__getitem__)
                found = f"{aucs[-1]:.3f} | {np.mean(aucs[-5:]):.3f} | {aucs[best]:.3f} | {best + 1}"
                done = f"{len(epochs)} of {config['epochs']}"
                lines.append(f"| `{run.parent.name}` | {run.name[5:]} | {done} | `{score}` | {found} |")
    return lines


def cost():
    """One row per preset and size: what its training took."""
    lines = [
        "| preset | pixels | epochs | minutes per seed | precision | device | threads | PyTorch |",
        "|---|---|---:|---:|---|---|---:|---|",
    ]
    for (size, preset), runs in found_runs().items():
        facts = [json.loads((run / "summary.json").read_text(encoding="utf-8")) for run in runs]
        minutes = sorted(round(each["seconds"] / 60) for each in facts)
        span = f"{minutes[0]} to {minutes[-1]}" if minutes[0] < minutes[-1] else str(minutes[0])
        keys = ("precision", "device", "threads", "torch")
        same = [" and ".join(dict.fromkeys(str(each[key]) for each in facts)) for key in keys]
        lines.append(f"| `{preset}` | {SIZES[size]} | {facts[0]['epochs']} | {span} | {' | '.join(same)} |")
    return lines


def resolution():
    """One row per size, width and augmentation of `fastsquid`: clean and changed images, false alarms, and maps."""
    detector = XRAYS / "detector"
    folders = {
        "64 x 64, reduced to 32 x 32 before": detector / "reduced-to-32",
        "64 x 64 (`fastsquid-small`)": XRAYS / "small" / "fastsquid",
        "128 x 128, width 16": detector / "size-128",
        "128 x 128, width 32 (`fastsquid`)": XRAYS / "float32" / "fastsquid",
        "64 x 64, `appearance` 1": detector / "appearance-1",
        "128 x 128, width 16, `appearance` 1": detector / "size-128-appearance-1",
    }
    lines = [
        "| pixels | seeds | clean | mean of all changes | blur | healthy above threshold | the same, blurred "
        "| haze, pixel AUROC |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for what, folder in folders.items():
        runs = sorted(folder.glob("seed-*"))
        found = [detector_table.read_evaluation(run) for run in runs]
        if found:
            aucs = [each["robustness"]["combined"] for each in found]
            cells = [mean_deviation([each[name] for each in aucs]) for name in ("clean", "mean", "blur")]
            for name in ("clean", "blur"):
                share = np.mean([each["healthy_above_threshold"][name] for each in found])
                cells.append(f"{share:.0%}".replace("%", " %"))
            lines.append(f"| {what} | {len(found)} | {' | '.join([*cells, located(runs)])} |")
    return lines


def tokens():
    """One row per run: what weight decay leaves of the in-painting memory."""
    lines = [
        "| preset | pixels | epochs | learning rate | weight decay | deepest weights | norm of a token "
        "| `memory_distance` | dependence on the image |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in detector_table.rows_of(XRAYS / "tokens.csv"):
        size = f"{row['pixels']} x {row['pixels']}, width {row['width']}"
        cells = [
            f"{float(row[name]):g}" for name in ("lr", "weight_decay", "weight", "token_norm", "distance", "dependence")
        ]
        lines.append(f"| `{row['preset']}` | {size} | {row['epochs']} | {' | '.join(cells)} |")
    return lines


def readme():
    """README's rows: ours and the papers' presets at small size."""
    known = marks()
    lines = ["| preset | score | validation | official test |", "|---|---|---:|---:|"]
    for (size, preset), runs in found_runs().items():
        scores = [tables.own_score(runs[0])]
        if preset in ("squid", "simsid"):  # their discriminator on the image itself
            scores.append("discriminator_image")
        for score in scores if size == "small" and preset not in CLASSIFIERS else ():
            mark = known.get((preset, size, score, "official test"), UNMEASURED)
            lines.append(f"| `{preset}` | `{score}` | {mean_deviation(last_aucs(runs, score))} | {mark} |")
    for preset, size, score, what in known:
        if preset not in tables.ORDER and size == "small" and what == "validation":
            name, _, version = preset.partition(",")
            test = known[preset, size, score, "official test"]
            lines.append(f"| `{name}`,{version} | `{score}` | {known[preset, size, score, what]} | {test} |")
    papers = " / ".join(known[name, "full", "discriminator", "published"] for name in ("squid", "simsid"))
    return [*lines, f"| papers, full size: SQUID / SimSID | | | {papers} |"]


PAGES = {
    ROOT / "docs" / "results.md": {
        "overview": overview,
        "cost": cost,
        "resolution": resolution,
        "papers": papers,
        "tokens": tokens,
        "presets": lambda: tables.xrays(XRAYS / "small"),
        "digits": lambda: tables.digits(RESULTS / "digits" / "fastsquid"),
        "variants": detector_table.variants,
        "lungs": detector_table.lungs,
        "perturbations": detector_table.perturbations,
        "peers": lambda: peer_table.table(peer_table.read_records(RESULTS / "peers")),
    },
    ROOT / "README.md": {"results": readme},
}


def filled(path):
    """A page's text with every table as measured."""
    return tables.fill(path.read_text(encoding="utf-8"), PAGES[path])


def main():
    after = {path: filled(path) for path in PAGES}
    if sys.argv[1:] == ["--check"]:
        return int(any(path.read_text(encoding="utf-8") != text for path, text in after.items()))
    for path, text in after.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
