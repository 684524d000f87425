"""Tables of `fastsquid` for docs/results.md, made from bench/results/zhanglab; bench/results_page.py writes them.

`detector` there has a folder per variant of `fastsquid-small`, as bench/detector.py leaves it, and `small/fastsquid` is
the preset itself. Both hold what bench/collect.py keeps of each run, and `evaluation.json`. `detector/lungs.csv` is of
bench/lungs.py.
"""

import csv
import json
from pathlib import Path

import numpy as np
from detector import VARIANTS
from tables import TAIL, own_score, read_lines

from fastsquid.drawing.curves import mean_deviation

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "zhanglab"
PRESET = RESULTS / "small" / "fastsquid"
JUDGED = ("combined", "discriminator", "discriminator_image")


def read_evaluation(run):
    """evaluation.json of a run's folder: what `fastsquid.evaluate --robustness --json` wrote."""
    return json.loads((run / "evaluation.json").read_text(encoding="utf-8"))


def variants():
    """Markdown lines: one row per variant, with the metrics of its last epoch."""
    result = [
        "| variant | difference from the preset | seeds | clean | mean of battery | spread of clean | "
        "`discriminator` | `discriminator_image` |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, changes in {"fastsquid": {}, **VARIANTS}.items():
        rows = []
        for run in sorted((RESULTS / "detector" / name if changes else PRESET).glob("seed-*")):
            score, battery = own_score(run), read_evaluation(run)["robustness"]
            clean = [line["validation"][score] for line in read_lines(run)[-TAIL:]]
            each = [battery[score]["mean"], *(battery[kind]["clean"] for kind in JUDGED[1:])]
            rows.append((clean[-1], each[0], np.std(clean, ddof=1), *each[1:]))
        if rows:
            columns = list(zip(*rows))
            cells = [mean_deviation(values) for values in columns]
            cells[2] = f"{np.mean(columns[2]):.4f}"
            said = ", ".join(f"`{field}` {value}" for field, value in changes.items()) or "nothing"
            result.append(f"| `{name}` | {said} | {len(rows)} | " + " | ".join(cells) + " |")
    return result


def lungs():
    """Markdown lines: where anomalies are drawn, with the metrics of the last epoch."""
    lines = rows_of(RESULTS / "detector" / "lungs.csv")
    last = str(max(int(line["epoch"]) for line in lines))
    result = [
        "| anomalies are drawn | seeds | clean | mean of battery | `discriminator` | `discriminator_image` |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    preset = [read_evaluation(run)["robustness"] for run in sorted(PRESET.glob("seed-*"))]
    found = {"around both lungs (`fastsquid`)": [(run[s]["clean"], run[s]["mean"]) for run in preset for s in JUDGED]}
    for where, said in (("prior", "in two fixed ellipses"), ("mask", "in a mask of each image's lungs")):
        at_end = [line for line in lines if (line["where"], line["epoch"]) == (where, last)]
        if at_end:
            found[said] = [(float(line["auc"]), float(line["mean_auc"])) for line in at_end]
    for said, aucs in found.items():
        combined, *others = (aucs[i :: len(JUDGED)] for i in range(len(JUDGED)))
        columns = [*zip(*combined), *([clean for clean, _ in each] for each in others)]
        result.append(f"| {said} | {len(combined)} | " + " | ".join(map(mean_deviation, columns)) + " |")
    return result


def rows_of(path):
    """The rows of a CSV, dicts."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def perturbations():
    """Markdown lines: one row per perturbation, the preset's AUC and its false alarms."""
    found = [read_evaluation(run) for run in sorted(PRESET.glob("seed-*"))]
    result = [
        "| images | `combined` | `discriminator` | `discriminator_image` | healthy above threshold |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in found[0]["robustness"]["combined"]:
        cells = [mean_deviation([run["robustness"][score][name] for run in found]) for score in JUDGED]
        healthy = [run["healthy_above_threshold"].get(name) for run in found]
        cells.append("" if None in healthy else f"{np.mean(healthy):.1%}".replace("%", " %"))
        result.append(f"| {name} | " + " | ".join(cells) + " |")
    for name in ("lungs only", "without lungs"):
        cells = [mean_deviation([run["confounds"][score][name] for run in found]) for score in JUDGED]
        result.append(f"| {name} (not in the mean) | " + " | ".join(cells) + " | |")
    return result
