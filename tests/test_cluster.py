"""Ray: an archive scored by a cluster of two workers on this machine, kills, an S3 server; seeds trained as tasks."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import XRAYS, rows_of, run_example, tiny
from PIL import Image

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
import pyarrow as pa  # noqa: E402
from pyarrow import dataset, parquet  # noqa: E402

from fastsquid import load, score, study, train  # noqa: E402
from fastsquid.archive import job as jobs  # noqa: E402
from fastsquid.archive.sources import items_of_table, open_shard, open_table, require_own_names, to_items  # noqa: E402
from fastsquid.archive.stages import digests  # noqa: E402
from fastsquid.archive.stores import Place, place_of, read_bytes, reason  # noqa: E402
from fastsquid.cluster import ScoreImages  # noqa: E402
from fastsquid.data.decoding import Decoder  # noqa: E402
from fastsquid.data.names import choose_names, content_name  # noqa: E402
from fastsquid.errors import UserError  # noqa: E402
from fastsquid.training import on_ray  # noqa: E402
from fastsquid.training.start import Speed  # noqa: E402
from fastsquid.training.study import STUDIES, Row  # noqa: E402
from fastsquid.utils import ray_cluster  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Ray's own, of its processes and of pandas
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
]
HERE = Path(__file__).parent
MANY = 600


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
            "local",
            num_cpus=2,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=2**28,
            _node_ip_address="127.0.0.2",
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
    """A folder of many images, all different."""
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


def require_same(row, expected):
    """A row of Parquet is one of a CSV, to the rounding of another batch. Few images make percentiles steep."""
    for column, cell in expected.items():
        if column in ("name", "error"):
            assert (row[column] or "") == cell
        elif column in ("above_threshold", "age_outside_training"):
            assert ("" if row[column] is None else str(int(row[column]))) == cell, expected["name"]
        elif cell == "":
            assert row[column] is None
        else:
            near = pytest.approx(float(cell), rel=1e-4, abs=1 if column == "percentile" else 1e-4)
            assert row[column] == near, (expected["name"], column)


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


def test_sources_of_all_kinds_give_the_rows_of_a_single_process(address, run, tmp_path, command):
    """A folder, shards, a table of paths and one of bytes, each with something that cannot be read."""
    pytest.importorskip("webdataset")
    images, shards, paths = tmp_path / "images", tmp_path / "shards", sorted((XRAYS / "test").iterdir())
    shutil.copytree(XRAYS / "test", images)
    (images / "0001.jpeg").write_bytes(b"")
    csv = tmp_path / "s.csv"
    assert command(score.main, run, images, "--out", csv, "--all-scores")[0] == 1
    expected = {row["name"]: row for row in rows_of(csv)}
    (images / "gone.png").symlink_to("nowhere")

    shards.mkdir()
    with tarfile.open(shards / "0.tar", "w") as shard:
        for path in paths:
            shard.add(path, path.name)
    (shards / "1.tar").write_bytes((shards / "0.tar").read_bytes()[:2000])
    parquet.write_table(
        pa.table({"path": ["images/0000.jpeg", "images/none.png"], "extra": [1, 2]}), tmp_path / "paths.parquet"
    )
    table = pa.table({"name": ["x/0000.jpeg", "x/bad.png"], "bytes": [paths[0].read_bytes(), b""]})
    parquet.write_table(table, tmp_path / "bytes.parquet")
    sources = (images, shards, tmp_path / "paths.parquet", tmp_path / "bytes.parquet")
    out = tmp_path / "s.parquet"
    code, printed, errors = command(score.main, run, *sources, "--out", out, "--ray", "--all-scores")
    rows = rows_in(out)
    broken = {name: rows.pop(name)["error"] for name in (f"{images}/gone.png", f"{shards}/1.tar", "images/none.png")}
    assert all("No such file" in why for name, why in broken.items() if "shards" not in name)
    assert "1.tar" in broken[f"{shards}/1.tar"] and "empty" in rows.pop("x/bad.png")["error"]
    assert code == 1 and f"5 of {len(rows) + 4} images could not be read" in errors
    assert f"{len(rows) - 1} of {len(rows) + 4} images scored" in printed
    names = {f"{images}/{path.name}" for path in paths} | {f"{shards}/0.tar/{path.name}" for path in paths}
    assert rows.keys() == names | {"images/0000.jpeg", "x/0000.jpeg"}
    for name, row in rows.items():
        known = expected[Path(name).name]
        if "shards" not in name or known["score"]:
            require_same(row, {**known, "name": name})
    schema = dataset.dataset(out, format="parquet").schema
    assert schema.field("score").type == pa.float64() and schema.field("above_threshold").type == pa.bool_()
    assert schema.names == list(next(iter(expected.values())))


@pytest.mark.heavy
def test_a_table_with_a_damaged_page(address, run, tmp_path, command):
    """Its schema is whole, so the damage is found in the middle of the job."""
    table, paths = tmp_path / "bytes.parquet", sorted((XRAYS / "test").iterdir())[:2]
    parquet.write_table(pa.table({"name": ["a", "b"], "bytes": [path.read_bytes() for path in paths]}), table)
    content = bytearray(table.read_bytes())
    content[100:300] = bytes(200)
    table.write_bytes(content)
    code, _, errors = command(score.main, run, table, "--out", tmp_path / "s.parquet", "--ray")
    (line,) = errors.splitlines()
    assert code == 2 and line.startswith("error: a worker has failed (") and str(table) in line
    assert line.endswith("when the cause is gone, give the same command again")


@pytest.mark.heavy
def test_a_killed_worker_costs_no_row(address, run, many, tmp_path, command, monkeypatch):
    monkeypatch.setattr(jobs, "MOST_ROWS", 30)
    out, csv, killed = tmp_path / "s.parquet", tmp_path / "s.csv", []

    def kill():
        while not killed:  # some versions of Ray show the title only while an actor scores
            killed.extend(processes(b"_Score")[:1])
        for number in killed:
            os.kill(number, signal.SIGKILL)

    thread = when_written(out, kill)
    code, printed, _ = command(score.main, run, many, "--fast", "--ray", "--out", out)
    thread.join(10)
    assert code is None or code == 0
    assert len(killed) == 1 and f"{MANY} of {MANY} images scored" in printed
    assert command(score.main, run, many, "--fast", "--out", csv)[0] in (None, 0)
    rows, expected = rows_in(out), rows_of(csv)
    assert len(rows) == len(expected) == MANY
    for row in expected:
        require_same(rows[row["name"]], row)


def written(out):
    """Files in the folder of a job, with their sizes."""
    return {path: path.stat().st_size for path in out.iterdir()}


@pytest.mark.heavy
def test_a_killed_job_goes_on_where_it_was(address, run, many, tmp_path, command, monkeypatch):
    out = tmp_path / "s.parquet"
    code = "import sys; from fastsquid import score; from fastsquid.archive import job; job.MOST_ROWS = 30; "
    code += "score.main(sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", code, run, many, "--fast", "--out", out, "--ray", address])
    when_written(out, process.kill).join(60)
    assert process.wait(10) == -signal.SIGKILL
    seen = None
    while seen != (seen := written(out)):  # until the cluster has ended the dead job's workers
        time.sleep(1)
    whole = []
    for path in out.glob("*.parquet"):
        try:
            whole.append((path, path.stat().st_mtime_ns, parquet.read_table(path).num_rows))
        except pa.ArrowInvalid:
            pass
    before = sum(rows for *_, rows in whole)
    assert 30 <= before < MANY
    (out / "torn.parquet").write_bytes(b"PAR1 the rest was never written")
    _, printed, _ = command(score.main, run, many, "--fast", "--ray", "--out", out)
    assert f"({before} before" in printed and f"{MANY} of {MANY} images scored" in printed
    assert len(rows_in(out)) == MANY and not (out / "torn.parquet").exists()
    assert all(path.stat().st_mtime_ns == at for path, at, _ in whole), "what was written is not scored again"


@pytest.mark.heavy
def test_an_anonymous_job_knows_images_by_their_content(address, run, tmp_path):
    scorer, paths = load(run), sorted((XRAYS / "test").iterdir())
    names = choose_names(True)
    decode = Decoder(scorer.image_size, names, scorer.crop)
    items = to_items([(path.name, Place("", str(path))) for path in (*paths, tmp_path / "gone.png")])
    (table,) = jobs._Load(decode, True, None)(items)
    found = table["name"].to_pylist()
    assert found == [content_name(path) for path in paths] + ["unreadable"]
    assert "gone" not in table["error"].to_pylist()[-1]
    done = ray.put(np.sort(digests([found[0], found[-1]])))
    (table,) = jobs._Load(decode, True, done)(items)
    assert table["name"].to_pylist() == found[1:-1]


@pytest.mark.heavy
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
        bad = ["bad.png", "x/1.png", "x/1A/2.png"]  # of the three in x one is a mask of another
        for name in (*bad, "x/1_mask.png", ".hidden.png", "masks/0000.png", "notes.txt"):
            with system.open_output_stream(f"clinic/march/{name}") as file:
                file.write(b"-")
        source, out = f"s3://clinic/march?{options}", f"s3://clinic/scores.parquet?{options}"
        code, printed, _ = command(score.main, run, source, "--ray", "--out", out)
        found = dataset.dataset("clinic/scores.parquet", filesystem=system, format="parquet").to_table().to_pylist()
        rows = {row["name"]: row for row in found}
        assert command(score.main, run, XRAYS / "test", "--out", tmp_path / "s.csv")[0] in (None, 0)
        expected = {f"a #1?/deep/{row['name']}": float(row["score"]) for row in rows_of(tmp_path / "s.csv")}
        assert code == 1 and all(rows.pop(name)["error"] for name in bad)
        assert {name: row["score"] for name, row in rows.items()} == pytest.approx(expected, rel=1e-4)
        _, printed, _ = command(score.main, run, source, "--ray", "--out", out)
        assert f"({len(expected) + len(bad)} before" in printed
        assert "s3://nowhere" in command(score.main, run, f"s3://nowhere/x?{options}", "--ray", "--out", out)[2]
    finally:
        server.stop()


def test_names_of_a_table_are_its_own(tmp_path):
    def table(**columns):
        parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
        return open_table(str(tmp_path / "t.parquet"))

    require_own_names([table(name=["a", None], path=["x/1.png", "y/1.png"])], [("b", Place("", "b"))])
    for columns, said in (
        (dict(name=["a", "a"], bytes=[b"1", b"2"]), "'a' is there twice"),
        (dict(path=["1.png", "b"]), "'b' is there twice"),  # beside a file that is given by itself
        (dict(name=["a", None], bytes=[b"1", b"2"]), "a row without a name"),
        (dict(name=["a", ""], bytes=[b"1", b"2"]), "a row without a name"),
    ):
        with pytest.raises(UserError, match=rf"t\.parquet.*{said}"):
            require_own_names([table(**columns)], [("b", Place("", "b"))])
    damaged = table(name=[f"image {i}" for i in range(10000)], bytes=[b"1"] * 10000)
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[100:20000] = bytes(19900)
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"t\.parquet cannot be read as a Parquet table"):
        require_own_names([damaged], [])
    one = table(name=["a"], bytes=[b"1"])
    with pytest.raises(UserError, match="twice"):
        require_own_names([one, one], [])


def test_a_folder_of_a_table_may_hold_other_files(tmp_path):
    """As Ray reads it: only the Parquet files, in folders inside too."""
    folder = tmp_path / "t.parquet"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("no table")
    for part, name in ((folder / "0.parquet", "a.png"), (folder / "deep" / "1.parquet", "b.png")):
        parquet.write_table(pa.table({"path": [name]}), part)
    require_own_names([open_table(str(folder))], [])
    with pytest.raises(UserError, match="'b.png' is there twice"):
        require_own_names([open_table(str(folder))], [("b.png", Place("", "b.png"))])


@pytest.mark.heavy
def test_a_job_that_cannot_start_replaces_nothing(address, run, tmp_path, command):
    (tmp_path / jobs.RECORD).write_text("{}")
    (tmp_path / "0.parquet").touch()
    job = (score.main, run, XRAYS / "test", "--ray", "--out", tmp_path, "--overwrite", "--device", "cuda")
    code, _, errors = command(*job)
    assert code == 2 and "no GPU" in errors and len(list(tmp_path.iterdir())) == 2


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


def test_results_belong_to_a_run_its_settings_and_its_sources(run, tmp_path):
    job, out = jobs.Job(load(run), choose_names(False)), Place("", str(tmp_path / "s.parquet"))
    record = job.record(["/archive/1"])
    assert len(jobs.begin(out, record, False)) == 0 and len(jobs.begin(out, record, False)) == 0
    changes = (dict(precision="bf16"), dict(all_scores=True), dict(names=choose_names(True)))
    others = [job.record(["/archive/2"])]
    others += [dataclasses.replace(job, **change).record(["/archive/1"]) for change in changes]
    for other, word in zip(others, ("sources", "precision", "columns", "anonymous"), strict=True):
        with pytest.raises(UserError, match=f"differs in {word}: "):
            jobs.begin(out, other, False)
    parquet.write_table(pa.table({"name": ["a.png"]}), tmp_path / "s.parquet" / "1.parquet")
    assert jobs.begin(out, record, True).tolist() == digests(["a.png"]).tolist(), "the same job is continued"
    assert len(jobs.begin(out, others[0], True)) == 0
    (tmp_path / "s.parquet" / jobs.RECORD).write_text("{")
    with pytest.raises(UserError, match="--overwrite"):
        jobs.begin(out, record, False)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        jobs.begin(Place("", str(tmp_path / "file")), record, False)


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


# Training


@pytest.mark.heavy
def test_seeds_are_trained_as_tasks(address, tmp_path, command):
    alone, out = tmp_path / "alone", tmp_path / "group"
    tiny_options = [*tiny(out, "--epochs", "1", "--seeds", "0", "1")]
    code, printed, errors = command(train.main, *tiny_options, "--ray")
    assert code in (None, 0), errors
    assert printed.count(": finished\n") == 2 and json.loads((out / "summary.json").read_text())["seeds"] == [0, 1]
    assert command(train.main, *tiny(alone, "--epochs", "1", "--seed", "1"))[0] in (None, 0)
    assert rows_of(out / "seed-1" / "scores-val.csv") == rows_of(alone / "scores-val.csv"), "as in this process"
    for name in ("summary.json", "seed-0/summary.json"):
        (out / name).unlink()
    code, printed, _ = command(train.main, "--resume", out, "--ray", address, "--device", "cpu")
    assert code in (None, 0) and "seed 0: finished" in printed and "seed 1: finished" not in printed
    assert (out / "summary.json").exists()


@pytest.mark.heavy
def test_a_study_trains_its_rows_as_tasks(address, tmp_path, command, monkeypatch):
    rows = [
        Row("squid", "Full", dict(width=2, slots=7, image_size=48, epochs=1)),
        Row("squid", "Bad", dict(width=2, slots=7, image_size=48, epochs=1, lr=1e30)),
    ]
    monkeypatch.setitem(STUDIES, "baselines", {"full": rows, "small": rows})
    folder = tmp_path / "study"
    code, printed, errors = command(study.main, "baselines", "--out", folder, "--ray", "--precision", "fp32")
    assert code == 2 and "squid, Full, seed 0: finished" in printed and errors.count("\n") == 1
    assert "squid, Bad, seed 0" in errors and ("finite" in errors or "nan" in errors)
    assert {row["row"] for row in rows_of(folder / "baselines.csv")} == {"Full"}
    # A row that was killed before its summary gets it later.
    (summary,) = folder.glob("*/summary.json")
    summary.unlink()
    command(study.main, "baselines", "--out", folder, "--ray", "--precision", "fp32")
    assert summary.is_file()


@pytest.mark.heavy
def test_more_threads_than_a_machine_has_cores(address, tmp_path):
    with pytest.raises(UserError, match="no machine of the Ray cluster has 99 cores"):
        next(on_ray.train_on_ray([(tmp_path, 0)], Speed(), "cpu", 99))


def test_any_error_of_a_seed_ends_only_its_own_training(tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("CUDA out\nof memory")

    monkeypatch.setattr(on_ray, "read_group", fail)
    monkeypatch.setattr(on_ray, "set_threads", lambda threads: None)
    monkeypatch.setattr(on_ray.logging.getLogger("fastsquid"), "handlers", [])  # which it replaces
    assert on_ray._train(tmp_path, 0, Speed(), "cpu", 1, False) == "RuntimeError: CUDA out of memory"


def test_ray_trains_groups_of_a_named_preset(refused, tmp_path):
    for options, word in (
        (("--ray",), "--seeds"),
        (("--ray", "--seeds", "0", "1", "--only", "0"), "--only"),
        (("--ray", "--seeds", "0", "1", "--data", XRAYS), "--preset"),
        (("--ray", "--seeds", "0", "1", "--device", "cuda:0"), "cuda:0"),
    ):
        assert word in refused(train.main, *options, "--out", tmp_path / "out")


@pytest.mark.heavy
def test_the_page_has_a_pipeline_of_ray(address, run, tmp_path):
    folder, out = XRAYS / "test", tmp_path / "scores"
    run_example("Ray", {"/archive/2019-01": folder, "/models/mine": run, "/scores/2019-01": out})
    rows = rows_in(out)
    assert {Path(name).name for name in rows} == {path.name for path in folder.iterdir()}
    scores = load(run).score(list(rows))
    np.testing.assert_allclose([row["score"] for row in rows.values()], scores, rtol=1e-4)


def test_an_older_ray_is_rejected(monkeypatch):
    """It is the version that setup.py asks for."""
    needed = "{}.{}".format(*ray_cluster.OLDEST)
    assert f'"ray[data]>={needed}"' in (HERE.parent / "setup.py").read_text()
    for version, older in (("2.59.0", True), (f"{needed}.0", False), ("3.0.0.dev0", False)):
        monkeypatch.setattr(ray, "__version__", version)
        if not older:
            ray_cluster.require_ray()
            continue
        with pytest.raises(UserError, match=rf"Ray {needed}, but {version} is here: pip install"):
            ray_cluster.require_ray()


def test_a_cluster_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no Ray cluster at {address} "), ray_cluster.cluster(address):
            pass


@pytest.mark.parametrize(
    "address, store, path",
    [
        ("/a/b c", "", "/a/b c"),
        ("file:///a/b%20c", "", "/a/b c"),
        ("s3://clinic/a #1/b?/c.png", "s3://clinic", "clinic/a #1/b?/c.png"),
        ("s3://clinic/a/?region=eu-west-1&scheme=http", "s3://clinic?region=eu-west-1&scheme=http", "clinic/a"),
        ("s3://clinic", "s3://clinic", "clinic"),
        ("s3://key:secret@clinic/a", "s3://key:secret@clinic", "clinic/a"),
        ("https://clinic.example/a.png?size=1", "http", "https://clinic.example/a.png?size=1"),
    ],
)
def test_addresses_name_a_store_and_a_path_in_it(address, store, path):
    assert place_of(address) == Place(store, path)
    table = Place("s3://clinic", "clinic/tables")
    assert place_of("a/b.png", table) == Place("s3://clinic", "clinic/tables/a/b.png")
    assert place_of("/a/b.png", table) == Place("", "/a/b.png")


def test_one_image_of_a_shard_or_table_does_not_cost_the_others(tmp_path, monkeypatch):
    pytest.importorskip("webdataset")
    with tarfile.open(tmp_path / "0.tar", "w") as shard:
        for path in sorted((XRAYS / "test").iterdir())[:3]:
            shard.add(path, path.name)
    sizes = sorted(path.stat().st_size for path in sorted((XRAYS / "test").iterdir())[:3])
    monkeypatch.setattr("fastsquid.data.sources.shards.MAX_FILE_BYTES", sizes[1])
    found = [content for _, content in open_shard(Place("", str(tmp_path / "0.tar")), "")]
    assert [type(content) for content in found].count(bytes) == 2 and len(found) == 3
    rows = items_of_table(pa.table({"path": ["S3://x/a.png", "b.png"]}), Place("", "/c")).to_pylist()
    assert [row["path"] for row in rows] == [b"S3://x/a.png", b"/c/b.png"]


def test_files_are_read_over_http_or_say_why_not(tmp_path):
    (tmp_path / "a.png").write_bytes(b"content")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        assert read_bytes(place_of(f"{address}/a.png")) == b"content"
        items = to_items([(name, place_of(f"{address}/{name}")) for name in ("none.png",)])
        assert reason(jobs._content(items.to_pylist()[0])) == "the server answers 404"
    finally:
        server.shutdown()
        server.server_close()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="pipe"):
        read_bytes(place_of(str(tmp_path / "pipe.png")))
