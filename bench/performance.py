"""`python bench/performance.py [--check]`: the tables of docs/performance.md, made from committed measurements.

Each table stands between `<!-- NAME -->` and `<!-- end of NAME -->`. `--check` writes nothing, and exits with 1 if the
page differs.
"""

import csv
import json
import sys
from pathlib import Path

from growth import SHOWN, SIZES, exponent
from rows import RESULTS
from tables import fill

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
MACHINE = "amd-epyc-2-threads"
UNMEASURED = "not measured"


def read_csv(name):
    with open(RESULTS / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_profile():
    return json.loads((RESULTS / f"{MACHINE}-profile.json").read_text(encoding="utf-8"))


def ratios():
    """{(group, case): published / ours}, float32."""
    times = {
        (row["group"], row["case"], row["variant"]): float(row["p50_ms"])
        for row in read_csv(f"{MACHINE}.csv")
        if row["mode"] == "both" and row["dtype"] == "float32"
    }
    return {
        (group, case): times[group, case, "published"] / ours
        for (group, case, variant), ours in times.items()
        if variant == "torch" and (group, case, "published") in times
    }


def targets():
    """What should be reached, and what was, by which command."""
    found, profile, shared = ratios(), read_profile(), shared_rates()
    rows = []
    for name, half, single in (("simsid", 2.6, 1.4), ("squid", 3.2, 1.9)):
        ratio, command = found["training iteration", name], "bench/test_training.py"
        rows.append(
            (f"two training steps, `{name}`, float32", f"≥ {single}x", f"{ratio:.2f}x", ratio >= single, command)
        )
        rows.append((f"two training steps, `{name}`, bfloat16", f"≥ {half}x", UNMEASURED, None, command))
    for name in ("simsid", "squid"):
        ratio, command = found["scoring", f"{name} 16"], "bench/test_scoring.py"
        rows.append((f"all scores of 16 images, `{name}`, float32", "≥ 2.6x", f"{ratio:.2f}x", ratio >= 2.6, command))
        rows.append((f"all scores of 16 images, `{name}`, bfloat16", "≥ 4x", UNMEASURED, None, command))
    for group, what, least in (
        ("ranking score", "from tensor to score", 150),
        ("file to row", "from JPEG file (224 pixels) to row", 30),
    ):
        ratio, default, command = found[group, "fast 32"], found[group, "ranking 32"], "bench/test_ranking.py"
        rows.append((f"`fastsquid` with `--fast`, {what}", f"≥ {least}x", f"{ratio:.0f}x", ratio >= least, command))
        rows.append((f"`fastsquid`, {what}", "", f"{default:.1f}x", None, command))
    for name in ("simsid", "squid"):
        share = profile[f"convolutions {name}"]["share"]
        what = f"convolutions alone, share of a step of `{name}`"
        rows.append((what, "≥ 70 %", f"{share:.0%}", share >= 0.7, "bench/cpu.py"))
    rows.append(("one epoch of `fastsquid` at full size, bfloat16", "≤ 75 s", UNMEASURED, None, "fastsquid.train"))
    startup = profile["startup"]
    import_s, score_s = startup["import fastsquid"]["cpu"], startup["score of one image"]["elapsed"]
    rows.append(("`import fastsquid`, CPU time", "< 1.2 s", f"{import_s:.2f} s", import_s < 1.2, "bench/cpu.py"))
    alone = startup["import torch"]["elapsed"]
    what = f"`score` of one image in all (`import torch` alone: {alone:.2f} s)"
    rows.append((what, "< 2 s", f"{score_s:.2f} s", score_s < 2, "bench/cpu.py"))
    load_s = profile["loading zhanglab"]
    what = '`fastsquid.load("zhanglab")`, PyTorch imported before'
    rows.append((what, "< 1 s", f"{load_s:.2f} s", load_s < 1, "bench/cpu.py"))
    what = "training beside one busy process, of its rate alone"
    rows.append((what, "> 40 %", f"{shared:.0%}", shared > 0.4, "bench/threads.py"))
    machine = profile["about"]["device"].replace(" threads", " cores")
    lines = [f"| what | target | measured, {machine} | | by |", "|---|---:|---:|---|---|"]
    words = {True: "met", False: "**missed**", None: ""}
    return lines + [
        f"| {what} | {target} | {measured} | {words[met]} | `{command}` |"
        for what, target, measured, met, command in rows
    ]


def shared_rates():
    """The rate of training beside one busy process, as a share of the rate alone."""
    rows = [row for row in read_csv(f"{MACHINE}-shared.csv") if row["threads"] == "soon"]
    seconds = {row["other processes"]: float(row["epoch, s"]) for row in rows}
    return seconds["0"] / seconds["1"]


def limits():
    """What the targets of float32 ask of the convolutions, and what these reach alone."""
    found, profile = ratios(), read_profile()
    rows = []
    for name, least in (("simsid", 1.4), ("squid", 1.9)):
        part = profile[f"convolutions {name}"]
        rows.append((f"two training steps, `{name}`", part, part["step_s"], least / found["training iteration", name]))
    for name in ("simsid", "squid"):
        part = profile[f"scoring {name}"]
        rows.append((f"all scores, `{name}`", part, part["seconds"], 2.6 / found["scoring", f"{name} 16"]))
    part = profile["scoring fastsquid --fast"]
    rows.append(("`fastsquid --fast`", part, part["seconds"], 150 / found["ranking score", "fast 32"]))
    lines = [
        "| what | all of it, GFLOP/s | its convolutions alone | the target asks of all of it | fastest shape alone |",
        "|---|---:|---:|---:|---:|",
    ]
    for what, part, seconds, missing in rows:
        reached = part["gflop"] / seconds
        alone = part["gflop"] / part["convolutions_s"]
        lines.append(
            f"| {what} | {reached:.0f} | {alone:.0f} | {reached * missing:.0f} | {part['fastest_gflops']:.0f} |"
        )
    return lines


def scoring_profiles():
    """The ten operators with the largest share of scoring."""
    cases = ("simsid", "squid", "fastsquid --fast")
    parts = [read_profile()[f"scoring {case}"] for case in cases]
    heads = [f"`{case}`, {1e3 * part['seconds']:.0f} ms | share" for case, part in zip(cases, parts)]
    lines = [f"| {' | '.join(heads)} |", "|---|---:" * len(cases) + "|"]
    for operators in zip(*(part["operators"] for part in parts)):
        cells = [f"`{name.removeprefix('aten::')}` | {share:.1%}" for name, share in operators]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def profiles(name):
    """The ten operators with the largest share of a step, contiguous and channels_last."""
    found = read_profile()[f"profile {name}"]
    lines = [
        f"| contiguous, {found['contiguous']['seconds']:.2f} s | share "
        f"| channels_last, {found['channels_last']['seconds']:.2f} s | share |",
        "|---|---:|---|---:|",
    ]
    for (a, first), (b, second) in zip(found["contiguous"]["operators"], found["channels_last"]["operators"]):
        lines.append(f"| `{a.removeprefix('aten::')}` | {first:.1%} | `{b.removeprefix('aten::')}` | {second:.1%} |")
    return lines


def memory():
    """Peak memory of a process per preset."""
    lines = ["| preset | start, MiB | scoring 64 images, MiB | training, MiB |", "|---|---:|---:|---:|"]
    for part, found in read_profile().items():
        if part.startswith("memory "):
            cells = " | ".join(str(found[key]) for key in ("start", "scoring", "training"))
            lines.append(f"| `{part.removeprefix('memory ')}` | {cells} |")
    return lines


def growth():
    """The power with which time and memory grow, and the points at both ends."""
    rows = read_csv(f"{MACHINE}-growth.csv")
    lines = ["| size | from | to | time grows with power | memory grows with power |", "|---|---:|---:|---:|---:|"]
    for size in SIZES:
        mine = [row for row in rows if row["size"] == size]
        cells = [f"{mine[0]['value']} | {mine[-1]['value']}"]
        for name in ("seconds", "memory_mb"):
            cells.append(f"{exponent([(float(row['value']), float(row[name])) for row in mine]):.2f}")
        lines.append(f"| {SHOWN[size]} | {' | '.join(cells)} |")
    return lines


TABLES = {
    "targets": targets,
    "limits": limits,
    "profile simsid": lambda: profiles("simsid"),
    "profile squid": lambda: profiles("squid"),
    "profile scoring": scoring_profiles,
    "memory": memory,
    "growth": growth,
}


def filled(text):
    """The page's text with every table as measured."""
    return fill(text, TABLES)


def main():
    before = PAGE.read_text(encoding="utf-8")
    after = filled(before)
    if sys.argv[1:] == ["--check"]:
        return int(before != after)
    PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
