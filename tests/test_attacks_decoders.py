"""The decoders of JPEG Lossless, in processes of their own: damaged streams, crashes, and threads."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from fastsquid.data import read_images
from fastsquid.data.decoding import decoded
from fastsquid.data.images import read_image

pydicom = pytest.importorskip("pydicom")
from dicom_files import radiograph, write  # noqa: E402
from hostile_files import ATTACKS, SIXTEEN, lossless, rejected  # noqa: E402
from pydicom.encaps import encapsulate, generate_frames  # noqa: E402
from test_data_dicom import jpeg2000, rle  # noqa: E402

from fastsquid.data.dicom import decoders  # noqa: E402
from fastsquid.data.dicom.read import read_dicom  # noqa: E402


def test_decoders_are_used_again_also_after_a_crash(tmp_path):
    good = lossless(tmp_path / "good.dcm")
    expected = read_image(good, 64)
    decoders._pool.end()
    for path in [good, ATTACKS / "jpegll-one-byte.dcm"] * 2:
        if path == good:
            np.testing.assert_array_equal(read_image(path, 64), expected)
            (decoder,) = decoders._pool._idle
            np.testing.assert_array_equal(read_image(path, 64), expected)
            assert decoders._pool._idle == [decoder]
        else:
            rejected(path, "decoded")  # some versions of gdcm abort, others do not
            assert not hasattr(os, "fork") or decoders._pool._idle == [decoder]


@pytest.mark.skipif(not os.path.exists("/proc"), reason="needs the children of a process")
def test_a_child_that_is_killed_while_it_waits(tmp_path):
    """No answer is taken for that of another request."""
    paths = [lossless(tmp_path / f"{number}.dcm", radiograph() // 2**number) for number in range(3)]
    expected = [read_image(path, 64) for path in paths]
    (decoder,) = decoders._pool._idle
    for times in (1, 2):
        for _ in range(times):
            parent = decoder._process.pid
            child = int(Path(f"/proc/{parent}/task/{parent}/children").read_text())
            os.kill(child, signal.SIGKILL)
            while Path(f"/proc/{parent}/task/{parent}/children").read_text() in ("", f"{child} "):
                time.sleep(0.01)
        for path, image in zip(paths, expected, strict=True):
            np.testing.assert_array_equal(read_image(path, 64), image)
        assert decoders._pool._idle == [decoder]


def test_a_killed_decoder_is_replaced(tmp_path):
    good = lossless(tmp_path / "good.dcm")
    expected = read_image(good, 64)
    (decoder,) = decoders._pool._idle
    decoder._kill()
    decoder._process.wait()
    np.testing.assert_array_equal(read_image(good, 64), expected)
    assert decoders._pool._idle != [decoder]


def test_decoders_in_threads_and_workers(tmp_path, monkeypatch):
    good = lossless(tmp_path / "good.dcm")
    expected = read_image(good, 64)
    files = [good, ATTACKS / "jpegll-one-byte.dcm", good]
    images, kept = read_images(files, 64, skip_unreadable=True)
    assert kept == [0, 2] and (images[:, 0].numpy() == expected).all()
    monkeypatch.setattr("fastsquid.data.decoding.MAX_WITHOUT_WORKERS", 0)
    rows = [row for batch in decoded([(path.name, path) for path in files], 64, 2) for row in batch]
    assert ["decoded" in row.error for row in rows] == [False, True, False]
    np.testing.assert_array_equal(rows[2].image, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_starts_decoders_of_its_own(tmp_path):
    good = lossless(tmp_path / "good.dcm")
    expected = read_image(good, 64)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put((len(decoders._pool._idle), read_image(good, 64))))
    process.start()
    idle, image = queue.get()
    process.join()
    assert not idle and process.exitcode == 0
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(read_image(good, 64), expected)


def test_a_decoder_that_does_not_start(tmp_path, monkeypatch):
    good = lossless(tmp_path / "good.dcm")
    decoders._pool.end()
    monkeypatch.setattr(decoders, "get_executable", lambda: str(tmp_path / "missing"))
    rejected(good, "gdcm", "not start", "import gdcm")


def test_a_decoder_that_hangs(tmp_path, monkeypatch):
    good = lossless(tmp_path / "good.dcm")
    monkeypatch.setattr(decoders, "_SECONDS", 0.2)
    monkeypatch.setattr(decoders, "_SCRIPT", tmp_path / "hangs.py")
    (tmp_path / "hangs.py").write_text("print('ready', flush=True)\nimport time\ntime.sleep(600)\n")
    decoders._pool.end()
    rejected(good, "decoded")


@pytest.mark.parametrize("change", [lossless, jpeg2000, rle])
def test_damaged_streams(tmp_path, change):
    """Bytes changed at random: an image of the right size or one sentence, and this process lives."""
    path = tmp_path / "x.dcm"
    if change is lossless:
        lossless(path, radiograph()[:64, :64].copy())
    else:
        change(write(tmp_path / "plain.dcm", radiograph()[:64, :64].copy(), 12), path)
    dataset = pydicom.dcmread(path)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    random = np.random.default_rng(0)
    for at in random.integers(0, min(200, len(frame)), 30):
        damaged = bytearray(frame)
        damaged[at] ^= 1 << random.integers(8)
        dataset.PixelData = encapsulate([bytes(damaged)])
        dataset.save_as(tmp_path / "y.dcm")
        try:
            assert read_dicom(tmp_path / "y.dcm").gray.shape == (64, 64)
        except ValueError as error:
            assert type(error).__name__ == "RejectedError" and "\n" not in str(error)


def test_lossless_data_that_gdcm_decodes_with_errors(tmp_path):
    """It only prints that the data is corrupt."""
    lossless(tmp_path / "x.dcm", SIXTEEN >> 4)
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    middle = len(frame) // 2
    dataset.PixelData = encapsulate([frame[:middle] + bytes(64) + b"\xff\xd9" + frame[middle + 66 :]])
    dataset.save_as(tmp_path / "x.dcm")
    rejected(tmp_path / "x.dcm", "decoded", "damaged")
