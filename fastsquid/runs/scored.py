"""Scores of the runs of a group, as they left them on disk."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..evaluation.comparison import Scored, require_same_images
from ..evaluation.metrics import require_both_classes
from ..models import shipped_name
from .folder import read_findings, read_run, read_scores, read_summary, scores_file
from .group import finished_runs


def read_scored(folder: Path, score: str | None = None) -> Scored:
    """Return the scores of the reported split by every run of a group; a run is a group of one.

    Args:
        folder: of the group or run.
        score: its name; None for the score that the configuration ranks by.

    Raises:
        UserError: it is not finished, has no labeled split or not that score, or its runs scored different images.
    """
    runs = [_read_run(run, score) for run in finished_runs(folder).values()]
    for run in runs[1:]:
        require_same_images(runs[0], run)
    shown = Path(shipped_name(folder) or folder)
    return replace(runs[0], folder=shown, scores=np.concatenate([run.scores for run in runs]))


def _read_run(run, score):
    summary, score = read_summary(run), score or read_run(run).config.score
    split = summary.split
    if split is None:
        raise UserError(f"{run} has no labeled images to compare: train on data with a labeled test or val split")
    path = scores_file(run, split)
    names, labels, scores = read_scores(path)
    if score not in scores:
        raise UserError(f"{path} has no {score} scores: choose --score {' or '.join(scores)}")
    require_both_classes(labels, path)
    chosen_by, findings = summary.checkpoint.get("chosen_by"), read_findings(path)
    return Scored(run, score, split, names, labels, scores[score][None], chosen_by, findings)
