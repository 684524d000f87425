import pytest
import torch

from fastsquid.data.augment import augment


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def blobs(count, side=64):
    """A round blob in the centre of every image: its centroid shows the shift, its spread the scale."""
    axis = (torch.arange(side) + 0.5) / side - 0.5
    return torch.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 0.08**2)).expand(count, 1, side, side).contiguous()


def moments(images):
    """Centroids x and y and spread of each image, in fractions of the side."""
    side = images.shape[-1]
    axis = (torch.arange(side) + 0.5) / side - 0.5
    mass = images.sum((1, 2, 3))
    x = (images[:, 0] * axis).sum((1, 2)) / mass
    y = (images[:, 0] * axis[:, None]).sum((1, 2)) / mass
    spread = ((images[:, 0] * axis**2).sum((1, 2)) / mass - x**2).sqrt()
    return x, y, spread


def test_nothing_to_do_returns_the_input_itself():
    images = torch.rand(3, 1, 16, 16)
    assert augment(images, 0, 0.0) is images


def test_shift_is_uniform_within_its_bound_and_leaves_the_size():
    x, y, spread = moments(augment(blobs(400), 0.1, 0))
    for shift in (x, y):
        assert shift.abs().max() < 0.1 + 1e-3
        assert shift.min() < -0.095 and shift.max() > 0.095
        assert abs(shift.std() - 0.1 / 3**0.5) < 0.005
    assert abs(torch.corrcoef(torch.stack([x, y]))[0, 1]) < 0.15
    assert (spread / 0.08 - 1).abs().max() < 0.01


def test_zoom_is_uniform_within_its_bound_and_about_the_centre():
    x, y, spread = moments(augment(blobs(400), 0, 0.2))
    scale = spread / 0.08
    assert scale.min() > 0.79 and scale.min() < 0.82 and scale.max() < 1.21 and scale.max() > 1.18
    assert abs(scale.std() - 0.2 / 3**0.5) < 0.01
    assert max(x.abs().max(), y.abs().max()) < 1e-4


def test_shift_does_not_depend_on_the_scale():
    x, _, _ = moments(augment(blobs(400), 0.1, 0.2))
    assert 0.095 < x.abs().max() < 0.1 + 1e-3


def test_range_shape_and_dtype_are_kept_and_outside_is_black():
    images = torch.ones(64, 1, 40, 40)
    moved = augment(images, 0.2, 0.05)
    assert moved.shape == images.shape and moved.dtype == images.dtype
    assert moved.min() == 0 and moved.max() <= 1 + 1e-6
    assert (moved[:, :, 19:21, 19:21] > 0.999).all()
    assert ((moved[:, 0, 0] == 0).all(1) | (moved[:, 0, -1] == 0).all(1)).float().mean() > 0.5


def test_global_seed_repeats_the_draw():
    images = torch.rand(4, 1, 16, 16)
    first, other = augment(images, 0.1, 0.1), augment(images, 0.1, 0.1)
    torch.manual_seed(0)
    torch.rand(4, 1, 16, 16)
    assert torch.equal(augment(images, 0.1, 0.1), first)
    assert not torch.equal(first, other)
