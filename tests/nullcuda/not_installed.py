"""CHECKOUT: the memory on a GPU where fastsquid.kernels cannot be imported; `auto` falls back with a warning."""

import sys
import warnings

sys.path.insert(0, sys.argv[1])
# Forget the installation that put fastsquid.kernels in place.
sys.meta_path = [finder for finder in sys.meta_path if "Editable" not in getattr(finder, "__name__", "")]
import torch  # noqa: E402

from fastsquid import SpaceAwareMemory  # noqa: E402
from fastsquid.ops.dispatch import ImplementationError  # noqa: E402

x = torch.zeros(2, 3, 8, device="cuda")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert SpaceAwareMemory(3, 10, 8, shrinkage="none").to("cuda")(x).shape == x.shape
print(*(str(warning.message) for warning in caught), sep="\n")
try:
    SpaceAwareMemory(3, 10, 8, impl="triton").to("cuda")(x)
except ImplementationError as error:
    print(error)
