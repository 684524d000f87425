"""Anomaly scores: what each one is, and that a batch does not matter."""

import copy

import numpy as np
import pytest
import torch
from conftest import DEVICE
from scipy.stats import spearmanr
from torch.utils._python_dispatch import TorchDispatchMode

from fastsquid.config import preset
from fastsquid.model.detector import Detector
from fastsquid.scoring.scores import Calibration, calibrated
from fastsquid.training.trainer import Trainer


@pytest.fixture(scope="module", params=["digits", "squid-small", "fastsquid-small", "auto-encoder-small"])
def detector(request):
    torch.manual_seed(1)  # whatever ran before this module
    config = preset(request.param, width=4, lr=1e-3)
    trainer = Trainer(Detector(config))
    trainer.detector.train()
    for iteration in range(3):  # moved running statistics, a filled queue
        trainer.step(torch.rand(4, 1, config.image_size, config.image_size), iteration)
    return trainer.detector.eval()


def test_batches_do_not_matter(detector):
    size = detector.config.image_size
    images = torch.rand(9, 1, size, size)
    one_by_one = [detector.scores(image[None])[0] for image in images]
    for batch_size in (9, 8, 4):  # a last batch of one, too
        batches = [detector.scores(batch)[0] for batch in images.split(batch_size)]
        for name in detector.config.scores:
            together, alone = (torch.cat([part[name] for part in parts]) for parts in (batches, one_by_one))
            # The distance to a memory that fits nothing yet is in the thousands.
            tolerance = 1e-5 * max(1, alone.abs().max()) if name == "memory_distance" else 1e-5
            assert (together - alone).abs().max() <= tolerance, name


def test_what_the_scores_are(detector):
    size, grid = detector.config.image_size, detector.config.grid
    images = torch.rand(3, 1, size, size)
    scores, reconstruction = detector.scores(images)
    assert tuple(scores) == detector.config.scores and reconstruction.min() >= 0 and reconstruction.max() <= 1
    inputs = detector.to_range(images)
    out = detector.generator(inputs)
    squared = (detector.from_range(inputs) - detector.from_range(out.student))[:, 0].detach() ** 2
    torch.testing.assert_close(scores["residual"], squared.mean((1, 2)))
    side = size // grid
    worst = torch.stack(
        [
            squared[:, i : i + side, j : j + side].mean((1, 2))
            for i in range(0, size, side)
            for j in range(0, size, side)
        ]
    ).amax(0)
    torch.testing.assert_close(scores["patch_residual"], worst)
    if detector.config.discriminator:
        names = {"discriminator": out.student, "discriminator_image": inputs}
        if detector.config.discriminator_norm == "batch":
            torch.testing.assert_close(scores["discriminator_running"], -detector.discriminator(out.student))
        if detector.config.discriminator_head == "image":
            for name, judged in names.items():
                alone = [detector.discriminator(image[None], norm="image") for image in judged]
                torch.testing.assert_close(scores[name], -torch.cat(alone))
        else:  # minus the soft minimum of the cells' logits
            for name, judged in names.items():
                cells = detector.discriminator(judged, norm="image", cells=True)
                torch.testing.assert_close(scores[name], torch.exp(-cells).mean((1, 2)).log())
        if detector.config.score == "combined":
            parts = [(scores[name] - mean) / deviation for name, (mean, deviation) in zip(names, detector.usual)]
            torch.testing.assert_close(scores["combined"], sum(parts))
    if detector.config.inpainting != "off":
        block, seen = detector.generator.inpaint, []
        block.memory.register_forward_hook(lambda module, given, read: seen.append((given[0], read)))
        detector.generator(inputs)
        ((tokens, read),) = seen
        distance = (tokens - read).square().sum(-1) / tokens.square().sum(-1)
        torch.testing.assert_close(scores["memory_distance"], distance.mean(1), rtol=1e-4, atol=1e-6)


def test_scoring_in_training_mode_is_refused(detector):
    detector.train()
    try:
        with pytest.raises(RuntimeError, match="eval mode"):
            detector.scores(torch.rand(1, 1, 48, 48))
    finally:
        detector.eval()


def test_scoring_writes_nothing(detector):
    state = {name: value.clone() for name, value in detector.state_dict().items()}
    size = detector.config.image_size
    detector.scores(torch.rand(2, 1, size, size))
    detector.generator.commit()
    assert all(torch.equal(state[name], value) for name, value in detector.state_dict().items())


def test_calibrated():
    scores = np.array([1.0, 3.0, 5.0])
    shown = torch.from_numpy(calibrated(scores, Calibration(3.0, 2.0)))
    torch.testing.assert_close(shown, torch.sigmoid(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)))
    assert np.isfinite(calibrated(scores, Calibration(3.0, 0.0))).all()


def test_frozen_scores_the_same(detector):
    size = detector.config.image_size
    images = torch.rand(3, 1, size, size)
    frozen = copy.deepcopy(detector).double().frozen()
    kinds = [type(module) for module in frozen.generator.modules()]
    assert torch.nn.BatchNorm2d not in kinds and frozen.generator.teacher is None
    torch.testing.assert_close(frozen.scores(images.double()), copy.deepcopy(detector).double().scores(images.double()))
    before = detector.scores(images)[0]["residual"]
    frozen.generator.student.output.bias.fill_(9.0)
    assert torch.equal(detector.scores(images)[0]["residual"], before)
    if detector.config.inpainting == "transformer":
        assert frozen.generator.inpaint.folded is not None and detector.generator.inpaint.folded is None
    assert (detector.generator.teacher is not None) == detector.config.distillation


class Layouts(TorchDispatchMode):
    """Note the maps that convolutions and interpolations read, and whether each is channels_last."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if str(function).startswith(("aten.conv", "aten.cudnn_conv", "aten.upsample")):
            self.seen.append((str(function), args[0].is_contiguous(memory_format=torch.channels_last)))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["squid-small", "simsid-small", "fastsquid-small", "memae-small"])
def test_a_frozen_detector_keeps_channels_last(name, half):
    """A map in the other layout is copied by a convolution, and interpolated a hundred times slower on a GPU."""
    frozen = Detector(preset(name, width=4, image_size=128)).to(DEVICE).frozen(half)
    images = torch.rand(2, 1, 128, 128, device=DEVICE)
    with Layouts() as layouts:
        (frozen.scores if DEVICE == "cuda" else frozen.reconstruct)(images)  # a CPU's instance_norm has one layout
    assert sum(function.startswith("aten.upsample") for function, _ in layouts.seen) == frozen.config.levels
    assert len(layouts.seen) > 20 and all(kept for _, kept in layouts.seen), layouts.seen


def test_half_precision(detector):
    size = detector.config.image_size
    images = torch.linspace(0, 1, 24).view(-1, 1, 1, 1) * torch.rand(24, 1, size, size)  # more and more noise
    full, half = detector.frozen(), detector.frozen(half=True)
    (expected, drawn), (scores, reconstruction) = full.scores(images), half.scores(images)
    # Measured over seeds: 0.003 of the reconstruction, 0.5 % of residuals, 2.4 % of the discriminator's.
    assert reconstruction.dtype == torch.float32 and 0 < (reconstruction - drawn).abs().max() <= 0.01
    for name in detector.config.scores:
        changed = name != "discriminator_image"  # which no generator has touched
        assert scores[name].dtype == torch.float32 and torch.equal(scores[name], expected[name]) != changed
        tolerance = 0.02 if "residual" in name else 0.1
        torch.testing.assert_close(scores[name], expected[name], rtol=tolerance, atol=0)
    if not detector.config.standardize:  # which makes the residuals of an untrained detector almost the same
        for name in ("residual", "patch_residual"):
            assert spearmanr(scores[name], expected[name]).statistic >= 0.99
    # What is made of the reconstruction is not rounded again.
    if not detector.config.standardize:
        torch.testing.assert_close(scores["residual"], ((images - reconstruction) ** 2).mean((1, 2, 3)))
    if detector.discriminator is not None and not detector.config.standardize:
        student = half.to_range(reconstruction)
        for name, norm in (("discriminator", "image"), ("discriminator_running", "running")):
            torch.testing.assert_close(scores[name], -half.discriminator(student, norm=norm), rtol=1e-4, atol=1e-6)
    assert not full.half_precision and not detector.half_precision


def test_standardised_scores_do_not_depend_on_exposure():
    """Brightness and contrast of a whole image are removed; what is drawn has them again."""
    detector = Detector(preset("fastsquid-small", width=4)).double().eval()
    images = 0.2 + 0.6 * torch.rand(4, 1, 64, 64).double()
    darker = 0.5 * images + 0.05
    (scores, drawn), (same, drawn_darker) = detector.scores(images), detector.scores(darker)
    torch.testing.assert_close(same, scores)
    torch.testing.assert_close(drawn_darker, 0.5 * drawn + 0.05)
    seen = detector.prepare(images)
    assert seen.min() >= 0 and seen.max() <= 1 and (seen.mean((1, 2, 3)) - 0.5).abs().max() < 0.01
    inside = (seen > 0) & (seen < 1)
    torch.testing.assert_close(detector.restore(seen, images)[inside], images[inside])
    assert all(score.isfinite().all() for score in detector.scores(torch.full_like(images, 0.3))[0].values())
