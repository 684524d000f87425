"""The cache of decoded images: the same pixels, decoded once; nothing stale, nothing half-written."""

import errno
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from released import SMALLEST, write_image

from fastsquid import evaluate, train
from fastsquid.data import images as reading
from fastsquid.data import open_data
from fastsquid.errors import UserError


@pytest.fixture
def data(tmp_path):
    for i in range(6):
        write_image(tmp_path / "data" / "train" / "NORMAL" / f"{i}.png", i)
        write_image(tmp_path / "data" / "test" / ("NORMAL" if i < 3 else "SICK") / f"{i}.png", 20 + i)
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded."""
    files = []
    read = reading.read_with_patient

    def spy(path, *arguments, **options):
        files.append(path.name)
        return read(path, *arguments, **options)

    monkeypatch.setattr(reading, "read_with_patient", spy)
    return files


def same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name].images, two[name].images) and one[name].names == two[name].names
        assert one[name].skipped == two[name].skipped


def test_images_are_decoded_once(data, tmp_path, decoded):
    plain = open_data(data, 16)
    same(open_data(data, 16, cache=tmp_path / "new" / "cache"), plain)
    decoded.clear()
    same(open_data(data, 16, cache=tmp_path / "new" / "cache"), plain)
    assert decoded == []
    (data / "train").rename(data / "training")  # elsewhere, the same content
    same(open_data(data, 16, cache=tmp_path / "new" / "cache"), plain)
    assert decoded == []


def test_what_changes_the_pixels_is_decoded_again(data, tmp_path, decoded):
    cache = tmp_path / "cache"
    open_data(data, 16, cache=cache)
    for options in ({"size": 20}, {"size": 16, "crop": True}):
        decoded.clear()
        same(open_data(data, cache=cache, **options), open_data(data, **options))
        assert len(decoded) == 2 * 12
    decoded.clear()
    write_image(data / "test" / "SICK" / "4.png", 99)
    times = os.stat(data / "test" / "SICK" / "3.png")
    os.utime(data / "test" / "SICK" / "4.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    changed = open_data(data, 16, cache=cache)
    assert sorted(decoded) == [f"{i}.png" for i in range(6)]  # those of test, not of train
    same(changed, open_data(data, 16))


def test_another_reader_decodes_again(data, tmp_path, decoded, monkeypatch):
    """Files that were left out for want of a package are there once it is installed."""
    for new, files in ((None, 12), ("pydicom", 12), (None, 0), ("python-gdcm", 12)):
        decoded.clear()
        monkeypatch.setattr("fastsquid.data.cache.version", lambda name, new=new: "9" if name == new else "1")
        open_data(data, 16, cache=tmp_path)
        assert len(decoded) == files


def test_sixteen_bits_beside_eight(data, tmp_path):
    deep = np.random.default_rng(0).integers(0, 65535, (20, 24)).astype(np.uint16)
    Image.fromarray(deep).save(data / "train" / "NORMAL" / "3.png")
    plain = open_data(data, 16)
    assert plain["train"].images.dtype == torch.uint16 and plain["test"].images.dtype == torch.uint8
    for _ in range(2):
        same(open_data(data, 16, cache=tmp_path / "cache"), plain)


def test_skipped_files_stay_skipped_and_only_where_asked(data, tmp_path):
    (data / "train" / "NORMAL" / "2.png").write_text("no image")
    cache = tmp_path / "cache"
    plain = open_data(data, 16, skip_unreadable=True)
    for _ in range(2):
        same(open_data(data, 16, skip_unreadable=True, cache=cache), plain)
    assert plain["train"].skipped == 1
    for _ in range(2):
        with pytest.raises(UserError, match=r"2\.png"):
            open_data(data, 16, cache=cache)


def test_an_interrupted_writer_leaves_no_entry(data, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    read = reading.read_with_patient

    def fail(path, *arguments, **options):
        if path.name == "4.png":
            raise KeyboardInterrupt
        return read(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_with_patient", fail)
        with pytest.raises(KeyboardInterrupt):
            open_data(data, 16, cache=cache)
    assert not list(cache.iterdir())
    same(open_data(data, 16, cache=cache), open_data(data, 16))


@pytest.mark.parametrize(
    "change",
    [
        lambda known: known.pop("frames"),
        lambda known: known.update(frames=[1] * len(known["kept"])),
        lambda known: known["frames"].pop(),
        lambda known: known.update(kept=[i + 1 for i in known["kept"]]),
        lambda known: known.update(depth="no dtype"),
    ],
)
def test_an_entry_that_says_nonsense_is_made_again(data, tmp_path, change):
    cache = tmp_path / "cache"
    open_data(data, 16, cache=cache)
    for path in cache.glob("*.json"):
        known = json.loads(path.read_text())
        change(known)
        path.write_text(json.dumps(known))
    same(open_data(data, 16, cache=cache), open_data(data, 16))


def test_the_suffix_belongs_to_the_key(data, tmp_path, decoded):
    """How a file is read depends on its suffix."""
    open_data(data, 16, cache=tmp_path / "cache")
    for path in (data / "train" / "NORMAL").iterdir():
        path.rename(path.with_suffix(".tif"))
    decoded.clear()
    open_data(data, 16, cache=tmp_path / "cache")
    assert sorted(decoded) == [f"{i}.tif" for i in range(6)]


def test_a_cache_that_cannot_be_written_to(data, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fastsquid.data.cache.write_json", full)
    with pytest.raises(UserError, match=f"--cache .*cache cannot be written to .{os.strerror(errno.ENOSPC)}"):
        open_data(data, 16, cache=tmp_path / "cache")


@pytest.mark.parametrize("kind", ["pixels", "json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "removed"])
def test_a_damaged_entry_is_made_again(data, tmp_path, kind, damage):
    cache = tmp_path / "cache"
    plain = open_data(data, 16, cache=cache)
    for path in cache.glob(f"*.{kind}"):
        content = path.read_bytes()
        path.unlink()
        if damage != "removed":
            path.write_bytes(content[:-7] if damage == "cut" else b"")
    same(open_data(data, 16, cache=cache), open_data(data, 16))
    same(plain, open_data(data, 16))  # its pages are still there


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="Linux says what is mapped")
def test_images_are_mapped_not_held(data, tmp_path):
    """The images' memory is a mapping of the cache's file, so that the system can drop what is not used."""

    def mapped():
        with open("/proc/self/maps") as file:
            return sorted({line.split()[-1] for line in file if line.rstrip().endswith(".pixels")})

    found = open_data(data, 16, cache=tmp_path / "cache")
    assert mapped() == sorted(map(str, (tmp_path / "cache").glob("*.pixels"))) and len(mapped()) == 2
    # The values are those of the file, and writing to them does not change it.
    before = {path: path.read_bytes() for path in (tmp_path / "cache").glob("*.pixels")}
    assert found["train"].images.numpy().tobytes() in before.values()
    found["train"].images.zero_()
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_cache_that_cannot_be_made(data, tmp_path, refused):
    (tmp_path / "file").write_text("")
    message = refused(train.main, "--data", data, "--out", tmp_path / "run", "--cache", tmp_path / "file", *SMALLEST)
    assert f"--cache {tmp_path / 'file'} cannot be made ({os.strerror(errno.EEXIST)})" in message


def test_training_from_a_cache_is_training(data, tmp_path, command, decoded):
    weights = []
    for options in ([], ["--cache", tmp_path / "cache"], ["--cache", tmp_path / "cache"]):
        decoded.clear()
        run = tmp_path / f"run{len(weights)}"
        code, _, err = command(train.main, "--data", data, "--out", run, *SMALLEST, *options)
        assert code == 0, err
        state = json.loads(next(run.glob("**/state.json")).read_text())
        weights.append(state["sha256"])
    assert decoded == [] and weights[0] == weights[1] == weights[2]
    assert command(evaluate.main, run, "--cache", tmp_path / "cache")[0] == 0
    assert decoded == []
