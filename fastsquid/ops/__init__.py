"""The operations of the method: one public function each, with its plain PyTorch definition in `reference`."""

from .memory_read import memory_read
from .neighbor_attention import neighbor_attention

__all__ = ["memory_read", "neighbor_attention"]
