"""CheXpert Plus as released (Chambon et al. 2024): CheXpert's images as PNG, a CSV of reports, labels in JSON lines.

Views, labels and split are those of CheXpert (`chexpert`): "test" is drawn from the train part, and "val" is the valid
part.

The labels are `report_fixed.json`, of whole reports. `findings_fixed.json` is never read: a report without a section of
findings has No Finding = 1 there, whatever its impression says.
"""

from collections.abc import Sequence
from pathlib import Path

from ...errors import UserError
from ..records import read_json_lines
from ..split import ReadOptions, Split
from ..tables import find_table, read_table
from .chexpert import Row, hold_out, open_rows, patient_of
from .chexpert_labels import FINDINGS, Findings, read_findings

CSV = "df_chexpert_plus_240401.csv"
LABELS = "report_fixed.json"
COLUMNS = ("path_to_image", "frontal_lateral", "ap_pa", "split")
PARTS = {"train": "train", "valid": "val"}


def is_chexpert_plus(root: Path) -> bool:
    """Return whether a folder has the CSV of CheXpert Plus, or its labels."""
    return find_table(root, CSV) is not None or _find_labels(root) is not None


def open_chexpert_plus(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read the frontal PA images of CheXpert Plus.

    Args:
        root: Path of the folder with the CSV, the labels (there or one folder deeper) and the images, in `PNG`, or
            JPEG files in a folder of CheXpert.
        options: `ReadOptions`.

    Returns:
        dict of split name to Split, as `chexpert.open_chexpert` returns it. Names are relative to `root`.

    Raises:
        UserError: a file is missing, a value is wrong, or there is no normal image to train on.
    """
    path, labels = find_table(root, CSV), _find_labels(root)
    if path is None or labels is None:
        what = CSV if path is None else f"{LABELS} (of chexbert_labels.zip)"
        raise UserError(f"{root} is CheXpert Plus but {what} is missing: put it into this folder")
    rows = _read_rows(path, _read_labels(labels, options), options)
    rows["train"], rows["test"] = hold_out(rows["train"])
    if "train" in options.splits and not rows["train"]:
        raise UserError(f"{root} has no normal images to train on: it needs frontal PA images with No Finding = 1")
    folders = [root, *(path for part in ("PNG*", "PNG*/PNG*", "CheXpert*") for path in sorted(root.glob(part)))]
    files = {name: [_resolve(folders, row.path) for row in rows[name]] for name in options.splits if rows.get(name)}
    return open_rows(root, "CheXpert Plus", rows, files, options)


def _find_labels(root: Path) -> Path | None:
    return next((path for part in (LABELS, f"*/{LABELS}") for path in sorted(root.glob(part))), None)


def _read_labels(path: Path, options: ReadOptions) -> dict[str, Findings]:
    """Return {path of an image: its findings}."""
    found: dict[str, Findings] = {}
    for number, row in read_json_lines(path):
        where = f"{path} line {number}"
        if missing := [name for name in ("path_to_image", *FINDINGS) if name not in row]:
            raise UserError(f"{where} has no {missing[0]!r}: give the file as it was released")
        texts = {name: "" if row[name] is None else str(row[name]) for name in FINDINGS}
        name, findings = str(row["path_to_image"]), read_findings(texts, where)
        if found.setdefault(name, findings) != findings:
            raise UserError(f"{where}: {options.names.quote(name)} has other findings than in an earlier line")
    return found


def _read_rows(path: Path, findings: dict[str, Findings], options: ReadOptions) -> dict[str, list[Row]]:
    """Return {part: its frontal PA images that are clearly normal or abnormal}."""
    rows: dict[str, list[Row]] = {name: [] for name in PARTS.values()}
    known = 0
    for line, row in read_table(path, COLUMNS):
        where = f"{path} line {line}"
        file, *view, split = (row[name].strip() for name in COLUMNS)
        if split.lower() not in PARTS:
            raise UserError(f"{where}: split is {split!r}, it should be {' or '.join(PARTS)}")
        label, diseases = findings.get(file, Findings(None, ()))
        known += file in findings
        if label is not None and [text.lower() for text in view] == ["frontal", "pa"]:
            patient = patient_of(file, where, options.names)
            rows[PARTS[split.lower()]].append(Row(file, patient, label, diseases))
    if not known:
        raise UserError(f"{LABELS} has labels for none of the images in {path}: download both of them again")
    return rows


def _resolve(folders: Sequence[Path], name: str) -> Path:
    """Return the PNG file of a row, or else the JPEG file that it names; as PNG in the first folder for errors."""
    written = Path(name)
    candidates = [folder / file for file in (written.with_suffix(".png"), written) for folder in folders]
    return next((path for path in candidates if path.is_file()), candidates[0])
