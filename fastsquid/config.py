"""Every number of both papers in one dataclass, the presets, and the table of scores.

`Config` has the values of the SQUID paper by default. `PRESETS` holds what each other preset changes. `ABLATIONS` holds
what each row of the papers' ablation tables changes. `Config` rejects values that do not fit together when it is
built, and its error names values that fit.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

from .errors import UserError


@dataclass(frozen=True)
class Score:
    """One anomaly score; larger = more abnormal. `Detector.scores` defines the scores.

    Attributes:
        label: name of the score in figures and reports.
        color: of its curves. Neighbors in `SCORES` have colors that differ for people who are color-blind.
        given: function that takes a `Config` and returns whether its detector gives the score.
    """

    label: str
    color: str
    given: Callable[["Config"], bool]


# A new score needs an entry here and in `Config.score`, and its value in `Detector.scores`.
SCORES: dict[str, Score] = {
    "discriminator": Score("discriminator (the papers' score)", "#d55e00", lambda c: c.rejects),
    "discriminator_running": Score(
        "discriminator, running statistics",
        "#e69f00",
        lambda c: c.rejects and c.discriminator_norm == "batch",
    ),
    "discriminator_image": Score("discriminator of the image itself", "#cc79a7", lambda c: c.discriminator),
    "residual": Score("residual", "#0072b2", lambda c: True),
    "patch_residual": Score("worst patch's residual", "#009e73", lambda c: True),
    "memory_distance": Score("distance to memory", "#56b4e9", lambda c: c.inpainting != "off"),
    "combined": Score(
        "combined: both of the discriminator",
        "#000000",
        lambda c: c.rejects and c.score == "combined",
    ),
}
# The scores that `combined` adds.
COMBINED = ("discriminator", "discriminator_image")


class ConfigError(UserError):
    """A configuration that cannot be built."""


def _option(default: object, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Config:
    """Architecture, losses and schedule of one detector.

    Defaults are SQUID as the paper describes it (Xiang et al., CVPR 2023, sections 3 and 5.1).

    Raises:
        ConfigError: a value of the wrong type or range, or values that do not fit together.
    """

    preset: str = _option("squid", "name of the preset this configuration started from")

    # Sizes
    image_size: int = _option(128, "side of the square image in pixels")
    width: int = _option(32, "channels of the first block; each level doubles them")
    levels: int = _option(4, "stride-2 levels of the encoder, and levels of each decoder")
    grid: int = _option(2, "patches per side: the image is cut into grid x grid patches")
    discriminator_width: int = _option(128, "channels of the discriminator's last convolution")
    discriminator_stride: int = _option(
        32, "side in pixels of a cell of the discriminator's last feature map: 32, or 16 or 8 for finer maps"
    )
    value_range: Literal["unit", "symmetric"] = _option(
        "unit", "range of images inside the model: unit = [0, 1] and sigmoid, symmetric = [-1, 1] and tanh"
    )

    crop: bool = _option(False, "crop every image to its exposed field before resizing it")
    standardize: bool = _option(
        False, "shift and scale every image to mean 1/2 and standard deviation 1/5 before the model, cut to [0, 1]"
    )

    # Memory (SQUID 3.2, SimSID 3.2)
    memory: Literal["queue", "matrix"] = _option(
        "queue", "kind of the in-painting memory; decoder memories are matrices"
    )
    slots: int = _option(200, "slots per region in every memory")
    top_k: int = _option(5, "active slots per query")
    selection: Literal["exact", "published"] = _option(
        "exact", "exact = top_k slots, ties to the lowest index; published = slots strictly above the top_k-th"
    )
    shrinkage: Literal["gumbel", "hard", "none"] = _option(
        "gumbel", "gumbel = top-k with straight-through gradient; hard = dots above shrink_threshold; none = softmax"
    )
    shrink_threshold: float = _option(0.0025, "threshold of hard shrinkage")
    memory_scope: Literal["patch", "global"] = _option("patch", "in-painting memory: one bank per patch, or for all")
    decoder_memory: int = _option(2, "number of deepest student levels followed by a memory; 0 = none")
    decoder_scope: Literal["patch", "subwindow", "global"] = _option(
        "subwindow",
        "decoder memories: one bank per patch, per 2x2 sub-window shared by all patches, or for all",
    )

    # In-painting block (SQUID 3.3, SimSID 3.3)
    inpainting: Literal["transformer", "convolution", "memory", "off"] = _option(
        "transformer",
        "what follows the memory read in the in-painting block: a transformer layer, a 3x3 convolution "
        "over the patch grid, nothing (memory), or no block at all (off)",
    )
    border: Literal["pad", "mask"] = _option(
        "pad", "neighbors outside the image: a key of logit 0 and value 0, or none"
    )
    heads: int = _option(8, "attention heads of the transformer layer")
    ff_dropout: float = _option(0.0, "dropout in the transformer's feed-forward layer")
    shortcut: float = _option(
        0.95, "probability that a cell takes the in-painted feature, not the shortcut; 1 = no shortcut"
    )
    patch_dropout: float = _option(
        0.0, "probability that an input patch is zeroed in training (pixel-level in-painting)"
    )

    # Generators
    skips: int = _option(2, "number of deepest decoder levels with an encoder skip; 0 = none")
    combine: int = _option(2, "patches are stitched into the image before this decoder level upsamples")
    distillation: bool = _option(True, "train a teacher generator and distill it into the student; false = no teacher")
    stop_gradient: bool = _option(True, "detach the teacher's input and skips from the encoder")
    discriminator: bool = _option(True, "train a discriminator and its part of the generator's loss; false = none")
    discriminator_head: Literal["image", "cells"] = _option(
        "image", "image = one logit, linear in the last feature map; cells = one logit per cell, and their soft minimum"
    )
    discriminator_norm: Literal["batch", "instance"] = _option(
        "batch",
        "the discriminator's normalization; instance = each image by its own statistics, in training and scoring",
    )
    reject_reconstructions: bool = _option(
        True,
        "the discriminator also learns to reject reconstructions, and the generator to be accepted; false = it learns "
        "healthy images and `negatives` alone",
    )
    spectral_norm: bool = _option(False, "divide each of the discriminator's weights by its spectral norm")

    sync_batchnorm: bool = _option(
        False,
        "several processes (torchrun) on GPUs normalize by the statistics of the whole batch, not of their own part",
    )

    # Losses and schedule (SQUID 4.4, SimSID 4)
    student_weight: float = _option(10.0, "weight of the student's squared error")
    teacher_weight: float = _option(0.01, "weight of the teacher's squared error")
    distillation_weight: float = _option(0.001, "weight of the distillation loss")
    adversarial_weight: float = _option(0.005, "weight of the generator's adversarial loss")
    discriminator_weight: float = _option(0.005, "weight of the discriminator's loss")
    gradient_penalty: float = _option(
        0.0, "weight, in the discriminator's loss, of half its squared input gradient on real images (R1); 0 = none"
    )
    entropy_weight: float = _option(0.0, "weight of the entropy of hard shrinkage's weights (MemAE)")
    negatives: Literal["none", "haze", "opacity", "both", "cutpaste", "rectangles", "anatpaste"] = _option(
        "none", "synthetic anomalies, drawn into healthy images, that the discriminator also learns to reject"
    )
    negative_weight: float = _option(1.0, "weight of the loss on these images, beside that on reconstructions")
    cell_weight: float = _option(
        1.0, "weight of the loss of each cell of discriminator_head cells, whose target is the synthetic anomaly's mask"
    )
    order: Literal["separate", "shared"] = _option(
        "separate", "generator forward passes per iteration: one for each network's step, or one shared by both"
    )
    generator_every: int = _option(2, "the generator steps in iterations 0, N, 2N, ... of an epoch")
    contamination: float = _option(
        0.0, "share of the training images, their number unchanged, that is abnormal (where the data has such images)"
    )
    epochs: int = _option(200, "passes over the training images")
    batch_size: int = _option(16, "images per training step")
    lr: float = _option(1e-4, "learning rate at the first epoch")
    lr_final: float = _option(2e-5, "learning rate at the end of the cosine schedule")
    decay_discriminator: bool = _option(True, "the discriminator's learning rate follows the cosine too")
    beta1: float = _option(0.5, "Adam's first-moment decay")
    beta2: float = _option(0.999, "Adam's second-moment decay")
    weight_decay: float = _option(1e-5, "weight decay of the generator")
    rotation: float = _option(0.0, "augmentation: largest rotation in degrees")
    closer: float = _option(0.0, "augmentation: further scale between 1 and 1 + closer, as of a tightly cropped X-ray")
    appearance: float = _option(0.0, "augmentation: strength of random gamma, blur and noise; 0 = none, 1 = usual")
    shift: float = _option(0.05, "augmentation: largest shift, as a fraction of the side")
    zoom: float = _option(0.05, "augmentation: scale between 1 - zoom and 1 + zoom")
    averaging: float = _option(
        0.0, "decay per generator step of the running mean of the discriminator that scores; 0 = the latest one scores"
    )
    score: Literal[
        "discriminator",
        "discriminator_running",
        "discriminator_image",
        "residual",
        "patch_residual",
        "memory_distance",
        "combined",
    ] = _option("discriminator", "the score that ranks, calibrates and selects")
    select: Literal["auc", "last"] = _option(
        "auc",
        "epoch of the reported detector: auc = highest validation AUC of `score` (the papers' protocol), or the last "
        "where no validation image has a label; last = the last",
    )
    monitor: bool = _option(False, "every epoch also writes AUCs of perturbed validation images")

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, _checked(f, getattr(self, f.name)))
        self._check_ranges()
        self._check_sizes()

    @property
    def patches(self) -> int:
        """Number of patches per image."""
        return self.grid**2

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.image_size // self.grid

    @property
    def channels(self) -> int:
        """Channels C0 of the encoder's output."""
        return self.width * 2**self.levels

    @property
    def feature_size(self) -> int:
        """Side h of a patch's feature map at the encoder's output."""
        return self.patch_size >> self.levels

    @property
    def token_dim(self) -> int:
        """Dimension C of a patch's token, C0/4 * h * h."""
        return self.channels // 4 * self.feature_size**2

    @property
    def rejects(self) -> bool:
        """Whether there is a discriminator that learns to reject reconstructions."""
        return self.discriminator and self.reject_reconstructions

    @property
    def logit(self) -> str | None:
        """Name of the score that is minus the discriminator's logit; None without a discriminator.

        It is `score`, if that is such a score. Else it is the papers' score, or the image's if that is not given.
        """
        if not self.discriminator:
            return None
        papers = "discriminator" if self.rejects else "discriminator_image"
        return self.score if self.score.startswith("discriminator") else papers

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores that a detector of this configuration gives, in the order of `SCORES`."""
        return tuple(name for name, score in SCORES.items() if score.given(self))

    @property
    def map(self) -> str:
        """Name of the heat map that explains the ranking score, as `maps.forward_maps` names them."""
        by_cells = self.discriminator_head == "cells" and self.score in (*COMBINED, "combined")
        return self.score if by_cells else "residual"

    def to_dict(self) -> dict[str, Any]:
        """Return {field: value}, which JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Return the configuration that a record holds, such as the config.json of a run.

        Args:
            values: {field: value}, as `to_dict` gives it. A missing field has its default. The former choice
                `synthetic` of `select` becomes `last`.

        Raises:
            ConfigError: unknown field, or values that do not fit together.
        """
        # No epoch can be selected by synthetic opacities any more. The checkpoint still holds the epoch that was.
        if values.get("select") == "synthetic":
            values = {**values, "select": "last"}
        return cls(**_known(values))

    def _check_ranges(self) -> None:
        for name in (
            "image_size",
            "width",
            "levels",
            "grid",
            "discriminator_width",
            "slots",
            "top_k",
            "heads",
            "generator_every",
            "epochs",
            "batch_size",
        ):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
            _require(getattr(self, name) < 2**31, name, getattr(self, name), "below 2**31")
        _require(self.levels <= 16, "levels", self.levels, "at most 16")
        stride = self.discriminator_stride
        _require(stride in (8, 16, 32), "discriminator_stride", stride, "8, 16 or 32")
        for name in ("decoder_memory", "skips", "combine"):
            _require(
                0 <= getattr(self, name) <= self.levels,
                name,
                getattr(self, name),
                f"between 0 and levels = {self.levels}",
            )
        for name in ("ff_dropout", "patch_dropout", "shift", "zoom", "beta1", "beta2", "averaging", "contamination"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and below 1")
        _require(0 < self.shortcut <= 1, "shortcut", self.shortcut, "above 0 and at most 1 (1 = no shortcut)")
        for name in (
            "student_weight",
            "teacher_weight",
            "distillation_weight",
            "adversarial_weight",
            "discriminator_weight",
            "gradient_penalty",
            "entropy_weight",
            "negative_weight",
            "cell_weight",
            "rotation",
            "closer",
            "appearance",
            "lr",
            "lr_final",
            "weight_decay",
            "shrink_threshold",
        ):
            value = getattr(self, name)
            _require(value >= 0 and math.isfinite(value), name, value, "finite and not negative")

        if not self.reject_reconstructions:
            if not self.discriminator:
                raise ConfigError(
                    "reject_reconstructions = False needs a discriminator: use reject_reconstructions true without one"
                )
            if self.negatives == "none":
                raise ConfigError(
                    "reject_reconstructions = False leaves the discriminator nothing to reject: use negatives haze or "
                    "another kind, or reject_reconstructions true"
                )
        if self.score not in self.scores:
            raise ConfigError(
                f"score = {self.score} is not one that this configuration gives: use {', '.join(self.scores)}"
            )
        if self.negatives != "none" and not self.discriminator:
            raise ConfigError(f"negatives = {self.negatives} needs a discriminator: use negatives none without one")
        for name in ("spectral_norm", "gradient_penalty"):  # they need one logit per image
            if self.discriminator_head == "cells" and getattr(self, name):
                raise ConfigError(
                    f"discriminator_head = cells cannot be used with {name}: use discriminator_head image"
                )
        if self.averaging and not self.discriminator:
            raise ConfigError(f"averaging = {self.averaging} needs a discriminator: use averaging 0 without one")
        if self.entropy_weight and (self.shrinkage != "hard" or self.inpainting == "off"):
            raise ConfigError(
                f"entropy_weight = {self.entropy_weight} needs an in-painting memory with hard shrinkage: "
                "use shrinkage hard, or entropy_weight 0"
            )

    def _check_sizes(self) -> None:
        if self.top_k > self.slots:
            raise ConfigError(f"top_k = {self.top_k} is more than slots = {self.slots}: use top_k <= {self.slots}")
        step = 2**self.levels
        if self.image_size % (self.grid * step):
            sizes = sorted(
                {
                    max(1, n) * self.grid * step
                    for n in (self.image_size // (self.grid * step), self.image_size // (self.grid * step) + 1)
                }
            )
            grids = [g for g in range(1, 33) if self.image_size % (g * step) == 0]
            also = f", or grid {' or '.join(map(str, grids))} with image_size {self.image_size}" if grids else ""
            raise ConfigError(
                f"image_size = {self.image_size} cannot be cut into {self.grid} x {self.grid} patches whose side is a "
                f"multiple of {step} (levels = {self.levels}): use image_size {' or '.join(map(str, sizes))}{also}"
            )
        if self.discriminator and self.image_size <= self.discriminator_stride:
            raise ConfigError(
                f"image_size = {self.image_size} leaves the discriminator a single cell (discriminator_stride = "
                f"{self.discriminator_stride}), which has no variance to normalize an image by: use a larger image_size"
            )
        if self.patches * self.feature_size == 1:
            raise ConfigError(
                f"levels = {self.levels} leaves a single cell of the whole image, which a batch of one image "
                f"cannot be normalized by: use levels <= {self.levels - 1}, or grid 2 or more"
            )
        if self.channels % 4:
            raise ConfigError(
                f"width = {self.width} gives {self.channels} channels at the encoder's output, which the "
                f"in-painting block must divide by 4: use width {2 * self.width} or {4 * self.width}"
            )
        if self.inpainting == "transformer" and self.token_dim % self.heads:
            fit = [h for h in range(1, min(self.token_dim, 64) + 1) if self.token_dim % h == 0]
            raise ConfigError(
                f"heads = {self.heads} does not divide the token dimension {self.token_dim}: "
                f"use heads {' or '.join(map(str, fit))}"
            )
        if self.inpainting == "transformer" and self.border == "mask" and self.grid == 1:
            raise ConfigError(
                "border = mask leaves a 1 x 1 grid without any neighbor: use border pad, or grid 2 or more"
            )
        for name in ("decoder_memory", "skips"):
            if getattr(self, name) > self.combine:
                raise ConfigError(
                    f"{name} = {getattr(self, name)} reaches levels where the patches are already stitched "
                    f"(combine = {self.combine}): use {name} <= {self.combine}"
                )


def _checked(f: "dataclasses.Field[Any]", value: Any) -> Any:
    """Return the value in the field's type, or raise a ConfigError."""
    kind: Any = f.type
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            near = difflib.get_close_matches(str(value).lower(), get_args(kind), 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(f"{f.name} = {value!r} is not one of {', '.join(get_args(kind))}{hint}")
        return value
    if kind is float and type(value) is int and abs(value) < 2**1023:  # a larger one has no float
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{f.name} = {value!r} should be of type {kind.__name__}")
    return value


def _require(holds: bool, name: str, value: object, what: str) -> None:
    if not holds:
        raise ConfigError(f"{name} = {value} should be {what}")


def _known(values: Mapping[str, Any]) -> Mapping[str, Any]:
    names = [f.name for f in dataclasses.fields(Config)]
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f": did you mean {near[0]}?" if near else f": the fields are {', '.join(names)}"
            raise ConfigError(f"unknown config field {name!r}{hint}")
    return values


_SIMSID: dict[str, Any] = dict(
    memory="matrix", grid=4, slots=100, shortcut=1.0, value_range="symmetric", discriminator_width=256, order="shared"
)
_SMALL: dict[str, Any] = dict(image_size=64, width=16)
# DigitAnatomy (SQUID 4.1), in under three minutes on two CPU cores. An image has 3 cells of 16 pixels per side.
DIGITS: dict[str, Any] = dict(
    image_size=48, width=8, levels=3, grid=3, decoder_scope="patch", order="shared", epochs=12, lr=1e-3, select="last"
)
# Ours: the average of the discriminator over steps scores, and each image's exposure is standardized.
_FASTSQUID: dict[str, Any] = dict(_SIMSID, standardize=True, averaging=0.995)
# For X-rays: the discriminator also learns from synthetic lung anomalies, cell by cell, in images of varied framing.
_XRAY: dict[str, Any] = dict(
    _FASTSQUID,
    crop=True,
    negatives="haze",
    discriminator_head="cells",
    discriminator_stride=16,
    discriminator_norm="instance",
    discriminator_width=128,
    rotation=10.0,
    closer=0.4,
    appearance=0.5,
    lr=6e-4,
    averaging=0.993,
    epochs=12,
    score="combined",
    select="last",
)
# Baselines of the papers: encoder and student with the squared error alone; then with one global memory between them.
_AUTO_ENCODER: dict[str, Any] = dict(
    inpainting="off",
    skips=0,
    decoder_memory=0,
    distillation=False,
    discriminator=False,
    shortcut=1.0,
    generator_every=1,
    score="residual",
)
_MEMAE: dict[str, Any] = dict(
    _AUTO_ENCODER,
    inpainting="memory",
    memory="matrix",
    memory_scope="global",
    slots=2000,
    shrinkage="hard",
    entropy_weight=0.0002,
)

# Baselines of the field: a classifier of healthy images and of the same with a pasted patch. The generator is no part
# of it, so it is small and seldom steps. Networks and schedule are ours.
_CUTPASTE: dict[str, Any] = dict(
    _AUTO_ENCODER,
    width=8,
    generator_every=8,
    standardize=True,
    discriminator=True,
    discriminator_norm="instance",
    reject_reconstructions=False,
    negatives="rectangles",
    lr=6e-4,
    epochs=12,
    score="discriminator_image",
    select="last",
)
_ANATPASTE: dict[str, Any] = dict(_CUTPASTE, negatives="anatpaste")

PRESETS: dict[str, dict[str, Any]] = {
    # The papers
    "squid": dict(),
    "simsid": _SIMSID,
    # What the authors' published code computes
    "squid-published": dict(selection="published", decay_discriminator=False),
    "simsid-published": dict(_SIMSID, grid=2, slots=200, selection="published", decay_discriminator=False),
    # Ours
    "fastsquid": _XRAY,
    # Baselines
    "auto-encoder": _AUTO_ENCODER,
    "memae": _MEMAE,
    "cutpaste": _CUTPASTE,
    "anatpaste": _ANATPASTE,
    # For a CPU
    "squid-small": _SMALL,
    "simsid-small": dict(_SIMSID, **_SMALL),
    "fastsquid-small": dict(_XRAY, **_SMALL),
    "auto-encoder-small": dict(_AUTO_ENCODER, **_SMALL),
    "memae-small": dict(_MEMAE, **_SMALL),
    "cutpaste-small": dict(_CUTPASTE, image_size=64),
    "anatpaste-small": dict(_ANATPASTE, image_size=64),
    "digits": DIGITS,
    # Ours on DigitAnatomy: anomalous digits differ in shape, not in texture, and the residual detects shape.
    "fastsquid-digits": dict({**_FASTSQUID, **DIGITS}, epochs=20, score="patch_residual"),
}

# Rows of Table 2 of each paper: the fields that each row changes in the preset.
_BOTH = {
    "w/o Space-aware Memory": dict(memory_scope="global", decoder_scope="global"),
    "w/o In-painting Block": dict(inpainting="memory"),
    "w/o Gumbel Shrinkage": dict(shrinkage="none"),
    "w/o Knowledge Distillation": dict(distillation=False),
    "w/o Stop Gradient": dict(stop_gradient=False),
}
ABLATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "squid": {
        **_BOTH,
        "w/o Memory Queue": dict(memory="matrix"),
        "w/o Masked Shortcuts": dict(shortcut=1.0),
        "w/o Decoder Memory": dict(decoder_memory=0),
    },
    "simsid": {
        **_BOTH,
        "w/o Skip Connection": dict(skips=0),
        "w/o Hierarchical Memory": dict(decoder_memory=0),
        "w/ Memory Queue instead": dict(memory="queue"),
        "Convolution Layers": dict(inpainting="convolution"),
        "Pixel-level In-painting": dict(inpainting="off", patch_dropout=0.25),
    },
}


def preset(name: str, /, **changes: Any) -> Config:
    """Return the configuration of a preset, with some fields changed.

    >>> preset("fastsquid-small", epochs=3).epochs
    3

    Args:
        name: one of `PRESETS`.
        changes: values of fields of `Config`.

    Raises:
        ConfigError: unknown preset or field (the message names the nearest one), or values that do not fit together.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(str(name).lower(), PRESETS, 1)
        hint = f": did you mean {near[0]}?" if near else f": the presets are {', '.join(PRESETS)}"
        raise ConfigError(f"unknown preset {name!r}{hint}")
    return Config(**_known({"preset": name, **PRESETS[name], **changes}))
