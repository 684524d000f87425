"""bench/peers.py without the libraries that it compares: a stand-in for one of them, features, tables, failures."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import XRAYS, rows_of
from forked_python import python
from sklearn.metrics import roc_auc_score

from fastsquid.config import preset
from fastsquid.data import open_data, to_unit
from fastsquid.errors import UserError

BENCH = Path(__file__).parent.parent / "bench"
# In the place of PyOD: a detector, one that cannot be imported, and one that is killed.
STAND_IN = {
    "knn": """
from sklearn.neighbors import NearestNeighbors

class KNN:
    def fit(self, images):
        self.known = NearestNeighbors(n_neighbors=1).fit(images)

    def decision_function(self, images):
        return self.known.kneighbors(images)[0][:, 0]
""",
    "pca": "raise ImportError('made to fail')",
    "iforest": """
import os, signal

class IForest:
    def __init__(self, random_state):
        os.kill(os.getpid(), signal.SIGKILL)
""",
}


@pytest.fixture
def modules(monkeypatch):
    """bench/peers.py and its parts."""
    monkeypatch.syspath_prepend(BENCH)
    names = ("peers", "peer_features", "peer_methods", "peer_table")
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture
def peers(tmp_path):
    """Runs the command with the stand-in; the folder that it writes is `out`."""
    package = tmp_path / "stand-in" / "pyod" / "models"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    for name, code in STAND_IN.items():
        (package / f"{name}.py").write_text(code)
    path = os.pathsep.join([str(tmp_path / "stand-in"), os.environ.get("PYTHONPATH", "")])

    def run(*options, data=XRAYS):
        return subprocess.run(
            [python(), BENCH / "peers.py", data, tmp_path / "out", *options],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
        )

    return run


# The command


def test_a_run_a_failure_and_a_resumed_command(peers, tmp_path):
    out = tmp_path / "out"
    result = peers("--only", "pca", "knn", "isolation-forest", "--seeds", "0", "1")
    assert result.returncode == 0, result.stderr
    config = preset("fastsquid-small")
    data = open_data(XRAYS, config.image_size, crop=config.crop)
    known, val, test = (to_unit(data[split].images).flatten(1).double() for split in ("train", "val", "test"))
    expected = torch.cdist(val, known).amin(1)

    record = json.loads((out / "knn/seed-0/record.json").read_text())
    assert record["auc"] == pytest.approx(roc_auc_score(data["val"].labels, expected))
    assert record["images"] == {split: len(found) for split, found in data.items()}
    assert record["train_s"] > 0 and record["images_per_s"] > 0 and 50 < record["peak_mb"] < 20_000
    for split, distances in (("val", expected), ("test", torch.cdist(test, known).amin(1))):
        rows = rows_of(out / f"knn/seed-0/scores-{split}.csv")
        assert [row["name"] for row in rows] == data[split].names
        assert [float(row["score"]) for row in rows] == pytest.approx(distances.tolist(), rel=1e-4)

    # It draws nothing: one seed is enough. Others go on after a failure, which has its reason.
    assert {path.parent.relative_to(out).as_posix() for path in out.glob("*/seed-*/record.json")} == {
        "pca/seed-0",
        "knn/seed-0",
        "isolation-forest/seed-0",
        "isolation-forest/seed-1",
    }
    failed = json.loads((out / "pca/seed-0/record.json").read_text())
    assert failed["failed"] == "ImportError: made to fail" and "auc" not in failed
    killed = json.loads((out / "isolation-forest/seed-1/record.json").read_text())
    assert killed["failed"] == "the process ended with code -9"
    assert "pca, seed 0: failed: ImportError: made to fail\n" in result.stdout
    rows = rows_of(out / "peers.csv")
    assert [(row["method"], bool(row["auc"])) for row in rows if row["seed"] == "0"] == [
        ("isolation-forest", False),
        ("knn", True),
        ("pca", False),
    ]

    # Resumed: only what has no record runs again.
    (out / "pca/seed-0/record.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/seed-*/*")}
    again = peers("--only", "pca", "knn")
    assert again.returncode == 0 and "knn, seed 0: has a record\n" in again.stdout
    changed = {path for path in out.glob("*/seed-*/*") if before.get(path) != path.stat().st_mtime_ns}
    assert {path.relative_to(out).as_posix() for path in changed} == {"pca/seed-0/record.json", "pca/seed-0/log.txt"}


def test_what_is_wrong_with_the_command_is_one_sentence(peers, tmp_path):
    for options, said in (
        (("--only", "knnn"), "error: --only knnn is no method: choose from fastsquid-small, mean-image, "),
        (("--preset", "fastsqid"), "error: unknown preset 'fastsqid': did you mean fastsquid?"),
        (("--features", tmp_path / "missing.pth"), "error: "),
    ):
        result = peers(*options)
        assert result.returncode == 2 and result.stderr.startswith(said) and result.stderr.count("\n") == 1, options
    assert "missing.pth does not exist" in result.stderr or "--features needs timm: pip" in result.stderr
    unlabeled = peers(data=XRAYS / "test")
    assert unlabeled.returncode == 2 and "test has no labeled val split" in unlabeled.stderr


def test_the_distance_to_the_mean_image(modules, tmp_path):
    method = modules.peer_methods.METHODS["mean-image"]
    images, new = torch.randint(0, 256, (2, 6, 1, 8, 8), dtype=torch.uint8)
    score = method.fit(images, modules.peer_methods.Job("", tmp_path, 0, tmp_path, 1)).score
    expected = [(image / 255 - images.double().mean(0) / 255).norm().item() for image in new.double()]
    assert not method.random and score(new) == pytest.approx(expected, rel=1e-5)


def test_training_has_a_limit(modules):
    with pytest.raises(modules.peer_methods.LimitError, match="had not ended after 0.001 minutes"):
        with modules.peer_methods.limit(0.001):
            end = time.monotonic() + 60
            while time.monotonic() < end:
                pass
    with modules.peer_methods.limit(1):
        pass


# Features


class Backbone(torch.nn.Module):
    """In the place of a timm model: three levels that halve in size, and a classifier."""

    pretrained_cfg = {"classifier": "fc"}

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 1)
        self.fc = torch.nn.Linear(4, 10)

    def reset_classifier(self, classes):
        self.fc = torch.nn.Identity()

    def forward_intermediates(self, images, indices, intermediates_only):
        assert intermediates_only
        return [F.avg_pool2d(self.conv(images), 2**level) for level in indices]


@pytest.fixture
def timm(monkeypatch):
    module = SimpleNamespace(
        __version__="1.0",
        list_models=lambda: ["tiny"],
        create_model=lambda name, pretrained: Backbone() if not pretrained else pytest.fail("it would download"),
    )
    monkeypatch.setitem(sys.modules, "timm", module)


@pytest.mark.parametrize("head", [True, False])
def test_weights_are_loaded_with_and_without_a_classifier(modules, timm, tmp_path, head):
    state = Backbone().state_dict()
    torch.save({name: value for name, value in state.items() if head or not name.startswith("fc.")}, tmp_path / "a.pth")
    backbone = modules.peer_features.load_backbone(tmp_path / "a.pth", "tiny")
    assert torch.equal(backbone.conv.weight, state["conv.weight"]) and not backbone.training


def test_wrong_weights_are_one_sentence(modules, timm, monkeypatch, tmp_path):
    def message(file, name="tiny"):
        with pytest.raises(UserError) as error:
            modules.peer_features.load_backbone(tmp_path / file, name)
        assert "\n" not in str(error.value)
        return str(error.value)

    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save(Path("x"), tmp_path / "pickled.pth")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    assert "does not exist: give --features a file" in message("missing.pth")
    assert "has no model 'resnet': give --backbone" in message("other.pth", "resnet")
    for file in ("other.pth", "pickled.pth", "text.pth", "text.safetensors"):
        assert f"{file} is not a state dict of timm's tiny: " in message(file)
    monkeypatch.setitem(sys.modules, "timm", None)
    assert message("other.pth") == "--features needs timm: pip install '.[features]'"


def test_feature_maps(modules):
    """More images than a batch; the second level is enlarged; channels are chosen from both."""
    features, backbone = modules.peer_features, Backbone().eval()
    images = torch.randint(0, 256, (features.BATCH + 3, 1, 16, 16), dtype=torch.uint8)
    maps = features.feature_maps(backbone, images, [1, 2])
    assert maps.shape == (len(images), 8, 8, 8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (features.MEAN, features.STD))
    with torch.no_grad():
        colors = backbone.conv(((images[-1].float() / 255).expand(3, 16, 16) - mean) / std)
    half = F.avg_pool2d(colors, 2)
    torch.testing.assert_close(maps[-1, :4, 3, 5], half[:, 2:5, 4:7].mean((1, 2)))
    quarter = F.avg_pool2d(F.avg_pool2d(colors, 4), 3, 1, 1)
    expected = F.interpolate(quarter[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(maps[-1, 4:], expected)
    chosen = features.feature_maps(backbone, images, [1, 2], np.array([6, 1]))
    assert torch.equal(chosen, maps[:, [6, 1]])


def test_nearest_patches(modules):
    bank, maps = torch.randn(50, 6).double(), torch.randn(7, 6, 3, 4).double()
    expected = [
        max(min((bank[i] - image[:, y, x]).norm().item() for i in range(50)) for y in range(3) for x in range(4))
        for image in maps
    ]
    found = modules.peer_features.nearest_patch_scores(bank.numpy(), maps)
    assert found == pytest.approx(expected)
    bank, one_other = modules.peer_features.to_patches(maps[:1]), maps[:1].clone()
    one_other[0, :, 1, 2] += 100
    assert modules.peer_features.nearest_patch_scores(bank, maps[:1]) == pytest.approx([0], abs=1e-6)
    assert modules.peer_features.nearest_patch_scores(bank, one_other)[0] > 100


def test_gaussians_by_place(modules):
    """Ledoit and Wolf's covariance of many images is theirs; distances are numpy's."""
    maps = torch.randn(4000, 3, 2, 2).double() * torch.tensor([1.0, 2, 3]).view(1, 3, 1, 1) + 5
    maps[:, 0, 1, 1] += maps[:, 1, 1, 1]
    means, precisions = modules.peer_features.fit_places(maps)
    for place, (y, x) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        values = maps[:, :, y, x].numpy()
        assert means[place] == pytest.approx(values.mean(0))
        assert np.linalg.inv(precisions[place]) == pytest.approx(np.cov(values.T), abs=0.1)
    new = torch.randn(5, 3, 2, 2).double() * 10
    expected = []
    for image in new.flatten(2).numpy():
        differences = [image[:, place] - means[place] for place in range(4)]
        expected.append(max(np.sqrt(d @ precisions[place] @ d) for place, d in enumerate(differences)))
    assert modules.peer_features.mahalanobis_scores(means, precisions, new) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["patchcore", "padim"])
def test_detectors_on_features(modules, timm, tmp_path, monkeypatch, name):
    """A bright square in an image of noise has the largest score; another seed draws something else."""

    class Deeper(Backbone):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 64, 1)

    monkeypatch.setattr(sys.modules["timm"], "create_model", lambda name, pretrained: Deeper())
    torch.save(Deeper().state_dict(), tmp_path / "noise.pth")
    images = torch.randint(100, 120, (40, 1, 32, 32), dtype=torch.uint8)
    new = torch.randint(100, 120, (5, 1, 32, 32), dtype=torch.uint8)
    new[3, :, 8:16, 8:16] = 255
    found = modules.peer_methods.methods("fastsquid-small", tmp_path / "noise.pth")
    scores = []
    for seed in (0, 1):
        job = modules.peer_methods.Job("", tmp_path, seed, tmp_path, 1, tmp_path / "noise.pth", "tiny")
        fitted = found[f"{name}-noise"].fit(images, job)
        assert fitted.settings.startswith("tiny with noise.pth, ")
        scores.append(fitted.score(new))
        assert scores[-1].argmax() == 3
    assert not np.array_equal(*scores)


# Tables


def record(method, seed, **values):
    about = {"device": "CPU 1 threads", "python": "3.11", "torch": "2.13", "date": "2026-01-01"}
    base = {"method": method, "library": "pyod", "version": "3", "seed": seed, "random": True, "image_size": 64}
    return {**base, "command": "python bench/peers.py", "about": about, **values}


def finished(method, seed, auc):
    figures = {"images": {"train": 9}, "settings": "9 epochs", "train_s": 1.6, "images_per_s": 2000.4, "peak_mb": 300}
    return record(method, seed, auc=auc, **figures)


def test_tables(modules, tmp_path):
    records = [
        finished("a", 0, 0.5),
        finished("a", 1, 0.6),
        {**finished("a", 2, 0.7), "peak_mb": 500},
        finished("b", 0, 0.98),
        record("b", 1, failed="E: x | y"),
        record("c", 0, failed="E: z"),
        {**finished("d", 0, 0.4), "random": False},
    ]
    for values in records:
        folder = tmp_path / values["method"] / f"seed-{values['seed']}"
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(values))
    # Student's t of two degrees of freedom is 4.303 at 97.5 %; 4.303 * 0.1 / sqrt(3) = 0.248.
    assert modules.peer_table.write_tables(tmp_path)[2:] == [
        "| `a` | pyod 3 | 3 | 1.6 | 2,000 | 500 | 0.600 [0.352, 0.848] | 9 epochs |",
        "| `b` | pyod 3 | 1 | 1.6 | 2,000 | 300 | 0.980 | 9 epochs; seed 1 failed: E: x / y |",
        "| `c` | pyod 3 | 0 |  |  |  |  | seed 0 failed: E: z |",
        "| `d` | pyod 3 | 1 | 1.6 | 2,000 | 300 | 0.400 | 9 epochs; the same for every seed |",
    ]
    page = (tmp_path / "peers.md").read_text()
    assert page.startswith("Measured on CPU 1 threads, Python 3.11, PyTorch 2.13, 2026-01-01.\n")
    assert "anomalib's DSR: it needs a downloaded" in page
    assert [row["auc"] for row in rows_of(tmp_path / "peers.csv")] == ["0.5", "0.6", "0.7", "0.98", "", "", "0.4"]


def test_what_is_kept_is_small(modules, tmp_path):
    run = tmp_path / "out" / "a" / "seed-0"
    (run / "run").mkdir(parents=True)
    for name in ("record.json", "scores-val.csv", "scores-test.csv", "log.txt", "run/last.safetensors"):
        (run / name).write_text("{}")
    modules.peer_table.keep(tmp_path / "out", tmp_path / "kept")
    kept = {path.name for path in (tmp_path / "kept").rglob("*") if path.is_file()}
    assert kept == {"record.json", "scores-val.csv", "scores-test.csv"}


def test_every_model_of_anomalib_is_compared_or_left_out(modules):
    models = pytest.importorskip("anomalib.models")
    text = "".join(modules.peer_methods.LEFT_OUT).lower().replace("-", "").replace(" ", "")
    compared = {"Ganomaly", "Draem"}
    assert [name for name in models.__all__ if name not in compared and name.lower() not in text] == []
