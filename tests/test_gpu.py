"""Training and scoring on a GPU: CUDA graphs and compiled networks against eager ones, resume, images of 16 bits.

Kernels and whole models are tested in files of their own, which take the GPU where there is one. What has a meaning
without a GPU runs on the CPU here.
"""

import json
import os
import signal

import pytest
import torch
from conftest import DEVICE, XRAYS, tiny

from fastsquid import train
from fastsquid.config import preset
from fastsquid.data import find_images, read_images, to_unit
from fastsquid.data.split import Split
from fastsquid.model.detector import Detector
from fastsquid.runs.folder import create_run
from fastsquid.runs.records import RunRecord
from fastsquid.training import loop
from fastsquid.training.epoch import Steps
from fastsquid.training.trainer import Trainer

# torch.compile warns while it traces
pytestmark = pytest.mark.filterwarnings("default")
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU: CUDA graphs and compiled GPU code")
# As few layers as a whole detector can have. The compiled shortcut draws its own random numbers, so there is none.
SMALL = dict(
    image_size=40, width=4, levels=2, slots=7, grid=2, heads=1, decoder_memory=1, skips=1, combine=1, shortcut=1.0
)
# Learning rates so small that rounding does not grow from step to step, which the two networks' answers would make it.
SLOW = dict(lr=1e-6, lr_final=1e-6)
LOSS = 1e-3  # what rounding may change of a loss then
SCORE = 1e-3  # and of a score


@pytest.fixture(autouse=True)
def float32_products(monkeypatch):
    """Convolutions rounded to TF32, PyTorch's default, would hide what is compared here."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch._dynamo.reset()


def xrays(size=40):
    return read_images(find_images(XRAYS), size)[0]


def losses_of(steps, count):
    """What each of `count` steps adds to the sums of the losses, on the CPU."""
    found = []
    for step in steps.begin(0, 0)[:count]:
        before = steps.sums.clone()
        steps.run(*step)
        found.append((steps.sums - before).cpu())
    return torch.stack(found)


@needs_gpu
@pytest.mark.parametrize("system", ["squid", "simsid"])
def test_captured_steps_follow_eager_ones(system):
    """Eight steps that are replays of CUDA graphs of compiled networks, from the same weights as eight eager ones."""
    config = preset(f"{system}-small", batch_size=2, **SMALL, **SLOW)
    images = torch.cat([xrays()] * 2).to(DEVICE)
    torch.manual_seed(0)
    detector = Detector(config).to(DEVICE).train()
    start = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    captured = Steps(Trainer(detector, compile=True), images)
    losses_of(captured, 8)
    assert len(captured.graphs) == 2 and all(each.graph is not None for each in captured.graphs.values())
    # In place, where the graphs read.
    detector.load_state_dict(start)
    for optimizer in (captured.trainer.generator_optimizer, captured.trainer.discriminator_optimizer):
        for state in optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()
    other = Detector(config).to(DEVICE).train()
    other.load_state_dict(start)
    found, expected = losses_of(captured, 8), losses_of(Steps(Trainer(other), images), 8)
    assert expected.isfinite().all() and (expected[:, 0] > 0).all()
    torch.testing.assert_close(found, expected, rtol=LOSS, atol=1e-7)
    changes = (expected[2:] - expected[:-2]).abs().max()  # from a step to the next of its kind
    assert changes > 10 * LOSS * expected.abs().max()
    # Replays train: each of Adam's first steps moves a weight by about the learning rate.
    moved = {name: (detector.state_dict()[name] - tensor).norm() for name, tensor in start.items() if "weight" in name}
    assert all(distance > 0 for distance in moved.values())


def state_of(trainer):
    """Every tensor that training goes on from, and its strides."""
    found = dict(trainer.detector.state_dict()) | {
        f"evaluated.{n}": t for n, t in trainer.evaluated.state_dict().items()
    }
    for name, optimizer in (("G", trainer.generator_optimizer), ("D", trainer.discriminator_optimizer)):
        for i, fields in optimizer.state_dict()["state"].items():
            found |= {f"{name}.{i}.{field}": tensor for field, tensor in fields.items()}
    return {name: (tensor.detach().clone(), tensor.stride()) for name, tensor in found.items()}


@pytest.mark.parametrize("compile", ["off", pytest.param("on", marks=needs_gpu)])
def test_a_stopped_run_goes_on(tmp_path, monkeypatch, compile):
    """Stopped in its second epoch, a run resumes with every tensor as it was left, in the same layout, and ends."""
    options = ["--device", DEVICE, "--compile", compile, "--precision", "fp32"]  # the last --device counts
    steps, states, run = [], [], Steps.run

    def stopping(self, *step):
        steps.append(step)
        if len(steps) == 5:  # of three an epoch
            os.kill(os.getpid(), signal.SIGINT)
        if len(steps) == 6:  # the first one of the resumed run
            states.append(state_of(self.trainer))
        run(self, *step)
        if len(steps) == 5:
            states.append(state_of(self.trainer))

    monkeypatch.setattr(Steps, "run", stopping)
    assert train.main([*map(str, tiny(tmp_path / "run")), *options]) == 130
    assert len(steps) == 5
    assert train.main(["--resume", str(tmp_path / "run"), *options]) is None
    assert len(steps) == 9
    left, found = states
    assert left.keys() == found.keys()
    for name, (tensor, strides) in left.items():
        assert torch.equal(tensor, found[name][0]) and strides == found[name][1], name
    assert any("exp_avg" in name for name in left)


def test_images_of_sixteen_bits_train_as_those_of_eight(tmp_path, monkeypatch):
    """The same images in both depths: a training of two epochs has the same losses."""
    monkeypatch.setattr(loop.Run, "_report", lambda self: None)
    config, images, losses = preset("simsid-small", epochs=2, batch_size=4, **SMALL), xrays()[:8], []
    for name, data in (("8", images), ("16", images.to(torch.int32).mul(257).to(torch.uint16))):
        split = Split(data, None, [str(i) for i in range(len(data))])
        torch.manual_seed(0)
        create_run(tmp_path / name, RunRecord(config, data=None, seed=0, fingerprint=""))
        run = loop.Run(tmp_path / name, Detector(config).to(DEVICE), {"train": split}, 0)
        assert run.train()
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["losses"] for line in lines])
    assert len(losses[0]) == 2
    for a, b in zip(*losses, strict=True):
        assert a == pytest.approx(b, rel=LOSS)


@needs_gpu
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("system", ["squid", "simsid"])
def test_compiled_scoring_gives_the_same_scores(system, half):
    config = preset(f"{system}-small", **SMALL)
    detector = Detector(config).to(DEVICE).train()
    trainer = Trainer(detector)
    images = to_unit(xrays().to(DEVICE))
    for i in range(4):  # slots in the queue, statistics in the BatchNorms
        trainer.step(images, i)
    frozen = detector.eval().frozen(half)
    expected, drawn = frozen.scores(images)
    found, drawn_too = torch.compile(frozen.scores)(images)
    allowed = 0.05 if half else SCORE  # the compiler keeps sums in float32 that eager bfloat16 rounds
    for name, values in expected.items():
        assert (found[name] - values).abs().max() <= allowed * values.abs().max(), name
    assert (drawn_too - drawn).abs().max() <= allowed
