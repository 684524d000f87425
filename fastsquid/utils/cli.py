"""What all commands share: options, the log on the console, and errors of one line with exit code 2."""

import argparse
import difflib
import errno
import gc
import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import takewhile
from types import FrameType, ModuleType
from typing import Any, NoReturn

from ..errors import UserError
from .allocator import keep_freed_memory
from .text import printable
from .threads import let_idle_threads_sleep, set_threads

# The required packages, as setup.py has them, by their modules.
REQUIRED = {
    **{name: name for name in "torch numpy scipy threadpoolctl einops matplotlib safetensors tqdm".split()},
    "sklearn": "scikit-learn",
    "PIL": "pillow",
}
# Usual names of options in other programs, too far from ours for difflib.
_USUAL = {"--learning-rate": "--lr", "--gpu": "--device", "--cuda": "--device", "--size": "--image-size"}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Formatter(argparse.HelpFormatter):
    """Print short help.

    The usage line names only what is required. Each option has one name. Numbers are called INT or FLOAT.
    """

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
        """Name positionals and required options only."""
        self._prog += " [option ...]"
        super().add_usage(usage, [action for action in actions if action.required], [], prefix)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        names = ", ".join(name for name in action.option_strings if "_" not in name)
        taken = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{names} {taken}".rstrip()

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return action.type.__name__.upper() if action.type in (int, float) else action.dest.upper()


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error as one line, and names the option nearest to an unknown one.

    Args:
        torchrun: whether the command may run in several processes.
        options: as `argparse.ArgumentParser` takes them.
    """

    def __init__(self, torchrun: bool = False, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **options)
        self.torchrun = torchrun

    def error(self, message: str) -> NoReturn:
        """Raise a UserError with this message."""
        raise UserError(message)

    def group(self, title: str) -> Any:
        """Return the group of options with this title, which is made when it is first asked for.

        Groups appear in the help after the command's own options, in the order in which they were made.
        """
        for group in self._action_groups:
            if group.title == title:
                return group
        return self.add_argument_group(title)

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse arguments as `ArgumentParser.parse_args` does, show the library's log, and set the number of threads.

        Raises:
            UserError: an argument is unknown, invalid or empty, or torchrun has started a command for one process.
        """
        _show_log()
        if _in_torchrun() and not self.torchrun:
            raise UserError(
                "torchrun starts several processes, but only fastsquid.train uses them: start this command with python"
            )
        parsed, unknown = self.parse_known_args(args, namespace or argparse.Namespace())
        if unknown:
            name = unknown[0].split("=")[0]
            meant = self._meant(name, sys.argv[1:] if args is None else args)
            raise UserError(
                f"unknown argument {name}" + (f": did you mean {meant}?" if meant else f"; see {self.prog} --help")
            )
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            # An empty value is usually a shell variable that is not set. Without this, most options would ignore it.
            if "" in (value if isinstance(value, list) else [value]) and action.const != "":
                name = max(action.option_strings, key=len, default=str(action.metavar or action.dest.upper()))
                raise UserError(f"{name} is empty: give a value{', or leave it out' * (not action.required)}")
        if "threads" in parsed:
            set_threads(parsed.threads)  # imports PyTorch
        return parsed

    def _meant(self, name: str, given: Sequence[str]) -> str | None:
        """Return the option, or option and values, that an unknown argument may stand for.

        Args:
            name: of the argument, or a value that no option takes.
            given: all arguments.
        """
        known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        if not name.startswith("-"):  # one of several values of an option that takes one, such as --seed 0 1
            for option, plural in ((option, f"{option}s") for option in given if f"{option}s" in known):
                values = list(takewhile(lambda word: word[:1] != "-", given[given.index(option) + 1 :]))
                if name in values[1:]:
                    return " ".join([plural, *values])
        usual = _USUAL.get(name.replace("_", "-"))
        near = [usual] if usual in known else difflib.get_close_matches(name, known, 1)
        return near[0] if near else None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Name the choice nearest to one that does not exist."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            if near := difflib.get_close_matches(str(value).lower(), map(str, action.choices or ()), 1):
                error.message += f": did you mean {near[0]}?"
            raise


class _Console(logging.Handler):
    """Show the library's log on the console: progress on standard output, warnings on standard error.

    Only the first process of a job shows it. A progress bar is not disturbed.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message to the console."""
        from tqdm import tqdm

        job = _job()
        if job and not job.leads():
            return
        text = record.getMessage()
        if record.levelno < logging.WARNING:  # a table has several lines
            tqdm.write("\n".join(map(printable, text.split("\n"))))
            sys.stdout.flush()
        else:
            tqdm.write(f"warning: {printable(text)}", file=sys.stderr)


def join_job() -> None:
    """Join the job of torchrun, if torchrun has started this process as one of several.

    A command for several processes calls this before it parses options, so that only one process reports an error.
    """
    if _in_torchrun():
        from . import distributed

        distributed.start()


def _in_torchrun() -> bool:
    """Return whether torchrun has started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def _job() -> ModuleType | None:
    """Return the module `distributed`, or None if nothing has imported it: then there is no job, and no PyTorch."""
    return sys.modules.get("fastsquid.utils.distributed")


def _user_errors() -> tuple[type[Exception], ...]:
    """Return the classes of errors that are printed as one line."""
    dispatch = sys.modules.get("fastsquid.ops.dispatch")
    return (UserError, dispatch.ImplementationError) if dispatch else (UserError,)


def _show_log() -> None:
    logger = logging.getLogger("fastsquid")
    if not any(isinstance(handler, _Console) for handler in logger.handlers):
        logger.addHandler(_Console())
        logger.setLevel(logging.INFO)


def add_device_options(parser: Parser) -> None:
    """Add --device, --threads and --impl."""
    group = parser.group("device and speed")
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; default: auto, a GPU if there is one")
    add_threads_option(parser)
    group.add_argument(
        "--impl",
        default="auto",
        choices=["auto", "triton", "torch"],
        help="implementation of memory read and neighbor attention; default: auto, Triton where it can run",
    )


def add_threads_option(parser: Parser) -> None:
    """Add --threads."""
    parser.group("device and speed").add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="CPU threads of PyTorch; default: OMP_NUM_THREADS, or the cores that the process may use",
    )


def positive(text: str) -> int:
    """Return a whole number of at least 1 from the text of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number, at least 1")
    return int(text)


def add_ray_option(parser: Parser, what: str) -> None:
    """Add --ray: None without it, "" without an address."""
    parser.group("cluster").add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help=f"{what}; without ADDRESS the one that RAY_ADDRESS or `ray start` names, else one that is started on this "
        "machine",
    )


def add_run_options(parser: Parser, data: str) -> None:
    """Add RUN and the options that choose its detector, the data and the device.

    Args:
        parser: of the command.
        data: what --data is, for its help text.
    """
    add_run(parser)
    parser.add_argument("--data", help=f"{data}; default: what the run was trained with")
    parser.add_argument(
        "--checkpoint", choices=["best", "last"], help="which checkpoint; default: the run's best, if it has one"
    )
    add_reading_options(parser)
    add_cache_option(parser)
    add_device_options(parser)


def add_run(parser: Parser) -> None:
    """Add the positional argument RUN, a run or a group."""
    parser.add_argument(
        "run",
        metavar="RUN",
        help="run folder from fastsquid.train or fastsquid.convert; group folder, whose runs form an ensemble; or the "
        "name of a shipped model: zhanglab",
    )


def add_reading_options(parser: Parser) -> None:
    """Add --skip-unreadable, --anonymous, --accept-body and --accept-view, for reading a folder of images."""
    parser.group("reading images").add_argument(
        "--skip-unreadable", action="store_true", help="skip images that cannot be read, and count them"
    )
    add_anonymous_option(parser)
    add_accept_options(parser)


def add_cache_option(parser: Parser) -> None:
    """Add --cache, for reading the same images again and again."""
    parser.group("reading images").add_argument(
        "--cache",
        metavar="FOLDER",
        help="keep decoded images in this folder, find them there the next time, and map them instead of holding them "
        "in memory; default: decode all images and hold them in memory",
    )


def add_accept_options(parser: Parser) -> None:
    """Add --accept-body and --accept-view, as `Accept.from_options` takes them."""
    for name, what in (
        ("body", "also read DICOM files with this BodyPartExamined, such as TRUNK"),
        ("view", "also read DICOM files of this view, such as lateral, or with this ViewPosition, such as LL"),
    ):
        parser.group("reading images").add_argument(
            f"--accept-{name}",
            metavar="WORD",
            action="append",
            help=f"{what}; may be repeated; what a run was trained with is always read",
        )


def add_anonymous_option(parser: Parser) -> None:
    """Add --anonymous."""
    parser.group("reading images").add_argument(
        "--anonymous",
        action="store_true",
        help="name images by a hash of their files, not by their paths; always on for a run trained with it",
    )


def add_overwrite_option(parser: Parser) -> None:
    """Add --overwrite, as `files.require_new` takes it."""
    parser.add_argument("--overwrite", action="store_true", help="replace output that exists already")


def add_protocol_option(parser: Parser) -> None:
    """Add --protocol, for splitting data as a publication did."""
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        help="split --data as a publication did: squid-zhanglab, squid-chexpert, simsid-covidx or medianomaly-rsna; "
        "default: the split of the data itself",
    )


def add_all_normal_option(parser: Parser) -> None:
    """Add --all-normal."""
    parser.group("reading images").add_argument(
        "--all-normal",
        action="store_true",
        help="every image of a plain folder, or of shards without classes, is healthy, although label files or class "
        "folders lie there",
    )


def add_training_options(parser: Parser) -> None:
    """Add --cache, --ray, and the options of device and speed."""
    add_cache_option(parser)
    add_device_options(parser)
    add_ray_option(parser, "train the seeds at the same time, as tasks of a Ray cluster")
    group = parser.group("device and speed")
    group.add_argument(
        "--compile",
        default="auto",
        choices=["auto", "on", "off"],
        help="torch.compile for both networks, and CUDA graphs of whole steps in a single process. The first step then "
        "takes minutes, unless PyTorch's cache holds the compilations of an earlier run; default: auto, on a GPU",
    )
    group.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "fp32", "bf16"],
        help="precision of convolutions and projections in training; default: auto, bf16 on a GPU or CPU that "
        "multiplies it natively",
    )


def require_any_machine(device: str) -> None:
    """Check --device of a command with --ray.

    Raises:
        UserError: it names a device of one machine.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device} is of one machine: with --ray give auto, cpu or cuda")


def seed_option(text: str) -> int:
    """Return the seed that an option's text stands for.

    Raises:
        argparse.ArgumentTypeError: the text is not a whole number from 0 to 2**64 - 1.
    """
    if not text.isdecimal() or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number from 0 to 2**64 - 1")
    return int(text)


def reject_repeated(seeds: list[int]) -> None:
    """Check the seeds of --seeds.

    Raises:
        UserError: a seed is given twice.
    """
    for number in seeds:
        if seeds.count(number) > 1:
            raise UserError(f"--seeds has {number} more than once: give each seed once")


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command and exit. Bad input is reported in one line, with exit code 2.

    Ctrl-C and SIGTERM are too, with exit codes 130 and 143; what is half-written is removed.

    Args:
        main: of the command; it returns an exit code, or None for 0.
    """
    pressed: list[int] = []
    process = os.getpid()

    def note(number: int, frame: FrameType | None) -> NoReturn:
        if os.getpid() != process:  # a fork of this process, which somebody ends
            os._exit(128 + number)
        pressed.append(number)
        raise KeyboardInterrupt

    _open_streams()
    handler, terminated = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    if terminated == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, note)
    # Not if a shell has started this in the background: then it is SIG_IGN.
    if handler in (signal.default_int_handler, signal.SIG_DFL):
        signal.signal(signal.SIGINT, note)
    _print_anything()
    try:
        # Importing PyTorch makes very many objects and no garbage. By default they are searched for it again and again.
        gc.set_threshold(100_000)
        let_idle_threads_sleep()
        keep_freed_memory()
        code = main() or 0
        sys.stdout.flush()  # the reader of buffered output may have ended
    except _user_errors() as error:
        code = _fail(str(error))
    except BrokenPipeError:  # the reader of our output has ended; files are written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in _FULL:
            code = _fail(f"{where}the disk is full ({error.strerror}); what was written before is intact")
        elif error.filename:
            code = _fail(f"{where}{error.strerror}")
        else:
            raise
    except BaseException as error:
        # While modules are imported, Ctrl-C may come out as any other error.
        interrupted = pressed or isinstance(error, KeyboardInterrupt)
        if isinstance(error, ModuleNotFoundError) and error.name in REQUIRED and not interrupted:
            code = _fail(
                f"the package {REQUIRED[error.name]} is not installed for this Python ({sys.executable}): activate the "
                f"environment that has it, or pip install {REQUIRED[error.name]}"
            )
        elif isinstance(error, SystemExit) or not interrupted:
            raise
        else:
            code = _fail("interrupted", 128 + pressed[-1] if pressed else 130)
    finally:
        signal.signal(signal.SIGINT, handler)
        if terminated == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stop_compile_workers()
    sys.exit(code)


def _open_streams() -> None:
    """Give standard output and error that are closed, as in a daemon, a place that drops what is printed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # to the end of the process


def _print_anything() -> None:
    """Escape what the encoding of the console or pipe does not have, such as cp1252 on Windows, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def stop_compile_workers(seconds: float = 5.0) -> None:
    """End the worker processes of torch.compile, if there are any.

    PyTorch before 2.13 may wait five minutes for them when the process exits.

    Args:
        seconds: to wait for each worker, before it is killed.

    Source: https://github.com/pytorch/pytorch/issues/162199
    """
    compiler = sys.modules.get("torch._inductor.async_compile")
    if compiler is None or not hasattr(compiler, "_pool_set"):
        return
    for pool in compiler._pool_set:
        if (process := getattr(pool, "process", None)) is not None:
            process.wait = _waiting_at_most(process, seconds)
    compiler.shutdown_compile_workers()


def _waiting_at_most(process: subprocess.Popen, seconds: float) -> Callable[..., int]:
    """Return a `wait` for a subprocess that kills it after so many seconds, whatever timeout it is given."""
    wait = process.wait

    def wait_or_kill(timeout=None):
        try:
            return wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return wait()

    return wait_or_kill


def _fail(message: str, code: int = 2) -> int:
    """Report an error and return the exit code."""
    job = _job()
    if job is None or job.first_to_fail():
        print(f"error: {printable(message)}", file=sys.stderr)
    return code
