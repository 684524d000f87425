"""Grad-CAM of the discriminator: which places raise an image's anomaly score (SQUID Figure 8, SimSID Figure 7)."""

import torch
import torch.nn.functional as F
from torch import nn


def grad_cam(detector, images, layer=-1):
    """Heat maps of minus the discriminator's logit, each image normalised by its own statistics: of the score
    `discriminator`, on reconstructions, or where the config's score is `discriminator_image` of that, on the images.

    relu(sum_k w_k A_k), A_k the feature maps that a convolution leaves after normalisation and LeakyReLU, w_k the mean
    over space of the score's gradient in A_k; bilinearly upsampled and divided by its largest value.

    Two things follow from the image's own statistics. The maps are taken after the normalisation: before it the mean
    gradient is zero, since the normalisation removes what is added to a whole map. For the same reason only the last
    convolution, Selvaraju's choice and the default, has weights that mean something: a constant that is added to an
    earlier map is removed by the next normalisation, but for the border. So the map is as coarse as the
    discriminator's last one, image_size / discriminator_stride cells a side.

    Args:
        detector: a `Detector` in eval mode; neither its parameters nor their gradients are changed.
        images: float (B, 1, H, W) in [0, 1], on the detector's device.
        layer: which of the discriminator's convolutions, counted as in a list.

    Returns:
        float32 (B, H, W) in [0, 1], the largest value of each image 1; all zero where nothing raises the score.

    Raises:
        RuntimeError: the detector is in training mode.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, section 3.
    """
    if detector.training:
        raise RuntimeError("grad_cam needs eval mode: call detector.eval() first")
    with torch.no_grad():
        judged = detector.to_range(images)
        if detector.config.score != "discriminator_image":
            judged = detector.generator(judged).student
    activation = [module for module in detector.discriminator.layers if isinstance(module, nn.LeakyReLU)][layer]
    kept = []

    def cut(module, inputs, output):  # what follows depends on the maps as on an input, whatever has gradients before
        kept.append(output.detach().requires_grad_())
        return kept[0]

    handle = activation.register_forward_hook(cut)
    try:
        with torch.enable_grad():
            scores = -detector.discriminator(judged, norm="image")
    finally:
        handle.remove()
    # An image's score depends on its own maps only, so that the gradient of the sum is each image's gradient.
    (gradient,) = torch.autograd.grad(scores.sum(), kept)
    heat = F.relu((gradient.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1, keepdim=True))  # (B, 1, h, w)
    heat = F.interpolate(heat.float(), size=images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    largest = heat.amax((1, 2), keepdim=True)
    return torch.where(largest > 0, heat / largest, 0)
