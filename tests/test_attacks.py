"""Damaged, odd and hostile files: each is read right or rejected in one sentence, and no process dies.

Here are the files of tests/attacks and the table of SECURITY.md; the other attacks are in the files named likewise.
"""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from fastsquid.data import open_data
from fastsquid.data.images import ImageError, read_image
from fastsquid.errors import UserError

pytest.importorskip("pydicom")
from hostile_files import ATTACKS, EXPECTED, TRUTH  # noqa: E402


def test_every_attack_is_in_the_table_of_security():
    tests = Path(__file__).parent
    text = (tests.parent / "SECURITY.md").read_text("utf-8")
    assert set(re.findall(r"`([\w.-]+\.(?:bmp|dcm|dicom|png|tar|tif))`", text)) == EXPECTED.keys()
    code = "\n".join(path.read_text("utf-8") for path in tests.glob("test_*.py"))
    assert set(re.findall(r"`(test_\w+)`", text)) <= set(re.findall(r"^def (test_\w+)", code, re.M))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_files_of_attacks(tmp_path, name):
    """tests/attacks/README.md says what the words mean."""
    if name.endswith(".tar"):
        shutil.copy(ATTACKS / name, tmp_path)
        with pytest.raises(UserError) as error:
            open_data(tmp_path, 64)
        assert str(error.value).replace(f"{tmp_path}/", "") == EXPECTED[name]
        return
    try:
        gray = read_image(ATTACKS / name, 64)
    except ImageError as error:
        assert str(error).replace(f"{ATTACKS}/", "") == EXPECTED[name]
        return
    if EXPECTED[name] == "bright":
        assert np.corrcoef(gray.ravel(), TRUTH.ravel())[0, 1] > 0.99 and gray.max() > np.iinfo(gray.dtype).max / 2
    elif EXPECTED[name] == "black border":
        assert not gray[:, :18].any() and np.corrcoef(gray[gray > 0], TRUTH[gray > 0])[0, 1] > 0.99
    else:
        assert EXPECTED[name] == "read" and gray.max() > 128


def test_every_file_of_attacks_is_expected():
    assert {path.name for path in ATTACKS.iterdir()} - {"README.md", "expected.json", "truth.npy"} == EXPECTED.keys()
