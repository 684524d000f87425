"""What tests/test_attacks*.py share: the scene in damaged files, how such files are made, what a test asserts."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastsquid.data.images import ImageError, read_image

pydicom = pytest.importorskip("pydicom")
from dicom_files import radiograph, write  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from test_data_dicom import jpeg  # noqa: E402

from fastsquid.data.dicom.read import read_dicom  # noqa: E402

ATTACKS = Path(__file__).parent / "attacks"
EXPECTED = json.loads((ATTACKS / "expected.json").read_text())
TRUTH = np.load(ATTACKS / "truth.npy")  # the scene, 0 to 1
J2K, JPEG = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.50"
EIGHT = np.rint(TRUTH * 255).astype(np.uint8)
SIXTEEN = np.rint(TRUTH * 65535).astype(np.uint16)
TWELVE = SIXTEEN >> 4


def rejected(path, *words):
    """Assert that a file is rejected in one line that names it and has these words."""
    with pytest.raises(ImageError) as error:
        read_image(path, 64)
    message = str(error.value)
    assert path.name in message and "\n" not in message and all(word in message for word in words), message


def bright(path):
    """Assert that a file shows the scene, not darkened."""
    gray = read_dicom(path).gray
    assert gray.shape == TRUTH.shape and gray.max() > 0.5
    assert np.corrcoef(gray.ravel(), TRUTH.ravel())[0, 1] > 0.99


def lossless(path, values=None, bits=12):
    pytest.importorskip("gdcm")
    write(path.with_suffix(".plain"), radiograph(bits) if values is None else values, bits)
    jpeg("JPEGLosslessProcess14_1")(path.with_suffix(".plain"), path)
    return path


def compressed(path, stream, syntax, **tags):
    write(path, np.zeros((64, 64), np.uint8 if tags["BitsStored"] <= 8 else np.uint16), tags["BitsStored"], **tags)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
    return path


def stream(values, kind="JPEG2000", **options):
    file = BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


def deflated(path, megabytes):
    """A good image with a private element of so many zeros."""
    dataset = pydicom.dcmread(write(path, SIXTEEN, 16))
    block = dataset.private_block(0x0011, "zeros", create=True)
    block.add_new(1, "OB", bytes(megabytes << 20))
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    dataset.save_as(path)
    return path


def changed_picture(path):
    """Return whether a file is read as another picture than the scene."""
    try:
        gray = read_image(path, 64)
    except ImageError as error:
        assert path.name in str(error) and "\n" not in str(error)
        return False
    return not np.corrcoef(gray.ravel(), TRUTH.ravel())[0, 1] > 0.9
