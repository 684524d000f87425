"""Every command on DICOM files in which each identifying tag holds a planted string, and so do paths and file names.

No tag's string may come out anywhere; with --anonymous, no path's either.
"""

import base64
import contextlib
import csv
import hashlib
import io
import json
import logging
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TINY, rewrite_run
from matplotlib.text import Text
from PIL import Image

pydicom = pytest.importorskip("pydicom")
from dicom_files import PLANTED, data_set, mark, plant, put_raw, raw  # noqa: E402

from fastsquid import evaluate, figures, load, locate, report, score, train  # noqa: E402
from fastsquid.data import Accept, find_images  # noqa: E402
from fastsquid.data.dicom.read import read_patient  # noqa: E402
from fastsquid.drawing import save as saving  # noqa: E402
from fastsquid.utils.cli import run_command  # noqa: E402

IN_A_PATH = rb"(?i)nq\w*nq"


def said(main, *arguments):
    """A command's exit code and all that it prints, pydicom's warnings and log among it if they are not silenced."""
    printed = io.StringIO()
    handler = logging.StreamHandler(printed)
    logging.getLogger().addHandler(handler)
    try:
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            pytest.raises(SystemExit) as exit,
        ):
            with warnings.catch_warnings(record=True) as caught:
                warnings.filterwarnings("always", module="pydicom")
                run_command(lambda: main([str(argument) for argument in arguments]))
    finally:
        logging.getLogger().removeHandler(handler)
    return exit.value.code, printed.getvalue() + "".join(str(warning.message) for warning in caught)


def spoil(root):
    """Files that are refused, each after pydicom has seen a planted string; and one that is read all the same."""
    odd = data_set(root / "NqOddnQ")
    files = find_images(odd)
    elements = [
        raw("NumberOfFrames", "IS", mark(0x00280008).encode()),
        raw("WindowWidth", "DS", mark(0x00281051).encode()),
        raw("RescaleSlope", "DS", mark(0x00281053).encode()),
        raw("ViewPosition", "CS", b"Zq00185101zQ^LL"),
        raw("BodyPartExamined", "CS", b"Zq00180015zQ^"),
        raw("Modality", "CS", b"Zq00080060zQ^"),
        raw("PixelPaddingValue", "LO", mark(0x00280120).encode()),
        raw("PatientOrientation", "CS", b"A^Zq00200020zQ"),
        raw("VOILUTFunction", "CS", b"Zq00281056zQ^"),
        raw("Rows", "LO", mark(0x00280010).encode()),
        raw("PixelData", "OW", mark(0x7FE00010).encode()),
        raw("PatientAge", "AS", mark(0x00101010).encode()),  # read all the same
        raw("SpecificCharacterSet", "CS", mark(0x00080005).encode()),  # and this one
    ]
    for number, path in enumerate(files[: len(elements) + 3]):
        plant(path, f"odd{number}")
        if number < len(elements):
            put_raw(path, raw("WindowCenter", "DS", b"2000"), raw("WindowWidth", "DS", b"3000"), elements[number])
    cut, syntax, twin = files[len(elements) : len(elements) + 3]
    cut.write_bytes(cut.read_bytes()[:70000])
    syntax.write_bytes(
        syntax.read_bytes().replace(b"1.2.840.10008.1.2.1\0", mark(0x00020010).encode().ljust(20, b"\0"))
    )
    shutil.copy(twin, twin.with_name("NqTwinnQ.dcm"))
    for path in files[len(elements) + 3 :]:
        path.unlink()
    return odd


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Folders: a data set, the same unlabeled, one with a patient in two splits, and one of odd files."""
    root = tmp_path_factory.mktemp("material")
    data = data_set(root / "data")
    for number, path in enumerate(find_images(data)):
        folder = path.parent / f"NqDoe{number}nQ"
        folder.mkdir()
        plant(path, number).rename(folder / f"Nq{number}nQ.dcm")
    flat = root / "flat"
    shutil.copytree(data / "train", flat / "train")
    (flat / "test").mkdir()
    for path in find_images(data / "test"):
        shutil.copy(path, flat / "test")
    leaking = shutil.copytree(data, root / "leaking")
    one, other = find_images(leaking / "train")[0], find_images(leaking / "test")[0]
    put_raw(other, pydicom.dcmread(one).get_item("PatientID"))
    return SimpleNamespace(data=data, flat=flat, leaking=leaking, odd=spoil(root))


def hold_session(material, out, *more):
    """What every command said, whether it did its work or was refused, and the texts in figures."""
    data, flat, leaking, odd = material.data, material.flat, material.leaking, material.odd
    captions, original = [], saving.save_figure

    def save_figure(figure, *arguments):
        captions.extend(text.get_text() for text in figure.findobj(Text))
        return original(figure, *arguments)

    run = out / "run"
    tiny = [*TINY, "--data", data, "--epochs", "1", *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "save_figure", save_figure)
        says = {
            "train": said(train.main, *tiny, "--out", run),
            **({"resume": said(train.main, "--resume", run)} if more else {}),
            "evaluate": said(evaluate.main, run, "--json", out / "evaluation.json"),
            "score": said(score.main, run, data / "test", "--out", out / "scores.csv"),
            "score odd files": said(score.main, run, odd, "--out", out / "odd.csv"),
            "report": said(report.main, run, data / "test", "--out", out / "test.html"),
            "report of a CSV": said(
                report.main, run, out / "scores.csv", "--images", data / "test", "--out", out / "csv.html"
            ),
            "report odd files": said(report.main, run, odd, "--out", out / "odd.html"),
            "tune": said(train.main, "--init", run, "--epochs", "1", "--out", out / "tuned", "--device", "cpu"),
            "figures": said(figures.main, run, "--data", flat),
            "locate": said(locate.main, run, "--data", flat),
            "train on a leak": said(train.main, *tiny, "--data", leaking, "--out", out / "none"),
            "evaluate a leak": said(evaluate.main, run, "--data", leaking, "--overwrite"),
            "train on odd files": said(train.main, *tiny, "--data", odd, "--out", out / "none"),
            "skip odd files": said(train.main, *tiny, "--data", odd, "--skip-unreadable", "--out", out / "none"),
        }
    return SimpleNamespace(**vars(material), anonymous=bool(more), out=out, run=run, says=says, captions=captions)


@pytest.fixture(scope="module")
def plain(material, tmp_path_factory):
    return hold_session(material, tmp_path_factory.mktemp("plain") / "out")


@pytest.fixture(scope="module")
def anonymous(material, tmp_path_factory):
    return hold_session(material, tmp_path_factory.mktemp("anonymous") / "out", "--anonymous")


@pytest.fixture(params=["plain", "anonymous"])
def session(request):
    return request.getfixturevalue(request.param)


def test_the_commands_do_what_they_are_to(session):
    codes = {name: code for name, (code, _) in session.says.items()}
    refused = ["train on a leak", "evaluate a leak", "train on odd files", "skip odd files"]
    assert codes == {
        **dict.fromkeys(codes, 0),
        **dict.fromkeys(["score odd files", "report odd files"], 1),
        **dict.fromkeys(refused, 2),
    }, session.says
    for name in refused:
        *warnings, error = session.says[name][1].splitlines()
        left_out = [said for said in warnings if "malformed PatientAge" not in said]
        assert error.startswith("error: ") and all("left out: " in said for said in left_out)
        assert bool(left_out) == (name == "skip odd files")
    assert "PatientID" in session.says["train on a leak"][1] == session.says["evaluate a leak"][1]
    assert re.search(r"\b4 images\b", session.says["skip odd files"][1])
    assert not (session.out / "none").exists()
    with open(session.out / "odd.csv", newline="") as file:
        errors = [row["error"] for row in csv.DictReader(file)]
    assert len(errors) == 17 and sum(map(bool, errors)) == 13, errors


def test_nothing_planted_comes_out(session):
    files = [path for path in session.out.rglob("*") if path.is_file()]
    suffixes = {path.suffix for path in files}
    assert suffixes == {".csv", ".html", ".json", ".jsonl", ".lock", ".png", ".safetensors"} and len(files) > 20
    texts = {path: path.read_bytes() for path in files}
    for path in files:
        pictures = [texts[path]] if path.suffix == ".png" else []
        if path.suffix == ".html":  # in whose base64 any five letters may stand by chance
            strips = re.search(rb'<script id="strips"[^>]*>(.*?)</script>', texts[path], re.S)[1]
            texts[path] = texts[path].replace(strips, b"")
            pictures = list(map(base64.b64decode, strips.split()))
            assert len(pictures) > 3
        for content in pictures:
            with Image.open(io.BytesIO(content)) as picture:
                picture.load()
                texts[path] += repr((picture.info, picture.getexif())).encode()
    texts |= {name: said.encode() for name, (_, said) in session.says.items()}
    texts |= {"paths": "\n".join(map(str, files)).encode(), "captions": "\n".join(session.captions).encode()}
    patients = [read_patient(path).identity.hex().encode() for path in find_images(session.data)]
    assert all(patients) and len(set(patients)) == 18
    for where, text in texts.items():
        assert not re.search(PLANTED, text), where
        assert not any(patient in text for patient in patients), where
        if session.anonymous:
            assert not re.search(IN_A_PATH, text), where


def test_every_file_holds_every_string(material):
    """Or else nothing could have come out: of a file that is accepted, and of what is not decoded of it."""
    for path in find_images(material.data):
        content = path.read_bytes()
        assert len(set(re.findall(PLANTED, content))) > 2500
        for tag in (0x00100010, 0x00100020, 0x00080050, 0x00080080, 0x00081030, 0x00104000, 0x00181000, 0x00111001, 0):
            assert mark(tag).encode() in content
        assert re.search(IN_A_PATH, str(path).encode())


def test_names(session):
    """Paths, or what is in the files; the same from training, a resumed run, score, and in captions."""

    def names(path):
        with open(path, newline="") as file:
            return [row["name"] for row in csv.DictReader(file)]

    files = find_images(session.data / "test")
    expected = [
        hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        if session.anonymous
        else path.relative_to(session.data / "test").as_posix()
        for path in files
    ]
    assert names(session.run / "scores-test.csv") == names(session.out / "scores.csv") == expected
    shown = {name if session.anonymous else Path(name).name for name in expected}
    found = [caption.split("\n")[0] for caption in session.captions]
    assert all(found.count(name) >= 3 for name in shown)  # of reconstructions, Grad-CAM and maps
    odd = names(session.out / "odd.csv")
    assert len(set(odd)) == 17 and sum(name.endswith("-2") for name in odd) == session.anonymous
    record = json.loads((session.run / "config.json").read_text())
    assert record["anonymous"] is session.anonymous and record["ages"] == [3, 5]
    assert json.loads((session.out / "tuned" / "config.json").read_text())["anonymous"] is session.anonymous
    for path in ("test.html", "csv.html"):
        shown = json.loads(
            re.search(r'type="application/json">(.*?)</script>', (session.out / path).read_text(), re.S)[1]
        )
        assert sorted(shown["names"]) == sorted(expected)


def test_errors_name_files_as_the_run_does(session):
    first, second = find_images(session.leaking / "train")[0], find_images(session.leaking / "test")[0]
    if session.anonymous:
        first, second = (hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in (first, second))
    assert session.says["train on a leak"][1].startswith(f"error: {first} of train and {second} of test ")
    with open(session.out / "odd.csv", newline="") as file:
        for row in csv.DictReader(file):
            name = row["name"].removesuffix("-2") if session.anonymous else session.odd / row["name"]
            assert not row["error"] or re.match(rf"{name} .*\(.+\): ", row["error"])


def test_worker_processes_say_no_more(plain, tmp_path):
    """In a process of its own, whose standard error its workers share; their rows are those of one process."""
    code = """if True:
        from fastsquid import score
        from fastsquid.data import decoding
        from fastsquid.utils import cli
        decoding.MAX_WITHOUT_WORKERS = 0
        cli.run_command(score.main)
    """
    arguments = [plain.run, plain.odd, "--out", tmp_path / "odd.csv", "--anonymous"]
    result = subprocess.run([sys.executable, "-W", "always", "-c", code, *arguments], capture_output=True)
    assert result.returncode == 1 and b"13 of 17 images" in result.stderr
    for text in (result.stdout, result.stderr, (tmp_path / "odd.csv").read_bytes()):
        assert not re.search(PLANTED, text) and not re.search(IN_A_PATH, text)


def test_anonymous_evaluation_of_a_run_that_is_not(plain, refused):
    error = refused(evaluate.main, plain.run, "--data", plain.leaking, "--anonymous", "--overwrite")
    assert "PatientID" in error and not re.search(IN_A_PATH, error.encode())


def test_accepted_kinds_stay_with_a_run(tmp_path, command, refused):
    """They are read with `train --accept-body`, then by every command on the run; others only when asked."""
    data = data_set(tmp_path / "data", BodyPartExamined="TRUNK")
    run, out = tmp_path / "run", tmp_path / "scores.csv"
    arguments = (*TINY, "--out", run, "--data", data, "--epochs", "1")
    assert "--accept-body TRUNK" in refused(train.main, *arguments) and not run.exists()
    assert command(train.main, *arguments, "--accept-body", "trunk")[0] == 0
    record = json.loads((run / "config.json").read_text())
    assert (record["accept_body"], record["accept_view"]) == (["TRUNK"], [])
    assert command(evaluate.main, run, "--out", tmp_path / "evaluation")[0] == 0
    shutil.rmtree(next(run.glob("checkpoint-*")))
    (run / "summary.json").unlink()
    assert command(train.main, "--resume", run)[0] == 0

    lateral = shutil.copytree(data / "test", tmp_path / "lateral")
    for path in find_images(lateral):
        put_raw(path, raw("ViewPosition", "CS", b"LL"))
    assert command(score.main, run, lateral, "--out", out)[0] == 2
    command(report.main, run, lateral, "--out", tmp_path / "r.html", "--accept-view", "lateral")
    assert command(score.main, run, lateral, data / "test", "--out", out, "--overwrite", "--accept-view", "LL")[0] == 0
    with open(out, newline="") as file:
        scores = [row["score"] for row in csv.DictReader(file)]
    assert len(scores) == 8 and scores[:4] == scores[4:] and (tmp_path / "r.html").exists()
    scorer = load(run, accept=Accept(view=("LL",)))
    assert len(scorer.score(lateral)) == 4
    again = tmp_path / "again"
    assert command(train.main, "--config", run / "config.json", "--out", again, "--device", "cpu")[0] == 0
    assert json.loads((again / "config.json").read_text())["accept_body"] == ["TRUNK"]


# Ages of a run, from its config.json


@pytest.fixture
def aged(plain, tmp_path):
    """A copy of the run, as trained on patients of some ages: a function of them."""
    run = shutil.copytree(plain.run, tmp_path / "run")

    def trained(**changes):
        original = json.loads((plain.run / "config.json").read_text())

        def change(record, _):
            record.clear()
            record.update({name: value for name, value in (original | changes).items() if value != "gone"})

        rewrite_run(run, change)
        return run

    return trained


def test_ages_that_training_has_not_seen(plain, aged, tmp_path, command, caplog):
    """The test images are of 3, 4, 5 and 3 years."""
    for ages, outside in (([3, 5], 0), ([3.5, 5.5], 2)):
        run = aged(ages=ages)
        for arguments in (
            (score.main, run, plain.data / "test", "--out", tmp_path / "s.csv", "--overwrite"),
            (evaluate.main, run, "--out", tmp_path, "--overwrite"),
        ):
            caplog.clear()
            code, _, err = command(*arguments)
            assert code == 0 and ("years" in err + caplog.text) == bool(outside)
            assert not outside or re.search("2 of 4 .* 3.5 to 5.5 years", err + caplog.text)
        with open(tmp_path / "s.csv", newline="") as file:
            marked = sorted(row["age_outside_training"] for row in csv.DictReader(file))
        assert marked == sorted("0011" if outside else "0000")
        out = tmp_path / f"{outside}.html"
        assert command(report.main, run, plain.data / "test", "--out", out)[0] == 0
        shown = json.loads(re.search(r'type="application/json">(.*?)</script>', out.read_text(), re.S)[1])
        assert sum(shown["ages_outside"]) == outside


def test_zhanglab_files_tell_no_age_but_are_of_children(unbroken, material, tmp_path, command, caplog):
    assert json.loads((unbroken / "config.json").read_text())["ages"] == [1.0, 5.99]
    adult = tmp_path / "adult.dcm"
    shutil.copy(find_images(material.data / "test")[0], adult)
    put_raw(adult, raw(0x00101010, "AS", b"070Y"))
    _, _, err = command(score.main, unbroken, adult, "--out", tmp_path / "s.csv")
    said = re.search("1 of 1 images .* 1 to 5.99 years.*", err + caplog.text)
    command(report.main, unbroken, tmp_path, "--out", tmp_path / "r.html")
    assert said[0] in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("changes", [dict(ages=None), dict(ages="gone", anonymous="gone")])
def test_runs_that_know_of_no_ages(plain, aged, tmp_path, command, changes):
    run = aged(**changes)
    code, _, err = command(score.main, run, plain.data / "test", "--out", tmp_path / "s.csv")
    assert (code, err) == (0, "")


def test_damaged_ages(aged, refused):
    for ages in ("old", [3], [3, None]):
        assert re.search(r"config\.json .*\bages\b.*\bnull\b", refused(evaluate.main, aged(ages=ages), "--overwrite"))
