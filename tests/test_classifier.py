"""A discriminator that learns no reconstructions: the detectors of the presets `cutpaste` and `anatpaste`."""

import copy
import functools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICE, XRAYS, chests, rows_of
from sklearn.metrics import roc_auc_score
from torch._dynamo.utils import counters

from fastsquid import score, train
from fastsquid.config import ConfigError, preset
from fastsquid.data.negatives import with_anomaly
from fastsquid.model.detector import Detector
from fastsquid.scoring.gradcam import grad_cam
from fastsquid.scoring.maps import forward_maps
from fastsquid.training.epoch import Steps
from fastsquid.training.study import Row
from fastsquid.training.trainer import Trainer

SYSTEMS = ("cutpaste", "anatpaste")
SCORES = ("discriminator_image", "residual", "patch_residual")


def trainer(name="cutpaste-small", **changes):
    torch.manual_seed(0)
    return Trainer(Detector(preset(name, width=2, **changes)).train())


@pytest.mark.parametrize("order", ["separate", "shared"])
def test_the_discriminator_never_sees_a_reconstruction(order):
    t, seen, passes = trainer(order=order, generator_every=2), [], []
    t.detector.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    t.detector.generator.register_forward_hook(lambda *_: passes.append(len(seen)))
    images = torch.rand(3, 1, 64, 64)
    for iteration in range(4):
        losses = t.step(images, iteration)
        assert set(losses) == ({"discriminator", "generator", "student"} if iteration % 2 == 0 else {"discriminator"})
    assert len(seen) == 8 and len(passes) == 2, (
        "the image and the negative in each step; a pass where the generator steps"
    )
    prepared = t.detector.prepare(images)
    for real, negative in zip(seen[::2], seen[1::2]):
        assert torch.equal(real, prepared)
        assert ((negative != prepared).float().mean((1, 2, 3)) < 0.16).all()  # a pasted rectangle
    assert t.loss_names == ("discriminator", "generator", "student")


@pytest.mark.parametrize("changes", [{}, dict(discriminator_head="cells"), dict(gradient_penalty=2.0)], ids=str)
def test_the_loss_is_its_definition(changes):
    t = trainer(negative_weight=0.7, **changes)
    before = copy.deepcopy(t.detector.discriminator)
    images = torch.rand(4, 1, 64, 64)
    torch.manual_seed(5)
    loss = t.step(images, 1)["discriminator"]
    real = t.detector.prepare(images)
    torch.manual_seed(5)
    negative, masks = with_anomaly("rectangles", real)
    real.requires_grad_()
    expected = F.softplus(-before(real)).mean() + 0.7 * F.softplus(before(negative)).mean()
    if t.config.gradient_penalty:
        (gradient,) = torch.autograd.grad(before(real).sum(), real)
        expected = expected + 2 * gradient.square().sum((1, 2, 3)).mean() / 2
    if t.config.discriminator_head == "cells":
        targets = 1 - (F.adaptive_max_pool2d(masks, 2)[:, 0] / 0.35).clamp(0, 1)
        cells = F.binary_cross_entropy_with_logits(before(negative, cells=True), targets)
        expected = expected + cells + F.softplus(-before(real, cells=True)).mean()
    torch.testing.assert_close(loss, 0.005 * expected.detach())


def test_the_generator_is_that_of_an_auto_encoder():
    """Its losses, gradients and weights are the same bits, so nothing of the discriminator reaches it."""
    mine = trainer()
    other = trainer("auto-encoder-small", standardize=True, generator_every=8, lr=mine.config.lr)
    other.detector.generator.load_state_dict(mine.detector.generator.state_dict())
    images = torch.rand(3, 1, 64, 64)
    for iteration in (0, 1, 8):
        losses, expected = mine.step(images, iteration), other.step(images, iteration)
        losses.pop("discriminator")
        assert losses == expected
    for (name, a), b in zip(mine.detector.generator.named_parameters(), other.detector.generator.parameters()):
        assert torch.equal(a, b), name
        assert torch.equal(a.grad, b.grad) if a.requires_grad else a.grad is b.grad is None, name
    # With reconstructions it is another one.
    adversarial = trainer(reject_reconstructions=True)
    adversarial.step(images, 0)
    assert "adversarial" in adversarial.loss_names
    first = next(iter(mine.detector.generator.parameters()))
    assert not torch.equal(first, next(iter(adversarial.detector.generator.parameters())))


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            dict(negatives="none"),
            "reject_reconstructions = False leaves .*negatives haze.* reject_reconstructions true$",
        ),
        (
            dict(discriminator=False, negatives="none", score="residual"),
            "needs a discriminator: use .* true without one$",
        ),
        (dict(score="discriminator"), "score = discriminator .*use discriminator_image, residual, patch_residual$"),
        (dict(score="combined"), "score = combined .*use discriminator_image, "),
        (dict(score="discriminator_running", discriminator_norm="batch"), "score = discriminator_running "),
    ],
)
def test_values_that_do_not_fit(changes, message):
    with pytest.raises(ConfigError, match=message):
        preset("cutpaste", **changes)


def test_what_a_record_without_the_field_means():
    record = preset("fastsquid").to_dict()
    del record["reject_reconstructions"]
    assert type(preset("squid")).from_dict(record) == preset("fastsquid")
    assert preset("fastsquid").reject_reconstructions


@pytest.mark.parametrize("head", ["image", "cells"])
def test_scores_and_maps(head):
    config = preset("cutpaste-small", width=2, discriminator_head=head)
    detector = Detector(config).eval()
    images = torch.rand(3, 1, 64, 64)
    scores, _ = detector.scores(images)
    assert tuple(scores) == config.scores == SCORES and config.logit == "discriminator_image"
    logits = detector.discriminator(detector.prepare(images), norm="image")
    torch.testing.assert_close(scores["discriminator_image"], -logits.detach())
    assert set(forward_maps(detector, images)) == {"residual", *["discriminator_image"] * (head == "cells")}
    assert config.map == ("discriminator_image" if head == "cells" else "residual")
    # Grad-CAM is of the image whatever ranks: the generator does not run.
    ranked_by_residual = Detector(preset("cutpaste-small", width=2, discriminator_head=head, score="residual")).eval()
    ranked_by_residual.load_state_dict(detector.state_dict())
    assert ranked_by_residual.config.logit == "discriminator_image"
    ranked_by_residual.generator.forward = None
    assert torch.equal(grad_cam(ranked_by_residual, images), grad_cam(detector, images))


def test_which_score_is_the_logit():
    assert [preset(name).logit for name in ("squid", "fastsquid", "memae")] == ["discriminator", "discriminator", None]
    assert preset("squid", score="discriminator_image").logit == "discriminator_image"
    assert preset("squid", score="residual").logit == "discriminator"


@pytest.mark.filterwarnings("default")  # torch.compile warns while it traces
def test_few_graphs_are_compiled(monkeypatch):
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    config = preset("anatpaste", width=4, image_size=40, levels=2, combine=1, batch_size=4, generator_every=2)
    steps = Steps(Trainer(Detector(config).to(DEVICE).train(), compile=True), torch.rand(18, 1, 40, 40, device=DEVICE))
    for call in steps.begin(0, 0):
        steps.run(*call)
    # The generator and its loss, and the discriminator.
    assert counters["stats"]["unique_graphs"] == 3 and not counters["graph_break"]
    torch._dynamo.reset()


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_run_and_its_scores(system, tmp_path, command):
    arguments = ("--data", XRAYS, "--preset", f"{system}-small", "--width", 2, "--batch-size", 3, "--epochs", 2)
    code, out, err = command(train.main, *arguments, "--device", "cpu", "--out", tmp_path / "run")
    assert code == 0, err
    assert "epoch 2/2" in out + err
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert set(line["losses"]) == {"discriminator", "generator", "student"}
        assert tuple(line["validation"]) == SCORES
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert tuple(summary["scores"]) == SCORES and summary["checkpoint"]["name"] == "last"
    code, _, err = command(score.main, tmp_path / "run", XRAYS / "test", "--out", tmp_path / "scores.csv")
    assert code == 0, err
    code, _, err = command(score.main, tmp_path / "run", XRAYS / "test", "--fast", "--out", tmp_path / "fast.csv")
    assert code == 0, err
    whole, fast = (rows_of(tmp_path / name) for name in ("scores.csv", "fast.csv"))
    assert len(whole) == 4 and len({row["score"] for row in whole}) == 4
    assert [row["score"] for row in whole] == pytest.approx([row["score"] for row in fast])


@pytest.mark.parametrize("system", SYSTEMS)
def test_it_learns_to_rank_its_negatives_above_healthy_images(system):
    """A short training. Both the images and their negatives are others than those of the training."""
    config = Row(system, "Full").config("small")
    torch.manual_seed(0)
    images, _ = chests(1060, 48)
    detector = Detector(config).train()
    steps = Steps(Trainer(detector), images[:960])
    for _ in steps.epoch(0, 0):
        pass
    healthy = detector.prepare(images[960:])
    abnormal, _ = with_anomaly(config.negatives, healthy)
    with torch.no_grad():
        logits = detector.eval().discriminator(torch.cat([healthy, abnormal]), norm="image")
    labels = np.repeat([0, 1], len(healthy))
    assert roc_auc_score(labels, -logits.numpy()) > 0.8
