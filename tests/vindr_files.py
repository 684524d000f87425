"""Images as VinDr-CXR and VinBigData's challenge release them, for the tests of both."""

import hashlib
import warnings

import numpy as np
import pydicom
from dicom_files import write

SHAPE = (40, 20)


def image_id(i):
    return hashlib.md5(str(i).encode()).hexdigest()


def write_image(path, i):
    """Write DICOM with the tags that the release keeps: nothing names the modality, the view or the patient."""
    values = np.random.default_rng(i).integers(0, 4096, SHAPE).astype(np.uint16)
    nothing = dict.fromkeys(("Modality", "BodyPartExamined", "ViewPosition", "PatientID", "SOPClassUID"))
    kind = "1.2.840.10008.5.1.4.1.1.1" + ".1" * (i % 2)  # CR or DX
    tags = {**nothing, "PatientAge": "061Y", "PatientSex": "M", "PhotometricInterpretation": f"MONOCHROME{1 + i % 2}"}
    write(path, values, 12, kind, **tags)
    dataset = pydicom.dcmread(path)
    del dataset.SOPClassUID, dataset.SOPInstanceUID
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a hash is no UID
        dataset.file_meta.MediaStorageSOPInstanceUID = path.stem
        dataset.save_as(path)
