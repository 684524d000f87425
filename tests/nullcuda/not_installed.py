"""CHECKOUT: the memory on a GPU where fastsquid.kernels cannot be imported; `auto` falls back with a warning."""

import logging
import sys

sys.path.insert(0, sys.argv[1])
# Forget the installation that put fastsquid.kernels in place.
sys.meta_path = [finder for finder in sys.meta_path if "Editable" not in getattr(finder, "__name__", "")]
import torch  # noqa: E402

from fastsquid import SpaceAwareMemory  # noqa: E402
from fastsquid.ops.dispatch import ImplementationError  # noqa: E402

x = torch.zeros(2, 3, 8, device="cuda")
logging.basicConfig(stream=sys.stdout, format="%(message)s")
assert SpaceAwareMemory(3, 10, 8, shrinkage="none").to("cuda")(x).shape == x.shape
try:
    SpaceAwareMemory(3, 10, 8, impl="triton").to("cuda")(x)
except ImplementationError as error:
    print(error)
