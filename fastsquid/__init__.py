"""fastsquid finds what does not belong in a chest X-ray after training on healthy ones only (SQUID and SimSID)."""

import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import load as load
    from .estimator import AnomalyDetector as AnomalyDetector
    from .model.memory import SpaceAwareMemory as SpaceAwareMemory
    from .model.memory import SpaceAwareMemory2d as SpaceAwareMemory2d

__version__ = "0.1.0"
__all__ = ["AnomalyDetector", "SpaceAwareMemory", "SpaceAwareMemory2d", "load"]
_MODULES = {
    "AnomalyDetector": "estimator",
    "SpaceAwareMemory": "model.memory",
    "SpaceAwareMemory2d": "model.memory",
    "load": "api",
}


# While `python -m fastsquid.NAME` imports its modules, Ctrl-C ends it without a traceback. `utils.cli.run_command` then
# takes over. argv[0] is "-m" only while Python looks for the module, so an import into another program changes nothing.
_STARTS = sys.argv[:1] == ["-m"] and any(
    flag == "-m" and name.split(".")[0] == __name__ for flag, name in zip(sys.orig_argv, sys.orig_argv[1:])
)
if _STARTS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def __getattr__(name: str) -> Any:
    # Imported on first use: the drop-in modules need neither Pillow nor scikit-learn, and --help needs no PyTorch.
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
