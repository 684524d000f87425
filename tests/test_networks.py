"""Encoder, decoders, generator and discriminator: shapes, what is stitched and detached where, one image in a batch."""

import pytest
import torch
from conftest import ROWS

from fastsquid.config import ABLATIONS, PRESETS, preset
from fastsquid.model.detector import Detector
from fastsquid.model.networks import Discriminator, Encoder, Generator
from fastsquid.model.patches import to_image, to_patches
from fastsquid.training.trainer import Trainer


def small(name="digits", **changes):
    sizes = dict(width=2 if name == "digits" else 4, slots=8)
    if name != "digits":
        sizes["image_size"] = 64
    return preset(name, **{**sizes, **changes})


def test_patches_are_row_major_and_come_back():
    image = torch.arange(2 * 16).view(2, 1, 4, 4)
    patches = to_patches(image, 2)
    assert patches.shape == (8, 1, 2, 2)
    assert patches[1].flatten().tolist() == [2, 3, 6, 7] and patches[2].flatten().tolist() == [8, 9, 12, 13]
    assert torch.equal(to_image(patches, 2), image)


@pytest.mark.parametrize("grid", [1, 2])
def test_maps_keep_their_layout(grid):
    """Cut and stitched, maps have the values and the memory layout that they had."""
    image, last = torch.randn(2, 3, 4, 4), torch.channels_last
    patches = to_patches(image, grid)
    moved = to_patches(image.to(memory_format=last), grid)
    assert torch.equal(moved, patches) and patches.is_contiguous() and moved.is_contiguous(memory_format=last)
    stitched, moved = to_image(patches, grid), to_image(moved, grid)
    assert torch.equal(stitched, image) and torch.equal(moved, image)
    assert stitched.is_contiguous() and moved.is_contiguous(memory_format=last)


def test_encoder_levels():
    features = Encoder(preset("squid"))(torch.randn(2, 1, 64, 64))
    assert [tuple(f.shape[1:]) for f in features] == [
        (32, 64, 64),
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
    ]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_an_iteration_of_one_image(name):
    config = preset(name, image_size=48 if name.endswith("digits") else 64, width=4, slots=8)
    trainer = Trainer(Detector(config))
    before = {n: p.clone() for n, p in trainer.detector.named_parameters()}
    trainer.detector.train()
    losses = trainer.step(torch.rand(1, 1, config.image_size, config.image_size), 0)
    assert all(loss.isfinite() for loss in losses.values())
    expected = {"generator", "student"}
    expected |= {"discriminator"} if config.discriminator else set()
    expected |= {"adversarial"} if config.rejects else set()
    expected |= {"teacher", "distillation"} if config.distillation else set()
    expected |= {"entropy"} if config.entropy_weight else set()
    assert set(losses) == expected
    trained = {n for n, p in trainer.detector.named_parameters() if p.requires_grad}
    moved = {n for n, p in trainer.detector.named_parameters() if not torch.equal(p, before[n])}
    assert moved <= trained and len(moved) > 0.9 * len(trained)
    assert all(p.isfinite().all() for p in trainer.detector.parameters())


@pytest.mark.parametrize("system, row", ROWS)
def test_every_ablation_trains_and_scores(system, row):
    config = preset(f"{system}-small", width=4, slots=8, **ABLATIONS[system][row])
    trainer = Trainer(Detector(config))
    trainer.detector.train()
    images = torch.rand(3, 1, 64, 64)
    for iteration in range(3):
        losses = trainer.step(images, iteration)
        assert all(loss.isfinite() for loss in losses.values())
    scores, reconstruction = trainer.detector.eval().scores(images)
    assert reconstruction.shape == images.shape and all(s.shape == (3,) and s.isfinite().all() for s in scores.values())
    assert ("teacher" in losses) == (row != "w/o Knowledge Distillation")


def test_ablations_do_what_they_say():
    def generator(system, row):
        return Generator(preset(f"{system}-small", width=4, slots=8, **ABLATIONS[system][row]))

    assert generator("squid", "w/o Knowledge Distillation").teacher is None
    assert generator("simsid", "Pixel-level In-painting").inpaint is None
    without = generator("squid", "w/o In-painting Block").inpaint
    assert without.mix is None and without.memory
    assert len(generator("squid", "w/o Decoder Memory").student.memories) == 0
    globally = generator("squid", "w/o Space-aware Memory")
    assert globally.inpaint.memory.num_regions == 1 and globally.student.memories[0].memory.num_regions == 1
    assert generator("squid", "w/o Memory Queue").inpaint.memory.kind == "matrix"
    # 64 channels upsampled, and the 32 of the skip that is left out
    assert generator("simsid", "w/o Skip Connection").student.blocks[0].conv1[0].in_channels == 64
    queue = generator("simsid", "w/ Memory Queue instead")
    assert queue.student.blocks[0].conv1[0].in_channels == 96 and queue.inpaint.memory.kind == "queue"


@pytest.mark.parametrize("stop, reaches", [(True, False), (False, True)])
def test_stop_gradient(stop, reaches):
    generator = Generator(small(stop_gradient=stop))
    generator(torch.rand(2, 1, 48, 48), teacher=True).teacher.sum().backward()
    touched = any(p.grad is not None and p.grad.any() for p in generator.encoder.parameters())
    assert touched == reaches


def test_teacher_reads_no_memory():
    generator = Generator(small())
    calls = []
    for module in generator.modules():
        if type(module).__name__ == "SpaceAwareMemory":
            module.register_forward_hook(lambda *a: calls.append(1))
    generator(torch.rand(1, 1, 48, 48), teacher=True)
    assert len(calls) == 3  # in-painting and two decoder memories, once each


def test_patch_dropout_zeroes_whole_patches_in_training_only():
    generator = Generator(small(inpainting="off", patch_dropout=0.25))
    seen = []
    generator.encoder.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    images = torch.rand(50, 1, 48, 48) + 0.1
    generator(images)
    blank = (seen[0] == 0).flatten(1)
    assert (blank.all(1) | ~blank.any(1)).all() and 0.2 < blank.all(1).float().mean() < 0.3
    generator.eval()
    generator(images)
    assert seen[1].min() > 0


@pytest.mark.parametrize("combine", [0, 1, 2, 3])
def test_where_patches_are_stitched(combine):
    generator = Generator(small(combine=combine, skips=min(combine, 2), decoder_memory=min(combine, 2)))
    out = generator(torch.rand(2, 1, 48, 48))
    assert [len(level) for level in out.student_levels] == [2 if i >= combine else 18 for i in range(3)]
    assert out.student.shape == (2, 1, 48, 48)


@pytest.mark.parametrize("values, low", [("unit", 0), ("symmetric", -1)])
def test_value_range(values, low):
    out = Generator(small(value_range=values))(torch.rand(2, 1, 48, 48)).student
    assert out.min() >= low and out.max() <= 1


def test_discriminator_image_norm_is_a_batch_of_one_in_training_mode():
    discriminator = Discriminator(small("squid")).double()
    images = torch.rand(5, 1, 64, 64).double()
    together = discriminator.eval()(images, norm="image")
    state = {name: value.clone() for name, value in discriminator.state_dict().items()}
    discriminator.train()
    alone = torch.cat([discriminator(image[None]) for image in images])
    torch.testing.assert_close(together, alone)
    assert any(not torch.equal(state[name], value) for name, value in discriminator.state_dict().items())
    discriminator.load_state_dict(state)
    discriminator(images, norm="image")
    assert all(torch.equal(state[name], value) for name, value in discriminator.state_dict().items())


def test_discriminator_widths():
    assert Discriminator(preset("squid")).logit.in_features == 128 * 16
    assert Discriminator(preset("simsid")).logit.in_features == 256 * 16
    assert Discriminator(preset("digits")).logit.in_features == 128 * 4
