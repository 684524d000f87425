"""bench/gpu.sh: all of it at the smallest size on a CPU, its plan, and what becomes of phases that fail or hang."""

import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import XRAYS, rows_of
from forked_python import python
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from fastsquid.config import Config
from fastsquid.data import known_source, open_data, to_unit
from fastsquid.model.detector import Detector

ROOT = Path(__file__).parent.parent
BENCH = ROOT / "bench"
sys.path[:0] = [str(BENCH), str(BENCH / "gpu")]
try:
    import check
    import collect
    import draw
    import pack
    import train as train_phase
    import warm
finally:
    del sys.path[:2]

FILES = {
    "facts": "facts.json",
    "check": "check.md",
    "kernels": "kernels.csv",
    "step": "step.csv",
    "score": "score.csv",
    "fastsquid": "fastsquid.tar.gz",
    "simsid": "simsid.tar.gz",
}


def script(*arguments, **environment):
    # It is no worker of this pytest, where this one is.
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "TRITON_"))}
    return subprocess.run(
        ["bash", str(BENCH / "gpu.sh"), *arguments],
        env={**ours, "PYTHON": python(), **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """What all phases leave at the smallest size, and what they print."""
    folder = tmp_path_factory.mktemp("gpu")
    environment = {"CUDA_VISIBLE_DEVICES": "", "SMALLEST": 1, "FASTSQUID_COMMIT": "abc-dirty"}
    environment |= {"COMMAND_SECONDS": 900, "SESSION_SECONDS": 1100}  # all phases in one command
    done = script(*FILES, OUT=folder / "out", WORK=folder / "work", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out", done.stdout


@pytest.fixture(scope="module")
def unpacked(everything, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    for preset in ("fastsquid", "simsid"):
        with tarfile.open(everything[0] / f"{preset}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return folder


def summary(output):
    """{phase: verdict} of the table that the script ends with."""
    lines = output.splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("== in all"))
    return {line[:14].strip(): line[15:35].strip() for line in lines[last + 1 :]}


@pytest.mark.heavy
def test_every_phase_ends_and_leaves_its_file(everything):
    out, output = everything
    assert summary(output) == dict.fromkeys([*FILES, "compile cache"], "ended")
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES.values(), "log.txt"])  # eight come back
    assert (out / "log.txt").read_text() == output
    assert output.count("FAILED") == 0


def test_what_takes_the_time_is_listed(tmp_path):
    done = script("hotspots", OUT=tmp_path, WORK=tmp_path / "work", CUDA_VISIBLE_DEVICES="", SMALLEST=1)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "hotspots.txt").read_text()
    assert re.search(r"^score smallest: [\d.]+ ms$", text, re.M) and re.search(r"^train smallest: ", text, re.M)
    assert text.count("x aten::") > 20


def test_other_blocks_can_be_timed(tmp_path):
    environment = os.environ | {"SMALLEST": "1", "TRITON_INTERPRET": "1", "PYTHONPATH": str(BENCH)}
    command = [python(), BENCH / "gpu" / "tiles.py", tmp_path / "tiles.csv"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Error" not in done.stdout, done.stdout + done.stderr
    fields = {"dots", "weighted_sum", "bank_gradient", "rows", "gather", "score_gradient"}
    assert {(row["of"], row["dtype"]) for row in rows_of(tmp_path / "tiles.csv")} == {
        (field, dtype) for field in fields for dtype in ("float32", "bfloat16")
    }


@pytest.mark.heavy
def test_rows_say_where_they_are_from(everything):
    out, _ = everything
    facts = json.loads((out / "facts.json").read_text())
    assert facts["copy_gb_per_s"] > 0 and set(facts["matrix_gflop_per_s"]) == {"float32", "bfloat16"}
    for name in ("kernels", "step", "score"):
        rows = rows_of(out / f"{name}.csv")
        assert rows and all(row["commit"] == "abc" and row["clean"] == "False" for row in rows)
        assert all(row["device"] and row["torch"] == torch.__version__ and row["date"] for row in rows)
        assert all(0 < float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"]) for row in rows)


@pytest.mark.heavy
def test_what_is_measured(everything):
    out, _ = everything
    kernels = rows_of(out / "kernels.csv")
    assert {(row["variant"], row["dtype"]) for row in kernels} == {
        *((variant, "float32") for variant in ("published", "torch", "triton")),
        *((variant, "bfloat16") for variant in ("torch", "triton")),
    }
    assert {(row["group"], row["mode"]) for row in kernels} == {
        (group, mode) for group in ("memory read", "neighbor attention") for mode in ("forward", "both")
    }
    for row in kernels:
        floor, reached = float(row["floor_ms"]), float(row["p50_ms"])
        assert float(row["percent_of_floor"]) == pytest.approx(100 * floor / reached, rel=1e-3)
    steps = {(row["group"], row["variant"]) for row in rows_of(out / "step.csv")}
    orders = {(group, variant) for group in ("training cycle", "training epoch") for variant in ("published", "torch")}
    assert steps == orders | {("training epoch", "command")}
    rows = rows_of(out / "score.csv")
    assert any("--fast" in row["case"] for row in rows)
    scores = {(row["variant"], row["dtype"]): row for row in rows if "--fast" not in row["case"]}
    assert set(scores) == {("published", "float32"), ("ours", "float32"), ("ours", "bfloat16")}
    assert float(scores["ours", "bfloat16"]["spearman_residual"]) > 0.9
    assert "| tests/test_gpu.py | 1 | 0 | 0 |" in (out / "check.md").read_text()


@pytest.mark.heavy
def test_what_comes_back_of_a_training(unpacked):
    for preset, score, seeds in (("fastsquid", "discriminator_image", [0, 1]), ("simsid", "discriminator", [0])):
        target = unpacked / preset
        assert json.loads((target / "summary.json").read_text())["seeds"] == seeds
        for seed in seeds:
            run = target / f"seed-{seed}"
            found = {path.name for path in run.iterdir() if not path.name.endswith("-last.csv")}
            small = {"config.json", "metrics.jsonl", "summary.json", "scores-val.csv", "scores-test.csv", "curves.png"}
            small |= {"discriminator.safetensors"} if preset == "fastsquid" else {"memory.npz"}
            assert found == small
            assert json.loads((run / "config.json").read_text())["data"] == "xrays"
            rows = rows_of(run / "scores-val.csv")
            auc = roc_auc_score([int(row["label"]) for row in rows], [float(row[score]) for row in rows])
            assert json.loads((run / "summary.json").read_text())["scores"][score]["auc"] == pytest.approx(auc)


@pytest.mark.heavy
def test_the_discriminator_that_comes_back_gives_the_scores(unpacked):
    run = unpacked / "fastsquid" / "seed-1"
    detector = Detector(Config.from_dict(json.loads((run / "config.json").read_text())["config"])).eval()
    detector.discriminator.load_state_dict(load_file(run / "discriminator.safetensors"))
    size = detector.config.image_size
    images = to_unit(open_data(XRAYS, size, crop=detector.config.crop)["val"].images)
    with torch.no_grad():
        found = -detector.discriminator(detector.to_range(images), norm="image")
    expected = [float(row["discriminator_image"]) for row in rows_of(run / "scores-val.csv")]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.heavy
def test_pictures_are_drawn_afterwards(unpacked, capsys):
    draw.main([str(unpacked / "fastsquid"), str(unpacked / "simsid")])
    curves = {"roc.png", "precision_recall.png", "score_histograms.png"}
    assert {path.name for path in (unpacked / "fastsquid" / "figures").iterdir()} == curves
    assert {path.name for path in (unpacked / "simsid" / "figures").iterdir()} == curves | {"memory_tsne.png"}
    with np.load(unpacked / "simsid" / "seed-0" / "memory.npz") as memory:
        assert memory["slots"].shape[0] == memory["queries"].shape[1] == memory["grid"] ** 2
        assert memory["slots"].any() and memory["queries"].any()


def test_pictures_need_a_finished_seed(tmp_path, refused):
    assert re.search(f"{tmp_path}.* seed", refused(draw.main, tmp_path))


@pytest.mark.heavy
def test_the_table(unpacked, tmp_path):
    """Of runs with and without `--monitor true`."""
    unpacked = shutil.copytree(unpacked, tmp_path / "runs")
    for path in unpacked.glob("fastsquid/*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line["perturbed"] = {
                name: {score: share * auc for score, auc in line["validation"].items()}
                for name, share in (("blur", 0.5), ("noise", 0.9))
            }
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = subprocess.run([python(), str(BENCH / "tables.py"), str(unpacked)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    head, _, *rows = (unpacked / "table.md").read_text().splitlines()
    assert done.stdout.splitlines()[2:4] == rows and len(rows) == 2
    assert rows[0].startswith("| `simsid` |") and rows[0].count("| not measured ") == 2
    cells = [cell.strip(" `") for cell in rows[1].strip("|").split("|")]
    assert cells[:3] == ["fastsquid", "combined", "2"]
    chosen, clean, means, spreads = [], [], [], []
    for seed in (0, 1):
        lines = [
            json.loads(line)
            for line in (unpacked / "fastsquid" / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()
        ]
        aucs = [
            [line["validation"]["combined"]] + [perturbed["combined"] for perturbed in line["perturbed"].values()]
            for line in lines
        ]
        chosen.append(max(row[0] for row in aucs))
        clean.append(aucs[-1][0])
        means.append(statistics.fmean(aucs[-1]))
        spreads.append(statistics.stdev(map(statistics.fmean, aucs[-5:])))
    assert cells[3] == f"{statistics.fmean(chosen):.3f} ± {statistics.stdev(chosen):.3f}"
    assert cells[4] == f"{statistics.fmean(clean):.3f} ± {statistics.stdev(clean):.3f}"
    assert cells[5] == f"{statistics.fmean(means):.3f} ± {statistics.stdev(means):.3f}"
    assert cells[6] == f"{statistics.fmean(spreads):.4f}"


@pytest.mark.parametrize("trains", [False, True])
def test_a_plan_fits_a_command(trains):
    """What measures, which is the default, and what trains."""
    phases = [name for name, file in FILES.items() if file.endswith(".tar.gz") == trains]
    done = script("--plan", *(phases if trains else ()))
    assert done.returncode == 0 and not done.stderr
    head, *lines, total = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == phases and [line[3] for line in lines] == [FILES[name] for name in phases]
    assert sum(int(line[1]) for line in lines) + 25 == int(total[2]) <= 600
    if not trains:  # also if each phase takes all that it may, and the compile cache 30 seconds
        assert sum(int(line[2]) for line in lines) + 25 + 30 <= 600


def test_presets_share_a_command():
    output = script("--plan", "squid", "memae", "auto-encoder").stdout
    assert all(f"\n{preset} " in output for preset in ("squid", "memae", "auto-encoder"))


def test_the_page_has_the_scripts_seconds_and_files():
    lines = (ROOT / "docs" / "gpu.md").read_text().splitlines()
    rows = [line.strip("| ").split("|") for line in lines if line.startswith("| `")]
    page = {row[0].strip(" `"): (row[1].strip(), row[3].strip(" `")) for row in rows if "," not in row[0]}
    plan = {line.split()[0]: line.split() for line in script("--plan").stdout.splitlines()[1:-1]}
    for phases in (["hotspots"], ["fastsquid", "simsid"]):
        plan |= {line.split()[0]: line.split() for line in script("--plan", *phases).stdout.splitlines()[1:-1]}
    assert set(page) == set(plan) == {*FILES, "hotspots"}
    for name, (seconds, file) in page.items():
        assert file == plan[name][3] and seconds in (plan[name][1], "the rest")
    assert page["simsid"][0] == "the rest" and page["facts"][0] == "10"


@pytest.mark.parametrize(
    "arguments, environment, message",
    [
        (["nonsense"], {}, r"\bnonsense\b.* facts check kernels step\b"),
        ([], {"SESSION_SECONDS": 500}, r"\b500 s\b.*\b350 s\b"),
        (["--plan", *FILES, "squid", "memae"], {}, r"\b950 s\b.*\b600 s\b"),
        ([], {"COMMAND_SECONDS": "ten"}, r"seconds.*\bten\b"),
        (["fastsquid"], {"CUDA_VISIBLE_DEVICES": ""}, r"\bGPU\b.*\bSMALLEST=1\b"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(arguments, environment, message):
    done = script(*arguments, **environment)
    assert done.returncode == 2 and not done.stdout
    assert re.fullmatch(f"error: .*{message}.*\n", done.stderr)


# In the place of Python: a phase fails, one hangs, one leaves no file, one does what it should.
STUB = """#!/usr/bin/env bash
case "$1" in
    -c) exit 1 ;; # no GPU
    */facts.py) echo half >"$OUT/facts.json"; echo no such card >&2; exit 3 ;;
    */check.py) echo "checks" ;;
    */warm.py) echo "compiles ${*:2}" ;;
    */kernels.py) echo row >"$OUT/kernels.csv"; exec sleep 60 ;;
    */score.py) echo $((PHASE_END - $(date +%s))) >"$OUT/score.csv" ;;
    */train.py) echo $((PHASE_END - $(date +%s))) >"$OUT/$2.tar.gz" ;;
esac
"""


@pytest.fixture
def stub(tmp_path):
    path = tmp_path / "python"
    path.write_text(STUB)
    path.chmod(0o755)
    return path


def test_a_compile_cache_is_brought_along(tmp_path, stub):
    """But not which variant was fastest where it was made; and what cannot be unpacked stops nothing."""
    for name in ("inductor/fxgraph/one", "inductor/ab/kernel.best_config"):
        (tmp_path / "made" / name).parent.mkdir(parents=True)
        (tmp_path / "made" / name).write_text(name)
    with tarfile.open(tmp_path / "compiled.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "made", ".")
    environment = {"SMALLEST": 1, "FASTSQUID_COMMIT": "abc", "PYTHON": stub, "OUT": tmp_path / "out"}
    done = script("score", COMPILED=tmp_path / "compiled.tar.xz", WORK=tmp_path / "work", **environment)
    assert done.returncode == 0 and "WARNING" not in done.stdout
    found = [path.name for path in (tmp_path / "work" / "cache").rglob("*") if path.is_file()]
    assert found == ["one"]
    (tmp_path / "compiled.tar.xz").write_text("damaged")
    done = script("score", COMPILED=tmp_path / "compiled.tar.xz", WORK=tmp_path / "again", **environment)
    assert done.returncode == 0 and "WARNING" in done.stdout and "compiled.tar.xz " in done.stdout


def test_results_go_to_a_new_folder(tmp_path, stub):
    environment = {"SMALLEST": 1, "FASTSQUID_COMMIT": "abc", "PYTHON": stub, "WORK": tmp_path, "OUT": ""}
    for count in (1, 2):
        done = script("score", **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        files = list(tmp_path.glob("*/results/score.csv"))
        assert len(files) == count and any(f"files in {path.parent}\n" in done.stdout for path in files)


def test_a_phase_that_fails_or_hangs_stops_no_other(tmp_path, stub):
    # A copy that gives a phase two seconds: the limits are for real ones.
    (tmp_path / "bench").mkdir()
    text = (BENCH / "gpu.sh").read_text()
    assert text.count("[kernels]=130") == 1
    (tmp_path / "bench" / "gpu.sh").write_text(text.replace("[kernels]=130", "[kernels]=6"))
    environment = {**os.environ, "PYTHON": str(stub), "OUT": str(tmp_path / "out"), "SMALLEST": "1"}
    environment |= {"WORK": str(tmp_path / "work"), "FASTSQUID_COMMIT": "abc"}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "check.md").write_text("of an earlier run")
    done = subprocess.run(
        ["bash", str(tmp_path / "bench" / "gpu.sh"), "score", "facts", "kernels", "check"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert summary(done.stdout) == {
        "facts": "failed",
        "check": "ended, no file",
        "kernels": "timed out",
        "compile cache": "ended",
        "score": "ended",
    }
    assert "no such card" in done.stdout and (tmp_path / "out" / "log.txt").read_text() == done.stdout
    assert "== compile cache\ncompiles kernels score\n" in done.stdout
    assert (tmp_path / "out" / "kernels.csv").read_text() == "row\n"  # what it had measured stays
    assert 0 < int((tmp_path / "out" / "score.csv").read_text()) <= 95


def test_phases_end_with_the_session(tmp_path):
    """A second command has what the first one left: 500 s, of which the start of the machine takes 150."""
    (tmp_path / "python").write_text(STUB)
    (tmp_path / "python").chmod(0o755)
    changes = {"PYTHON": tmp_path / "python", "OUT": tmp_path, "WORK": tmp_path / "work", "SMALLEST": 1}
    done = script("simsid", SESSION_SECONDS=500, **changes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 300 < int((tmp_path / "simsid.tar.gz").read_text()) <= 350


HANGING = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (print("stopped; continue with"), sys.exit(130)))
print("began", flush=True)
time.sleep(60)
"""


def test_a_seed_that_is_not_done_in_time_is_stopped_and_its_metrics_come_back(tmp_path, monkeypatch, capsys):
    def start(config, seeds, work):
        processes = []
        for seed in seeds:
            run = work / f"seed-{seed}"
            run.mkdir(parents=True)
            (run / "metrics.jsonl").write_text('{"epoch": 1}\n')
            with open(work / f"{seed}.log", "w") as log:
                processes.append(subprocess.Popen([sys.executable, "-c", HANGING], stdout=log))
            while not (work / f"{seed}.log").read_text():
                time.sleep(0.01)
        return processes

    begin = time.monotonic()
    monkeypatch.setenv("WORK", str(tmp_path / "work"))
    monkeypatch.setenv("SEEDS", "0 1")
    monkeypatch.setattr(train_phase, "OUT", tmp_path)
    monkeypatch.setattr(train_phase, "start", start)
    monkeypatch.setattr(train_phase, "left", lambda: train_phase.STOPPING + 1 - (time.monotonic() - begin))
    assert train_phase.main("fastsquid") == 1
    assert "fastsquid, seed 1: stopped" in capsys.readouterr().out
    with tarfile.open(tmp_path / "fastsquid.tar.gz") as archive:
        assert "fastsquid/seed-0-unfinished/metrics.jsonl" in archive.getnames()


def test_epochs_are_of_what_was_measured(tmp_path, monkeypatch):
    """An epoch of three seeds takes three times what phase `step` measured of one."""
    monkeypatch.setattr(train_phase, "OUT", tmp_path)
    assert train_phase.measured_epoch("simsid", [0, 1, 2]) is None
    with open(tmp_path / "step.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["group", "case", "variant", "p50_ms"])
        writer.writerows([["training epoch", "simsid", "compile", 9], ["training epoch", "simsid", "command", 500]])
    assert train_phase.measured_epoch("simsid", [0, 1, 2]) == 1.5
    assert train_phase.measured_epoch("squid", [0, 1, 2]) is None


def test_verdicts_are_counted_with_and_without_xdist():
    output = """tests/test_gpu.py::test_a PASSED [ 10%]
tests/test_gpu.py::test_b[x y] SKIPPED (needs a GPU) [ 20%]
[gw3] [ 30%] FAILED tests/test_memory_read.py::test_c[PASSED]
FAILED tests/test_memory_read.py::test_c[PASSED] - AssertionError
"""
    assert check.counted(output) == {
        "tests/test_gpu.py": {"PASSED": 1, "SKIPPED": 1},
        "tests/test_memory_read.py": {"FAILED": 1},
    }


def test_packed_xrays_are_the_same_bits(tmp_path, refused, capsys):
    pack.main([str(XRAYS), str(tmp_path / "packed"), "64"])
    before, after = open_data(XRAYS, 64), open_data(tmp_path / "packed", 64)
    assert list(before) == list(after) == ["train", "val", "test"]
    assert known_source(XRAYS) is known_source(tmp_path / "packed") is not None
    for name, split in before.items():
        assert torch.equal(split.images, after[name].images) and split.names == after[name].names
        assert split.labels is None or torch.equal(split.labels, after[name].labels)
    assert f"{tmp_path / 'packed'} " in refused(pack.main, XRAYS, tmp_path / "packed")


def test_packed_images_keep_sixteen_bits(tmp_path, refused, capsys):
    folder = tmp_path / "data" / "train" / "NORMAL"
    folder.mkdir(parents=True)
    values = torch.randint(65536, (3, 50, 40), generator=torch.Generator().manual_seed(0)).to(torch.uint16).numpy()
    for i, image in enumerate(values):
        Image.fromarray(image).save(folder / f"{i}.png")
    pack.main([str(tmp_path / "data"), str(tmp_path / "packed"), "32"])
    before, after = (open_data(tmp_path / name, 32)["train"].images for name in ("data", "packed"))
    assert before.dtype == after.dtype == torch.uint16 and torch.equal(before.int(), after.int())
    assert re.search(rf"{folder} .*\btrain\b", refused(pack.main, folder, tmp_path / "other"))


def test_the_cache_is_filled_for_phases_that_compile(tmp_path, monkeypatch, capsys):
    """A configuration that does not compile is named."""
    (tmp_path / "stub.py").write_text("import sys\nprint('7 compiled')\nsys.exit(sys.argv[2] == 'memae')\n")
    monkeypatch.setattr(warm, "__file__", str(tmp_path / "stub.py"))
    monkeypatch.setattr(warm, "DEVICE", torch.device("cuda"))
    monkeypatch.setattr(warm.signal, "signal", lambda *_: None)
    assert warm.main([]) == warm.main(["kernels", "score"]) == 0 and not capsys.readouterr().out
    assert warm.main(["kernels", "fastsquid", "simsid"]) == 0
    lines = sorted(capsys.readouterr().out.splitlines())
    assert [line.split(":")[0] for line in lines] == ["fastsquid preset bf16", "simsid preset bf16"]
    assert all(line.endswith("s, 7 compiled") for line in lines)
    assert warm.main(["memae"]) == 1
    assert "s, failed\n7 compiled" in capsys.readouterr().out


def test_only_finished_runs_are_collected(tmp_path, capsys):
    (tmp_path / "group" / "seed-0").mkdir(parents=True)
    with pytest.raises(SystemExit):
        collect.collect(tmp_path / "group", tmp_path / "kept")
    assert f"{tmp_path / 'group'} " in capsys.readouterr().err and not (tmp_path / "kept").exists()
    run = tmp_path / "group" / "seed-1"
    run.mkdir()
    (run / "summary.json").write_text("{}")
    (run / "config.json").write_text(json.dumps({"data": "/of/this/machine/xrays", "init": {"run": "/of/it/other"}}))
    (run / "checkpoint-1").mkdir()
    collect.collect(tmp_path / "group", tmp_path / "kept")
    assert sorted(path.name for path in (tmp_path / "kept").rglob("*")) == ["config.json", "seed-1", "summary.json"]
    record = json.loads((tmp_path / "kept" / "seed-1" / "config.json").read_text())
    assert record == {"data": "xrays", "init": {"run": "other"}}


def test_what_failed_is_kept_where_pytest_is_stopped(tmp_path, monkeypatch):
    """pytest's own summary of failures comes at its end, which is then never reached."""
    (tmp_path / "test_it.py").write_text(
        "import os, signal, time\ndef test_a(): assert 'this' == 'that'\ndef test_b(): time.sleep(60)\n"
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    tests = check.Check("tests", [*check.PYTEST, "-n", "2", str(tmp_path)])
    try:
        until = time.monotonic() + 30
        while time.monotonic() < until and b"AssertionError" not in Path(tests.output.name).read_bytes():
            time.sleep(0.1)
    finally:
        tests.end()
    assert tests.verdict == "timed out"
    text = check.report({}, {"tests": tests})
    assert "| tests | timed out |" in text and "assert 'this' == 'that'" in text.partition("## tests")[2]


@pytest.mark.parametrize("name", ["memcheck", "tests"])
def test_a_device_that_memcheck_refuses_is_no_failure(name):
    refused = check.Check(name, [sys.executable, "-c", "print('Device not supported'); exit(1)"])
    refused.process.wait()
    refused.end()
    assert refused.failed == (name == "tests") == (refused.verdict == "failed")
    assert refused.verdict.startswith("not run") == (name == "memcheck")
