"""A group in the place of a run: each command's numbers against those of its runs, put together with NumPy."""

import csv
import json
import pickle
import re
import shutil
import zipfile
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import XRAYS, rows_of, tiny
from sklearn.metrics import roc_auc_score
from test_report import parts

import fastsquid
from fastsquid import evaluate, export, locate, report, score, train
from fastsquid.data import find_images, open_data, read_images
from fastsquid.errors import UserError
from fastsquid.evaluation.localization import draw_synthetic
from fastsquid.evaluation.metrics import best_threshold, pixel_auroc
from fastsquid.exporting import portable, verification
from fastsquid.runs import checkpoint, trained
from fastsquid.scoring.maps import anomaly_maps, calibrate_maps
from fastsquid.scoring.scores import Calibration

# One level: an export of two networks then takes seconds.
SHALLOW = "--levels 1 --combine 1 --decoder-memory 1 --skips 1 --seeds 3 5".split()
PATHS = find_images(XRAYS)


def make_group(folder, *more):
    with redirect_stdout(StringIO()):
        train.main([str(argument) for argument in tiny(folder, *SHALLOW, *more)])
    return folder


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A group of two seeds, whose discriminators are the best of different epochs; to change it, take a copy."""
    return make_group(tmp_path_factory.mktemp("groups") / "group", "--score", "discriminator_image")


@pytest.fixture
def copied(group, tmp_path):
    return shutil.copytree(group, tmp_path / "group")


@pytest.fixture(scope="module")
def ensemble(group):
    return fastsquid.load(group, device="cpu")


@pytest.fixture(scope="module")
def runs(group):
    return [fastsquid.load(group / f"seed-{seed}", device="cpu") for seed in (3, 5)]


@pytest.fixture(scope="module")
def validation():
    return open_data(XRAYS, 64, splits=("val",))["val"]


def standardized(runs, images, normal):
    """{score: mean over runs of the standardized scores of images}."""
    result = {name: 0 for name in runs[0].score_names}
    for run in runs:
        usual, values = run.scores(normal), run.scores(images)
        for name in result:
            moments = usual[name].astype(np.float64)
            result[name] = result[name] + (values[name] - moments.mean()) / moments.std() / len(runs)
    return result


def firm(ensemble):
    """Names of the scores whose spread in every run is far above the rounding of float32, which is standardized too."""
    spreads = {name: min(one[name][1] for one in ensemble.detector.moments) for name in ensemble.score_names}
    names = [name for name, spread in spreads.items() if spread > 1e-3]
    assert {"discriminator_image", "residual"} <= set(names)
    return names


# What an ensemble is


@pytest.mark.parametrize("which", ["best", "last"])
def test_scores_are_the_mean_of_standardized_ones(group, validation, which):
    ensemble, *runs = (
        fastsquid.load(folder, which, "cpu") for folder in (group, *(group / f"seed-{seed}" for seed in (3, 5)))
    )
    normal = validation.images[validation.labels == 0]
    expected, found = standardized(runs, PATHS, normal), ensemble.scores(PATHS)
    assert list(found) == list(expected) and ensemble.score_name == "discriminator_image"
    for name in firm(ensemble):
        assert found[name].dtype == np.float32 and np.ptp(found[name]) > 0.1
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-3, err_msg=name)
    np.testing.assert_array_equal(ensemble.score(PATHS), found["discriminator_image"])
    assert ensemble.run.epoch == [run.run.epoch for run in runs]
    np.testing.assert_allclose([ensemble.scores(normal)[name].mean() for name in firm(ensemble)], 0, atol=1e-3)


def test_the_best_and_the_last_differ(group):
    """Or the test above would not see that scores-val-last.csv is read."""
    assert list(group.glob("seed-*/scores-val-last.csv"))


def test_the_calibration_is_the_ensembles_own(ensemble, validation):
    scores, labels = ensemble.scores(validation.images), validation.labels.numpy()
    assert set(ensemble.calibration) == set(ensemble.run.validation) == set(scores)
    for name in firm(ensemble):
        usual, values = ensemble.calibration[name], scores[name]
        normal = values[labels == 0]
        assert usual.mean == pytest.approx(normal.mean(), abs=1e-3)
        assert usual.std == pytest.approx(normal.std(), rel=1e-3)
        np.testing.assert_allclose(usual.quantiles, np.percentile(normal, range(101)), atol=1e-3)
        chosen = ensemble.run.validation[name]
        assert chosen["auc"] == pytest.approx(roc_auc_score(labels, values))
        assert chosen["threshold"] == pytest.approx(best_threshold(labels, values), abs=1e-3)
    usual, values = ensemble.calibration[ensemble.score_name], ensemble.score(PATHS).astype(np.float64)
    assert usual.std < 0.999, "the runs do not agree in everything, so that it is not 1"
    np.testing.assert_allclose(ensemble.calibrated(values), 1 / (1 + np.exp((usual.mean - values) / usual.std)))
    assert ensemble.percentile(usual.quantiles[30:31]) == pytest.approx(30)


def test_maps_and_reconstructions_are_means(ensemble, runs):
    for kind in ("residual", "memory_distance"):
        expected = np.mean([run.heatmap(PATHS, kind) for run in runs], axis=0)
        np.testing.assert_allclose(ensemble.heatmap(PATHS, kind), expected, atol=1e-4)
        assert np.ptp([run.heatmap(PATHS, kind) for run in runs], axis=0).max() > 0.1, "the runs' maps differ"
    drawn = np.mean([run.reconstruct(PATHS) for run in runs], axis=0)
    np.testing.assert_allclose(ensemble.reconstruct(PATHS), drawn, atol=1e-6)
    scores, reconstructions, heat = ensemble.examine(PATHS)
    np.testing.assert_array_equal(reconstructions, ensemble.reconstruct(PATHS))
    np.testing.assert_allclose(heat, ensemble.heatmap(PATHS), atol=1e-5)
    np.testing.assert_allclose(scores["residual"], ensemble.scores(PATHS)["residual"], atol=1e-5)


def test_images_of_a_batch_do_not_matter(ensemble):
    found, expected = ensemble.scores(PATHS, batch_size=3), ensemble.scores(PATHS)
    for name in firm(ensemble):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-3)


def test_a_pickle(ensemble):
    other = pickle.loads(pickle.dumps(ensemble))
    np.testing.assert_array_equal(other.score(PATHS), ensemble.score(PATHS))
    np.testing.assert_array_equal(other.heatmap(PATHS), ensemble.heatmap(PATHS))


def test_half_precision(group, ensemble):
    half = fastsquid.load(group, device="cpu", precision="bf16")
    assert all(member.half_precision for member in half.detector.members)
    residuals, exact = (scorer.scores(PATHS)["residual"] for scorer in (half, ensemble))
    assert (residuals != exact).any() and np.abs(residuals - exact).max() < 0.05 * np.ptp(exact)


def test_without_labels_training_images_standardize(tmp_path):
    """The ensemble's mean over them is then 0, and its deviation at most 1."""
    folder = XRAYS / "train" / "NORMAL"
    group = make_group(tmp_path / "group", "--data", folder, "--epochs", "1", "--score", "residual")
    ensemble, runs = fastsquid.load(group), [fastsquid.load(group / f"seed-{seed}") for seed in (3, 5)]
    images = read_images(find_images(folder), 64)[0]
    expected, found = standardized(runs, images, images), ensemble.scores(images)
    for name in firm(ensemble):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-3, err_msg=name)
        assert ensemble.calibration[name] == Calibration(0, 1) and found[name].std() < 1.001
    assert ensemble.run.checkpoint == "last" and ensemble.run.validation is None
    np.testing.assert_allclose(ensemble.calibrated([0.0, 2.0]), [0.5, 1 / (1 + np.exp(-2))])
    with pytest.raises(UserError, match=r"percentiles.*\bNORMAL\b"):
        ensemble.percentile([0.0])


def test_normal_images_of_one_score_do_not_standardize():
    labels, run = np.array([0, 0, 1]), SimpleNamespace(calibration={"residual": Calibration(3.0, 2.0)})
    same, differing = ({"residual": np.array(values)} for values in ([1.0, 1.0, 9.0], [1.0, 2.0, 9.0]))
    assert trained._moments(run, ["residual"], labels, same) == {"residual": (3, 2)}
    assert trained._moments(run, ["residual"], labels, differing) == {"residual": (1.5, 0.5)}


def test_a_group_of_one_seed_ranks_as_its_run(group, tmp_path):
    (tmp_path / "group").mkdir()
    record = json.loads((group / "group.json").read_text())
    (tmp_path / "group" / "group.json").write_text(json.dumps({**record, "seeds": [5]}))
    run = shutil.copytree(group / "seed-5", tmp_path / "group" / "seed-5")
    one, alone = fastsquid.load(tmp_path / "group"), fastsquid.load(run)
    assert np.corrcoef(one.score(PATHS), alone.score(PATHS))[0, 1] > 0.99999
    np.testing.assert_allclose(one.heatmap(PATHS), alone.heatmap(PATHS), atol=1e-5)


# The commands


def test_score(group, ensemble, runs, tmp_path, command):
    out = tmp_path / "scores.csv"
    assert command(score.main, group, XRAYS, "--out", out, "--device", "cpu", "--all-scores")[0] == 0
    rows = rows_of(out)
    scores = ensemble.scores(PATHS)
    assert set(scores) < set(rows[0])
    for name in firm(ensemble):
        np.testing.assert_allclose([float(row[name]) for row in rows], scores[name], rtol=1e-5, atol=1e-5)
    found = [float(row["percentile"]) for row in rows]
    np.testing.assert_allclose(found, ensemble.percentile(ensemble.score(PATHS)), rtol=1e-2, atol=0.1)


def test_evaluate(group, ensemble, runs, validation, tmp_path, command):
    out = tmp_path / "metrics.json"
    options = ("--json", out, "--robustness", "--out", tmp_path / "curves", "--device", "cpu")
    code, said, _ = command(evaluate.main, group, *options)
    assert code == 0 and (tmp_path / "curves" / "roc.png").is_file()
    result, labels = json.loads(out.read_text()), validation.labels.numpy()
    scores = ensemble.scores(validation.images)
    for name in firm(ensemble):
        found = result["scores"][name]
        assert found["auc"] == pytest.approx(roc_auc_score(labels, scores[name]), abs=1e-6)
        assert result["robustness"][name]["clean"] == found["auc"]
        chosen, best = found["validation_threshold"], found["test_threshold"]  # the split is validation here
        assert chosen == pytest.approx(best, abs=1e-3)
    aucs = [roc_auc_score(labels, run.score(validation.images)) for run in runs]
    assert result["runs"] == [{"seed": seed, "auc": pytest.approx(auc)} for seed, auc in zip((3, 5), aucs)]
    auc = result["scores"]["discriminator_image"]["auc"]
    found = rf"discriminator_image\b.* {auc:.3f}\b.* 3: {aucs[0]:.3f}\b.* 5: {aucs[1]:.3f}$"
    assert re.search(found, said, re.M)
    epochs = [run.run.epoch for run in runs]
    assert result["checkpoint"]["epoch"] == epochs
    assert re.search(rf"\bbest checkpoint\b.* {epochs[0]}, {epochs[1]} \(.*validation AUC\b", said)


def test_a_single_run_is_evaluated_as_before(group, tmp_path, command):
    out = tmp_path / "metrics.json"
    code, said, _ = command(evaluate.main, group / "seed-3", "--json", out, "--out", tmp_path, "--device", "cpu")
    assert code == 0 and "ensemble" not in said and "runs" not in json.loads(out.read_text())


def test_report(group, ensemble, tmp_path, command):
    """Of a folder, and of the CSV that `score` wrote of it."""
    folder, out, scores = XRAYS / "val", tmp_path / "report.html", tmp_path / "scores.csv"
    assert command(report.main, group, folder, "--out", out, "--device", "cpu")[0] == 0
    data, strips = parts(out)
    order = [str(folder / name) for name in data["names"]]
    np.testing.assert_allclose(data["scores"], ensemble.score(order), atol=1e-4)
    assert len(strips) == 6 and data["normal"] == 3 and sorted(data["percentiles"])[0] == 0
    facts = dict(data["run"])
    assert "mean" in facts["Score"] and facts["Preset"].endswith("seeds 3, 5")
    assert re.match(r"best checkpoint .* \d+, \d+", facts["Checkpoint"])
    assert re.search(r"\b2 runs\b.*\b8 images\b.*\bxrays\b", data["trained_on"])
    assert data["thresholds"][0][0] == ensemble.run.validation["discriminator_image"]["threshold"]
    assert command(score.main, group, folder, "--out", scores, "--device", "cpu")[0] == 0
    arguments = (group, scores, "--images", folder, "--out", out, "--overwrite", "--device", "cpu")
    assert command(report.main, *arguments)[0] == 0
    np.testing.assert_allclose(parts(out)[0]["scores"], ensemble.score(order), atol=1e-4)


def test_scores_of_one_of_its_runs_are_not_the_groups(group, tmp_path, refused):
    scores = group / "seed-3" / "scores-val.csv"
    said = refused(report.main, group, scores, "--images", XRAYS / "val", "--out", tmp_path / "report.html")
    assert f"{group} " in said and "python -m fastsquid.score" in said


def test_locate(group, tmp_path, command):
    code, said, _ = command(locate.main, group, "--out", tmp_path, "--device", "cpu")
    assert code == 0 and said.endswith(f"{tmp_path / 'maps.png'}\n")
    detector = trained.load_trained(group).detector
    data = open_data(XRAYS, 64)
    images, detector = data["val"].images / 255, detector.frozen()
    found = anomaly_maps(detector, images, calibrate_maps(detector, data["train"].images))
    for kind, values in found.items():
        each = [
            anomaly_maps(member, images, calibrate_maps(member, data["train"].images))[kind]
            for member in detector.members
        ]
        torch.testing.assert_close(values, torch.stack(each).mean(0), msg=kind)
    assert list(found) == ["residual", "memory_distance", "grad_cam"]
    measured = json.loads((tmp_path / "locate.json").read_text())["synthetic"]
    for kind, metrics in measured.items():
        drawn = draw_synthetic(data["val"].images[data["val"].labels == 0], kind)
        maps = anomaly_maps(detector, drawn.images, calibrate_maps(detector, data["train"].images))
        auroc = pixel_auroc(drawn.masks, maps["residual"].numpy())
        assert metrics["residual"]["pixel_auroc"] == pytest.approx(auroc, abs=1e-3)


def test_locate_in_digits(tmp_path, command, monkeypatch):
    """The AUC of cells is that of the mean of the runs' maps."""
    counts = {"train": (20, 0, 0, 0, 0), "val": (4, 1, 1, 1, 1), "test": (6, 2, 2, 2, 2)}
    monkeypatch.setattr(fastsquid.data.sources.digits, "COUNTS", counts)
    options = "--preset digits --width 4 --slots 8 --epochs 1 --score residual --device cpu --seeds 0 1 --out"
    assert command(train.main, *options.split(), tmp_path / "group")[0] == 0
    code, said, _ = command(locate.main, tmp_path / "group", "--device", "cpu")
    assert code == 0 and re.search(r"\blast checkpoint\b.* 1, 1$", said, re.M)
    result = json.loads((tmp_path / "group" / "localization" / "locate.json").read_text())
    test = open_data(None, 48, splits=("test",))["test"]
    scores = fastsquid.load(tmp_path / "group").score(test.images)
    auc = result["image_auc"]["score: residual"]["auc"]
    assert auc == pytest.approx(roc_auc_score(test.labels, scores), abs=0.02)
    assert set(result["cell_auc"]) == {"residual", "memory_distance", "grad_cam", "nearest_patch"}


def test_the_input_check_is_the_first_runs(ensemble, runs, validation, copied):
    images = validation.images.flip(2)
    found = ensemble.unlike_training(images)
    assert (found > 1).all()
    np.testing.assert_array_equal(found, runs[0].unlike_training(images))
    (copied / "seed-5" / "input-check.safetensors").unlink()
    np.testing.assert_array_equal(found, fastsquid.load(copied, device="cpu").unlike_training(images))
    (copied / "seed-3" / "input-check.safetensors").unlink()
    assert fastsquid.load(copied, device="cpu").input_check is None


@pytest.fixture(scope="module")
def exported(group, tmp_path_factory):
    """A verified file of the ensemble, and what the command said."""
    path, said = tmp_path_factory.mktemp("files") / "scorer.pt2", StringIO()
    with mock.patch.object(verification, "ROUNDS", 1), redirect_stdout(said):
        export.main([str(group), "--to", "pt2", "--out", str(path), "--verify"])
    return path, said.getvalue()


@pytest.mark.heavy
def test_an_exported_file_is_the_ensemble(exported, ensemble):
    """The other kind of file is written of the same program."""
    path, said = exported
    assert ["score", "anomaly_map"] in [line.split() for line in said.splitlines()]
    answer = portable.READERS["pt2"](str(path))
    images = read_images(PATHS, 64)[0] / 255
    expected = {"score": ensemble.score(PATHS), "anomaly_map": ensemble.heatmap(PATHS)}
    for size in (1, 7):
        batches = [answer(batch) for batch in images.split(size)]
        assert set(batches[0]) == set(expected)
        for name, values in expected.items():
            found = np.concatenate([batch[name] for batch in batches])
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, values, rtol=1e-3, atol=1e-2 * values.std())


@pytest.mark.heavy
def test_the_document_is_the_ensembles(exported, ensemble, runs):
    with zipfile.ZipFile(exported[0]) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(portable.DOCUMENT)]
        found, usual = json.loads(archive.read(name)), ensemble.calibration["discriminator_image"]
    assert found["calibration"] == {"mean": usual.mean, "std": usual.std}
    assert found["quantiles"] == usual.quantiles and found["logit"] is None
    assert found["threshold"] == ensemble.run.validation["discriminator_image"]["threshold"]
    assert found["epoch"] == [run.run.epoch for run in runs] and found["checkpoint"] == "best"


def test_verify_finds_a_run_with_another_weight(ensemble, monkeypatch):
    other = pickle.loads(pickle.dumps(ensemble))
    with torch.no_grad():
        other.detector.members[1].discriminator.layers[0].weight.mul_(1.05)
    images = read_images(PATHS[:8], 64)[0] / 255
    monkeypatch.setattr(verification, "ROUNDS", 1)
    for scorer, holds in ((ensemble, True), (other, False)):
        largest, _ = verification.compare(ensemble, partial(verification._original, scorer), images)
        assert (largest["score"] < verification.LIMIT) == holds, largest


# What is refused


def damaged_record(group):
    path = group / "seed-5" / "config.json"
    record = json.loads(path.read_text())
    record["config"]["batch_size"] = 4
    path.write_text(json.dumps(record))


def damaged_weights(group):
    path = checkpoint.latest_checkpoint(group / "seed-5") / "best.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def change_scores(change):
    """A function that rewrites the rows of the second run's validation scores."""

    def rewrite(group):
        path = group / "seed-5" / "scores-val.csv"
        with open(path, newline="") as file:
            rows = change(list(csv.reader(file)))
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows(rows)

    return rewrite


# The damage, and what the message says of it.
DAMAGED = {
    "unfinished": (
        lambda group: (group / "seed-5" / "summary.json").unlink(),
        r"/group .*\bseed 5\b.* --resume \S*/group",
    ),
    "not begun": (lambda group: shutil.rmtree(group / "seed-5"), r"/group .*\bseed 5\b.* --resume \S*/group"),
    "another configuration": (damaged_record, r"/seed-5 .*\bconfig\b.*\bgroup\.json"),
    "weights": (damaged_weights, r"/best\.safetensors .*checksum"),
    "no scores": (lambda group: (group / "seed-5" / "scores-val.csv").unlink(), r"/seed-5/scores-val\.csv .*missing"),
    "scores": (
        change_scores(lambda rows: [row[:-1] for row in rows[:3]] + rows[3:]),
        r"/seed-5/scores-val\.csv .*damaged",
    ),
    "a score less": (
        change_scores(lambda rows: [row[:-1] for row in rows]),
        r"/scores-val\.csv .*\bmemory_distance\b.* --resume ",
    ),
    "other images": (change_scores(lambda rows: rows[:-1]), r"/seed-5 .*/seed-3 .*validate"),
    "group.json": (lambda group: (group / "group.json").write_text("{}"), r"/group\.json .*version"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_group_that_cannot_be_opened(copied, tmp_path, refused, name):
    damage, message = DAMAGED[name]
    damage(copied)
    arguments = {
        score: (XRAYS, "--out", tmp_path / "scores.csv"),
        evaluate: ("--out", tmp_path / "curves"),
        report: (XRAYS, "--out", tmp_path / "report.html"),
        locate: ("--out", tmp_path / "maps"),
        export: ("--to", "pt2", "--out", tmp_path / "scorer.pt2"),
    }
    for command, options in arguments.items():
        assert re.search(message, refused(command.main, copied, *options).strip()), command
    with pytest.raises(UserError, match=message):
        fastsquid.load(copied)
    assert [path.name for path in tmp_path.iterdir()] == ["group"]


def test_a_run_without_maps_scores_all_the_same(copied, ensemble):
    (copied / "seed-5" / "maps.safetensors").unlink()
    without = fastsquid.load(copied, device="cpu")
    np.testing.assert_array_equal(without.score(PATHS), ensemble.score(PATHS))
    with pytest.raises(UserError, match="group .*best checkpoint.* --resume .*seed-3 .*--resume .*seed-5"):
        without.heatmap(PATHS)
