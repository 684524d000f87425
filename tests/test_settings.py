"""What a new run is of: presets that are not given, and --config."""

import json
import sys

import pytest
import torch
from conftest import XRAYS, files_of, tiny

from fastsquid import train
from fastsquid.config import ConfigError, preset
from fastsquid.errors import UserError
from fastsquid.training import start as starting
from fastsquid.training.settings import read_settings
from fastsquid.training.start import default_preset

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_the_preset_of_xrays_is_ours():
    assert default_preset(str(XRAYS), GPU) == "fastsquid"
    assert default_preset(str(XRAYS), CPU) == "fastsquid-small"


def test_the_preset_of_digits(tmp_path):
    assert default_preset(None, CPU) == default_preset(None, GPU) == "digits"
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"")
    assert default_preset(str(tmp_path), CPU) == "digits"
    assert default_preset(str(tmp_path / "missing"), GPU) == "fastsquid"  # what is wrong is said later


@pytest.fixture
def begun(monkeypatch):
    """Records of the runs that `train` would train."""
    records = []
    monkeypatch.setattr(starting, "train_run", lambda folder, record, *more, **options: records.append(record) or True)
    return records


def test_train_without_a_preset(begun, tmp_path):
    train.main(["--data", str(XRAYS), "--device", "cpu", "--out", str(tmp_path / "run")])
    assert begun[0].config == preset("fastsquid-small")


@pytest.mark.parametrize("name", ["mine.json", "mine.yaml", "mine.yml"])
def test_a_file_of_fields(begun, tmp_path, name):
    path = tmp_path / name
    if name.endswith("json"):
        path.write_text(json.dumps({"preset": "simsid-small", "epochs": 7, "lr": 0.001}))
    else:
        pytest.importorskip("yaml")
        path.write_text("preset: simsid-small\nepochs: 7\nlr: 0.001\n")
    train.main(["--config", str(path), "--epochs", "9", "--out", str(tmp_path / "run")])
    assert begun[0].config == preset("simsid-small", epochs=9, lr=0.001) and begun[0].data is None


def test_powers_of_ten_in_yaml(begun, tmp_path):
    """YAML 1.1 takes 1e-4 for text."""
    pytest.importorskip("yaml")
    (tmp_path / "mine.yaml").write_text("preset: simsid-small\nlr: 1e-4\nweight_decay: 3E-05\nscore: residual\n")
    train.main(["--config", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "run")])
    assert begun[0].config == preset("simsid-small", lr=1e-4, weight_decay=3e-5, score="residual")


def test_fields_without_a_preset_change_the_default_one(begun, tmp_path):
    (tmp_path / "mine.json").write_text('{"epochs": 7}')
    options = ["--config", str(tmp_path / "mine.json"), "--data", str(XRAYS), "--device", "cpu"]
    train.main([*options, "--out", str(tmp_path / "run")])
    assert begun[0].config == preset("fastsquid-small", epochs=7)


def test_the_config_of_a_run_repeats_it(unbroken, tmp_path):
    train.main(["--config", str(unbroken / "config.json"), "--device", "cpu", "--out", str(tmp_path / "again")])
    assert files_of(tmp_path / "again") == files_of(unbroken)
    first, second = (json.loads((run / "config.json").read_text()) for run in (unbroken, tmp_path / "again"))
    assert first == second


def test_what_a_record_says_beside_its_fields(begun, unbroken, tmp_path):
    record = json.loads((unbroken / "config.json").read_text())
    record |= {
        "seed": 5,
        "skip_unreadable": True,
        "anonymous": True,
        "init": {"run": "there", "checkpoint": "best", "sha256": "ab"},
    }
    (tmp_path / "config.json").write_text(json.dumps(record))
    train.main(["--config", str(tmp_path / "config.json"), "--out", str(tmp_path / "run")])
    train.main(["--config", str(tmp_path / "config.json"), "--seed", "0", "--out", str(tmp_path / "run")])
    assert begun[0].seed == 5 and begun[0].skip_unreadable and begun[0].anonymous
    assert begun[0].init == record["init"] and begun[0].data == record["data"]
    assert begun[1].seed == 0


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.json", "{", "a.json"),
        ("a.json", "[1]", "a.json"),
        ("a.json", '{"preset": 1}', "a.json .*preset 1"),
        ("a.json", '{"preset": "sqid"}', "sqid.* squid"),
        ("a.json", '{"epoch": 1}', "epoch.*epochs"),
        ("a.json", '{"epochs": "many"}', "epochs.*many"),
        ("a.json", '{"config": {}}', "a.json .*config.json"),
        ("a.yaml", "a: b: c", "a.yaml .*YAML"),
        ("a.yaml", "12", "a.yaml"),
    ],
)
def test_bad_files(begun, tmp_path, name, text, said):
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    (tmp_path / name).write_text(text)
    with pytest.raises((UserError, ConfigError), match=said):
        train.main(["--config", str(tmp_path / name), "--out", str(tmp_path / "run")])
    assert not begun and not (tmp_path / "run").exists()


def test_what_goes_not_together(begun, tmp_path, unbroken, refused):
    (tmp_path / "a.json").write_text('{"preset": "squid"}')
    assert "--preset" in refused(train.main, "--config", tmp_path / "a.json", "--preset", "squid")
    assert "missing.json" in refused(train.main, "--config", tmp_path / "missing.json")
    assert "--config" in refused(train.main, "--resume", unbroken, "--config", tmp_path / "a.json")


def test_yaml_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "a.yaml").write_text("epochs: 1")
    with pytest.raises(UserError, match="pip install pyyaml"):
        read_settings(tmp_path / "a.yaml")


def test_tensorboard(tmp_path, monkeypatch):
    """A point per epoch for every loss and AUC, under the numbers of metrics.jsonl."""
    event_file = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train.main([str(option) for option in tiny(tmp_path / "run", "--tensorboard", "--monitor", "true")])
    found = event_file.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for group, key in (("losses", "losses"), ("AUC", "validation")):
        for name in lines[0][key]:
            points = found.Scalars(f"{group}/{name}")
            assert [point.step for point in points] == [1, 2, 3]
            assert [point.value for point in points] == pytest.approx([line[key][name] for line in lines])


def test_tensorboard_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        train.main([str(option) for option in tiny(tmp_path / "run", "--tensorboard")])
    assert not (tmp_path / "run").exists()
