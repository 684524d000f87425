"""DICOM files: frontal chest radiographs of one frame, in the values that they are to be shown in; nothing else.

What is in a file is decided by its tags, as DICOM PS3.3 has them, and decoded by pydicom and its plug-ins. No tag that
identifies a patient is ever part of a message.
"""

import numpy as np

_FOR_PROCESSING = ("1.2.840.10008.5.1.4.1.1.1.1.1",)  # the DX class whose images are not meant to be looked at
_DIRECTORY = "1.2.840.10008.1.3.10"


class RefusedError(ValueError):
    """A DICOM file that is no frontal chest radiograph; the message is what follows "because"."""


def is_dicom(path):
    """Whether a file begins as DICOM files do (PS3.10, 7.1), whatever its name."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom(path):
    """The grey values of a radiograph as its file says that they are to be shown: bright is dense.

    Modality LUT or rescale, VOI LUT or the first window, then MONOCHROME1 inverted (PS3.3, C.11.1 and C.11.2). Values
    are scaled from the range that the tags define, never by the image's own extremes.

    Args:
        path: of a DICOM file.

    Returns:
        float64 (H, W) in [0, 1], and the bits of a stored value.

    Raises:
        RefusedError: not an accepted kind of image; pydicom is not installed, or has no plug-in for its compression.
    """
    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut, apply_voi_lut
    except ImportError:
        raise RefusedError("reading DICOM needs pydicom: pip install 'fastsquid[dicom]'") from None
    dataset = pydicom.dcmread(path)
    refuse(dataset)
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    low, high = _range(dataset)
    shown = ((values.astype(np.float64) - low) / (high - low)).clip(0, 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    return shown, dataset.BitsStored


def refuse(dataset):
    """Raises RefusedError for anything but a single-frame frontal CR or DX of the chest that is meant to be shown."""
    kind = dataset.file_meta.get("MediaStorageSOPClassUID", "")
    modality, body, view = (
        str(dataset.get(name) or "").strip().upper() for name in ("Modality", "BodyPartExamined", "ViewPosition")
    )
    frames = int(dataset.get("NumberOfFrames") or 1)
    if kind == _DIRECTORY:
        raise RefusedError("it is a DICOMDIR, a list of files and no image")
    if modality not in ("CR", "DX"):
        raise RefusedError(f"its modality is {modality or 'not given'}, where only CR and DX are chest radiographs")
    if body not in ("", "CHEST"):
        raise RefusedError(f"its body part is {body}, where only CHEST, or none, is accepted")
    if frames != 1:
        raise RefusedError(f"it has {frames} frames, where only single images are accepted")
    if dataset.get("PresentationIntentType", "").upper() == "FOR PROCESSING" or kind in _FOR_PROCESSING:
        raise RefusedError("it is FOR PROCESSING, where only images FOR PRESENTATION are accepted")
    if lateral := _lateral(dataset, view):
        raise RefusedError(f"it is a lateral view ({lateral}), where only frontal ones are accepted")
    if "PixelData" not in dataset:
        raise RefusedError("it has no pixel data")
    if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise RefusedError(f"it is {dataset.PhotometricInterpretation}, where only grey images are accepted")


def _lateral(dataset, view):
    """What says that a radiograph is a lateral one, or "". Not every device fills in the same tag."""
    if view in ("LL", "RL", "LLD", "RLD", "LAT", "LATERAL"):
        return f"view position {view}"
    for item in dataset.get("ViewCodeSequence") or ():
        meaning = str(item.get("CodeMeaning") or "").lower()
        if "lateral" in meaning:
            return f"view {meaning}"
    # Of a frontal view rows run to the patient's left or right, of a lateral one to the front or back.
    orientation = dataset.get("PatientOrientation") or ()
    if len(orientation) == 2 and str(orientation[0])[:1] in ("A", "P"):
        return "patient orientation " + "\\".join(map(str, orientation))
    return ""


def _range(dataset):
    """The values that are to be shown black and white, after pydicom's modality and VOI functions."""
    if dataset.get("VOILUTSequence"):
        return 0, 2 ** _bits(dataset.VOILUTSequence) - 1
    if dataset.get("ModalityLUTSequence"):
        return 0, 2 ** _bits(dataset.ModalityLUTSequence) - 1
    signed = dataset.PixelRepresentation == 1
    stored = np.array([-(2 ** (dataset.BitsStored - 1)), 2 ** (dataset.BitsStored - 1) - 1], np.float64)
    stored += 0 if signed else 2 ** (dataset.BitsStored - 1)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is not None and intercept is not None:
        stored = stored * float(slope) + float(intercept)
    # A window is shown from its lower end to its upper one, which pydicom calls by these names also where slope < 0.
    windowed = dataset.get("WindowWidth") is not None and dataset.get("WindowCenter") is not None
    return tuple(stored) if windowed else (stored.min(), stored.max())


def _bits(sequence):
    return sequence[0].LUTDescriptor[2]
