"""`python bench/tables.py [X-RAYS [DIGITS]]`: committed runs as tables of docs/results.md, table.md in each folder.

X-RAYS (bench/results/zhanglab/small): a folder a preset, `seed-N` in it, as bench/collect.py leaves them, of runs
trained. AUC of the own score of each on validation; the mean is over clean images and those perturbations of them that
every run with `--monitor true` was monitored with.
DIGITS (bench/results/digits/fastsquid): `seed-N` with what fastsquid.locate wrote beside it.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np

from fastsquid.drawing.curves import mean_deviation

ORDER = ("squid", "simsid", "fastsquid", "memae", "auto-encoder", "cutpaste", "anatpaste")
TAIL = 5  # epochs whose spread is reported


def fill(text, made):
    """A page's text with every table that `made` names: {name: function that returns its lines}."""
    for name, lines in made.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        assert re.search(pattern, text, re.S), f"the page has no place for {name}"
        body = "\n".join(lines())
        text = re.sub(pattern, lambda found, body=body: f"{found[1]}{body}\n{found[2]}", text, flags=re.S)
    return text


def read_lines(run):
    """metrics.jsonl of a run's folder: a list of dicts, one per epoch."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def own_score(run):
    """Name of the score that the run in a folder is ranked by."""
    return json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]["score"]


def battery(line, score, names):
    """Mean AUC of a score over clean and perturbed validation images after one epoch.

    Args:
        line: of `read_lines`.
        score: its name.
        names: of the perturbations.
    """
    perturbed = line["perturbed"]
    return np.mean([line["validation"][score], *(perturbed[name][score] for name in names)])


def numbers(run, names):
    """Three AUCs that the table gives of the monitored run in a folder, and the spread of the last of them."""
    score, lines = own_score(run), read_lines(run)
    mean = [battery(line, score, names) for line in lines]
    return (*clean_numbers(run), mean[-1]), np.std(mean[-TAIL:], ddof=1)


def clean_numbers(run):
    """The best and the last AUC on validation of the run in a folder."""
    clean = [line["validation"][own_score(run)] for line in read_lines(run)]
    return max(clean), clean[-1]


def is_monitored(run):
    """Whether the run in a folder was trained with `--monitor true`."""
    return "perturbed" in read_lines(run)[0]


def monitored(runs):
    """Names of the perturbations that every monitored one of these runs was monitored with."""
    found = [read_lines(run)[0]["perturbed"] for run in runs if is_monitored(run)]
    return [name for name in found[0] if all(name in other for other in found)] if found else []


def xrays(folder):
    """Lines of a Markdown table, one row per preset."""
    runs = {preset: sorted((folder / preset).glob("seed-*")) for preset in ORDER}
    names = monitored(run for found in runs.values() for run in found)
    result = [
        "| preset | score | seeds | selected by validation AUC | last epoch | "
        "mean over perturbations, last epoch | spread of that mean, last five epochs |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for preset, found in runs.items():
        if not found:
            continue
        if all(map(is_monitored, found)):
            aucs, spreads = zip(*(numbers(run, names) for run in found))
            cells = [*map(mean_deviation, zip(*aucs)), f"{np.mean(spreads):.4f}"]
        else:
            cells = [*map(mean_deviation, zip(*map(clean_numbers, found))), "not measured", "not measured"]
        result.append(f"| `{preset}` | `{own_score(found[0])}` | {len(found)} | {' | '.join(cells)} |")
    return result


def digits(folder):
    """Lines of a Markdown table, one row per seed."""
    result = []
    for run in sorted(folder.glob("seed-*")):
        found = json.loads((run / "locate.json").read_text(encoding="utf-8"))
        (score,) = (aucs for name, aucs in found["image_auc"].items() if name.startswith("score: "))
        kinds = score["auc_by_kind"]
        nearest = [found["image_auc"][name]["auc"] for name in ("nearest_image", "nearest_patch")]
        cells = [found["cell_auc"][name]["auc"] for name in ("residual", "nearest_patch")]
        if not result:
            result = [
                f"| seed | all | {' | '.join(kinds)} | nearest images | nearest cells "
                "| cells, residual | cells, nearest |",
                "|---" * (len(kinds) + 6) + "|",
            ]
        aucs = [score["auc"], *kinds.values(), *nearest, *cells]
        result.append(f"| {run.name.removeprefix('seed-')} | " + " | ".join(f"{auc:.3f}" for auc in aucs) + " |")
    return result


def main():
    results = Path(__file__).parent / "results"
    folders = [Path(argument) for argument in sys.argv[1:]]
    for folder, table in zip(
        folders or (results / "zhanglab" / "small", results / "digits" / "fastsquid"), (xrays, digits)
    ):
        lines = table(folder)
        (folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines), end="\n\n")


if __name__ == "__main__":
    main()
