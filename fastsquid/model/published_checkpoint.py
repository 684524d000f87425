"""Files of the published code: read safely, sizes inferred, and every name and shape checked against our networks."""

import dataclasses
import hashlib
import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from ..config import Config, preset
from ..errors import UserError
from ..ops.dispatch import Impl
from .detector import Detector
from .published import (
    Tensors,
    discriminator_state,
    generator_state,
    memory_kind,
    published_discriminator_state,
    published_generator_state,
    system_of,
)

Shapes = Mapping[str, tuple[int, ...]]


def infer_discriminator_width(discriminator: Tensors) -> int:
    """Return the channels of the last convolution.

    Raises:
        UserError: there is none.
    """
    return _shape(discriminator, "conv_model.11.weight", 4)[0]


def infer_config(generator: Tensors, system: str, discriminator_width: int) -> Config:
    """Return the `squid-published` or `simsid-published` preset with the sizes of these weights.

    The kind of the in-painting memory and the use of the transformer are the preset's; `infer_parts` corrects them.

    Args:
        generator: tensors in the published layout.
        system: `squid` or `simsid`.
        discriminator_width: of the discriminator beside it.

    Raises:
        UserError: a tensor that sizes are read from is missing or misshapen, or sizes do not fit together.
    """
    width = _shape(generator, "in_conv.conv.conv1.0.weight", 4)[0]
    levels = _count(generator, r"(?:down|up)_blocks\.(\d+)\.")
    widths = [width * 2**i for i in reversed(range(levels + 1))]
    slots, token = _shape(generator, "inpaint_block.memory.0.memMatrix", 2)
    grid = math.isqrt(_count(generator, r"inpaint_block\.memory\.(\d+)\.") - 1) + 1
    inner = widths[0] // 4
    side = math.isqrt(token // inner) if inner else 0
    if side == 0 or inner * side**2 != token:
        raise UserError(
            f"inpaint_block.memory.0.memMatrix has {token} features, which are no square map of {inner} channels, a "
            f"quarter of the {widths[0]} channels after {levels} levels of width {width}"
        )
    inputs = [_shape(generator, f"up_blocks.{i}.conv.conv1.0.weight", 4)[1] for i in range(levels)]
    plain = [i for i in range(levels) if inputs[i] <= widths[i]]  # levels without a skip
    memories = _count(generator, r"memory_blocks\.(\d+)\.")
    scope = "subwindow"
    if memories:
        first = levels - 1 if system == "squid" else 0  # of the deepest level
        _, dim = _shape(generator, f"memory_blocks.{first}.memory.0.memMatrix", 2)
        if dim == widths[1] * (2 * side) ** 2:
            scope = "patch"
    return preset(
        f"{system}-published",
        image_size=grid * side * 2**levels,
        width=width,
        levels=levels,
        grid=grid,
        slots=slots,
        skips=plain[0] if plain else levels,
        decoder_memory=memories,
        decoder_scope=scope,
        combine=max(levels - 2, 0),  # the code counts from the image
        distillation=any(name.startswith("teacher_") for name in generator),
        discriminator_width=discriminator_width,
    )


def infer_parts(config: Config, generator: Tensors) -> Config:
    """Return the configuration with the kind of memory that these weights have, and without an unused transformer.

    Args:
        config: as `infer_config` returns it.
        generator: tensors in the published layout, of the expected names and shapes.
    """
    return dataclasses.replace(
        config,
        memory=memory_kind(generator, "inpaint_block."),
        inpainting="transformer" if _transforms(generator) else "memory",
    )


def published_shapes(config: Config, system: str) -> tuple[Shapes, Shapes, Shapes]:
    """Return three dicts {name: shape}: the generator's tensors, its unused tensors, and the discriminator's."""
    with torch.device("meta"):
        detector = Detector(config)
        generator = published_generator_state(detector.generator.state_dict(), system, config.levels)
        assert detector.discriminator is not None
        discriminator = published_discriminator_state(detector.discriminator.state_dict())
    convolution = {}
    if system == "simsid":
        dim = config.token_dim
        convolution = {"inpaint_block.conv.weight": (dim, dim, 3, 3), "inpaint_block.conv.bias": (dim,)}
    of_generator, of_discriminator = (
        {name: tuple(t.shape) for name, t in part.items()} for part in (generator, discriminator)
    )
    return of_generator, convolution, of_discriminator


def require_fitting(published: Tensors, expected: Shapes, optional: Shapes | None = None) -> None:
    """Raise an error if tensors are missing, unexpected, of another shape, not finite, or negative variances.

    Args:
        published: tensors by name.
        expected: {name: shape}. BatchNorm's counters may be missing, because the oldest PyTorch did not write them.
        optional: {name: shape} of tensors that may be missing.

    Raises:
        UserError: what is wrong, with the names of the tensors.
    """
    known = {**expected, **(optional or {})}
    both = [name for name in known if name in published]
    numbers = [name for name in both if not name.endswith("num_batches_tracked")]
    broken = [n for n in numbers if not published[n].is_floating_point() or not published[n].isfinite().all()]
    problems = {
        "missing": [n for n in expected if n not in published and not n.endswith("num_batches_tracked")],
        "unexpected": [name for name in published if name not in known],
        "of another shape": [
            f"{name} ({_text(published[name].shape)}, expected {_text(known[name])})"
            for name in both
            if tuple(published[name].shape) != known[name]
        ],
        "not finite": broken,
        "negative": [n for n in numbers if n.endswith("running_var") and n not in broken and (published[n] < 0).any()],
    }
    if any(problems.values()):
        raise UserError("; ".join(f"{what} {_listed(names)}" for what, names in problems.items() if names))


def _transforms(generator: Tensors) -> bool:
    """Return whether the transformer layer is part of the model.

    A switch of SimSID's code, `use_inpaint`, leaves the layer out but keeps its weights. Nothing trains those weights
    then: they keep their initial values, while the block's other weights change.
    """

    def untouched(name: str) -> bool:
        return bool((generator[f"{name}.weight"] == 1).all() and (generator[f"{name}.bias"] == 0).all())

    return untouched("inpaint_block.bottleneck_conv1.1") or not all(
        untouched(f"inpaint_block.attn_norm{i}") for i in (1, 2)
    )


def _count(published: Tensors, pattern: str) -> int:
    """Return how many different numbers the names that match the pattern hold."""
    return len({match[1] for name in published if (match := re.match(pattern, name))})


def _shape(published: Tensors, name: str, dimensions: int) -> tuple[int, ...]:
    if name not in published:
        raise UserError(f"missing {name}, from which sizes are read")
    shape = tuple(published[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise UserError(f"of another shape {name} ({_text(shape)}), from which sizes are read")
    return shape


def _text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class Published:
    """Read a state dict as the released code saves it, `torch.save(model.state_dict(), path)`.

    Args:
        path: of the file.

    Attributes:
        path: of the file.
        tensors: dict of CPU tensors by name, floating-point ones as float32, without the `module.` of DataParallel.
        sha256: of the file.

    Raises:
        UserError: the file does not exist, is not of torch.save, is damaged, or holds anything but a dict of tensors.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        if not Path(path).is_file():
            what = "is a folder" if Path(path).is_dir() else "does not exist"
            raise UserError(f"{path} {what}: give a file that torch.save wrote")
        content = Path(path).read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # of a damaged file PyTorch raises almost anything
            if "GLOBAL " in str(error):
                why = "holds Python objects, which can run code, and is not opened"
            else:
                why = "is damaged, or torch.save did not write it"
            raise UserError(f"{path} {why}: give the state dict that the published code saved") from None
        if not isinstance(found, dict) or not found or not all(map(_is_plain, found.values())):
            what = f"a dict with {next(iter(found))!r}" if isinstance(found, dict) and found else type(found).__name__
            raise UserError(
                f"{path} holds {what}, not tensors by name: give the state dict that the published code saved"
            )
        parallel = all(str(name).startswith("module.") for name in found)
        self.tensors = {
            str(name).removeprefix("module." if parallel else ""): t.float() if t.is_floating_point() else t
            for name, t in found.items()
        }


def _is_plain(value: object) -> bool:
    """Return whether value is a tensor that stores each of its numbers.

    Sparse, nested and quantized tensors do not, nor those on PyTorch's device `meta`, nor an expanded tensor whose one
    number stands for more than memory holds.
    """
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_nested or value.is_quantized)
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def build_detector(
    generator: "Published",
    discriminator: "Published",
    system: Literal["squid", "simsid"],
    impl: Impl = "auto",
    top_k: int | None = None,
) -> Detector:
    """Return the detector that two files hold, on the CPU.

    Args:
        generator, discriminator: `Published`.
        system: `squid` or `simsid`.
        impl: `auto`, `triton` or `torch`.
        top_k: active slots per query, which weights do not show; None for those of the published configuration.

    Raises:
        ConfigError: `top_k` is not from 1 to the number of slots.
        UserError: they are in the wrong order, of the other system, or of an architecture that is not the published
            one. The message names the tensors that are missing, unexpected or of another shape.
    """
    weights, other_weights = generator.tensors, discriminator.tensors
    if "regressor.weight" in weights:
        raise UserError(f"{generator.path} holds a discriminator: give the generator first, the discriminator second")
    if "out_conv.conv.weight" in other_weights:
        raise UserError(f"{discriminator.path} holds a generator: give the generator first, the discriminator second")
    found = system_of(weights)
    if found not in (None, system):
        raise UserError(f"{generator.path} holds a generator of {found}: give {found} instead of {system}")
    with _reading(discriminator.path, system, "discriminator"):
        last = infer_discriminator_width(other_weights)
    with _reading(generator.path, system, "generator"):
        config = infer_config(weights, system, last)
        shapes, unread, other_shapes = published_shapes(config, system)
        require_fitting(weights, shapes, unread)
        config = infer_parts(config, weights)
    with _reading(discriminator.path, system, "discriminator"):
        require_fitting(other_weights, other_shapes)
    if top_k is not None:
        config = dataclasses.replace(config, top_k=top_k)

    state = {f"generator.{name}": tensor for name, tensor in generator_state(weights, system, config.levels).items()}
    state |= {f"discriminator.{name}": tensor for name, tensor in discriminator_state(other_weights).items()}
    if config.memory == "queue":  # a published queue counts as full
        state["generator.inpaint.memory.pointer"] = torch.tensor(0)
        state["generator.inpaint.memory.filled"] = torch.tensor(config.slots)
    if config.inpainting == "memory":
        state = {name: tensor for name, tensor in state.items() if not name.startswith("generator.inpaint.mix.")}
    detector = Detector(config, impl)
    detector.load_state_dict(state)
    return detector


@contextmanager
def _reading(path: str | Path, system: str, what: str) -> Iterator[None]:
    """Put the file's name before the message of an error."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path} cannot be read as a {what} of {system}: {error}") from None


def describe_sizes(config: Config) -> str:
    """Return lines that name the sizes inferred from the weights, and the settings that weights do not show."""
    grid, size = config.grid, config.image_size
    lines = [
        f"{size} x {size} pixels, width {config.width}, {config.levels} levels, {grid} x {grid} patches, in-painting "
        f"{config.memory} and {config.decoder_memory} decoder memories ({config.decoder_scope}) of {config.slots} slots"
    ]
    if config.inpainting == "memory":
        lines.append("the transformer layer was never trained, so it is left out")
    values = "[0, 1]" if config.value_range == "unit" else "[-1, 1]"
    lines.append(
        f"weights do not show these settings: top-{config.top_k}, and from the published configuration {config.heads} "
        f"heads, patches stitched before level {config.combine}, images in {values}"
    )
    return "\n".join(lines)
