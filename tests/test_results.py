"""What gathers and tabulates results: nothing heavy, no path of the machine, numbers as others compute them."""

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import XRAYS, files_of
from sklearn.metrics import roc_auc_score

from fastsquid import loop, train

ROOT = Path(__file__).parent.parent
OPTIONS = "--device cpu --image-size 64 --width 2 --epochs 2 --batch-size 4"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """What bench/gpu_zhanglab.sh leaves, tiny, on a CPU: two presets, two seeds, of which one was begun before."""
    folder = tmp_path_factory.mktemp("gpu")
    for name in ("fastsquid", "kernels", "bench", "setup.py"):  # its runs and results are of the checkout
        (folder / name).symlink_to(ROOT / name) if name != "bench" else (folder / name).mkdir()
    for name in ("gpu_zhanglab.sh", "gpu_setup.sh", "collect.py"):
        (folder / "bench" / name).write_bytes((ROOT / "bench" / name).read_bytes())
    interrupt(folder)
    return folder, run_script(folder)


def interrupt(folder):
    """Begins the first seed of fastsquid as the script would, and stops it as when a call's time is up."""
    steps, original = [], loop.Trainer.step
    group = folder / "runs" / "zhanglab" / "fastsquid"

    def step(self, images, iteration, eager=False):
        steps.append(iteration)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, images, iteration, eager)

    arguments = ["--data", XRAYS, "--preset", "fastsquid", "--seeds", 0, 1, "--only", 0, "--out", group]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "step", step)
        assert train.main([*map(str, arguments), *OPTIONS.split(), "--monitor", "true"]) == 130
    (before,) = (group / "seed-0").glob("checkpoint-*")
    assert json.loads((before / "state.json").read_text())["iteration"] == 1 and len(steps) == 3


def run_script(folder, **changes):
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "OUT": str(folder / "out"),
        "PRESETS": "fastsquid auto-encoder",
        "SEEDS": "0 1",
        "OPTIONS": OPTIONS,
        **changes,
    }
    command = ["bash", str(folder / "bench" / "gpu_zhanglab.sh"), str(XRAYS)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_the_script_trains_scores_draws_and_packs(packed):
    folder, done = packed
    assert done.returncode == 0, done.stdout + done.stderr
    for preset, score in (("fastsquid", "discriminator_image"), ("auto-encoder", "residual")):
        with tarfile.open(folder / "out" / f"{preset}.tar.gz") as packed_files:
            packed_files.extractall(folder / "results", filter="data")
        target = folder / "results" / preset
        assert json.loads((target / "summary.json").read_text())["seeds"] == [0, 1]
        assert (target / "figures" / "roc.png").is_file() and (target / "localization" / "maps.png").is_file()
        for seed in (0, 1):
            run = target / f"seed-{seed}"
            found = {path.name for path in run.iterdir() if not path.name.endswith("-last.csv")}
            assert found == {"config.json", "metrics.jsonl", "summary.json", "scores-val.csv", "scores-test.csv"}
            assert json.loads((run / "config.json").read_text())["data"] == "xrays"
            with open(run / "scores-val.csv", newline="") as file:
                rows = list(csv.DictReader(file))
            auc = roc_auc_score([int(row["label"]) for row in rows], [float(row[score]) for row in rows])
            assert json.loads((run / "summary.json").read_text())["scores"][score]["auc"] == pytest.approx(auc)
            assert "perturbed" in json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert not list((folder / "results").rglob("*.safetensors"))


def test_the_script_goes_on_with_what_is_unfinished(packed):
    """No step is repeated or left out."""
    folder, _ = packed
    arguments = ["--data", XRAYS, "--preset", "fastsquid", "--seed", 0, "--out", folder / "unbroken"]
    train.main([*map(str, arguments), *OPTIONS.split(), "--monitor", "true"])
    resumed = folder / "runs" / "zhanglab" / "fastsquid" / "seed-0"
    assert files_of(resumed)["metrics"] == files_of(folder / "unbroken")["metrics"]


def test_the_script_skips_what_is_committed(packed):
    folder, _ = packed
    (folder / "bench" / "results").mkdir(exist_ok=True)
    (folder / "bench" / "results" / "zhanglab").symlink_to(folder / "results")
    (folder / "runs").rename(folder / "before")
    done = run_script(folder, OUT=str(folder / "again"))
    assert done.returncode == 0 and not done.stdout and not (folder / "again").exists()


def test_the_table(packed):
    folder, _ = packed
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "tables.py"), str(folder / "results")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    head, _, *rows = (folder / "results" / "table.md").read_text().splitlines()
    assert done.stdout.splitlines()[2:4] == rows and len(rows) == 2
    cells = [cell.strip(" `") for cell in rows[0].strip("|").split("|")]
    assert cells[:3] == ["fastsquid", "discriminator_image", "2"]
    chosen, unlabelled, clean, means, spreads = [], [], [], [], []
    for seed in (0, 1):
        lines = [
            json.loads(line)
            for line in (folder / "results" / "fastsquid" / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()
        ]
        aucs = [
            [line["validation"]["discriminator_image"]]
            + [perturbed["discriminator_image"] for perturbed in line["perturbed"].values()]
            for line in lines
        ]
        synthetic = [line["synthetic"]["discriminator_image"] for line in lines]
        chosen.append(max(row[0] for row in aucs))
        unlabelled.append(aucs[synthetic.index(max(synthetic))][0])
        clean.append(aucs[-1][0])
        means.append(statistics.fmean(aucs[-1]))
        spreads.append(statistics.stdev(map(statistics.fmean, aucs[-5:])))
    assert cells[3] == f"{statistics.fmean(chosen):.3f} ± {statistics.stdev(chosen):.3f}"
    assert cells[4] == f"{statistics.fmean(unlabelled):.3f} ± {statistics.stdev(unlabelled):.3f}"
    assert cells[5] == f"{statistics.fmean(clean):.3f} ± {statistics.stdev(clean):.3f}"
    assert cells[6] == f"{statistics.fmean(means):.3f} ± {statistics.stdev(means):.3f}"
    assert cells[7] == f"{statistics.fmean(spreads):.4f}"
