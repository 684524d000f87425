"""The running mean of the discriminator's weights."""

import copy

import torch


class Average:
    """A detector whose discriminator is the running mean of another's, which swings from step to step.

    The mean begins with the untrained discriminator, of which decay^n is left after n updates. The generator is the
    other's as of the latest update: averaged weights that still change fast would need BatchNorm statistics of their
    own, and draw nothing with averaged ones.

    Args:
        detector: a `Detector`, whose discriminator is the first mean.
        decay: part of the mean that an update keeps, in [0, 1).
        prefix: of the names of the tensors that are averaged.

    Source: ours, after Polyak and Juditsky's averaging of iterates, 1992.
    """

    def __init__(self, detector, decay, prefix="discriminator."):
        self.detector, self.decay = copy.deepcopy(detector).requires_grad_(False), decay
        mine, theirs = self.detector.state_dict(), detector.state_dict()
        # Spectral norm's vectors have length 1, which a mean of them has not.
        averaged = [
            name
            for name, tensor in theirs.items()
            if name.startswith(prefix) and tensor.is_floating_point() and not name.endswith(("_u", "_v"))
        ]
        # Training writes every tensor in place, so that these lists hold for the whole run.
        self.averaged = [mine[name] for name in averaged], [theirs[name] for name in averaged]
        copied = {}  # by dtype, as foreach wants them
        for name, tensor in theirs.items():
            if name not in averaged:
                to, source = copied.setdefault(tensor.dtype, ([], []))
                to.append(mine[name])
                source.append(tensor)
        self.copied = list(copied.values())

    @torch.no_grad()
    def update(self):
        """Move one step nearer to the weights of the averaged detector as they are now."""
        torch._foreach_lerp_(*self.averaged, 1 - self.decay)
        for mine, theirs in self.copied:
            torch._foreach_copy_(mine, theirs)
