"""`python bench/detector_table.py`: the tables of docs/results.md, made from bench/results/zhanglab/detector.

A folder there is a variant of `fastsquid-small` (bench/detector.py), with what bench/collect.py keeps of each run.
`evaluation.json` of a run is what `fastsquid.evaluate --robustness --json` wrote.
"""

import json
from pathlib import Path

import numpy as np
from detector import VARIANTS

from fastsquid.plots import mean_deviation

ROOT = Path(__file__).parents[1]
FOLDER, PAGE = ROOT / "bench" / "results" / "zhanglab" / "detector", ROOT / "docs" / "results.md"
TAIL = 5  # epochs whose spread is reported


def read_lines(run):
    """metrics.jsonl of a run: a list of dicts, one per epoch."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def battery(line, score):
    """The AUC of a score, its mean over clean and perturbed validation images, after one epoch."""
    return np.mean([line["validation"][score], *(aucs[score] for aucs in line["perturbed"].values())])


def variants():
    """Markdown lines: one row per variant, what its last epoch is worth."""
    result = [
        "| variant | changes | seeds | clean | mean of battery | spread of last five | `discriminator` | "
        "`discriminator_image` | minutes per run |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, changes in VARIANTS.items():
        rows = []
        for run in sorted((FOLDER / name).glob("seed-*")):
            score = json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]["score"]
            lines = read_lines(run)
            means = [battery(line, score) for line in lines[-TAIL:]]
            last = lines[-1]["validation"]
            each = (last[score], means[-1], last["discriminator"], last["discriminator_image"])
            rows.append((*each, np.std(means, ddof=1), lines[-1]["seconds"] / 60))
        if rows:
            clean, mean, papers, image, spread, minutes = zip(*rows)
            cells = [mean_deviation(values) for values in (clean, mean)]
            cells += [
                f"{np.mean(spread):.4f}",
                mean_deviation(papers),
                mean_deviation(image),
                f"{np.mean(minutes):.0f}",
            ]
            said = ", ".join(f"`{field}` {value}" for field, value in changes.items()) or "none: the preset"
            result.append(f"| `{name}` | {said} | {len(rows)} | " + " | ".join(cells) + " |")
    return result


def perturbations():
    """Markdown lines: one row per perturbation, the preset's AUC and its false alarms."""
    found = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((FOLDER / "fastsquid").glob("*/evaluation.json"))
    ]
    result = [
        "| images | `combined` | `discriminator` | `discriminator_image` | healthy above threshold |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in found[0]["robustness"]["combined"] if found else ():
        cells = [
            mean_deviation([run["robustness"][score][name] for run in found])
            for score in ("combined", "discriminator", "discriminator_image")
        ]
        healthy = [run["healthy_above_threshold"].get(name) for run in found]
        cells.append("" if None in healthy else f"{np.mean(healthy):.1%}".replace("%", " %"))
        result.append(f"| {name} | " + " | ".join(cells) + " |")
    for name in ("lungs only", "without lungs") if found else ():
        cells = [
            mean_deviation([run["confounds"][score][name] for run in found])
            for score in ("combined", "discriminator", "discriminator_image")
        ]
        result.append(f"| {name} (not in the mean) | " + " | ".join(cells) + " | |")
    return result


def main():
    page = PAGE.read_text(encoding="utf-8")
    for name, table in (("variants", variants()), ("perturbations", perturbations())):
        before, rest = page.split(f"<!-- {name} -->\n")
        _, after = rest.split(f"<!-- end of {name} -->")
        page = f"{before}<!-- {name} -->\n" + "\n".join(table) + f"\n<!-- end of {name} -->{after}"
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
