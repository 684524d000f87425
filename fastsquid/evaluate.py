"""`python -m fastsquid.evaluate RUN`: AUC and threshold metrics of every score of a run or a group, with curves."""

from functools import partial
from pathlib import Path

from .errors import UserError
from .utils.cli import Parser, add_overwrite_option, add_protocol_option, add_run_options, run_command
from .utils.files import require_new, require_new_in, write_json


def parser() -> Parser:
    """Return the command's argument parser."""
    parser = Parser(prog="python -m fastsquid.evaluate", description="Evaluate a run on labeled images.")
    add_run_options(parser, "labeled data")
    add_protocol_option(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the metrics as JSON")
    parser.add_argument(
        "--out",
        help="folder for roc.png and precision_recall.png; default: RUN/evaluation, for a shipped model "
        "NAME-evaluation",
    )
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="also measure AUC, and healthy images above the threshold, where exposure, framing, position or quality "
        "of all images is changed",
    )
    add_overwrite_option(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Measure a run on labeled images."""
    options = parser().parse_args(arguments)
    # Imported after the options are parsed, so that --help needs no PyTorch.
    from .models import output_folder, resolve
    from .runs.folder import reject_own_file

    folder = resolve(options.run)
    pictures = Path(options.out or output_folder(folder, "evaluation"))
    require_new_in(pictures, [f"{name}.png" for name in ("roc", "precision_recall")], options.overwrite)
    if options.json:
        require_new(options.json, options.overwrite)
        reject_own_file(options.json)
    from sklearn.metrics import roc_auc_score

    from .data.dicom.kinds import Accept
    from .data.dicom.patients import warn_of_ages
    from .drawing.curves import precision_recall_figure, roc_figure
    from .drawing.save import save_figure
    from .evaluation.robustness import confounds, confounds_table, perturbed_scores, robustness, robustness_table
    from .evaluation.summary import describe_runs, evaluate_run, run_table
    from .evaluation.validation import reported_split
    from .runs.data import data_of, is_own, open_run_data, reject_redrawn
    from .runs.input_check import read_check
    from .runs.trained import load_trained
    from .scoring.input_check import warn_of_unlike
    from .scoring.scores import score_members
    from .utils.devices import choose_device

    device = choose_device(options.device)
    run = load_trained(folder, options.checkpoint, options.impl, device)
    detector, config = run.detector, run.record.config
    source = data_of(folder, run.record, options.data)
    opened = partial(
        open_run_data,
        run.record,
        source,
        skip_unreadable=options.skip_unreadable,
        anonymous=options.anonymous,
        accept=Accept.from_options(options.accept_body, options.accept_view),
        cache=options.cache,
        protocol=options.protocol,
    )
    data = opened(splits=("val", "test"))
    reject_redrawn(run.runs[0], run.record, source, data)
    split = reported_split(data)
    labels = None if split is None else data[split].labels
    if split is None or labels is None:
        raise UserError(
            f"{source} has no labeled images: evaluation needs a test or val folder with NORMAL and other classes"
        )
    warn_of_ages(data[split].ages or (), run.record.ages)
    if check := read_check(run.runs[0]):
        warn_of_unlike(check.ratios(data[split].images))
    scores, of_runs = score_members(detector, data[split].images)
    pictures.mkdir(parents=True, exist_ok=True)
    for kind, draw in (("roc", roc_figure), ("precision_recall", precision_recall_figure)):
        save_figure(draw(labels, scores, config.score), pictures / f"{kind}.png")
    result = evaluate_run(data, {split: scores}, config, run.checkpoint, run.epoch, run.validation)
    print(f"\n{run_table(result, own_data=is_own(run.record, source))}")
    if of_runs:
        aucs = [float(roc_auc_score(labels.numpy(), one[config.score])) for one in of_runs]
        result["runs"] = [{"seed": seed, "auc": auc} for seed, auc in zip(run.seeds, aucs)]
        print(f"\n{describe_runs(result, config.score)}")
    if options.robustness:
        uncropped = data[split]
        if config.crop:
            uncropped = opened(splits=(split,), uncropped=True)[split]
        every = {"clean": scores, **perturbed_scores(detector, uncropped.images)}
        at = result["scores"][config.score]["validation_threshold"]
        result |= robustness(labels, every, config.score, at and at["threshold"])
        print(f"\n{robustness_table(result['robustness'], result.get('healthy_above_threshold'))}")
        result["confounds"] = confounds(detector, data[split])
        print(f"\n{confounds_table(result['confounds'])}")
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    run_command(main)
