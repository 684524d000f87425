"""What training says before it begins: data, settings and device."""

from collections import Counter

import torch

from ..config import PRESETS, Config
from ..data.split import Split
from ..utils.devices import device_name
from ..utils.text import printable


def describe_data(path: str | None, data: dict[str, Split]) -> str:
    """Return the images of every split for people, one line per split, and a line if no AUC can be measured.

    Args:
        path: of the data, or None for DigitAnatomy.
        data: splits by name.
    """
    lines = [f"data: {printable(path or 'DigitAnatomy, made from the digits of scikit-learn')}"]
    lines += [f"  {name:5}  {_describe(name, split)}" for name, split in data.items()]
    if all(split.labels is None for name, split in data.items() if name != "train"):
        lines.append("No AUC will be measured, because no val or test image has a label.")
    return "\n".join(lines)


def describe_settings(config: Config, seed: int, device: torch.device, precision: str, compiled: bool) -> str:
    """Return the settings of a run for people, in two lines.

    Args:
        config: of the run.
        seed: of the run.
        device: to train on.
        precision: `fp32` or `bf16`.
        compiled: whether torch.compile compiles the networks.
    """
    threads = f", threads: {torch.get_num_threads()}" if device.type == "cpu" else ""
    full, small = config.preset.removesuffix("-small"), f"{config.preset}-small"
    hint = f" (--preset {full} is the full size)" if full != config.preset else ""
    if device.type == "cpu" and small in PRESETS:
        hint = f" (full size, which is for a GPU; --preset {small} is for a CPU)"
    return (
        f"preset: {config.preset}{hint}, seed {seed}; {config.image_size} x {config.image_size} pixels, "
        f"{config.epochs} epoch{'s' * (config.epochs > 1)}, {config.batch_size} images per batch\n"
        f"device: {device_name(device)}{threads}, precision {precision}{', compiled' * compiled}"
    )


def _describe(name: str, split: Split) -> str:
    count = f"{len(split):,} images"
    if name == "train":
        abnormal = 0 if split.labels is None else int(split.labels.sum())
        return f"{count}, all taken as healthy" + (f"; {abnormal:,} of them are not (contamination)" * bool(abnormal))
    if split.labels is None:
        return f"{count}, unlabeled"
    classes = split.classes or ["abnormal" if label else "normal" for label in split.labels.tolist()]
    numbers = Counter(zip(split.labels.tolist(), classes))
    return f"{count}: " + ", ".join(f"{number:,} {printable(kind)}" for (_, kind), number in sorted(numbers.items()))
