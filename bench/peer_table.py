"""`python bench/peer_table.py OUT`: what is small of bench/peers.py's runs to bench/results/peers, and their tables.

`peers.csv` has one row per run, `peers.md` one per method. bench/results_page.py copies that into docs/results.md.
"""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from peer_methods import LEFT_OUT
from scipy import stats

from fastsquid.utils.files import replacing

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "peers"
RECORD = "record.json"
COLUMNS = ("method", "library", "version", "seed", "train_s", "images_per_s", "peak_mb", "auc", "settings", "failed")


def read_records(folder):
    """The records of all runs in a folder, by method and seed; a list of dicts."""
    paths = sorted(folder.glob(f"*/seed-*/{RECORD}"))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return sorted(found, key=lambda record: (record["library"], record["method"], record["seed"]))


def interval(values):
    """95 % t-interval of the mean of AUCs, within [0, 1]; None for fewer than two."""
    if len(values) < 2:
        return None
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return max(0.0, np.mean(values) - half), min(1.0, np.mean(values) + half)


def auc_text(values):
    """A cell: the mean AUC, and its interval over seeds where there are several."""
    ends = interval(values)
    return f"{np.mean(values):.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def table(records):
    """Lines of a Markdown table, one row per method. A method has a cell per figure, or says why it failed."""
    result = [
        "| method | library | seeds | training, s | images/s | peak memory, MB | validation AUC | settings |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for name in dict.fromkeys(record["method"] for record in records):
        runs = [record for record in records if record["method"] == name]
        good = [record for record in runs if "failed" not in record]
        cells = [f"`{name}`", f"{runs[0]['library']} {runs[0]['version']}".strip(), str(len(good))]
        if good:
            means = [np.mean([record[key] for record in good]) for key in ("train_s", "images_per_s")]
            cells += [f"{mean:,.0f}" if mean >= 10 else f"{mean:.1f}" for mean in means]
            cells += [f"{max(record['peak_mb'] for record in good):,.0f}", auc_text([run["auc"] for run in good])]
        else:
            cells += [""] * 4
        said = list(dict.fromkeys(run["settings"] for run in good if run["settings"]))
        said += [] if runs[0]["random"] else ["the same for every seed"]
        said += [f"seed {run['seed']} failed: {run['failed']}" for run in runs if "failed" in run]
        result.append(f"| {' | '.join([*cells, '; '.join(said).replace('|', '/')])} |")
    return result


def lines_of(records):
    """Lines of peers.md: where it was measured, the table, and what is left out."""
    about = dict.fromkeys(
        f"{record['about']['device']}, Python {record['about']['python']}, PyTorch {record['about']['torch']}, "
        f"{record['about']['date']}"
        for record in records
    )
    sizes = dict.fromkeys(
        f"{record['image_size']} x {record['image_size']} pixels: "
        + ", ".join(f"{count:,} {split}" for split, count in record["images"].items())
        for record in records
        if "images" in record
    )
    commands = dict.fromkeys(record["command"] for record in records)
    return [
        f"Measured on {'; '.join(about)}.",
        f"Images: {'; '.join(sizes)}.",
        "",
        *table(records),
        "",
        "Commands:",
        "",
        *(f"- `{command}`" for command in commands),
        "",
        "Left out:",
        "",
        *(f"- {what}: {why}." for what, why in LEFT_OUT.items()),
    ]


def write_tables(folder):
    """Writes peers.md and peers.csv of the runs in a folder; returns the table's lines."""
    records = read_records(folder)
    with replacing(folder / "peers.md") as file:
        file.write("\n".join(lines_of(records)) + "\n")
    with replacing(folder / "peers.csv") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for record in records:
            writer.writerow({key: f"{v:.5g}" if isinstance(v, float) else v for key, v in record.items()})
    return table(records)


def keep(out, target):
    """Copies records and scores, no weights; runs in the target that are not in `out` stay."""
    for path in sorted(out.glob(f"*/seed-*/{RECORD}")):
        folder = target / path.parent.relative_to(out)
        folder.mkdir(parents=True, exist_ok=True)
        for source in (path, *sorted(path.parent.glob("scores-*.csv"))):
            shutil.copy(source, folder)


def main():
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        print("error: give the folder that bench/peers.py wrote", file=sys.stderr)
        sys.exit(2)
    keep(Path(sys.argv[1]), RESULTS)
    write_tables(RESULTS)


if __name__ == "__main__":
    main()
