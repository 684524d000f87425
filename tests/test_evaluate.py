"""The evaluate command's AUCs of perturbed images, against each image scored by itself and pairs counted here."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import XRAYS, possible_aucs, rewrite_config
from PIL import Image

from fastsquid import evaluate
from fastsquid.config import preset
from fastsquid.data import find_images, open_data, to_unit
from fastsquid.data.images import convert_array
from fastsquid.data.perturb import CHANGES, CONFOUNDS, PERTURBATIONS
from fastsquid.runs.trained import load_run

SCORES = preset("squid").scores


def test_robustness(unbroken, tmp_path, command, refused):
    arguments = (evaluate.main, unbroken, "--device", "cpu", "--out", tmp_path, "--json", tmp_path / "e.json")
    code, plain, _ = command(*arguments)
    assert code == 0 and "robustness" not in json.loads((tmp_path / "e.json").read_text())
    assert f"{tmp_path / 'roc.png'} exists" in refused(*arguments)
    assert f"{tmp_path / 'e.json'} exists" in refused(*arguments, "--out", tmp_path / "new")
    code, out, _ = command(*arguments, "--robustness", "--overwrite")
    assert code == 0 and out.startswith(plain)
    result = json.loads((tmp_path / "e.json").read_text())
    found = result["robustness"]
    assert tuple(found) == SCORES

    detector, split = load_run(unbroken).detector.frozen(), open_data(XRAYS, 64, splits=("val",))["val"]
    images, abnormal = to_unit(split.images), split.labels.numpy() == 1
    threshold = result["scores"]["discriminator"]["validation_threshold"]["threshold"]
    clear, healthy = set(), result["healthy_above_threshold"]
    assert list(healthy) == ["clean", *PERTURBATIONS]
    for name, change in {"clean": lambda images: images, **PERTURBATIONS}.items():
        each = [detector.scores(change(image[None]))[0] for image in images]
        for score in SCORES:
            values = torch.cat([one[score] for one in each]).double().numpy()
            higher = values[abnormal][:, None] - values[~abnormal]
            if np.abs(higher).min() > 1e-5 * np.abs(values).max():  # rounding decides nothing
                clear.add((name, score))
                assert found[score][name] == pytest.approx((higher > 0).mean())
        values = torch.cat([one["discriminator"] for one in each]).double().numpy()[~abnormal]
        if np.abs(values - threshold).min() > 1e-5 * np.abs(values).max():
            assert healthy[name] == pytest.approx((values >= threshold).mean())
    assert len(clear) > 50  # of 102
    for score, aucs in found.items():
        assert list(aucs) == ["clean", *PERTURBATIONS, "mean"]
        assert aucs["clean"] == result["scores"][score]["auc"]
        assert aucs["mean"] == pytest.approx(np.mean(list(aucs.values())[:17]))

    for score, aucs in result["confounds"].items():
        each = [
            torch.cat([detector.scores(change(image[None]))[0][score] for image in images]).double().numpy()
            for change in CONFOUNDS.values()
        ]
        for auc, values in zip(aucs.values(), each, strict=True):
            higher = values[abnormal][:, None] - values[~abnormal]
            if np.abs(higher).min() > 1e-5 * np.abs(values).max():
                assert auc == pytest.approx((higher > 0).mean())
    table, parts = out[len(plain) :].strip().split("\n\n")
    assert [line.split()[0] for line in parts.splitlines()[1:]] == list(SCORES)
    assert parts.splitlines()[0].endswith("lungs only  without lungs")
    head, *rows = table.splitlines()
    assert head.split()[-3:] == ["healthy", "above", "threshold"] and head.split()[4:-3] == list(SCORES)
    for row, name in zip(rows, ["clean", *PERTURBATIONS, "mean"], strict=True):
        cells = [f"{aucs[name]:.3f}" for aucs in found.values()]
        assert row.startswith(name) and row[22:].split() == cells + [
            f"{healthy[n]:.1%}" for n in (name,) if n in healthy
        ]


def test_what_is_cropped_is_perturbed_before(unbroken, tmp_path, command):
    """A run that crops, on bordered images: perturbed at twice the size, then cropped like any image."""
    run = shutil.copytree(unbroken, tmp_path / "run")
    rewrite_config(run, crop=True)
    for file in find_images(XRAYS / "val"):
        target = tmp_path / "data" / "val" / file.parent.name / f"{file.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            Image.fromarray(np.pad(np.asarray(image.convert("L")), 25)).save(target)
    options = ("--data", tmp_path / "data", "--device", "cpu", "--json", tmp_path / "e.json", "--robustness")
    code, _, err = command(evaluate.main, run, *options)
    assert code == 0, err
    found = json.loads((tmp_path / "e.json").read_text())["robustness"]
    detector, split = load_run(run).detector.frozen(), open_data(tmp_path / "data", 4 * 64)["val"]
    abnormal, clear = split.labels.numpy() == 1, 0
    for name, change in CHANGES.items():
        squares = [convert_array(image, 64, crop=True) for image in change(to_unit(split.images))[:, 0]]
        for score, values in detector.scores(torch.from_numpy(np.stack(squares))[:, None])[0].items():
            values = values.double().numpy()
            higher = values[abnormal][:, None] - values[~abnormal]
            if np.abs(higher).min() > 1e-5 * np.abs(values).max():
                clear += 1
                assert found[score][name] == pytest.approx((higher > 0).mean())
    assert clear > 50
    # A border more changes nothing.
    images = to_unit(split.images)
    framed, padded, white = (
        np.stack([convert_array(image, 64, crop=True) for image in change(images)[:, 0]])
        for change in (lambda images: images, CHANGES["pad 20 %"], CHANGES["white 10 %"])
    )
    np.testing.assert_array_equal(padded, framed)
    np.testing.assert_allclose(white, framed, atol=1e-6)


def columns(out):
    """How often the table of a command's output has a column of accuracies."""
    return next(line for line in out.splitlines() if line.startswith("score ")).split().count("accuracy")


def test_validation_images_have_one_half_and_a_note(unbroken, tmp_path, command):
    """The X-rays' test is unlabeled: epoch, threshold and AUC are all of val."""
    arguments = (evaluate.main, unbroken, "--device", "cpu", "--out", tmp_path, "--overwrite")
    code, out, _ = command(*arguments)
    note = next(line for line in out.splitlines() if "threshold and AUC" in line)
    assert code == 0 and columns(out) == 1 and "epoch" in note and re.search(r"\btest\b.*\bval\b", note)
    code, out, _ = command(*arguments, "--checkpoint", "last")
    assert columns(out) == 1 and re.search(r"^(?!.*\bepoch\b).*\bthreshold and AUC\b", out, re.M)
    other = shutil.copytree(XRAYS / "val", tmp_path / "other" / "val")
    for data in (other, other.parent):  # labeled test images, and validation images that are not the run's
        code, out, _ = command(*arguments, "--data", data)
        assert code == 0 and columns(out) == 2 and "threshold and AUC" not in out
    code, out, _ = command(*arguments, "--data", XRAYS)
    assert columns(out) == 1


def test_every_class_of_class_folders(unbroken, tmp_path, command):
    """In a table and in JSON: the images of each abnormal class against all normal ones, by the score that ranks."""
    for file in find_images(XRAYS / "val"):
        kind = "NORMAL" if file.parent.name == "NORMAL" else re.search("virus|bacteria", file.stem)[0]
        (tmp_path / "data" / "test" / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "data" / "test" / kind)
    arguments = (evaluate.main, unbroken, "--data", tmp_path / "data", "--out", tmp_path, "--json", tmp_path / "e.json")
    code, out, _ = command(*arguments, "--device", "cpu")
    result = json.loads((tmp_path / "e.json").read_text())
    found, split = result["by_class"], open_data(tmp_path / "data", 64)["test"]
    assert code == 0 and found["score"] == "discriminator" and list(found["classes"]) == ["bacteria", "virus"]
    scores = load_run(unbroken).detector.frozen().scores(to_unit(split.images))[0]
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("AUC by class"))
    assert lines[start].split()[3:] == ["images", *SCORES] and SCORES[0] == "discriminator"
    for line, (name, numbers) in zip(lines[start + 1 :], found["classes"].items()):
        mine = np.array([kind == name for kind in split.classes])
        healthy = np.array([kind == "NORMAL" for kind in split.classes])
        assert numbers["images"] == mine.sum() == {"bacteria": 2, "virus": 1}[name] and healthy.sum() == 3
        for score in SCORES:
            values = scores[score].double().numpy()
            low, high = possible_aucs(values[healthy], values[mine], 1e-5)
            assert low - 1e-9 <= result["scores"][score]["auc_by_kind"][name] <= high + 1e-9
        assert numbers["auc"] == result["scores"]["discriminator"]["auc_by_kind"][name]
        assert numbers["low"] <= numbers["auc"] <= numbers["high"]
        ends = f"[{numbers['low']:.3f}, {numbers['high']:.3f}]"
        others = [f"{result['scores'][score]['auc_by_kind'][name]:.3f}" for score in SCORES[1:]]
        assert line.split() == [name, str(numbers["images"]), f"{numbers['auc']:.3f}", *ends.split(), *others]
    # Class folders may name people, so an anonymous evaluation has no classes but normal and abnormal.
    code, out, _ = command(*arguments, "--device", "cpu", "--anonymous", "--overwrite")
    assert code == 0 and "by class" not in out and "virus" not in (tmp_path / "e.json").read_text()
    assert json.loads((tmp_path / "e.json").read_text())["by_class"] is None
