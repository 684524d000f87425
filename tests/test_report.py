"""The report command: what it makes of folders and CSVs, what it refuses; test_report_page looks at it in a browser."""

import base64
import csv
import dataclasses
import datetime
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import XRAYS, rewrite_run
from PIL import Image, features
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

import fastsquid
from fastsquid import report, score
from fastsquid.api import Scorer
from fastsquid.config import preset
from fastsquid.data import known_source, read_image
from fastsquid.data.names import PATH_NAMES, HashNames
from fastsquid.evaluation.metrics import bootstrap_auc, evaluate_kinds
from fastsquid.reporting import content
from fastsquid.reporting.page import BUDGET, page, strip
from fastsquid.runs.records import RunRecord
from fastsquid.scoring.scores import Calibration
from fastsquid.scoring.thresholds import offered_thresholds

NOT_ZHANGLAB = ["NORMAL/IM-0001-0001.jpeg", "NORMAL/IM-0115-0001.jpeg"]  # as other programs number their exports


def parts(path):
    """The data of a report, and its strips."""
    text = path.read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)[1])
    strips = re.search(r'<script id="strips" type="text/plain">(.*?)</script>', text, re.S)[1].split("\n")
    return data, [base64.b64decode(strip) for strip in strips]


def pictures(strip):
    """X-ray, reconstruction and map, in [0, 1]: (L, L), (S, S) and (S, S)."""
    with Image.open(io.BytesIO(strip)) as image:
        assert image.format == "WEBP"
        values, (width, height) = np.asarray(image.convert("L")) / 255, image.size
    small = (width - height) // 2
    return values[:, :height], values[:small, height : height + small], values[:small, height + small :]


def write_rows(path, *rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def read_rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def written(by_residual, tmp_path_factory):
    """A report of the labeled split."""
    out = tmp_path_factory.mktemp("report") / "val.html"
    assert report.main([str(by_residual), str(XRAYS / "val"), "--out", str(out)]) is None
    return out


def test_scores_and_percentiles_are_the_runs_own(by_residual, written):
    data, _ = parts(written)
    scorer = fastsquid.load(by_residual)
    files = [XRAYS / "val" / name for name in data["names"]]
    assert len(files) == 6 and sorted(files) == sorted((XRAYS / "val").rglob("*.jpeg"))
    np.testing.assert_allclose(data["scores"], scorer.score(files), atol=1e-5)
    normal = [file for file in files if file.parent.name == "NORMAL"]
    known = np.percentile(scorer.score(normal), range(101))  # from the images themselves
    # The score and the known ones may each be wrong by 1e-5, as above; a normal image's own percentile is at a jump.
    low, high = (np.floor(np.interp(np.add(data["scores"], wrong), known, range(101))) for wrong in (-2e-5, 2e-5))
    assert (low <= data["percentiles"]).all() and (data["percentiles"] <= high).all()
    assert data["normal"] == 3
    assert data["labels"] == [int(file.parent.name == "PNEUMONIA") for file in files]


def test_metrics_are_those_of_scikit_learn(written):
    data, _ = parts(written)
    labels, scores, metrics = np.array(data["labels"]), np.array(data["scores"]), data["metrics"]
    assert metrics["auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert metrics["interval"] is None  # of three images per class
    assert metrics["average_precision"] == pytest.approx(average_precision_score(labels, scores))
    fpr, tpr, _ = roc_curve(labels, scores)
    np.testing.assert_allclose(metrics["roc"], np.stack([fpr, tpr], 1), atol=1e-5)
    precision, recall, _ = precision_recall_curve(labels, scores, drop_intermediate=True)
    np.testing.assert_allclose(metrics["precision_recall"], np.stack([recall, precision], 1), atol=1e-5)
    # Three abnormal images: 95 % of them are all of them, from the lowest one's score.
    assert metrics["threshold"] == scores[labels == 1].min()
    assert metrics["specificity"] == (scores[labels == 0] < metrics["threshold"]).mean()


def test_an_interval_needs_twenty_images_per_class():
    labels, scores = [0] * 25 + [1] * 20, np.random.default_rng(0).normal(size=45).tolist()
    assert content._metrics(labels, scores)["interval"] == pytest.approx(bootstrap_auc(labels, scores))
    assert content._metrics(labels[:-1], scores[:-1])["interval"] is None
    assert content._metrics(labels[6:], scores[6:])["interval"] is None


@pytest.fixture
def classes(tmp_path):
    """The labeled images in class folders, two of them abnormal."""
    for file in (XRAYS / "val").rglob("*.jpeg"):
        kind = "NORMAL" if file.parent.name == "NORMAL" else re.search("virus|bacteria", file.stem)[0]
        (tmp_path / "in" / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "in" / kind)
    return tmp_path / "in"


def test_every_class_of_class_folders(by_residual, classes, tmp_path):
    out = tmp_path / "r.html"

    def reported(*arguments):
        assert report.main([str(by_residual), *map(str, arguments), "--out", str(out), "--overwrite"]) is None
        data, _ = parts(out)
        return data, {row["name"]: row for row in data["metrics"]["classes"]}

    def expected(data, **members):
        scores = np.array(data["scores"])
        kinds = {name: np.isin(data["names"], images) for name, images in members.items()}
        return evaluate_kinds(np.array(data["labels"]), scores, kinds)

    data, found = reported(classes)
    names = {kind: [name for name in data["names"] if name.startswith(kind)] for kind in ("bacteria", "virus")}
    assert [len(images) for images in names.values()] == [2, 1] and list(found) == ["bacteria", "virus"]
    assert {name: {**row, "name": name} for name, row in expected(data, **names).items()} == found
    # What a CSV says goes first: images of both classes, and one of another. Findings of normal images do not count.
    both, other = names["bacteria"], names["virus"]
    said = {name: "virus" for name in data["names"]} | dict.fromkeys(both, "virus|bacteria") | {other[0]: "other"}
    rows = [
        [name, label, said[name], value] for name, label, value in zip(data["names"], data["labels"], data["scores"])
    ]
    write_rows(tmp_path / "s.csv", ["name", "label", "findings", "residual"], *rows)
    data, found = reported(tmp_path / "s.csv", "--images", classes)
    assert {name: row["images"] for name, row in found.items()} == {"bacteria": 2, "other": 1, "virus": 2}
    expectation = expected(data, bacteria=both, other=other, virus=both)
    assert {name: {**row, "name": name} for name, row in expectation.items()} == found
    # Labels of one's own say nothing of classes, and hashed names hide folders.
    write_rows(tmp_path / "l.csv", ["name", "label"], *[row[:2] for row in rows])
    for arguments in (["--labels", tmp_path / "l.csv"], ["--anonymous"]):
        data, found = reported(classes, *arguments)
        assert found == {} and data["labels"].count(1) == 3
    assert "virus" not in out.read_text(encoding="utf-8")


def test_every_class_of_a_list(by_residual, tmp_path):
    """Of the split that is reported; an image with two findings counts for both, and hidden names have no classes."""
    shutil.copytree(XRAYS / "val", tmp_path / "images")
    files = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "images").rglob("*.jpeg"))
    rows = [[file, "normal", ""] for file in files if "NORMAL" in file]
    ill = [file for file in files if "PNEUMONIA" in file]
    rows += [[ill[0], "1", "nodule"], [ill[1], "1", "mass"], [ill[1], "1", "nodule"], [ill[2], "1", "mass"]]
    write_rows(tmp_path / "list.csv", ["path", "label", "class", "split"], *[[*row, "test"] for row in rows])
    out = tmp_path / "r.html"
    for more, members in (([], {"mass": ill[1:], "nodule": ill[:2]}), (["--anonymous"], {})):
        arguments = [str(by_residual), str(tmp_path / "list.csv"), "--out", str(out), "--overwrite", *more]
        assert report.main(arguments) is None
        data, _ = parts(out)
        masks = {name: np.isin(data["names"], images) for name, images in members.items()}
        found = evaluate_kinds(np.array(data["labels"]), np.array(data["scores"]), masks)
        assert data["metrics"]["classes"] == [{"name": name, **values} for name, values in found.items()]
        assert len(data["names"]) == 6 and [row["images"] for row in found.values()] == [2] * len(members)
        assert ("nodule" in out.read_text(encoding="utf-8")) == (not more)


def test_pictures_are_those_of_the_run(by_residual, written):
    data, strips = parts(written)
    files = [XRAYS / "val" / name for name in data["names"]]
    scorer = fastsquid.load(by_residual)
    drawn, heat = scorer.reconstruct(files), scorer.heatmap(files).clip(0, data["deviations"]) / data["deviations"]
    expected = np.stack([[read_image(file, 64) / 255 for file in files], drawn, heat], 1).reshape(18, -1)
    shown = [pictures(strip) for strip in strips]
    for (xray, *others), file in zip(shown, files):  # as large as the file has them, the others as the model has them
        with Image.open(file) as image:
            side = min(256, max(image.size))
        assert xray.shape == (side, side) and [other.shape for other in others] == [(64, 64)] * 2
        assert np.abs(xray - read_image(file, side) / 255).mean() < 0.02
    small = [
        [np.asarray(Image.fromarray(part).resize((64, 64), Image.Resampling.BILINEAR)) for part in s] for s in shown
    ]
    found = np.stack(small).reshape(18, -1)
    distances = np.abs(found[:, None] - expected).mean(2)
    assert (distances.diagonal() < 0.01).all()
    nearest, own = distances.argmin(1), np.arange(18)
    assert (nearest[own % 3 != 1] == own[own % 3 != 1]).all()
    assert (nearest[own % 3 == 1] % 3 == 1).all()  # this run draws nearly the same for every image


def test_one_pass_gives_what_three_would(by_residual, monkeypatch):
    scorer = fastsquid.load(by_residual)
    files = sorted((XRAYS / "val").rglob("*.jpeg"))
    passes, generator = [], scorer.detector.generator.forward
    monkeypatch.setattr(scorer.detector.generator, "forward", lambda images: passes.append(1) or generator(images))
    scores, drawn, heat = scorer.examine(files, batch_size=4)
    assert len(passes) == 2
    assert list(scores) == list(scorer.score_names)
    for name, values in scorer.scores(files).items():
        np.testing.assert_allclose(scores[name], values, atol=1e-5)
    np.testing.assert_allclose(drawn, scorer.reconstruct(files), atol=1e-5)
    np.testing.assert_allclose(heat, scorer.heatmap(files), atol=1e-3)


def test_thresholds(by_residual, written):
    state = json.loads(next(by_residual.glob("checkpoint-*/state.json")).read_text())["best"]
    calibration, validated = state["calibration"]["residual"], state["validation"]["residual"]
    data, _ = parts(written)
    assert [value for value, _ in data["thresholds"]] == [
        validated["threshold"],
        calibration["quantiles"][95],
        calibration["mean"] + 2 * calibration["std"],
        data["metrics"]["threshold"],
    ]
    # What a run without labeled validation images has.
    assert [value for value, _ in offered_thresholds("x", None, {"x": Calibration(1.0, 2.0)})] == [5.0]
    assert offered_thresholds("x", None, None) == []


def test_what_the_run_was_trained_on(by_residual, written, tmp_path):
    assert json.loads((by_residual / "config.json").read_text())["trained_on"] == {"images": 8, "source": "zhanglab"}
    data, _ = parts(written)
    assert re.search(r"\b8 images\b.*\bxrays\b.*\bchildren\b", data["trained_on"])
    facts = dict(data["run"])
    assert "pixel" in facts["Map"]
    assert data["map"] == facts["Map"]
    assert re.search("pixel.*; the score ", content._map_of(preset("simsid")))
    for ranked_by, judged in (
        ("combined", "the image and of its reconstruction"),
        ("discriminator_image", "the image"),
        ("discriminator", "the reconstruction"),
    ):
        text = content._map_of(preset("fastsquid", score=ranked_by))
        assert re.search(rf"\bdiscriminator\b.*\bcell of {judged}, .*\bstandard deviations\b", text)
    assert facts["Date"] == datetime.date.today().isoformat() and facts["Preset"] == "squid-small, 3 epochs, seed 0"
    assert str(XRAYS.parent) not in written.read_text()  # folders by their names alone
    early = RunRecord(preset("squid"), "/home/someone/mine", 0)
    run = dataclasses.replace(early, trained_on={"images": 8, "source": None})

    def said(record, text=None, names=PATH_NAMES):
        return content._trained_on(record, [0], text, names)

    assert " mine, " in said(run) and said(run).endswith("not recorded.")
    assert said(run, "adults").endswith(" adults.")
    assert " mine" in said(early)
    assert "mine" not in said(run, names=HashNames())
    assert "DigitAnatomy" in said(RunRecord(preset("squid"), None, 0))
    assert "20 to 81.5 years" in said(dataclasses.replace(run, ages=[20.0, 81.5]))
    tuned = dataclasses.replace(run, init={"trained_on": {"images": 1241, "source": "zhanglab"}})
    assert re.search(r"\bweights\b.*\b1,241 images\b.*\bchildren\b", said(tuned))


def test_known_sources(tmp_path):
    def source_called(names):
        root = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        for name in names:
            (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "train" / name).touch()
        return known_source(root)

    names = ["NORMAL/IM-0115-0001.jpeg", "NORMAL/NORMAL2-IM-1423-0001.jpeg", "NORMAL/IM-0435-0001-0002.jpeg"]
    zhanglab = known_source(XRAYS)
    assert zhanglab.name == "zhanglab" and source_called(names) is zhanglab
    assert source_called(["NORMAL/NORMAL-28501-0001.jpeg"]) is zhanglab  # of the third version
    more = ["PNEUMONIA/person1_virus_1.jpeg", "NORMAL/.hidden.png", "NORMAL/list.txt"]
    assert source_called([*names, *more]) is zhanglab
    for other in (
        NOT_ZHANGLAB,
        [*names, "NORMAL/mine.jpeg"],
        [*names, "NORMAL/more/IM-0115-0001.jpeg"],
        ["IM-0115-0001.jpeg"],
        ["PNEUMONIA/person1_virus_1.jpeg"],
    ):
        assert source_called(other) is None
    shutil.copytree(XRAYS / "train" / "NORMAL", tmp_path / "mine")
    assert known_source(tmp_path / "mine") is None
    assert known_source(None).name == "digits"
    (tmp_path / "train.csv").write_text("Path,Sex,Age,Frontal/Lateral,AP/PA\n")
    assert known_source(tmp_path).name == "chexpert"


def test_an_anonymous_report_names_no_folder(by_residual, tmp_path):
    shutil.copytree(XRAYS / "val", tmp_path / "JOHN_DOE")
    out = tmp_path / "out.html"
    assert report.main([str(by_residual), str(tmp_path / "JOHN_DOE"), "--anonymous", "--out", str(out)]) is None
    assert not re.search("JOHN_DOE|xrays|IM-0", out.read_text(encoding="utf-8"))
    assert parts(out)[0]["title"].endswith(" images")


def test_what_it_is_made_from_is_kept(by_residual, tmp_path, refused):
    scores = Path(shutil.copy(by_residual / "scores-val.csv", tmp_path))
    before = scores.read_bytes()
    said = refused(report.main, by_residual, scores, "--images", XRAYS / "val", "--out", scores)
    assert f"--out {scores} " in said and scores.read_bytes() == before


def test_only_labeled_images_count(by_residual, tmp_path, command):
    """Class folders label what is in them, in the folder itself and in its val and test, but not in train."""
    out = tmp_path / "r.html"
    code, text, _ = command(report.main, by_residual, XRAYS, "--out", out)
    assert code == 0 and re.match(rf"20 of 20 images .*{out} \(", text)
    data, _ = parts(out)
    labels = dict(zip(data["names"], data["labels"]))
    assert {name: label for name, label in labels.items() if label is not None} == {
        name: int("PNEUMONIA" in name) for name in labels if name.startswith("val/")
    }
    assert len(labels) == 20 and data["metrics"]["auc"] is not None
    assert command(report.main, by_residual, XRAYS / "test", "--out", out, "--overwrite")[0] == 0
    data, _ = parts(out)
    assert data["labels"] == [None] * 4 and data["metrics"] is None and len(data["thresholds"]) == 3
    assert data["title"] == "test"


def test_labels_from_a_csv(by_residual, tmp_path, command):
    out = tmp_path / "r.html"
    labels = write_rows(
        tmp_path / "labels.csv", ["name", "label"], ["0000.jpeg", "Normal"], ["0002.jpeg", "1"], ["0003.jpeg", ""]
    )
    labels.write_bytes(b"\xef\xbb\xbf" + labels.read_bytes())  # as spreadsheets write it
    assert command(report.main, by_residual, XRAYS / "test", "--labels", labels, "--out", out)[0] == 0
    assert parts(out)[0]["labels"] == [0, None, 1, None]
    write_rows(labels, ["name", "label"], ["NORMAL/IM-0182-0001.jpeg", "abnormal"])
    assert command(report.main, by_residual, XRAYS / "val", "--labels", labels, "--out", out, "--overwrite")[0] == 0
    data, _ = parts(out)
    assert (
        dict(zip(data["names"], data["labels"]))["NORMAL/IM-0182-0001.jpeg"] == 1
    )  # and class folders no longer count
    assert data["labels"].count(None) == 5 and data["metrics"] is None


def test_of_a_csv_of_scores(by_residual, written, tmp_path, command):
    scores, out = tmp_path / "scores.csv", tmp_path / "r.html"
    assert command(score.main, by_residual, XRAYS / "val", "--out", scores)[0] == 0
    for source, title in ((scores, "scores.csv of val"), (by_residual / "scores-val.csv", "scores-val.csv of val")):
        assert command(report.main, by_residual, source, "--images", XRAYS / "val", "--out", out, "--overwrite")[0] == 0
        data, strips = parts(out)
        expected, pictured = parts(written)
        assert data["title"] == title and data["names"] == expected["names"] and data["labels"] == expected["labels"]
        np.testing.assert_allclose(data["scores"], expected["scores"], atol=1e-5)
        assert [len(strip) for strip in strips] == pytest.approx([len(strip) for strip in pictured], rel=0.02)
    # The CSV's own numbers, its own choice of images, and its own labels.
    head, *rows = read_rows(scores)
    column = head.index("score")
    value = float(rows[4][column]) + 1e-4
    write_rows(scores, ["name", "label", "residual"], [rows[4][0], "0", value], [rows[1][0], "", rows[1][column]])
    assert command(report.main, by_residual, scores, "--images", XRAYS / "val", "--out", out, "--overwrite")[0] == 0
    data, _ = parts(out)
    assert data["names"] == [rows[4][0], rows[1][0]] and data["labels"] == [0, None] and data["scores"][0] == value


def test_unreadable_images_are_listed_and_exit_code_1(by_residual, tmp_path, command):
    folder, out, scores = shutil.copytree(XRAYS / "test", tmp_path / "someone"), tmp_path / "r.html", tmp_path / "s.csv"
    (folder / "0001.jpeg").write_bytes(b"")
    assert command(score.main, by_residual, folder, "--out", scores)[0] == 1
    for source in ([folder], [scores, "--images", folder]):
        code, text, err = command(report.main, by_residual, *source, "--out", out)
        assert code == 1 and text.startswith("3 of 4 images") and "1 of 4 images" in err
        data, strips = parts(out)
        assert list(data["errors"]) == ["1"] and re.search(r"\(.*empty\)$", data["errors"]["1"])
        assert data["scores"][1] is None and data["percentiles"][1] is None and strips[1] == b"" and all(strips[2:])
        assert str(tmp_path) not in out.read_text()  # where the folder is, is nobody's business
        out.unlink()
    # It can be read again, but has no score: what the CSV says holds.
    shutil.copy(folder / "0000.jpeg", folder / "0001.jpeg")
    assert command(report.main, by_residual, scores, "--images", folder, "--out", out)[0] == 1
    for name in ("0000", "0001", "0002", "0003"):
        (folder / f"{name}.jpeg").write_bytes(b"GIF89a")
    code, _, err = command(report.main, by_residual, folder, "--out", tmp_path / "none.html")
    assert code == 2 and re.search(r"\b4 images\b.*\(.*no image\)", err)
    assert not (tmp_path / "none.html").exists()


def test_refusals_leave_nothing(by_residual, tmp_path, refused):
    def refuses(*arguments):
        error = refused(report.main, *arguments)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"] and not list(out.parent.iterdir())
        return error

    out = tmp_path / "out" / "r.html"
    given = tmp_path / "in"
    out.parent.mkdir()
    (given / "empty").mkdir(parents=True)
    val = XRAYS / "val"
    head, first, *_ = read_rows(by_residual / "scores-val.csv")
    name, value = first[0], float(first[head.index("residual")])

    assert f"{given} " in refuses(given, val, "--out", out)
    assert "nowhere " in refuses(by_residual, "nowhere", "--out", out)
    assert "/empty " in refuses(by_residual, given / "empty", "--out", out)
    assert re.search("--batch-size 0 .* 1$", refuses(by_residual, val, "--out", out, "--batch-size", 0).strip())
    assert f"{out.parent} " in refuses(by_residual, val, "--out", out.parent)
    assert "/missing " in refuses(by_residual, val, "--out", tmp_path / "missing" / "r.html")
    assert re.search("--label:? .*--labels", refuses(by_residual, val, "--out", out, "--label", "x"))
    assert re.search(f"{val} .*--images ", refuses(by_residual, val, "--images", val, "--out", out))
    assert "needs --images FOLDER" in refuses(by_residual, val / "NORMAL" / "IM-0182-0001.jpeg", "--out", out)

    scores = given / "scores.csv"
    of_csv = (by_residual, scores, "--images", val, "--out", out)
    write_rows(scores, ["name", "patch_residual"], ["NORMAL/IM-0182-0001.jpeg", 1])
    assert "--images nowhere " in refuses(by_residual, scores, "--images", "nowhere", "--out", out)
    assert re.search(f"{scores} .*'score' or 'residual'.* name, patch_residual", refuses(*of_csv))
    out.write_text("old")
    assert re.search(f"{out} exists.*--overwrite", refused(report.main, "no run at all", val, "--out", out))
    assert out.read_text() == "old"
    out.unlink()
    write_rows(scores, ["name", "residual"])
    assert re.search(f"{scores} .* rows", refuses(*of_csv))
    write_rows(scores)
    assert re.search(f"{scores} .* columns .* none", refuses(*of_csv))
    write_rows(scores, ["name", "residual"], ["NORMAL/IM-0182-0001.jpeg"])
    assert re.search(rf"{scores} .*\b1 .*\bline 2\b.*\b2\b", refuses(*of_csv))
    write_rows(scores, ["name", "residual"], [name, value], [name, value])
    assert re.search(rf"{scores} .*\b{name} .*\bline 3\b", refuses(*of_csv))
    for text in ("", "nan", "much"):
        write_rows(scores, ["name", "residual"], [name, text])
        assert re.search(rf"{scores} .*{text!r} .*\bresidual\b.*\bline 2\b", refuses(*of_csv))
    for missing in ("IM-0182-0001.jpeg", str(val / name), "../val/" + name):
        write_rows(scores, ["name", "residual"], [name, value], [missing, value])
        assert re.search(rf"{scores} .*\bline 3\b.*{val} ", refuses(*of_csv))
    write_rows(scores, ["name", "residual"], [name, value + 1])
    assert re.search(rf"\b{name}\b.*{by_residual} .*python -m fastsquid\.score", refuses(*of_csv))
    write_rows(scores, ["name", "label", "residual"], [name, "ill", value])
    assert re.search(rf"{scores} .*\blabel 'ill' .*\bline 2\b", refuses(*of_csv))
    scores.write_bytes(b"name,residual\n" + b"x" * 200_000 + b",1\n")
    assert re.search(rf"{scores} .*\bCSV\b.*\bline 2\b", refuses(*of_csv))

    labels = given / "labels.csv"
    of_labels = (by_residual, val, "--labels", labels, "--out", out)
    assert re.search(f"{labels} .* name, label", refuses(*of_labels))
    write_rows(labels, ["name", "label"], ["IM-0182-0001.jpeg", 0])
    assert re.search(rf"{labels} .* IM-0182-0001\.jpeg.* NORMAL/", refuses(*of_labels))
    write_rows(labels, ["name", "label"], [name, "2"])
    said = refuses(*of_labels)
    assert re.search(rf"{labels} .*\blabel '2' .*\bline 2\b.*\b0 or normal, 1 or abnormal\b", said)
    write_rows(labels, ["name", "label"], [name, "0"], [name, "1"])
    assert "twice" in refuses(*of_labels)


def test_runs_that_cannot_be_reported(by_residual, tmp_path, refused, monkeypatch):
    run = shutil.copytree(by_residual, tmp_path / "run")
    (run / "maps.safetensors").unlink()
    out = tmp_path / "r.html"
    error = refused(report.main, run, XRAYS / "val", "--out", out)
    assert re.search(f"{run} .* maps .*best checkpoint.* --resume {run}", error)
    shutil.copy(by_residual / "maps.safetensors", run)
    (run / "scores-val.csv").unlink()
    assert re.search(r"/scores-val\.csv .*--resume ", refused(report.main, run, XRAYS / "val", "--out", out))

    def diverged(*arguments, **options):
        scores, drawn, heat = examine(*arguments, **options)
        return scores, drawn * np.nan, heat

    examine = Scorer.examine
    monkeypatch.setattr(Scorer, "examine", diverged)
    assert re.search(f"{by_residual} .*finite", refused(report.main, by_residual, XRAYS / "val", "--out", out))
    monkeypatch.setattr(features, "check", lambda name: name != "webp")
    assert re.search(r"\bWebP\b.*pip install .*pillow", refused(report.main, by_residual, XRAYS / "val", "--out", out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_run_of_an_earlier_version(by_residual, tmp_path, command):
    """Without a record of its training images, and without percentiles."""
    run, out = shutil.copytree(by_residual, tmp_path / "run"), tmp_path / "r.html"

    def age(record, state):
        del record["trained_on"], record["ages"]
        for calibration in state["best"]["calibration"].values():
            del calibration["quantiles"]

    rewrite_run(run, age)
    assert command(report.main, run, XRAYS / "val", "--out", out, "--trained-on", "children")[0] == 0
    data, _ = parts(out)
    assert data["percentiles"] is None and data["normal"] is None and len(data["thresholds"]) == 3
    assert re.search(r"\bxrays\b.*\bchildren\.$", data["trained_on"])


def test_sixteen_bits_and_floats_make_the_same_strip():
    grey = read_image(XRAYS / "test" / "0000.jpeg", 128)
    drawn, heat = np.full((128, 128), 0.5), np.linspace(-1, 9, 128 * 128).reshape(128, 128)
    eight, sixteen = strip(grey, drawn, heat), strip(grey.astype(np.uint16) * 257, drawn, heat)
    assert eight == sixteen
    xray, reconstruction, colours = pictures(eight)
    assert np.abs(xray - grey / 255).mean() < 0.02 and np.abs(reconstruction - 0.5).max() < 0.02
    assert colours.min() == 0 and colours.max() == 1 and np.abs(colours - heat.clip(0, 5) / 5).mean() < 0.02


@pytest.mark.parametrize("size", [48, 64, 128, 256])
def test_a_strip_keeps_its_budget_whatever_is_in_it(size):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (size, size), dtype=np.uint8)
    checks = (np.indices((size, size)).sum(0) % 2 * 255).astype(np.uint8)
    xray = read_image(XRAYS / "test" / "0000.jpeg", size)
    for image, drawn, heat in (
        (noise, rng.random((size, size)), 5 * rng.random((size, size))),
        (checks, checks / 255, checks),
        (noise, xray / 255, xray / 51),
    ):
        made = strip(image, drawn, heat)
        assert len(made) <= BUDGET
        _, *shown = pictures(made)
        # Both pictures are there at whatever size fits: noise reduces to gray, so the mean of each is compared.
        for picture, part in zip(shown, (drawn, np.clip(heat, 0, 5) / 5), strict=True):
            assert abs(picture.mean() - part.mean()) < 0.1
    assert [part.shape[0] for part in pictures(strip(xray, xray / 255, xray / 51))] == [size] * 3


def test_5000_images_are_less_than_30_megabytes(by_residual, tmp_path, command):
    """Of 300 images, most of which are noise, which nothing compresses; bytes an image, the page's own among them."""
    folder, out = tmp_path / "images", tmp_path / "r.html"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(300):
        Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(folder / f"person{number:04}_virus_0.png")
    assert command(report.main, by_residual, folder, "--out", out)[0] == 0
    data, strips = parts(out)
    assert len(data["names"]) == 300 and out.stat().st_size / 300 < 6000
    # And of 128 pixels a side, the most that there are.
    noise = strip(*(rng.integers(0, 256, (128, 128), dtype=np.uint8) for _ in range(3)))
    assert len(page(data, [noise] * 300).encode()) / 300 < 6000


def test_nothing_comes_from_elsewhere(written):
    text = written.read_text(encoding="utf-8")
    code = re.sub(r'<script id="(data|strips)".*?</script>', "", text, flags=re.S)
    assert set(re.findall(r"\bhttps?://[^\s\"')]*", code)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.search(r"""(?:src|href)=["'](?!data:,|#)|@import|url\(|\bfetch\(|XMLHttp|WebSocket|import\(""", code)
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', code, re.S)[1]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    assert "This is research software, not a medical device: it gives no diagnosis." in code


def test_names_are_data_and_never_markup(tmp_path):
    names = ["</script><script>alert(1)</script>", "{{ strips }}", "<!--", "caf\udce9", "\u2028"]
    out = tmp_path / "r.html"
    out.write_text(page({"names": names}, [b"strip"]), encoding="utf-8")
    text = out.read_text(encoding="utf-8")
    assert parts(out)[0]["names"] == names and parts(out)[1] == [b"strip"]
    assert text.count("</script>") == 3 and text.count("<script") == 3


def test_a_full_disk_keeps_the_old_report(by_residual, tmp_path, refused, monkeypatch):
    out = tmp_path / "r.html"
    out.write_text("old")
    arguments = (by_residual, XRAYS / "val", "--out", out, "--overwrite")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastsquid.utils.files.os.fsync", full)
    assert f"{out}: " in refused(report.main, *arguments)
    assert out.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
