"""`python -m fastsquid.locate RUN`: where images are abnormal, as maps, and how right they are where that is known."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .checkpoint import data_of, describe_checkpoint, describe_seeds
from .cli import Parser, add_run_options, choose_device, run_command
from .data import open_data, to_unit
from .drawings import MAPS, map_figure
from .ensemble import Ensemble
from .errors import UserError
from .evaluation import DivergedError, reported_split, score_images, spread_images
from .files import write_json
from .gallery import choose_images
from .localization import KINDS, MOST, STRENGTH, healthy_images, measure_maps
from .maps import anomaly_maps, by_cell, calibrate_maps
from .metrics import evaluate
from .model import Detector
from .neighbors import nearest_scores
from .plots import save_figure
from .trained import load_trained

LARGEST = 300_000  # bytes of the PNG
SIDE = 3  # cells a side of DigitAnatomy


def main(arguments=None):
    parser = Parser(
        prog="python -m fastsquid.locate",
        description="Draw where images are abnormal, in standard deviations from the training images, and measure how "
        "well the maps find synthetic anomalies, or the anomalous cells of DigitAnatomy.",
    )
    add_run_options(parser, "data with normal training images")
    parser.add_argument(
        "--out", metavar="FOLDER", help="folder for maps.png and locate.json; default: RUN/localization"
    )
    options = parser.parse_args(arguments)

    device = choose_device(options.device)
    detector, run, state, name = load_trained(options.run, options.checkpoint, options.impl, device)
    source, skip = data_of(options.run, run, options.data), options.skip_unreadable or run["skip_unreadable"]
    anonymous = options.anonymous or run["anonymous"]
    data = open_data(source, run["config"].image_size, run["seed"], skip, anonymous=anonymous, crop=run["config"].crop)
    if "train" not in data:
        raise UserError(
            f"{source} has no training images, which say what is normal at every place: put normal ones in train/NORMAL"
        )
    if skipped := sum(split.skipped for split in data.values()):
        print(f"skipped {skipped} unreadable image{'s' * (skipped > 1)}")
    shown = _shown_split(data)
    split, detector = data[shown], detector.frozen()
    calibration = calibrate_maps(detector, data["train"].images)
    epoch = state[name]["epoch"]
    where = f"{run['config'].preset}, {describe_seeds(run['seeds'])}, {describe_checkpoint(name, epoch)}, {shown} split"
    where += f"; the map of the score: {MAPS[run['config'].map]}"
    figure = draw_maps(detector, split, calibration, where)

    folder = Path(options.out or Path(options.run) / "localization")
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"checkpoint": {"name": name, "epoch": epoch}, "map": run["config"].map}
    result = None
    if split.cells is not None:
        result = {
            "split": shown,
            "images": {"normal": int((split.labels == 0).sum()), "abnormal": int((split.labels == 1).sum())},
            **facts,
            **locate(detector, data["train"], split, calibration),
        }
        _print_table(result)
    elif healthy := healthy_images(data, shown):
        result = {"split": healthy[0], **facts, **locate_synthetic(detector, healthy[1], calibration)}
        _print_synthetic(result)
    else:
        print("no healthy images are known outside of training: how well maps find anomalies is not measured")
    if result:
        write_json(folder / "locate.json", result)
        print(f"\n{folder / 'locate.json'}")
    save_figure(figure, folder / "maps.png", LARGEST)
    print(folder / "maps.png")


def draw_maps(detector, split, calibration, where):
    """The figure of eight images of a split, each with its reconstruction and every map.

    Args:
        detector: a `Detector` in eval mode.
        split: a `Split`.
        calibration: as `calibrate_maps` gives it.
        where: what detector and images are, for the title.

    Raises:
        DivergedError: a map is not finite.
    """
    chosen = torch.as_tensor(choose_images(split))
    images = to_unit(split.images[chosen]).to(next(detector.parameters()).device)
    maps = {name: values.cpu().numpy() for name, values in _finite_maps(detector, images, calibration).items()}
    _, student = detector.scores(images)
    captions = [_caption(split, i) for i in chosen.tolist()]
    cells = None if split.cells is None else split.cells[chosen].numpy()
    return map_figure(images[:, 0].cpu().numpy(), student[:, 0].cpu().numpy(), maps, captions, cells, where)


def locate(detector, train, split, calibration, batch_size=64):
    """How well maps tell abnormal cells, and by their largest cell abnormal images; the nearest neighbours beside them.

    Args:
        detector: a `Detector` in eval mode.
        train, split: `Split`s of DigitAnatomy, the latter with normal and abnormal images.
        calibration: as `calibrate_maps` gives it, of the training images.

    Returns:
        dict: `cell_auc`, of all cells of all images together, and `image_auc`, of the score that the config names too;
        each {name: {auc, auc_by_kind}}. Among the cells of a kind are all normal ones, and the abnormal ones of the
        kind's images.

    Raises:
        DivergedError: a map is not finite.
    """
    device, parts = next(detector.parameters()).device, {}
    for batch in split.images.split(batch_size):
        for name, values in _finite_maps(detector, to_unit(batch.to(device)), calibration).items():
            parts.setdefault(name, []).append(_by_cell(values).cpu())
    cells = {name: torch.cat(values).numpy() for name, values in parts.items()}
    nearest, patches = nearest_scores(train.images, split.images, SIDE)
    largest = {f"largest {name}": values.max(1) for name, values in cells.items()}
    score = detector.config.score
    named = {f"score: {score}": score_images(detector, split.images)[score]}
    places = split.cells.flatten().long()
    kinds = np.repeat(split.kinds, SIDE**2)
    return {
        "cell_auc": {
            name: _aucs(places, values.ravel(), kinds) for name, values in {**cells, "nearest_patch": patches}.items()
        },
        "image_auc": {
            name: _aucs(split.labels, values, split.kinds) for name, values in {**named, **largest, **nearest}.items()
        },
    }


def locate_synthetic(
    detector: Detector | Ensemble, images: torch.Tensor, calibration: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> dict[str, Any]:
    """Return how well maps find synthetic anomalies in healthy images.

    Args:
        detector: in eval mode.
        images: uint8 or uint16 (N, 1, H, H), healthy, not trained on.
        calibration: as `calibrate_maps` gives it, of the training images.

    Returns:
        dict: `images`, how many were used; `strength`, above which a pixel of an anomaly is abnormal; and `synthetic`,
        as `localization.measure_maps` gives it.

    Raises:
        DivergedError: a map is not finite.
    """
    device = next(detector.parameters()).device
    used = spread_images(images, MOST)
    return {
        "images": len(used),
        "strength": STRENGTH,
        "synthetic": measure_maps(lambda batch: _finite_maps(detector, batch.to(device), calibration), used),
    }


def _shown_split(data):
    """Name of the split that is reported; of images without both classes there is still a picture."""
    try:
        labelled = reported_split(data)
    except UserError:
        labelled = None
    return labelled or next(name for name in ("test", "val", "train") if name in data)


def _finite_maps(detector, images, calibration):
    maps = anomaly_maps(detector, images, calibration)
    for name, values in maps.items():
        if not values.isfinite().all():
            raise DivergedError(f"the detector's {name} map is not finite: its training has diverged")
    return maps


def _by_cell(maps):
    """Means over DigitAnatomy's cells: (B, H, W) -> (B, 9).

    Where 3 does not divide the side, the digits were drawn on the next multiple and resized: so are the maps, back.
    """
    side = -(-maps.shape[-1] // SIDE) * SIDE
    if side != maps.shape[-1]:
        maps = F.interpolate(maps[:, None], size=(side, side), mode="bilinear")[:, 0]
    return by_cell(maps, SIDE)


def _aucs(labels, values, kinds):
    metrics = evaluate(labels, values, kinds=kinds)
    return {name: metrics[name] for name in ("auc", "auc_by_kind")}


def _caption(split, i):
    if split.kinds is not None:
        return split.kinds[i]
    return Path(split.names[i]).name[-18:] if split.labels is None else ("normal", "abnormal")[split.labels[i]]


def _print_table(result):
    """The AUCs of `locate` for people."""
    images, checkpoint = result["images"], result["checkpoint"]
    print(
        f"{result['split']} split: {images['normal']} normal, {images['abnormal']} abnormal; "
        + describe_checkpoint(checkpoint["name"], checkpoint["epoch"])
    )
    for key, title in (("cell_auc", "AUC of the cells"), ("image_auc", "AUC of the images")):
        kinds = next(iter(result[key].values()))["auc_by_kind"]
        print(f"\n{title:32} {'all':>9} " + " ".join(f"{kind:>9}" for kind in kinds))
        for name, aucs in result[key].items():
            print(f"{name:32} " + " ".join(f"{value:9.3f}" for value in (aucs["auc"], *aucs["auc_by_kind"].values())))


def _print_synthetic(result):
    """What `locate_synthetic` found, for people."""
    checkpoint = result["checkpoint"]
    print(
        f"{result['images']} healthy {result['split']} images with synthetic anomalies; "
        + describe_checkpoint(checkpoint["name"], checkpoint["epoch"])
    )
    print("\n" + " " * 20 + "".join(f" {kind:>18}" for kind in KINDS))
    print(f"{'map':20}" + " pixel AUROC  AUPRO" * len(KINDS))
    for name in result["synthetic"][KINDS[0]]:
        values = [result["synthetic"][kind][name] for kind in KINDS]
        mark = " *" if name == result["map"] else ""
        print(f"{name + mark:20}" + "".join(f" {v['pixel_auroc']:11.3f}  {v['aupro']:5.3f}" for v in values))
    print("* the map of the score")


if __name__ == "__main__":
    run_command(main)
