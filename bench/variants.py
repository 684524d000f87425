"""`python bench/variants.py`: what was tried to steady the score, as bench/results/zhanglab/variants/variants.md.

Of every variant the validation AUC, a mean over clean images and perturbations of them: its best epoch, its last, and
the mean and the sample standard deviation of its last five. `*.csv` there is what bench/stability.py wrote, folders are
runs with `--monitor true`.
"""

import csv
import json
from itertools import groupby
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "results" / "zhanglab" / "variants"
TAIL = 5  # epochs


def of_stability(path):
    """(variant, AUCs by epoch) of every way to judge the one run of a CSV."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows.sort(key=lambda row: (row["weights"], row["score"], int(row["epoch"])))
    for (weights, score), lines in groupby(rows, key=lambda row: (row["weights"], row["score"])):
        yield f"{path.stem}, {weights}", score, [float(line["mean_auc"]) for line in lines]


def of_run(folder):
    """(variant, AUCs by epoch) of a run's discriminator scores."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for score in ("discriminator", "discriminator_image"):
        yield (
            folder.name,
            score,
            [np.mean([line["validation"][score], *(p[score] for p in line["perturbed"].values())]) for line in lines],
        )


def main():
    lines = [
        "| variant, seed 0 | score | epochs | best | last | mean of the last five | their deviation |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for path in sorted(FOLDER.iterdir()):
        variants = of_stability(path) if path.suffix == ".csv" else of_run(path) if path.is_dir() else ()
        for variant, score, aucs in variants:
            tail = aucs[-TAIL:]
            numbers = (max(aucs), aucs[-1], np.mean(tail), np.std(tail, ddof=1) if len(aucs) >= TAIL else np.nan)
            lines.append(f"| {variant} | {score} | {len(aucs)} | " + " | ".join(f"{x:.3f}" for x in numbers) + " |")
    (FOLDER / "variants.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
