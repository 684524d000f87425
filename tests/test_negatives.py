"""Synthetic lung anomalies: where they are, what they do, and that the discriminator learns from them."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fastsquid.config import ConfigError, preset
from fastsquid.data.negatives import with_anomaly
from fastsquid.model.detector import Detector
from fastsquid.model.networks import soft_minimum
from fastsquid.training.losses import negative_loss
from fastsquid.training.trainer import Trainer

KINDS = ("haze", "opacity", "both", "cutpaste", "rectangles", "anatpaste")


@pytest.fixture
def images():
    torch.manual_seed(3)
    return 0.2 + 0.5 * torch.rand(40, 1, 48, 48)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_mask_changes(kind, images):
    abnormal, masks = with_anomaly(kind, images)
    assert abnormal.shape == masks.shape == images.shape and abnormal.dtype == torch.float32
    for values in (abnormal, masks):
        assert 0 <= values.min() and values.max() <= 1
    changed = (abnormal - images).abs()
    # No pixel changes by more than the strength that the mask says.
    assert (changed <= masks + 1e-6).all()
    assert ((masks.amax((1, 2, 3)) > 0.1) & (changed.amax((1, 2, 3)) > 0.01)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_and_images_differ(kind, images):
    torch.manual_seed(0)
    first = with_anomaly(kind, images)
    torch.manual_seed(0)
    second = with_anomaly(kind, images)
    third = with_anomaly(kind, images)
    for a, b, c in zip(first, second, third):
        assert torch.equal(a, b) and not torch.equal(a, c)
    masks = first[1]
    assert all(not torch.equal(masks[0], other) for other in masks[1:])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "rectangles"])
def test_anomalies_lie_on_the_lungs(kind):
    torch.manual_seed(0)
    _, masks = with_anomaly(kind, torch.rand(400, 1, 32, 32))
    mean = masks.mean((0, 1))
    lungs = torch.cat([mean[8:24, 4:14].flatten(), mean[8:24, 18:28].flatten()]).mean()
    corners = torch.stack([mean[:4, :4], mean[:4, -4:], mean[-4:, :4], mean[-4:, -4:]]).mean()
    assert lungs > 4 * corners
    left, right = mean[:, :16].mean(), mean[:, 16:].mean()
    assert left.item() == pytest.approx(right.item(), rel=0.15)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_passes_between_host_and_device(kind, images):
    """A CUDA graph may contain neither `torch.tensor` of numbers nor `item`."""
    forbidden = torch.ops.aten.lift_fresh.default, torch.ops.aten._local_scalar_dense.default

    class Device(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, arguments=(), options=None):
            assert operation not in forbidden, operation
            return operation(*arguments, **(options or {}))

    with Device():
        with_anomaly(kind, images)


def test_haze_blurs_and_brightens(images):
    flat = torch.full_like(images, 0.4)
    torch.manual_seed(1)
    hazy, masks = with_anomaly("haze", flat)
    assert (hazy >= flat - 1e-6).all() and (hazy - flat).amax((1, 2, 3)).max() > 0.1
    torch.manual_seed(1)
    hazy, masks = with_anomaly("haze", images)
    strong = masks > 0.7
    assert strong.sum() > 100

    def texture(x):
        return (x - F.avg_pool2d(F.pad(x, [1] * 4, mode="reflect"), 3, 1))[strong].std()

    assert texture(hazy) < 0.5 * texture(images)


def test_opacity_never_darkens(images):
    opaque, masks = with_anomaly("opacity", images)
    assert (opaque >= images - 1e-6).all()


def test_cutpaste_pastes_from_another_image():
    levels = torch.linspace(0.1, 0.9, 9).view(9, 1, 1, 1).expand(9, 1, 32, 32).contiguous()
    pasted, masks = with_anomaly("cutpaste", levels)
    torch.testing.assert_close(pasted, torch.lerp(levels, levels.roll(1, 0), masks))


def test_cells_and_their_soft_minimum():
    config = preset("fastsquid-small", discriminator_head="cells", discriminator_stride=16)
    detector = Detector(config).eval()
    images = torch.rand(5, 1, 64, 64) * 2 - 1
    for norm in ("running", "image"):
        cells = detector.discriminator(images, norm, cells=True)
        assert cells.shape == (5, 4, 4)
        expected = -torch.log(torch.exp(-cells.double()).mean((1, 2)))
        torch.testing.assert_close(detector.discriminator(images, norm).double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(soft_minimum(torch.full((2, 4, 4), 1.5)), torch.full((2,), 1.5))
    one = torch.full((1, 4, 4), 5.0)
    one[0, 2, 1] = -5.0
    assert soft_minimum(one).item() == pytest.approx(-5 + torch.log(torch.tensor(16.0)).item(), abs=1e-2)


def test_the_loss_is_its_definition():
    config = preset("fastsquid-small", discriminator_head="cells", negatives="haze", negative_weight=0.7, cell_weight=2)
    torch.manual_seed(0)
    real, negative, masks = torch.randn(3, 4, 4), torch.randn(3, 4, 4), torch.rand(3, 1, 64, 64) ** 8
    loss = negative_loss(config, real, negative, masks)
    strongest = masks.view(3, 4, 16, 4, 16).amax((2, 4)).double()
    target = 1 - (strongest / 0.35).clamp(0, 1)
    probability = torch.sigmoid(negative.double())
    cells = -(target * probability.log() + (1 - target) * (1 - probability).log()).mean()
    cells = cells - torch.sigmoid(real.double()).log().mean()
    image = torch.sigmoid(soft_minimum(negative.double()))
    expected = config.discriminator_weight * (-0.7 * (1 - image).log().mean() + 2 * cells)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    plain = preset("fastsquid-small", discriminator_head="image", negatives="haze", negative_weight=0.7)
    loss = negative_loss(plain, torch.randn(3), logits := torch.randn(3), masks)
    assert loss.item() == pytest.approx(-0.0035 * torch.sigmoid(-logits).log().mean().item(), rel=1e-5)


@pytest.mark.parametrize("head, norm", [("image", "batch"), ("cells", "instance"), ("cells", "batch")])
def test_the_discriminator_learns_to_reject_them(head, norm):
    """A few steps on ten images: their anomalies, drawn anew, get a lower logit than the images."""
    torch.manual_seed(0)
    changes = dict(width=4, slots=8, top_k=2, lr=2e-3, averaging=0.0)
    changes |= dict(negatives="opacity", discriminator_head=head, discriminator_norm=norm)
    detector = Detector(preset("fastsquid-small", **changes))
    trainer = Trainer(detector)
    healthy = torch.rand(10, 1, 64, 64) * 0.3
    for iteration in range(40):
        trainer.step(healthy, iteration)
    detector.eval()
    abnormal, _ = with_anomaly("opacity", detector.prepare(healthy))
    with torch.no_grad():
        scores = [-detector.discriminator(x * 2 - 1, norm="image") for x in (detector.prepare(healthy), abnormal)]
    assert (scores[1] > scores[0].max()).float().mean() >= 0.9


def test_bad_settings():
    with pytest.raises(ConfigError, match="negatives = 'fog' .*none, haze"):
        preset("fastsquid", negatives="fog")
    with pytest.raises(ConfigError, match="negatives = haze .*negatives none"):
        preset("auto-encoder", negatives="haze")
    for name, value in (("spectral_norm", True), ("gradient_penalty", 1.0)):
        with pytest.raises(ConfigError, match=f"discriminator_head = cells .*{name}"):
            preset("fastsquid", **{name: value})
    with pytest.raises(ConfigError, match="discriminator_stride = 12 .*8, 16 or 32"):
        preset("fastsquid", discriminator_stride=12)
    with pytest.raises(ConfigError, match="^negative_weight = -1.0 "):
        preset("fastsquid", negative_weight=-1)
