"""`python bench/gpu/draw.py FOLDER...`: draws the runs of bench/gpu.sh; FOLDER is a preset's unpacked archive.

In FOLDER/figures: ROC and precision-recall curves of all seeds and histograms of seed 0's scores, on the labeled
split, and t-SNE of the memory where memory.npz is there. It needs no GPU, no weights and no X-rays.
"""

import sys
from pathlib import Path

import numpy as np

from fastsquid.drawing.curves import histogram_figure, precision_recall_figure, roc_figure
from fastsquid.drawing.papers import embed
from fastsquid.drawing.pictures import tsne_figure
from fastsquid.drawing.save import save_figure
from fastsquid.errors import UserError
from fastsquid.runs.folder import read_run, read_scores, read_summary
from fastsquid.utils.cli import run_command


def main(arguments=None):
    folders = [Path(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    if not folders:
        raise UserError("give the folder of a preset that bench/gpu.sh trained, unpacked")
    for folder in folders:
        runs = sorted(path.parent for path in folder.glob("seed-*/summary.json"))
        if not runs:
            raise UserError(f"{folder} has no finished seed: give the folder of a preset, with seed-0 and others in it")
        (folder / "figures").mkdir(exist_ok=True)
        for name, figure in figures(folder, runs):
            save_figure(figure, folder / "figures" / name)
            print(folder / "figures" / name)


def figures(folder, runs):
    """Yields each figure's name and the figure."""
    split = read_summary(runs[0]).split
    if split is not None:
        read = [read_scores(run / f"scores-{split}.csv") for run in runs]
        labels, first = read[0][1], read[0][2]
        stacked = {score: np.stack([scores[score] for _, _, scores in read]) for score in first}
        where = f"{folder.name}, {', '.join(run.name for run in runs)}, {split} split"
        ranking = read_run(runs[0]).config.score
        yield "roc.png", roc_figure(labels, stacked, ranking, where)
        yield "precision_recall.png", precision_recall_figure(labels, stacked, ranking, where)
        groups = {s: {g: v[labels == i] for i, g in enumerate(("normal", "abnormal"))} for s, v in first.items()}
        yield "score_histograms.png", histogram_figure(groups, f"{folder.name}, {runs[0].name}, {split} split")
    for path in folder.glob("seed-*/memory.npz"):
        memory = np.load(path)
        points = embed(memory["slots"], memory["queries"])
        yield "memory_tsne.png", tsne_figure(*points, int(memory["grid"]), f"{folder.name}, {path.parent.name}")


if __name__ == "__main__":
    run_command(main)
