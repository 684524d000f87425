"""`python -m fastsquid.locate RUN`: where images are abnormal, as maps, and how right they are where that is known."""

from pathlib import Path
from typing import Any

from .errors import UserError
from .utils.cli import Parser, add_overwrite_option, add_run_options, run_command
from .utils.files import require_new_in, write_json
from .utils.text import printable

LARGEST = 300_000  # bytes of the PNG


def parser() -> Parser:
    """Return the command's argument parser."""
    parser = Parser(
        prog="python -m fastsquid.locate",
        description="Draw where images are abnormal, in standard deviations from the training images, and measure how "
        "well the maps find anomalies of known places: boxes and masks, synthetic ones, or cells of DigitAnatomy.",
    )
    add_run_options(parser, "data with normal training images")
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="folder for maps.png and locate.json; default: RUN/localization, for a shipped model NAME-localization",
    )
    add_overwrite_option(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Draw heat maps, and measure them where anomalies are known."""
    options = parser().parse_args(arguments)
    # Imported after the options are parsed, so that --help needs no PyTorch.
    from .models import output_folder, resolve

    run_folder = resolve(options.run)
    folder = Path(options.out or output_folder(run_folder, "localization"))
    require_new_in(folder, ("maps.png", "locate.json"), options.overwrite)
    from .data.dicom.kinds import Accept
    from .drawing.maps import draw_maps
    from .drawing.pictures import MAPS
    from .drawing.save import save_figure
    from .evaluation.localization import (
        cell_table,
        finite_maps,
        healthy_images,
        locate,
        locate_synthetic,
        synthetic_table,
    )
    from .evaluation.places import known_places, measure_places, places_table
    from .evaluation.summary import describe_checkpoint, describe_seeds
    from .evaluation.validation import shown_split
    from .runs.data import data_of, open_run_data, reject_redrawn
    from .runs.trained import load_trained
    from .scoring.maps import calibrate_maps
    from .utils.devices import choose_device

    device = choose_device(options.device)
    run = load_trained(run_folder, options.checkpoint, options.impl, device)
    config, source = run.record.config, data_of(run_folder, run.record, options.data)
    data = open_run_data(
        run.record,
        source,
        skip_unreadable=options.skip_unreadable,
        anonymous=options.anonymous,
        accept=Accept.from_options(options.accept_body, options.accept_view),
        cache=options.cache,
    )
    if "train" not in data:
        raise UserError(
            f"{source} has no training images, which say what is normal at every place: put normal ones in train/NORMAL"
        )
    reject_redrawn(run.runs[0], run.record, source, data)
    shown = shown_split(data)
    split, detector = data[shown], run.detector.frozen()
    calibration = calibrate_maps(detector, data["train"].images)
    which = f"{describe_seeds(run.seeds)}, {describe_checkpoint(run.checkpoint, run.epoch)}"
    where = f"{config.preset}, {which}, {shown} split; the map of the score: {' '.join(MAPS[config.map].split())}"
    figure = draw_maps(detector, split, calibration, where)

    folder.mkdir(parents=True, exist_ok=True)
    facts = {"checkpoint": {"name": run.checkpoint, "epoch": run.epoch}, "map": config.map}
    result: dict[str, Any] = {}
    if split.cells is not None:
        result = {
            "split": shown,
            "images": {"normal": int((split.labels == 0).sum()), "abnormal": int((split.labels == 1).sum())},
            **facts,
            **locate(detector, data["train"], split, calibration),
        }
        print(cell_table(result))
    else:
        if known_places(split).any() and not (split.labels == 0).any():
            print(f"the {shown} split has no healthy images: how well maps find its places is not measured")
        elif known_places(split).any():
            device = next(detector.parameters()).device
            found = measure_places(lambda batch: finite_maps(detector, batch, calibration), split, device)
            result = {"split": shown, **facts, "known_places": found}
            print(places_table(found, shown, config.map))
        if healthy := healthy_images(data, shown):
            result |= {"split": healthy[0], **facts, **locate_synthetic(detector, healthy[1], calibration)}
            print(synthetic_table(result))
    if not result:
        print("no healthy images are known outside of training: how well maps find anomalies is not measured")
    measured = folder / "locate.json"
    measured.unlink(missing_ok=True)  # that of other data, which --overwrite gives up
    if result:
        write_json(measured, result)
        print(f"\n{printable(measured)}")
    save_figure(figure, folder / "maps.png", LARGEST)
    print(printable(folder / "maps.png"))


if __name__ == "__main__":
    run_command(main)
