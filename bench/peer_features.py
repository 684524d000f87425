"""Two detectors on the features of a pretrained backbone, with scikit-learn: after PatchCore and after PaDiM."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from fastsquid.data import to_unit
from fastsquid.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which the weights expect
BATCH = 64


def load_backbone(file: Path, name: str) -> torch.nn.Module:
    """Return a timm model with weights from a local file; nothing is downloaded.

    Args:
        file: state dict of the whole model or of all but its classifier, `.safetensors` or what torch.save wrote.
        name: of the timm model.

    Raises:
        UserError: timm is missing or has no such model, or the file is not its state dict.
    """
    try:
        import timm
    except ImportError:
        raise UserError("--features needs timm: pip install '.[features]'") from None
    if name not in timm.list_models():
        raise UserError(f"timm {timm.__version__} has no model {name!r}: give --backbone one of timm.list_models()")
    if not file.is_file():
        raise UserError(f"{file} does not exist: give --features a file with the weights of timm's {name}")
    model = timm.create_model(name, pretrained=False)
    heads = model.pretrained_cfg["classifier"]
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    model.reset_classifier(0)
    try:
        state = _read(file)
        model.load_state_dict({key: value for key, value in state.items() if not key.startswith(heads)})
    except Exception as error:  # unpickling can raise anything
        what = str(error).strip().splitlines()[0]
        raise UserError(f"{file} is not a state dict of timm's {name}: {what}") from None
    return model.eval()


def _read(file: Path) -> dict[str, Any]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


@torch.no_grad()
def feature_maps(
    backbone: Any, images: torch.Tensor, levels: list[int], channels: np.ndarray | None = None
) -> torch.Tensor:
    """Return feature maps of several levels, averaged over 3 x 3 places and joined at the size of the first level.

    Args:
        backbone: of `load_backbone`.
        images: uint8 (N, 1, S, S).
        levels: of timm's `forward_intermediates`; in a ResNet, 1 to 4 are its layers.
        channels: which of the joined channels are kept; None for all.

    Returns:
        float32 (N, C, H, W).
    """
    found = []
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    for batch in images.split(BATCH):
        rgb = (to_unit(batch).expand(-1, 3, -1, -1) - mean) / std
        maps = backbone.forward_intermediates(rgb, indices=levels, intermediates_only=True)
        maps = [F.avg_pool2d(level, 3, 1, 1) for level in maps]
        size = maps[0].shape[-2:]
        joined = [maps[0], *(F.interpolate(level, size, mode="bilinear", align_corners=False) for level in maps[1:])]
        all_channels = torch.cat(joined, 1)
        found.append(all_channels if channels is None else all_channels[:, channels])
    return torch.cat(found)


def to_patches(maps: torch.Tensor) -> np.ndarray:
    """Return maps (N, C, H, W) as patches (N * H * W, C)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2).numpy()


def nearest_patch_scores(bank: np.ndarray, maps: torch.Tensor) -> np.ndarray:
    """Return the largest distance of an image's patches to their nearest patch of the bank, float (N,).

    Args:
        bank: patches of healthy images (M, C).
        maps: (N, C, H, W).
    """
    distances, _ = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(bank).kneighbors(to_patches(maps))
    return distances.reshape(len(maps), -1).max(1)


def fit_places(maps: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return a Gaussian per place of healthy maps (N, C, H, W): means (H * W, C) and precisions (H * W, C, C).

    Ledoit and Wolf's shrinkage keeps each covariance invertible.
    """
    fitted = [LedoitWolf().fit(place) for place in maps.flatten(2).permute(2, 0, 1).double().numpy()]
    return np.array([place.location_ for place in fitted]), np.array([place.precision_ for place in fitted])


def mahalanobis_scores(means: np.ndarray, precisions: np.ndarray, maps: torch.Tensor) -> np.ndarray:
    """Return the largest Mahalanobis distance of an image's places, float (N,); arguments as `fit_places` has them."""
    distances = []
    for place, mean, precision in zip(maps.flatten(2).permute(2, 0, 1).double().numpy(), means, precisions):
        difference = place - mean
        distances.append(np.sqrt(np.einsum("nc,cd,nd->n", difference, precision, difference, optimize=True)))
    return np.max(distances, 0)
