"""fastsquid: finds what does not belong in a chest X-ray after seeing healthy ones only (SQUID and SimSID)."""

from .memory import SpaceAwareMemory, SpaceAwareMemory2d

__version__ = "0.1.0"
__all__ = ["SpaceAwareMemory", "SpaceAwareMemory2d"]
