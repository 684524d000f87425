"""The in-painting block: a patch's feature rebuilt from its eight neighbours' memories (SQUID 3.3, SimSID 3.3)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from ..ops import neighbor_attention
from .memory import SpaceAwareMemory


def masked_shortcut(new, old, rho, training):
    """delta * new + (1 - delta) * old, delta ~ Bernoulli(rho) for each cell, shared by channels; training only.

    Args:
        new, old: feature maps (N, C, h, w).
        rho: probability of the new feature; 1 turns the shortcut off.

    Source: SQUID 3.3, "masked shortcut".
    """
    if not training or rho == 1:
        return new
    delta = torch.empty_like(new[:, :1]).bernoulli_(rho)
    return torch.lerp(old, new, delta)


class NeighborTransformer(nn.Module):
    """Transformer layer whose queries are patch features and whose keys and values are the neighbours' memories.

    a = relu(LN(attention) + m), out = relu(LN(FF(a)) + a): the residual is the memory m, not the query.
    Keys and values are projected once a patch. Keys have no bias (it cancels in the softmax); the values' bias is
    added to the attended sum, which is what it amounts to also for patches outside the grid.
    """

    def __init__(self, dim, heads, border, dropout, impl):
        super().__init__()
        self.heads, self.border, self.impl = heads, border, impl
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.value_bias = nn.Parameter(torch.zeros(dim))
        self.output = nn.Linear(dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ff = nn.Sequential(
            nn.Linear(dim, dim // 4), nn.Dropout(dropout), nn.ReLU(), nn.Linear(dim // 4, dim), nn.Dropout(dropout)
        )
        # As nn.MultiheadAttention, whose three input projections are one (3 dim, dim) matrix.
        bound = (6 / (4 * dim)) ** 0.5
        nn.init.uniform_(self.query.weight, -bound, bound)
        nn.init.uniform_(self.key_value.weight, -bound, bound)
        nn.init.zeros_(self.query.bias)
        nn.init.zeros_(self.output.bias)

    def forward(self, query, memory, keys_values=None):
        """query, memory (B, H, W, C), and what `key_value` makes of the memory, if known -> (B, H, W, C)."""
        q = self.query(query).unflatten(-1, (self.heads, -1))
        keys_values = self.key_value(memory) if keys_values is None else keys_values
        k, v = keys_values.unflatten(-1, (2, self.heads, -1)).unbind(-3)
        attended = neighbor_attention(q, k, v, self.border, impl=self.impl).flatten(-2) + self.value_bias
        a = F.relu(self.norm1(self.output(attended)) + memory)
        return F.relu(self.norm2(self.ff(a)) + a)


class NeighborConvolution(nn.Module):
    """The ablation: a 3x3 convolution over the grid of memories instead of the transformer (SimSID Table 2)."""

    def __init__(self, dim):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, query, memory):
        """memory (B, H, W, C) -> (B, H, W, C); the query is not used."""
        return F.relu(rearrange(self.conv(rearrange(memory, "b i j c -> b c i j")), "b c i j -> b i j c"))


class Rebuilt(NamedTuple):
    """What the block gives: features (B * P, C0, h, h); outside training the distance of each patch's token to its
    memory, |z - m|^2 / |z|^2 (B, P); and in training, where the config weighs it, the mean entropy of the weights."""

    features: torch.Tensor
    distance: torch.Tensor | None
    entropy: torch.Tensor | None


class InpaintingBlock(nn.Module):
    """Rebuilds patch features from memory; input and output (B * P, C0, h, h), patches row-major.

    1x1 convolution to C0/4, one token a patch, memory read, transformer layer over the grid, binary code of the
    patch index, 1x1 convolution back to C0, masked shortcut.

    Args:
        config: a `Config`; `inpainting`, the memory's fields, `heads`, `border`, `ff_dropout` and `shortcut` matter.
        impl: `auto`, `triton` or `torch`.
    """

    def __init__(self, config, impl="auto"):
        super().__init__()
        self.grid, self.shortcut, self.scope = config.grid, config.shortcut, config.memory_scope
        self.entropy = config.entropy_weight > 0
        inner = config.channels // 4
        # The code counts patches from 0, most significant bit first, in floor(log2 P) + 1 planes.
        bits = config.patches.bit_length()
        self.reduce = nn.Sequential(nn.Conv2d(config.channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU())
        self.memory = SpaceAwareMemory(
            config.patches if config.memory_scope == "patch" else 1,
            config.slots,
            config.token_dim,
            config.top_k,
            config.memory,
            selection=config.selection,
            shrinkage=config.shrinkage,
            threshold=config.shrink_threshold,
            impl=impl,
        )
        if config.inpainting == "transformer":
            self.mix = NeighborTransformer(config.token_dim, config.heads, config.border, config.ff_dropout, impl)
        elif config.inpainting == "convolution":
            self.mix = NeighborConvolution(config.token_dim)
        else:
            self.mix = None
        self.expand = nn.Sequential(
            nn.Conv2d(inner + bits, config.channels, 1), nn.BatchNorm2d(config.channels), nn.ReLU()
        )
        index = torch.arange(config.patches)
        code = torch.stack([index >> bit & 1 for bit in reversed(range(bits))], dim=1)
        self.register_buffer("code", code[:, :, None, None].float(), persistent=False)  # (P, bits, 1, 1)
        self.foldable = config.inpainting == "transformer"
        self._folded = None
        self.register_buffer("constant", None, persistent=False)  # what `fold` keeps

    def fold(self):
        """Keeps what `folded` gives as a buffer, which a graph can hold: bank and projection may change no more."""
        with torch.no_grad():
            self.constant = self.folded()

    def folded(self):
        """Every slot m beside its key and value, [m, m.Wk^T, m.Wv^T] (R, N, 3 C): a read of it needs no projection.

        Kept until bank or projection change in place, are replaced, cast or moved, or `train` or `eval` is called;
        writes through `.data`, of which no tensor tells, need that. None where it cannot serve: in training, under
        gradients, inside torch.compile, and without a transformer.
        """
        if self.constant is not None:
            return self.constant
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or not self.foldable:
            return None
        bank, weight = self.memory.bank, self.mix.key_value.weight
        if bank.is_inference() or weight.is_inference():  # these do not tell when they change
            return None
        sources = [(t.data_ptr(), t._version, t.dtype, t.device) for t in (bank, weight)]
        if self._folded is None or self._folded[0] != sources:
            with torch.autocast(bank.device.type, enabled=False):
                folded = torch.cat([bank, F.linear(bank, weight.to(bank.dtype))], dim=-1)
            # Held beside it, so that no other tensor is given their address.
            self._folded = sources, folded, (bank.detach(), weight.detach())
        return self._folded[1]

    def train(self, mode=True):
        """As `nn.Module.train`; what was folded is forgotten, since not every optimizer marks what it changes."""
        self._folded = None
        return super().train(mode)

    def forward(self, features):
        """Features (B * P, C0, h, h) -> the same shape, rebuilt; in training mode with the masked shortcut."""
        return self.rebuild(features).features

    def rebuild(self, features):
        """As `forward`: `Rebuilt`."""
        reduced = self.reduce(features)
        channels, size = reduced.shape[1:3]
        tokens = rearrange(reduced, "(b p) c h w -> b p (c h w)", p=self.grid**2)
        folded = self.folded()
        queries = tokens if self.scope == "patch" else rearrange(tokens, "b p c -> (b p) 1 c")
        entropy = None
        if self.entropy and self.training:
            read, weights = self.memory(queries, return_weights=True)
            # The entropy of a weight of zero is zero, but its derivative is infinite. (CUDA would compile
            # torch.special.entr at its first call.)
            weights = weights.clamp_min(1e-12)
            entropy = -(weights * weights.log()).sum(-1).mean()
        else:
            read = self.memory(queries, values=folded)
        read = read.reshape(*tokens.shape[:2], -1)
        remembered = read[..., : tokens.shape[2]]
        distance = None if self.training else _distance(tokens, remembered)
        if self.mix is not None:
            parts = [tokens, remembered] + ([] if folded is None else [read[..., tokens.shape[2] :]])
            as_grid = [rearrange(t, "b (i j) c -> b i j c", i=self.grid) for t in parts]
            remembered = rearrange(self.mix(*as_grid), "b i j c -> b (i j) c")
        rebuilt = rearrange(remembered, "b p (c h w) -> (b p) c h w", c=channels, h=size)
        code = self.code.to(rebuilt.dtype).repeat(tokens.shape[0], 1, 1, 1).expand(-1, -1, size, size)
        out = self.expand(torch.cat([rebuilt, code], dim=1))
        return Rebuilt(masked_shortcut(out, features, self.shortcut, self.training), distance, entropy)


def _distance(tokens, remembered):
    tokens, remembered = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (tokens, remembered))
    return (tokens - remembered).square().sum(-1) / tokens.square().sum(-1).clamp_min(1e-12)
