"""fastsquid: finds what does not belong in a chest X-ray after seeing healthy ones only (SQUID and SimSID)."""

from .model.memory import SpaceAwareMemory, SpaceAwareMemory2d

__version__ = "0.1.0"
__all__ = ["AnomalyDetector", "SpaceAwareMemory", "SpaceAwareMemory2d", "load"]


def __getattr__(name):
    # Imported when they are asked for: the drop-in modules need neither Pillow nor scikit-learn.
    if name == "load":
        from .api import load

        return load
    if name == "AnomalyDetector":
        from .estimator import AnomalyDetector

        return AnomalyDetector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
