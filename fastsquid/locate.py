"""`python -m fastsquid.locate RUN`: where images are abnormal, as maps, and how right they are where that is known."""

from pathlib import Path

import torch

from .data import to_unit
from .drawing.gallery import choose_images
from .drawing.pictures import MAPS, map_figure
from .drawing.png import save_figure
from .errors import UserError
from .evaluation.localization import (
    KINDS,
    finite_maps,
    healthy_images,
    locate,
    locate_synthetic,
)
from .evaluation.summary import describe_checkpoint, describe_seeds
from .evaluation.validation import reported_split
from .runs.data import data_of, open_run_data
from .runs.trained import load_trained
from .scoring.maps import calibrate_maps
from .utils.cli import Parser, add_run_options, run_command
from .utils.devices import choose_device
from .utils.files import write_json

LARGEST = 300_000  # bytes of the PNG


def parser() -> Parser:
    """Return the command's argument parser."""
    parser = Parser(
        prog="python -m fastsquid.locate",
        description="Draw where images are abnormal, in standard deviations from the training images, and measure how "
        "well the maps find synthetic anomalies, or the anomalous cells of DigitAnatomy.",
    )
    add_run_options(parser, "data with normal training images")
    parser.add_argument(
        "--out", metavar="FOLDER", help="folder for maps.png and locate.json; default: RUN/localization"
    )
    return parser


def main(arguments=None):
    options = parser().parse_args(arguments)

    device = choose_device(options.device)
    run = load_trained(options.run, options.checkpoint, options.impl, device)
    config, source = run.record.config, data_of(options.run, run.record, options.data)
    data = open_run_data(run.record, source, skip_unreadable=options.skip_unreadable, anonymous=options.anonymous)
    if "train" not in data:
        raise UserError(
            f"{source} has no training images, which say what is normal at every place: put normal ones in train/NORMAL"
        )
    shown = _shown_split(data)
    split, detector = data[shown], run.detector.frozen()
    calibration = calibrate_maps(detector, data["train"].images)
    which = f"{describe_seeds(run.seeds)}, {describe_checkpoint(run.checkpoint, run.epoch)}"
    where = f"{config.preset}, {which}, {shown} split; the map of the score: {MAPS[config.map]}"
    figure = draw_maps(detector, split, calibration, where)

    folder = Path(options.out or Path(options.run) / "localization")
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"checkpoint": {"name": run.checkpoint, "epoch": run.epoch}, "map": config.map}
    result = None
    if split.cells is not None:
        result = {
            "split": shown,
            "images": {"normal": int((split.labels == 0).sum()), "abnormal": int((split.labels == 1).sum())},
            **facts,
            **locate(detector, data["train"], split, calibration),
        }
        print(cell_table(result))
    elif healthy := healthy_images(data, shown):
        result = {"split": healthy[0], **facts, **locate_synthetic(detector, healthy[1], calibration)}
        print(synthetic_table(result))
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
    maps = {name: values.cpu().numpy() for name, values in finite_maps(detector, images, calibration).items()}
    _, student = detector.scores(images)
    captions = [_caption(split, i) for i in chosen.tolist()]
    cells = None if split.cells is None else split.cells[chosen].numpy()
    return map_figure(images[:, 0].cpu().numpy(), student[:, 0].cpu().numpy(), maps, captions, cells, where)


def _shown_split(data):
    """Name of the split that is reported; of images without both classes there is still a picture."""
    try:
        labelled = reported_split(data)
    except UserError:
        labelled = None
    return labelled or next(name for name in ("test", "val", "train") if name in data)


def _caption(split, i):
    if split.kinds is not None:
        return split.kinds[i]
    return Path(split.names[i]).name[-18:] if split.labels is None else ("normal", "abnormal")[split.labels[i]]


def cell_table(result: dict) -> str:
    """Return the AUCs of `localization.locate` as tables for people."""
    images, checkpoint = result["images"], result["checkpoint"]
    lines = [
        f"{result['split']} split: {images['normal']} normal, {images['abnormal']} abnormal; "
        + describe_checkpoint(checkpoint["name"], checkpoint["epoch"])
    ]
    for key, title in (("cell_auc", "AUC of the cells"), ("image_auc", "AUC of the images")):
        kinds = next(iter(result[key].values()))["auc_by_kind"]
        lines += ["", f"{title:32} {'all':>9} " + " ".join(f"{kind:>9}" for kind in kinds)]
        for name, aucs in result[key].items():
            values = (aucs["auc"], *aucs["auc_by_kind"].values())
            lines.append(f"{name:32} " + " ".join(f"{value:9.3f}" for value in values))
    return "\n".join(lines)


def synthetic_table(result: dict) -> str:
    """Return what `localization.locate_synthetic` measured as a table for people."""
    checkpoint = result["checkpoint"]
    lines = [
        f"{result['images']} healthy {result['split']} images with synthetic anomalies; "
        + describe_checkpoint(checkpoint["name"], checkpoint["epoch"]),
        "",
        " " * 20 + "".join(f" {kind:>18}" for kind in KINDS),
        f"{'map':20}" + " pixel AUROC  AUPRO" * len(KINDS),
    ]
    for name in result["synthetic"][KINDS[0]]:
        values = [result["synthetic"][kind][name] for kind in KINDS]
        mark = " *" if name == result["map"] else ""
        lines.append(f"{name + mark:20}" + "".join(f" {v['pixel_auroc']:11.3f}  {v['aupro']:5.3f}" for v in values))
    return "\n".join([*lines, "* the map of the score"])


if __name__ == "__main__":
    run_command(main)
