"""The tensor names and layout of the published checkpoints (SQUID's and SimSID's released code), to ours and back.

Both mappings are linear: they rename, stack and permute. They map a state dict and a dict of gradients alike.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from einops import rearrange

Tensors = Mapping[str, torch.Tensor]

_ATTENTION = "inpaint_block.attention.in_proj_"
_BANK = re.compile(r"(.*?)memory\.(\d+)\.memMatrix")


def generator_state(published: Tensors, system: str, levels: int) -> dict[str, torch.Tensor]:
    """Return a published generator's tensors under our names.

    In SQUID, decoder level i reads `memory_blocks.{levels - 1 - i}`, and sub-windows are flattened channel-last. In
    SimSID, decoder level i reads `memory_blocks.{i}`, and sub-windows are flattened channel-first, as ours are.

    Args:
        published: tensors in the published layout: a state dict, or gradients by parameter name.
        system: `squid` or `simsid`.
        levels: number of down-sampling levels of the encoder.

    Returns:
        dict for `Generator.load_state_dict`, without `pointer` and `filled` (a published queue counts as full). It has
        no place for the published key bias, which cancels in the softmax, and for SimSID's unused 3x3 convolution.

    Raises:
        KeyError: a name that the published layout does not have.
    """
    prefixes, state = _prefixes(system, levels), {}
    for name, tensor in published.items():
        if name == _ATTENTION + "weight":
            query, key, value = tensor.chunk(3)
            state["inpaint.mix.query.weight"] = query
            state["inpaint.mix.key_value.weight"] = torch.cat([key, value])
        elif name == _ATTENTION + "bias":
            state["inpaint.mix.query.bias"], _, state["inpaint.mix.value_bias"] = tensor.chunk(3)
        elif not (name.startswith("inpaint_block.conv.") or _BANK.fullmatch(name)):
            state[_renamed(name, prefixes)] = tensor
    for prefix in _memories(published):
        place, bank = _renamed(prefix, prefixes), memory_bank(published, prefix)
        if system == "squid" and place.startswith("student."):
            level = place.split(".")[2]
            bank = channel_first(bank, published[f"up_blocks.{level}.conv.conv1.0.weight"].shape[0])
        state[f"{place}memory.bank"] = bank
    return state


def published_generator_state(state: Tensors, system: str, levels: int) -> dict[str, torch.Tensor]:
    """Return our generator's tensors in the published layout: the inverse of `generator_state`.

    Args:
        state: the state dict of a `Generator` with a transformer.
        system: `squid` or `simsid`.
        levels: number of down-sampling levels of the encoder.

    Returns:
        the published tensors, with a key bias of zero and without SimSID's unused convolution.
    """
    prefixes = [(ours, published) for published, ours in _prefixes(system, levels)]
    query, values = state["inpaint.mix.query.bias"], state["inpaint.mix.value_bias"]
    projections = [state[f"inpaint.mix.{name}.weight"] for name in ("query", "key_value")]
    published = {
        _ATTENTION + "weight": torch.cat(projections),
        _ATTENTION + "bias": torch.cat([query, torch.zeros_like(query), values]),
    }
    for name, tensor in state.items():
        if name.endswith("memory.bank"):
            place = name.removesuffix("memory.bank")
            if system == "squid" and place.startswith("student."):
                channels = state[f"student.blocks.{place.split('.')[2]}.conv1.0.weight"].shape[0]
                tensor = rearrange(tensor, "r n (c s) -> r n (s c)", c=channels)
            published |= {f"{_renamed(place, prefixes)}memory.{r}.memMatrix": bank for r, bank in enumerate(tensor)}
        elif not name.startswith(
            ("inpaint.memory.", "inpaint.mix.query.", "inpaint.mix.key_value.", "inpaint.mix.value_")
        ):
            published[_renamed(name, prefixes)] = tensor
    return published


def discriminator_state(published: Tensors) -> dict[str, torch.Tensor]:
    """Return a published discriminator's tensors under our names."""
    return {name.replace("conv_model.", "layers.").replace("regressor.", "logit."): t for name, t in published.items()}


def published_discriminator_state(state: Tensors) -> dict[str, torch.Tensor]:
    """Return our discriminator's tensors under the published names: the inverse of `discriminator_state`."""
    return {name.replace("layers.", "conv_model.").replace("logit.", "regressor."): t for name, t in state.items()}


def system_of(names: Iterable[str]) -> str | None:
    """Return `squid` or `simsid` by the names of a generator's tensors, or None for any other names.

    SimSID's in-painting block has a convolution that nothing uses, and its decoder memories are counted from 0.
    """
    if any(name.startswith(("inpaint_block.conv.", "memory_blocks.0.")) for name in names):
        return "simsid"
    return "squid" if any(name.startswith("inpaint_block.") for name in names) else None


def memory_bank(published: Tensors, prefix: str) -> torch.Tensor:
    """Return the slots (R, N, C) of one published memory, stacked from `{prefix}memory.{region}.memMatrix`, (N, C).

    Raises:
        ValueError: the memory does not exist, a region is missing, or regions are of different shapes.
    """
    found = _memories(published)
    if prefix not in found:
        known = ", ".join(map(repr, found)) or "none"
        raise ValueError(f"there is no memory {prefix!r}. The checkpoint has memories with these prefixes: {known}")
    regions = found[prefix]
    if set(regions) != set(range(len(regions))):
        raise ValueError(f"the memory {prefix!r} has regions {sorted(regions)}: they should be numbered from 0 on")
    if len({tuple(bank.shape) for bank in regions.values()}) > 1 or regions[0].dim() != 2:
        shapes = ", ".join(str(tuple(regions[r].shape)) for r in range(len(regions)))
        raise ValueError(f"the banks of the memory {prefix!r} should be of one shape, slots x features, not {shapes}")
    return torch.stack([regions[r] for r in range(len(regions))])


def memory_kind(published: Tensors, prefix: str) -> Literal["queue", "matrix"]:
    """Return `queue` or `matrix`, which the published names do not say.

    Decoders have matrices, and SQUID's in-painting block has a queue. SimSID's in-painting block may have either: a
    queue holds the output of a ReLU, with no negative value and many exact zeros. A learned matrix has hardly any.
    """
    if not prefix.endswith("inpaint_block."):
        return "matrix"
    above = prefix.removesuffix("inpaint_block.")  # such as DataParallel's module.
    if system_of([name.removeprefix(above) for name in published]) != "simsid":
        return "queue"
    bank = memory_bank(published, prefix)
    return "queue" if (bank >= 0).all() and (bank == 0).float().mean() > 0.01 else "matrix"


def channel_first(bank: torch.Tensor, channels: int) -> torch.Tensor:
    """Return the slots (R, N, C) of SQUID's decoder memories, which are flattened channel-last, in our order."""
    return rearrange(bank, "r n (s c) -> r n (c s)", c=channels)


def _memories(published):
    """Return {prefix: {region: slots}} of the published memories."""
    found: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in published.items():
        if match := _BANK.fullmatch(name):
            found.setdefault(match[1], {})[int(match[2])] = tensor
    return found


def _prefixes(system, levels):
    """Return pairs of prefixes, published and ours; after them the names are the same."""
    pairs = [
        ("in_conv.conv.", "encoder.blocks.0."),
        ("out_conv.conv.", "student.output."),
        ("teacher_out.conv.", "teacher.output."),
        ("inpaint_block.bottleneck_conv1.", "inpaint.reduce."),
        ("inpaint_block.bottleneck_conv2.", "inpaint.expand."),
        ("inpaint_block.attention.out_proj.", "inpaint.mix.output."),
        ("inpaint_block.attn_norm1.", "inpaint.mix.norm1."),
        ("inpaint_block.attn_norm2.", "inpaint.mix.norm2."),
        ("inpaint_block.ff.", "inpaint.mix.ff."),
        ("inpaint_block.", "inpaint."),
    ]
    for i in range(levels):
        pairs += [
            (f"down_blocks.{i}.mpconv.", f"encoder.blocks.{i + 1}."),
            (f"up_blocks.{i}.conv.", f"student.blocks.{i}."),
            (f"teacher_ups.{i}.conv.", f"teacher.blocks.{i}."),
            (f"memory_blocks.{levels - 1 - i if system == 'squid' else i}.", f"student.memories.{i}."),
        ]
    return pairs


def _renamed(name, prefixes):
    for old, new in prefixes:
        if name.startswith(old):
            return new + name.removeprefix(old)
    raise KeyError(f"{name} is not a name of the published layout")
