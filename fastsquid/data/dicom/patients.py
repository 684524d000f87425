"""Patients of DICOM files: in one split only, and of which ages. What a tag says of one of them is never printed."""

import logging
from concurrent.futures import ThreadPoolExecutor

from ...errors import UserError
from .read import read_patient

log = logging.getLogger(__name__)


def read_patients(paths):
    """The `Patient` of each Path or `ShardFile`, by its header; None for plain images, which are not opened."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(read_patient, paths))


def refuse_shared_patients(splits, called):
    """Refuses a patient in two splits; says of how many files, which have no PatientID, that is not known.

    Args:
        splits: {split's name: [(path, `Patient` or None)]}.
        called: function of a path that gives what messages call the file.

    Raises:
        UserError: names a file of each split.
    """
    found = {}
    for split, files in splits.items():
        for path, patient in files:
            if patient is None or patient.identity is None:
                continue
            other, first = found.setdefault(patient.identity, (split, path))
            if other != split:
                raise UserError(
                    f"{called(first)} of {other} and {called(path)} of {split} have the same PatientID: put all images "
                    "of a patient into one split, or empty PatientIDs that stand for nobody"
                )
    patients = [patient for files in splits.values() for _, patient in files if patient is not None]
    unknown = sum(patient.identity is None for patient in patients)
    if unknown:
        log.warning(
            "%d of %d DICOM files have no PatientID: whether their patients are in one split only is not known",
            unknown,
            len(patients),
        )


def age_range(ages):
    """[lowest, highest] of ages in years, or None where every one of them is None."""
    known = [age for age in ages if age is not None]
    return [min(known), max(known)] if known else None


def warn_of_ages(ages, trained):
    """Warns how many images are of ages that training has not seen, and returns the sentence.

    Args:
        ages: in years, None where an image does not tell.
        trained: `age_range` of the training images.

    Returns:
        the sentence, or "" where all ages that are known are within.
    """
    low, high = trained or (0, float("inf"))
    outside = sum(age is not None and not low <= age <= high for age in ages)
    if not outside:
        return ""
    sentence = (
        f"{outside} of {len(ages)} images are of patients whose age training has not seen, which was of "
        f"{low:.3g} to {high:.3g} years: their scores mean less"
    )
    log.warning(sentence)
    return sentence
