"""`python -m fastsquid.evaluate RUN`: AUC and threshold metrics of every score of a trained run, with curves."""

from pathlib import Path
from statistics import fmean

from .checkpoint import data_of, load_run
from .cli import Parser, add_run_options, choose_device, run_command
from .data import open_data
from .data.patients import warn_of_ages
from .errors import UserError
from .evaluation import evaluate_run, perturbed_aucs, print_robustness, print_table, reported_split, score_images
from .files import write_json


def main(arguments=None):
    parser = Parser(prog="python -m fastsquid.evaluate", description="Evaluate a run on labelled images.")
    add_run_options(parser, "labelled data")
    parser.add_argument("--json", metavar="FILE", help="also write the metrics as JSON")
    parser.add_argument("--out", help="folder for roc.png and precision_recall.png; default: RUN/evaluation")
    parser.add_argument(
        "--robustness", action="store_true", help="also AUC where gamma, contrast or framing of all images is changed"
    )
    options = parser.parse_args(arguments)

    device = choose_device(options.device)
    detector, run, state, name = load_run(options.run, options.checkpoint, options.impl, device)
    source = data_of(options.run, run, options.data)
    data = open_data(
        source,
        run["config"].image_size,
        run["seed"],
        options.skip_unreadable or run["skip_unreadable"],
        splits=("val", "test"),
        anonymous=options.anonymous or run["anonymous"],
        crop=run["config"].crop,
    )
    split = reported_split(data)
    if split is None:
        raise UserError(
            f"{source} has no labelled images: evaluation needs a test or val folder with NORMAL and other classes"
        )
    warn_of_ages(data[split].ages or (), run["ages"])
    scores = {split: score_images(detector, data[split].images)}
    pictures = options.out or Path(options.run) / "evaluation"
    result = evaluate_run(data, scores, state, name, run["config"], pictures)
    print_table(result)
    if options.robustness:
        result["robustness"] = _robustness(result["scores"], perturbed_aucs(detector, data[split]))
        print_robustness(result["robustness"])
    if options.json:
        write_json(options.json, result)


def _robustness(metrics, perturbed):
    """{score: {clean, each perturbation, mean: AUC}}, the mean over the clean images and all perturbations.

    Args:
        metrics: `evaluate_run`'s scores.
        perturbed: as `perturbed_aucs` gives it.
    """
    result = {}
    for score in metrics:
        aucs = {"clean": metrics[score]["auc"], **{change: values[score] for change, values in perturbed.items()}}
        result[score] = {**aucs, "mean": fmean(aucs.values())}
    return result


if __name__ == "__main__":
    run_command(main)
