"""Tables as programs and people write them: every encoding, separator and way to write a label, or one sentence."""

import codecs
import csv
import gzip
import io
import shutil
import tarfile

import numpy as np
import pytest
import test_data_chexpert as chexpert
import test_data_covidx as covidx
from conftest import XRAYS
from PIL import Image
from test_report import parts

from fastsquid import compare, report, score
from fastsquid.data import open_data, tables
from fastsquid.data.sources.shards import read_shard
from fastsquid.data.tables import column_names, decode, find_table, read_label, read_table
from fastsquid.errors import UserError
from fastsquid.reporting.images import ReportImage, csv_images, label_images
from fastsquid.runs.folder import read_scores

ENCODINGS = {
    "utf-8": "utf-8",
    "utf-8 with a mark": "utf-8-sig",
    "utf-16": "utf-16",
    "utf-16-be with a mark": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-16-le without a mark": "utf-16-le",
    "utf-16-be without a mark": "utf-16-be",
    "utf-32": "utf-32",
}
NAMES = ["val/NORMAL/a b.png", "val/NORMAL/é肺.png", "val/SICK/c,d.png", "val/SICK/e;f.png", "val/SICK/g\th.png"]


def encoded(text, encoding):
    encode = ENCODINGS[encoding]
    return text.encode(encode) if isinstance(encode, str) else encode(text)


def table(rows, separator=",", end="\r\n"):
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator=end).writerows(rows)
    return text.getvalue()


def labels_of(path, names=NAMES):
    images = [ReportImage(name, None) for name in names]
    label_images(images, path)
    return [image.label for image in images]


def rejected(read, *words):
    with pytest.raises(UserError) as error:
        read()
    message = str(error.value)
    assert all(str(word) in message for word in words), message


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_separators(tmp_path, encoding, separator, end):
    rows = [["name", "label"], *zip(NAMES, ["0", "1", "0", "1", ""])]
    (tmp_path / "labels.csv").write_bytes(encoded(table(rows, separator, end), encoding))
    assert labels_of(tmp_path / "labels.csv") == [0, 1, 0, 1, None]


@pytest.mark.parametrize(
    "text, label",
    [(text, 0) for text in ("0", "0.0", "0.", "False", "FALSE", "false", " 0 ", "Normal", "\u00a00")]
    + [(text, 1) for text in ("1", "1.0", "1.000", "True", "TRUE", "true", "\t1.0", "ABNORMAL ", "+1")]
    + [("", None), ("  ", None)],
)
def test_labels(text, label):
    assert read_label(text) == label


@pytest.mark.parametrize("text", ["2", "0.5", "1,0", "1_0", "01x", "yes", "nan", "-1", "1.0.0", "\u0661", "1e0", "0 1"])
def test_what_is_no_label(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(table([["name", "label"], [NAMES[0], "0"], [NAMES[1], text]]), encoding="utf-8")
    rejected(lambda: labels_of(path), path, repr(text), "line 3")


def test_blanks_quotes_empty_lines_and_windows_paths(tmp_path):
    path = tmp_path / "labels.csv"
    lines = [
        '\n "name" , label ,note',
        " val\\NORMAL\\a b.png , 1.0 ,",
        "",
        ' "val/NORMAL/é肺.png" ,"0", ""',
        ",,",
        "  ",
    ]
    path.write_text("\n".join([*lines, 'val\\SICK\\g\th.png,0," a, ""b"" , "', ' "val/SICK/c,d.png" , "1" ,']), "utf-8")
    assert labels_of(path) == [1, 0, 1, None, 0]
    path.write_text(",name,label,\n0,val/NORMAL/a b.png,1,\n", encoding="utf-8")  # as pandas and spreadsheets write it
    assert labels_of(path)[0] == 1


def test_a_name_as_it_is_comes_first(tmp_path):
    """A backslash and a blank may belong to a name."""
    path = tmp_path / "labels.csv"
    path.write_text("name,label\na\\b.png,1\n c.png,1\n", encoding="utf-8")
    assert labels_of(path, ["a\\b.png", "a/b.png", " c.png", "c.png"]) == [1, None, 1, None]


@pytest.mark.parametrize(
    "text, words",
    [
        ("name;label,note\na.png;0,x\n", ["comma", "semicolon"]),
        ("name\tlabel,score\na.png\t0,1\n", ["comma", "tab"]),
        ("name,label,label\na.png,0,1\n", ["'label'", "twice"]),
        ("name,name,label\na.png,a.png,1\n", ["'name'", "twice"]),
        ("name,label\na.png,0\na.png,1\n", ["a.png", "twice", "line 3"]),
        ("name,label\nv/b.png,0\nv\\b.png,1\n", ["v/b.png", "twice", "line 3"]),
        ("name,label\na.png;0\n", ["1 cells", "line 2"]),
        ("name,label\na.png,0,0\n", ["3 cells", "line 2"]),
        ("name,target\na.png,0\n", ["'label'", "name, target"]),
        ('name,label\n"a.png,0\n', ["CSV", "line"]),
        ('name,label\n"a.png"x,0\n', ["CSV", "line 2"]),
        ("name,label\nb.png,0\n", ["b.png", "line 2"]),
        ("name,label\n", ["no rows"]),
        ("", ["'name'", "none"]),
    ],
)
def test_what_is_not_clear_is_rejected(tmp_path, text, words):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    rejected(lambda: labels_of(path, ["a.png", "v/b.png"]), path, *words)


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xfea", b"a\0\0b", "name".encode("utf-16")[:-1]]
)
def test_what_is_no_text(tmp_path, content):
    (tmp_path / "labels.csv").write_bytes(content)
    rejected(lambda: labels_of(tmp_path / "labels.csv"), "labels.csv", "UTF-8", "CSV")


def test_bytes_of_a_name_that_are_no_text():
    assert decode(b"caf\xe9.png") == "caf\udce9.png"


def test_a_separator_that_another_column_has(tmp_path):
    (tmp_path / "x.csv").write_text('name,label,"a;b",c;d\nx,0,1,2\n', encoding="utf-8")
    assert list(read_table(tmp_path / "x.csv", ["name", "label"])) == [
        (2, {"name": "x", "label": "0", "a;b": "1", "c;d": "2"})
    ]


# Packed and large tables


def test_a_packed_table(tmp_path):
    rows = [["name", "note"], ["a.png", "first\nsecond"], ["b.png", "é"]]
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(encoded(table(rows), "utf-16")))
    found = list(read_table(tmp_path / "x.csv.gz", ["name"]))
    assert found == [(3, {"name": "a.png", "note": "first\nsecond"}), (4, {"name": "b.png", "note": "é"})]
    assert column_names(tmp_path / "x.csv.gz") >= {"name", "note"}


def test_a_plain_table_comes_before_a_packed_one(tmp_path):
    assert find_table(tmp_path, "x.csv") is None
    (tmp_path / "x.csv.gz").write_bytes(b"")
    assert find_table(tmp_path, "x.csv") == tmp_path / "x.csv.gz"
    (tmp_path / "x.csv").write_text("")
    assert find_table(tmp_path, "x.csv") == tmp_path / "x.csv"


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-40], lambda content: b"name,label\na.png,1\n", lambda content: content[:50] + b"x" * 50],
)
def test_a_damaged_packed_table(tmp_path, damage):
    rows = "".join(f"{i * 7919 % 10007}.png,1\n" for i in range(20000))
    (tmp_path / "x.csv.gz").write_bytes(damage(gzip.compress(f"name,label\n{rows}".encode())))
    rejected(lambda: list(read_table(tmp_path / "x.csv.gz", ["name"])), "x.csv.gz", "cannot be read as a CSV")


def test_too_large_for_memory(tmp_path, monkeypatch):
    """A packed file may be a thousand times as large when it is unpacked."""
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"name,label\n" + b"a.png,1\n" * 100000))
    monkeypatch.setattr(tables, "_MOST_TABLE_BYTES", 500000)
    rejected(lambda: list(read_table(path, ["name"])), path, "more than 500000 characters")
    monkeypatch.undo()
    path.write_bytes(gzip.compress(b"name,label\n" + b"a" * 2**24))
    rejected(lambda: list(read_table(path, ["name"])), path, "a line of 16777216 characters")


def test_a_table_is_read_row_by_row(tmp_path):
    """The end of a file is not looked at before it is reached."""
    path = tmp_path / "x.csv"
    path.write_bytes(b"name,note\n" + b'"a", "b ""c"" \nd" \n' * 20000 + b"e,f\0\n")
    rows = read_table(path, ["name"])
    assert next(rows) == (3, {"name": "a", "note": 'b "c" \nd'})
    rejected(lambda: list(rows), path, "UTF-8")


# Every table that is read


@pytest.mark.parametrize("separator, encoding", [(";", "utf-8 with a mark"), ("\t", "utf-16")])
def test_report(by_residual, tmp_path, command, separator, encoding):
    """The scores that a spreadsheet has saved again, and labels of it."""
    scores, out = tmp_path / "scores.csv", tmp_path / "r.html"
    assert command(score.main, by_residual, XRAYS / "val", "--out", scores)[0] == 0
    rows = list(csv.reader(io.StringIO(scores.read_text(encoding="utf-8"))))
    scores.write_bytes(encoded(table([*rows, [""] * len(rows[0])], separator), encoding))
    labels = [["name", "label"], *([row[0].replace("/", "\\"), str("PNEU" in row[0])] for row in rows[1:])]
    (tmp_path / "labels.csv").write_bytes(encoded(table(labels, separator), encoding))
    arguments = scores, "--images", XRAYS / "val", "--labels", tmp_path / "labels.csv", "--out", out
    assert command(report.main, by_residual, *arguments)[0] == 0
    data, _ = parts(out)
    assert data["names"] == [row[0] for row in rows[1:]]
    assert data["labels"] == [int("PNEU" in name) for name in data["names"]]


def test_a_score_with_a_decimal_comma(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "s.csv").write_text("name;score\na.png;0,5\n")
    rejected(lambda: csv_images(tmp_path / "s.csv", tmp_path, "score"), "s.csv", "'0,5'", "line 2")


@pytest.mark.parametrize("separator, encoding", [(";", "utf-8 with a mark"), ("\t", "utf-16")])
def test_scores_of_a_run(tmp_path, separator, encoding):
    path = tmp_path / "scores-val.csv"
    rows = [["name", "label", "residual"], ["a.png", "0.0", "0.25"], ["b.png", "True", "-1e-5"]]
    path.write_bytes(encoded(table(rows, separator), encoding))
    names, labels, scores = read_scores(path)
    assert names == ["a.png", "b.png"] and labels.tolist() == [0, 1] and scores["residual"].tolist() == [0.25, -1e-5]
    for changed, words in (
        ([["b.png", "", "1"]], ["''", "line 4", "label"]),
        ([["b.png", "0", "1"]], ["two labels"]),
        ([["c.png", "0", "1,5"]], ["'1,5'", "line 4", "residual"]),
        ([["c.png", "0"]], ["2 cells", "line 4"]),
    ):
        path.write_bytes(encoded(table(rows + changed, separator), encoding))
        rejected(lambda: read_scores(path), path, "damaged", *words)


def test_compare(unbroken, tmp_path, command, refused):
    again = shutil.copytree(unbroken, tmp_path / "again")
    path = again / "scores-val.csv"
    path.write_bytes(path.read_text(encoding="utf-8").replace(",", ";").encode("utf-16"))
    assert "No difference" in command(compare.main, unbroken, again)[1]
    text = path.read_text(encoding="utf-16")
    path.write_text(text.replace(";0;", ";2;", 1), encoding="utf-16")
    assert "'2'" in refused(compare.main, unbroken, again) and "line" in refused(compare.main, unbroken, again)


@pytest.mark.parametrize("separator, encoding", [(";", "utf-8 with a mark"), ("\t", "utf-16")])
def test_chexpert(tmp_path, separator, encoding):
    rows = chexpert.normals(0, 10) + chexpert.sick(10, 10)
    expected = open_data(chexpert.release(tmp_path, rows), size=8)
    path = tmp_path / "train.csv"
    head, *cells = csv.reader(io.StringIO(path.read_text()))
    cells = [[row[0].replace("/", "\\"), *(f" {cell} " for cell in row[1:])] for row in cells]
    path.write_bytes(encoded(table([head, *cells, [""] * len(head)], separator), encoding))
    found = open_data(tmp_path, size=8)
    for name, split in expected.items():
        assert found[name].names == split.names and found[name].classes == split.classes
        assert (found[name].images == split.images).all()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda rows: [*rows, dict(rows[0], **{"No Finding": "", "Edema": "1"})], ["line 6", "earlier"]),
        (lambda rows: [*rows[:-1], dict(rows[-1], **{"No Finding": "0.5"})], ["line 5", "'0.5'"]),
        (lambda rows: [*rows[:-1], dict(rows[-1], Edema="2")], ["line 5", "Edema", "'2'"]),
    ],
)
def test_chexpert_that_is_not_clear(tmp_path, change, words):
    chexpert.release(tmp_path, chexpert.normals(0, 4))
    chexpert.write(tmp_path / "train.csv", change(chexpert.normals(0, 4)))
    rejected(lambda: open_data(tmp_path, size=8), "train.csv", *words)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_covidx(tmp_path, encoding):
    expected = open_data(covidx.release(tmp_path, covidx.TRAIN, covidx.TEST), size=8)
    for path in tmp_path.glob("*.txt"):
        path.write_bytes(encoded(path.read_text().replace(" cohen", "\tcohen") + "\n \r\n", encoding))
    found = open_data(tmp_path, size=8)
    for name, split in expected.items():
        assert found[name].names == split.names and found[name].classes == split.classes


@pytest.mark.parametrize("line, words", [("t0 0.png pneumonia x", ["'0.png'", "earlier"]), ("t 9.png 1.0 x", ["1.0"])])
def test_covidx_that_is_not_clear(tmp_path, line, words):
    covidx.release(tmp_path, covidx.TRAIN, covidx.TEST)
    path = tmp_path / "test_COVIDx8A.txt"
    path.write_text(path.read_text().rstrip("\n") + f"\n{line}\n")
    rejected(lambda: open_data(tmp_path, size=8), path, "line 4", *words)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_label_file_keeps_training_away(tmp_path, encoding):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "data.csv").write_bytes(encoded("file;Finding\na.png;1\n", encoding))
    rejected(lambda: open_data(tmp_path, size=8, all_normal=False), "data.csv", "--all-normal")


@pytest.mark.parametrize("content", [b"1.0\n", b"True", b"\xef\xbb\xbf1\r\n", "1".encode("utf-16")])
def test_classes_in_shards(tmp_path, content):
    pytest.importorskip("webdataset")
    (tmp_path / "data").mkdir()
    picture = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(picture, "png")
    with tarfile.open(tmp_path / "data" / "val.tar", "w") as archive:
        for name, one in (("a.png", picture.getvalue()), ("a.cls", content)):
            member = tarfile.TarInfo(name)
            member.size = len(one)
            archive.addfile(member, io.BytesIO(one))
    assert read_shard(tmp_path / "data" / "val.tar")[0].label is not None
    assert open_data(tmp_path / "data", size=8)["val"].labels.tolist() == [1]
