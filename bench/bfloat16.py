"""`python bench/bfloat16.py`: trainings in float32 and bfloat16 beside each other, from committed runs.

It writes bench/results/bfloat16.md, with the AUC of every seed, and bfloat16.png, with loss and AUC of every epoch.
On a processor that multiplies it natively, the command takes bfloat16 by default as long as this table shows no cost.
"""

import json
import statistics

import matplotlib
from rows import RESULTS

from fastsquid.drawing.curves import mean_deviation

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# {preset: (folder of its float32 runs, of its bfloat16 runs, score)}
PAIRS = {
    "fastsquid-small": ("zhanglab/float32/fastsquid-small", "zhanglab/small/fastsquid", "combined"),
    "digits": ("digits", "digits-bf16", "patch_residual"),
}
COLORS = {"fp32": "#0072b2", "bf16": "#d55e00"}


def histories(folder):
    """{seed folder: the lines of its metrics.jsonl}."""
    paths = sorted((RESULTS / folder).glob("seed-*/metrics.jsonl"))
    return {path.parent.name: [json.loads(line) for line in path.read_text().splitlines()] for path in paths}


def table():
    lines = [
        "# Training in bfloat16",
        "",
        "Written by `python bench/bfloat16.py` from committed runs: validation AUC after the last epoch, with mean and",
        "sample standard deviation over seeds, and the mean of the student's loss in that epoch. `digits` is ranked by",
        "`patch_residual` here, the score that finds digits. Its bfloat16 was emulated.",
        "",
        "| preset | precision | seeds | AUC of each | AUC | loss |",
        "|---|---|---:|---|---:|---:|",
    ]
    for preset, (*folders, score) in PAIRS.items():
        for precision, folder in zip(COLORS, folders):
            last = [lines[-1] for lines in histories(folder).values()]
            aucs = [line["validation"][score] for line in last]
            losses = [line["losses"]["student"] for line in last]
            shown = ", ".join(f"{auc:.3f}" for auc in aucs)
            loss = f"{statistics.mean(losses):.5f}"
            lines.append(f"| `{preset}` | {precision} | {len(last)} | {shown} | {mean_deviation(aucs)} | {loss} |")
    return "\n".join(lines) + "\n"


def draw(path):
    figure, axes = plt.subplots(
        2, len(PAIRS), figsize=(4.5 * len(PAIRS), 6), squeeze=False, sharex="col", layout="constrained"
    )
    for (preset, (*folders, score)), (above, below) in zip(PAIRS.items(), axes.T):
        for (precision, color), folder in zip(COLORS.items(), folders):
            for number, lines in enumerate(histories(folder).values()):
                epochs = [line["epoch"] for line in lines]
                label = precision if number == 0 else None
                above.plot(epochs, [line["losses"]["student"] for line in lines], color=color, label=label, lw=1.2)
                below.plot(epochs, [line["validation"][score] for line in lines], color=color, lw=1.2)
        above.set(title=preset, ylabel="student's loss", yscale="log")
        below.set(xlabel="epoch", ylabel=f"validation AUC, {score}")
        above.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    (RESULTS / "bfloat16.md").write_text(table(), encoding="utf-8")
    draw(RESULTS / "bfloat16.png")
