"""The 14 findings of CheXpert's labeler, which CheXpert, CheXpert Plus and MIMIC-CXR-JPG share."""

from collections.abc import Mapping
from typing import NamedTuple

from ...errors import UserError
from ..tables import whole_number

DISEASES = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
)
FINDINGS = ("No Finding", *DISEASES)


class Findings(NamedTuple):
    """What a row says.

    Attributes:
        label: 0 if No Finding is 1 and no disease is; 1 if a disease is 1; None for rows with neither, which have only
            uncertain or blank findings, or a support device.
        diseases: names of those that are 1.
    """

    label: int | None
    diseases: tuple[str, ...]


def read_findings(row: Mapping[str, str], where: str) -> Findings:
    """Return the findings of a row.

    Args:
        row: {column: text}, with the columns `FINDINGS`: 1, 0, -1 (uncertain) or blank.
        where: file and line, for messages.

    Raises:
        UserError: a finding has another value.
    """
    diseases = tuple(name for name in DISEASES if _read(row, name, where) == 1)
    healthy = _read(row, "No Finding", where) == 1
    return Findings(1 if diseases else 0 if healthy else None, diseases)


def _read(row: Mapping[str, str], name: str, where: str) -> int:
    text = row[name].strip()
    try:
        number = whole_number(text or "0")
        if abs(number) > 1:
            raise ValueError
    except ValueError:
        raise UserError(f"{where}: {name} is {text!r}, it should be 1, 0, -1 or blank") from None
    return number
