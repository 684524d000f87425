"""`python -m fastsquid.convert SYSTEM GENERATOR DISCRIMINATOR --out RUN`: turn a published checkpoint into a run."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from .utils.cli import Parser, add_all_normal_option, add_device_options, add_reading_options, run_command
from .utils.files import write_json
from .utils.text import printable

log = logging.getLogger(__name__)


def parser() -> Parser:
    """Return the command's argument parser."""
    parser = Parser(
        prog="python -m fastsquid.convert",
        description="Make a run folder of a checkpoint that SQUID's or SimSID's released code wrote.",
    )
    parser.add_argument("system", metavar="SYSTEM", choices=["squid", "simsid"], help="squid or simsid")
    parser.add_argument("generator", metavar="GENERATOR", help="the generator's state dict, model.pth in that code")
    parser.add_argument("discriminator", metavar="DISCRIMINATOR", help="the discriminator's, discriminator.pth")
    parser.add_argument("--out", metavar="RUN", required=True, help="run folder to make")
    parser.add_argument(
        "--data", help="data as fastsquid.train takes it, whose normal images calibrate; default: not calibrated"
    )
    parser.add_argument(
        "--top-k", type=int, metavar="K", help="active slots per query that the model was trained with; default: 5"
    )
    add_all_normal_option(parser)
    add_reading_options(parser)
    add_device_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with these arguments, or those of the command line."""
    options = parser().parse_args(arguments)
    # Imported after the options are parsed, so that --help needs no PyTorch.
    from .data.dicom.kinds import Accept
    from .data.duplicates import count_copies
    from .evaluation.summary import evaluate_run
    from .model.published_checkpoint import Published, build_detector, describe_sizes
    from .runs.checkpoint import latest_checkpoint, read_state, save_checkpoint
    from .runs.data import choose_normal, fingerprint_of, open_training_data
    from .runs.folder import SUMMARY, create_run, new_folder, reject_existing
    from .runs.records import CheckpointState, RunRecord, Summary
    from .training.results import measure_detector, report_run
    from .utils.devices import choose_device

    reject_existing(options.out)
    device = choose_device(options.device)
    generator, discriminator = (Published(path) for path in (options.generator, options.discriminator))
    detector = build_detector(generator, discriminator, options.system, options.impl, options.top_k).to(device).eval()
    config = detector.config
    accept = Accept.from_options(options.accept_body, options.accept_view)
    record = RunRecord(
        config=config,
        data=options.data and str(Path(options.data).resolve()),
        seed=0,
        skip_unreadable=options.skip_unreadable,
        anonymous=options.anonymous,
        all_normal=options.all_normal,
        accept_body=list(accept.body),
        accept_view=list(accept.view),
    )
    print(describe_sizes(config))
    data, copies, split, normal = {}, [], None, None
    if options.data:
        data, copies = open_training_data(record)
        split, normal = choose_normal(data, options.data)
    converted = {
        "system": options.system,
        "generator": generator.sha256,
        "discriminator": discriminator.sha256,
        "images": None if normal is None else len(normal),
    }
    if split is not None:
        record = dataclasses.replace(record, fingerprint=fingerprint_of(split), copies=count_copies(copies))
    record = dataclasses.replace(record, converted=converted)
    with new_folder(options.out) as folder:
        create_run(folder, record)
        state = CheckpointState(config=config.to_dict(), finished=True, last=measure_detector(detector, data, normal))
        save_checkpoint(folder, state, detector.state_dict(), optimizers={})
        written = latest_checkpoint(folder)
        assert written is not None
        state = read_state(written, config)
        if normal is None:
            metrics = evaluate_run({}, {}, config, "last", None, None)
            summary = Summary(preset=config.preset, seed=record.seed, facts={"converted": converted}, **metrics)
            write_json(folder / SUMMARY, summary.to_json())
            print("not calibrated, because --data is not given: scores have no percentile and no threshold")
        else:
            report_run(folder, detector, data, normal, state, record.seed, {"converted": converted})
    if options.top_k is None:
        log.warning(
            "%s does not show the top-k that it was trained with: top-%d is assumed, and with another one all scores "
            "are wrong; give it by --top-k",
            options.generator,
            config.top_k,
        )
    print(f"run folder: {printable(options.out)}")


if __name__ == "__main__":
    run_command(main)
