"""COMMAND ARGUMENT...: a command of fastsquid, such as `train --preset simsid`."""

import importlib
import sys

import stand_in  # noqa: F401

from fastsquid.utils.cli import run_command

run_command(lambda: importlib.import_module(f"fastsquid.{sys.argv[1]}").main(sys.argv[2:]))
