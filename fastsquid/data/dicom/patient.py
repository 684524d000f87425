"""The patient of a DICOM file: a hash of the ID, and the age. Neither ID nor age is printed."""

from __future__ import annotations

import hashlib
import re
from datetime import date, datetime
from typing import TYPE_CHECKING, NamedTuple

from .tags import RejectedError, text

if TYPE_CHECKING:
    from pydicom import Dataset

# Of PatientID, in capital letters and digits: what programs write in the place of an ID.
_NOBODY = frozenset(
    "ANON ANONYM ANONYMIZED ANONYMISED ANONYMOUS DEIDENTIFIED DELETED DUMMY HIDDEN NA NAN NIL NOID NONE NULL PATIENT "
    "PATIENTID REDACTED REMOVED UNKNOWN".split()
)
_OLDEST = 130  # years; releases with higher ages, such as 148Y and 999Y, use them as placeholders
_STUDIED = ("StudyDate", "AcquisitionDate", "SeriesDate", "ContentDate")
_NO_BIRTH_DATE = date(1900, 1, 1)  # and earlier: placeholders
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}  # of a unit of age


class Patient(NamedTuple):
    """The patient of a file.

    Attributes:
        identity: sha256 of PatientID; None where there is none, or one that stands for nobody: `ANONYMOUS`, `0`, `-`
            and the like. IssuerOfPatientID is left out, although two hospitals may give one ID to two people: if only
            one split had it, it would hide a shared patient.
        age: in years. Without PatientAge it is the time from PatientBirthDate to the study. None where there is none, a
            malformed one, or a placeholder: 000Y, 130 years and more, or a birth date of 1900-01-01 or earlier.
        malformed_age: whether PatientAge has text that is no age of VR AS, such as `51`.
    """

    identity: bytes | None
    age: float | None
    malformed_age: bool = False


def patient_of(dataset: Dataset) -> Patient:
    """Return the patient of a dataset.

    Source: DICOM PS3.5, section 6.2 (VR AS: three digits and D, W, M or Y).
    """
    return Patient(_identity(dataset), *_age(dataset))


def _identity(dataset):
    try:
        patient = text(dataset, "PatientID")
    except RejectedError:
        return None
    letters = re.sub("[^A-Z0-9]", "", patient.upper()) if patient.isascii() else patient
    if not letters.strip("0X") or letters in _NOBODY:
        return None
    return identity_of(patient)


def identity_of(patient: str) -> bytes:
    """Return the sha256 of a patient's ID. A number counts without zeros before it, as in a spreadsheet."""
    if patient.isascii() and patient.isdecimal():
        patient = patient.lstrip("0")
    return hashlib.sha256(patient.encode(errors="replace")).digest()


def _age(dataset):
    """Return the age in years or None, and whether it is malformed."""
    try:
        written = text(dataset, "PatientAge")
    except RejectedError:
        return None, True
    age = re.fullmatch("([0-9]{3})([DWMY])", written)
    if age is None:
        return (None, True) if written else (_age_by_dates(dataset), False)
    years = int(age[1]) * _YEARS[age[2]]
    placeholder = written == "000Y" or years >= _OLDEST  # of a newborn the days are given
    return None if placeholder else years, False


def _age_by_dates(dataset):
    """Return the age in years at the study, or None where a date is missing, malformed or a placeholder."""
    born, *studied = (_date(dataset, name) for name in ("PatientBirthDate", *_STUDIED))
    study = next(filter(None, studied), None)
    if born is None or study is None or born <= _NO_BIRTH_DATE or not born <= study:
        return None
    years = (study - born).days * _YEARS["D"]
    return None if years >= _OLDEST else years


def _date(dataset, name):
    try:
        return datetime.strptime(text(dataset, name)[:8], "%Y%m%d").date()
    except (RejectedError, ValueError):
        return None
