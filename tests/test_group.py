"""Groups of runs: `train --seeds`, its resumption and summary, and the compare command."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import statistics
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from conftest import TINY, files_of, rows_of, tiny
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from fastsquid import compare, figures, train
from fastsquid.config import preset
from fastsquid.data import Split
from fastsquid.errors import UserError
from fastsquid.evaluation import comparison
from fastsquid.evaluation.metrics import evaluate
from fastsquid.evaluation.summary import group_table, mean_and_std
from fastsquid.runs import checkpoint, group
from fastsquid.runs.folder import create_run, read_scores, write_scores
from fastsquid.runs.records import GroupRecord, Summary
from fastsquid.runs.scored import read_scored
from fastsquid.training import loop
from fastsquid.training.results import report_group, summarize
from fastsquid.utils.files import write_json

SCORES = preset("squid").scores


SEEDS = ("0", "1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A group of two seeds, an epoch each, that nothing interrupted; a test that changes it takes a copy."""
    folder = tmp_path_factory.mktemp("groups") / "trained"
    assert train.main([str(a) for a in tiny(folder, "--epochs", "1", "--seeds", *SEEDS)]) is None
    return folder


def left(folder):
    """Bytes of every score CSV and of the summary of a group, and what each seed's checkpoint and metrics hold."""
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("scores-*.csv")}
    runs = {path.name: files_of(path) for path in folder.glob("seed-*")}
    return {**files, **runs, "summary": (folder / "summary.json").read_bytes()}


def test_a_group_of_ordinary_runs(trained, tmp_path, command):
    assert sorted(path.name for path in trained.iterdir()) == ["group.json", "seed-0", "seed-1", "summary.json"]
    assert command(train.main, *tiny(tmp_path / "run", "--epochs", "1", "--seed", "1"))[0] == 0
    alone, inside = tmp_path / "run", trained / "seed-1"
    assert (
        files_of(alone) == files_of(inside)
        and (alone / "config.json").read_text() == (inside / "config.json").read_text()
    )
    for name in ("scores-val.csv", "scores-test.csv"):
        assert (alone / name).read_bytes() == (inside / name).read_bytes()


def test_the_summary_is_of_the_scores(trained, command):
    """Every number again from the CSVs, with scikit-learn and the standard library."""
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["seeds"] == [0, 1] and summary["split"] == "val"
    assert summary["images"] == {"normal": 3, "abnormal": 3, "skipped": 0}
    found = {}
    for seed, run in zip(SEEDS, summary["runs"]):
        rows = rows_of(trained / f"seed-{seed}" / "scores-val.csv")
        state = json.loads((checkpoint.latest_checkpoint(trained / f"seed-{seed}") / "state.json").read_text())
        labels = [int(row["label"]) for row in rows]
        for score in SCORES:
            values = [float(np.float32(row[score])) for row in rows]  # the nine digits stand for a float32
            called = np.array(values) >= state["best"]["validation"][score]["threshold"]
            auc = roc_auc_score(labels, values)
            assert run["auc"][score]["value"] == pytest.approx(auc, abs=1e-12)
            assert run["auc"][score]["low"] <= auc <= run["auc"][score]["high"]
            for name, value in (
                ("auc", auc),
                ("accuracy", accuracy_score(labels, called)),
                ("f1", f1_score(labels, called)),
            ):
                found.setdefault((score, name), []).append(value)
    for (score, name), values in found.items():
        assert summary["scores"][score][name]["mean"] == pytest.approx(statistics.fmean(values), abs=1e-12)
        assert summary["scores"][score][name]["std"] == pytest.approx(statistics.stdev(values), abs=1e-12)


def test_unlabeled_images_are_scored_too(trained):
    rows = rows_of(trained / "seed-0" / "scores-test.csv")
    assert [row["name"] for row in rows] == [f"000{i}.jpeg" for i in range(4)]
    assert not list(trained.rglob("scores-*-last.csv")), "the best detector is the last"
    assert all(row["label"] == "" and all(np.isfinite(float(row[score])) for score in SCORES) for row in rows)


def test_an_interrupted_group_ends_as_an_unbroken_one(trained, tmp_path, command, monkeypatch):
    """Stopped in the first of two seeds: it goes on, and the second begins."""
    monkeypatch.chdir(tmp_path)
    Path("runs/squid-small-0").mkdir(parents=True)
    folder, original, steps = Path("runs/squid-small-1"), loop.Trainer.step, []

    def step(self, images, iteration, *rest):
        steps.append(iteration)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, images, iteration, *rest)

    monkeypatch.setattr(loop.Trainer, "step", step)
    code, out, _ = command(train.main, *TINY, "--epochs", "1", "--seeds", *SEEDS)
    assert code == 130 and f"python -m fastsquid.train --resume {folder} --device cpu\n" in out
    assert sorted(path.name for path in folder.iterdir()) == ["group.json", "seed-0"]
    code, out, _ = command(train.main, "--resume", folder)
    assert code == 0 and f"group folder: {folder}" in out
    assert steps == 2 * [0, 1, 2], "no step was repeated or left out"
    assert left(folder) == left(trained)


def test_the_command_that_continues_has_the_same_options(trained, tmp_path, command, monkeypatch):
    folder = shutil.copytree(trained, tmp_path / "group")
    (folder / "seed-1" / "summary.json").unlink()
    monkeypatch.setattr("fastsquid.training.start.train_run", lambda *arguments, **options: False)
    given = ["--only", "1", "--tensorboard", "--device", "cpu", "--precision", "fp32", "--cache", str(tmp_path / "c d")]
    code, out, _ = command(train.main, "--resume", folder, *given)
    assert code == 130 and out.splitlines()[-1].endswith(f"--resume {folder} {shlex.join(given)}")


def test_a_run_killed_before_its_summary_reports_again(trained, tmp_path, command, monkeypatch):
    """And a finished one is left alone."""
    folder = shutil.copytree(trained, tmp_path / "group")
    for name in ("summary.json", "seed-1/summary.json", "seed-1/scores-val.csv"):
        (folder / name).unlink()
    monkeypatch.setattr(loop.Trainer, "step", None)
    code, out, _ = command(train.main, "--resume", folder)
    assert code == 0 and f"{folder}/seed-0 is finished" in out and f"{folder}/seed-1 is finished" not in out
    assert left(folder) == left(trained)


def test_seeds_of_a_group_one_by_one(trained, tmp_path, command, refused):
    """As processes beside each other would train them, in any order."""
    folder = tmp_path / "group"
    assert command(train.main, *tiny(folder, "--epochs", "1", "--seeds", *SEEDS, "--only", "1"))[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["group.json", "seed-1"]
    assert re.search("--only 2 .* 0, 1", refused(train.main, "--resume", folder, "--only", "2"))
    assert command(train.main, "--resume", folder, "--only", "0")[0] == 0
    assert not (folder / "summary.json").exists()
    code, out, _ = command(train.main, "--resume", folder)
    assert code == 0 and "seed-0 is finished" in out and "seed-1 is finished" in out
    assert left(folder) == left(trained)
    assert re.search("/seed-0 .*--only ", refused(train.main, "--resume", folder / "seed-0", "--only", "0"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--seeds", "0", "--seed", "0"], "--seed .*--seeds "),
        (["--seeds", "1", "2", "01"], r"--seeds .*\b1\b"),
        (["--seeds", "0", "one"], r"--seeds.*'one' .* 0 .*2\*\*64 - 1"),
        (["--seeds", "-1"], r"--seeds.*'-1' .* 0 .*2\*\*64 - 1"),
        (["--seeds"], "--seeds: .*argument"),
        (["--only", "0"], "--only .*--seeds .*--resume"),
        (["--seeds", "0", "--only", "1"], r"--only 1 .* 0\b"),
        (["--seeds", "0", "--data", "nowhere"], "nowhere "),
    ],
)
def test_bad_arguments(tmp_path, refused, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, refused(train.main, *arguments))
    assert not list(tmp_path.iterdir())


def test_a_group_that_exists_or_is_changed(trained, tmp_path, refused):
    assert re.search(f"{trained} .*--out", refused(train.main, *tiny(trained, "--seeds", "0")))
    assert "--seeds " in refused(train.main, "--resume", trained, "--seeds", "5")
    folder = shutil.copytree(trained, tmp_path / "group")
    shutil.rmtree(folder / "seed-1")
    shutil.copytree(folder / "seed-0", folder / "seed-1")
    assert re.search(r"/seed-1 .*\bseed\b.*group\.json", refused(train.main, "--resume", folder))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda record: "no json", r"/group\.json .*\bJSON\b"),
        (lambda record: "[]", r"/group\.json .*\bversion\b"),
        (lambda record: json.dumps({**record, "format": 0}), r"/group\.json .*\bversion\b"),
        (lambda record: json.dumps({k: v for k, v in record.items() if k != "data"}), r"/group\.json .*\bdata\b"),
        (lambda record: json.dumps({**record, "seeds": [0, "1"]}), r"/group\.json .*\bseeds\b.*2\*\*64"),
        (lambda record: json.dumps({**record, "seeds": []}), r"/group\.json .*\bseeds\b.*2\*\*64"),
        (lambda record: json.dumps({**record, "config": {"slot": 3}}), r"'slot'.* slots\b"),
    ],
)
def test_a_damaged_record(trained, tmp_path, refused, change, message):
    record = json.loads((trained / "group.json").read_text())
    (tmp_path / "group.json").write_text(change(record))
    assert re.search(message, refused(train.main, "--resume", tmp_path))


# Groups whose scores are given


def made(folder, seeds, scores, labels=None, names=None, split="test", chosen_by="last epoch", findings=None):
    """A finished group without training: scores (seeds, N), the same for every score of `SCORES`."""
    labels = np.arange(scores.shape[1]) % 3 // 2 if labels is None else labels  # a third is abnormal
    names = [f"{i}.png" for i in range(len(labels))] if names is None else names
    record = GroupRecord(preset("digits"), None, list(seeds))
    group.create_group(folder, record)
    images = Split(torch.zeros(len(labels), 1, 1, 1), torch.as_tensor(labels), names)
    if findings is not None:
        images.classes, images.findings = ["abnormal" if label else "normal" for label in labels], findings
    data = {split: images}
    for seed, row in zip(seeds, np.float32(scores)):
        run = folder / f"seed-{seed}"
        create_run(run, dataclasses.replace(record.run(seed), fingerprint=""))
        write_scores(run, data, {split: dict.fromkeys(SCORES, row)})
        scores = {s: evaluate(labels, row, kinds=images.abnormal_masks()) for s in SCORES}
        summary = Summary("digits", seed, split, {"normal": 1, "abnormal": 1}, scores, {"chosen_by": chosen_by})
        write_json(run / "summary.json", summary.to_json())
    return folder


def noisy(seeds, images, shift, seed):
    """Scores (seeds, images), rounded so that some tie, of abnormal images `shift` above those of normal ones."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=images) + shift * (np.arange(images) % 3 // 2)
    return np.round(common + rng.normal(size=(seeds, images)) / 2, 1)


@pytest.fixture
def pair(tmp_path):
    """Two groups of 3 and 4 seeds on 90 images."""
    return made(tmp_path / "a", [0, 1, 2], noisy(3, 90, 0.5, 0)), made(tmp_path / "b", [0, 1, 2, 3], noisy(4, 90, 1, 1))


def result_of(first, second):
    return comparison.compare(*(read_scored(folder, "residual") for folder in (first, second)))


def test_whether_images_are_anonymous_is_the_groups(tmp_path):
    record = GroupRecord(preset("digits"), None, [0])
    group.create_group(tmp_path / "new", dataclasses.replace(record, anonymous=True))
    group.create_group(tmp_path / "old", record)
    path = tmp_path / "old" / "group.json"
    written = json.loads(path.read_text())
    del written["anonymous"]  # as before there was a choice
    path.write_text(json.dumps(written))
    new, old = (group.read_group(tmp_path / name) for name in ("new", "old"))
    assert (new.anonymous, old.anonymous) == (True, False)
    create_run(tmp_path / "new" / "seed-0", dataclasses.replace(record.run(0), fingerprint=""))
    with pytest.raises(UserError, match="anonymous"):
        group.seed_run(tmp_path / "new", new, 0)


def test_scores_are_read_as_they_were_written(tmp_path):
    rng = np.random.default_rng(0)
    values = {score: np.float32(rng.normal(size=4) * 10.0 ** rng.integers(-20, 20)) for score in SCORES}
    names = ["a, b.png", 'a "b".png', "caf\udce9.png", "ä.png"]
    data = {"val": Split(torch.zeros(4, 1, 1, 1), torch.tensor([0, 1, 1, 0]), names)}
    write_scores(tmp_path, data, {"val": values}, "-last")
    found, labels, scores = read_scores(tmp_path / "scores-val-last.csv")
    assert found == names and labels.tolist() == [0, 1, 1, 0]
    assert all((scores[score].astype(np.float32) == values[score]).all() for score in SCORES)


def test_compare_meets_scipy_and_scikit_learn(pair):
    result = result_of(*pair)
    aucs, scores = [], []
    for folder in pair:
        rows = [rows_of(path) for path in sorted(folder.rglob("scores-test.csv"))]
        labels = np.array([int(row["label"]) for row in rows[0]])
        scores.append([np.array([float(row["residual"]) for row in run]) for run in rows])
        aucs.append([roc_auc_score(labels, values) for values in scores[-1]])
    assert result["difference"] == pytest.approx(np.mean(aucs[1]) - np.mean(aucs[0]), abs=1e-12)
    welch = scipy.stats.ttest_ind(aucs[1], aucs[0], equal_var=False)
    assert (result["t"], result["p"]) == pytest.approx((welch.statistic, welch.pvalue), rel=1e-9)
    # The interval by a loop over resamples of its own, hence only nearly the same.
    rng, differences = np.random.default_rng(5), []
    for _ in range(1000):
        abnormal, normal = (rng.choice(np.flatnonzero(labels == label), (labels == label).sum()) for label in (1, 0))
        means = []
        for group_scores in scores:
            pairs = [(values[abnormal][:, None], values[normal]) for values in group_scores]
            means.append(np.mean([np.mean((a > n) + 0.5 * (a == n)) for a, n in pairs]))
        differences.append(means[1] - means[0])
    assert (result["low"], result["high"]) == pytest.approx(np.percentile(differences, [2.5, 97.5]), abs=0.02)


def test_both_groups_are_judged_by_the_same_resamples(tmp_path):
    """Other numbers in the same order have the same AUC on any images: no difference in any resample."""
    scores = noisy(2, 90, 0.5, 0)
    result = result_of(made(tmp_path / "a", [0, 1], scores), made(tmp_path / "b", [5, 6], np.exp(scores)))
    assert (result["difference"], result["low"], result["high"], result["t"], result["p"]) == (0, 0, 0, 0, 1)


def test_compare_and_the_summary_have_the_same_aucs(tmp_path):
    """To the bit: the mean of these two is a half of the last digit, which would be rounded up here and down there."""
    folder = made(tmp_path / "a", [0, 1], np.random.default_rng(0).integers(0, 12, (2, 30)))
    summary = summarize(group.finished_runs(folder))["scores"]["residual"]["auc"]
    assert summary == mean_and_std(read_scored(folder, "residual").aucs())
    assert summary["mean"] == pytest.approx(0.4425, abs=1e-12)


def test_identical_groups_do_not_differ(pair, command):
    code, out, _ = command(compare.main, pair[0], pair[0])
    assert code == 0 and "+0.000" in out and "[+0.000, +0.000]" in out and "p = 1\n" in out
    assert re.search(f"^No .*{pair[0]} .*{pair[0]} ", out.splitlines()[-1])


def test_a_known_difference_is_found(tmp_path, command):
    poor, good = (
        made(tmp_path / "a", [0, 1, 2], noisy(3, 90, 0, 0)),
        made(tmp_path / "b", [0, 1, 2], noisy(3, 90, 2, 0)),
    )
    for order, sign in (((poor, good), "+"), ((good, poor), "-")):
        code, out, _ = command(compare.main, *order, "--score", "residual")
        difference = result_of(*order)["difference"]
        assert code == 0 and re.search(r"^test .* 60 .* 30 .*\bresidual$", out, re.M)
        assert f"{sign}{abs(difference):.3f}" in out and abs(difference) > 0.2
        # The sentence says of the second group what the sign of the difference says.
        word = {"+": "higher", "-": "lower"}[sign]
        assert re.search(rf"^{order[1]} .*\b{word}\b.*{order[0]} .*{abs(difference):.3f}\b.*images or ", out, re.M)


@pytest.mark.parametrize(
    "first, second, split, warned",
    [
        ("last epoch", "last epoch", "val", []),
        ("last epoch", None, "val", []),
        ("validation AUC of residual", "validation AUC of discriminator", "test", []),
        ("validation AUC of residual", "last epoch", "test", ["a .*--select last"]),
        ("validation AUC of residual", "synthetic opacity AUC of residual", "test", ["a and .*b .*--select last"]),
        ("last epoch", "validation AUC of residual", "val", ["b .*--select last", r"\bval\b.*/b\b"]),
        ("validation AUC of residual", "validation AUC of residual", "val", [r"\bval\b.*/a and .*/b\b"]),
    ],
)
def test_epochs_of_other_rules_are_warned_of(tmp_path, command, first, second, split, warned):
    groups = [
        made(tmp_path / name, [0, 1], noisy(2, 90, 0.5, 0), split=split, chosen_by=rule)
        for name, rule in (("a", first), ("b", second))
    ]
    code, out, err = command(compare.main, *groups)
    lines = err.splitlines()
    assert code == 0 and len(lines) == len(warned) and all(map(re.search, warned, lines))
    for folder, rule in zip(groups, (first, second)):
        shown = {"last epoch": "last", None: "converted weights"}.get(rule, f"best {rule}")
        assert re.search(rf"^{folder} +{shown} +2 ", out, re.M)


# A third of 90 images is abnormal: both findings, the first, the second, and a single image with a third one.
FINDINGS = [() if i % 3 < 2 else [("VIRUS", "BACTERIA"), ("BACTERIA",), ("VIRUS",)][i // 3 % 3] for i in range(90)]
FINDINGS[-1] = ("RARE",)


@pytest.fixture
def with_findings(tmp_path):
    """Two groups on 90 images with findings."""
    return [
        made(tmp_path / name, seeds, noisy(len(seeds), 90, shift, seed), findings=FINDINGS)
        for name, seeds, shift, seed in (("a", [0, 1, 2], 0.5, 0), ("b", [0, 1, 2, 3], 1, 1))
    ]


def test_every_class_is_compared_on_its_images_and_all_normal_ones(with_findings, command):
    first, second = (read_scored(folder, "residual") for folder in with_findings)
    result = comparison.compare(first, second)["classes"]
    assert list(result) == ["BACTERIA", "RARE", "VIRUS"]
    normal = np.flatnonzero([not found for found in FINDINGS])
    for name, found in result.items():
        mine = np.flatnonzero([name in names for names in FINDINGS])
        assert found["images"] == len(mine) == {"BACTERIA": 20, "RARE": 1, "VIRUS": 19}[name]

        def auc(scores, abnormal, normal):
            above = scores[:, abnormal, None] - scores[:, None, normal]
            return ((above > 0) + 0.5 * (above == 0)).mean()

        aucs = [auc(one.scores, mine, normal) for one in (first, second)]
        assert (found["first"], found["second"]) == pytest.approx(aucs, abs=1e-12)
        assert found["difference"] == pytest.approx(aucs[1] - aucs[0], abs=1e-12)
        rng, differences = np.random.default_rng(5), []
        for _ in range(1000):
            drawn = rng.choice(mine, len(mine)), rng.choice(normal, len(normal))
            differences.append(auc(second.scores, *drawn) - auc(first.scores, *drawn))
        assert (found["low"], found["high"]) == pytest.approx(np.percentile(differences, [2.5, 97.5]), abs=0.02)
    code, out, _ = command(compare.main, *with_findings, "--score", "residual")
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("AUC by class"))
    for line, (name, found) in zip(lines[start + 1 :], result.items()):
        numbers = [f"{found['first']:.3f}", f"{found['second']:.3f}", f"{found['difference']:+.3f}"]
        ends = [f"[{found['low']:+.3f},", f"{found['high']:+.3f}]"]
        assert line.split() == [name, str(found["images"]), *numbers, *ends]
    # The same AUCs in another order of the runs, or of themselves: no difference in any resample.
    same = comparison.compare(first, first)["classes"]
    assert {(found["difference"], found["low"], found["high"]) for found in same.values()} == {(0, 0, 0)}


def test_findings_that_differ_or_are_not_known(with_findings, tmp_path, command, refused):
    others = [*FINDINGS[:2], ("BACTERIA",), *FINDINGS[3:]]
    other = made(tmp_path / "other", [0], noisy(1, 90, 1, 1), findings=others)
    said = refused(compare.main, with_findings[0], other)
    assert re.search(r"'2\.png' .*'VIRUS\|BACTERIA' .*'BACTERIA' ", said)
    path = other / "seed-0" / "scores-test.csv"
    text = re.sub(r"^([^,]*,[^,]*),[^,]*", r"\1", path.read_text(), flags=re.M)  # as an earlier version wrote it
    path.write_text(text)
    code, out, _ = command(compare.main, with_findings[0], other)
    assert code == 0 and re.search(rf"^AUC by class: .* {other}$", out, re.M)
    code, out, _ = command(compare.main, other, other)
    assert code == 0 and "by class" not in out


def test_the_summary_of_a_group_has_every_class(with_findings):
    summary = summarize(group.finished_runs(with_findings[0]))
    scored = read_scored(with_findings[0], "residual")
    for name, found in summary["scores"]["residual"]["auc_by_kind"].items():
        keep = np.array([name in names or not names for names in FINDINGS])
        aucs = [roc_auc_score(scored.labels[keep], scores[keep]) for scores in scored.scores]
        assert found == pytest.approx({"mean": np.mean(aucs), "std": np.std(aucs, ddof=1)}, abs=1e-12)
        row = next(line for line in group_table(summary).splitlines() if line.startswith(name))
        assert row.split()[1:4] == [f"{np.mean(aucs):.3f}", "±", f"{np.std(aucs, ddof=1):.3f}"]


def test_single_runs_have_no_welch_test(pair, command):
    code, out, _ = command(compare.main, pair[0] / "seed-1", pair[1])
    assert code == 0 and re.search("not defined.* two seeds ", out) and out.count("±") == 2
    code, out, _ = command(compare.main, pair[0] / "seed-1", pair[1] / "seed-1")
    assert code == 0 and "±" not in out
    assert result_of(pair[0] / "seed-1", pair[1])["p"] is None


def test_seeds_that_do_not_vary_have_no_welch_test(tmp_path, command):
    scores = noisy(1, 90, 0.5, 0)
    groups = (made(tmp_path / f"{seeds}", list(range(seeds)), np.repeat(scores, seeds, 0)) for seeds in (2, 3))
    code, out, _ = command(compare.main, *groups)
    assert code == 0 and re.search("not defined.* same ", out)


@pytest.mark.parametrize(
    "low, high, p, words",
    [
        (0.01, 0.05, 0.01, r"b .* a .*\b0\.030: .*\bimages or [^,;]*\bseeds\b"),
        (0.01, 0.05, 0.2, r"b .* a .*\b0\.030: .*\bimages [^,;]*, but other seeds\b"),
        (0.01, 0.05, None, r"b .* a .*\b0\.030: .*\bimages [^,;]*; .*\bseeds\b"),
        (-0.01, 0.07, 0.01, r"b .* a .*\b0\.030: .*\bseeds [^,;]*, but other images\b"),
        (-0.01, 0.07, 0.2, "No .* a .* b "),
        (-0.01, 0.07, None, "No .* a .* b "),
    ],
)
def test_the_conclusion(low, high, p, words):
    result = {"difference": 0.03, "low": low, "high": high, "p": p}
    assert re.match(words, comparison.conclusion("a", "b", result))


def test_groups_of_other_images_are_not_compared(tmp_path, refused):
    scores, labels = noisy(2, 6, 1, 0), np.array([0, 0, 1, 0, 0, 1])
    first = made(tmp_path / "a", [0, 1], scores, labels)
    others = {
        "names": dict(names=[*"01234", "x"]),
        "labels": dict(labels=np.array([0, 0, 1, 0, 1, 1])),
        "count": dict(labels=np.array([0, 0, 1, 0, 1])),
        "split": dict(split="val"),
    }
    found = {}
    for name, options in others.items():
        options = {"labels": labels, **options}
        second = made(tmp_path / name, [0, 1], scores[:, : len(options["labels"])], **options)
        found[name] = refused(compare.main, first, second)
        assert f"{first} and {second} " in found[name]
    assert re.search(r"'0\.png' .*label 0\b.*'0' .*label 0\b", found["names"])
    assert re.search(r"'4\.png' .*label 0\b.*'4\.png' .*label 1\b", found["labels"])
    assert re.search(r"\b6 and 5\b.*\btest split\b", found["count"])
    assert re.search(r"\btest split\b.*\bval split\b", found["split"])
    shutil.copy(tmp_path / "labels/seed-1/scores-test.csv", first / "seed-1/scores-test.csv")
    assert f"{first}/seed-0 and {first}/seed-1 " in refused(compare.main, first, first)


def test_what_cannot_be_compared(pair, tmp_path, refused):
    def refusal(*arguments):
        return refused(compare.main, pair[0], *arguments)

    assert "GROUP" in refusal()
    assert re.search("--score.*'auc'", refusal(pair[1], "--score", "auc"))
    assert "nowhere " in refusal("nowhere")
    scores, summary = (pair[1] / "seed-2" / name for name in ("scores-test.csv", "summary.json"))
    text = scores.read_text()
    for damaged, message in (
        (text.replace("residual", "residue"), r" residual .*--score discriminator\b"),
        (text.replace(",1,", ",,"), r" damaged\b.*\blabel 0 or 1\b"),
        (text.replace(",1,", ",0,"), " abnormal "),
        (text.rpartition(",")[0], " damaged"),
        (text.replace("0.png,0,", "0.png,0,nan"), " damaged"),
        (text.splitlines()[0], " damaged"),
        ("", " damaged"),
    ):
        scores.write_text(damaged)
        assert re.search(f"{scores}.*{message}", refusal(pair[1], "--score", "residual"))
    scores.unlink()
    assert re.search(rf"{scores} .*missing.* --resume {pair[1] / 'seed-2'}", refusal(pair[1]))
    record = json.loads(summary.read_text())
    write_json(summary, {**record, "split": None})
    assert re.search("/seed-2 .* labeled ", refusal(pair[1]))
    summary.write_text("{}")
    assert re.search(f"{summary} .*--resume ", refusal(pair[1]))
    summary.unlink()
    assert re.search(rf"{pair[1]} .*\bseed 2\b.*python -m fastsquid\.train --resume ", refusal(pair[1]))


def test_figures_of_a_group_or_an_unfinished_one(pair, refused):
    first, second, third = (pair[0] / f"seed-{seed}" for seed in range(3))
    assert re.search(rf"{pair[0]} .*\bgroup\b.* {first} {second} {third}$", refused(figures.main, pair[0]).strip())
    out = ("--out", pair[0] / "figures")
    assert re.search(rf"{first} .*--resume {pair[0]}$", refused(figures.main, first).strip())  # it has no checkpoint
    shutil.rmtree(second)
    message = refused(figures.main, first, second, *out)
    assert re.search(rf"{second} .*\bbegun\b.*--resume {pair[0]}$", message.strip())
    assert re.search(rf"{pair[0]}/seed-9 .*config\.json", refused(figures.main, first, pair[0] / "seed-9", *out))


def test_a_summary_without_labels_or_of_one_seed(tmp_path, capsys):
    folder = made(tmp_path / "one", [7], noisy(1, 90, 1, 0))
    report_group(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["scores"]["residual"]["auc"]["std"] is None and summary["scores"]["residual"]["f1"] is None
    out = capsys.readouterr().out
    assert re.search(r"\b1 seed\b.*\btest\b", out) and "±" not in out
    for path in folder.glob("seed-*/summary.json"):
        write_json(path, {**json.loads(path.read_text()), "split": None, "images": None, "scores": {}})
    report_group(folder)
    assert "no labeled" in capsys.readouterr().out


def test_a_summary_of_runs_on_other_images(tmp_path):
    folder = made(tmp_path / "a", [0, 1], noisy(2, 90, 1, 0))
    path = folder / "seed-1" / "summary.json"
    write_json(path, {**json.loads(path.read_text()), "split": "val"})
    with pytest.raises(UserError, match="/seed-1 .*/seed-0: .*--resume"):
        report_group(folder)


def test_a_summary_of_runs_on_images_of_other_names(tmp_path):
    """As many of them, with the same labels."""
    folder = made(tmp_path / "a", [0, 1], noisy(2, 90, 1, 0))
    report_group(folder)
    for path in (folder / "seed-1").glob("scores-*.csv"):
        head, first, *rest = path.read_text().splitlines()
        path.write_text("\n".join([head, f"other-{first}", *rest]) + "\n")
    with pytest.raises(UserError, match="/seed-1 .*/seed-0: .*--resume"):
        report_group(folder)
