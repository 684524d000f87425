"""The pages in docs/ and the README: links and pictures exist, options are the parsers', numbers the committed ones,
and every example is what really comes out. No other test compares the wording of messages."""

import csv
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
import torch
from forked_python import python
from sklearn.metrics import roc_auc_score

from fastsquid.config import ABLATIONS, PRESETS, Config, preset

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
README = ROOT / "README.md"
TOP = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
RESULTS = ROOT / "bench" / "results"
LARGEST = 300_000  # bytes of a picture

sys.path[:0] = [str(ROOT / "bench"), str(DOCS)]
import cases  # noqa: E402
import options  # noqa: E402
import peer_table  # noqa: E402
import tour  # noqa: E402

from fastsquid.__main__ import COMMANDS  # noqa: E402
from fastsquid.model.detector import Detector  # noqa: E402
from fastsquid.runs.folder import read_scores  # noqa: E402
from fastsquid.training import start  # noqa: E402
from fastsquid.training.study import SWEEP  # noqa: E402
from fastsquid.training.study_folder import COLUMNS  # noqa: E402


def page(name):
    return (DOCS / name).read_text(encoding="utf-8")


def relative(path):
    return path.relative_to(ROOT).as_posix()


def blocks(text, language):
    """Contents of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)


def tables(text):
    """[[row]] of a page's tables, a row being a list of cells, the first one the heading."""
    found = []
    for lines in re.findall(r"(?:^\|.*\n)+", re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M), re.M):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in lines.splitlines()]
        found.append([rows[0], *rows[2:]])
    return found


PARSERS = {command: options.parser_of(command) for command in COMMANDS}


# Links and pictures


def anchors(path):
    """Of a page's headings, as GitHub makes them."""
    slugs, seen = set(), {}
    for heading in re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.S | re.M), re.M
    ):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        slugs.add(f"{slug}-{seen[slug]}" if slug in seen else slug)
        seen[slug] = seen.get(slug, 0) + 1
    return slugs


def links(path):
    """(text, target) of a page's links and pictures."""
    return re.findall(
        r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)",
        re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.S | re.M),
    )


@pytest.mark.parametrize("path", [*TOP, *PAGES], ids=relative)
def test_links_exist(path):
    for text, target in links(path):
        assert text, f"a link to {target} without words"
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists() and file.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("path", [*TOP, *PAGES], ids=relative)
def test_named_files_exist(path):
    """Files of the repository that a page names by their paths; a block that begins with a file's name adds it."""
    text = path.read_text("utf-8")
    added = set(re.findall(r"^# ([\w/]+\.py)$", text, re.M))
    for name in re.findall(r"(?<![\w/.])(?:fastsquid|kernels|bench|tests|docs)/[\w/.-]+\.(?:py|sh|md)\b", text):
        assert name in added or (ROOT / name).is_file() or "NAME" in name, name


def test_every_page_is_in_the_index():
    listed = {(DOCS / target.partition("#")[0]).resolve() for _, target in links(DOCS / "README.md")}
    assert set(PAGES) - {DOCS / "README.md"} <= listed
    assert {page.stem for page in (DOCS / "commands").glob("*.md")} == set(COMMANDS)
    assert "docs/README.md" in {target for _, target in links(README)}


def test_the_reading_path_has_seven_steps():
    """Config, networks, in-painting, definition, kernel, iteration, loop."""
    path = page("README.md").partition("## Reading path")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\d\. \[[\w/]+\.py\]\(\.\./[\w/]+\.py\)", path, re.M)) == 7


def test_every_place_of_the_table_exists():
    """CONTRIBUTING.md says where fourteen changes are made; test_links_exist checks its links."""
    (table,) = [body for heading, *body in tables(TOP[1].read_text("utf-8")) if heading == ["change", "where"]]
    assert len(table) == 14 and all("(" in where or "NAME" in where for _, where in table)


def test_papers_are_cited_alike():
    cited = (ROOT / "CITATION.cff").read_text("utf-8")
    titles = re.findall(r"^    title: \"?([^\"\n]+)\"?$", cited, re.M)
    assert len(titles) == 2
    assert all(title in " ".join(README.read_text("utf-8").split()) for title in titles)


def test_pictures_are_small_and_used():
    pictures = set((DOCS / "pictures").iterdir())
    shown = {
        (path.parent / target).resolve()
        for path in (README, *PAGES)
        for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", path.read_text("utf-8"))
    }
    assert pictures <= shown
    for picture in shown:
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and picture.stat().st_size < LARGEST, picture


# Options


def option_rows(command):
    """{option or positional: row} of the tables of a command's page whose first column is `option`."""
    rows = {}
    for heading, *body in tables(page(f"commands/{command}.md")):
        if heading[0] == "option":
            for row in body:
                name = re.match(r"`(--[a-z0-9-]+|[A-Z|]+)", row[0].replace("\\|", "|"))
                assert name and name[1] not in rows, row
                rows[name[1]] = " ".join(row).replace("\\|", "|")
    return rows


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_the_parsers(command):
    rows, actions = option_rows(command), {}
    for action in PARSERS[command]._actions:
        names = [name for name in action.option_strings if name.startswith("--") and "_" not in name]
        actions[names[0] if names else action.metavar] = action
    del actions["--help"]
    assert set(rows) == set(actions)
    for name, action in actions.items():
        row = rows[name]
        for choice in action.choices or ():
            assert f"`{choice}`" in row, f"{name} may be {choice}"
        default = action.default[0] if isinstance(action.default, list) else action.default
        if default not in (None, False, "==SUPPRESS==") or default == 0 and default is not False:
            assert f"`{default}`" in row, f"{name} is {default} by default"


def test_every_option_named_anywhere_exists():
    known = {name for parser in PARSERS.values() for action in parser._actions for name in action.option_strings}
    others = {
        "--benchmark",
        "--sweep",
        "--smallest",
        "--check",
        "--chip",
        "--constraint",
        "--nproc-per-node",
        "--max-restarts",
        "--plan",
        "--mnist",
        "--results",
        "--limit-minutes",
        "--features",
        "--backbone",
        "--settings",
        "--others",
        "--index-url",
        "--find-links",
        *("--version", "--rm", "--network", "--read-only", "--tmpfs", "--user", "--time", "--build-arg"),
    }  # of pytest bench/, bench/resources.py, bench/unlike.py, bench/peers.py,
    # bench/threads.py, pip, torchrun, bench/gpu.sh, docker
    for path in PAGES:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]*", path.read_text("utf-8")))
        assert named <= known | others | {"--prset"}, path  # the last is a mistake to learn from


def shell_lines(text):
    """The commands of a page's sh blocks, lines that end in a backslash joined."""
    for block in blocks(text, "sh"):
        yield from re.sub(r"\\\n\s*", "", block).splitlines()


@pytest.mark.parametrize("path", [*TOP, *PAGES], ids=relative)
def test_commands_can_be_parsed(path):
    for line in shell_lines(path.read_text("utf-8")):
        words = shlex.split(line.replace("...", "").removesuffix("&"), comments=True)
        for i, word in enumerate(words):
            if word.startswith("fastsquid."):
                parser = PARSERS[word.removeprefix("fastsquid.")]
                _, unknown = parser.parse_known_args(words[i + 1 :])
                assert not unknown, line


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "tour.md"], ids=relative)
def test_quoted_output_is_what_comes_out(path, command, monkeypatch):
    """A console block is a command, run in the project's root, and all that it says; paths below the root relative."""
    monkeypatch.chdir(ROOT)
    for block in blocks(path.read_text("utf-8"), "console"):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            line, _, said = part.partition("\n")
            _, dash, module, *arguments = shlex.split(line)
            assert dash == "-m" and said.strip(), line
            code, out, err = command(importlib.import_module(module).main, *arguments)
            assert (out + err).replace(f"{ROOT}/", "").rstrip("\n") == said.rstrip("\n"), line
            assert (code == 0) == (not said.startswith("error: ")), line


def test_the_tour_runs(tmp_path, monkeypatch, pictures):
    """What its commands and its Python print has the form of the page. Numbers depend on the machine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = page("tour.md")
    new = tour.run(text, tmp_path)
    assert "Traceback" not in new and [form(line) for line in new.splitlines()] == list(map(form, text.splitlines()))
    assert {path.name for path in tmp_path.iterdir()} >= {"curves.png", "scores.csv", "report.html", "new.csv"}
    broken = re.findall(r"^broken\.jpeg,.*$", new, re.M)
    assert len(broken) == 1 and not re.search(r"\d\.\d", broken[0])


def form(line):
    """A line without its numbers and the width of its columns."""
    return re.sub(r" +", " ", re.sub(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?", "0", line))


# Tables that follow from the code


def changes_text(changes):
    return ", ".join(f"`{name}` {options.code(value)}" for name, value in changes.items()) or "nothing"


def preset_changes():
    """{preset: what it changes in the defaults}."""
    return {name: {f: v for f, v in changes.items() if getattr(Config(), f) != v} for name, changes in PRESETS.items()}


def floor_table():
    """Lines: bytes and operations of the papers' reads, of float32 numbers."""
    lines = [
        "| memory | B x R x N x C | forward, MB | MFLOP | FLOP per byte | backward, MB | MFLOP | FLOP per byte |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    names = [
        f"{system}, {place}"
        for system in ("SQUID", "SimSID")
        for place in ("in-painting", "decoder, deepest", "decoder, next")
    ]
    for name, shape in zip(names, cases.READS):
        cells = []
        for mode in ("forward", "backward"):
            moved, done = shape.bytes(mode, 4), shape.operations(mode)
            cells += [f"{moved / 1e6:.1f}", f"{done / 1e6:.0f}", f"{done / moved:.0f}"]
        lines.append(f"| {name} | {' x '.join(map(str, shape))} | {' | '.join(cells)} |")
    return lines


def measured_table():
    """Lines: the memory read and the attention on the CPU that was measured, forward and backward together."""
    with open(RESULTS / "amd-epyc-2-threads.csv", newline="") as file:
        rows = {
            (row["group"], row["case"], row["variant"]): row for row in csv.DictReader(file) if row["mode"] == "both"
        }
    lines = [
        "| what | shape | published, ms | fastsquid, ms | floor, ms | speed, of the floor's |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for group, shapes in (("memory read", cases.READS), ("neighbor attention", cases.GRIDS)):
        for shape in shapes:
            theirs, ours = (rows[group, str(shape), variant] for variant in ("published", "torch"))
            cells = [f"{float(row['p50_ms']):.2f}" for row in (theirs, ours)] + [f"{float(ours['floor_ms']):.2f}"]
            lines.append(f"| {group} | {shape} | {' | '.join(cells)} | {float(ours['percent_of_floor']):.0f} % |")
    return lines


def chip_table():
    """Lines: the floors of the reads by chip, forward / forward and backward."""
    lines = [f"| memory | {' | '.join(cases.CHIPS)} |", f"|---|{'---:|' * len(cases.CHIPS)}"]
    for shape in [*cases.READS, *cases.LARGE_READS]:
        times = [[1e6 * cases.floor(shape, mode, chip) for mode in ("forward", "both")] for chip in cases.CHIPS]
        cells = [" / ".join(f"{time:.1f}" if time < 100 else f"{time:.0f}" for time in pair) for pair in times]
        lines.append(f"| {shape} | {' | '.join(cells)} |")
    return lines


def gpu_rows(name, *keys):
    """{values of the columns `keys`: row} of a CSV in bench/results/h200."""
    with open(RESULTS / f"h200/{name}.csv", newline="") as file:
        return {tuple(row[key] for key in keys): row for row in csv.DictReader(file)}


def gpu_table(dtype, other):
    """Lines: the memory read and the attention on the GPU that was measured, forward and both, beside a variant."""
    rows = gpu_rows("kernels", "case", "mode", "dtype", "variant")
    lines = [
        f"| what | shape | forward: {other} | fastsquid | speed | both: {other} | fastsquid | speed |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    reads, grids = [*cases.READS, *cases.LARGE_READS], [*cases.GRIDS, *cases.LARGE_GRIDS]
    for group, shapes in (("memory read", reads), ("neighbor attention", grids)):
        for shape in shapes:
            cells = []
            for mode in ("forward", "both"):
                found = [rows[str(shape), mode, dtype, variant] for variant in (other, "triton")]
                cells += [f"{1e3 * float(row['p50_ms']):.1f}" for row in found]
                cells.append(f"{float(found[1]['percent_of_floor']):.0f} %")
            lines.append(f"| {group} | {shape} | {' | '.join(cells)} |")
    return lines


def attention_table():
    """Lines: the masked attention beside PyTorch's own, microseconds."""
    rows = gpu_rows("kernels", "case", "mode", "dtype", "variant")
    (shape,) = cases.LARGE_GRIDS
    names = ["gathered-sdpa", "dense-sdpa", "flex", "triton"]
    lines = [
        "| dtype | mode | gathered SDPA | dense SDPA | FlexAttention | fastsquid |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for dtype in ("float32", "bfloat16"):
        for mode in ("forward", "both"):
            times = [1e3 * float(rows[f"{shape} mask", mode, dtype, name]["p50_ms"]) for name in names]
            lines.append(f"| {dtype} | {mode} | {' | '.join(f'{time:.1f}' for time in times)} |")
    return lines


def attention_prediction_table():
    """Lines: the attention's instructions per patch and head, before and after, and the time that follows."""
    lines = [
        "| kernel | dtype | instructions per patch and head | measured before, us | predicted, us |",
        "|---|---|---:|---:|---:|",
    ]
    measured = gpu_rows("kernels", "case", "mode", "dtype", "variant")
    for (kernel, dtype), row in gpu_rows("attention", "kernel", "dtype").items():
        forward, both = (
            1e3 * float(measured[row["case"], mode, dtype, "triton"]["p50_ms"]) for mode in ("forward", "both")
        )
        before = forward if kernel == "_forward" else both - forward
        counts = [int(row[f"{when}_instructions"]) / int(row[f"{when}_patches"]) for when in ("before", "after")]
        lines.append(
            f"| `{kernel}` | {dtype} | {counts[0]:.0f} → {counts[1]:.0f} | {before:.1f} "
            f"| {before * counts[1] / counts[0]:.1f} |"
        )
    return lines


def test_the_attentions_instructions_are_those_of_its_programs():
    """What attention.csv says of the present kernels, in the table of resources.md."""
    found = {}
    for line in (RESULTS / "resources.md").read_text().splitlines():
        if match := re.match(r"\| neighbor_attention\.(\w+) \| P (\d+), D 64, UNROLL 8, num_warps 1 \| (\w+) \|", line):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            found[match[1], {"fp32": "float32", "bf16": "bfloat16"}[match[3]]] = match[2], cells[5]
    rows = gpu_rows("attention", "kernel", "dtype")
    assert found == {key: (row["after_patches"], row["after_instructions"]) for key, row in rows.items()}


def gpu_training_table():
    """Lines: a cycle of training steps and an epoch on the GPU, and how often the host launches something."""
    lines = [
        "| preset | order of work | dtype | cycle, ms | launches | epoch, s | largest memory, MB |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    rows = gpu_rows("step", "group", "case", "variant")
    for case in ("squid", "simsid"):
        for name in ("published", "triton", "compile", "compile-bf16", "command"):
            cycle, epoch = (rows.get((f"training {what}", case, name), {}) for what in ("cycle", "epoch"))
            if epoch:
                time = f"{float(cycle['p50_ms']):.1f} | {cycle['launches']}" if cycle else "|"
                memory = float(cycle.get("peak_memory_mb") or epoch["peak_memory_mb"])
                dtype, seconds = epoch["dtype"], float(epoch["p50_ms"]) / 1e3
                lines.append(f"| `{case}` | {name} | {dtype} | {time} | {seconds:.2f} | {memory:.0f} |")
    return lines


def captured_table():
    """Lines: nodes and bytes of a captured training cycle, without the biases that a normalization subtracts."""
    lines = [
        "| preset | nodes of the CUDA graphs | of these, Triton kernels | MB read and written |",
        "|---|---:|---:|---:|",
    ]
    texts = [(RESULTS / f"captured-step{name}.csv").read_text() for name in ("-before", "")]
    for before, after in zip(*(csv.DictReader(text.splitlines()) for text in texts), strict=True):
        assert before["preset"] == after["preset"]
        cells = [f"{before[key]} → {after[key]}" for key in ("nodes", "Triton", "megabytes")]
        lines.append(f"| `{after['preset']}` | {' | '.join(cells)} |")
    return lines


def gpu_scoring_table():
    """Lines: images per second on the GPU."""
    lines = ["| what | images | order of work | dtype | ms | images/s |", "|---|---:|---|---|---:|---:|"]
    for row in gpu_rows("score", "case", "variant", "dtype").values():
        what, batch = row["case"].rsplit(" ", 1)
        time, rate = float(row["p50_ms"]), float(row["images_per_s"])
        lines.append(f"| `{what}` | {batch} | {row['variant']} | {row['dtype']} | {time:.2f} | {rate:,.0f} |")
    return lines


def before_and_after_table():
    """Lines: microseconds of each kernel of the memory read alone, before and after its redesign."""
    with open(RESULTS / "h200/kernels-one-by-one.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dtype"] == "float32"]
    shapes = list(dict.fromkeys(row["case"] for row in rows))
    lines = [f"| kernel | {' | '.join(shapes)} |", f"|---|{'---:|' * len(shapes)}"]
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        found = {row["case"]: row for row in rows if row["kernel"] == kernel}
        cells = [" → ".join(f"{float(found[s][f'{w}_us']):.1f}" for w in ("before", "after")) for s in shapes]
        lines.append(f"| `{kernel}` | {' | '.join(cells)} |")
    return lines


def training_time_table():
    """Lines: what the committed runs of each preset took, over their seeds."""
    lines = [
        "| preset | data | threads | precision | seconds per epoch | epochs | largest memory, MB |",
        "|---|---|---:|---|---:|---:|---:|",
    ]
    for folder in (*sorted((RESULTS / "zhanglab/small").glob("*/")), RESULTS / "digits", RESULTS / "digits/fastsquid"):
        runs = [json.loads(path.read_text()) for path in sorted(folder.glob("seed-*/summary.json"))]
        (same,) = {(run["preset"], run["threads"], run["precision"], run["epochs"]) for run in runs}
        ends = [json.loads(path.read_text().splitlines()[-1]) for path in sorted(folder.glob("seed-*/metrics.jsonl"))]
        seconds = sorted(end["seconds"] / end["epoch"] for end in ends)
        assert len(runs) == 3 and {run["device"] for run in runs} == {"cpu (2 cores)"}
        name, threads, precision, epochs = same
        data = "X-rays" if folder.parent.name == "small" else "DigitAnatomy"
        span, memory = f"{seconds[0]:.0f} to {seconds[-1]:.0f}", max(run["peak_memory_mb"] for run in runs)
        lines.append(f"| `{name}` | {data} | {threads} | {precision} | {span} | {epochs} | {memory} |")
    return lines


def full_size_table():
    """Lines: images per second of both papers' systems at full size on the CPU that was measured."""
    with open(RESULTS / "amd-epyc-2-threads.csv", newline="") as file:
        rates = {
            (row["group"], row["case"]): float(row["images_per_s"])
            for row in csv.DictReader(file)
            if row["variant"] == "torch" and row["group"] in ("training iteration", "scoring")
        }
    lines = ["| preset | training, images/s | scoring, images/s |", "|---|---:|---:|"]
    for name in ("squid", "simsid"):
        training, scoring = rates["training iteration", name], rates["scoring", f"{name} 16"]
        lines.append(f"| `{name}` | {training:.1f} | {scoring:.1f} |")
    unmeasured = " | ".join(["not measured"] * 2)
    return [*lines, f"| `fastsquid`, `memae`, `auto-encoder`, `cutpaste`, `anatpaste` | {unmeasured} |"]


def tile_table():
    """Lines: the blocks that kernels are launched with on a Hopper chip."""
    from fastsquid.kernels.configurations import HOPPER

    lists = [
        ("`_dots`", "queries per region", "BLOCK_B", HOPPER.dots),
        ("`_weighted_sum`", "queries per region", "BLOCK_B", HOPPER.weighted_sum),
        ("`_bank_gradient`", "queries per region", "BLOCK_B", HOPPER.bank_gradient),
        ("`_select_gather`, `_softmax`", "slots", "BLOCK_N", HOPPER.rows),
        ("`_select_gather`", "chosen slots", "BLOCK_K", HOPPER.gather),
        ("`_score_gradient`", "slots", "BLOCK_N", HOPPER.score_gradient),
        ("`_forward`, `_backward` of the attention", "head size", "BLOCK_D", HOPPER.attention),
        ("the same with 16 bits", "head size", "BLOCK_D", HOPPER.attention_half),
    ]
    lines = ["| kernel | chosen by | configurations of a Hopper chip |", "|---|---|---|"]
    for kernel, what, block, listed in lists:
        texts = [", ".join(f"{name.removeprefix('BLOCK_')} {value}" for name, value in one.items()) for one in listed]
        lines.append(f"| {kernel} | {what} (`{block}`) | {'; '.join(texts)} |")
    return lines


def assert_has(name, lines):
    assert "\n".join(lines) + "\n" in page(name), "the page should have\n" + "\n".join(lines)


def test_tables_of_options_are_made_from_the_parsers():
    """A row per field of the configuration too."""
    code = options.main(["--check"])
    assert code == 0, "run python docs/options.py"


def test_a_changed_table_of_options_is_found(tmp_path, monkeypatch):
    shutil.copytree(DOCS / "commands", tmp_path / "docs" / "commands")
    changed = tmp_path / "docs" / "commands" / "score.md"
    changed.write_text(page("commands/score.md").replace("| `--fast` |", "| `--slow` |"), encoding="utf-8")
    monkeypatch.setattr(options, "ROOT", tmp_path)
    monkeypatch.setattr(options, "PAGES", changed.parent)
    assert options.main(["--check"]) == 1 and "--slow" in changed.read_text(encoding="utf-8")
    assert options.main([]) == 0 and changed.read_text(encoding="utf-8") == page("commands/score.md")


def test_presets_are_the_configurations():
    (rows,) = [body for heading, *body in tables(page("commands/train.md")) if heading[0] == "preset"]
    expected = {f"`{name}`": changes_text(changes) for name, changes in preset_changes().items()}
    assert {row[0]: row[2] for row in rows} == expected


def test_settings_of_the_method_are_the_presets():
    """Tables of method.md with a column `field` and columns named by presets."""
    checked = 0
    for heading, *body in tables(page("method.md")):
        named = [(i, name.strip("`")) for i, name in enumerate(heading) if name.strip("`") in PRESETS]
        if "field" in heading and named:
            for row in body:
                for field in re.findall(r"`(\w+)`", row[heading.index("field")]):
                    for i, name in named:
                        assert row[i] == options.code(getattr(preset(name), field)), (field, name)
                        checked += 1
    assert checked > 20


def test_ablations_are_the_configurations():
    rows = {row[0]: row for heading, *body in tables(page("reproduce.md")) if "changes" in heading for row in body}
    for system, ablations in ABLATIONS.items():
        for name, changes in ablations.items():
            assert changes_text(changes) in rows[name], (system, name)


def test_sweeps_are_the_studies():

    text = page("commands/study.md")
    for scale, fields in SWEEP.items():
        for field, values in fields.items():
            cells = " ".join(f"{value:g}" for value in values)
            assert f"| `{scale}` | `{field}` | {cells} |" in text
    assert ", ".join(f"`{name}`" for name in COLUMNS) in text.replace("\n", " ")


def test_a_stopped_study_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    from fastsquid import study

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "train_run", lambda *_: False)  # as Ctrl-C leaves it
    assert study.main("baselines --seeds 0 1 2".split()) == 130
    assert "$ python -m fastsquid.study baselines --seeds 0 1 2\n" + capsys.readouterr().out in page(
        "commands/study.md"
    )


def test_the_floor_is_counted():
    assert_has("kernels.md", floor_table())


def test_what_was_measured_is_committed():
    assert_has("kernels.md", measured_table())
    with open(RESULTS / "amd-epyc-2-threads.csv", newline="") as file:
        rows = {row["group"]: row for row in csv.DictReader(file)}
    read, attention = rows["memory read"], rows["neighbor attention"]
    for limit in (
        f"{float(read['matrix_gflop_per_s']):.1f} GFLOP/s",
        f"{float(read['copy_gb_per_s']):.1f} GB/s",
        f"{float(attention['copy_gb_per_s']):.1f} GB/s",
    ):
        assert limit in page("kernels.md")


@pytest.mark.parametrize("system", ["squid", "simsid"])
def test_what_processes_send_is_computed(system):
    """Numbers of docs/distributed.md: what two iterations send, and where more processes stop helping."""
    text = page("distributed.md")
    detector, config = Detector(preset(system)), preset(system)
    networks = detector.generator, detector.discriminator
    sizes = [sum(p.numel() for p in network.parameters() if p.requires_grad) for network in networks]
    gradients = 4 * (sizes[0] + 2 * sizes[1])
    rows = 4 * config.batch_size * config.patches * config.token_dim if config.memory == "queue" else 0
    cells = [f"{size:,}" for size in sizes] + [f"{gradients / 1e6:.1f}", f"{rows / 1e6:.1f}"]
    lines = [f"| `{system}` | {' | '.join(cells)} |\n"]
    with open(RESULTS / "amd-epyc-2-threads.csv", newline="") as file:
        measured = {(row["group"], row["case"], row["variant"]): float(row["p50_ms"]) for row in csv.DictReader(file)}
    seconds = measured["training iteration", system, "torch"] / 1e3
    for speed in (1, 10, 100):
        least = 2 * gradients / (speed * 1e9 / 8)
        lines += [f"| `{system}` | {seconds:.2f} | {speed} Gbit/s | {least:.2f} | {seconds / least:.1f}x |\n"]
    assert [line for line in lines if line not in text] == []


SQUID_SCORES = ("scoring", "squid 16", "torch")


def archive_tables():
    """Tables of docs/distributed.md, from the committed rates: what was measured, and what large archives take."""
    text = (RESULTS / "cluster.md").read_text("utf-8")
    rates = {
        title: [float(cell) for cell in cells.split("|")]
        for title, cells in re.findall(r"^\| (`[^|]+`) \| ([\d.| ]+) \|$", text, re.M)
    }
    measured = [
        "| | one process | Ray, 1 actor | Ray, 2 actors | Ray adds, per image |",
        "|---|---:|---:|---:|---:|",
    ]
    archives = [
        "| | core-hours, 10 million | core-hours, 200 million | days on 64 cores | cost per million |",
        "|---|---:|---:|---:|---:|",
    ]
    with open(RESULTS / "amd-epyc-2-threads.csv", newline="") as file:
        tensors = next(r for r in csv.DictReader(file) if (r["group"], r["case"], r["variant"]) == SQUID_SCORES)
    for title, (alone, _, one, _, two, _) in rates.items():
        added = f"{1e3 / max(one, two) - 1e3 / alone:.1f} ms"
        measured.append(f"| {title} | {alone:.1f} | {one:.1f} | {two:.1f} | {added} |")
    found = [(title, max(one, two)) for title, (_, _, one, _, two, _) in rates.items()]
    for title, rate in [*found, ("all scores of `squid`, from tensors", 16e3 / float(tensors["p50_ms"]))]:
        hours = 2 * 1e6 / rate / 3600  # of two cores, for a million
        days = 200 * hours / 64 / 24
        archives.append(f"| {title} | {10 * hours:,.0f} | {200 * hours:,.0f} | {days:.1f} | ${0.05 * hours:.2f} |")
    return {"cluster": measured, "archive": archives}, text


def test_costs_of_an_archive_are_computed():
    tables, text = archive_tables()
    for name, lines in tables.items():
        table = "\n".join(lines)
        assert f"<!-- {name} -->\n{table}\n<!-- end of {name} -->" in page("distributed.md"), table
    fast = float(re.search(r"^\| `fastsquid --fast` \|.*?\| .*? \| ([\d.]+) ", text, re.M)[1])
    size = float(re.search(r"([\d.]+) kB each", text)[1])
    rate = round(float(gpu_rows("score", "case", "dtype")["simsid 1024", "bfloat16"]["images_per_s"]))
    row, item = map(float, re.search(r"([\d.]+) bytes per row. .*: ([\d.]+) bytes of memory", text).groups())
    for fact in (
        f"about {round(item, -2):.0f} bytes of memory per image: {round(item, -2) / 100:.0f} GB for 10 million",
        f"{10 * size / 1e3:.1f} TB for 10 million images of {size:.0f} kB, {200 * size / 1e3:.0f} TB for 200 million",
        f"{row:.0f} bytes per row, {10 * row / 1e3:.1f} GB for 10 million",
        f"{1.25e6 / size:,.0f} images per second of {size:.0f} kB",
        f"such a GPU needs {rate / fast * 2:.0f} cores",
        f"scores {rate:,.0f} images per second",
        f"{1e7 / rate / 3600:.2f} GPU-hours for 10 million and {2e8 / rate / 3600:.1f} for 200 million",
    ):
        assert fact in " ".join(page("distributed.md").split()), fact


def test_times_are_the_committed_ones():
    text = page("hardware.md")
    for name, lines in (("training", training_time_table()), ("full size", full_size_table())):
        table = "\n".join(lines)
        assert f"<!-- {name} -->\n{table}\n<!-- end of {name} -->" in text, table
    measured = (RESULTS / "zhanglab/training-time.md").read_text()
    alone = re.findall(r"^\| `fastsquid-small` \| ([\d.]+) \| ([\d.]+) \|$", measured, re.M)
    assert f"an epoch of `fastsquid-small` takes {fmean(map(float, alone[0])):.0f} s" in text


def test_tiles_are_the_kernels():
    pytest.importorskip("fastsquid.kernels.memory_read", exc_type=ImportError)
    assert_has("kernels.md", tile_table())
    assert_has("kernels.md", before_and_after_table())
    assert_has("kernels.md", gpu_table("float32", "published"))
    assert_has("kernels.md", gpu_table("bfloat16", "torch"))
    assert_has("kernels.md", attention_table())
    assert_has("kernels.md", attention_prediction_table())
    assert_has("kernels.md", gpu_training_table())
    assert_has("kernels.md", captured_table())
    assert_has("kernels.md", gpu_scoring_table())
    assert_has("kernels.md", chip_table())


@pytest.mark.parametrize(
    "name, source, heading",
    [
        ("kernels.md", "resources.md", "chip"),
        ("kernels.md", "precision.md", "inputs"),
        ("method.md", "zhanglab/variants/variants.md", "variant, seed 0"),
        ("input-check.md", "zhanglab/unlike.md", "check of 1,241 healthy X-rays"),
        ("input-check.md", "zhanglab/unlike.md", "check of DigitAnatomy"),
        ("commands/locate.md", "zhanglab/maps.md", "map | haze, standardized"),
    ],
)
def test_rows_are_copied_from_results(name, source, heading):
    committed = (RESULTS / source).read_text(encoding="utf-8").splitlines()
    (found,) = [lines for lines in re.findall(r"(?:^\|.*\n)+", page(name), re.M) if lines.startswith(f"| {heading} |")]
    lines = found.splitlines()
    assert len(lines) > 3 and set(lines) - {lines[1]} <= set(committed)


def test_other_methods_are_computed():
    """The page and peers.md have the table of the committed records; their AUCs are those of the committed scores."""
    folder = RESULTS / "peers"
    records = peer_table.read_records(folder)
    assert len(records) > 15
    table = "\n".join(peer_table.table(records))
    assert f"<!-- peers -->\n{table}\n<!-- end of peers -->" in page("results.md")
    assert "\n".join(peer_table.lines_of(records)) + "\n" == (folder / "peers.md").read_text(encoding="utf-8")
    for record in records:
        if "failed" in record:
            continue
        run = folder / record["method"] / f"seed-{record['seed']}"
        _, labels, scores = read_scores(run / "scores-val.csv")
        assert (len(labels), labels.sum()) == (200, 100)
        assert record["auc"] == pytest.approx(roc_auc_score(labels, scores["score"]), abs=1e-4)
        with open(run / "scores-test.csv", newline="") as file:
            assert sum(1 for _ in csv.DictReader(file)) == record["images"]["test"]
    first = {record["method"]: record for record in records if record["seed"] == 0}
    epoch = first["ganomaly"]["train_s"] / float(first["ganomaly"]["settings"].split()[0])
    for fact in (
        f"distance to the mean training image has an AUC of {first['mean-image']['auc']:.3f}.",
        f"An epoch of GANomaly takes {epoch:.0f} s here, so 100 epochs take about {100 * epoch / 3600:.1f} hours",
    ):
        assert fact in " ".join(page("results.md").split()), fact


@pytest.mark.parametrize(
    "name, file, printer",
    [
        ("commands/train.md", "digits/fastsquid/seed-0/summary.json", "evaluation.summary.run_table"),
        ("commands/train.md", "digits/fastsquid/summary.json", "evaluation.summary.group_table"),
        ("commands/evaluate.md", "zhanglab/small/fastsquid/seed-0/summary.json", "evaluation.summary.run_table"),
        ("commands/locate.md", "digits/fastsquid/seed-0/locate.json", "evaluation.localization.cell_table"),
    ],
)
def test_tables_are_printed_from_committed_runs(name, file, printer):
    module, function = printer.rsplit(".", 1)
    table = getattr(importlib.import_module(f"fastsquid.{module}"), function)
    assert table(json.loads((RESULTS / file).read_text())) in page(name)


def test_robustness_is_that_of_the_committed_run():
    """The example is what evaluate --robustness printed, and agrees with what --monitor wrote in training."""
    from fastsquid.evaluation import robustness

    run = RESULTS / "zhanglab/small/fastsquid/seed-0"
    found = json.loads((run / "evaluation.json").read_text())
    table = robustness.robustness_table(found["robustness"], found["healthy_above_threshold"])
    assert f"{table}\n\n{robustness.confounds_table(found['confounds'])}" in page("commands/evaluate.md")

    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    for score, aucs in found["robustness"].items():
        monitored = {"clean": last["validation"][score]} | {name: on[score] for name, on in last["perturbed"].items()}
        assert {name: auc for name, auc in aucs.items() if name != "mean"} == pytest.approx(monitored, abs=2e-3)
        assert aucs["mean"] == pytest.approx(fmean(auc for name, auc in aucs.items() if name != "mean"))


# Examples


@pytest.mark.parametrize(
    "path", [path for path in PAGES if path.name not in ("python.md", "tour.md", "distributed.md")], ids=relative
)
def test_python_examples_run(path, tmp_path, monkeypatch):
    """One after the other in one namespace; a block that begins with a file's name is that file (below).

    test_readme.py runs those of python.md, which are independent and use the repository's X-rays; tour.py its own;
    test_cluster.py and test_spark.py those of distributed.md.
    """
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks(path.read_text("utf-8"), "python"):
        if not re.match(r"# [\w/]+\.py\n", block):
            exec(compile(block, relative(path), "exec"), namespace)


def test_held_out_validation_is_moved(tmp_path):
    """What reproduce.md says to do with ZhangLab's release."""
    namespace = {}
    for block in blocks(page("reproduce.md"), "python"):
        exec(compile(block, "reproduce.md", "exec"), namespace)
    for name, count in (("NORMAL", 5), ("PNEUMONIA", 4)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "train" / name / f"{i}.jpeg").touch()
    namespace["hold_out"](tmp_path, each=2)
    counts = {
        f"{split}/{name}": len(list((tmp_path / split / name).iterdir()))
        for split in ("train", "val")
        for name in ("NORMAL", "PNEUMONIA")
    }
    assert counts == {"train/NORMAL": 3, "train/PNEUMONIA": 2, "val/NORMAL": 2, "val/PNEUMONIA": 2}


def test_the_data_source_of_the_example_works(tmp_path):
    """A copy of the package with the page's files and its change passes the page's tests."""
    text = page("data-sources.md")
    shutil.copytree(ROOT / "fastsquid", tmp_path / "fastsquid", ignore=shutil.ignore_patterns("__pycache__"))
    files = [re.match(r"# ([\w/]+\.py)\n", block) for block in blocks(text, "python")]
    written = {match[1]: match.string for match in files if match}
    assert set(written) == {"fastsquid/data/sources/listed.py", "tests/test_data_listed.py"}
    for name, content in written.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    (change,) = blocks(text, "diff")
    source = (tmp_path / "fastsquid/data/sources/__init__.py").read_text(encoding="utf-8")
    for hunk in re.split(r"^@@.*\n", change, flags=re.M)[1:]:
        lines = hunk.splitlines()
        before, after = ("\n".join(line[1:] for line in lines if line[:1] != sign) + "\n" for sign in ("+", "-"))
        assert source.count(before) == 1, before
        source = source.replace(before, after)
    (tmp_path / "fastsquid/data/sources/__init__.py").write_text(source, encoding="utf-8")
    done = subprocess.run(
        [python(), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path / "tests"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[5-9] passed", done.stdout, re.M), done.stdout


# Docker


def kept(path):
    """Whether .dockerignore keeps a file for the build."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert patterns[0] == "*" and "**/__pycache__" in patterns
    top = Path(path).parts[0]
    return f"!{top}" in patterns and "__pycache__" not in path


def test_the_image_has_what_the_package_needs(tmp_path):
    """No Docker here: the package is installed from what Docker would copy, as its last pip command does."""
    lines = re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text()).splitlines()
    steps = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    assert steps[0][0] == "FROM" and dict(steps)["USER"] not in ("root", "0")
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", dict(steps)["RUN"] + str(steps))
    assert set(extras.split(",")) == {"dicom", "export", "parquet", "shards"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    files = [path for path in tracked if kept(path)]
    assert {"setup.py", "pyproject.toml", "constraints.txt", "fastsquid/reporting/report.html"} <= set(files)
    assert not any(path.startswith(("tests/", "bench/", "docs/")) for path in files)
    for path in files:
        (tmp_path / "src" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / "src" / path)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", tmp_path / "installed", tmp_path / "src"], check=True)
    (command,) = json.loads(dict(steps)["ENTRYPOINT"])
    assert (tmp_path / "installed/bin" / command).exists() and (tmp_path / "installed/fastsquid/kernels").is_dir()
    answer = subprocess.run(
        [sys.executable, "-m", command, "--version"],
        cwd=tmp_path / "installed",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
    )
    assert answer.stdout.startswith("fastsquid ")
