"""What steadies a score: two regularisers of its discriminator, watching every epoch, selection without labels."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import XRAYS, possible_aucs, tiny

from fastsquid import train
from fastsquid.checkpoint import load_run
from fastsquid.config import SCORES, preset
from fastsquid.data import open_data, to_unit
from fastsquid.data.perturb import PERTURBATIONS, with_opacity
from fastsquid.model import Detector
from fastsquid.networks import Discriminator
from fastsquid.training import Trainer, discriminator_loss, gradient_penalty

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run that is watched every epoch, and selected without labels."""
    run = tmp_path_factory.mktemp("watched") / "run"
    options = ("--monitor", "true", "--select", "synthetic", "--score", "discriminator_image")
    assert train.main([str(a) for a in tiny(run, *options)]) is None
    return run


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_every_epoch_is_watched(watched):
    for line in metrics(watched):
        assert list(line["perturbed"]) == list(PERTURBATIONS) and set(line["synthetic"]) == set(SCORES)
        assert all(set(aucs) == set(line["validation"]) == set(SCORES) for aucs in line["perturbed"].values())


def check_auc(found, normal, abnormal):
    """Compare an AUC with pairs counted here, and return whether rounding leaves one value only.

    Of pairs that are closer than rounding, either order is right.
    """
    low, high = possible_aucs(normal, abnormal, 1e-5)
    assert low <= found + 1e-12 and found - 1e-12 <= high
    return low == high


def test_what_is_watched_is_what_the_detector_scores(watched):
    """Of the last epoch, again from the checkpoint and the images."""
    detector, run, *_ = load_run(watched, "last")
    data, line = open_data(run["data"], 64), metrics(watched)[-1]
    labels, images = data["val"].labels, to_unit(data["val"].images)
    frozen, decided = detector.frozen(), []
    for name, change in PERTURBATIONS.items():
        for score, values in frozen.scores(change(images))[0].items():
            decided += [check_auc(line["perturbed"][name][score], values[labels == 0], values[labels == 1])]
    normal = data["train"].images
    abnormal = to_unit((with_opacity(to_unit(normal)) * 255).round().to(torch.uint8))
    scores = [frozen.scores(images)[0] for images in (to_unit(normal), abnormal)]
    for score in SCORES:
        decided.append(check_auc(line["synthetic"][score], *(part[score] for part in scores)))
    assert sum(decided) > len(decided) / 2  # scores of a discriminator that hardly trained may all be undecided


def test_selection_without_labels(watched, tmp_path, command):
    """The best epoch is the one of the highest synthetic AUC; nothing changes where nothing is labelled."""
    aucs = [line["synthetic"]["discriminator_image"] for line in metrics(watched)]
    chosen = {
        "name": "best",
        "epoch": aucs.index(max(aucs)) + 1,
        "chosen_by": "synthetic opacity AUC of discriminator_image",
    }
    assert json.loads((watched / "summary.json").read_text())["checkpoint"] == chosen
    shutil.copytree(XRAYS / "train" / "NORMAL", tmp_path / "data" / "train" / "NORMAL")
    options = ("--data", tmp_path / "data", "--select", "synthetic", "--score", "discriminator_image")
    assert command(train.main, *tiny(tmp_path / "run", *options))[0] == 0
    lines = metrics(tmp_path / "run")
    assert [line["synthetic"]["discriminator_image"] for line in lines] == aucs
    assert not any("validation" in line or "perturbed" in line for line in lines)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["checkpoint"] == chosen


def test_nothing_is_watched_unless_asked(unbroken):
    assert not any({"perturbed", "synthetic"} & set(line) for line in metrics(unbroken))


def test_gradient_penalty_of_a_known_gradient():
    weights = torch.randn(1, 8, 8)
    real = torch.rand(5, 1, 8, 8)
    penalty, logits = gradient_penalty(lambda x: (x * weights).sum((1, 2, 3)), real)
    torch.testing.assert_close(penalty, weights.square().sum() / 2)
    torch.testing.assert_close(logits, (real * weights).sum((1, 2, 3)))
    squared, _ = gradient_penalty(lambda x: x.square().sum((1, 2, 3)), real)  # whose gradient is 2 x
    torch.testing.assert_close(squared, (2 * real).square().sum((1, 2, 3)).mean() / 2)


@pytest.mark.filterwarnings("default")  # torch.compile warns
def test_the_discriminator_is_penalised():
    """Its loss is the plain one and the weighed penalty, and its step another one."""
    config = preset("fastsquid-small", width=2, slots=6, gradient_penalty=3.0, averaging=0.0)
    torch.manual_seed(0)
    trainer, images = Trainer(Detector(config).train()), torch.rand(4, 1, 64, 64)
    seen, fake = trainer.detector.to_range(images), torch.rand(4, 1, 64, 64)
    judge = trainer.detector.discriminator
    real = seen.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(judge(real).sum(), real)
    penalty = gradient.square().sum((1, 2, 3)).mean() / 2
    plain = discriminator_loss(config, judge(seen), judge(fake))
    out = trainer.generator(seen)._replace(student=fake)
    weights = [p.clone() for p in judge.parameters()]
    loss = trainer._step_discriminator(trainer.eager, seen, out, 1.0)
    torch.testing.assert_close(loss, (plain + 0.005 * 3.0 * penalty).detach())
    assert all(not torch.equal(a, b) for a, b in zip(weights, judge.parameters()))
    # One and the same network sees real and drawn images, and torch.compile has no second derivative.
    assert Trainer(Detector(config), compile=True).discriminator is not None
    assert not hasattr(Trainer(Detector(config), compile=True).discriminator, "_orig_mod")
    assert hasattr(Trainer(Detector(replace(config, gradient_penalty=0.0)), compile=True).discriminator, "_orig_mod")


def test_spectral_norm_bounds_every_weight():
    torch.manual_seed(0)
    plain, bounded = (Discriminator(preset("squid-small", spectral_norm=on)) for on in (False, True))
    bounded.train()
    for _ in range(30):  # a power iteration each
        bounded(torch.rand(2, 1, 64, 64))
    layers = [layer for layer in bounded.modules() if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(layers) == 6
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2) == pytest.approx(1, abs=0.02)
    assert not any("parametrizations" in name for name in plain.state_dict())


def test_an_average_of_a_bounded_discriminator():
    """Spectral norm's vectors keep length 1, which a mean of them would not."""
    config = preset("fastsquid-small", width=2, slots=6, spectral_norm=True, averaging=0.5)
    trainer = Trainer(Detector(config).train())
    for iteration in range(3):
        trainer.step(torch.rand(4, 1, 64, 64), iteration)
    judge = trainer.average.detector
    vectors = [t for name, t in judge.state_dict().items() if name.endswith(("_u", "_v"))]
    assert vectors and all(t.norm() == pytest.approx(1, abs=1e-5) for t in vectors)
    assert all(values.isfinite().all() for values in judge.eval().scores(torch.rand(2, 1, 64, 64))[0].values())
