"""`python -m fastsquid.train`: train a detector on normal images, and write a run folder or a group of them.

Without arguments it trains the `digits` preset on DigitAnatomy, on a GPU if there is one, else on the CPU.
"""

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any, get_args

from .config import PRESETS, Config, preset
from .errors import UserError
from .utils.cli import (
    Parser,
    add_all_normal_option,
    add_protocol_option,
    add_reading_options,
    add_training_options,
    join_job,
    reject_repeated,
    require_any_machine,
    run_command,
    seed_option,
)
from .utils.text import printable

# Options that change only rounding and speed: a resumed run may have others.
SPEED = ("--device", "--threads", "--impl", "--compile", "--precision", "--cache")
# Fields of the configuration that --help shows first.
_OFTEN = ("epochs", "batch_size", "lr", "image_size", "width", "slots", "score", "select", "monitor")


def main(arguments: list[str] | None = None) -> int | None:
    """Train a run or a group; return the exit code, or None."""
    join_job()
    options, changes = _parse(arguments)
    # Imported after the options are parsed, so that --help needs no PyTorch.
    from .data.dicom.kinds import Accept
    from .models import resolve, shipped_name
    from .runs.data import data_of
    from .runs.folder import read_group, read_run, reject_existing
    from .runs.group import is_group
    from .runs.records import GroupRecord
    from .training.settings import Settings, read_settings
    from .training.start import default_preset, describe_init
    from .utils.devices import choose_device

    device = choose_device(options.device if options.ray is None else "cpu")
    if options.resume is not None:
        folder = resolve(options.resume)
        if model := shipped_name(folder):
            raise UserError(
                f"{model} is shipped with fastsquid and is not resumed: begin a run of your own with --init {model}; "
                "if it is damaged, install fastsquid again"
            )
        if is_group(folder):
            return _train_group(folder, read_group(folder), options, device)
        if options.only is not None:
            raise UserError(f"--only is a seed of a group, but {folder} is a single run: leave --only out")
        if options.ray is not None:
            raise UserError(f"--ray trains the seeds of a group, but {folder} is a single run: leave --ray out")
        run = read_run(folder)
        if run.converted:
            raise UserError(
                f"{folder} was converted from published weights, which have no training to continue: convert them "
                f"again, or begin a run with them by --init {folder}"
            )
        return _train_single(folder, run, options, device)
    given = read_settings(options.config) if options.config else Settings()
    if given.preset and options.preset:
        raise UserError(f"--preset and --config {options.config} both give a preset: leave one of them out")
    init, begun = (given.init, None) if options.init is None else describe_init(options.init)
    data = str(Path(options.data).resolve()) if options.data else given.data
    all_normal = options.all_normal or given.all_normal and not options.data
    accept = given.accept | Accept.from_options(options.accept_body, options.accept_view)
    protocol = options.protocol or (None if options.data else given.protocol)
    if begun and data is None:
        protocol = protocol or begun.protocol
        data, all_normal = data_of(resolve(str(options.init)), begun), all_normal or begun.all_normal
        accept |= begun.accept
    name = options.preset or given.preset
    config = begun.config if begun and name is None else preset(name or default_preset(data, device))
    group = GroupRecord(
        config=Config.from_dict({**config.to_dict(), **given.fields, **changes}),
        data=data,
        seeds=options.seeds or [options.seed if options.seed is not None else given.seed or 0],
        skip_unreadable=options.skip_unreadable or given.skip_unreadable,
        anonymous=options.anonymous or given.anonymous or bool(begun and begun.anonymous),
        init=init,
        all_normal=all_normal,
        accept_body=list(accept.body),
        accept_view=list(accept.view),
        protocol=protocol,
    )
    folder = Path(options.out) if options.out else _free_folder(config.preset)
    reject_existing(folder)
    if options.seeds is not None:
        return _train_group(folder, group, options, device)
    return _train_single(folder, group.run(group.seeds[0]), options, device)


def _train_single(folder, run, options, device):
    from .training.start import train_run

    if not train_run(folder, run, _speed(options), device, None, options.tensorboard, _again(options)):
        return _stopped(folder, options)
    print(f"run folder: {printable(folder)}")


def _train_group(folder, group, options, device):
    """Train every seed that is not finished and summarize all of them. With --only, train that seed alone."""

    from .runs.folder import CONFIG, is_finished, seed_folder
    from .runs.group import seed_run
    from .training.results import report_group
    from .training.start import require_idle, train_run
    from .utils import distributed

    if options.ray is not None:
        return _train_on_ray(folder, group, options)
    if options.only not in (None, *group.seeds):
        seeds = ", ".join(map(str, group.seeds))
        raise UserError(f"--only {options.only} is no seed of {folder}: its seeds are {seeds}")
    if options.only is None:  # at once, not after hours of training other seeds
        folders = [seed_folder(folder, seed) for seed in group.seeds]
        require_idle([run for run in folders if (run / CONFIG).is_file() and not is_finished(run)])
    for number, seed in enumerate(group.seeds, 1):
        if options.only not in (None, seed):
            continue
        run_folder, run = seed_run(folder, group, seed)
        finished = is_finished(run_folder)
        what = f"{printable(run_folder)}{' is finished' * finished}"
        print(f"seed {seed} ({number} of {len(group.seeds)}): {what}", flush=True)
        if not finished:
            speed, again = _speed(options), _again(options)
            if not train_run(run_folder, run, speed, device, group, options.tensorboard, again):
                return _stopped(folder, options)
    if options.only is None and distributed.leads():
        report_group(folder)
    print(f"group folder: {printable(folder)}")


def _train_on_ray(folder, group, options):
    """Train every seed that is not finished as a Ray task, and summarize all of them."""
    from .runs.data import open_training_data
    from .runs.folder import is_finished, seed_folder
    from .runs.group import create_group
    from .training.results import report_group
    from .training.start import require_idle
    from .utils.ray_cluster import cluster, require_ray

    require_ray()
    from .training.on_ray import train_on_ray

    if not folder.exists():
        open_training_data(group.run(group.seeds[0]), cache=options.cache)  # raises before there is a folder
    create_group(folder, group)
    seeds = [seed for seed in group.seeds if not is_finished(seed_folder(folder, seed))]
    require_idle([run for seed in seeds if (run := seed_folder(folder, seed)).is_dir()])
    failed = {}
    runs = [(folder.resolve(), seed) for seed in seeds]
    with cluster(options.ray, log=True):
        for _, seed, why in train_on_ray(runs, _speed(options), options.device, options.threads, options.tensorboard):
            print(f"seed {seed}: {printable(why) or 'finished'}", flush=True)
            if why:
                failed[seed] = why
    if failed:
        seed, why = next(iter(failed.items()))
        raise UserError(f"{len(failed)} of {len(group.seeds)} seeds of {folder} are not finished; seed {seed}: {why}")
    report_group(folder)
    print(f"group folder: {printable(folder)}")


def _speed(options):
    from .training.start import Speed

    return Speed(options.compile, options.precision, options.impl, options.cache)


def _stopped(folder, options):
    from .utils import distributed

    again = f"{distributed.command('fastsquid.train')} --resume {printable(shlex.quote(str(folder)))}{_again(options)}"
    print(f"\nstopped; continue with: {again}")
    return 130


def _again(options):
    """Return the options that were given and hold for a resumed run too, as they are written behind --resume."""
    given = [f" --only {options.only}"] * (options.only is not None) + [" --tensorboard"] * options.tensorboard
    defaults = parser()
    for name in SPEED:
        value = getattr(options, name[2:])
        if value != defaults.get_default(name[2:]):
            given.append(f" {name} {printable(shlex.quote(str(value)))}")
    return "".join(given)


def _free_folder(name):
    number = 0
    while (folder := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return folder


def parser() -> Parser:
    """Return the command's argument parser."""
    parser = Parser(torchrun=True, prog="python -m fastsquid.train", description="Train a detector on normal images.")
    parser.add_argument(
        "--data",
        help="folder of images, public data set, list of images (.csv, .jsonl, .parquet), WebDataset shards, or MNIST "
        "files; default: scikit-learn's digits",
    )
    parser.add_argument(
        "--preset",
        help=f"{', '.join(PRESETS)}; default: fastsquid on a GPU, fastsquid-small on a CPU, digits without --data",
    )
    parser.add_argument("--out", help="run or group folder to make; default: the next free runs/PRESET-N")
    parser.add_argument("--resume", metavar="RUN", help="continue an interrupted run or group with its own settings")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="JSON or YAML file with fields of the configuration; a run's config.json repeats that run",
    )
    parser.add_argument("--seed", type=seed_option, help="seed of weights, order and augmentation; default: 0")
    parser.add_argument(
        "--seeds",
        type=seed_option,
        nargs="+",
        metavar="SEED",
        help="train one run per seed, in sequence, and summarize them: a group",
    )
    parser.add_argument(
        "--only",
        type=seed_option,
        metavar="SEED",
        help="train only this seed of the group, while other processes train the others; --resume GROUP then "
        "summarizes them",
    )
    parser.add_argument(
        "--init",
        metavar="RUN",
        help="begin with the weights of this run's best checkpoint, or of its last where it has no best; its data and "
        "configuration are then the default of --data, --preset and every field; zhanglab, a shipped model, "
        "needs --data",
    )
    add_all_normal_option(parser)
    add_protocol_option(parser)
    add_reading_options(parser)
    parser.add_argument(
        "--tensorboard", action="store_true", help="write losses and validation for TensorBoard into the run folder"
    )
    add_training_options(parser)
    often = parser.add_argument_group("configuration, most used", "each changes a field of the preset")
    others = parser.add_argument_group("configuration, other fields")
    squid, ours = preset("squid"), preset("fastsquid")
    for f in sorted(_fields(), key=lambda f: _OFTEN.index(f.name) if f.name in _OFTEN else len(_OFTEN)):
        names = dict.fromkeys([f"--{f.name.replace('_', '-')}", f"--{f.name}"])
        field_type: Any = f.type
        choices = get_args(field_type)
        kind: Any = type(choices[0]) if choices else {bool: _boolean}.get(field_type, field_type)
        (often if f.name in _OFTEN else others).add_argument(
            *names,
            dest=f.name,
            default=argparse.SUPPRESS,
            type=kind,
            help=f"{f.metadata['help']} ({_defaults(getattr(squid, f.name), getattr(ours, f.name))})",
            metavar="|".join(map(str, choices)) or field_type.__name__.upper(),
        )
    return parser


def _parse(arguments: list[str] | None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the options, and a dict of the configuration fields among them."""
    options = parser().parse_args(arguments)
    changes = {f.name: getattr(options, f.name) for f in _fields() if hasattr(options, f.name)}
    if options.only is not None and options.seeds is None and options.resume is None:
        raise UserError("--only is a seed of a group: give the group by --seeds or --resume")
    if options.seeds is not None:
        if options.seed is not None:
            raise UserError("--seed and --seeds are both given: use --seed for one run, --seeds for a group of runs")
        reject_repeated(options.seeds)
    if options.ray is not None:
        require_any_machine(options.device)
        if options.seeds is None and options.resume is None or options.only is not None:
            raise UserError("--ray trains all seeds of a group: give the group by --seeds or --resume, without --only")
        if options.data and not (options.preset or options.config or options.init):
            raise UserError("--ray needs --preset: the default depends on the device, which is the cluster's")
    if options.resume is not None:
        given = sys.argv[1:] if arguments is None else arguments
        allowed = ("--resume", "--only", "--tensorboard", "--ray", *SPEED)
        for argument in given:
            if argument.startswith("--") and argument.split("=")[0] not in allowed:
                raise UserError(
                    f"{argument.split('=')[0]} cannot be changed in a resumed run, which keeps its settings "
                    f"(only {', '.join(allowed[1:])} may be given)"
                )
    return options, changes


def _defaults(*values: object) -> str:
    """Return the values of a field in the presets of the paper and of ours, as a part of its help."""
    squid, ours = (str(value).lower() if isinstance(value, bool) else f"{value}" for value in values)
    return f"default: {squid}" if squid == ours else f"default: {squid} of squid; fastsquid: {ours}"


def _fields() -> "list[dataclasses.Field[Any]]":
    """Return the configuration's fields that are options."""
    return [f for f in dataclasses.fields(Config) if f.name != "preset"]


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} should be true or false")
    return text.lower() == "true"


if __name__ == "__main__":
    run_command(main)
