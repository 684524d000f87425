"""What all commands share: one-line errors with exit code 2, options, the device."""

import argparse
import difflib
import errno
import logging
import os
import subprocess
import sys

from ..errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence, with the nearest name for an unknown option."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message):
        raise UserError(message)

    def parse_args(self, args=None, namespace=None):
        """As `ArgumentParser.parse_args`; from here on the library's log is shown."""
        _show_log()
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            name = unknown[0].split("=")[0]
            known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
            near = difflib.get_close_matches(name, known, 1)
            raise UserError(
                f"unknown argument {name}" + (f": did you mean {near[0]}?" if near else f"; see {self.prog} --help")
            )
        return namespace


class _Console(logging.Handler):
    """Show the library's log on the console: progress on standard output, warnings on standard error.

    Only the first process of a job shows it. A progress bar is not disturbed.
    """

    def emit(self, record):
        from tqdm import tqdm

        job = _job()
        if job and not job.leads():
            return
        text = record.getMessage()
        if record.levelno < logging.WARNING:
            tqdm.write(text)
            sys.stdout.flush()
        else:
            tqdm.write(f"warning: {text}", file=sys.stderr)


def join_job() -> None:
    """Join the job of torchrun, if torchrun has started this process.

    Commands for several processes call this before they parse options, so that only one process reports an error.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from . import distributed

        distributed.start()


def _job():
    """Return the module `distributed`, or None if nothing has imported it: then there is no job, and no PyTorch."""
    return sys.modules.get("fastsquid.utils.distributed")


def _user_errors():
    """Return the classes of errors that are printed as one line."""
    dispatch = sys.modules.get("fastsquid.ops.dispatch")
    return (UserError, dispatch.ImplementationError) if dispatch else UserError


def _show_log():
    logger = logging.getLogger("fastsquid")
    if not any(isinstance(handler, _Console) for handler in logger.handlers):
        logger.addHandler(_Console())
        logger.setLevel(logging.INFO)


def add_device_options(parser):
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; default: auto, a GPU if there is one")
    parser.add_argument(
        "--impl",
        default="auto",
        choices=["auto", "triton", "torch"],
        help="implementation of memory read and neighbor attention; auto: Triton where it can run",
    )


def add_run_options(parser, data):
    """A run, and which of its detectors and what data it is looked at with; `data` says what --data is to be."""
    add_run(parser)
    parser.add_argument("--data", help=f"{data}; default: what the run was trained with")
    parser.add_argument(
        "--checkpoint", choices=["best", "last"], help="which detector; default: the run's best, where it has one"
    )
    add_reading_options(parser)
    add_device_options(parser)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument RUN, of a command that also takes a group."""
    parser.add_argument(
        "run",
        metavar="RUN",
        help="run folder that fastsquid.train or fastsquid.convert wrote, or group folder, an ensemble of its runs",
    )


def add_reading_options(parser):
    """How a folder of images is read."""
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave out images that cannot be read, and count them"
    )
    add_anonymous_option(parser)


def add_anonymous_option(parser):
    parser.add_argument(
        "--anonymous",
        action="store_true",
        help="call images by a hash of their files, not by their paths; a run that was trained so stays so",
    )


def add_training_options(parser):
    """How a run is trained, which changes no more than rounding and speed."""
    parser.add_argument(
        "--compile",
        default="auto",
        choices=["auto", "on", "off"],
        help="torch.compile for both networks, and CUDA graphs of whole steps; auto: on a GPU. The first step then "
        "takes minutes, unless an earlier run left its compilations in PyTorch's cache",
    )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "fp32", "bf16"],
        help="of convolutions and projections in training; auto: bf16 on a GPU that has it",
    )
    add_device_options(parser)


def seed_option(text):
    """The whole number that an option's text stands for."""
    if not text.isdecimal() or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number from 0 to 2**64 - 1")
    return int(text)


def refuse_repeated(seeds):
    """Raises UserError if a seed of --seeds is given twice."""
    for number in seeds:
        if seeds.count(number) > 1:
            raise UserError(f"--seeds has {number} more than once: give each seed once")


def run_command(main):
    """Runs a command's main(); it returns an exit code or None. Bad input ends in one line and exit code 2."""
    try:
        code = main() or 0
        sys.stdout.flush()  # what is buffered may find its reader gone, too
    except _user_errors() as error:
        code = _fail(str(error))
    except BrokenPipeError:  # the reader of our output has gone; what goes into files is written
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
    except KeyboardInterrupt:
        code = _fail("interrupted", 130)
    stop_compile_workers()
    if job := _job():
        job.finish()
    sys.exit(code)


def stop_compile_workers(seconds: float = 5.0) -> None:
    """End the worker processes of torch.compile, if there are any, within so many seconds.

    PyTorch before 2.13 may wait five minutes for them when the process exits.

    Source: https://github.com/pytorch/pytorch/issues/162199
    """
    compiler = sys.modules.get("torch._inductor.async_compile")
    if not hasattr(compiler, "_pool_set"):
        return
    for pool in compiler._pool_set:
        if (process := getattr(pool, "process", None)) is not None:
            process.wait = _waiting_at_most(process, seconds)
    compiler.shutdown_compile_workers()


def _waiting_at_most(process, seconds):
    """A `wait` for a subprocess that kills it when the time is up, whatever timeout it is given."""
    wait = process.wait

    def wait_or_kill(timeout=None):
        try:
            return wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return wait()

    return wait_or_kill


def _fail(message, code=2):
    job = _job()
    if job is None or job.first_to_fail():
        print(f"error: {message}", file=sys.stderr)
    return code
