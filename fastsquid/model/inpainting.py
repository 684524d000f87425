"""The in-painting block: a patch's feature rebuilt from the memories of its eight neighbors (SQUID 3.3, SimSID 3.3)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import Config
from ..ops import neighbor_attention
from ..ops.checks import Border
from ..ops.dispatch import Impl
from .layers import Layers
from .memory import SpaceAwareMemory
from .patches import layout_of, to_map


def masked_shortcut(new: Tensor, old: Tensor, rho: float, training: bool) -> Tensor:
    """Mix two feature maps at random in training: delta * new + (1 - delta) * old, delta ~ Bernoulli(rho) per cell.

    All channels of a cell share its delta. Outside training the result is `new`.

    Args:
        new, old: feature maps (N, C, h, w).
        rho: probability of the new feature; 1 turns the shortcut off.
        training: whether the network is in training mode.

    Returns:
        (N, C, h, w).

    Source: SQUID 3.3, "masked shortcut".
    """
    if not training or rho == 1:
        return new
    delta = torch.empty_like(new[:, :1]).bernoulli_(rho)
    return torch.lerp(old, new, delta)


class NeighborTransformer(nn.Module):
    """Transformer layer: queries are patch features, keys and values are the memories of the neighbors.

    a = relu(LN(attention) + m), out = relu(LN(FF(a)) + a): the residual is the memory m, not the query.
    Keys and values are projected once per patch. Keys have no bias, because it cancels in the softmax. The bias of the
    values is added to the attended sum, which has the same effect, also for patches outside the grid.

    Args:
        dim: C, dimension of the tokens; a multiple of heads.
        heads: attention heads.
        border: `pad` or `mask`, as for `ops.neighbor_attention`.
        dropout: probability, of the feed-forward layers.
        impl: `auto`, `triton` or `torch`.
    """

    def __init__(self, dim: int, heads: int, border: Border, dropout: float, impl: Impl) -> None:
        super().__init__()
        self.heads = heads
        self.border: Border = border
        self.impl: Impl = impl
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

    def forward(self, query: Tensor, memory: Tensor, keys_values: Tensor | None = None) -> Tensor:
        """Return the features of all patches, rebuilt from their neighbors.

        Args:
            query: patch features (B, H, W, C).
            memory: their memories (B, H, W, C).
            keys_values: None, or the projection `key_value` of the memory (B, H, W, 2 C).

        Returns:
            (B, H, W, C).
        """
        q = self.query(query).unflatten(-1, (self.heads, -1))
        projected: Tensor = self.key_value(memory) if keys_values is None else keys_values
        k, v = projected.unflatten(-1, (2, self.heads, -1)).unbind(-3)
        attended = neighbor_attention(q, k, v, self.border, impl=self.impl).flatten(-2) + self.value_bias
        a = F.relu(self.norm1(self.output(attended)) + memory)
        return F.relu(self.norm2(self.ff(a)) + a)


class NeighborConvolution(nn.Module):
    """The ablation: a 3x3 convolution over the grid of memories instead of the transformer (SimSID Table 2).

    Args:
        dim: C, dimension of the tokens.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        """Return (B, H, W, C) from the memory (B, H, W, C); the query is not used."""
        return F.relu(rearrange(self.conv(rearrange(memory, "b i j c -> b c i j")), "b c i j -> b i j c"))


class Rebuilt(NamedTuple):
    """What the block returns.

    Attributes:
        features: (B * P, C0, h, h).
        distance: outside training, the distance of each patch's token to its memory, |z - m|^2 / |z|^2, (B, P).
        entropy: in training, where the config weighs it, the mean entropy of the memory's weights, a scalar.
    """

    features: Tensor
    distance: Tensor | None
    entropy: Tensor | None


class InpaintingBlock(nn.Module):
    """Rebuild patch features from memory; input and output (B * P, C0, h, h), patches row-major.

    The steps: 1x1 convolution to C0/4, one token per patch, memory read, transformer layer over the grid, binary code
    of the patch index, 1x1 convolution back to C0, masked shortcut.

    Args:
        config: a `Config`; `inpainting`, the memory's fields, `heads`, `border`, `ff_dropout` and `shortcut` matter.
        impl: `auto`, `triton` or `torch`.
    """

    code: Tensor
    folded: Tensor | None

    def __init__(self, config: Config, impl: Impl = "auto") -> None:
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
        self.mix: nn.Module | None = None
        if config.inpainting == "transformer":
            self.mix = NeighborTransformer(config.token_dim, config.heads, config.border, config.ff_dropout, impl)
        elif config.inpainting == "convolution":
            self.mix = NeighborConvolution(config.token_dim)
        self.expand = Layers(nn.Conv2d(inner + bits, config.channels, 1), nn.BatchNorm2d(config.channels), nn.ReLU())
        index = torch.arange(config.patches)
        code = torch.stack([index >> bit & 1 for bit in reversed(range(bits))], dim=1)
        self.register_buffer("code", code[:, :, None, None].float(), persistent=False)  # (P, bits, 1, 1)
        # Keys and values of every slot, in a frozen copy.
        self.register_buffer("folded", None, persistent=False)

    def fold(self) -> None:
        """Keep every slot m with its key and value, [m, m.Wk^T, m.Wv^T], as the buffer `folded` (R, N, 3 C).

        A read of this buffer needs no projection. The bank and the projection must not change after that, except by a
        move to another device or dtype, which folds again. Without a transformer this does nothing.
        """
        if isinstance(self.mix, NeighborTransformer):
            bank, weight = self.memory.bank, self.mix.key_value.weight
            with torch.no_grad(), torch.autocast(bank.device.type, enabled=False):
                self.folded = torch.cat([bank, F.linear(bank, weight.to(bank.dtype))], dim=-1)

    def _apply(self, fn, recurse=True):
        """Move or cast as `nn.Module` does. What is folded is computed anew, because a cast would round it twice."""
        super()._apply(fn, recurse)
        if self.folded is not None:
            self.fold()
        return self

    def forward(self, features: Tensor) -> Tensor:
        """Return features (B * P, C0, h, h) rebuilt, of the same shape; in training with the masked shortcut."""
        return self.rebuild(features).features

    def rebuild(self, features: Tensor) -> Rebuilt:
        """Return what `forward` returns, with the distance and the entropy."""
        reduced = self.reduce(features)
        channels, size = reduced.shape[1:3]
        layout = layout_of(reduced)
        tokens = rearrange(reduced, "(b p) c h w -> b p (c h w)", p=self.grid**2)
        folded = None if self.training or torch.is_grad_enabled() else self.folded  # the kernels' read has no backward
        queries = tokens if self.scope == "patch" else rearrange(tokens, "b p c -> (b p) 1 c")
        entropy = None
        if self.entropy and self.training:
            read, weights = self.memory(queries, return_weights=True)
            # The entropy of a weight of zero is zero, but its derivative is infinite. (CUDA would compile
            # torch.special.entr at its first call.)
            weights = weights.clamp_min(1e-12)
            entropy = -(weights * weights.log()).sum(-1).mean()
        elif folded is not None:
            read = self.memory.read_values(queries, folded)
        else:
            read = self.memory(queries)
        read = read.reshape(*tokens.shape[:2], -1)
        remembered = read[..., : tokens.shape[2]]
        distance = None if self.training else _distance(tokens, remembered)
        if self.mix is not None:
            parts = [tokens, remembered] + ([] if folded is None else [read[..., tokens.shape[2] :]])
            as_grid = [rearrange(t, "b (i j) c -> b i j c", i=self.grid) for t in parts]
            remembered = rearrange(self.mix(*as_grid), "b i j c -> b (i j) c")
        rebuilt = to_map(remembered, "b p (c h w)", ("(b p)", "c", "h", "w"), layout, c=channels, h=size)
        code = self.code.to(rebuilt.dtype).repeat(tokens.shape[0], 1, 1, 1).expand(-1, -1, size, size)
        code = code.contiguous(memory_format=layout)
        out = self.expand(torch.cat([rebuilt, code], dim=1))
        return Rebuilt(masked_shortcut(out, features, self.shortcut, self.training), distance, entropy)


def _distance(tokens: Tensor, remembered: Tensor) -> Tensor:
    tokens, remembered = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (tokens, remembered))
    return (tokens - remembered).square().sum(-1) / tokens.square().sum(-1).clamp_min(1e-12)
