"""What a published checkpoint holds: its sizes, and every name and shape that follows from them."""

import dataclasses
import hashlib
import io
import math
import re
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch

from ..config import Config, preset
from ..errors import UserError
from .detector import Detector
from .published import discriminator_state, generator_state, memory_kind, system_of


def infer_discriminator_width(discriminator):
    """Channels of the last convolution.

    Raises:
        UserError: there is none.
    """
    return _shape(discriminator, "conv_model.11.weight", 4)[0]


def infer_config(generator, system, discriminator_width):
    """The `squid-published` or `simsid-published` preset with the sizes of these weights.

    Args:
        generator: dict of tensors in the published layout.
        system: `squid` or `simsid`.
        discriminator_width: of the discriminator beside it.

    Raises:
        UserError: sizes that do not fit together, or whatever `refuse_misfits` finds.
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
            f"the generator's patches have {token} features, which are no square map of {inner} channels, a quarter of "
            f"the {widths[0]} that {levels} levels of width {width} end in"
        )
    inputs = [_shape(generator, f"up_blocks.{i}.conv.conv1.0.weight", 4)[1] for i in range(levels)]
    plain = [i for i in range(levels) if inputs[i] <= widths[i]]  # levels without a skip
    memories = _count(generator, r"memory_blocks\.(\d+)\.")
    scope = "subwindow"
    if memories:
        _, dim = _shape(generator, f"memory_blocks.{_block_number(0, system, levels)}.memory.0.memMatrix", 2)
        if dim == widths[1] * (2 * side) ** 2:
            scope = "patch"
    config = preset(
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
    refuse_misfits(generator, *generator_layout(config, system))
    return dataclasses.replace(
        config,
        memory=memory_kind(generator, "inpaint_block."),
        inpainting="transformer" if _transforms(generator) else "memory",
    )


def refuse_misfits(published, expected, optional=None):
    """Raises UserError, naming them, if tensors are missing, left over, of another shape, not of finite
    numbers, or variances below 0.

    Args:
        published: dict of tensors.
        expected: {name: shape}.
        optional: the same of what may be missing; so may BatchNorm's counters, which the oldest PyTorch did not write.
    """
    counters = {
        name.replace("running_mean", "num_batches_tracked"): () for name in expected if name.endswith("running_mean")
    }
    known = {**expected, **(optional or {}), **counters}
    missing = [name for name in expected if name not in published]
    left = [name for name in published if name not in known]
    both = [name for name in known if name in published]
    shapes = [
        f"{name} ({_text(published[name].shape)} in the place of {_text(known[name])})"
        for name in both
        if tuple(published[name].shape) != known[name]
    ]
    numbers = [name for name in both if name not in counters]
    broken = [n for n in numbers if not published[n].is_floating_point() or not published[n].isfinite().all()]
    negative = [n for n in numbers if n.endswith("running_var") and n not in broken and (published[n] < 0).any()]
    problems = [
        f"{what} {_listed(names)}"
        for what, names in (
            ("missing", missing),
            ("left over", left),
            ("of another shape", shapes),
            ("not of finite numbers", broken),
            ("negative", negative),
        )
        if names
    ]
    if problems:
        raise UserError("; ".join(problems))


def generator_layout(config, system):
    """{name: shape} of a published generator of this configuration; and apart from it of what nothing reads."""
    widths = [config.width * 2**i for i in range(config.levels + 1)]
    shapes = _double_conv("in_conv.conv", 1, widths[0])
    for i, (a, b) in enumerate(zip(widths, widths[1:])):
        shapes |= _double_conv(f"down_blocks.{i}.mpconv", a, b)
    deep = widths[::-1]
    for blocks, output in [("up_blocks", "out_conv")] + [("teacher_ups", "teacher_out")] * config.distillation:
        for i, (a, b) in enumerate(zip(deep, deep[1:])):
            shapes |= _double_conv(f"{blocks}.{i}.conv", a + (b if i < config.skips else 0), b)
        shapes |= _layer(f"{output}.conv", 1, widths[0], 1, 1)

    block, dim, inner = "inpaint_block", config.token_dim, config.channels // 4
    shapes[f"{block}.bottleneck_conv1.0.weight"] = (inner, config.channels, 1, 1)
    shapes |= _norm(f"{block}.bottleneck_conv1.1", inner)
    shapes |= _banks(block, config.patches, config.slots, dim)
    shapes |= {f"{block}.attention.in_proj_weight": (3 * dim, dim), f"{block}.attention.in_proj_bias": (3 * dim,)}
    shapes |= _layer(f"{block}.attention.out_proj", dim, dim)
    shapes |= _layer(f"{block}.attn_norm1", dim) | _layer(f"{block}.attn_norm2", dim)
    shapes |= _layer(f"{block}.ff.0", dim // 4, dim) | _layer(f"{block}.ff.3", dim, dim // 4)
    shapes |= _layer(f"{block}.bottleneck_conv2.0", config.channels, inner + config.patches.bit_length(), 1, 1)
    shapes |= _norm(f"{block}.bottleneck_conv2.1", config.channels)

    for i in range(config.decoder_memory):
        banks, windows = (config.patches, 1) if config.decoder_scope == "patch" else (4, 2)
        side = config.feature_size * 2 ** (i + 1) // windows
        name = f"memory_blocks.{_block_number(i, system, config.levels)}"
        shapes |= _banks(name, banks, config.slots, deep[i + 1] * side**2)
    return shapes, _layer(f"{block}.conv", dim, dim, 3, 3) if system == "simsid" else {}


def discriminator_layout(config):
    """{name: shape} of a published discriminator of this configuration."""
    widths, shapes = [1, 16, 32, 64, 128, config.discriminator_width], {}
    for i, (a, b) in enumerate(zip(widths, widths[1:])):
        first = 3 * i - 1 if i else 0  # after the first convolution there is no BatchNorm
        shapes |= _layer(f"conv_model.{first}", b, a, 5, 5)
        if i:
            shapes |= _norm(f"conv_model.{first + 1}", b)
    return shapes | _layer("regressor", 1, widths[-1] * (-(-config.image_size // 32)) ** 2)


def _transforms(generator):
    """Whether the transformer layer is part of the model.

    A switch of SimSID's code, `use_inpaint`, leaves it out but keeps its weights. Nothing trains those then: they stay
    as they were made, while the block's other weights do not.
    """

    def untouched(name):
        return bool((generator[f"{name}.weight"] == 1).all() and (generator[f"{name}.bias"] == 0).all())

    return untouched("inpaint_block.bottleneck_conv1.1") or not all(
        untouched(f"inpaint_block.attn_norm{i}") for i in (1, 2)
    )


def _block_number(level, system, levels):
    """Which of `memory_blocks` follows a level of the student, deepest first."""
    return levels - 1 - level if system == "squid" else level


def _count(published, pattern):
    """How many numbers the names that begin so have in them."""
    return len({match[1] for name in published if (match := re.match(pattern, name))})


def _shape(published, name, dimensions):
    if name not in published:
        raise UserError(f"missing {name}, which sizes are read from")
    shape = tuple(published[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise UserError(f"of another shape {name} ({_text(shape)}), which sizes are read from")
    return shape


def _layer(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _norm(name, channels):
    return _layer(name, channels) | {f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,)}


def _double_conv(name, a, b):
    shapes = _layer(f"{name}.conv1.0", b, a, 3, 3) | _norm(f"{name}.conv1.1", b)
    for i in (0, 3):
        shapes |= _layer(f"{name}.conv2.{i}", b, b, 3, 3) | _norm(f"{name}.conv2.{i + 1}", b)
    return shapes


def _banks(name, regions, slots, dim):
    return {f"{name}.memory.{r}.memMatrix": (slots, dim) for r in range(regions)}


def _text(shape):
    return " x ".join(map(str, shape)) or "a single number"


def _listed(names, most=3):
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class Published:
    """A state dict as the released code saves it, `torch.save(model.state_dict(), path)`.

    Attributes:
        path: of the file.
        tensors: dict of CPU tensors by name, floating-point ones as float32, without the `module.` of DataParallel.
        sha256: of the file.

    Raises:
        UserError: no such file, not of torch.save, damaged, or anything but a dict of tensors.
    """

    def __init__(self, path):
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
                why = "holds Python objects, not tensors alone, and is not opened, since those can run code"
            else:
                why = "is damaged, or no file of torch.save"
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


def _is_plain(value):
    """Whether it is a tensor of which every number is there: not sparse, nested or on PyTorch's device `meta`, nor one
    number that stands for more than memory holds."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_nested or value.is_quantized)
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def build_detector(generator, discriminator, system, impl="auto"):
    """The detector that two files hold, on the CPU.

    Args:
        generator, discriminator: `Published`.
        system: `squid` or `simsid`.
        impl: `auto`, `triton` or `torch`.

    Raises:
        UserError: they are given in the wrong order, are of the other system, or of an architecture that is not the
            published one: what is missing, left over or of another shape is named.
    """
    drawer, judge = generator.tensors, discriminator.tensors
    if "regressor.weight" in drawer:
        raise UserError(f"{generator.path} holds a discriminator: give the generator first, the discriminator second")
    if "out_conv.conv.weight" in judge:
        raise UserError(f"{discriminator.path} holds a generator: give the generator first, the discriminator second")
    found = system_of(drawer)
    if found not in (None, system):
        raise UserError(f"{generator.path} holds a generator of {found}: give {found} in the place of {system}")
    with _reading(discriminator.path, system, "discriminator"):
        last = infer_discriminator_width(judge)
    with _reading(generator.path, system, "generator"):
        config = infer_config(drawer, system, last)
    with _reading(discriminator.path, system, "discriminator"):
        refuse_misfits(judge, discriminator_layout(config))

    state = {f"generator.{name}": tensor for name, tensor in generator_state(drawer, system, config.levels).items()}
    state |= {f"discriminator.{name}": tensor for name, tensor in discriminator_state(judge).items()}
    if config.memory == "queue":  # a published queue counts as full
        state["generator.inpaint.memory.pointer"] = torch.tensor(0)
        state["generator.inpaint.memory.filled"] = torch.tensor(config.slots)
    if config.inpainting == "memory":
        state = {name: tensor for name, tensor in state.items() if not name.startswith("generator.inpaint.mix.")}
    detector = Detector(config, impl)
    detector.load_state_dict(state)
    return detector


@contextmanager
def _reading(path, system, what):
    """Puts the file's name before what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path} cannot be read as a {what} of {system}: {error}") from None


def describe_sizes(config: Config) -> str:
    """Return lines for people: what was read from the weights, and what the weights do not hold."""
    grid, size = config.grid, config.image_size
    lines = [
        f"{size} x {size} pixels, width {config.width}, {config.levels} levels, {grid} x {grid} patches, in-painting "
        f"{config.memory} and {config.decoder_memory} decoder memories ({config.decoder_scope}) of {config.slots} slots"
    ]
    if config.inpainting == "memory":
        lines.append("the transformer layer was never trained, so it was not in use and is left out")
    values = "[0, 1]" if config.value_range == "unit" else "[-1, 1]"
    lines.append(
        f"not to be seen in weights, and taken from the published configuration: top-{config.top_k}, {config.heads} "
        f"heads, patches stitched before level {config.combine}, images in {values}"
    )
    return "\n".join(lines)
