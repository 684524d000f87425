"""The layout of the published checkpoints (SQUID's and SimSID's released code), read into ours.

The mapping is linear: it renames, stacks and permutes, so it maps a state dict and a dict of gradients alike.
"""

import re

import torch
from einops import rearrange

_RENAMES = [
    (r"^in_conv\.conv\.", "encoder.blocks.0."),
    (r"^up_blocks\.(\d+)\.conv\.", r"student.blocks.\1."),
    (r"^teacher_ups\.(\d+)\.conv\.", r"teacher.blocks.\1."),
    (r"^out_conv\.conv\.", "student.output."),
    (r"^teacher_out\.conv\.", "teacher.output."),
    (r"^inpaint_block\.bottleneck_conv1\.", "inpaint.reduce."),
    (r"^inpaint_block\.bottleneck_conv2\.", "inpaint.expand."),
    (r"^inpaint_block\.attention\.out_proj\.", "inpaint.mix.output."),
    (r"^inpaint_block\.attn_norm([12])\.", r"inpaint.mix.norm\1."),
    (r"^inpaint_block\.ff\.", "inpaint.mix.ff."),
]
_DOWN = re.compile(r"^down_blocks\.(\d+)\.mpconv\.")
_BANK = re.compile(r"^(inpaint_block|memory_blocks\.(\d+))\.memory\.(\d+)\.memMatrix$")


def generator_state(published, system, levels):
    """A published generator's tensors under our names.

    Args:
        published: dict of tensors in the published layout: a state dict, or gradients by parameter name.
        system: `squid` or `simsid`. In SQUID decoder level i reads `memory_blocks.{levels - 1 - i}` and flattens
            sub-windows channel-last; in SimSID it reads `memory_blocks.{i}`, channel-first as we do.
        levels: of the encoder.

    Returns:
        dict for `Generator.load_state_dict`, without `pointer` and `filled` (a published queue counts as full).
        The published key bias, which cancels in the softmax, and SimSID's unused 3x3 convolution have no place.
    """
    state, banks = {}, {}
    for name, tensor in published.items():
        bank = _BANK.match(name)
        if bank:
            level = bank.group(2) and int(bank.group(2))
            if level is not None and system == "squid":
                level = levels - 1 - level
            key = "inpaint.memory.bank" if level is None else f"student.memories.{level}.memory.bank"
            banks.setdefault(key, {})[int(bank.group(3))] = tensor
        elif name == "inpaint_block.attention.in_proj_weight":
            query, key, value = tensor.chunk(3)
            state["inpaint.mix.query.weight"] = query
            state["inpaint.mix.key_value.weight"] = torch.cat([key, value])
        elif name == "inpaint_block.attention.in_proj_bias":
            state["inpaint.mix.query.bias"], _, state["inpaint.mix.value_bias"] = tensor.chunk(3)
        elif not name.startswith("inpaint_block.conv."):
            state[_renamed(name)] = tensor
    for key, regions in banks.items():
        bank = torch.stack([regions[r] for r in range(len(regions))])
        if system == "squid" and key.startswith("student."):
            channels = published[f"up_blocks.{key.split('.')[2]}.conv.conv1.0.weight"].shape[0]
            bank = channel_first(bank, channels)
        state[key] = bank
    return state


def system_of(names):
    """`squid` or `simsid` by the names of a generator's tensors, or None of anything else.

    SimSID's in-painting block has a convolution that nothing uses, and its decoder memories are counted from 0.
    """
    if any(name.startswith(("inpaint_block.conv.", "memory_blocks.0.")) for name in names):
        return "simsid"
    return "squid" if any(name.startswith("inpaint_block.") for name in names) else None


def memory_bank(published, prefix):
    """The slots (R, N, C) of one published memory: what `{prefix}memory.{region}.memMatrix` (N, C) are.

    Raises:
        ValueError: there are none, a region is missing, or they are of different shapes.
    """
    name = re.compile(r"(.*?)memory\.(\d+)\.memMatrix")
    found = {}
    for key, tensor in published.items():
        if match := name.fullmatch(key):
            found.setdefault(match[1], {})[int(match[2])] = tensor
    if prefix not in found:
        known = ", ".join(map(repr, found)) or "none"
        raise ValueError(f"there is no memory {prefix!r}: the prefixes of those that there are: {known}")
    regions = found[prefix]
    if set(regions) != set(range(len(regions))):
        raise ValueError(f"the memory {prefix!r} has regions {sorted(regions)}: they should be numbered from 0 on")
    if len({tuple(bank.shape) for bank in regions.values()}) > 1 or regions[0].dim() != 2:
        shapes = ", ".join(str(tuple(regions[r].shape)) for r in range(len(regions)))
        raise ValueError(f"the banks of the memory {prefix!r} should be of one shape, slots x features, not {shapes}")
    return torch.stack([regions[r] for r in range(len(regions))])


def memory_kind(published, prefix):
    """`queue` or `matrix`, which the published layout does not tell by a name.

    Decoders have matrices, SQUID's in-painting block a queue. In SimSID's it may be either: a queue holds what a ReLU
    let through, nothing negative and many exact zeros, of which a matrix that is learned has hardly any.
    """
    if not prefix.endswith("inpaint_block."):
        return "matrix"
    above = prefix.removesuffix("inpaint_block.")  # such as DataParallel's module.
    if system_of([name.removeprefix(above) for name in published]) != "simsid":
        return "queue"
    bank = memory_bank(published, prefix)
    return "queue" if (bank >= 0).all() and (bank == 0).float().mean() > 0.01 else "matrix"


def channel_first(bank, channels):
    """Slots (R, N, C) of SQUID's decoder memories, which flatten a sub-window channel-last, in our order."""
    return rearrange(bank, "r n (s c) -> r n (c s)", c=channels)


def discriminator_state(published):
    """A published discriminator's tensors under our names."""
    return {name.replace("conv_model.", "layers.").replace("regressor.", "logit."): t for name, t in published.items()}


def _renamed(name):
    down = _DOWN.match(name)
    if down:
        return f"encoder.blocks.{int(down.group(1)) + 1}." + name[down.end() :]
    for pattern, ours in _RENAMES:
        if re.match(pattern, name):
            return re.sub(pattern, ours, name)
    raise KeyError(f"{name} is not a name of the published layout")
