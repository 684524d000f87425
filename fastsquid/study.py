"""`python -m fastsquid.study NAME`: the papers' ablations, sweeps, contamination and baselines, each as one command.

    study.json           name, scale, data and seeds, written first
    ROW/seed-0/          a row of the grid is a group of ordinary runs
    NAME.csv, NAME.png   one line per run and score, and the figure; written again after every run

The same command continues a study that was stopped or killed. `python -m fastsquid.compare` compares two rows.
"""

import shlex
import sys
from pathlib import Path

from .errors import DivergedError, UserError
from .training.study import STUDIES
from .utils.cli import Parser, add_training_options, reject_repeated, require_any_machine, run_command, seed_option
from .utils.text import printable


def main(arguments: list[str] | None = None) -> int | None:
    """Train every row of a study; return the exit code, or None."""
    options = _parse(arguments)
    # Imported after the options are parsed, so that --help needs no PyTorch.

    from .data import open_data
    from .evaluation.validation import reported_split
    from .runs.folder import is_finished, seed_folder
    from .runs.group import seed_run
    from .runs.records import GroupRecord
    from .training.results import report_group
    from .training.start import Speed, train_run
    from .training.study_folder import begin_study, require_same_group, write_study
    from .utils.devices import choose_device

    device = choose_device(options.device if options.ray is None else "cpu")
    data = None if options.data is None else str(Path(options.data).resolve())
    if data is not None and reported_split(open_data(data, splits=("val", "test"))) is None:
        raise UserError(f"{data} has no labeled test or val images, which a study compares its rows on: add some")
    folder = Path(options.out or Path("studies") / f"{options.name}-{options.scale}")
    record = {"name": options.name, "scale": options.scale, "data": data, "seeds": options.seeds}
    begin_study(folder, record)

    rows = STUDIES[options.name][options.scale]
    speed = Speed(options.compile, options.precision, options.impl, options.cache)
    if options.ray is not None:
        return _train_on_ray(folder, record, rows, options, speed)
    number, diverged = 0, []
    for row in rows:
        group = GroupRecord(row.config(options.scale), data, options.seeds)
        require_same_group(folder / row.slug, group)
        for seed in options.seeds:
            number += 1
            run_folder, run = seed_run(folder / row.slug, group, seed)
            finished = is_finished(run_folder)
            which = f"run {number} of {len(rows) * len(options.seeds)}: {row.system}, {row.name}, seed {seed}"
            print(which + " is finished" * finished, flush=True)
            if finished:
                continue
            try:
                unbroken = train_run(run_folder, run, speed, device, group)
            except DivergedError as error:  # the other rows are trained all the same
                print(f"diverged: {printable(error)}", flush=True)
                diverged.append(f"{row.system}, {row.name}, seed {seed}")
                continue
            if not unbroken:
                again = sys.argv[1:] if arguments is None else arguments
                print(f"\nstopped; continue with: {printable(shlex.join(['python', '-m', 'fastsquid.study', *again]))}")
                return 130
            write_study(folder, record)
        finished = [is_finished(seed_folder(folder / row.slug, seed)) for seed in options.seeds]
        if all(finished) and not is_finished(folder / row.slug):
            report_group(folder / row.slug)
    write_study(folder, record)
    print(f"study folder: {printable(folder)}")
    if diverged:
        raise UserError(f"training diverged in {'; '.join(diverged)}: {folder} has the other rows")


def _train_on_ray(folder, record, rows, options, speed):
    """Train all runs of the study that are not finished as Ray tasks."""
    from .runs.folder import is_finished, seed_folder
    from .runs.group import create_group
    from .runs.records import GroupRecord
    from .training.results import report_group
    from .training.study_folder import require_same_group, write_study
    from .utils.ray_cluster import cluster, require_ray

    require_ray()
    from .training.on_ray import train_on_ray

    names, waiting = {}, []
    for row in rows:
        group, path = GroupRecord(row.config(options.scale), record["data"], options.seeds), folder / row.slug
        require_same_group(path, group)
        create_group(path, group)
        names[path.resolve()] = f"{row.system}, {row.name}"
        waiting += [(path.resolve(), seed) for seed in options.seeds if not is_finished(seed_folder(path, seed))]
    failed = []
    with cluster(options.ray, log=True):
        for path, seed, why in train_on_ray(waiting, speed, options.device, options.threads):
            which = f"{names[path]}, seed {seed}"
            print(f"{which}: {printable(why) or 'finished'}", flush=True)
            if why:
                failed.append(f"{which}: {why}")
                continue
            write_study(folder, record)
    for path in names:
        if all(is_finished(seed_folder(path, seed)) for seed in options.seeds) and not is_finished(path):
            report_group(path)
    write_study(folder, record)
    print(f"study folder: {printable(folder)}")
    if failed:
        raise UserError(f"{len(failed)} runs of {folder} are not finished, the first of them {failed[0]}")


def parser() -> Parser:
    """Return the command's argument parser."""
    parser = Parser(prog="python -m fastsquid.study", description="Train every row of a study; its CSV and figure.")
    parser.add_argument("name", metavar="NAME", choices=STUDIES, help=", ".join(STUDIES))
    parser.add_argument(
        "--scale",
        default="small",
        choices=["full", "small"],
        help="full: the papers' sizes on --data; small: DigitAnatomy, minutes per run; default: small",
    )
    parser.add_argument("--data", help="for the full scale: as fastsquid.train takes it")
    parser.add_argument(
        "--seeds",
        type=seed_option,
        nargs="+",
        default=[0],
        metavar="SEED",
        help="train each row with each of these seeds; default: 0",
    )
    parser.add_argument("--out", metavar="FOLDER", help="folder of the study; default: studies/NAME-SCALE")
    add_training_options(parser)
    return parser


def _parse(arguments):
    options = parser().parse_args(arguments)
    if options.scale == "full" and not options.data:
        raise UserError("--scale full needs --data: give a folder of X-rays, or use --scale small")
    if options.scale == "small" and options.data is not None:
        raise UserError("--data needs --scale full: the small scale is of DigitAnatomy")
    reject_repeated(options.seeds)
    if options.ray is not None:
        require_any_machine(options.device)
    return options


if __name__ == "__main__":
    run_command(main)
