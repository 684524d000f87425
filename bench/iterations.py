"""Two training iterations and an epoch in every order of work, and the check that their losses agree.

`published` is the published order of work in eager PyTorch (`baselines`), `torch`, `torch-bf16` and `triton` ours, not
compiled.
`compile` and `compile-bf16` are what the training command runs on a GPU: compiled networks, every step one CUDA graph.
"""

import dataclasses

import baselines
import torch
from cases import SMALLEST_MODEL
from operations import require_close

from fastsquid.config import preset
from fastsquid.data import Split
from fastsquid.model.detector import Detector
from fastsquid.training.epoch import Steps
from fastsquid.training.trainer import Trainer

CASES = {
    "smallest": (SMALLEST_MODEL, 2),
    "squid": (preset("squid", selection="published"), 16),
    "simsid": (preset("simsid", selection="published"), 16),
}
EXACT, ROUNDED = 1e-9, 0.01  # how far losses may be apart, of the largest, in float64 and in float32
EPOCH, VALIDATION = 1241, 200  # ZhangLab's normal training images, and the validation split


class Training:
    """One order of work on images (N, 1, S, S), uint8, on the device.

    Args:
        name: `published`, `torch`, `torch-bf16`, `triton`, `compile` or `compile-bf16`.
        batch: images per step.
    """

    def __init__(self, name, config, device, images, batch):
        self.name, self.config, self.images, self.batch = name, config, images, batch
        self.trainer = trainer_of(name, config, device)
        self.floats = images[:batch] / 255
        self.rows = torch.arange(batch, device=device)
        self.steps = None if name == "published" else Steps(self.trainer, images)

    def cycle(self):
        """As many iterations as the cycle has, on the first batch; in eager mode without augmentation."""
        for i in range(self.config.generator_every):
            if self.name.startswith("compile"):
                self.steps.run(self.rows, i, i)
            else:
                self.trainer.step(self.floats, i)

    def epoch(self):
        """Every image once, in a fixed random order."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(0))
        for i, rows in enumerate(order.to(self.images.device).split(self.batch)):
            if self.name == "published":
                self.trainer.step(self.images[rows] / 255, i)
            else:
                self.steps.run(rows, i, i)


def images_of(count, config, device):
    """Random uint8 images (count, 1, S, S)."""
    generator = torch.Generator().manual_seed(0)
    shape = count, 1, config.image_size, config.image_size
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(device)


def random_data(config, images, validation):
    """Random images as `open_data` gives them: splits `train` and `val`, of which every other one is abnormal."""
    names = [str(i) for i in range(max(images, validation))]
    return {
        "train": Split(images_of(images, config, "cpu"), None, names[:images]),
        "val": Split(images_of(validation, config, "cpu"), torch.arange(validation) % 2, names[:validation]),
    }


def trainer_of(name, config, device, dtype=torch.float32):
    """The trainer of an order of work; all of them begin with the same weights."""
    torch.manual_seed(0)
    if name == "published":
        return baselines.Trainer(Detector(config, "torch").to(device, dtype).train())
    impl = name.removesuffix("-bf16") if name.startswith(("torch", "triton")) else "auto"
    precision = "bf16" if name.endswith("bf16") else "fp32"
    return Trainer(Detector(config, impl).to(device, dtype).train(), name.startswith("compile"), precision)


def require_equal_losses(names, config, device, images):
    """Losses of one iteration, without augmentation and without the masked shortcut, whose random numbers each order of
    work draws in its own order. A queue counts as full, as the published one does.

    They are compared in float64, and roughly in the types that are timed, with float32 products. There, rounding
    decides which of two slots is read that nearly tie: the losses of `simsid` were 0.25 % apart on an H200. In float64
    they agree to 15 digits on a CPU.

    The learning rate is next to nothing: Adam's first step moves a weight by it whatever the size of the gradient, so
    the rounding of a gradient near zero would decide where, and the generator's losses would show it.
    """
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    checks = [(name, torch.float64, EXACT) for name in names if "bf16" not in name]
    checks += [(name, torch.float32, 0.05 if "bf16" in name else ROUNDED) for name in names]
    expected = None
    for name, dtype, agree in checks:
        trainer = trainer_of(name, dataclasses.replace(config, shortcut=1.0, lr=1e-12, lr_final=1e-12), device, dtype)
        memory = trainer.detector.generator.inpaint.memory
        if memory.kind == "queue":
            draw = torch.Generator(device).manual_seed(1)
            memory.bank.copy_(torch.empty_like(memory.bank, dtype=torch.float32).normal_(0, 0.1, generator=draw))
            memory.filled.fill_(memory.num_slots)
        losses = trainer.step(images.to(dtype) / 255, 0)
        found = [torch.as_tensor(losses[key], dtype=torch.float64).cpu() for key in sorted(losses)]
        expected = expected or found
        require_close(f"{name} in {dtype}", found, expected, agree)
    torch.backends.cudnn.allow_tf32 = tf32
