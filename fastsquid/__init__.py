"""fastsquid: finds what does not belong in a chest X-ray after seeing healthy ones only (SQUID and SimSID)."""

from .memory import SpaceAwareMemory, SpaceAwareMemory2d

__version__ = "0.1.0"
__all__ = ["SpaceAwareMemory", "SpaceAwareMemory2d", "load"]


def __getattr__(name):
    if name == "load":  # imported when it is asked for: the drop-in modules need neither Pillow nor scikit-learn
        from .scorer import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
