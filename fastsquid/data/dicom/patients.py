"""Patients of DICOM files: each in one split only, and their ages. What a tag says of a patient is never printed."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ...errors import UserError
from ..filetypes import ImageFile
from ..names import Names
from .kinds import NOTHING_ELSE, Accept
from .patient import Patient
from .read import read_patient

log = logging.getLogger(__name__)

SHARED_BY_MANY = 10  # a PatientID of fewer files is a patient's


def read_patients(paths: Iterable[ImageFile], accept: Accept = NOTHING_ELSE) -> list[Patient | None]:
    """Return the `Patient` of each file from its header; None for plain images, which are not opened.

    Args:
        paths: of the files.
        accept: as `read_dicom` takes it.
    """
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: read_patient(path, accept), paths))


def reject_shared_patients(splits: Mapping[str, Sequence[tuple[ImageFile, Patient | None]]], names: Names) -> None:
    """Reject a patient in two splits; warn of DICOM files for which this is not known, and of malformed ages.

    It is not known of files without PatientID, or with one that stands for nobody. That is one such as `ANONYMOUS`, or
    one in two splits that all DICOM files share, or that more than half of them and at least `SHARED_BY_MANY` share.

    Args:
        splits: {split's name: [(path, `Patient` or None)]}.
        names: what messages call files.

    Raises:
        UserError: names a file of each split.
    """
    patients = [patient for files in splits.values() for _, patient in files if patient is not None]
    constant = constant_identity(patients)
    found: dict[bytes, tuple[str, ImageFile]] = {}
    anonymous = set()
    for split, files in splits.items():
        for path, patient in files:
            if patient is None or patient.identity is None:
                continue
            other, first = found.setdefault(patient.identity, (split, path))
            if other != split and patient.identity == constant:
                anonymous.add(constant)
            elif other != split:
                raise UserError(
                    f"{names.file(first)} of {other} and {names.file(path)} of {split} have the same PatientID: put "
                    "all images of a patient into one split, or empty PatientIDs that stand for nobody"
                )
    unknown = sum(patient.identity is None or patient.identity in anonymous for patient in patients)
    if unknown:
        log.warning(
            "%d of %d DICOM files have no PatientID, or one that stands for nobody%s: whether their patients are in "
            "one split only is not known",
            unknown,
            len(patients),
            ", as most of the files share it" * len(anonymous),
        )
    warn_of_malformed_ages(sum(patient.malformed_age for patient in patients), len(patients))


def warn_of_malformed_ages(count: int, files: int) -> None:
    """Log a warning if files have a PatientAge that is no age.

    Args:
        count: number of such files.
        files: number of files whose ages were looked for.
    """
    if count:
        log.warning(
            "%d of %d files have a malformed PatientAge, such as 51 where 051Y is right: their ages are not known",
            count,
            files,
        )


def constant_identity(patients: Sequence[Patient]) -> bytes | None:
    """Return the identity that so many files share that it stands for nobody, or None."""
    counts = Counter(patient.identity for patient in patients if patient.identity is not None)
    identity, files = counts.most_common(1)[0] if counts else (None, 0)
    most = files >= SHARED_BY_MANY and 2 * files > len(patients)
    return identity if most or 2 < files == len(patients) else None


def age_range(ages: Iterable[float | None]) -> list[float] | None:
    """Return [lowest, highest] of ages in years, or None where no age is known."""
    known = [age for age in ages if age is not None]
    return [min(known), max(known)] if known else None


def warn_of_ages(ages: Sequence[float | None], trained: Sequence[float] | None) -> str:
    """Log a warning that says how many patients are younger or older than all training patients.

    Args:
        ages: N ages in years, None where an image has none.
        trained: `age_range` of the training images, or None.

    Returns:
        the warning's text, or "" where there is no such patient.
    """
    return warn_of_outside(sum(map(bool, outside_ages(ages, trained))), len(ages), trained)


def outside_ages(ages: Iterable[float | None], trained: Sequence[float] | None) -> list[bool | None]:
    """Return for each age whether it is outside of the training patients' ages; None where either is unknown.

    Args:
        ages, trained: as for `warn_of_ages`.
    """
    return [None if age is None or trained is None else not trained[0] <= age <= trained[1] for age in ages]


def warn_of_outside(outside: int, count: int, trained: Sequence[float] | None) -> str:
    """Log the warning of `warn_of_ages` for a number of images, and return it.

    Args:
        outside: number of images of such patients.
        count: number of all images.
        trained: as for `warn_of_ages`.
    """
    if not outside or trained is None:
        return ""
    sentence = (
        f"{outside} of {count} images are of patients whose age training has not seen (age_outside_training), which "
        f"was of {trained[0]:.3g} to {trained[1]:.3g} years: their scores mean less"
    )
    log.warning(sentence)
    return sentence
