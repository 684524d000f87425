"""Scoring an archive on Ray: a cluster of two workers on this machine, workers and jobs that are killed, an S3 server."""

import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import XRAYS, rows_of, tiny
from PIL import Image

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
import pyarrow as pa  # noqa: E402
from pyarrow import dataset, parquet  # noqa: E402

from fastsquid import load, score, train  # noqa: E402
from fastsquid.archive import job as jobs  # noqa: E402
from fastsquid.cluster import ScoreImages  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Ray's own, of its processes and of pandas
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
]
HERE = Path(__file__).parent
MANY = 2000


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of a cluster on loopback with two cores, for processes of the tests and for this one."""
    environment = {
        **dict(
            OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0", AWS_ACCESS_KEY_ID="test", AWS_EC2_METADATA_DISABLED="true"
        ),
        **dict(AWS_SECRET_ACCESS_KEY="test", PYTHONPATH=str(HERE.parent)),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=2**28,
            _node_ip_address="127.0.0.1",
        )
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train.main([str(a) for a in tiny(folder, "--epochs", "1")])
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder of 2,000 images, all different."""
    folder = tmp_path_factory.mktemp("many")
    generator = np.random.default_rng(0)
    for number in range(MANY):
        Image.fromarray(generator.integers(0, 256, (32, 32), np.uint8)).save(folder / f"{number:04}.png")
    return folder


def rows_in(out):
    """{name: row} of the Parquet files of a folder, which has every name once."""
    rows = dataset.dataset(out, format="parquet").to_table().to_pylist()
    assert len({row["name"] for row in rows}) == len(rows)
    return {row["name"]: row for row in rows}


def require_same(out, expected):
    """The rows of a folder are those of a CSV, to the rounding of another batch."""
    rows, expected = rows_in(out), {row["name"]: row for row in rows_of(expected)}
    assert rows.keys() == expected.keys()
    for name, row in rows.items():
        for column, cell in expected[name].items():
            if column in ("name", "error"):
                assert (row[column] or "") == cell
            elif column in ("above_threshold", "age_outside_training"):
                assert ("" if row[column] is None else str(int(row[column]))) == cell, name
            elif cell == "":
                assert row[column] is None
            else:
                assert row[column] == pytest.approx(float(cell), rel=1e-4, abs=1e-4), (name, column)


def processes(word):
    """Process numbers of Ray's workers that show a word in their title."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::") and word in title:
            found.append(int(folder.name))
    return found


def when_written(out, action):
    """Call a function in a thread as soon as a folder has a Parquet file."""

    def wait():
        while not list(out.glob("*.parquet")):
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_rows_are_those_of_a_single_process(address, run, tmp_path, command):
    images = tmp_path / "images"
    subprocess.run(["cp", "-r", XRAYS, images], check=True)
    (images / "test" / "0001.jpeg").write_bytes(b"")
    (images / "test" / "gone.png").symlink_to("nowhere")
    for options in ((), ("--all-scores",)):
        csv, out = tmp_path / f"{len(options)}.csv", tmp_path / f"{len(options)}.parquet"
        assert command(score.main, run, images, "--out", csv, *options)[0] == 1
        code, printed, errors = command(score.main, run, images, "--out", out, "--ray", *options)
        assert code == 1 and "19 of 21 images scored" in printed and "2 of 21 images could not be read" in errors
        rows = rows_in(out)
        assert "empty" in rows["test/0001.jpeg"]["error"] and "No such file" in rows["test/gone.png"]["error"]
        rows_without = {name: row for name, row in rows.items() if name != "test/gone.png"}
        assert len(rows_without) == 20
        table = dataset.dataset(out, format="parquet").schema
        assert table.field("score").type == pa.float64() and table.field("above_threshold").type == pa.bool_()
        expected = [row for row in rows_of(csv) if row["name"] != "test/gone.png"]
        for row in expected:
            assert (rows[row["name"]]["score"] is None) == (row["score"] == "")
            if row["score"]:
                assert rows[row["name"]]["score"] == pytest.approx(float(row["score"]), rel=1e-4, abs=1e-4)


def test_a_killed_worker_costs_no_row(address, run, many, tmp_path, command, monkeypatch):
    monkeypatch.setattr(jobs, "MOST_ROWS", 100)
    out, csv, killed = tmp_path / "s.parquet", tmp_path / "s.csv", []

    def kill():
        killed.extend(processes(b"_Score")[:1])
        for number in killed:
            os.kill(number, signal.SIGKILL)

    thread = when_written(out, kill)
    code, printed, _ = command(score.main, run, many, "--ray", "--out", out)
    thread.join(10)
    assert code is None or code == 0
    assert len(killed) == 1 and f"{MANY} of {MANY} images scored" in printed
    assert command(score.main, run, many, "--out", csv)[0] in (None, 0)
    require_same(out, csv)


def test_a_killed_job_goes_on_where_it_was(address, run, many, tmp_path, command, monkeypatch):
    out = tmp_path / "s.parquet"
    code = "import sys; from fastsquid import score; from fastsquid.archive import job; job.MOST_ROWS = 100; score.main(sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", code, run, many, "--out", out, "--ray", address])
    when_written(out, process.kill).join(60)
    assert process.wait(10) == -signal.SIGKILL
    time.sleep(1)  # until the cluster has ended the dead job's workers
    whole = []
    for path in out.glob("*.parquet"):
        try:
            whole.append((path, path.stat().st_mtime_ns, parquet.read_table(path).num_rows))
        except pa.ArrowInvalid:
            pass
    before = sum(rows for *_, rows in whole)
    assert 100 <= before < MANY
    (out / "torn.parquet").write_bytes(b"PAR1 the rest was never written")
    _, printed, _ = command(score.main, run, many, "--ray", "--out", out)
    assert f"({before} before" in printed and f"{MANY} of {MANY} images scored" in printed
    assert len(rows_in(out)) == MANY and not (out / "torn.parquet").exists()
    assert all(path.stat().st_mtime_ns == at for path, at, _ in whole), "what was written is not scored again"
    _, printed, _ = command(score.main, run, many, "--ray", "--out", out)
    assert f"({MANY} before" in printed and len(rows_in(out)) == MANY


def test_shards_and_tables_are_read(address, run, tmp_path, command):
    pytest.importorskip("webdataset")
    paths = sorted((XRAYS / "test").iterdir())
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, half in enumerate((paths[:2], paths[2:])):
        with tarfile.open(shards / f"{number}.tar", "w") as shard:
            for path in half:
                shard.add(path, path.name)
    assert command(score.main, run, shards, "--out", tmp_path / "s.csv")[0] in (None, 0)
    (shards / "2.tar").write_bytes((shards / "0.tar").read_bytes()[:2000])
    code, _, errors = command(score.main, run, shards, "--ray", "--out", tmp_path / "s.parquet")
    rows = rows_in(tmp_path / "s.parquet")
    assert code == 1 and f"1 of {len(paths) + 1}" in errors
    assert rows.pop("2.tar")["error"].count("2.tar") >= 1
    scores = {row["name"]: float(row["score"]) for row in rows_of(tmp_path / "s.csv")}
    assert {name: row["score"] for name, row in rows.items()} == pytest.approx(scores, rel=1e-4)

    by_name = {Path(name).name: value for name, value in scores.items()}
    table = pa.table({"path": [str(path.relative_to(XRAYS)) for path in paths] + ["test/none.png"]})
    parquet.write_table(table, XRAYS_TABLE := tmp_path / "paths.parquet")
    (tmp_path / "test").symlink_to(XRAYS / "test")
    code, *_ = command(score.main, run, XRAYS_TABLE, "--ray", "--out", tmp_path / "p.parquet")
    rows = rows_in(tmp_path / "p.parquet")
    assert code == 1 and "No such file" in rows.pop("test/none.png")["error"]
    assert {Path(name).name: row["score"] for name, row in rows.items()} == pytest.approx(by_name, rel=1e-4)

    table = pa.table({"name": [path.name for path in paths], "bytes": [path.read_bytes() for path in paths]})
    parquet.write_table(table, tmp_path / "bytes.parquet")
    command(score.main, run, tmp_path / "bytes.parquet", "--ray", "--anonymous", "--out", tmp_path / "b.parquet")
    rows = rows_in(tmp_path / "b.parquet")
    assert all(len(name) == 16 and int(name, 16) for name in rows)
    assert sorted(row["score"] for row in rows.values()) == pytest.approx(sorted(by_name.values()), rel=1e-4)
    _, printed, _ = command(
        *(score.main, run, tmp_path / "bytes.parquet", "--ray", "--anonymous", "--out", tmp_path / "b.parquet")
    )
    assert f"({len(paths)} before" in printed and rows_in(tmp_path / "b.parquet") == rows


def test_an_s3_server_is_source_and_sink(address, run, tmp_path, command):
    pytest.importorskip("moto.server")
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    try:
        options = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
        system = fs.FileSystem.from_uri(f"s3://clinic?{options}")[0]
        system.create_dir("clinic")
        fs.copy_files(str(XRAYS / "test"), "clinic/march/a #1?/deep", destination_filesystem=system)
        for name, content in ((".hidden.png", b""), ("masks/0000.png", b""), ("notes.txt", b"-"), ("bad.png", b"-")):
            with system.open_output_stream(f"clinic/march/{name}") as file:
                file.write(content)
        source, out = f"s3://clinic/march?{options}", f"s3://clinic/scores.parquet?{options}"
        code, printed, _ = command(score.main, run, source, "--ray", "--out", out)
        found = dataset.dataset("clinic/scores.parquet", filesystem=system, format="parquet").to_table().to_pylist()
        rows = {row["name"]: row for row in found}
        assert command(score.main, run, XRAYS / "test", "--out", tmp_path / "s.csv")[0] in (None, 0)
        expected = {f"a #1?/deep/{row['name']}": float(row["score"]) for row in rows_of(tmp_path / "s.csv")}
        assert code == 1 and rows.pop("bad.png")["error"]
        assert {name: row["score"] for name, row in rows.items()} == pytest.approx(expected, rel=1e-4)
        _, printed, _ = command(score.main, run, source, "--ray", "--out", out)
        assert f"({len(expected) + 1} before" in printed
        assert "s3://nowhere" in command(score.main, run, f"s3://nowhere/x?{options}", "--ray", "--out", out)[2]
    finally:
        server.stop()


def test_folders_of_other_jobs_are_kept(run, tmp_path, command):
    for out, content, word in (
        ("notes", "x", "holds no scores of a Ray job"),
        ("other", json.dumps({"run": "1"}), "--overwrite"),
    ):
        folder = tmp_path / out
        folder.mkdir()
        (folder / ("a.txt" if out == "notes" else jobs.RECORD)).write_text(content)
        code, _, errors = command(score.main, run, XRAYS, "--ray", "--out", folder)
        assert code == 2 and word in errors and errors.count("\n") == 1
        assert len(list(folder.iterdir())) == 1
    for arguments, word in (
        (("nowhere", "--ray"), "nowhere does not exist"),
        (("https://127.0.0.1:1/a/", "--out", tmp_path / "s.csv"), "does not exist"),
        ((XRAYS, "--actors", "2"), "--ray"),
        ((XRAYS, "--ray", "--device", "cuda:1"), "cuda:1"),
        ((tmp_path / "none.parquet", "--ray"), "none.parquet"),
    ):
        code, _, errors = command(score.main, run, *arguments)
        assert code == 2 and word in errors, errors


def test_the_class_scores_batches(run):
    paths = [str(path) for path in sorted((XRAYS / "test").iterdir())]
    scorer = load(run)
    scoring = ScoreImages(scorer, all_scores=True, batch_size=3)
    contents = [Path(path).read_bytes() for path in paths]
    table = scoring({"name": np.array([*paths, "gone"]), "bytes": [*contents, None], "other": 1})
    assert table.schema == scoring.schema and table["name"].to_pylist() == [*paths, "gone"]
    np.testing.assert_allclose(table["score"].to_pylist()[:-1], scorer.score(paths), rtol=1e-4)
    assert table["error"].to_pylist() == [None] * len(paths) + ["gone cannot be read (there are no bytes)"]
    with pytest.raises(ValueError, match="'bytes'"):
        scoring({"name": paths})
