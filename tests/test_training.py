"""The training iteration: losses, order of work, and work that is not done twice."""

import copy
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICE, XRAYS

from fastsquid.config import preset
from fastsquid.data import find_images, read_images, to_unit
from fastsquid.model.detector import Detector
from fastsquid.training.losses import generator_loss
from fastsquid.training.trainer import Trainer

FEW_LAYERS = dict(levels=2, combine=1, skips=1, decoder_memory=1, grid=2)  # tracing takes seconds for each graph


def trainer(**changes):
    trainer = Trainer(Detector(preset("digits", width=2, slots=8, **changes)))
    trainer.detector.train()
    return trainer


class Watch:
    """Counts passes of every network, and whether the generator's built a graph."""

    def __init__(self, trainer):
        self.calls = {"encoder": 0, "student": 0, "teacher": 0, "discriminator": 0}
        self.graphs = []
        generator = trainer.detector.generator
        for name in ("encoder", "student", "teacher"):
            getattr(generator, name).register_forward_hook(lambda *a, name=name: self.count(name))
        trainer.detector.discriminator.register_forward_hook(lambda *a: self.count("discriminator"))
        generator.register_forward_hook(lambda m, inputs, out: self.graphs.append(out.student.requires_grad))

    def count(self, name):
        self.calls[name] += 1


@pytest.mark.parametrize(
    "order, graphs", [("separate", [False, True, False, False, True, False]), ("shared", [True, False, True, False])]
)
def test_work_is_not_done_twice(order, graphs):
    t = trainer(order=order)
    watch = Watch(t)
    for iteration in range(4):
        t.step(torch.rand(3, 1, 48, 48), iteration)
    assert watch.graphs == graphs
    # Teacher only where the generator steps; D: image and reconstruction each time, once more for the generator.
    assert watch.calls == {"encoder": len(graphs), "student": len(graphs), "teacher": 2, "discriminator": 4 * 2 + 2}


def test_scoring_runs_no_teacher():
    t = trainer()
    watch = Watch(t)
    t.detector.eval().scores(torch.rand(3, 1, 48, 48))
    assert watch.calls == {"encoder": 1, "student": 1, "teacher": 0, "discriminator": 3} and watch.graphs == [False]


@pytest.mark.parametrize("order", ["separate", "shared"])
def test_who_moves_when(order):
    t = trainer(order=order)

    def step(iteration):
        before = {n: v.clone() for n, v in t.detector.state_dict().items()}
        t.step(torch.rand(3, 1, 48, 48), iteration)
        return {n for n, v in t.detector.state_dict().items() if not torch.equal(v, before[n])}

    first, second = step(0), step(1)
    parameters = {n for n, _ in t.detector.named_parameters()}
    assert any(n.startswith("discriminator") for n in first & parameters) and any(
        n.startswith("generator") for n in first & parameters
    )
    assert {n.split(".")[0] for n in second & parameters} == {"discriminator"}
    # The queue is written after the generator's step only; its BatchNorm moves in both.
    assert "generator.inpaint.memory.bank" in first and "generator.inpaint.memory.bank" not in second
    assert "generator.encoder.blocks.0.conv1.1.running_mean" in second
    assert t.detector.generator.inpaint.memory.pointer == 3


def test_the_generator_meets_the_updated_discriminator():
    t = trainer(shift=0.0)
    seen = []
    t.detector.discriminator.register_forward_pre_hook(lambda m, inputs: seen.append(m.logit.weight.clone()))
    t.step(torch.rand(3, 1, 48, 48), 0)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_the_generators_step_leaves_the_discriminator_alone():
    t = trainer()
    t.step(torch.rand(3, 1, 48, 48), 0)
    trained = [p for p in t.detector.discriminator.parameters() if p.requires_grad]
    after_own = [p.grad.clone() for p in trained]
    out = t.generator(torch.rand(3, 1, 48, 48), teacher=True)
    loss, _ = generator_loss(t.config, torch.rand(3, 1, 48, 48), out, t.discriminator(out.student))
    loss.backward(inputs=t.generator_parameters)
    assert all(torch.equal(a, p.grad) for a, p in zip(after_own, trained))


def test_losses_are_the_papers():
    t = trainer()
    images = torch.rand(3, 1, 48, 48)
    out = t.generator(images, teacher=True)
    logits = t.discriminator(out.student)
    loss, parts = generator_loss(t.config, images, out, logits)
    distillation = sum(((a - b) ** 2).mean() for a, b in zip(out.teacher_levels, out.student_levels))
    expected = (
        10 * F.mse_loss(out.student, images)
        + 0.01 * F.mse_loss(out.teacher, images)
        + 0.001 * distillation
        + 0.005 * F.softplus(-logits).mean()
    )
    torch.testing.assert_close(loss, expected)
    assert len(out.teacher_levels) == 3
    torch.testing.assert_close(parts["distillation"], distillation)


def test_averaged_weights():
    """The discriminator's weights and statistics as a mean that forgets; its counters and the generator as they are."""
    t = trainer(averaging=0.75)
    expected = {name: value.clone() for name, value in t.detector.state_dict().items()}
    for iteration in range(3):  # the generator steps in the first and the last
        t.step(torch.rand(3, 1, 48, 48), iteration)
        for name, value in t.detector.state_dict().items() if iteration != 1 else ():
            if name.startswith("discriminator") and value.is_floating_point():
                expected[name] = 0.75 * expected[name] + 0.25 * value
            else:
                expected[name] = value.clone()
    torch.testing.assert_close(t.average.detector.state_dict(), expected)
    assert not any(p.requires_grad for p in t.average.detector.parameters()) and trainer().average is None


def test_an_auto_encoder_learns_by_squared_error_alone():
    config = preset("auto-encoder-small", width=2)
    t = Trainer(Detector(config).train())
    images = torch.rand(3, 1, 64, 64)
    expected = 10 * F.mse_loss(t.generator(images).student, images)
    losses = [t.step(images, iteration) for iteration in range(2)]
    assert all(set(loss) == {"generator", "student"} for loss in losses)
    torch.testing.assert_close(losses[0]["generator"], expected.detach())
    assert t.detector.discriminator is None and losses[1]["generator"] < losses[0]["generator"]
    assert not any("memor" in name or "teacher" in name for name, _ in t.detector.named_parameters())


def test_memae_weighs_the_entropy_of_what_it_reads():
    t = Trainer(Detector(preset("memae-small", width=4, slots=30)).train())
    images, seen = torch.rand(3, 1, 64, 64), []
    memory = t.detector.generator.inpaint.memory
    memory.register_forward_hook(lambda module, inputs, out: seen.append((inputs[0], out[1])))
    out = t.generator(images)
    ((queries, weights),) = seen
    dots = torch.einsum("brc,rnc->brn", queries, memory.bank)
    kept = dots * (dots > 0.0025)
    torch.testing.assert_close(weights, kept / kept.sum(-1, keepdim=True).clamp_min(1e-12))
    entropy = -(weights * (weights + 1e-30).log()).sum(-1).mean()
    torch.testing.assert_close(out.entropy, entropy)
    loss, parts = generator_loss(t.config, images, out)
    torch.testing.assert_close(loss, 10 * parts["student"] + 0.0002 * entropy)
    assert torch.autograd.grad(out.entropy, memory.bank)[0].any()


def test_learning_rates():
    t = trainer(lr=1e-4, lr_final=2e-5, epochs=200)
    assert t.learning_rate(0) == pytest.approx(1e-4) and t.learning_rate(200) == pytest.approx(2e-5)
    assert t.learning_rate(100) == pytest.approx(6e-5)
    assert t.learning_rate(50) == pytest.approx(2e-5 + 4e-5 * (1 + math.cos(math.pi / 4)))
    assert t.discriminator_optimizer.param_groups[0]["lr"] == t.generator_optimizer.param_groups[0]["lr"]
    t = trainer(decay_discriminator=False, lr=1e-4)
    t.set_epoch(25)
    assert t.discriminator_optimizer.param_groups[0]["lr"] == 1e-4 > t.generator_optimizer.param_groups[0]["lr"]
    assert t.generator_optimizer.param_groups[0]["weight_decay"] == 1e-5
    assert t.discriminator_optimizer.param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize("values, low", [("unit", 0.0), ("symmetric", -1.0)])
def test_images_reach_the_networks_in_the_models_range(values, low):
    t = trainer(value_range=values)
    seen = []
    t.detector.discriminator.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    t.step(torch.zeros(2, 1, 48, 48), 1)
    assert (seen[0] == low).all()


@pytest.mark.heavy
@pytest.mark.parametrize("system", ["squid", "simsid"])
def test_bf16_is_near_fp32(system):
    """Mean loss of steps 41 to 50 within 5 %, and nothing that is kept in half precision."""
    means = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        config = preset(system, image_size=48, width=4, slots=8, heads=1, lr=1e-3, **FEW_LAYERS)
        t = Trainer(Detector(config), precision=precision)
        t.detector.train()
        images = torch.rand(4, 1, 48, 48)
        losses = [t.step(images, 0)["generator"] for _ in range(50)]
        assert all(loss.dtype == torch.float32 for loss in losses)
        means[precision] = torch.stack(losses[40:]).mean().item()
        assert all(v.dtype != torch.bfloat16 for v in t.detector.state_dict().values())
    assert means["fp32"] != means["bf16"] == pytest.approx(means["fp32"], rel=0.05)


@pytest.mark.heavy
@pytest.mark.filterwarnings("default")  # torch.compile warns while it traces
@pytest.mark.parametrize(
    "system", ["squid", pytest.param("simsid", marks=pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU"))]
)
def test_compiled_training_follows_eager(system, monkeypatch):
    """Every loss within 1e-3 for 10 steps and its mean over 50 within 2 %; the queue is written alike.

    Later single steps may differ by more: each network answers the other, and rounding grows from step to step.
    """
    if DEVICE == "cpu":  # traced and differentiated ahead of time, but not compiled to C++, which takes a minute
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    config = preset(system, image_size=40, width=4, slots=7, heads=1, shortcut=1.0, **FEW_LAYERS)
    # On a CPU in float64: which code its convolutions are, and so how they round, depends on the CPU.
    dtype = torch.float64 if DEVICE == "cpu" else torch.float32
    images = to_unit(read_images(find_images(XRAYS), 40)[0]).to(DEVICE, dtype)
    losses, queues = [], []
    for compile in (False, True):
        torch.manual_seed(0)
        t = Trainer(Detector(config).to(DEVICE, dtype).train(), compile=compile)
        losses.append([])
        for i in range(50):
            losses[-1].append(t.step(images, i))
            if i == 9:
                memory = t.detector.generator.inpaint.memory
                queues.append(copy.deepcopy(dict(memory.named_buffers())))
    torch.testing.assert_close(losses[1][:10], losses[0][:10], rtol=1e-3, atol=1e-8)
    for name in losses[0][0]:
        eager, compiled = (torch.stack([step[name] for step in run if name in step]).mean().item() for run in losses)
        assert compiled == pytest.approx(eager, rel=0.02), name
    assert system == "simsid" or queues[0]["filled"] == 7
    torch.testing.assert_close(*queues, rtol=1e-3, atol=1e-4)
