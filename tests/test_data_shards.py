"""WebDataset shards: the same images, labels and scores as of the files that are in them, and what is refused."""

import builtins
import hashlib
import io
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import XRAYS, rows_of, tiny
from PIL import Image

webdataset = pytest.importorskip("webdataset")

from fastsquid import score, train  # noqa: E402
from fastsquid.config import preset  # noqa: E402
from fastsquid.data import find_images, open_data, read_image  # noqa: E402
from fastsquid.data.names import content_name  # noqa: E402
from fastsquid.data.sources.shards import find_shards, read_shard  # noqa: E402
from fastsquid.errors import UserError  # noqa: E402
from fastsquid.runs import checkpoint  # noqa: E402

SCORES = preset("squid").scores


def put(shard, *files):
    """A shard of (name, content) as tarfile writes it, whether it makes sense or not."""
    shard.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(shard, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return shard


def png(value=0):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(file, "png")
    return file.getvalue()


def shards_of(folder, out, per_shard):
    """Shards of a ZhangLab-like folder: labeled ones as docs/data-sources.md writes them, and an unlabeled test."""
    namespace = {}
    text = (Path(__file__).parent.parent / "docs" / "data-sources.md").read_text(encoding="utf-8")
    exec(next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "write_shards" in block), namespace)
    for split in ("train", "val"):
        namespace["write_shards"](folder / split, out, per_shard)
    files = [(path.name, path.read_bytes()) for path in find_images(folder / "test")]
    for first in range(0, len(files), per_shard):
        put(out / f"test-{first // per_shard:06d}.tar", *files[first : first + per_shard])
    return out


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return shards_of(XRAYS, tmp_path_factory.mktemp("shards"), per_shard=3)


@pytest.fixture
def shards(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "shards"))


# What is read


def test_splits_are_those_of_the_files(written):
    sharded, loose = open_data(written, 32), open_data(XRAYS, 32)
    assert list(sharded) == list(loose) == ["train", "val", "test"]
    for name, split in sharded.items():
        np.testing.assert_array_equal(split.images.numpy(), loose[name].images.numpy())
        assert split.images.dtype == loose[name].images.dtype
        assert [file.split(".tar/")[1] for file in split.names] == loose[name].names
        assert (split.labels is None) == (loose[name].labels is None)
        assert split.labels is None or split.labels.tolist() == loose[name].labels.tolist()
    assert sharded["train"].names[0].startswith("train-000000.tar/NORMAL/") and len(find_shards(written)) == 8
    assert sharded["test"].names[-1] == "test-000001.tar/0003.jpeg"


def test_classes_are_the_numbers(tmp_path):
    files = [(f"{i}.{suffix}", content) for i in range(4) for suffix, content in (("png", png(i)), ("cls", b" %d" % i))]
    put(tmp_path / "train.tar", *files)
    put(tmp_path / "test.tar", *files)
    data = open_data(tmp_path, 8)
    assert data["train"].classes == ["0"] and data["test"].classes == ["0", "1", "2", "3"]
    assert data["test"].labels.tolist() == [0, 1, 1, 1]


def test_shards_in_folders_of_the_splits(written, tmp_path):
    for shard in find_shards(written):
        split, number = shard.name.split("-")
        (tmp_path / split).mkdir(exist_ok=True)
        shutil.copy(shard, tmp_path / split / number)
    expected = open_data(written, 16)
    for name, split in open_data(tmp_path, 16).items():
        assert split.images.equal(expected[name].images)
        assert split.names == [file.replace("-", "/", 1) for file in expected[name].names]


def test_training_ends_in_the_same_weights(unbroken, written, tmp_path, capsys):
    arguments = [written if argument == XRAYS else argument for argument in tiny(tmp_path / "run")]
    train.main([str(argument) for argument in arguments])
    ours, expected = (checkpoint.latest_checkpoint(run) for run in (tmp_path / "run", unbroken))
    for name in ("last.safetensors", "best.safetensors", "optimizer.safetensors"):
        assert (ours / name).read_bytes() == (expected / name).read_bytes(), name


def test_scores_are_those_of_the_files(unbroken, written, tmp_path, command):
    loose, sharded, one, some = (tmp_path / f"{name}.csv" for name in ("loose", "sharded", "one", "some"))
    shard = written / "val-000001.tar"
    for images, out in (([XRAYS], loose), ([written], sharded), ([shard], one), ([shard, XRAYS / "test"], some)):
        assert command(score.main, unbroken, *images, "--out", out, "--batch-size", 4, "--all-scores")[0] == 0
    by_file = {row["name"]: row for row in rows_of(loose)}
    for row in rows_of(sharded):
        shard_name, file = row["name"].split(".tar/")
        expected = by_file[f"{shard_name.split('-')[0]}/{file}"]
        assert row["error"] == expected["error"] == ""
        for name in SCORES:  # of which the batches are others
            assert float(row[name]) == pytest.approx(float(expected[name]), abs=1e-5)
    assert len(rows_of(sharded)) == len(by_file) == 20
    assert [row["name"] for row in rows_of(one)] == [
        f"PNEUMONIA/{path.name}" for path in find_images(XRAYS / "val")[3:]
    ]
    assert [row["name"] for row in rows_of(some)][:1] == [f"{shard}/{rows_of(one)[0]['name']}"]
    assert [row["name"] for row in rows_of(some)][3:] == [path.as_posix() for path in find_images(XRAYS / "test")]


def test_many_images_are_decoded_in_worker_processes(unbroken, tmp_path, command):
    shard = put(tmp_path / "x.tar", *((f"{i}.png", png(i % 256)) for i in range(260)))
    assert command(score.main, unbroken, shard, "--out", tmp_path / "s.csv", "--all-scores")[0] == 0
    rows = rows_of(tmp_path / "s.csv")
    assert [row["name"] for row in rows] == [f"{i}.png" for i in range(260)]
    # 0 and 256 are the same picture, and no other is.
    assert float(rows[0]["residual"]) == pytest.approx(float(rows[256]["residual"]))
    assert len({row["residual"] for row in rows[:256]}) > 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its file open
def test_a_sample_is_what_webdataset_says(tmp_path):
    shard = put(
        tmp_path / "x.tar",
        ("./a/b.c/0.PNG", png()),
        ("./a/b.c/0.cls", b"1"),
        ("./a/b.c/0.json", b"{}"),
        ("README.txt", b"no image"),
        ("__meta__.json", b"{}"),
        ("1.seg.json", b"{}"),
        ("1.jpg", png()),
        ("/2.tif", png()),
        ("3.__a.png", png()),
    )
    samples = read_shard(shard)
    assert [sample.image.relative_to(tmp_path).as_posix() for sample in samples] == [
        "x.tar/a/b.c/0.PNG",
        "x.tar/1.jpg",
        "x.tar/2.tif",
        "x.tar/3.__a.png",
    ]
    assert [sample.label and sample.label.read_bytes() for sample in samples] == [b"1", None, None, None]
    (expected,) = [
        [
            entry["__key__"]
            for entry in webdataset.WebDataset(str(shard), shardshuffle=False)
            if {"png", "jpg", "tif", "__a.png"} & set(entry)
        ]
    ]
    assert [sample.image.file.removesuffix(".__a.png").rsplit(".", 1)[0] for sample in samples] == expected
    assert [read_image(sample.image, 8).max() for sample in samples] == [0, 0, 0, 0]


def test_headers_alone_are_read(shards, monkeypatch):
    read = []
    shard = put(shards / "big.tar", *((f"{i}.png", bytes(10**6)) for i in range(3)))

    class Counting(io.FileIO):
        def read(self, size=-1):
            read.append(super().read(size))
            return read[-1]

    monkeypatch.setattr(tarfile, "bltn_open", lambda name, mode: Counting(name, mode))
    assert len(read_shard(shard)) == 3
    assert 3 * 512 < sum(map(len, read)) < 20_000  # and the zeros after the end


def test_abnormal_training_images_are_never_read(tmp_path):
    put(tmp_path / "train.tar", ("0.png", png(7)), ("0.cls", b"0"), ("1.png", b"no image"), ("1.cls", b"2\n"))
    train_split = open_data(tmp_path, 8)["train"]
    assert train_split.names == ["train.tar/0.png"] and train_split.labels.tolist() == [0]
    assert train_split.images.unique().tolist() == [7]


def test_only_the_splits_that_are_asked_for_are_decoded(tmp_path):
    put(tmp_path / "train.tar", ("0.png", b"no image"))
    put(tmp_path / "val.tar", ("0.png", png()))
    assert list(open_data(tmp_path, 8, splits=("val",))) == ["val"]
    with pytest.raises(UserError, match=r"^\S*/train\.tar/0\.png .*\(.*no image\)"):
        open_data(tmp_path, 8)


def test_unreadable_images_are_skipped_and_counted(tmp_path):
    put(tmp_path / "train.tar", ("0.png", b"no image"), ("1.png", b""), ("2.png", png()))
    split = open_data(tmp_path, 8, skip_unreadable=True)["train"]
    assert split.names == ["train.tar/2.png"] and split.skipped == 2


def test_an_unreadable_image_is_an_error_in_its_row(unbroken, tmp_path, command):
    shard = put(tmp_path / "x.tar", ("0.png", png()), ("1.png", b""), ("2.png", b"none"), ("3.dcm", b"none"))
    assert command(score.main, unbroken, shard, "--out", tmp_path / "s.csv")[0] == 1
    rows = rows_of(tmp_path / "s.csv")
    assert [bool(row["score"]) for row in rows] == [True, False, False, False]
    assert not rows[0]["error"]
    for row, why in zip(rows[1:], ("empty", "no image", "DICM")):
        assert re.match(rf"{shard}/{row['name']} .*\(.*{why}\)", row["error"])


def test_anonymous_names_are_of_the_images(unbroken, shards, tmp_path, command):
    named, anonymous = open_data(shards, 16), open_data(shards, 16, anonymous=True)
    files = [sample.image for shard in sorted(shards.glob("test*")) for sample in read_shard(shard)]
    assert anonymous["test"].names == [content_name(file) for file in files]
    assert anonymous["test"].names == [content_name(path) for path in find_images(XRAYS / "test")]
    assert anonymous["test"].images.equal(named["test"].images)
    put(shards / "test-000002.tar", ("Jane/Doe.png", b"no image"))
    with pytest.raises(UserError) as error:
        open_data(shards, 16, anonymous=True)
    assert "Doe" not in str(error.value)
    (shards / "test-000002.tar").unlink()
    put(shards / "test-000002.tar", ("Jane/Doe.png", png()), ("Jane/Doe.jpg", png()))
    for refused in (
        lambda: open_data(shards, 16, anonymous=True),
        lambda: score.main([str(unbroken), str(shards), "--anonymous", "--out", str(tmp_path / "s.csv")]),
    ):
        with pytest.raises(UserError, match=rf"{hashlib.sha256(png()).hexdigest()[:16]} .*\bsample\b") as error:
            refused()
        assert "Doe" not in str(error.value)


def test_anonymous_messages_name_no_shard(unbroken, tmp_path):
    def said(*refusals):
        for refused in refusals:
            with pytest.raises(UserError) as error:
                refused()
            yield str(error.value)

    root = tmp_path / "root"
    put(root / "train-JaneDoe.tar", ("0.png", png()))
    (root / "train-JaneDoe.tar").write_bytes(b"")

    def train_it():
        open_data(root, 16, anonymous=True)

    def score_it():
        score.main([str(unbroken), str(root), "--anonymous", "--out", str(tmp_path / "s.csv")])

    for text in said(train_it, score_it):
        assert "Doe" not in text and re.search(rf"shard in {root} .*\btar\b", text)
    put(root / "JaneDoe.png").write_bytes(png())
    for text in said(train_it, score_it):
        assert "Doe" not in text and re.search(rf"shards\b.* shard in {root}\b", text)


def test_dicom_in_shards(tmp_path):
    pytest.importorskip("pydicom")
    from dicom_files import radiograph, write

    def dicom(patient, **tags):
        return write(tmp_path / "one.dcm", radiograph(), 12, PatientID=patient, **tags).read_bytes()

    root = tmp_path / "root"
    put(root / "train.tar", ("0.dcm", dicom("a", PatientAge="007Y")), ("1.dcm", dicom("b")))
    put(root / "val.tar", ("0.dcm", dicom("c")))
    data = open_data(root, 32)
    np.testing.assert_array_equal(data["val"].images[0, 0].numpy(), read_image(tmp_path / "one.dcm", 32))
    assert data["train"].ages == [7.0, None]
    put(root / "val.tar", ("0.of_a_device", dicom("b")))  # known by how it begins
    assert read_shard(root / "val.tar")[0].image.size > 1000
    for splits in (("train", "val"), ("val",)):
        with pytest.raises(
            UserError, match=r"train\.tar/1\.dcm of train and .*val\.tar/0\.of_a_device of val .*\bPatientID\b"
        ):
            open_data(root, 32, splits=splits)


# What is refused


def cut(at):
    return lambda path: path.write_bytes(path.read_bytes()[:at])


def damage(path):
    content = bytearray(path.read_bytes())
    at = next(sample.label for sample in read_shard(path)[:1]).start - 512
    content[at + 100 : at + 120] = b"x" * 20
    path.write_bytes(content)


def compress(path):
    import gzip

    path.write_bytes(gzip.compress(path.read_bytes()))


def compress_and_rename(path):
    compress(path)
    path.rename(path.with_suffix(".tar.gz"))


@pytest.mark.parametrize(
    "change", [cut(0), cut(100), cut(700), cut(5000), cut(-1024 * 9), damage, compress, compress_and_rename]
)
def test_a_damaged_shard(shards, tmp_path, change, unbroken, refused):
    shard = shards / "val-000000.tar"
    before = len(read_shard(shard))
    change(shard)
    assert before == 3
    said = refused(score.main, unbroken, shards, "--out", tmp_path / "s.csv")
    assert re.search(rf"shard {shard}(\.gz)? .*uncompressed tar\b", said)
    said = refused(train.main, "--data", shards, "--preset", "squid-small", "--out", tmp_path / "run")
    assert re.search(rf"shard {shard}(\.gz)? ", said)
    assert not (tmp_path / "run").exists() and not (tmp_path / "s.csv").exists()


def test_several_archives_in_one(tmp_path):
    one, other = (put(tmp_path / f"{i}.tar", (f"{i}.png", png())).read_bytes() for i in range(2))
    (tmp_path / "x.tar").write_bytes(one + other)
    with pytest.raises(UserError, match=r"x\.tar .*uncompressed tar .*several"):
        read_shard(tmp_path / "x.tar")


def test_a_shard_cut_anywhere_never_loses_an_image_in_silence(tmp_path):
    whole = put(tmp_path / "x.tar", *((f"{i}.png", png(i)) for i in range(4))).read_bytes()
    end = max(sample.image.start for sample in read_shard(tmp_path / "x.tar")) + 1024
    for at in range(0, end, 64):
        (tmp_path / "x.tar").write_bytes(whole[:at])
        with pytest.raises(UserError, match=r"x\.tar .*uncompressed tar\b"):
            read_shard(tmp_path / "x.tar")


@pytest.mark.parametrize(
    "files, said",
    [
        ([("1.2.840.dcm", b""), ("1.2.841.dcm", b"")], r"x\.tar/1\.2\.840\.dcm .*x\.tar/1\.2\.841\.dcm .*\bsample\b"),
        ([("0.png", b""), ("0.seg.png", b"")], r"x\.tar/0\.png .*x\.tar/0\.seg\.png .*\bsample\b"),
        ([("0.png", b""), ("1.png", b""), ("1.png", b"")], r"x\.tar/1\.png .*\btwice\b"),
        ([("0.png", b""), ("1.png", b""), ("./0.png", b"")], r"x\.tar/0\.png .*\btwice\b"),
        ([("0.png", b""), ("0.cls", b"0"), ("0.a.cls", b"1")], r"x\.tar/0\.cls .*x\.tar/0\.a\.cls .*\bsample\b"),
        ([("0.png", b""), ("0.cls", b"0"), ("0.cls", b"1")], r"x\.tar .*\bWebDataset\b.*\btwice\b"),
        ([("0.png", b""), ("IM0001", b" " * 128 + b"DICM and more")], r"x\.tar/IM0001' .*NAME\.SUFFIX"),
        ([("0.png", b""), ("1.png", b""), ("1.__bad__", b"1")], r"x\.tar/1\.png' .*NAME\.SUFFIX"),
        ([("0.png", b""), ("a.b\n/1.png", b"")], r"x\.tar/a\.b\\n/1\.png' .*NAME\.SUFFIX"),
        ([("0.png", b""), ("1.png", b""), ("0.cls", b"0")], r"x\.tar/0\.cls .*\bclass\b"),
        ([("0.txt", b""), ("nodot", b"")], r"x\.tar .*\bimages\b.* \.png\b"),
        ([], r"x\.tar .*\bimages\b.* \.png\b"),
    ],
)
def test_samples_that_make_no_sense(tmp_path, files, said, unbroken, refused):
    shard = put(tmp_path / "x.tar", *files)
    with pytest.raises(UserError, match=said):
        read_shard(shard)
    assert "x.tar" in refused(score.main, unbroken, shard, "--out", tmp_path / "s.csv")


def test_links_are_not_passed_over(tmp_path):
    (tmp_path / "0.png").write_bytes(png())
    (tmp_path / "1.png").hardlink_to(tmp_path / "0.png")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "0.png", "0.png")
        archive.add(tmp_path / "1.png", "1.png")
    with pytest.raises(UserError, match=r"x\.tar/1\.png .*\blink\b"):
        read_shard(tmp_path / "x.tar")


@pytest.mark.parametrize(
    "name, files, said",
    [
        ("train.tar", [("0.png", b""), ("0.cls", b"1")], r"training shards .* \.cls .*\b0$"),
        ("val.tar", [("0.png", b""), ("0.cls", b"0"), ("1.png", b"")], r"val\.tar/1\.png .*val\.tar/0\.png .* \.cls "),
        ("val.tar", [("NORMAL/0.png", b""), ("SICK/1.png", b"")], r"val\.tar/NORMAL/0\.png .*folder.* \.cls "),
        ("val.tar", [("0.png", b""), ("0.cls", b"sick")], r"val\.tar/0\.png .*\bnumber\b.* \.cls$"),
        ("val.tar", [("0.png", b""), ("0.cls", b"\xff")], r"val\.tar/0\.png .*\bnumber\b.* \.cls$"),
        ("extra.tar", [("0.png", b"")], r"/extra\.tar .*\bsplit\b.*train-000000\.tar"),
        ("train/deep/0.tar", [("0.png", b"")], r"/train/deep/0\.tar .*\bsplit\b.*train-000000\.tar"),
    ],
)
def test_data_that_make_no_sense(tmp_path, name, files, said):
    put(tmp_path / "train-0.tar", ("0.png", png()), *([("0.cls", b"1")] if name == "train.tar" else []))
    put(tmp_path / name, *files)
    with pytest.raises(UserError, match=said):
        open_data(tmp_path, 8)


def test_a_class_after_a_second_dot(tmp_path):
    put(
        tmp_path / "train.tar",
        *((f"P{i}.1.{end}", of) for i in range(4) for end, of in (("png", png()), ("cls", b"%d" % (i % 2)))),
    )
    assert open_data(tmp_path, 8)["train"].names == ["train.tar/P0.1.png", "train.tar/P2.1.png"]


def test_hidden_files_are_none(tmp_path):
    shard = put(tmp_path / "x.tar", ("./NORMAL/._0.jpeg", b""), ("NORMAL/.hidden/1.png", b""), ("../2.png", png()))
    assert [sample.image.file for sample in read_shard(shard)] == ["../2.png"]


@pytest.mark.parametrize("size", [-1024, 2**62, 2**70])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_headers_that_say_anything(tmp_path, size, kind):
    header = bytearray(tarfile.TarInfo("0.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 256**11).to_bytes(11, "big")
    header[156:157] = kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "x.tar").write_bytes(bytes(header) + bytes(10240))
    with pytest.raises(UserError, match=r"x\.tar .*(\btar archive\b|\bimages\b.* \.png\b)"):
        read_shard(tmp_path / "x.tar")


def test_what_images_were_unpacked_from(unbroken, tmp_path, command):
    root = Path(shutil.copytree(XRAYS, tmp_path / "data"))
    compress_and_rename(put(root / "train.tar", ("0.png", png())))
    assert len(open_data(root, 8)["train"]) == 8
    assert command(score.main, unbroken, root / "test", root / "val", "--out", tmp_path / "s.csv")[0] == 0
    assert (
        command(score.main, unbroken, root, "--out", tmp_path / "s.csv", "--overwrite")[0] == 0
        and len(rows_of(tmp_path / "s.csv")) == 20
    )


def test_images_beside_shards(shards, unbroken, tmp_path, refused):
    (shards / "deep").mkdir()
    (shards / "deep" / "0.png").write_bytes(png())
    with pytest.raises(UserError, match="train-000000.tar"):
        open_data(shards, 8)
    said = refused(score.main, unbroken, shards, "--out", tmp_path / "s.csv")
    assert re.search(rf"{shards} .*images.*{shards / 'deep' / '0.png'}.*shards.*\.tar\b", said)


def test_shards_of_no_split_are_for_training(tmp_path):
    put(tmp_path / "000000.tar", ("0.png", png()))
    put(tmp_path / "000001.tar", ("1.png", png()))
    data = open_data(tmp_path, 8)
    assert list(data) == ["train"] and data["train"].names == ["000000.tar/0.png", "000001.tar/1.png"]
    assert data["train"].labels is None
    put(tmp_path / "000001.tar", ("1.png", png()), ("1.cls", b"1"))
    with pytest.raises(UserError, match=r"000000\.tar/0\.png .*000001\.tar/1\.png .* \.cls "):
        open_data(tmp_path, 8)
    # Beside images an archive is something else, as any other file is.
    (tmp_path / "train" / "NORMAL").mkdir(parents=True)
    (tmp_path / "train" / "NORMAL" / "2.png").write_bytes(png())
    assert open_data(tmp_path, 8)["train"].names == ["NORMAL/2.png"]


@pytest.mark.parametrize(
    "files, named",
    [
        ([("PNEUMONIA/1.png", png()), ("HEALTHY/2.png", png(1))], ["'HEALTHY'", "'PNEUMONIA'"]),
        ([("1.png", png()), ("1.json", b'{"label": "pneumonia"}')], ["train.tar/1.json"]),
        ([("1.png", png()), ("1.txt", b"Right lower lobe pneumonia.")], ["train.tar/1.txt"]),
        ([("1.png", png()), ("1.json", b'{"age": 3}'), ("1.txt", b"pneumonia")], ["train.tar/1.txt"]),
    ],
)
def test_samples_that_are_not_known_to_be_healthy(tmp_path, files, named):
    """Without classes, images are taken as healthy only if nothing says otherwise, as in folders."""
    put(tmp_path / "train.tar", *files)
    with pytest.raises(UserError, match="it is not known which") as error:
        open_data(tmp_path, 8, all_normal=False)
    assert all(name in str(error.value) for name in named) and "--all-normal" in str(error.value)
    with pytest.raises(UserError) as error:
        open_data(tmp_path, 8, all_normal=False, anonymous=True)
    assert not any(name in str(error.value) for name in named)
    assert len(open_data(tmp_path, 8, all_normal=True)["train"]) == sum(name.endswith("png") for name, _ in files)


def test_samples_with_other_notes(tmp_path):
    put(tmp_path / "train.tar", ("a/1.png", png()), ("a/1.json", b'{"age": 3, "site": "north"}'))
    assert len(open_data(tmp_path, 8, all_normal=False)["train"]) == 1
    put(tmp_path / "train.tar", ("1.png", png()), ("1.json", b'{"label": 0}'), ("1.cls", b"0"))
    assert len(open_data(tmp_path, 8, all_normal=False)["train"]) == 1


def test_contamination_is_refused(written):
    with pytest.raises(UserError, match="contamination"):
        open_data(written, 8, contamination=0.1)


def test_without_webdataset(written, unbroken, tmp_path, monkeypatch, refused):
    original = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("webdataset"):
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    said = refused(score.main, unbroken, written, "--out", tmp_path / "s.csv")
    assert re.search(r"\bwebdataset\b.*pip install webdataset", said)


def test_members_too_large_for_an_image_are_rejected_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("fastsquid.data.sources.shards.MAX_FILE_BYTES", 100)
    put(tmp_path / "a.tar", ("a.png", bytes(101)), ("a.cls", b" " * 100 + b"0"))
    [sample] = read_shard(tmp_path / "a.tar")
    with pytest.raises(UserError, match=r"a\.png .*101 bytes"):
        read_image(sample.image, 8)
    assert content_name(sample.image) == "unreadable"
    with pytest.raises(UserError, match=r"a\.png .*\.cls"):
        open_data(tmp_path, 8)
