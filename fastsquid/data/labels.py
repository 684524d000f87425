"""What says that images may not all be healthy: label files, and folders that are named like classes."""

import csv
import gzip
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePath

from ..config import SCORES
from ..errors import UserError
from ..utils.files import require_regular
from .filetypes import ImageFile
from .finding import Found
from .names import Names
from .tables import decode

_SPREADSHEETS = frozenset((".ods", ".xls", ".xlsm", ".xlsx"))
_TABLES = frozenset((".csv", ".tsv"))
_RECORDS = frozenset((".json", ".jsonl", ".ndjson"))
_TEXTS = frozenset((".txt", ".xml"))
_OTHERS = frozenset(
    (".feather", ".h5", ".hdf5", ".mat", ".npy", ".npz", ".parquet", ".pickle", ".pkl", ".yaml", ".yml")
)
_NAMES = frozenset(  # words in the name of a label file
    "annotation annotations annot bbox bboxes class classes coco diagnoses diagnosis entry finding findings labeled "
    "labelled label labels meta metadata reports target targets truth".split()
)
_ABNORMAL = frozenset(  # words in the name of a class whose images are not healthy
    "abnormal abnormalities abnormality anomalies anomalous anomaly atelectasis bacteria bacterial cancer cancers "
    "cardiomegaly consolidation consolidations covid covid19 disease diseased diseases edema effusion effusions "
    "emphysema fibrosis fracture fractures hernia hernias infected infiltrate infiltrates infiltration infiltrations "
    "lesion lesions malignant mass masses metastases metastasis nodule nodules oedema opacities opacity pathological "
    "pneumonia pneumonias pneumothorax positive positives sick tb tuberculosis tumor tumors tumour tumours viral "
    "virus".split()
)
_KEYS = frozenset(  # words in a key of JSON, or in a column, that holds labels
    "annotation annotations category categories class classes diagnoses diagnosis diseases encodedpixels finding "
    "findings impression label labels pathologies pathology".split()
)
_COLUMNS = _KEYS | _ABNORMAL | {"healthy", "normal", "target", "targets"}
_CLASSES = frozenset(("category", "class", "grade", "label"))  # words in the name of a numbered class folder
_NEUTRAL = frozenset(  # words in the name of a folder that is no class
    "adult adults ap batch chest child children converted cropped data dicom dicoms export female files frontal image "
    "images img imgs jpeg jpg lateral left lung lungs male new old original pa part pictures png raw right scans set "
    "view views xray xrays ray rays".split()
)
_MOST_CLASSES = 20
_HEAD = 2**16  # bytes of a file that are looked at
_OR_ALL = ", or give --all-normal if all of them are healthy"
_USE_NORMAL = f"there is no folder NORMAL. Put the healthy images into train/NORMAL{_OR_ALL}"


def require_all_normal(root: Path, found: Found, names: Names, remedy: str = _USE_NORMAL) -> None:
    """Reject a plain folder whose images are not known to be healthy.

    Two things say so. First, a label file in the folder, or in the two folders above it (`_is_label_file`). Above a
    folder that is NORMAL, or in one, none counts. Second, class folders: two folders or more beside each other that
    are named like classes, or a single one that is named like a disease (`_are_classes`).

    Args:
        root: the folder.
        found: its files.
        names: what messages call files.
        remedy: the end of the message.

    Raises:
        UserError: names the label files or the class folders, and what to do.
    """
    folders = _class_folders(root, [path.relative_to(root) for path in found.images])
    _reject(root, list(islice(_label_files(root, found), 4)), folders, names, remedy)


def require_all_normal_samples(
    root: Path, images: Sequence[PurePath], notes: Iterable[ImageFile], names: Names
) -> None:
    """Reject samples of shards without classes whose images are not known to be healthy.

    Two things say so. First, a text or XML file in a sample, or JSON with a key of labels. Second, folders in the
    archives that are named like classes.

    Args:
        root: the folder of the shards.
        images: paths inside the training shards.
        notes: text files beside them in their samples.
        names: what messages call files.

    Raises:
        UserError: names the label files or the class folders, and what to do.
    """
    files = islice(filter(_may_hold_a_label, notes), 4)
    named = [Path(note.as_posix()).relative_to(root) for note in files]
    remedy = f"no image has a class. Write a .cls beside every image, 0 for normal and 1 for abnormal{_OR_ALL}"
    _reject(root, named, _class_folders(root, images), names, remedy)


def _may_hold_a_label(note: ImageFile) -> bool:
    if note.suffix.lower() != ".json":
        return True
    try:
        return _has_label_keys(decode(note.read_bytes()[:_HEAD], errors="replace"), None)
    except OSError:  # too large to be read
        return True


def _reject(root: Path, files: Sequence[Path], folders: Sequence[str], names: Names, remedy: str) -> None:
    reasons = []
    if files:
        reasons.append(f"it comes with the label file{'s' * (len(files) > 1)} {_first(files, names)}")
    if folders:
        looks = "s {} look like classes" if len(folders) > 1 else " {} looks like a class"
        reasons.append(f"the folder{looks.format(_first(folders, names))}")
    if reasons:
        raise UserError(f"it is not known which images of {root} are healthy: {', '.join(reasons)}, and {remedy}")


def _first(found: Sequence[Path | str], names: Names) -> str:
    return ", ".join(names.quote(str(one)) for one in found[:3]) + " and more" * (len(found) > 3)


def _label_files(root: Path, found: Found) -> Iterator[Path]:
    stems = {path.stem.lower() for path in found.images}
    for path in found.others:
        if _is_label_file(path, stems, inside=True):
            yield path.relative_to(root)
    above = root.resolve()
    for _ in range(2):
        if above.name.lower() == "normal" or above == above.parent:
            return
        above = above.parent
        try:
            files = sorted(path for path in above.iterdir() if path.is_file())
        except OSError:  # a folder above may be closed to us
            return
        yield from (path for path in files if not path.name.startswith(".") and _is_label_file(path, stems))


def _is_label_file(path: Path, stems: set[str], inside: bool = False) -> bool:
    """Return whether a file says what is seen in images.

    A table does if its first line has a column of labels, or if it lists one of the images. A spreadsheet does beside
    or below the images, and above them by the same rule. JSON does if it has a key of labels; above the images it also
    names one of them. A text or XML file does beside or below the images if it is named as one of them. Of all these
    and of other formats of data, a name such as `labels` or `metadata` is enough. What fastsquid writes does not.

    Args:
        path: of the file.
        stems: of the images, in lower case.
        inside: whether it lies beside or below the images.
    """
    unpacked = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    stem, suffix = unpacked.stem, unpacked.suffix.lower()
    named = bool(_words(stem) & _NAMES)
    if stem.lower().startswith(("readme", "license", "~$")):
        return False
    if suffix in _SPREADSHEETS:
        return inside or named or _has_labels(_strings(path), stems)
    if suffix in _TABLES:
        lines = _lines(path)
        return not _is_ours(lines) and (named or _has_labels(lines, stems))
    if suffix in _RECORDS:
        return named or _has_label_keys(_head(path), None if inside else stems)
    if suffix in _TEXTS:
        return named or inside and stem.lower() in stems
    return suffix in _OTHERS and named


def _words(text: str) -> set[str]:
    """Return the words of a name in lower case: `Finding Labels`, `class_name`, `ImageLabels`."""
    return set(re.findall(r"[a-z]+(?:19)?", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower()))


def _head(path: Path) -> str:
    try:
        require_regular(path)
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
            return decode(file.read(_HEAD), errors="replace")
    except (OSError, EOFError, zlib.error, UserError):
        return ""


def _lines(path: Path) -> list[list[str]]:
    """Return the cells of the first two lines of a table."""
    lines = [line for line in _head(path).splitlines() if line.strip()][:2]
    mark = max(",;\t|", key=lines[0].count) if lines else ","
    try:
        return list(csv.reader(lines, delimiter=mark))
    except csv.Error:
        return []


def _strings(path: Path) -> list[list[str]]:
    """Return the first texts in the cells of a spreadsheet, as one line; nothing of the older formats."""
    try:
        require_regular(path)
        with zipfile.ZipFile(path) as archive, archive.open("xl/sharedStrings.xml") as file:
            text = file.read(_HEAD).decode(errors="replace")
    except Exception:  # a damaged archive makes zipfile and its decoders raise almost anything
        return []
    return [re.findall(r"<t[^>]*>([^<]*)</t>", text)[:100]]


def _is_ours(lines: list[list[str]]) -> bool:
    return bool(lines) and lines[0][:1] == ["name"] and bool({*SCORES, "score"}.intersection(lines[0]))


def _has_labels(lines: list[list[str]], stems: set[str]) -> bool:
    if not lines or max(map(len, lines)) < 2:
        return False
    listed = (Path(cell.strip().lower()) for line in lines for cell in line)
    return any(_words(cell) & _COLUMNS for cell in lines[0]) or any({path.name, path.stem} & stems for path in listed)


def _has_label_keys(text: str, stems: set[str] | None) -> bool:
    """Return whether JSON has a key of labels and, where stems are given, one of them as the name of a file."""
    if not any(_words(key) & _KEYS for key in re.findall(r'"([\w -]{1,40})"\s*:', text)):
        return False
    return stems is None or any(Path(value).stem in stems for value in re.findall(r'"([^"\n]{1,200})"', text.lower()))


def _is_neutral(name: str) -> bool:
    """Return whether all words in the name of a folder say nothing of a class. Letters do not, as in `images_a`."""
    return all(len(word) == 1 or word in _NEUTRAL for word in _words(name))


def _class_folders(root: Path, images: Sequence[PurePath]) -> list[str]:
    """Return names of folders that look like classes, beside each other in `root` or deeper; or [].

    Args:
        root: the folder.
        images: paths below it.
    """
    if _words(root.resolve().name) & _ABNORMAL:
        return [root.resolve().name]
    inside: dict[PurePath, set[str]] = {}
    for path in images:
        parts = path.parts[:-1]
        for depth, name in enumerate(parts):
            inside.setdefault(PurePath(*parts[:depth]), set()).add(name)
    return next((sorted(beside) for beside in inside.values() if _are_classes(beside)), [])


def _are_classes(beside: set[str]) -> bool:
    """Return whether folders beside each other are named like classes.

    A word for a disease in one of their names is enough. Two folders or more are classes if each has the name of a
    class, if they are numbered 0, 1, ..., or if their names are different words, at most 20. Digits before or after a
    word do not count: `healthy1` and `sick2` are classes, `patient1` and `patient2` are not. Names of words such as
    `images`, `frontal` or `female` alone are no classes.
    """
    if any(_words(name) & _ABNORMAL for name in beside):
        return True
    if not 2 <= len(beside) <= _MOST_CLASSES:
        return False
    if all(_words(name) & _CLASSES for name in beside) or beside == set(map(str, range(len(beside)))):
        return True
    words = {re.sub(r"^[\W\d_]+|[\W\d_]+$", "", name).lower() for name in beside} - {""}
    return len(words) > 1 and not any(re.search(r"\d", word) or len(word) < 2 or _is_neutral(word) for word in words)
