"""The README's Python examples run as they stand, its local links exist, and its numbers are the committed ones."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_examples_run():
    examples = re.findall(r"```python\n(.*?)```", README, re.S)
    assert examples
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})


def test_links_exist():
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_results_are_the_committed_ones():
    def aucs(path):
        return [
            f"{m['auc']:.3f}"
            for m in json.loads((ROOT / "bench/results" / path / "summary.json").read_text())["scores"].values()
        ]

    rows = [
        [cell.strip(" *`") for cell in line.strip("|").split("|")]
        for line in README.splitlines()
        if line.startswith("| ")
    ]
    digits = [row for row in rows if row[0] in ("0", "1", "2")]
    assert len(digits) == 3
    for row in digits:
        assert row[2:] == aucs(f"digits/seed-{row[0]}")
    xrays = {
        "squid-small": "squid-small-12-epochs",
        "simsid-small": "simsid-small-12-epochs",
        "simsid": "simsid-1-epoch",
    }
    found = [row for row in rows if row[0] in xrays and len(row) == 10]
    assert len(found) == 3
    for row in found:
        assert row[6:] == aucs(f"zhanglab/{xrays[row[0]]}")
