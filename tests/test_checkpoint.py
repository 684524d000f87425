"""Checkpoints that are damaged, of another configuration, or pickles; what is read back is what was written."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import XRAYS, rewrite_run
from safetensors.torch import load_file, save_file

from fastsquid import score, train
from fastsquid.model.detector import Detector
from fastsquid.runs import checkpoint
from fastsquid.runs.folder import read_run
from fastsquid.runs.records import CheckpointState
from fastsquid.training.trainer import Trainer


@pytest.fixture
def damaged(unbroken, tmp_path):
    return shutil.copytree(unbroken, tmp_path / "damaged")


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["last", "best", "optimizer"])
def test_a_damaged_checkpoint(damaged, refused, name):
    flip_a_byte(checkpoint.latest_checkpoint(damaged) / f"{name}.safetensors")
    # Whatever a command needs of it; training needs all three.
    assert re.search(rf"{name}\.safetensors .*checksum", refused(train.main, "--resume", damaged))


def test_a_missing_file(damaged, refused):
    (checkpoint.latest_checkpoint(damaged) / "last.safetensors").unlink()
    assert re.search(r"last\.safetensors .*missing", refused(train.main, "--resume", damaged))


def test_a_state_that_is_no_json(damaged, refused):
    (checkpoint.latest_checkpoint(damaged) / "state.json").write_text('{"epoch": 3, ')
    assert re.search(r"state\.json .*JSON", refused(train.main, "--resume", damaged))


def test_a_config_that_is_no_json(damaged, refused):
    (damaged / "config.json").write_text("[]")
    assert f"{damaged / 'config.json'} " in refused(train.main, "--resume", damaged)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("pickle-was-run",)


def test_a_pickle_is_never_unpickled(damaged, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Bomb()}, checkpoint.latest_checkpoint(damaged) / "last.safetensors")
    assert re.search(r"last\.safetensors .*pickle", refused(train.main, "--resume", damaged))
    torch.save(Bomb(), tmp_path / "model.pth")
    assert re.search(r"model\.pth .*pickle", refused(train.main, "--resume", tmp_path / "model.pth"))
    assert not Path("pickle-was-run").exists()


def test_a_checkpoint_of_another_configuration(damaged, refused):
    path = damaged / "config.json"
    run = json.loads(path.read_text())
    run["config"]["top_k"] = 3
    path.write_text(json.dumps(run))
    assert re.search(r"\btop_k\b.* 5 .* 3 ", refused(train.main, "--resume", damaged))


def test_tensors_that_do_not_fit(damaged, refused):
    """Consistent files, but of another model."""
    latest = checkpoint.latest_checkpoint(damaged)
    tensors = load_file(latest / "last.safetensors")
    tensors["generator.student.output.bias"] = torch.zeros(2)
    save_file(tensors, latest / "last.safetensors")
    digest = checkpoint.hashlib.sha256((latest / "last.safetensors").read_bytes()).hexdigest()
    rewrite_run(damaged, lambda _, state: state["sha256"].update(last=digest))
    assert "generator.student.output.bias" in refused(train.main, "--resume", damaged)


def test_an_unknown_field_in_the_config(damaged, refused):
    path = damaged / "config.json"
    run = json.loads(path.read_text())
    run["config"]["slot"] = 3
    path.write_text(json.dumps(run))
    assert re.search(r"'slot'.* slots\b", refused(train.main, "--resume", damaged))


def test_any_flipped_bit_of_a_state_is_noticed(damaged):
    """But for those that only change the JSON's layout, or nothing of what it says."""
    latest = checkpoint.latest_checkpoint(damaged)
    path = latest / "state.json"
    original, config = path.read_bytes(), read_run(damaged).config
    state = checkpoint.read_state(latest, config)
    rng = np.random.default_rng(0)
    refusals = 0
    for _ in range(300):
        content = bytearray(original)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            assert checkpoint.read_state(latest, config) == state
        except checkpoint.CheckpointError:
            refusals += 1
    assert refusals > 200


def test_a_checkpoint_without_its_state_is_damaged_and_not_absent(damaged, refused):
    (checkpoint.latest_checkpoint(damaged) / "state.json").unlink()
    before = sorted(damaged.rglob("*"))
    for main, arguments in ((train.main, ["--resume", damaged]), (score.main, [damaged, XRAYS])):
        assert re.search(r"checkpoint-\w+ .*state\.json\b", refused(main, *arguments))
    assert sorted(damaged.rglob("*")) == before


def test_a_damaged_line_of_metrics(damaged, refused):
    (damaged / "metrics.jsonl").write_text("{\n{\n{\n")
    assert f"{damaged / 'metrics.jsonl'} " in refused(train.main, "--resume", damaged)


def test_a_config_that_lacks_something(damaged, refused):
    path = damaged / "config.json"
    run = json.loads(path.read_text())
    del run["seed"]
    path.write_text(json.dumps(run))
    assert re.search(r"config\.json .*\bseed\b", refused(train.main, "--resume", damaged))


def test_optimizers_come_back(unbroken):
    latest, config = checkpoint.latest_checkpoint(unbroken), read_run(unbroken).config
    trainer = Trainer(Detector(config))
    optimizers = {"generator": trainer.generator_optimizer, "discriminator": trainer.discriminator_optimizer}
    checkpoint.load_optimizers(optimizers, latest, checkpoint.read_state(latest, config))
    steps = {
        name: {fields["step"].item() for fields in optimizer.state_dict()["state"].values()}
        for name, optimizer in optimizers.items()
    }
    assert steps == {"generator": {6.0}, "discriminator": {9.0}}  # 3 epochs of 3 batches, the generator in every other


def test_optimizers_come_back_in_the_layout_of_their_parameters(unbroken, tmp_path):
    """A GPU trains in channels_last, and its fused Adam accepts no moment of another layout than the parameter."""
    config = read_run(unbroken).config

    def trainer():
        made = Trainer(Detector(config).to(memory_format=torch.channels_last).train())
        return made, {"generator": made.generator_optimizer, "discriminator": made.discriminator_optimizer}

    def moments(optimizers):
        return [
            (parameter, optimizer.state[parameter][field])
            for optimizer in optimizers.values()
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.requires_grad
            for field in ("exp_avg", "exp_avg_sq")
        ]

    trained, saved = trainer()
    trained.step(torch.rand(3, 1, 64, 64), 0)
    trained.step(torch.rand(3, 1, 64, 64), 1)
    state = CheckpointState(config.to_dict())
    checkpoint.save_checkpoint(tmp_path, state, trained.evaluated.state_dict(), saved)
    latest = checkpoint.latest_checkpoint(tmp_path)
    resumed, loaded = trainer()
    checkpoint.load_optimizers(loaded, latest, checkpoint.read_state(latest, config))
    assert all(moment.stride() == parameter.stride() for parameter, moment in moments(loaded))
    assert any(not moment.is_contiguous() for _, moment in moments(loaded))
    for (_, before), (_, after) in zip(moments(saved), moments(loaded), strict=True):
        assert torch.equal(before, after)
