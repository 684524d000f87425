"""`python -m fastsquid.report RUN FOLDER`: one HTML file in which images, their scores and maps are looked at."""

import datetime
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import features
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve
from tqdm import tqdm

from . import __version__
from .checkpoint import describe_checkpoint, describe_seeds, why_uncalibrated
from .cli import Parser, add_anonymous_option, add_device_options, add_run, run_command
from .data.decoding import decoded
from .data.patients import warn_of_ages
from .ensemble import Ensemble
from .errors import UserError
from .evaluation import DivergedError, read_scores
from .files import replacing
from .metrics import at_sensitivity, bootstrap_auc
from .plots import LABELS
from .report_images import csv_images, folder_images, label_images, readable_error
from .report_page import DEVIATIONS, page, strip
from .scorer import load
from .unlike import warn_of_unlike

SENSITIVITY = 0.95  # at which a specificity is reported
# Whom a run has seen, by the source that its training recorded.
SOURCES = {
    "zhanglab": "chest X-rays of children of one to five years, from one hospital (Guangzhou Women and Children's "
    "Medical Center; Kermany et al. 2018), recognised by their file names",
    "chexpert": "frontal PA chest X-rays of CheXpert, from one hospital (Stanford; Irvin et al. 2019)",
    "covidx": "chest X-rays of COVIDx, which is put together from several public collections (Wang et al. 2020)",
    "digits": "no X-rays: DigitAnatomy, drawn digits in the place of anatomy",
}


def main(arguments=None):
    options = _parse(arguments)
    if not features.check("webp"):
        raise UserError("Pillow cannot write WebP here: pip install --upgrade pillow")
    scorer = load(options.run, None, options.device, options.impl)
    if scorer.calibration is None and scorer.run["converted"]:
        raise UserError(why_uncalibrated(options.run, scorer.run))
    anonymous = options.anonymous or scorer.run["anonymous"]
    if options.images is None:
        images = folder_images(options.source, anonymous)
    else:
        images = csv_images(options.source, options.images, scorer.score_name, anonymous)
    if options.labels is not None:
        label_images(images, options.labels)
    normal = _count_normal(scorer)

    with replacing(options.out) as file:
        strips, ages = _examine(scorer, images, options)
        data = _data(scorer, images, options)
        data["unlike_note"] = warn_of_unlike(np.array([image.unlike for image in images if image.unlike is not None]))
        data |= {"normal": normal, "ages": warn_of_ages(ages, scorer.run["ages"])}
        data |= _words(scorer.run, images, options, anonymous)
        file.write(page(data, strips))
    failed = sum(bool(image.error) for image in images)
    size = Path(options.out).stat().st_size / 1e6
    print(f"{len(images) - failed} of {len(images)} images shown: {options.out} ({size:.1f} MB)")
    if failed:
        print(
            f"error: {failed} of {len(images)} images could not be read; {options.out} lists them as unreadable",
            file=sys.stderr,
        )
        return 1


def _parse(arguments):
    parser = Parser(
        prog="python -m fastsquid.report",
        description="Write a report to look at: one HTML file with every image, its healthy reconstruction, its "
        "anomaly map and its score.",
    )
    add_run(parser)
    parser.add_argument(
        "source",
        metavar="FOLDER|CSV",
        help="folder searched for images, labelled by class folders beside a NORMAL one; or a CSV that fastsquid.score "
        "or a training run wrote, of the images below --images",
    )
    parser.add_argument("--images", metavar="FOLDER", help="the folder that the CSV's names are relative to")
    parser.add_argument(
        "--labels", metavar="CSV", help="columns name and label: 0 or normal, 1 or abnormal; in place of all others"
    )
    parser.add_argument("--out", default="report.html", help="HTML file to write; default: report.html")
    parser.add_argument(
        "--trained-on", metavar="TEXT", help="whom the training images show; default: what the run recorded"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images a batch; default: 64")
    add_anonymous_option(parser)
    add_device_options(parser)
    options = parser.parse_args(arguments)
    source = Path(options.source)
    if not source.exists():
        raise UserError(f"{source} does not exist: give a folder of images, or a CSV of scores with --images FOLDER")
    if source.is_dir() and options.images is not None:
        raise UserError(f"{source} is a folder, and --images goes with a CSV of scores: leave it out")
    if source.is_file() and options.images is None:
        raise UserError(f"{source} is a file: a CSV of scores needs --images FOLDER, with the images that it names")
    if options.images is not None and not Path(options.images).is_dir():
        raise UserError(f"--images {options.images} is no folder: give the one that the names in {source} are in")
    for given in (source, options.labels):
        if given is not None and Path(options.out).resolve() == Path(given).resolve():
            raise UserError(f"--out {options.out} would take the place of what it is made from: give another name")
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size} should be at least 1")
    return options


def _examine(scorer, images, options):
    """Opens every image once; fills in its score, or why it cannot be read.

    Returns:
        its strip, b"" without, and its patient's age in years, or None: two lists.
    """
    files = [(index, image.path) for index, image in enumerate(images) if image.path is not None]
    strips, ages = [b""] * len(images), []
    with ThreadPoolExecutor() as pool:
        for batch in tqdm(
            decoded(files, scorer.image_size, options.batch_size, crop=scorer.crop),
            unit="batch",
            total=-(-len(files) // options.batch_size),
            disable=not sys.stderr.isatty(),
        ):
            for index, _, age, error in batch:
                images[index].error = readable_error(error) if error else ""
                ages.append(age)
            found = {index: square for index, square, _, error in batch if not error}
            if not found:
                continue
            squares = list(found.values())
            scores, drawn, heat = scorer.examine(squares, len(squares), cropped=True)
            if not all(np.isfinite(values).all() for values in (*scores.values(), drawn, heat)):
                raise DivergedError(f"{options.run} gives values that are not finite: its training has diverged")
            if scorer.input_check is not None:
                for index, ratio in zip(found, scorer.unlike_training(squares, len(squares), cropped=True)):
                    images[index].unlike = float(f"{ratio:.4g}")  # as a CSV has it
            made = pool.map(strip, squares, drawn, heat)
            for index, score, pictures in zip(found, scores[scorer.score_name], made):
                _settle_score(scorer, images[index], float(score), options)
                strips[index] = pictures
    if not any(strips):
        raise UserError(f"none of the {len(images)} images could be read; of the first: {images[0].error}")
    return strips, ages


def _settle_score(scorer, image, score, options):
    """Gives the image its score, or refuses that of a CSV which is of something else."""
    if image.score is None:
        image.score = float(f"{score:.9g}")  # as a CSV has it: float32, exactly
    # What half precision and other devices change is well within it, see test_half_precision.
    elif abs(image.score - score) > 0.02 * (abs(score) + scorer.calibration[scorer.score_name]["std"]):
        raise UserError(
            f"{options.source} says {image.score:.6g} for {image.name}, but {options.run} gives {score:.6g}: its "
            "scores are of another run, checkpoint or image; write them again with python -m fastsquid.score"
        )


def _data(scorer, images, options):
    """What the page shows, as `page` takes it."""
    name, calibration = scorer.score_name, scorer.calibration[scorer.score_name]
    read = [image for image in images if not image.error]
    scores = np.array([image.score for image in read])
    percentiles = None
    if calibration.get("quantiles") is not None:
        below = iter(np.floor(scorer.percentile(scores)).astype(int).tolist())
        percentiles = [None if image.error else next(below) for image in images]
    labelled = [image for image in read if image.label is not None]
    metrics = _metrics([image.label for image in labelled], [image.score for image in labelled])
    thresholds = _thresholds(scorer.run["validation"], calibration, name)
    if metrics:
        thresholds.append(
            [metrics["threshold"], f"{100 * SENSITIVITY:.0f} % sensitivity on the labels of these images"]
        )
    return {
        "names": [image.name for image in images],
        "scores": [None if image.error else image.score for image in images],
        "percentiles": percentiles,
        "labels": [image.label for image in images],
        "unlike": None if scorer.input_check is None else [image.unlike for image in images],
        "errors": {str(index): image.error for index, image in enumerate(images) if image.error},
        "thresholds": thresholds,
        "metrics": metrics,
        "deviations": DEVIATIONS,
        "map": "residual" if scorer.map_name == "residual" else "discriminator",
        "run": _facts(scorer),
    }


def _count_normal(scorer):
    """How many validation images its percentiles are of, or None where it has none."""
    calibration = scorer.calibration
    if calibration is None or calibration[scorer.score_name].get("quantiles") is None:
        return None
    _, labels, _ = read_scores(scorer.run["runs"][0] / "scores-val.csv")
    return int((labels == 0).sum())


def _words(run, images, options, anonymous):
    """The page's title, and whom the run has seen. Folders are called by their names alone: paths can name people, and
    so can names, which an anonymous report leaves out."""
    if anonymous:
        return {"title": f"{len(images):,} images", "trained_on": _trained_on(run, options.trained_on, False)}
    folder = Path(options.source if options.images is None else options.images).resolve().name
    title = folder if options.images is None else f"{Path(options.source).name} of {folder}"
    return {"title": title, "trained_on": _trained_on(run, options.trained_on, True)}


def _thresholds(validation, calibration, name):
    """[value, what it is] of those that the run itself offers; the first is where the page begins."""
    found = []
    if validation:
        found.append([validation[name]["threshold"], "most accurate on the run's validation images"])
    if calibration.get("quantiles"):
        found.append([calibration["quantiles"][95], "95th percentile of normal validation images"])
    found.append([calibration["mean"] + 2 * calibration["std"], "mean + 2 standard deviations of normal images"])
    return found


def _metrics(labels, scores):
    """What labels and scores are worth at every threshold; None unless both classes are there."""
    if len(set(labels)) < 2:
        return None
    fpr, tpr, _ = roc_curve(labels, scores)
    precision, recall, _ = precision_recall_curve(labels, scores, drop_intermediate=True)
    threshold, specificity = at_sensitivity(labels, scores, SENSITIVITY)
    return {
        "auc": float(roc_auc_score(labels, scores)),
        "interval": bootstrap_auc(labels, scores),
        "average_precision": float(average_precision_score(labels, scores)),
        "sensitivity": SENSITIVITY,
        "specificity": specificity,
        "threshold": threshold,
        "roc": _points(fpr, tpr),
        "precision_recall": _points(recall, precision),
    }


def _points(x, y):
    return np.stack([x, y], 1).round(5).tolist()


def _trained_on(run, text, named):
    """Sentences on whom the run has seen; `named` with the name of its folder."""
    if converted := run.get("converted"):
        folder = f" of the folder {Path(run['data']).name}" if named else ""
        return (
            f"Scored by published weights of {converted['system']}, which were not trained here: "
            f"{text or 'whom they have seen is not recorded'}. "
            f"Calibrated on {converted['images']:,} normal images{folder}."
        )
    record = run.get("trained_on") or {"images": None, "source": None}  # a run of an earlier version has none
    folder = f" of the folder {Path(run['data']).name}" if named and run["data"] else ""
    known = SOURCES.get("digits" if run["data"] is None else record["source"])
    words = text or known or "whom they show is not recorded"
    if run.get("ages") and not known:
        words += f"; patients of {run['ages'][0]:.3g} to {run['ages'][1]:.3g} years"
    seeds = len(run.get("seeds", ()))
    by = f"{seeds} runs, each" if seeds > 1 else "a run that was"
    sentence = f"Scored by {by} trained on {_count(record)}images{folder}, all taken as healthy: {words}."
    if run.get("init"):
        first = run["init"].get("trained_on") or {"images": None, "source": None}
        begun = SOURCES.get(first["source"], "whom they show is not recorded")
        sentence += f" It began with the weights of a run that was trained on {_count(first)}images: {begun}."
    return sentence


def _count(record):
    return "" if record["images"] is None else f"{record['images']:,} "


def _facts(scorer):
    """[what, text] of the run."""
    run, config = scorer.run, scorer.run["config"]
    runs = "mean of all runs, each standardized; " if isinstance(scorer.detector, Ensemble) else ""
    return [
        ["Score", f"{config.score}: {LABELS[config.score]}; {runs}larger is more abnormal"],
        ["Map", _map_of(config)],
        [
            "Preset",
            config.preset
            if run["converted"]
            else f"{config.preset}, {config.epochs} epochs, {describe_seeds(run['seeds'])}",
        ],
        *([["Input check", "none: an earlier version made the run"]] if scorer.input_check is None else []),
        ["Checkpoint", describe_checkpoint(run["checkpoint"], run["epoch"])],
        ["Image size", f"{config.image_size} x {config.image_size} pixels"],
        ["Version", f"fastsquid {run['fastsquid']}, report by {__version__}"],
        ["Date", datetime.date.today().isoformat()],
    ]


def _map_of(config):
    """What the map is, and that a score which is not made of the same has other reasons than it shows."""
    unit = "in standard deviations from normal images at each pixel"
    judged = {
        "discriminator": "the reconstruction",
        "discriminator_image": "the image",
        "combined": "the image and of its reconstruction",
    }
    if config.map in judged:
        return f"how abnormal the discriminator finds each cell of {judged[config.map]}, {unit}"
    error = f"the reconstruction's squared error, {unit}"
    return error if config.score in ("residual", "patch_residual") else f"{error}; the score goes by something else"


if __name__ == "__main__":
    run_command(main)
