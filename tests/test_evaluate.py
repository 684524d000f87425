"""The evaluate command's AUCs of perturbed images, against each image scored by itself and pairs counted here."""

import json

import numpy as np
import pytest
import torch
from conftest import XRAYS

from fastsquid import evaluate
from fastsquid.checkpoint import load_run
from fastsquid.config import SCORES
from fastsquid.data import open_data, to_unit
from fastsquid.data.perturb import PERTURBATIONS


def test_robustness(unbroken, tmp_path, command):
    arguments = (evaluate.main, unbroken, "--device", "cpu", "--out", tmp_path, "--json", tmp_path / "e.json")
    code, plain, _ = command(*arguments)
    assert code == 0 and "robustness" not in json.loads((tmp_path / "e.json").read_text())
    code, out, _ = command(*arguments, "--robustness")
    assert code == 0 and out.startswith(plain)
    result = json.loads((tmp_path / "e.json").read_text())
    found = result["robustness"]
    assert tuple(found) == SCORES

    detector, split = load_run(unbroken)[0].frozen(), open_data(XRAYS, 64, splits=("val",))["val"]
    images, abnormal = to_unit(split.images), split.labels.numpy() == 1
    clear = set()
    for name, change in {"clean": lambda images: images, **PERTURBATIONS}.items():
        each = [detector.scores(change(image[None]))[0] for image in images]
        for score in SCORES:
            values = torch.cat([one[score] for one in each]).double().numpy()
            higher = values[abnormal][:, None] - values[~abnormal]
            if np.abs(higher).min() > 1e-5 * np.abs(values).max():  # rounding decides nothing
                clear.add((name, score))
                assert found[score][name] == pytest.approx((higher > 0).mean())
    assert len(clear) > 20  # of 42
    for score, aucs in found.items():
        assert list(aucs) == ["clean", *PERTURBATIONS, "mean"]
        assert aucs["clean"] == result["scores"][score]["auc"]
        assert aucs["mean"] == pytest.approx(np.mean(list(aucs.values())[:7]))

    head, *rows = out[len(plain) :].strip().splitlines()
    starts = [head.index(name) for name in ("clean", *PERTURBATIONS, "mean")]
    assert starts == sorted(starts)
    expected = [[score, *(f"{value:.3f}" for value in aucs.values())] for score, aucs in found.items()]
    assert [row.split() for row in rows] == expected
