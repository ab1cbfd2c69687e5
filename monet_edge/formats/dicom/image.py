"""The header of one DICOM file: what is needed of it to tell a series, a grid and intensities, checked field by field.

A file holds one slice, or many frames with functional groups ("enhanced"). No pixel is read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, BinaryIO

import numpy as np

from ...errors import ScanError
from ...text import printable
from .deflated import plain
from .library import about, reading

MOST_TEXT = 1024  # characters; DICOM's own limit is 64 for most
MOST_SCALE = 1e20  # of slope and intercept: beyond, scaled values leave float32
_WORD = np.dtype(np.uint16)
_FRAME_GROUPS = ("PlanePosition", "PlaneOrientation", "PixelMeasures", "PixelValueTransformation", "FrameContent", "MREcho", "MRDiffusion")
_NAMED = ("PatientName", "PatientID", "PatientBirthName", "OtherPatientNames", "ReferringPhysicianName", "PerformingPhysicianName",
          "OperatorsName", "RequestingPhysician", "NameOfPhysiciansReadingStudy")  # fmt: skip
TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "ImageType", "Modality"),
    *("SeriesDescription", "SeriesNumber", "InstanceNumber", "AcquisitionNumber", "TemporalPositionIdentifier", "EchoTime"),
    *("DiffusionBValue", "TriggerTime", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"),
    *("NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "ManufacturerModelName"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "MIMETypeOfEncapsulatedDocument", *_NAMED),
)


@dataclass(frozen=True)
class Image:
    """What a file says of all its frames. Texts are empty where it says nothing.

    Attributes
    ----------
    file : str
        Its name among the `Members`.
    version : tuple
        Of `Members.version`.
    uids : dict of str to str
        Of study, series, instance, class and frame of reference, by their keywords.
    syntax : str
        Transfer syntax.
    dtype : numpy dtype
        As stored, native byte order.
    stored : int
        Bits that count.
    padding : (float, float) or None
        Stored values from and to which there is no image.
    inverted : bool
        MONOCHROME1: the lowest value is white.
    problem : str
        Why it is no slice of a scan; empty where it may be.
    """

    file: str
    version: tuple[int, int]
    uids: dict[str, str]
    modality: str
    description: str
    number: str
    kind: tuple[str, ...]
    syntax: str
    rows: int = 0
    columns: int = 0
    frames: int = 1
    dtype: np.dtype = _WORD
    stored: int = 16
    padding: tuple[float, float] | None = None
    inverted: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Slice:
    """One frame of a file.

    Attributes
    ----------
    image : Image
    frame : int
        From 0.
    number : int
        Instance or in-stack number, for messages.
    position : (3,) tuple of float
        Centre of the first pixel, mm, to left, posterior, superior.
    orientation : (6,) tuple of float
        Unit vectors along a row and down a column.
    spacing : (float, float)
        mm from row to row and from column to column.
    slope, inter : float
    moment : tuple
        What may tell volumes at the same place from each other, see `series.SPLITTERS`.
    """

    image: Image
    frame: int
    number: int
    position: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()
    spacing: tuple[float, ...] = ()
    slope: float = 1.0
    inter: float = 0.0
    moment: tuple[Any, ...] = field(default=(), hash=False)

    def __str__(self) -> str:
        inside = f", frame {self.frame + 1}" if self.image.frames > 1 else ""
        return f"slice {self.number} ({self.image.file}{inside})"


def read(file: BinaryIO, name: str, version: tuple[int, int]) -> tuple[Slice, ...]:
    """The slices of a DICOM file, one at least; what is wrong with it is told in ``image.problem``.

    Raises
    ------
    ScanError
        If the bytes are not DICOM, or are damaged.
    """
    with about(name), reading(name) as library:
        dataset = library.dcmread(plain(file), stop_before_pixels=True, specific_tags=list(TAGS))
        image = _image(dataset, name, version)
        if image.problem:
            return (Slice(image, 0, _number(dataset, "InstanceNumber")),)
        return tuple(_slices(dataset, image))


def _image(dataset: Any, name: str, version: tuple[int, int]) -> Image:
    keys = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")
    uids = {key: _text(dataset, key) for key in keys}
    about: dict[str, Any] = {
        "file": name,
        "version": version,
        "uids": uids,
        "modality": _text(dataset, "Modality"),
        "description": _nameless(dataset),
        "number": _text(dataset, "SeriesNumber"),
        "kind": _texts(dataset, "ImageType"),
        "syntax": _text(dataset.file_meta, "TransferSyntaxUID"),
    }
    problem = _no_picture(dataset, uids["SOPClassUID"], about["kind"])
    if problem:
        return Image(**about, problem=problem)
    allocated, stored = _number(dataset, "BitsAllocated"), _number(dataset, "BitsStored")
    signed = _number(dataset, "PixelRepresentation") == 1
    return Image(
        **about,
        rows=_number(dataset, "Rows"),
        columns=_number(dataset, "Columns"),
        frames=max(_number(dataset, "NumberOfFrames", 1), 1),
        dtype=np.dtype(f"{'i' if signed else 'u'}{allocated // 8}") if allocated in (8, 16, 32) else _WORD,
        stored=stored,
        padding=_padding(dataset, signed, allocated),
        inverted=_text(dataset, "PhotometricInterpretation") == "MONOCHROME1",
        problem=_odd_pixels(dataset, allocated, stored),
    )


def _no_picture(dataset: Any, sop_class: str, kind: tuple[str, ...]) -> str:
    """What kind of object it is, where it is no cross-sectional image."""
    if "MIMETypeOfEncapsulatedDocument" in dataset:
        return f"an encapsulated document ({_text(dataset, 'MIMETypeOfEncapsulatedDocument')}), no image"
    from pydicom.uid import UID

    name = UID(sop_class).name if sop_class else ""
    if "Segmentation" in name:
        return "a segmentation, no scan"
    if not _number(dataset, "Rows") or not _number(dataset, "Columns"):
        if not name or "Image Storage" in name:
            raise ScanError("its header ends before it says what image it is: it is truncated, or damaged. Copy it again.")
        return f"no image ({name})"
    if "LOCALIZER" in kind:
        return "a localizer"
    return ""


def _odd_pixels(dataset: Any, allocated: int, stored: int) -> str:
    """What is unusual of a pixel; empty where it is one whole number of 8, 16 or 32 bits."""
    photometric, samples = _text(dataset, "PhotometricInterpretation"), _number(dataset, "SamplesPerPixel")
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        return f"a colour image ({photometric}, {samples} samples a pixel), expected one intensity a pixel"
    high = _number(dataset, "HighBit", stored - 1)
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or high != stored - 1:
        return f"pixels of {stored} bits in {allocated}, the highest in place {high}; expected 8, 16 or 32 from place 0"
    if _number(dataset, "PixelRepresentation", -1) not in (0, 1):
        return "pixels neither signed nor unsigned (PixelRepresentation)"
    if "ModalityLUTSequence" in dataset and len(dataset.ModalityLUTSequence):
        return "intensities by a table (Modality LUT), expected a slope and an intercept"
    return ""


def _padding(dataset: Any, signed: bool, allocated: int) -> tuple[float, float] | None:
    """Pixel padding value and range limit, as the pixels are to be read: both tags may be written with the other sign."""
    if "PixelPaddingValue" not in dataset:
        return None
    most = 1 << allocated
    ends: list[float] = []
    for key in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        value = _number(dataset, key, int(ends[0]) if ends else 0) % most
        ends.append(float(value - most if signed and value >= most // 2 else value))
    return min(ends), max(ends)


def _slices(dataset: Any, image: Image) -> Iterator[Slice]:
    """Every frame with its place; of an image without functional groups the one that the file holds."""
    shared = _first(dataset.get("SharedFunctionalGroupsSequence"))
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if image.frames > 1 and len(frames) != image.frames:
        yield Slice(_with(image, f"{image.frames} frames, and {len(frames)} of them described: nothing says where they lie"), 0, 0)
        return
    for index in range(image.frames):
        frame = frames[index] if index < len(frames) else None
        parts = [part for group in _FRAME_GROUPS for holder in (frame, shared) if (part := _group(holder, group)) is not None]
        yield _slice([*parts, dataset], image, index)


def _slice(parts: list[Any], image: Image, index: int) -> Slice:
    """A frame whose attributes stand in the first of ``parts`` that has them."""

    def find(key: str) -> Any:
        return next((part for part in parts if key in part and part[key].value not in (None, "")), {})

    number = _number(find("InStackPositionNumber"), "InStackPositionNumber", _number(find("InstanceNumber"), "InstanceNumber", index + 1))
    place = {key: _floats(find(key), key) for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")}
    slope, inter = (_float(find(key), key, default) for key, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)))
    moment = (
        *(_float(find(key), key, 0.0) for key in ("TemporalPositionIdentifier", "TemporalPositionIndex")),
        *(_float(find(key), key, 0.0) for key in ("EchoTime", "EffectiveEchoTime", "DiffusionBValue", "TriggerTime", "AcquisitionNumber")),
        image.kind,
        (_number(find("InstanceNumber"), "InstanceNumber"), image.file) if image.frames > 1 else (),
    )
    problem = _misplaced(place) or _scaling(slope, inter)
    if problem:
        return Slice(_with(image, problem), index, number)
    row, column = (np.array(place["ImageOrientationPatient"][i : i + 3]) for i in (0, 3))
    unit = np.concatenate([row / np.linalg.norm(row), column / np.linalg.norm(column)])
    orientation = tuple(float(cosine) for cosine in unit)
    return Slice(image, index, number, place["ImagePositionPatient"], orientation, place["PixelSpacing"], slope, inter, moment)


def _misplaced(place: dict[str, tuple[float, ...]]) -> str:
    """What is wrong with a slice's position, orientation and spacing."""
    for key, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        if len(place[key]) != count:
            return f"no {key}, which says where a slice lies"
        if not all(isfinite(value) and abs(value) < 1e6 for value in place[key]):
            return f"{key} is {place[key]}"
    if min(place["PixelSpacing"]) <= 0:
        return f"PixelSpacing is {place['PixelSpacing']} mm"
    row, column = np.reshape(place["ImageOrientationPatient"], (2, 3))
    if max(abs(row @ row - 1), abs(column @ column - 1), abs(row @ column)) > 1e-3:  # rounded to three digits they pass
        return "ImageOrientationPatient is no pair of unit vectors at right angles"
    return ""


def _scaling(slope: float, inter: float) -> str:
    if not 0 < abs(slope) < MOST_SCALE or not abs(inter) < MOST_SCALE:
        return f"intensities scaled by {slope:g} and shifted by {inter:g}"
    return ""


def _with(image: Image, problem: str) -> Image:
    return Image(**{**vars(image), "problem": problem})


def _group(holder: Any, name: str) -> Any:
    return None if holder is None else _first(holder.get(f"{name}Sequence"))


def _first(sequence: Any) -> Any:
    return sequence[0] if sequence else None


def _nameless(dataset: Any) -> str:
    """The series' description without a word that stands in a person's name or number, too."""
    description = _text(dataset, "SeriesDescription")[:64]
    names = " ".join(_text(dataset, key) for key in _NAMED).replace("^", " ").replace("=", " ").replace(",", " ").lower().split()
    for name in sorted({name for name in names if len(name) > 2}, key=len, reverse=True):
        at = description.lower().find(name)
        while at >= 0:
            description = description[:at] + "…" + description[at + len(name) :]
            at = description.lower().find(name)
    return description


def _text(dataset: Any, key: str) -> str:
    value = dataset.get(key)
    return "" if value is None else printable(str(value).strip().strip("\0"))[:MOST_TEXT]


def _texts(dataset: Any, key: str) -> tuple[str, ...]:
    value = dataset.get(key)
    return () if not value else (printable(value),) if isinstance(value, str) else tuple(printable(str(part)) for part in value)


def _number(dataset: Any, key: str, default: int = 0) -> int:
    value = dataset.get(key)
    return default if value is None or value == "" else int(value)


def _float(dataset: Any, key: str, default: float) -> float:
    value = dataset.get(key)
    return default if value is None or value == "" else float(value)


def _floats(dataset: Any, key: str) -> tuple[float, ...]:
    value = dataset.get(key)
    return () if value is None or isinstance(value, (str, int, float)) else tuple(float(part) for part in value)
