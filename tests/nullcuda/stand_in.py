"""Imported first by every script here: replaces the few checks of values that garbage does not pass."""

import torch

from fastsquid.ops import reference
from fastsquid.training import epoch, loop

_init = torch.optim.Adam.__init__


def _adam(self, params, lr=1e-3, **options):
    """Adam compares its learning rate with 0, which on the device is a tensor."""
    _init(self, params, lr=1e-4, **options)
    for group in self.param_groups:
        group["lr"] = lr


torch.optim.Adam.__init__ = _adam
# Losses and scores are garbage, finite or not.
epoch.Steps.broken = lambda self: None
loop.require_finite = lambda detector, images: None
# A gather by indices that are garbage reads anywhere.
reference.largest = lambda scores, k: scores > 0
reference._above = lambda probabilities, k: probabilities > 0
torch.Tensor.topk = lambda self, k, dim=-1: torch.return_types.topk(
    (self.narrow(dim, 0, k).clone(), torch.zeros_like(self.narrow(dim, 0, k), dtype=torch.int64))
)


def without_compiling():
    """Take torch.compile out: a step is then captured within a second."""
    torch.compile = lambda network, **options: network
