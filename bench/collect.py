"""`python bench/collect.py RUN TARGET`: what is small of a finished run, or of a group's finished runs, to be kept.

Configuration, metrics of every epoch, scores and summary, no weights; of paths their last part. Also locate.json, and
the evaluation.json that `fastsquid.evaluate RUN --robustness --json RUN/evaluation.json` wrote. A single run that has
not finished has only configuration and metrics: give it with `--unfinished`.
"""

import json
import shutil
import sys
from pathlib import Path

SMALL = ("metrics.jsonl", "summary.json", "scores-*.csv", "evaluation.json", "localization/locate.json")


def collect(run, target, more=()):
    """Copies a run folder's, or a group folder's; runs without summary.json have not finished and are left out.

    Args:
        run, target: Paths; the target is made, and files of earlier runs in it replaced.
        more: names of further files that are copied where a run has them.
    """
    inside = [path for path in sorted(run.glob("seed-*")) if (path / "summary.json").is_file()]
    for path in inside:
        collect(path, target / path.name, more)
    if not inside and not (run / "summary.json").is_file():
        print(
            f"error: {run} has no finished run: continue with python -m fastsquid.train --resume {run}", file=sys.stderr
        )
        sys.exit(2)
    keep(run, target, more)


def keep(run, target, more=()):
    """Copies what is small of one folder, finished or not; as `collect`."""
    target.mkdir(parents=True, exist_ok=True)
    for pattern in SMALL:  # of an earlier run
        for path in target.glob(Path(pattern).name):
            path.unlink()
    for name in ("config.json", "group.json"):
        if (run / name).is_file():
            record = json.loads((run / name).read_text(encoding="utf-8"))
            record["data"] = record["data"] and Path(record["data"]).name
            if record.get("init"):
                record["init"]["run"] = Path(record["init"]["run"]).name
            (target / name).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for pattern in (*SMALL, *more):
        for path in run.glob(pattern):
            shutil.copy(path, target / path.name)


if __name__ == "__main__":
    folders = [Path(argument) for argument in sys.argv[1:] if argument != "--unfinished"]
    if len(folders) != 2:
        print("error: give a run or group folder and where to keep what is small of it", file=sys.stderr)
        sys.exit(2)
    if "--unfinished" in sys.argv:
        keep(*folders)
    else:
        collect(*folders)
