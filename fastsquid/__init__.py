"""fastsquid finds what does not belong in a chest X-ray after training on healthy ones only (SQUID and SimSID)."""

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


def __getattr__(name: str) -> Any:
    # Imported on first use: the drop-in modules need neither Pillow nor scikit-learn, and --help needs no PyTorch.
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
