"""MIMIC-CXR-JPG as released on PhysioNet (Johnson et al. 2019, versions 2.0.0 and 2.1.0).

Views: PA and AP. Healthy: No Finding = 1 in mimic-cxr-2.0.0-chexpert.csv, or if there is none in
mimic-cxr-2.0.0-negbio.csv, of another program with the same columns. Abnormal: any of CheXpert's 12 diseases = 1.
Left out: all other views, and studies with only uncertain or blank findings. A label belongs to a study, so it is that
of all its images. The split is the official one.
"""

from pathlib import Path

from ...errors import UserError
from ..listed import Listed, open_listed
from ..split import ReadOptions, Split
from ..tables import find_table, read_table
from .chexpert_labels import FINDINGS, Findings, read_findings

# Each as one of these: the first that is there.
TABLES = (("chexpert", "negbio"), ("split",), ("metadata",))
VIEWS = ("PA", "AP")
PARTS = {"train": "train", "validate": "val", "test": "test"}
_IMAGES = "p1[0-9]/p1[0-9][0-9][0-9][0-9][0-9][0-9][0-9]/s[0-9]*/*-*.jpg"


def is_mimic_cxr(root: Path) -> bool:
    """Return whether a folder has a table of MIMIC-CXR-JPG, or images in its folders."""
    if any(root.glob("mimic-cxr-2.*.csv*")):
        return True
    return any(next(folder.glob(_IMAGES), None) for folder in (root, root / "files") if folder.is_dir())


def open_mimic_cxr(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read the frontal images of MIMIC-CXR-JPG.

    Args:
        root: Path of the folder with the tables, as CSV or packed with `.gz`, and `files`.
        options: `ReadOptions`.

    Returns:
        dict of split name to Split, without the splits that have no images.

    Raises:
        UserError: a table or images are missing, a value is wrong, a study or an image is in one table and not in
            another, or as `listed.open_listed` raises it.
    """
    paths = {}
    for names in TABLES:
        files = [f"mimic-cxr-2.0.0-{name}.csv" for name in names]
        path = next(filter(None, (find_table(root, file) for file in files)), None)
        if path is None:
            raise UserError(
                f"{root} is MIMIC-CXR-JPG but {files[0]}.gz is missing: download it from "
                "https://physionet.org/content/mimic-cxr-jpg and put it beside the folder files"
            )
        paths[names[0]] = path
    findings = _read_findings(paths["chexpert"])
    splits = _read_splits(paths["split"])
    folder = root if any(root.glob("p1[0-9]")) else root / "files"
    rows: dict[str, list[Listed]] = {name: [] for name in PARTS.values()}
    columns = ("dicom_id", "subject_id", "study_id", "ViewPosition")
    for line, row in read_table(paths["metadata"], columns):
        image, patient, study, view = (row[name].strip() for name in columns)
        label, diseases = findings.get((patient, study), Findings(None, ()))
        if label is None or view.upper() not in VIEWS:
            continue
        if image not in splits:
            raise UserError(
                f"{paths['metadata']} line {line}: {options.names.quote(image)} is not in {paths['split'].name}: "
                "download both of them again"
            )
        path = folder / f"p{patient[:2]}" / f"p{patient}" / f"s{study}" / f"{image}.jpg"
        rows[splits[image]].append(Listed(path, label, patient, diseases))
    if not any(rows.values()):
        raise UserError(
            f"{root} lists no frontal images with clear findings: {', '.join(path.name for path in paths.values())} do "
            "not belong together. Download them again"
        )
    return open_listed(root, rows, options)


def _read_findings(path: Path) -> dict[tuple[str, str], Findings]:
    """Return {(subject, study): its findings}."""
    found: dict[tuple[str, str], Findings] = {}
    for line, row in read_table(path, ("subject_id", "study_id", *FINDINGS)):
        study = row["subject_id"].strip(), row["study_id"].strip()
        if study in found:
            raise UserError(f"{path} line {line}: the study {study[1]} is there twice: keep one of its rows")
        found[study] = read_findings(row, f"{path} line {line}")
    return found


def _read_splits(path: Path) -> dict[str, str]:
    """Return {image: its split}."""
    found: dict[str, str] = {}
    for line, row in read_table(path, ("dicom_id", "split")):
        part = row["split"].strip().lower()
        if part not in PARTS:
            raise UserError(f"{path} line {line}: split is {row['split']!r}, it should be one of {', '.join(PARTS)}")
        found[row["dicom_id"].strip()] = PARTS[part]
    return found
