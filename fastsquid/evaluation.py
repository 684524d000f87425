"""Scores of many images, and what they are worth: what training and the evaluate command share."""

from pathlib import Path

import numpy as np
import torch

from . import plots
from .data.images import to_unit
from .metrics import best_threshold, evaluate, require_both_classes
from .model import SCORES


@torch.inference_mode()
def score_images(detector, images, batch_size=64):
    """Scores of images, in their order.

    Args:
        detector: a `Detector`; it is put in eval mode.
        images: uint8 or uint16 (N, 1, H, W) at the model's size, on any device.

    Returns:
        dict of float32 numpy arrays (N,), by the names in `model.SCORES`; and reconstructions, a float32 tensor
        (N, 1, H, W) in [0, 1] on the CPU.
    """
    detector.eval()
    device = next(detector.parameters()).device
    parts = {name: [] for name in SCORES}
    reconstructions = []
    for batch in images.split(batch_size):
        scores, reconstruction = detector.scores(to_unit(batch.to(device)))
        for name in SCORES:
            parts[name].append(scores[name].float().cpu())
        reconstructions.append(reconstruction.cpu())
    return {name: torch.cat(values).numpy() for name, values in parts.items()}, torch.cat(reconstructions)


def calibrate(detector, images):
    """Mean and standard deviation of every score over the (normal) training images (SQUID 3.4)."""
    scores, _ = score_images(detector, images)
    return {name: {"mean": float(np.mean(values, dtype=np.float64)), "std": float(np.std(values, dtype=np.float64))}
            for name, values in scores.items()}


def validate(detector, split):
    """AUC and accuracy-best threshold of every score on a labelled split: {name: {"auc": ..., "threshold": ...}}."""
    scores, _ = score_images(detector, split.images)
    labels = split.labels.numpy()
    return {name: {"auc": evaluate(labels, values)["auc"], "threshold": best_threshold(labels, values)}
            for name, values in scores.items()}


def evaluate_split(detector, split, where, thresholds=None):
    """Every score's metrics on a labelled split.

    Args:
        where: what to call the split in an error.
        thresholds: validation-chosen threshold by score name, or None.

    Returns:
        {name: metrics.evaluate(...)}, the raw scores, and the reconstructions.
    """
    require_both_classes(split.labels, where)
    scores, reconstructions = score_images(detector, split.images)
    return {name: evaluate(split.labels.numpy(), values, thresholds and thresholds[name], split.kinds)
            for name, values in scores.items()}, scores, reconstructions


def evaluate_run(detector, data, state, name, pictures=None):
    """Metrics on the test split where it is labelled, else on the validation split.

    Args:
        data: splits by name.
        state, name: the checkpoint's state, and which of its detectors this is.
        pictures: folder for ROC and precision-recall curves, or None.

    Returns:
        dict: `split` (None if nothing is labelled), `images`, `checkpoint`, and `scores` by name.
    """
    chosen = "validation AUC of discriminator" if name == "best" else "last epoch"
    result = {"split": None, "images": None, "scores": {},
              "checkpoint": {"name": name, "epoch": state[name]["epoch"], "chosen_by": chosen}}
    for split_name in ("test", "val"):
        split = data.get(split_name)
        if split is None or split.labels is None:
            continue
        validation = state[name]["validation"]
        thresholds = validation and {score: validation[score]["threshold"] for score in SCORES}
        metrics, scores, _ = evaluate_split(detector, split, f"the {split_name} split", thresholds)
        if pictures is not None:
            Path(pictures).mkdir(parents=True, exist_ok=True)
            plots.roc(split.labels.numpy(), scores, Path(pictures) / "roc.png")
            plots.precision_recall(split.labels.numpy(), scores, Path(pictures) / "precision_recall.png")
        counts = {"normal": int((split.labels == 0).sum()), "abnormal": int((split.labels == 1).sum())}
        return {**result, "split": split_name, "images": counts, "scores": metrics}
    return result


def print_table(result):
    """The metrics as a table for people."""
    if result["split"] is None:
        print("no labelled images: nothing to evaluate")
        return
    images, checkpoint = result["images"], result["checkpoint"]
    print(f"\n{result['split']} split: {images['normal']} normal, {images['abnormal']} abnormal; "
          f"{checkpoint['name']} checkpoint, epoch {checkpoint['epoch']} (chosen by {checkpoint['chosen_by']})")
    head = f"{'accuracy':>9} {'F1':>6} {'sens.':>6} {'spec.':>6}"
    print(f"{'':22} {'':6}   {'threshold chosen on validation':^30}   {'chosen on these labels (papers)':^30}")
    print(f"{'score':22} {'AUC':>6}   {head}   {head}")
    for name, metrics in result["scores"].items():
        cells = []
        for key in ("validation_threshold", "test_threshold"):
            at = metrics[key]
            cells.append(f"{at['accuracy']:9.3f} {at['f1']:6.3f} {at['sensitivity']:6.3f} {at['specificity']:6.3f}" if at else f"{'-':>9} {'-':>6} {'-':>6} {'-':>6}")
        print(f"{name:22} {metrics['auc']:6.3f}   {cells[0]}   {cells[1]}")
    kinds = next(iter(result["scores"].values())).get("auc_by_kind")
    if kinds:
        print(f"\n{'AUC by kind':22} " + " ".join(f"{kind:>9}" for kind in kinds))
        for name, metrics in result["scores"].items():
            print(f"{name:22} " + " ".join(f"{value:9.3f}" for value in metrics["auc_by_kind"].values()))
