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
            bank = rearrange(bank, "r n (s c) -> r n (c s)", c=channels)
        state[key] = bank
    return state


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
