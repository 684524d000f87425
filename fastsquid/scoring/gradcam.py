"""Grad-CAM of the discriminator: which places raise an image's anomaly score (SQUID Figure 8, SimSID Figure 7)."""

import torch
import torch.nn.functional as F
from torch import nn

from ..model.detector import Detector


def grad_cam(detector: Detector, images: torch.Tensor, layer: int = -1) -> torch.Tensor:
    """Return heat maps of minus the discriminator's logit, with each image normalized by its own statistics.

    This is the score `discriminator`, on reconstructions. If the config's score is `discriminator_image`, or if it does
    not give `discriminator`, it is the score `discriminator_image`, on the images.

    A map is relu(sum_k w_k A_k). A_k are the feature maps that a convolution leaves after normalization and LeakyReLU.
    w_k is the mean over space of the score's gradient in A_k. The map is bilinearly upsampled and divided by its
    largest value.

    Two things follow from normalization by the image's own statistics. First, the maps are taken after normalization.
    Before it the mean gradient is zero, because normalization removes what is added to a whole map. Second, only the
    weights of the last convolution mean something (Selvaraju's choice, and the default). The next normalization removes
    a constant that is added to an earlier map, except at the border. So the heat map is as coarse as the
    discriminator's last feature map, image_size / discriminator_stride cells per side.

    Args:
        detector: a `Detector` with a discriminator, in eval mode. Its parameters and their gradients do not change.
        images: float (B, 1, H, W) in [0, 1], on the detector's device.
        layer: which of the discriminator's convolutions, counted as in a list.

    Returns:
        float32 (B, H, W) in [0, 1]. The largest value of each image is 1, or 0 if nothing raises the score.

    Raises:
        RuntimeError: the detector is in training mode.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, section 3.
    """
    if detector.training:
        raise RuntimeError("grad_cam needs eval mode: call detector.eval() first")
    assert detector.discriminator is not None
    with torch.no_grad():
        judged = detector.to_range(images)
        if detector.config.logit != "discriminator_image":
            judged = detector.generator(judged).student
    activation = [module for module in detector.discriminator.layers if isinstance(module, nn.LeakyReLU)][layer]
    kept: list[torch.Tensor] = []

    # The layers after this one then depend on the maps as on an input, whatever has gradients before.
    def cut(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0]

    handle = activation.register_forward_hook(cut)
    try:
        with torch.enable_grad():
            scores = -detector.discriminator(judged, norm="image")
    finally:
        handle.remove()
    # An image's score depends on its own maps only, so the gradient of the sum is each image's gradient.
    (gradient,) = torch.autograd.grad(scores.sum(), kept)
    heat = F.relu((gradient.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1, keepdim=True))  # (B, 1, h, w)
    heat = F.interpolate(heat.float(), size=images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    largest = heat.amax((1, 2), keepdim=True)
    return torch.where(largest > 0, heat / largest, 0)
