"""Models that fastsquid ships: found by name, never written into, fine-tuned; and how their folders are made."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import XRAYS, rewrite_run
from sklearn.metrics import roc_auc_score

import fastsquid
from fastsquid import compare, evaluate, figures, locate, models, report, score, train
from fastsquid.data import open_data
from fastsquid.drawing import papers
from fastsquid.errors import CheckpointError, UserError
from fastsquid.evaluation import robustness
from fastsquid.evaluation.metrics import bootstrap_auc
from fastsquid.evaluation.summary import run_table
from fastsquid.model.detector import COMBINED
from fastsquid.models import MODELS, model_folder, output_folder, resolve, shipped_name
from fastsquid.runs.checkpoint import latest_checkpoint
from fastsquid.runs.folder import read_run, read_scores, read_summary
from fastsquid.runs.trained import load_maps, load_run

ROOT = Path(__file__).parent.parent
PACKAGE = Path(fastsquid.__file__).parent
HEALTHY = XRAYS / "val" / "NORMAL"
sys.path.insert(0, str(ROOT / "bench"))
import finetune  # noqa: E402
import ship  # noqa: E402


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that may be shipped."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    sizes = "--preset fastsquid-small --width 4 --slots 8 --discriminator-width 16 --epochs 2 --device cpu".split()
    train.main(["--data", str(XRAYS), *sizes, "--out", str(run)])
    return run


def make(name):
    """A folder or file in the working directory."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if name.endswith("/") else path.touch()


# Names


@pytest.mark.parametrize(
    "existing, run, meant",
    [
        ([], "zhanglab", model_folder("zhanglab")),
        ([], Path("zhanglab"), model_folder("zhanglab")),
        (["zhanglab"], "zhanglab", model_folder("zhanglab")),
        (["zhanglab/train/NORMAL/1.jpeg"], "zhanglab", model_folder("zhanglab")),  # a data set
        (["zhanglab/config.json"], "zhanglab", Path("zhanglab")),
        (["zhanglab/group.json"], "zhanglab", Path("zhanglab")),
        (["zhanglab/"], "./zhanglab", Path("zhanglab")),
        ([], "runs/zhanglab", Path("runs/zhanglab")),
        (["zhanlab/"], "zhanlab", Path("zhanlab")),
        ([], "runs/mine", Path("runs/mine")),
        ([], "", Path(".")),
        ([], str(model_folder("zhanglab")), model_folder("zhanglab")),
    ],
)
def test_what_a_name_stands_for(existing, run, meant):
    for name in existing:
        make(name)
    assert resolve(run) == meant


@pytest.mark.parametrize("name", ["zhanlab", "ZhangLab", "zhang-lab", "./zhanglab", "zhanglab/"])
def test_the_nearest_name(name, refused):
    with pytest.raises(CheckpointError, match=rf"^{name} does not exist: did you mean zhanglab\?$"):
        resolve(name)
    assert "did you mean zhanglab?" in refused(score.main, name, HEALTHY)


def test_a_run_of_that_name_wins(finished):
    shutil.copytree(finished, "zhanglab")
    assert fastsquid.load("zhanglab").detector.config.width == 4


def test_commands_print_its_name(command, refused):
    code, out, err = command(compare.main, "zhanglab", "zhanglab")
    assert code == 0, err
    assert "No difference between zhanglab and zhanglab is shown." in out and str(PACKAGE) not in out
    message = refused(score.main, "zhanglab", HEALTHY, "--checkpoint", "best")
    assert message.startswith("error: zhanglab has no best checkpoint")


def test_folders_of_models():
    assert [shipped_name(model_folder(name)) for name in MODELS] == list(MODELS)
    assert not any(map(shipped_name, (".", "zhanglab", PACKAGE / "models", model_folder("zhanglab").parent / "other")))
    assert output_folder("runs/mine", "evaluation") == Path("runs/mine/evaluation")
    assert output_folder(model_folder("zhanglab"), "evaluation") == Path("zhanglab-evaluation")


@pytest.mark.parametrize("name", MODELS)
def test_every_command_names_it(name):
    for command in (evaluate, locate, report, score, train):
        assert name in command.parser().format_help()
    assert (ROOT / "docs" / "models" / f"{name}.md").is_file()


# Commands


def files():
    """{path: size and time} of everything in the package but compiled modules."""
    found = (path for path in PACKAGE.rglob("*") if "__pycache__" not in path.parts)
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def test_no_command_writes_into_the_package(command, refused, monkeypatch):
    monkeypatch.setattr(papers, "draw_figures", lambda runs, data: [("roc", "not drawn")])
    before = files()
    for main, *arguments in [
        (score.main, HEALTHY),
        (report.main, HEALTHY),
        (evaluate.main, "--data", XRAYS),
        (locate.main, "--data", XRAYS),
        (figures.main, "--data", XRAYS),
        (compare.main, "zhanglab"),
    ]:
        code, _, err = command(main, "zhanglab", *arguments)
        assert code == 0, err
    folders = {f"zhanglab-{name}" for name in ("evaluation", "localization", "figures")}
    assert {path.name for path in Path().iterdir()} == {"scores.csv", "report.html", *folders}
    for run in ("zhanglab", model_folder("zhanglab")):
        assert "--init zhanglab" in refused(train.main, "--resume", run)
    assert files() == before


@pytest.mark.parametrize("main", [evaluate.main, locate.main, figures.main])
def test_it_has_no_data_of_its_own(main, refused):
    make("zhanglab/train/NORMAL/")  # nor is a data set of that name its own
    assert "by --data" in refused(main, "zhanglab")


@pytest.mark.parametrize("named, own", [(XRAYS, True), ("zhanglab", False), ("other", False)])
def test_its_own_data_is_known_by_content(command, refused, named, own):
    """The repository's X-rays are of the release; the same images with other names are not known to be."""
    if not own:
        shutil.copytree(XRAYS, named)
        for number, path in enumerate(Path(named).rglob("train/*/*.jpeg")):
            path.rename(path.with_name(f"{number}.jpeg"))
    code, out, err = command(evaluate.main, "zhanglab", "--data", named)
    assert code == 0, err
    assert ("chosen on validation" in out) is not own
    other_split = refused(evaluate.main, "zhanglab", "--data", named, "--protocol", "squid-zhanglab", "--overwrite")
    assert ("trained with another split" in other_split) is own


def test_a_damaged_copy(refused):
    shutil.copytree(model_folder("zhanglab"), "copy")
    weights = Path("copy/checkpoint-000001/last.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert f"{weights} is damaged: its checksum" in refused(score.main, "copy", HEALTHY)
    weights.write_bytes(content[:-1])
    assert f"{weights} is damaged: its checksum" in refused(score.main, "copy", HEALTHY)


@pytest.mark.parametrize("name", ["maps", "input-check"])
def test_a_damaged_file_of_the_package(name, refused, monkeypatch):
    shutil.copytree(model_folder("zhanglab"), "models/zhanglab")
    monkeypatch.setattr(models, "_HERE", Path("models"))
    path = Path(f"models/zhanglab/{name}.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    assert f"{path} is damaged: install fastsquid again" in refused(score.main, "zhanglab", HEALTHY)


@pytest.mark.parametrize("name", ["checkpoint-000001/last.safetensors", "checkpoint-000001/state.json", "config.json"])
def test_a_damaged_installation(name, refused, monkeypatch, tmp_path):
    folder = tmp_path / "package" / "zhanglab"
    shutil.copytree(model_folder("zhanglab"), folder)
    monkeypatch.setattr(models, "_HERE", folder.parent)
    (folder / name).write_bytes((folder / name).read_bytes()[:-100])
    expected = "the shipped model zhanglab is damaged or incomplete: install fastsquid again"
    assert expected in refused(score.main, "zhanglab", HEALTHY)
    shutil.rmtree(folder)
    assert expected in refused(score.main, "zhanglab", HEALTHY)


# Fine-tuning


def test_fine_tuning_by_command_and_by_estimator(command):
    options = ["--data", HEALTHY, "--epochs", 1, "--lr", 1e-4, "--seed", 3, "--device", "cpu", "--out", "tuned"]
    assert command(train.main, "--init", "zhanglab", *options)[0] == 0
    record, theirs = read_run("tuned"), read_run(model_folder("zhanglab"))
    weights = load_run(model_folder("zhanglab"))
    trained_on = {"images": 1241, "source": "zhanglab"}
    assert record.init == {
        "run": "zhanglab",
        "checkpoint": "last",
        "sha256": weights.weights,
        "trained_on": trained_on,
    }
    assert record.config.to_dict() == {**theirs.config.to_dict(), "epochs": 1, "lr": 1e-4}

    parameters = {"init": "zhanglab", "epochs": 1, "config": {"lr": 1e-4}, "random_state": 3, "device": "cpu"}
    detector = fastsquid.AnomalyDetector(**parameters).fit(HEALTHY)
    tuned, begun = load_run("tuned").detector, weights.detector
    frozen = tuned.frozen().state_dict()
    fitted = detector.scorer_.detector.state_dict()
    assert fitted.keys() == frozen.keys() and all(torch.equal(fitted[name], frozen[name]) for name in fitted)
    moved = [(one - other).abs().max() for one, other in zip(tuned.parameters(), begun.parameters())]
    assert 0 < max(moved) < 0.01  # one step from where it began
    scorer = fastsquid.load("tuned", device="cpu")
    np.testing.assert_array_equal(detector.score_samples(HEALTHY), -scorer.score(HEALTHY).astype(np.float64))


@pytest.mark.parametrize(
    "parameters, message",
    [
        (dict(config={"width": 8}), "^the weights of zhanglab do not fit .* width: "),
        (dict(preset="squid-small"), "^the weights of zhanglab do not fit .* slots, "),
        (dict(config={"slot": 3}), r"'slot'.* slots\b"),
    ],
)
def test_weights_that_do_not_fit(parameters, message):
    with pytest.raises(UserError, match=message):
        fastsquid.AnomalyDetector(init="zhanglab", **parameters).fit(np.zeros((2, 64, 64), np.uint8))


# The shipped weights


@pytest.mark.parametrize("name", MODELS)
def test_its_files(name):
    folder = model_folder(name)
    contents = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in contents) < 20e6
    for path in contents:
        if path.suffix != ".safetensors":
            text = path.read_text()
            assert not any(word in text for word in ("/work", "/home", "/root", "/tmp", "\\")), path
    run = load_run(folder)
    assert run.record.data == name and load_maps(run).keys() >= {run.detector.config.map}
    for parameter in run.detector.parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter.half().float(), parameter)
    _, labels, scores = read_scores(folder / "scores-val.csv")
    summary = read_summary(folder)
    assert set(scores) == set(summary.scores) and (labels == 0).sum() == summary.images["normal"]


def test_scores_are_the_recorded_ones():
    """Of the repository's labeled X-rays, which are among the validation images."""
    names, _, recorded = read_scores(model_folder("zhanglab") / "scores-val.csv")
    images = sorted((XRAYS / "val").rglob("*.jpeg"))
    expected = [dict(zip(names, recorded["combined"]))[path.relative_to(XRAYS / "val").as_posix()] for path in images]
    run = fastsquid.load("zhanglab", device="cpu")
    scores = run.score(images)
    np.testing.assert_allclose(scores, expected, atol=0.01)
    np.testing.assert_array_equal(scores > run.thresholds[0].value, ["PNEUMONIA" in str(path) for path in images])


# How a folder is made


def test_a_model_is_made_of_a_run(finished, command):
    code, _, err = command(ship.main, finished, "models/tiny", "--data", XRAYS)
    assert code == 0, err
    assert [path.name for path in Path("models").iterdir()] == ["tiny"]
    text = "".join(path.read_text() for path in Path("models").rglob("*") if path.suffix in (".json", ".jsonl", ".csv"))
    assert str(ROOT) not in text and str(finished.parent) not in text
    assert read_run("models/tiny").data == "tiny"
    theirs, ours = load_run(finished).detector, load_run("models/tiny").detector.state_dict()
    parameters = dict(theirs.named_parameters())
    for name, tensor in theirs.state_dict().items():
        if name != "usual":  # computed again
            assert torch.equal(ours[name], tensor.half().float() if name in parameters else tensor), name
    sizes = [(latest_checkpoint(run) / "last.safetensors").stat().st_size for run in (finished, "models/tiny")]
    assert sizes[1] < 0.65 * sizes[0]

    scorer = fastsquid.load("models/tiny", device="cpu")
    names, _, recorded = read_scores("models/tiny/scores-val.csv")
    scores = scorer.scores([XRAYS / "val" / name for name in names])
    for name, values in scores.items():
        np.testing.assert_allclose(values, recorded[name], rtol=1e-5, atol=1e-5)
    seen = scorer.scores(XRAYS / "train" / "NORMAL")
    assert scorer.calibration["combined"].mean == pytest.approx(seen["combined"].mean(), abs=1e-4)
    usual = [(seen[name].mean(), seen[name].std()) for name in COMBINED]
    np.testing.assert_allclose(ours["usual"], usual, rtol=1e-4)
    assert not np.allclose(theirs.usual, usual, rtol=1e-4)
    assert scorer.heatmap(HEALTHY).shape == (3, 64, 64) and scorer.input_check is not None
    with open(finished / "scores-val.csv", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == names


def unfinish(run):
    (run / "summary.json").unlink()


def select(run):
    """As if labels had chosen an epoch."""

    def choose(record, state):
        state["best"], state["sha256"]["best"] = state["last"], state["sha256"]["last"]

    rewrite_run(run, choose)
    latest = latest_checkpoint(run)
    shutil.copy(latest / "last.safetensors", latest / "best.safetensors")


def tune(run):
    record = json.loads((run / "config.json").read_text())
    record["init"] = {"run": "zhanglab", "checkpoint": "last", "sha256": "0" * 64}
    (run / "config.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    "change, data, message",
    [
        (unfinish, XRAYS, "is not finished"),
        (tune, XRAYS, "began with other weights"),
        (select, XRAYS, "--select last"),
        (lambda run: None, HEALTHY, "does not hold the training images"),
        (lambda run: make("models/tiny/"), XRAYS, "models/tiny exists"),
    ],
)
def test_what_cannot_be_shipped(finished, refused, change, data, message):
    shutil.copytree(finished, "run")
    change(Path("run"))
    assert message in refused(ship.main, "run", "models/tiny", "--data", data)
    assert not Path("models").exists() or [*Path("models/tiny").iterdir()] == []


def test_nothing_half_written_stays(finished, command, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(ship, "report_run", interrupt)
    assert command(ship.main, finished, "models/tiny", "--data", XRAYS)[0] == 130
    assert [*Path("models").iterdir()] == []


# The model's page


def test_fine_tuning_is_the_committed_one():
    text = (ROOT / "docs" / "models" / "zhanglab.md").read_text(encoding="utf-8")
    written = (ROOT / "bench" / "results" / "finetune.md").read_text(encoding="utf-8")
    rows = [line for line in written.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 1 + 3 * 2
    assert "<!-- fine-tuning -->\n" + "\n".join(rows) + "\n<!-- end of fine-tuning -->" in text
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]
    aucs = {(what, count): float(auc.split()[0]) for what, count, _, _, auc in cells}
    assert f"{aucs['shipped model, as it is', '0']} against 0.978" in text
    for count in ("50", "200"):
        random, same, short = (aucs[what, count] for what in finetune.TRAININGS)
        assert short < same <= random


def test_darkened_data_for_fine_tuning(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "COUNTS", (2, 3))
    folders = finetune.write_data(XRAYS, tmp_path)
    assert [len([*(folder / "train" / "NORMAL").iterdir()]) for folder in folders.values()] == [2, 3]
    data = open_data(folders[3], size=finetune.SIDE, splits=("train", "val"))
    theirs = open_data(XRAYS, size=finetune.SIDE, splits=("train", "val"))
    assert sorted(data["val"].labels.tolist()) == sorted(theirs["val"].labels.tolist())
    expected = (theirs["train"].images[:3].numpy() / 255.0) ** 2 * 255
    np.testing.assert_allclose(data["train"].images.numpy(), expected, atol=0.51)
    assert finetune.write_data(XRAYS, tmp_path) == folders  # what is there stays


def test_figures_of_the_page_are_the_committed_ones():
    folder = model_folder("zhanglab")
    text = (ROOT / "docs" / "models" / "zhanglab.md").read_text(encoding="utf-8")
    summary = json.loads((folder / "summary.json").read_text())
    found = json.loads((ROOT / "bench" / "results" / "zhanglab" / "shipped.json").read_text())
    assert f"```text\n{run_table(summary)}\n```" in text
    changed = robustness.robustness_table(found["robustness"], found["healthy_above_threshold"])
    assert f"```text\n{changed}\n\n{robustness.confounds_table(found['confounds'])}\n```" in text
    _, labels, scores = read_scores(folder / "scores-val.csv")
    auc, (low, high) = roc_auc_score(labels, scores["combined"]), bootstrap_auc(labels, scores["combined"])
    assert f"AUC {auc:.3f}, 95 % bootstrap interval over images {low:.3f} to {high:.3f}." in text
    assert found["robustness"]["combined"]["clean"] == pytest.approx(auc, abs=1e-6)
    above = found["healthy_above_threshold"]
    assert above["blur"] > 0.5 and above["rotate -10"] > 0.5 > above["clean"]
    assert found["robustness"]["residual"]["clean"] < 0.5
    config = read_run(folder).config
    assert (config.preset, config.epochs, config.image_size) == ("fastsquid-small", 12, 64)
    assert summary["precision"] == "fp32" and summary["seed"] == 0
