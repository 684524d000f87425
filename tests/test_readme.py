"""README and the pages that complete it: examples run, and numbers are the committed ones. Links: test_docs.py."""

import csv
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "bench"))
import results_page  # noqa: E402
import tables  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")


def page(name):
    return (ROOT / name).read_text(encoding="utf-8")


def rows(text):
    """Rows of a page's tables, each a list of cells without emphasis."""
    return [
        [cell.strip(" *`") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]


def package_facts(monkeypatch, text=None):
    """What setup.py tells setuptools; `text` in place of its own."""
    setuptools, facts = pytest.importorskip("setuptools"), {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: facts.update(given))
    monkeypatch.chdir(ROOT)
    source = text or page("setup.py")
    exec(compile(source, str(ROOT / "setup.py"), "exec"), {"__file__": str(ROOT / "setup.py"), "__name__": "setup"})
    return facts


def test_a_package_index_shows_no_dead_links(monkeypatch):
    facts = package_facts(monkeypatch)
    links = re.findall(r"\]\(([^)]*)\)", facts["long_description"])
    assert links and all(link.startswith(("http", "#")) for link in links)
    assert "`docs/pictures/first.png`" in facts["long_description"] and not facts["project_urls"]
    assert facts["long_description"].startswith("# fastsquid\n\n")


def test_with_an_address_links_are_absolute(monkeypatch):
    address = "https://example.org/fastsquid"
    facts = package_facts(monkeypatch, page("setup.py").replace("REPOSITORY = None", f'REPOSITORY = "{address}"'))
    assert f"]({address}/raw/main/docs/pictures/first.png)" in facts["long_description"]
    assert f"]({address}/blob/main/docs/README.md)" in facts["long_description"]
    links = re.findall(r"\]\(([^)]*)\)", facts["long_description"])
    assert all(link.startswith(("http", "#")) for link in links)
    assert facts["project_urls"] == {"Source": address}


def test_readme_is_short():
    assert len(README.splitlines()) <= 180 and len(README.split()) <= 1250


@pytest.mark.parametrize("name", ["README.md", "docs/python.md"])
def test_python_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where their temporary folders go
    examples = re.findall(r"```python\n(.*?)```", page(name), re.S)
    assert examples
    for example in examples:
        exec(compile(example, name, "exec"), {})


def test_results_are_the_committed_ones():
    def aucs(path):
        return [
            f"{m['auc']:.3f}"
            for m in json.loads((ROOT / "bench/results" / path / "summary.json").read_text())["scores"].values()
        ]

    digits = [row for row in rows(page("docs/results.md")) if row[0] in ("0", "1", "2") and len(row) == 6]
    assert len(digits) == 3
    for row in digits:
        assert row[2:] == aucs(f"digits/seed-{row[0]}")


def test_pages_have_the_tables_of_the_committed_files():
    for path in results_page.PAGES:
        assert results_page.filled(path) == path.read_text(encoding="utf-8"), "run python bench/results_page.py"


def test_readmes_prose_has_the_aucs_of_the_tables():
    committed = {row[0]: row for row in rows("\n".join(tables.xrays(ROOT / "bench/results/zhanglab/small")))}
    assert f"validation AUC of {committed['fastsquid'][4]}" in README
    assert f"SQUID's own score has {committed['squid'][4]}." in README
    runs = sorted((ROOT / "bench/results/zhanglab/small/squid").glob("seed-*"))
    by_image = results_page.mean_deviation(results_page.last_aucs(runs, "discriminator_image"))
    assert f"on the image itself, has\n{by_image}." in README


def test_marks_are_those_of_the_section_on_official_labels():
    section = page("docs/results.md").partition("## Official test labels")[2].partition("\n## ")[0]
    marked = {row[0].replace("`", ""): row for row in rows(section) if len(row) == 4}
    earlier = "fastsquid, earlier version", "fastsquid before the haze"
    checked = 0
    for (preset, size, score, what), auc in results_page.marks().items():
        if size == "small":
            row = marked[f"{preset.replace(*earlier)}, {score}"]
            assert row[{"validation": 1, "official test": 2}[what]] == auc
            checked += 1
        else:
            assert auc in section or preset in ("memae", "auto-encoder")  # docs/reproduce.md has all of the papers'
    assert checked == 8


@pytest.mark.parametrize("table, folder", [(tables.xrays, "zhanglab/small"), (tables.digits, "digits/fastsquid")])
def test_tables_are_of_the_committed_runs(table, folder):
    lines = table(ROOT / "bench" / "results" / folder)
    assert len(lines) > 2 and "\n".join(lines) in page("docs/results.md")
    assert (ROOT / "bench" / "results" / folder / "table.md").read_text().splitlines() == lines


def test_a_table_needs_no_synthetic_aucs(tmp_path):
    """Earlier versions wrote them into every line, and the table is the same without."""
    committed = ROOT / "bench" / "results" / "zhanglab" / "small" / "squid"
    for run in committed.glob("seed-*"):
        copy = tmp_path / "squid" / run.name
        copy.mkdir(parents=True)
        shutil.copy(run / "config.json", copy)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert all(line.pop("synthetic") for line in lines)
        (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    *_, row = tables.xrays(tmp_path)
    assert row in tables.xrays(committed.parent)


def test_studies_are_the_committed_ones():
    found, ranking = {}, {}
    for study in ("ablations", "contamination", "baselines", "sweep"):
        with open(ROOT / f"bench/results/studies/small/{study}.csv", newline="") as file:
            for row in csv.DictReader(file):
                assert float(row["seconds"]) < 120 and (row["seed"], row["epochs"]) == ("0", "8")
                if row["score"] == "patch_residual":
                    found[row["system"], row["row"]] = f"{float(row['auc']):.3f}"
                if row["ranks"] == "1":
                    ranking[row["system"], row["row"]] = f"{float(row['auc']):.3f}"
    named = [
        *(
            ("squid", "Full"),
            ("squid", "w/o Space-aware Memory"),
            ("simsid", "Full"),
            ("simsid", "w/o Space-aware Memory"),
        ),
        *(("squid", "w/o Decoder Memory"), ("simsid", "w/o Hierarchical Memory")),
        *((system, f"contamination {share}") for system in ("squid", "fastsquid") for share in ("0", "0.5")),
        *(("auto-encoder", "Full"), ("memae", "Full")),
    ]
    section = page("docs/results.md").partition("## Studies")[2].partition("\n## ")[0]
    classifiers = [ranking[system, "Full"] for system in ("cutpaste", "anatpaste")]
    assert re.findall(r"0\.\d{3}", section) == [*(found[row] for row in named), *classifiers]


@pytest.mark.parametrize("name, count", [("README.md", 5), ("docs/kernels.md", 7)])
def test_speeds_are_the_committed_ones(name, count):
    with open(ROOT / "bench/results/amd-epyc-2-threads.csv", newline="") as file:
        times = {
            (row["group"], row["case"], row["variant"]): float(row["p50_ms"])
            for row in csv.DictReader(file)
            if row["mode"] == "both"
        }
    named = {
        "two training iterations, `squid`": ("training iteration", "squid"),
        "two training iterations, `simsid`": ("training iteration", "simsid"),
        "scores of 16 X-rays, `squid`": ("scoring", "squid 16"),
        "scores of 16 X-rays, `simsid`": ("scoring", "simsid 16"),
        "in-painting block, 2 x 2, forward and backward": ("inpainting block", "squid 2x2"),
        "in-painting block, 4 x 4, forward and backward": ("inpainting block", "simsid 4x4"),
        "memory read, 16 x 100 x 512, forward and backward": ("memory read", "B16-R16-N100-C512"),
    }
    found = re.findall(r"^\| ((?:(?!H200).)*) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+)x \|$", page(name), re.M)
    assert len(found) == count
    for what, *cells in found:
        theirs, ours = times[(*named[what], "published")], times[(*named[what], "torch")]
        digits = 0 if theirs >= 20 else 1
        assert cells == [f"{theirs:.{digits}f}", f"{ours:.{digits}f}", f"{theirs / ours:.2f}"], what


def test_the_gpu_row_is_the_committed_one():
    with open(ROOT / "bench/results/h200/kernels.csv", newline="") as file:
        times = {
            row["variant"]: float(row["p50_ms"])
            for row in csv.DictReader(file)
            if (row["case"], row["mode"], row["dtype"]) == ("B16-R16-N100-C512", "both", "float32")
        }
    theirs, ours = times["published"], times["triton"]
    row = f"| the same memory read on an H200 | {theirs:.2f} | {ours:.3f} | {theirs / ours:.0f}x |"
    assert README.count(row) == 1
