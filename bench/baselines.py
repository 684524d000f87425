"""What fastsquid is compared with: each published system's own order of work in eager PyTorch, and on a GPU the library
routines that come nearest to the neighbor attention.

`published` keeps the published code's structure (a loop over regions, shrinkage in three operations, neighbor windows
unfolded and all eight copies projected, the teacher in every pass, D one image at a time) and leaves out what is only
foolish. Everything takes the selection rule `published`. The modules take the parameters of ours, so that outputs and
gradients can be compared before anything is timed; each region's slots are a parameter of their own, as published.
"""

import torch
import torch.nn.functional as F
from torch import nn

from fastsquid.model.layers import Layers
from fastsquid.model.patches import to_image, to_patches
from fastsquid.training.losses import discriminator_loss, generator_loss


def memory_read(x, bank, top_k):
    """x (B, R, C), bank R times (N, C) -> (B, R, C), one region after the other."""
    return torch.stack([_read_region(x[:, r], slots, top_k) for r, slots in enumerate(bank)], dim=1)


def slots_by_region(memory):
    """A matrix as one parameter per region; a queue's buffer as it is."""
    if memory.kind == "queue":
        return memory.bank
    return nn.ParameterList([nn.Parameter(slots.detach().clone()) for slots in memory.bank])


def _read_region(x, slots, top_k):
    """Softmax, top-k shrinkage (threshold, mask, renormalisation) with straight-through gradient, weighted sum."""
    y = F.linear(x, slots).softmax(-1)
    kth = y.topk(top_k, dim=-1).values[:, -1:]
    h = torch.where(y > kth, y, 0.0)
    h = h / h.sum(-1, keepdim=True).clamp_min(1e-12)
    h = h.detach() - y.detach() + y
    return h @ slots


def queue_write(bank, pointer, rows):
    """rows (B, R, C) into bank (R, N, C) from slot `pointer` on (an int), one region after the other."""
    slots = bank.shape[1]
    for r in range(bank.shape[0]):
        end = pointer + rows.shape[0]
        if end <= slots:
            bank[r, pointer:end] = rows[:, r]
        else:
            bank[r, pointer:] = rows[: slots - pointer, r]
            bank[r, : end - slots] = rows[slots - pointer :, r]


def windows(x):
    """Eight neighbors of each patch, zeros outside: (B, H, W, C) -> (B * H * W, 8, C)."""
    batch, height, width, channels = x.shape
    unfolded = F.unfold(x.permute(0, 3, 1, 2), 3, padding=1).view(batch, channels, 9, height * width)
    around = unfolded[:, :, [0, 1, 2, 3, 5, 6, 7, 8]]
    return around.permute(0, 3, 2, 1).reshape(batch * height * width, 8, channels)


def neighbor_attention(q, k, v):
    """q, k, v (B, H, W, heads, D), border `pad`: the attention of `nn.MultiheadAttention` over unfolded windows."""
    q, k, v = _as_windows(q, k, v)
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return weights @ v


def gathered_attention(q, k, v, mask=None):
    """The same windows through scaled_dot_product_attention; mask (1 or B * H * W, 1, 1, 8), true where present."""
    return F.scaled_dot_product_attention(*_as_windows(q, k, v), attn_mask=mask)


def _as_windows(q, k, v):
    heads = q.shape[3]
    q = q.flatten(0, 2).unsqueeze(2)  # (B * H * W, heads, 1, D)
    k, v = (windows(t.flatten(3)).unflatten(2, (heads, -1)).transpose(1, 2) for t in (k, v))
    return q, k, v


def dense_attention(q, k, v, mask):
    """scaled_dot_product_attention of all patches with all, border `mask`; mask (H * W, H * W)."""
    q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))  # (B, heads, H * W, D)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def flex_attention(height, width, device):
    """FlexAttention compiled for the neighbors on a grid, border `mask`: a function of q, k, v."""
    from torch.nn.attention import flex_attention as flex

    def neighbor(b, h, i, j):
        rows, columns = (i // width - j // width).abs(), (i % width - j % width).abs()
        return (rows <= 1) & (columns <= 1) & (i != j)

    block_mask = flex.create_block_mask(neighbor, None, None, height * width, height * width, device=device)
    compiled = torch.compile(flex.flex_attention, dynamic=False)

    def attend(q, k, v):
        q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))
        return compiled(q, k, v, block_mask=block_mask).transpose(1, 2)

    return attend


class InpaintingBlock(nn.Module):
    """The published in-painting block around the parameters of ours; it keeps the queue's pointer on the host."""

    def __init__(self, ours):
        super().__init__()
        self.ours, self.pointer, self.tokens = ours, 0, None
        self.bank = slots_by_region(ours.memory)
        mix = ours.mix
        weight = mix.query.weight
        options = dict(batch_first=True, device=weight.device, dtype=weight.dtype)
        self.attention = nn.MultiheadAttention(weight.shape[0], mix.heads, **options)
        with torch.no_grad():
            self.attention.in_proj_weight.copy_(torch.cat([mix.query.weight, mix.key_value.weight]))
            self.attention.in_proj_bias.copy_(
                torch.cat([mix.query.bias, torch.zeros_like(mix.value_bias), mix.value_bias])
            )
            self.attention.out_proj.load_state_dict(mix.output.state_dict())

    def forward(self, features):
        ours, grid = self.ours, self.ours.grid
        reduced = ours.reduce(features)
        channels, size = reduced.shape[1:3]
        tokens = reduced.reshape(-1, grid**2, channels * size**2)
        self.tokens = tokens.detach()
        remembered = memory_read(tokens, self.bank, ours.memory.top_k)
        around = windows(remembered.unflatten(1, (grid, grid)))
        attended, _ = self.attention(tokens.flatten(0, 1).unsqueeze(1), around, around, need_weights=False)
        memory = remembered.flatten(0, 1)
        a = F.relu(ours.mix.norm1(attended.squeeze(1)) + memory)
        a = F.relu(ours.mix.norm2(ours.mix.ff(a)) + a)
        code = ours.code.to(a).repeat(tokens.shape[0], 1, 1, 1).expand(-1, -1, size, size)
        out = ours.expand(torch.cat([a.view(-1, channels, size, size), code], dim=1))
        if not self.training or ours.shortcut == 1:
            return out
        mask = torch.empty_like(out[:, :1]).bernoulli_(ours.shortcut)
        return mask * out + (1 - mask) * features

    @torch.no_grad()
    def commit(self):
        if self.ours.memory.kind == "queue":
            queue_write(self.ours.memory.bank, self.pointer, self.tokens)
            self.pointer = (self.pointer + self.tokens.shape[0]) % self.ours.memory.num_slots


def decoder_memory(patches, bank, top_k):
    """Sub-windows of all patches, one after the other: patches (B * P, C, h, w), bank 4 times (N, C / 4 * h * w)."""
    top, bottom = patches.chunk(2, dim=2)
    read = [
        _read_region(window.flatten(1), slots, top_k).view_as(window)
        for window, slots in zip((*top.chunk(2, dim=3), *bottom.chunk(2, dim=3)), bank)
    ]
    return torch.cat([torch.cat(read[:2], dim=3), torch.cat(read[2:], dim=3)], dim=2)


class Generator(nn.Module):
    """The published generator around the parameters of ours; the teacher runs in every pass."""

    def __init__(self, ours):
        super().__init__()
        self.ours, self.inpaint = ours, InpaintingBlock(ours.inpaint)
        self.banks = nn.ModuleList([slots_by_region(level.memory) for level in ours.student.memories])

    def forward(self, images):
        ours = self.ours
        *skips, deepest = ours.encoder(to_patches(images, ours.grid))
        skips = skips[::-1]
        student, student_levels = self.decode(ours.student, self.inpaint(deepest), skips)
        teacher, teacher_levels = self.decode(ours.teacher, deepest.detach(), [skip.detach() for skip in skips])
        return student, student_levels, teacher, teacher_levels

    def decode(self, decoder, x, skips):
        levels = []
        for i, block in enumerate(decoder.blocks):
            if i == decoder.combine:
                x = to_image(x, decoder.grid)
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            if i < decoder.skips:
                x = torch.cat([skips[i], x], dim=1)
            x = block(x)
            if i < len(decoder.memories):
                read = decoder_memory(x, self.banks[i], decoder.memories[i].memory.top_k)
                if self.training and decoder.shortcut < 1:
                    mask = torch.empty_like(x[:, :1]).bernoulli_(decoder.shortcut)
                    read = mask * read + (1 - mask) * x
                x = read
            levels.append(x)
        if decoder.combine == len(decoder.blocks):
            x = to_image(x, decoder.grid)
        return decoder.activation(decoder.output(x)), levels


class PublishedLayers(Layers):
    """Every layer as it is: the published code adds and trains every bias."""

    def forward(self, x, norm="running"):
        for layer in self:
            x = layer(x)
        return x


class Trainer:
    """The published iteration, in the order of work of the config; optimizers as published, PyTorch's defaults.

    It changes the layers of the detector that it gets.
    """

    def __init__(self, detector):
        self.detector, self.config = detector, detector.config
        for module in list(detector.modules()):
            for name, layers in module.named_children():
                if isinstance(layers, Layers):
                    setattr(module, name, PublishedLayers(*layers).requires_grad_(True))
        self.generator = Generator(detector.generator)
        c = self.config
        self.generator_optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=c.lr, betas=(c.beta1, c.beta2), weight_decay=c.weight_decay
        )
        self.discriminator_optimizer = torch.optim.Adam(
            detector.discriminator.parameters(), lr=c.lr, betas=(c.beta1, c.beta2)
        )

    def step(self, images, iteration):
        """As `fastsquid.training.trainer.Trainer.step`; the losses are read by the host, as the published code does."""
        config, discriminator = self.config, self.detector.discriminator
        images = self.detector.to_range(images)
        out = self.generator(images)
        loss = discriminator_loss(config, discriminator(images), discriminator(out[0].detach()))
        self.discriminator_optimizer.zero_grad()
        loss.backward()
        self.discriminator_optimizer.step()
        losses = {"discriminator": loss.item()}
        if iteration % config.generator_every == 0:
            if config.order == "separate":
                out = self.generator(images)
            loss, parts = generator_loss(config, images, _Reconstruction(*out), discriminator(out[0]))
            self.generator_optimizer.zero_grad()
            loss.backward()
            self.generator_optimizer.step()
            self.generator.inpaint.commit()
            losses |= {"generator": loss.item(), **{name: part.item() for name, part in parts.items()}}
        return losses


class _Reconstruction:
    def __init__(self, student, student_levels, teacher, teacher_levels):
        self.student, self.student_levels = student, student_levels
        self.teacher, self.teacher_levels = teacher, teacher_levels
        self.entropy = None


@torch.no_grad()
def scores(detector, generator, images):
    """The published score (B,): the batch through generator and teacher; then D, in training mode, image by image."""
    student = generator(detector.to_range(images))[0]
    return -torch.cat([detector.discriminator(image[None]) for image in student])
