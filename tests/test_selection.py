"""What steadies a score: two regularisers of its discriminator, watching every epoch, and the epoch that counts."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import XRAYS, possible_aucs, rewrite_config, rewrite_run, tiny

from fastsquid import evaluate, train
from fastsquid.config import preset
from fastsquid.data import open_data, to_unit
from fastsquid.data.perturb import PERTURBATIONS
from fastsquid.model.detector import Detector
from fastsquid.model.networks import Discriminator
from fastsquid.runs.trained import load_run
from fastsquid.training.losses import discriminator_loss, gradient_penalty
from fastsquid.training.trainer import Trainer

SCORES = preset("squid").scores


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run that is watched every epoch, and stands for its last one."""
    run = tmp_path_factory.mktemp("watched") / "run"
    options = ("--monitor", "true", "--select", "last", "--score", "discriminator_image")
    assert train.main([str(a) for a in tiny(run, *options)]) is None
    return run


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_every_epoch_is_watched(watched):
    for line in metrics(watched):
        assert list(line["perturbed"]) == list(PERTURBATIONS)
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
    run = load_run(watched, "last")
    detector = run.detector
    data, line = open_data(run.record.data, 64), metrics(watched)[-1]
    labels, images = data["val"].labels, to_unit(data["val"].images)
    frozen, decided = detector.frozen(), []
    for name, change in PERTURBATIONS.items():
        for score, values in frozen.scores(change(images))[0].items():
            decided += [check_auc(line["perturbed"][name][score], values[labels == 0], values[labels == 1])]
    assert sum(decided) > len(decided) / 2  # scores of a discriminator that hardly trained may all be undecided


def test_the_last_epoch_counts(watched, tmp_path, command):
    """Asked for, or because nothing is labeled; the papers' choice needs labels."""
    last = {"name": "last", "epoch": 3, "chosen_by": "last epoch"}
    assert json.loads((watched / "summary.json").read_text())["checkpoint"] == last
    shutil.copytree(XRAYS / "train" / "NORMAL", tmp_path / "data" / "train" / "NORMAL")
    options = ("--data", tmp_path / "data", "--monitor", "true", "--select", "auc")
    assert command(train.main, *tiny(tmp_path / "run", *options))[0] == 0
    assert not any("validation" in line or "perturbed" in line for line in metrics(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["checkpoint"] == last


def by_opacities(run, target, epoch=None):
    """Return a copy of a run as if an earlier version had selected by synthetic opacities.

    `epoch` is how many epochs had been trained and which had been the best, of a run that has not finished.
    """
    run = shutil.copytree(run, target)
    rewrite_config(run, select="synthetic")
    if epoch:

        def unfinish(_, state):
            state |= {"epoch": epoch, "finished": False, "metrics_sha256": None}
            state["best"]["epoch"] = state["last"]["epoch"] = epoch

        rewrite_run(run, unfinish)
        (run / "summary.json").unlink()
    return run


def test_a_finished_run_that_was_selected_by_opacities(unbroken, tmp_path, command):
    """It stands for the epoch that was selected, says how, and a resume only writes its report again."""
    old = by_opacities(unbroken, tmp_path / "old")
    run, expected = load_run(old), load_run(unbroken, "best")
    assert run.record.config.select == "last" and run.checkpoint == "best"
    weights = (one.detector.state_dict().values() for one in (run, expected))
    for ours, theirs in zip(*weights, strict=True):
        assert torch.equal(ours, theirs)
    code, out, _ = command(evaluate.main, old)
    assert code == 0 and "synthetic opacity AUC of discriminator" in out
    (old / "summary.json").unlink()
    assert command(train.main, "--resume", old)[0] == 0
    assert json.loads((old / "summary.json").read_text())["checkpoint"] == {
        "name": "best",
        "epoch": run.epoch,
        "chosen_by": "synthetic opacity AUC of discriminator",
    }


def test_an_unfinished_run_that_was_selected_by_opacities(unbroken, tmp_path, command):
    """Nothing can judge its next epochs as the first ones were judged, so it stands for its last epoch."""
    old = by_opacities(unbroken, tmp_path / "old", epoch=2)
    assert load_run(old).checkpoint == "best"
    assert command(train.main, "--resume", old)[0] == 0
    chosen = json.loads((old / "summary.json").read_text())["checkpoint"]
    assert chosen == {"name": "last", "epoch": 3, "chosen_by": "last epoch"} and load_run(old).checkpoint == "last"


def test_nothing_is_watched_unless_asked(unbroken):
    assert not any("perturbed" in line for line in metrics(unbroken))


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
    config = preset("simsid-small", width=2, slots=6, gradient_penalty=3.0)
    torch.manual_seed(0)
    trainer, images = Trainer(Detector(config).train()), torch.rand(4, 1, 64, 64)
    seen, fake = trainer.detector.to_range(images), torch.rand(4, 1, 64, 64)
    judge = trainer.detector.discriminator
    real = seen.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(judge(real).sum(), real)
    penalty = gradient.square().sum((1, 2, 3)).mean() / 2
    plain = discriminator_loss(config, judge(seen), judge(fake))
    out = trainer.generator(seen)._replace(student=fake)
    trained = [p for p in judge.parameters() if p.requires_grad]
    weights = [p.clone() for p in trained]
    loss = trainer._step_discriminator(trainer.eager, seen, out, 1.0)
    torch.testing.assert_close(loss, (plain + 0.005 * 3.0 * penalty).detach())
    assert all(not torch.equal(a, b) for a, b in zip(weights, trained))
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
    config = preset("simsid-small", width=2, slots=6, spectral_norm=True, averaging=0.5)
    trainer = Trainer(Detector(config).train())
    for iteration in range(3):
        trainer.step(torch.rand(4, 1, 64, 64), iteration)
    judge = trainer.average.detector
    vectors = [t for name, t in judge.state_dict().items() if name.endswith(("_u", "_v"))]
    assert vectors and all(t.norm() == pytest.approx(1, abs=1e-5) for t in vectors)
    assert all(values.isfinite().all() for values in judge.eval().scores(torch.rand(2, 1, 64, 64))[0].values())
