"""Hostile and odd names: one escaped line on the terminal, text in a report and figure, no formula in a spreadsheet."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, XRAYS, rows_of, tiny
from forked_python import python
from matplotlib.figure import Figure
from PIL import Image
from test_report import parts

from fastsquid import report, score, train
from fastsquid.data.names import PATH_NAMES
from fastsquid.data.split import Split
from fastsquid.drawing.gallery import caption_or_name
from fastsquid.drawing.save import save_figure
from fastsquid.drawing.study import draw_study
from fastsquid.evaluation.comparison import conclusion
from fastsquid.reporting.images import csv_images
from fastsquid.reporting.table import COLUMNS, write_table
from fastsquid.runs.folder import read_findings, read_scores, write_scores
from fastsquid.utils.text import from_cell, join_names, printable, split_names, to_cell

NAMES = [
    "=1+1.png",
    "+x.png",
    "-x.png",
    "@x.png",
    "\tx.png",
    "\r=x.png",
    " =x.png",
    "a;=1+1;b.png",
    "a\n=1+1.png",
    'a";=1.png',
    "'=x.png",
    "''=x.png",
    "'x'.png",
    "\uff1d1+1.png",
    "a\nb.png",
    "x\x1b[31m.png",
    "gnp.\u202e.png",
    "a\u200b.png",
    "caf\udce9.png",
    "肺.png",
    "</script><img src=x onerror=alert(1)>.png",
    "$x_2$.png",
    "C:\\n.png",
    "a, b.png",
]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such file names")


def one_line(text):
    """Assert that what a command has printed is text and line breaks only, and return it."""
    hidden = [letter for letter in text if unicodedata.category(letter)[0] == "C" and letter != "\n"]
    assert not hidden, (hidden, text)
    return text


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a\r\n\tb\x1b\x00\x85\x7f", r"a\r\n\tb\x1b\x00\x85\x7f"),
        ("\u202e\u200f\u2066\u200b\ufeff\u00ad\u2028\u2029", r"\u202e\u200f\u2066\u200b\ufeff\xad\u2028\u2029"),
        ("\udcff\ud800\U000e0041", r"\xff\ud800\U000e0041"),
        ("é 肺\u3000\u00a0\\x 😀.png", "é 肺\u3000\u00a0\\x 😀.png"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == printable(Path(text)) == shown


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_cells_are_no_formulas_and_come_back(name, mark):
    """Whichever separator a spreadsheet takes for that of the file."""
    assert from_cell(to_cell(name)) == name
    lines = f"{to_cell(name)}{mark}1".splitlines()
    cells = [cell.strip(" '\"") if cell[:1] == "'" else cell.strip(' "') for row in csv.reader(lines) for cell in row]
    assert not any(re.match("[-=+@\uff1d]", cell) for line in lines for cell in re.split("[;\t]", line.strip())), cells
    assert to_cell(name)[:1] not in ("=", "+", "-", "@", "\t", "\r", "\n")


def test_usual_names_stay(tmp_path):
    for name in ("a.png", "NORMAL/IM-0001-0001.jpeg", "é 肺/a, b.png", "1-2+3=x@y.png", "'x'.png", "a;b.png", "C:\\a"):
        assert to_cell(name) == from_cell(name) == name


def test_any_text_comes_back():
    rng = np.random.default_rng(0)
    letters = list("ab'=+-@ ;,\t\r\n\"\uff1d")
    for _ in range(20_000):
        text = "".join(rng.choice(letters, rng.integers(8)))
        assert from_cell(to_cell(text)) == text


def test_scores_of_a_run(tmp_path):
    split = Split(torch.zeros(len(NAMES), 1, 1, 1), torch.arange(len(NAMES)) % 2, NAMES)
    write_scores(tmp_path, {"val": split}, {"val": {"residual": -np.ones(len(NAMES), np.float32)}})
    names, _, scores = read_scores(tmp_path / "scores-val.csv")
    assert names == NAMES and (scores["residual"] == -1).all()
    assert {row["residual"] for row in rows_of(tmp_path / "scores-val.csv")} == {"-1"}  # numbers stay numbers
    assert rows_of(tmp_path / "scores-val.csv")[0]["name"] == "'=1+1.png"


def test_findings_of_a_run(tmp_path):
    """Each image has the names of two classes; they come back, also with the mark that separates them."""
    names = ["|", "\\", "a|b", "\\|", "a\\", *NAMES]
    findings = [(name, names[i - 1]) if i % 3 else () for i, name in enumerate(names)]
    assert [split_names(join_names(found)) for found in findings] == findings
    labels = torch.tensor([int(bool(found)) for found in findings])
    files = [f"{i}.png" for i in range(len(names))]
    split = Split(torch.zeros(len(names), 1, 1, 1), labels, files, classes=["x"] * len(names), findings=findings)
    write_scores(tmp_path, {"val": split}, {"val": {"residual": -np.ones(len(names), np.float32)}})
    assert read_findings(tmp_path / "scores-val.csv") == findings
    found, _, scores = read_scores(tmp_path / "scores-val.csv")
    assert found == files and list(scores) == ["residual"]
    cells = {row["findings"] for row in rows_of(tmp_path / "scores-val.csv")}
    assert "'=1+1.png|a\\\\" in cells  # no formula
    one = Split(torch.zeros(3, 1, 1, 1), torch.tensor([0, 1, 1]), files[:3], classes=["x", "y", "y"])
    write_scores(tmp_path, {"val": one}, {"val": {"residual": np.ones(3, np.float32)}})
    assert list(rows_of(tmp_path / "scores-val.csv")[0]) == ["name", "label", "residual"]
    assert read_findings(tmp_path / "scores-val.csv") is None


def test_a_table_of_scores(tmp_path):
    rows = [[name, "", "", "", "", f"=2+2 {name} cannot be\nread", ""] for name in NAMES]
    write_table(tmp_path / "s.csv", COLUMNS, rows, PATH_NAMES)
    written = rows_of(tmp_path / "s.csv")
    assert [from_cell(row["name"]) for row in written] == NAMES
    assert all(row["error"][:2] == "'=" and one_line(row["error"]).endswith(r"cannot be\nread") for row in written)


@LINUX
def test_a_report_finds_its_images(tmp_path):
    names = [name for name in NAMES if "/" not in name]
    (tmp_path / "in").mkdir()
    for name in names:
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "in" / name, "png")
    rows = [[name, "1", "", "", "", "", ""] for name in names]
    write_table(tmp_path / "s.csv", COLUMNS, rows, PATH_NAMES)
    assert [image.name for image in csv_images(tmp_path / "s.csv", tmp_path / "in", "score")] == names


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_figures(tmp_path, kind):
    figure = Figure(figsize=(2, 1))
    for name in NAMES:
        unlabeled = Split(torch.zeros(1, 1, 1, 1), None, [name])
        classes = Split(torch.zeros(2, 1, 1, 1), torch.ones(2), ["a", "b"], classes=[name, "x"])
        for split in (unlabeled, classes):
            caption = one_line(caption_or_name(split, 0))
            assert "\n" not in caption and printable(name).endswith(caption.replace(r"\$", "$"))
            text = figure.text(0.1, 0.5, caption)
            assert text._preprocess_math(caption)[1] is not True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path / f"x.{kind}")


def test_the_figure_of_a_study(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("fastsquid.drawing.study.save_figure", lambda figure, *rest: saved.append(figure))
    line = {"system": "squid", "row": "all", "seed": 0, "split": "test", "score": "residual", "ranks": 1, "auc": 0.5}
    draw_study(
        {"name": "ablations", "scale": "full", "data": "/$x^2$\n\udcff", "seeds": [0]}, [line], tmp_path / "x.png"
    )
    assert r"images of \$x^2\$\n\xff," in saved[0].get_suptitle()


def test_the_sentence_of_compare():
    assert "\n" not in conclusion(printable("a\nb"), "c", {"low": -1, "high": 1, "p": None, "difference": 0})


def test_messages_quote_in_one_line(command):
    """Whatever a message quotes."""
    code, _, err = command(score.main, "no\nrun\x1b[31m\u202e\udcff", XRAYS)
    assert code == 2 and one_line(err).count("\n") == 1 and r"no\nrun\x1b[31m\u202e\xff" in err


@LINUX
def test_texts_inside_of_files(by_residual, tmp_path, refused):
    """A cell of a table, a key of JSON."""
    (tmp_path / "l.csv").write_text('name,label\n"a\nb\x1b[31m.png",0\n')
    arguments = XRAYS / "val", "--labels", tmp_path / "l.csv", "--out", tmp_path / "r.html"
    assert r"a\nb\x1b[31m.png" in one_line(refused(report.main, by_residual, *arguments))
    run = shutil.copytree(by_residual, tmp_path / "run")
    record = json.loads((run / "config.json").read_text())
    record["config"]["x\n\u202e\ud800"] = 1
    (run / "config.json").write_text(json.dumps(record))
    one_line(refused(report.main, run, XRAYS / "val", "--out", tmp_path / "r.html"))


# End to end

CLASS = "=$B_1$\x1b[31m\n肺\udcff"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder of X-rays with such names, in a folder with such a name; two abnormal classes."""
    folder = tmp_path_factory.mktemp("names") / "дата\n\u202e\udcff"
    names = iter([name for name in NAMES if "/" not in name and "C:" not in name] * 2)
    for part, classes in {"train": ["NORMAL"], "val": ["NORMAL", "PNEUMONIA"]}.items():
        for kind in classes:
            for number, path in enumerate(sorted((XRAYS / part / kind).glob("*.jpeg"))):
                called = kind if kind == "NORMAL" else (CLASS, "@other")[number % 2]
                (folder / part / called).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / part / called / next(names))
    return folder


def console(module, *arguments, encoding="cp1252"):
    """Run a command with its output in a pipe; return (exit code, output, errors) in the encoding."""
    result = subprocess.run(
        [python(), "-m", f"fastsquid.{module}", *map(str, arguments)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    out, err = result.stdout.decode(encoding), result.stderr.decode(encoding)
    one_line(out), one_line(err)
    assert "Traceback" not in err and result.returncode in (0, 1, 2), err
    return result.returncode, out, err


@pytest.fixture(scope="module")
def run(hostile):
    out = hostile.parent / "ru\nn\udcff肺"
    code, text, err = console("train", *tiny(out, "--data", hostile))
    assert code == 0 and r"run folder: " in text and r"ru\nn\xff\u80ba" in text and r"\n\u202e\xff" in text, err
    assert r"=$B_1$\x1b[31m\n" in text
    return out


@LINUX
@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_score_and_report(hostile, run, encoding):
    out, page = hostile.parent / "=s\n肺\udcff.csv", hostile.parent / "r\n肺\udcff.html"
    (hostile / "val" / "NORMAL" / "=broken\n\udcff.png").write_bytes(b"no image")
    try:
        code, text, err = console("score", run, hostile, "--out", out, "--overwrite", encoding=encoding)
        assert code == 1 and r"=s\n" in text and "1 of " in err
        (broken,) = (row for row in rows_of(out) if row["error"])
        assert r"=broken\n\xff.png" in one_line(broken["error"])
        names = {path.relative_to(hostile).as_posix() for path in hostile.rglob("*.*") if path.is_file()}
        assert {from_cell(row["name"]) for row in rows_of(out)} == names
        code, text, err = console(
            "report", run, out, "--images", hostile, "--out", page, "--overwrite", encoding=encoding
        )
    finally:
        (hostile / "val" / "NORMAL" / "=broken\n\udcff.png").unlink()
    assert code == 1, err
    data, _ = parts(page)
    assert sorted(data["names"]) == sorted(map(printable, names))
    one_line("".join([*data["names"], *data["errors"].values(), data["title"], data["trained_on"]]))
    assert page.read_text(encoding="utf-8").count("<script") == 3


@LINUX
def test_evaluate_compare_locate_and_figures(hostile, run):
    code, text, err = console("evaluate", run, "--json", hostile.parent / "e\n\udcff.json")
    assert code == 0 and r"=$B_1$\x1b[31m\n" in text, err
    kinds = json.loads((hostile.parent / "e\n\udcff.json").read_text())["scores"]["residual"]["auc_by_kind"]
    assert CLASS in kinds  # as it is
    code, text, err = console("compare", run, run)
    assert code == 0 and text.count(r"ru\nn\xff\u80ba") == 4, err
    assert "warning" not in err or r"ru\nn\xff" in err
    for module, words in (("locate", "maps.png"), ("figures", "gradcam.png")):
        code, text, err = console(module, run)
        assert code == 0 and re.search(rf"ru\\nn\\xff\\u80ba/.*{words}", text), err


@LINUX
def test_warnings_name_files_in_one_line(hostile, tmp_path, command):
    """Two splits with the same image, and a mask."""
    folder = shutil.copytree(hostile, tmp_path / "data")
    first = next(path for path in (folder / "train" / "NORMAL").iterdir())
    shutil.copy(first, folder / "val" / "NORMAL" / "twin\n\x1b.png")
    shutil.copy(first, folder / "val" / "NORMAL" / "twin\n\x1b_mask.png")
    (folder / "val" / "NORMAL" / "notes.\n\x1bx").touch()
    code, out, err = command(train.main, *TINY, "--data", folder, "--out", tmp_path / "run", "--epochs", 1)
    assert code == 0 and r"twin\n\x1b.png" in err and r"twin\n\x1b_mask.png" in err and r".\n\x1bx" in out
    one_line(out + err)
    assert err.count("\n") == err.count("warning: ")
