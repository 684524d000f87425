"""The papers' augmentation: small random translations and scalings (SQUID 4.4)."""

import torch
import torch.nn.functional as F


def augment(images, shift, zoom):
    """Moves and scales every image of a batch by its own random amounts.

    Translation is uniform within +-`shift` of the side in each direction and scale uniform in [1 - zoom, 1 + zoom];
    what comes in from outside is black. Draws from torch's global generator of the images' device.

    Args:
        images: float (B, 1, H, W) in [0, 1].
        shift: largest translation, a fraction of the side in [0, 1).
        zoom: largest change of scale, in [0, 1).

    Returns:
        float (B, 1, H, W) in [0, 1], the input itself if shift = zoom = 0.
    """
    if shift == zoom == 0:
        return images
    tx, ty, dz = torch.empty(3, len(images), device=images.device, dtype=images.dtype).uniform_(-1, 1)
    scale, zero = 1 + zoom * dz, torch.zeros_like(dz)
    # affine_grid maps output to input, on coordinates in which the side is 2 long: x_in = (x_out - 2 shift) / scale
    theta = torch.stack(
        [
            torch.stack([1 / scale, zero, -2 * shift * tx / scale], 1),
            torch.stack([zero, 1 / scale, -2 * shift * ty / scale], 1),
        ],
        1,
    )  # [B, 2, 3]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
