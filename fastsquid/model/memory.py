"""SpaceAwareMemory, the drop-in module: a memory of normal features that belongs to a place (SQUID 3.2, SimSID 3.2)."""

import numbers
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor, nn

from ..ops import memory_read
from ..ops.checks import Selection, Shrinkage, check_name
from ..ops.dispatch import Impl
from .patches import layout_of, to_image, to_map, to_patches
from .published import Tensors, channel_first, memory_bank, memory_kind

Kind = Literal["matrix", "queue"]
Scope = Literal["patch", "subwindow", "global"]


class SpaceAwareMemory(nn.Module):
    """Replace each query by a weighted sum of the few most similar slots of its own region.

    A `matrix` is a learned bank, initialized uniformly within 1/sqrt(slot_dim). A `queue` holds the latest real
    features, first in, first out.

    Nothing is written until `commit()`, which stores the queries of the latest training forward. Evaluation never
    writes. A pass under `no_grad` does not replace queries from a pass with gradients.

    Args:
        num_regions: R, places that each have a bank of their own.
        num_slots: N, slots per region.
        slot_dim: C, dimension of queries and slots.
        top_k: active slots per query.
        kind: `matrix` or `queue`.
        selection: `exact` (the top_k most similar slots) or `published` (the slots strictly above the top_k-th, as in
            SQUID's released code).
        shrinkage: `gumbel` (top-k with straight-through gradient), `hard` (dots above `threshold`, MemAE) or `none`.
        threshold: of the shrinkage `hard`.
        impl: `auto`, `triton` or `torch`.

    Attributes:
        bank: slots (R, N, C), float; a parameter of a matrix, a buffer of a queue.
        pointer: int64 scalar, the slot that a queue writes next.
        filled: int64 scalar, how many slots a queue has filled.

    Raises:
        ValueError: a size below 1, top_k over num_slots, or an unknown kind, selection, shrinkage or impl.

    Example:
        >>> import torch
        >>> from fastsquid import SpaceAwareMemory
        >>> memory = SpaceAwareMemory(num_regions=4, num_slots=100, slot_dim=32, kind="queue")
        >>> queries = torch.randn(8, 4, 32)  # 8 images, 4 regions
        >>> features = memory(queries)  # nothing is filled yet: zeros
        >>> memory.commit()  # after the optimizer's step: the queue takes the queries
        >>> int(memory.filled)
        8
        >>> features, slots = memory.eval()(queries, return_indices=True)
        >>> features.shape, slots.shape
        (torch.Size([8, 4, 32]), torch.Size([8, 4, 5]))
    """

    kind: Kind
    selection: Selection
    shrinkage: Shrinkage
    impl: Impl
    bank: Tensor
    pointer: Tensor
    filled: Tensor
    reads: Tensor | None
    # Queries of the latest training forwards.
    _noted: Tensor | None
    _noted_without_grad: Tensor | None

    def __init__(
        self,
        num_regions: int,
        num_slots: int,
        slot_dim: int,
        top_k: int = 5,
        kind: Kind = "matrix",
        *,
        selection: Selection = "exact",
        shrinkage: Shrinkage = "gumbel",
        threshold: float = 0.0025,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        _check_sizes(num_regions=num_regions, num_slots=num_slots, slot_dim=slot_dim, top_k=top_k)
        if top_k > num_slots:
            raise ValueError(f"top_k = {top_k} is more than num_slots = {num_slots}: use top_k <= {num_slots}")
        check_name("kind", kind, get_args(Kind))
        check_name("selection", selection, get_args(Selection))
        check_name("shrinkage", shrinkage, get_args(Shrinkage))
        check_name("impl", impl, get_args(Impl))
        self.num_regions, self.num_slots, self.slot_dim, self.top_k = num_regions, num_slots, slot_dim, top_k
        self.kind, self.selection, self.impl = kind, selection, impl
        self.shrinkage, self.threshold = shrinkage, threshold
        bank = torch.empty(num_regions, num_slots, slot_dim)
        if kind == "matrix":
            self.bank = nn.Parameter(bank)
        else:
            self.register_buffer("bank", bank)
            self.register_buffer("pointer", torch.empty((), dtype=torch.int64))
            self.register_buffer("filled", torch.empty((), dtype=torch.int64))
        # Queries that activated each slot; a diagnosis, not part of the state. None counts none.
        self.register_buffer("reads", torch.empty(num_regions, num_slots, dtype=torch.int64), persistent=False)
        self.reset_parameters()
        self.register_load_state_dict_post_hook(_forget)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the slots of a matrix anew from U(-1 / sqrt(slot_dim), 1 / sqrt(slot_dim)), or empty a queue."""
        if self.kind == "matrix":
            bound = self.slot_dim**-0.5
            self.bank.uniform_(-bound, bound)
        else:
            for buffer in (self.bank, self.pointer, self.filled):
                buffer.zero_()
        _forget(self)

    @classmethod
    def from_published(
        cls, state_dict: Tensors, prefix: str, top_k: int = 5, *, channels: int | None = None, impl: Impl = "auto"
    ) -> "SpaceAwareMemory":
        """Return one memory of a checkpoint of SQUID's or SimSID's released code, which reads as that code did.

        Args:
            state_dict: of a generator, as `torch.load(path, weights_only=True)` returns it.
            prefix: of the memory's names, such as `inpaint_block.` or `memory_blocks.0.`; its banks are
                `{prefix}memory.{region}.memMatrix`, (num_slots, slot_dim) each.
            top_k: as the checkpoint was trained; the released configurations have 5.
            channels: of the feature map that a decoder's memory of SQUID follows. Its slots are flattened sub-windows,
                channel-last; with `channels` they are reordered channel-first, as `SpaceAwareMemory2d` and SimSID
                flatten them. Without `channels`, the memory expects queries in the checkpoint's own order.
            impl: `auto`, `triton` or `torch`.

        Returns:
            a memory in training mode, float32. Its regions, slots, slot_dim and kind (as `published.memory_kind` finds
            it) are the checkpoint's, and its selection is `published`. A queue counts as full and is written from slot
            0 on, because the checkpoint does not hold its pointer.

        Raises:
            ValueError: no memory has this prefix (the message names the prefixes that exist), its banks are not of one
                shape, or channels do not divide slot_dim.
        """
        bank = memory_bank(state_dict, prefix).float()
        regions, slots, dim = bank.shape
        if channels is not None:
            if channels < 1 or dim % channels:
                raise ValueError(f"channels = {channels} does not divide slot_dim = {dim}")
            bank = channel_first(bank, channels)
        kind = memory_kind(state_dict, prefix)
        memory = cls(regions, slots, dim, top_k, kind, selection="published", impl=impl)
        with torch.no_grad():
            memory.bank.copy_(bank)
            if kind == "queue":
                memory.filled.fill_(slots)
        return memory

    def forward(
        self, x: Tensor, return_weights: bool = False, return_indices: bool = False
    ) -> Tensor | tuple[Tensor, ...]:
        """Read the memory.

        Args:
            x: queries (B, R, C), floating point; B may be 0.
            return_weights: also return the weights (B, R, N). Slots that are not active have weight 0. Only the
                shrinkage `hard` gives the weights a gradient.
            return_indices: also return the active slots (B, R, k), int64, largest weight first, -1 where fewer than
                k slots are active; k is N for the shrinkages without a top_k.

        Returns:
            out (B, R, C) in x's dtype; where asked for, a tuple (out, [weights], [indices]).

        Raises:
            ValueError: x is not (B, num_regions, slot_dim).
        """
        out, weights, indices = self._read(x, None)
        if not (return_weights or return_indices):
            return out
        result = [out]
        if return_weights:
            result.append(weights if indices is None else self._dense(weights, indices))
        if return_indices:
            if indices is None:
                largest, indices = weights.sort(dim=-1, descending=True, stable=True)
                indices = indices.masked_fill(largest == 0, -1)
            result.append(indices)
        return tuple(result)

    def read_values(self, x: Tensor, values: Tensor) -> Tensor:
        """Read the memory, but sum rows of `values` in place of the slots; for inference inside fastsquid.

        Args:
            x: queries (B, R, C), floating point.
            values: one row per slot, (R, N, V), in the bank's dtype.

        Returns:
            (B, R, V) in x's dtype.
        """
        return self._read(x, values)[0]

    def _read(self, x: Tensor, values: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the output, weights and indices of `ops.memory_read`; note queries and count reads."""
        if x.dim() != 3 or x.shape[1:] != (self.num_regions, self.slot_dim):
            raise ValueError(
                f"SpaceAwareMemory expects queries of shape (B, {self.num_regions}, {self.slot_dim}), "
                f"got {tuple(x.shape)}"
            )
        out, weights, indices = memory_read(
            x,
            self.bank,
            self.top_k,
            self.selection,
            self.shrinkage,
            self.threshold,
            self.filled if self.kind == "queue" else None,
            values,
            impl=self.impl,
        )
        self._count(weights, indices)
        if self.kind == "queue" and self.training:
            if getattr(self, "_is_replica", False):  # noted on a copy that is thrown away
                raise RuntimeError("a queue cannot be trained under DataParallel: use DistributedDataParallel")
            # Two attributes that are only written here: a condition on one would compile a graph for each outcome.
            # A copy, because the caller may change x before `commit()`.
            if torch.is_grad_enabled():
                self._noted = x.detach().clone()
            else:
                self._noted_without_grad = x.detach().clone()
        return out, weights, indices

    def _dense(self, weights: Tensor, indices: Tensor) -> Tensor:
        """Return the weights of every slot (B, R, N) from those of the chosen slots (B, R, k)."""
        return weights.new_zeros(*weights.shape[:2], self.num_slots).scatter_add(-1, indices.clamp_min(0), weights)

    @torch.no_grad()
    def _count(self, weights: Tensor, indices: Tensor | None) -> None:
        """Add the slots that each query activated to `reads`."""
        if self.reads is None:
            return
        if indices is None:
            self.reads += (weights != 0).sum(0)
        else:
            by_region = indices.transpose(0, 1).flatten(1)  # (R, B * k)
            self.reads.scatter_add_(1, by_region.clamp_min(0), (by_region >= 0).to(self.reads.dtype))

    @torch.no_grad()
    def commit(self) -> None:
        """Write the queries of the latest training-mode forward into the queue, and forget them.

        Row i of the batch goes to slot (pointer + i) mod N, in all regions alike. Of a batch larger than N the last N
        rows stay. Without such queries, and for a matrix, nothing happens. Where torch.distributed has several
        processes, all of them must commit together: each writes the rows of every process, in the order of the ranks,
        so that their queues stay the same.
        """
        noted = self._noted_without_grad if self._noted is None else self._noted
        self._noted = self._noted_without_grad = None
        if noted is None:
            if self.kind != "queue" or not (dist.is_available() and dist.is_initialized()):
                return
            noted = self.bank.new_zeros(0, self.num_regions, self.slot_dim)  # another process may have queries
        rows = _gather_rows(noted.to(self.bank.dtype))
        count = rows.shape[0]
        kept = rows[-self.num_slots :].transpose(0, 1)  # (R, <= N, C)
        first = self.pointer + (count - kept.shape[1])
        slots = (first + torch.arange(kept.shape[1], device=rows.device)) % self.num_slots
        self.bank.index_copy_(1, slots, kept)
        if self.reads is not None:
            self.reads.index_fill_(1, slots, 0)
        self.pointer.copy_((self.pointer + count) % self.num_slots)
        self.filled.copy_((self.filled + count).clamp_max(self.num_slots))

    def usage(self) -> dict[str, Tensor]:
        """Return how the slots are used since construction or `reset_usage()`.

        The count of a queue's slot starts when the slot is written.

        Returns:
            dict of tensors (R,): `active`, the number of slots that some query activated; `dead`, the number of
            (filled) slots that no query activated; `entropy` of the reads over slots, in nats, at most log N.
        """
        assert self.reads is not None
        active = (self.reads > 0).sum(-1)
        filled = self.filled if self.kind == "queue" else self.num_slots
        share = self.reads / self.reads.sum(-1, keepdim=True).clamp_min(1)
        entropy = torch.special.entr(share).sum(-1)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return {"active": active, "dead": filled - active, "entropy": entropy}

    def reset_usage(self) -> None:
        """Forget the counts that `usage()` returns."""
        assert self.reads is not None
        self.reads.zero_()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the queries that were noted for `commit()`."""
        return {**self.__dict__, "_noted": None, "_noted_without_grad": None}

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return (
            f"num_regions={self.num_regions}, num_slots={self.num_slots}, slot_dim={self.slot_dim}, "
            f"top_k={self.top_k}, kind={self.kind}, selection={self.selection}, shrinkage={self.shrinkage}"
        )


def _check_sizes(**sizes: int) -> None:
    """Check that sizes are whole numbers of at least 1.

    Raises:
        ValueError: one is not.
    """
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"{name} = {value!r} should be a whole number of at least 1")


def _forget(memory: SpaceAwareMemory, _: object = None) -> None:
    """Forget counts and noted queries, which are of slots that have been replaced."""
    if memory.reads is not None:
        memory.reads.zero_()
    memory._noted = memory._noted_without_grad = None


class SpaceAwareMemory2d(nn.Module):
    """Read a feature map from memory: cut it into regions, read their memory, stitch the map back.

    Args:
        channels: C of the map.
        size: (H, W) of the map.
        grid: G, patches per side.
        num_slots: slots per bank.
        scope: `patch`, one query and one bank per patch (the papers' text); `subwindow`, one query per 2x2 sub-window
            of each patch and one bank per sub-window position, shared by all patches (the published code); `global`,
            the same queries and one bank for all of them (the ablation).
        **options: of `SpaceAwareMemory`, which is the attribute `memory`.

    Raises:
        ValueError: size is not two numbers, grid (or sub-windows) do not divide a size, an unknown scope, and as
            `SpaceAwareMemory`.

    Example:
        >>> import torch
        >>> from fastsquid import SpaceAwareMemory2d
        >>> layer = SpaceAwareMemory2d(channels=16, size=(8, 8), grid=2, num_slots=50)
        >>> layer(torch.randn(3, 16, 8, 8)).shape
        torch.Size([3, 16, 8, 8])
        >>> layer.memory.bank.shape  # 4 patches of 16 x 4 x 4 numbers
        torch.Size([4, 50, 256])
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        grid: int,
        num_slots: int,
        scope: Scope = "patch",
        **options: Any,
    ) -> None:
        super().__init__()
        check_name("scope", scope, get_args(Scope))
        self.grid, self.scope = grid, scope
        try:
            height, width = size
        except (TypeError, ValueError):
            raise ValueError(f"size = {size!r} should be (height, width)") from None
        _check_sizes(channels=channels, height=height, width=width, grid=grid)
        self.shape = (channels, height, width)
        windows = 1 if scope == "patch" else 2  # a side of a patch
        if height % (grid * windows) or width % (grid * windows):
            raise ValueError(
                f"a map of {height} x {width} cannot be cut into {grid * windows} x {grid * windows} "
                f"windows (grid = {grid}, scope = {scope}): both sides should be multiples of {grid * windows}"
            )
        regions = {"patch": grid**2, "subwindow": 4, "global": 1}[scope]
        self.memory = SpaceAwareMemory(
            regions, num_slots, channels * (height // grid // windows) * (width // grid // windows), **options
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the map rebuilt from memory.

        Args:
            x: (B, C, H, W), floating point.

        Returns:
            a tensor of x's shape, dtype and memory layout.

        Raises:
            ValueError: another C, H or W than the module's.
        """
        if x.shape[1:] != self.shape:
            raise ValueError(
                "SpaceAwareMemory2d expects a map of shape (B, {}, {}, {}), got ".format(*self.shape)
                + f"{tuple(x.shape)}"
            )
        return to_image(self.read_patches(to_patches(x, self.grid)), self.grid)

    def read_patches(self, patches: Tensor) -> Tensor:
        """Return patches (B * G^2, C, h, w) rebuilt from memory, as `forward` does with those of a map."""
        channels, height, _ = patches.shape[1:]
        layout = layout_of(patches)
        if self.scope == "patch":
            out = self.memory(rearrange(patches, "(b p) c h w -> b p (c h w)", p=self.grid**2))
            return to_map(out, "b p (c h w)", ("(b p)", "c", "h", "w"), layout, c=channels, h=height)
        windows = rearrange(patches, "b c (u h) (v w) -> b (u v) (c h w)", u=2, v=2)
        if self.scope == "global":
            windows = rearrange(windows, "b w d -> (b w) 1 d")
        out = self.memory(windows)
        if self.scope == "global":
            out = rearrange(out, "(b w) 1 d -> b w d", w=4)
        return to_map(out, "b (u v) (c h w)", ("b", "c", "(u h)", "(v w)"), layout, u=2, c=channels, h=height // 2)

    def commit(self) -> None:
        """Write the latest training-mode forward into a queue, as `SpaceAwareMemory.commit`."""
        self.memory.commit()

    def usage(self) -> dict[str, Tensor]:
        """Return `SpaceAwareMemory.usage`; regions are row-major patches, or sub-windows, or the one of `global`."""
        return self.memory.usage()


def _gather_rows(rows: Tensor) -> Tensor:
    """Return the rows (n, ...) of every process of torch.distributed, process after process; n may differ."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    counts = _gather(torch.tensor([len(rows)], device=rows.device)).tolist()
    if not any(counts):
        return rows
    padded = rows.new_zeros(max(counts), *rows.shape[1:])  # tensors that are gathered have one shape
    padded[: len(rows)] = rows
    parts = _gather(padded).split(len(padded))
    return torch.cat([some[:count] for some, count in zip(parts, counts)])


def _gather(values: Tensor) -> Tensor:
    """Return the tensors (n, ...) of every process, one after the other, where all have the same shape."""
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values)  # pyright: ignore[reportUnknownMemberType]
    return torch.cat(parts)
