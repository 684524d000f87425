"""Which DICOM files are frontal chest radiographs, by their tags (DICOM PS3.3)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .tags import RejectedError, code, number, text, values

if TYPE_CHECKING:
    from pydicom import Dataset

_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"  # the DX class whose images are not meant for display
_RADIOGRAPHS = frozenset(("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"))  # CR, and DX for presentation
_STORED = "1.2.840.10008.5.1.4.1.1."  # begins every standard class of stored objects
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # of which releases are made, such as RSNA's; 7.1 to 7.4 are too
_DIRECTORY = "1.2.840.10008.1.3.10"

# Words of BodyPartExamined in use for the chest, and words that may stand beside them.
_CHEST = frozenset(("CHEST", "THORAX", "TORAX", "LUNG", "LUNGS"))
_BESIDE_CHEST = frozenset("AP CR DR DX ERECT FRONTAL PA PORT PORTABLE STANDING SUPINE UPRIGHT XR".split())
_FRONTAL = frozenset(("AP", "FRONTAL", "PA"))
# Of AnatomicRegionSequence (PS3.16, CID 4): thorax and lung in SNOMED CT and SRT.
_CHEST_CODES = frozenset(("51185008", "816094009", "39607008", "T-D3000", "T-28000"))
# Words of ViewPosition and of descriptions that are not frontal: the standard's, and others in use.
_VIEWS = {
    **dict.fromkeys("LATERAL LAT LL RL LLAT RLAT LATL LATR XTLAT SAGITTAL PROFIL PERFIL SEITLICH".split(), "lateral"),
    **dict.fromkeys("LLD RLD DECUB DECUBITUS".split(), "decubitus"),
    **dict.fromkeys("LLO RLO LAO RAO LPO RPO OBL OBLIQUE".split(), "oblique"),
}
_ENDINGS = {"LATERAL": "lateral", "DECUB": "decubitus", "DECUBITUS": "decubitus", "OBLIQUE": "oblique"}  # XTABLELATERAL
_DESCRIPTIONS = {
    "SeriesDescription": "series description",
    "ProtocolName": "protocol name",
    "AcquisitionDeviceProcessingDescription": "processing description",
}
# Of ViewCodeSequence (PS3.16, CID 4010): lateral, left, right, lateral-medial and medial-lateral in SNOMED CT and SRT.
_LATERAL_CODES = frozenset(
    ("399067008", "399173006", "399198007", "399352003", "399260004")
    + ("R-102CD", "R-10236", "R-10232", "R-10228", "R-10224")
)


@dataclass(frozen=True)
class Accept:
    """Body parts and views of DICOM files that are read beside those of frontal chest radiographs.

    Attributes:
        body: values of BodyPartExamined.
        view: values of ViewPosition, or views as messages name them, such as `lateral`.

    All are compared in capital letters.
    """

    body: tuple[str, ...] = ()
    view: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("body", "view"):
            words = {" ".join(word.upper().split()) for word in getattr(self, name)}
            object.__setattr__(self, name, tuple(sorted(words - {""})))

    @classmethod
    def from_options(cls, body: Sequence[str] | None, view: Sequence[str] | None) -> Accept:
        """Return what --accept-body and --accept-view ask for; None where an option was not given."""
        return cls(tuple(body or ()), tuple(view or ()))

    def __or__(self, other: Accept) -> Accept:
        """Return what accepts whatever one of both accepts."""
        return Accept(self.body + other.body, self.view + other.view)


NOTHING_ELSE = Accept()


def reject_other_kinds(dataset: Dataset, accept: Accept) -> None:
    """Reject anything but a frontal CR or DX of the chest of one frame that is meant for display.

    Args:
        dataset: as `pydicom.dcmread` returns it.
        accept: further body parts and views.

    Raises:
        RejectedError: it is of another kind.
    """
    classes = text(dataset.file_meta, "MediaStorageSOPClassUID"), text(dataset, "SOPClassUID")
    if _DIRECTORY in classes:
        raise RejectedError("it is a DICOMDIR, a list of files and no image")
    modality, body = code(dataset, "Modality"), _body_part(dataset)
    if modality not in ("CR", "DX", "DR") and (modality or not _RADIOGRAPHS.intersection(classes)):
        raise RejectedError(f"its modality is {modality or 'not given'}, where only CR and DX are chest radiographs")
    parts = set(re.findall("[A-Z]+", body))
    chest = bool(parts & _CHEST) and parts <= _CHEST | _BESIDE_CHEST and "\\" not in body
    if body and not chest and " ".join(body.split()) not in accept.body:
        shown = code(dataset, "BodyPartExamined")  # punctuation and accents may be of a name
        raise RejectedError(
            f"its body part is {shown}, where only CHEST, or none, is accepted", _or_accept("body", shown)
        )
    if not body and (region := _other_region(dataset)) and region not in accept.body:
        raise RejectedError(
            f"its anatomic region is {region}, where only the chest is accepted", _or_accept("body", region)
        )
    others = [name for name in classes if name.startswith(_STORED) and not name.startswith(_SECONDARY_CAPTURE)]
    if others := set(others) - _RADIOGRAPHS - {_FOR_PROCESSING}:
        raise RejectedError(f"its SOP class is {min(others)}, where only CR and DX are chest radiographs")
    frames = number(dataset, "NumberOfFrames", default=1)
    if frames > 1:
        raise RejectedError(f"it has {frames:g} frames, where only single images are accepted")
    if code(dataset, "PresentationIntentType") == "FOR PROCESSING" or _FOR_PROCESSING in classes:
        raise RejectedError("it is FOR PROCESSING, where only images FOR PRESENTATION are accepted")
    view, tag = _other_view(dataset)
    if view and not {view.upper(), " ".join(code(dataset, "ViewPosition").split())} & set(accept.view):
        raise RejectedError(
            f"it is a {view} view ({tag}), where only frontal ones are accepted", _or_accept("view", view)
        )
    photometric = code(dataset, "PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise RejectedError(f"it is {photometric or 'of no kind of pixel'}, where only gray images are accepted")


def _body_part(dataset):
    """Return BodyPartExamined as a code. Accents and punctuation, which a code may not have, are read as written."""
    folded = unicodedata.normalize("NFKD", text(dataset, "BodyPartExamined")).upper()
    plain = "".join(letter for letter in folded if not unicodedata.combining(letter))
    return plain if re.fullmatch(r"[A-Z0-9 _\\,./()-]{0,64}", plain) else "?"


def _or_accept(option, value):
    """Return what to do about a file that an option would accept."""
    word = f"'{value}'" if " " in value else value
    return "replace or remove it" + f", or give --accept-{option} {word}" * (value != "?")


def _other_view(dataset):
    """Return which view a radiograph is, and the tag that says so; "" and "" if it is frontal.

    Devices use different tags.
    """
    position = set(re.split("[^A-Z]+", text(dataset, "ViewPosition").upper()))
    if view := _named_view(position):
        return view, f"view position {code(dataset, 'ViewPosition')}"
    frontal = bool(position & _FRONTAL)
    for item in values(dataset, "ViewCodeSequence"):
        meaning = text(item, "CodeMeaning").lower()
        if found := re.search(r"\b(lateral|oblique|sagittal)", meaning):
            return found[1], "view code"
        if text(item, "CodeValue") in _LATERAL_CODES:
            return "lateral", "view code"
        frontal |= bool(re.search("antero|postero|frontal", meaning))
    # The rows of a frontal view run to the patient's left or right, those of a lateral view to the front or back.
    orientation = text(dataset, "PatientOrientation").upper()
    if orientation.startswith(("A", "P")):
        return "lateral", f"patient orientation {code(dataset, 'PatientOrientation')}"
    # Many CR devices leave the view empty or unknown. Then what people write decides; it is not quoted.
    for name, called in () if frontal else _DESCRIPTIONS.items():
        written = set(re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text(dataset, name)))  # ChestLat is two words
        words = {word.upper() for word in written}
        # "CHEST PA AND LAT" names the study's views, not this one.
        if (view := _named_view(words)) and not words & _FRONTAL:
            return view, called
    return "", ""


def _named_view(words):
    """Return the view that one of the words, in capital letters, names; "" if none does."""
    for word in sorted(words):
        for ending, view in _ENDINGS.items():
            if word.endswith(ending) and word != "BILATERAL":
                return view
        if word in _VIEWS:
            return _VIEWS[word]
    return ""


def _other_region(dataset):
    """Return the anatomic region of a file in capital letters, "?" where it is not plain; "" for a chest, or none."""
    for item in values(dataset, "AnatomicRegionSequence"):
        meaning = " ".join(text(item, "CodeMeaning").upper().split())
        if re.search("CHEST|THORA|TORAX|LUNG", meaning) or text(item, "CodeValue") in _CHEST_CODES:
            return ""
        return meaning if re.fullmatch("[A-Z ]{1,32}", meaning) else "?"
    return ""
