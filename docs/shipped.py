"""Write docs/shipped-examples.md: which images that other projects ship are read, and why the others are rejected.

    python docs/shipped.py PILLOW

PILLOW is the folder Tests/images of Pillow's source distribution. pydicom's files are those of the installed package.
"""

import re
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import pydicom
from pydicom.uid import DigitalXRayImageStorageForPresentation

from fastsquid.data.images import ImageError, read_image

PAGE = Path(__file__).with_name("shipped-examples.md")
PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
NAMES = 6  # of files per row
HEAD = """# Images that other projects ship

Written by `python docs/shipped.py`. Each file was read as `score` reads it. A number in a reason is written as `#`.

The packages of GDCM and Pillow ship no images. Pillow's are from its source distribution {pillow}.
"""
CHEST = {"Modality": "DX", "BodyPartExamined": "CHEST", "ViewPosition": "PA", "PatientOrientation": ["L", "F"]}


def outcome(path: Path) -> str:
    """Return `read`, or the reason why a file is rejected."""
    try:
        read_image(path, 64, "x")
    except ImageError as error:
        return re.sub(r"\d+", "#", str(error).partition("(")[2].rpartition("): ")[0])
    return "read"


def as_chest(path: Path, folder: Path) -> str:
    """Return the outcome of a DICOM file that is changed to a chest radiograph by its tags."""
    try:
        dataset = pydicom.dcmread(path, force=True)
        if "PixelData" not in dataset:
            return "it has no pixels"
        for name, value in CHEST.items():
            setattr(dataset, name, value)
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
        dataset.save_as(folder / "x.dcm", enforce_file_format=True)
    except Exception:  # of a damaged file, almost anything
        return "pydicom does not write it again"
    return outcome(folder / "x.dcm")


def table(paths: Iterable[Path], of: Callable[[Path], str]) -> list[str]:
    """Return the lines of a table of outcomes, the most frequent first, with the names of a few files."""
    found = defaultdict(list)
    for path in paths:
        found[of(path)].append(path.name)
    lines = ["| files | outcome | names |", "|---|---|---|"]
    for reason, names in sorted(found.items(), key=lambda pair: (pair[0] != "read", -len(pair[1]), pair[0])):
        shown = " ".join(f"`{name}`" for name in names[:NAMES])
        lines.append(f"| {len(names)} | {reason} | {shown}{' ...' * (len(names) > NAMES)} |")
    return lines


def pydicom_tables() -> str:
    """Return the section on pydicom's files."""
    paths = sorted(path for path in PYDICOM.rglob("*") if path.is_file() and path.suffix in ("", ".dcm"))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # many files are odd on purpose
        changed = table(paths, lambda path: as_chest(path, Path(folder)))
        plain = table(paths, outcome)
    names = ", ".join([*CHEST, "SOPClassUID"])
    return "\n".join(
        [
            f"## pydicom {pydicom.__version__}",
            "",
            "As they are. None is a chest radiograph, so all are rejected.",
            "",
            *plain,
            "",
            f"With tags of a chest radiograph in place of theirs ({names}), so that the pixels decide.",
            "",
            *changed,
            "",
        ]
    )


def main() -> None:
    """Write the page."""
    folder = Path(sys.argv[1])
    pillow = table(sorted(path for path in folder.rglob("*") if path.is_file()), outcome)
    version = folder.parent.parent.name.removeprefix("pillow-")
    head = HEAD.format(pillow=version)
    PAGE.write_text("\n".join([head, pydicom_tables(), f"## Pillow {version}", "", *pillow, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
