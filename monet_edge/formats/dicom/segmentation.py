"""Write a mask as a DICOM segmentation (SEG) of the series that it was found in, by highdicom.

Of the person it holds what the standard demands to file it with the same patient and study, copied from the series: nothing
else of its headers is read.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ... import codes
from ...about import DISCLAIMER, __version__
from ...errors import MonetError, OutputError
from ...text import printable
from ...volume import Scan
from ...volume.labels import Colour, colours
from ..contract import Header, Legend, Seal
from .deflated import plain
from .library import INSTALL, reading
from .members import Members
from .reader import NAME, Source
from .series import blanks

MAKER = "monet-edge"
_UNKNOWN_LENGTH, _END = 0xFFFFFFFF, b"\xfe\xff\xdd\xe0\0\0\0\0"  # of compressed pixels, which have an end
_RLE = "1.2.840.10008.1.2.5"  # of a label map; a bitmap has no compressed form
_PERSON = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "SpecificCharacterSet")
_IMAGE = (
    *(
        "SOPClassUID",
        "SOPInstanceUID",
        "SeriesInstanceUID",
        "SeriesNumber",
        "FrameOfReferenceUID",
        "PositionReferenceIndicator",
        "Modality",
    ),
    *("Rows", "Columns", "NumberOfFrames", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient"),
    *("ImageOrientationPatient", "ImageType", "InstanceNumber", "BitsAllocated", "SharedFunctionalGroupsSequence"),
    *("PerFrameFunctionalGroupsSequence", "DimensionIndexSequence", "DimensionOrganizationSequence"),
)


def seal(path: Path) -> Seal | None:
    """The seal of a segmentation of ours, see `contract.Format`."""
    try:
        with reading(str(path)) as library, path.open("rb") as file:
            dataset = library.dcmread(file, stop_before_pixels=True, specific_tags=["ManufacturerModelName", "SoftwareVersions"])
            if dataset.get("ManufacturerModelName") != MAKER:
                return None
            head, versions = file.read(12), dataset.get("SoftwareVersions")
            length, end = int.from_bytes(head[8:], "little"), file.tell()
            size = file.seek(0, os.SEEK_END)
            file.seek(-len(_END), os.SEEK_END)
            whole = file.read() == _END if length == _UNKNOWN_LENGTH else end + length == size
            return Seal("" if isinstance(versions, str) or versions is None else str(versions[1]), len(head) == 12 and whole)
    except MonetError:  # no DICOM, or without the extra
        return None


def check(header: Header) -> None:
    """Refuse before any work a scan that no segmentation could refer to.

    Raises
    ------
    OutputError
        If it is not DICOM, its UIDs are blank, or its volume is of several files of many frames.
    """
    another = "Choose a name in .nii.gz for {output}."
    if header.format != NAME:
        raise OutputError(f"{header.path}: a DICOM segmentation refers to a series of DICOM, this is {header.format}", another)
    slices = header.details[1].volumes[0]
    if blank := blanks(slices):
        raise OutputError(f"{header.path}: its UIDs of {', '.join(blank)} are blank: a DICOM segmentation could not refer to it", another)
    if slices[0].image.frames > 1 and len({one.image.file for one in slices}) > 1:
        raise OutputError(f"{header.path}: its volume lies in several files of many frames: no segmentation refers to that", another)
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise OutputError(INSTALL) from None


def write(file: BinaryIO, name: str, array: np.ndarray, like: Scan, legend: Legend, kind: str) -> None:
    """Write a mask (X, Y, Z) uint8, empty or not, see `contract.Writer`; ``kind`` is BINARY or LABELMAP."""
    if not isinstance(like.header, Source) or array.dtype != np.uint8:
        raise OutputError(f"{name}: a DICOM segmentation is a mask of a scan that was read from DICOM")
    with reading(name):
        written = _encode(array, like.header, legend, kind)
    file.write(written.getbuffer())


binary, labelmap = partial(write, kind="BINARY"), partial(write, kind="LABELMAP")


def _encode(array: np.ndarray, source: Source, legend: Legend, kind: str) -> BytesIO:
    """The file's bytes."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation
    from pydicom.sr.coding import Code
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    logging.getLogger("highdicom").addHandler(logging.NullHandler())  # it warns of persons' names, with them
    images = _headers(source)
    algorithm = AlgorithmIdentificationSequence(
        name=printable(legend.model or MAKER)[:64],
        family=Code("123109", "DCM", "Artificial Intelligence"),
        version=__version__,
        source=MAKER,
    )
    names = legend.labels or tuple(f"label {number}" for number in range(1, int(array.max(initial=1)) + 1))
    shown = enumerate(zip(names, colours(names), strict=True), 1)
    labels = [_segment(number, label, legend.codes.get(label), algorithm, colour) for number, (label, colour) in shown]
    versions: Any = (__version__, legend.key) if legend.key else __version__  # `seal` reads the key
    segmentation = Segmentation(
        source_images=images,
        pixel_array=_frames(array, source, images),
        segmentation_type=kind,
        segment_descriptions=labels,
        series_instance_uid=generate_uid(),
        series_number=1000 + int(images[0].get("SeriesNumber") or 0) % 1000,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions=versions,
        device_serial_number="none",
        content_label="SEGMENTATION",
        content_description=DISCLAIMER[:64],
        series_description=printable(f"{legend.model or MAKER}, research use only")[:64],
        transfer_syntax_uid=_RLE if kind == "LABELMAP" else ExplicitVRLittleEndian,
    )
    segmentation.ContentCreatorName = None  # demanded, and nobody drew it (PS3.3 10.9)
    written = BytesIO()  # pydicom seeks
    segmentation.save_as(written, enforce_file_format=True)
    return written


def _headers(source: Source) -> list[Any]:
    """The slices' headers, in order; of one file with many frames that file's, once. What is demanded and missing is there, empty."""
    import pydicom

    wanted, found = [*_PERSON, *_STUDY, *_IMAGE], []
    with Members(source.path) as members:
        for name in dict.fromkeys(one.image.file for one in source.slices):
            with members.file(name) as file:
                dataset = pydicom.dcmread(plain(file), stop_before_pixels=True, specific_tags=wanted)
            for key in (*_PERSON, *_STUDY[1:5], "PositionReferenceIndicator"):
                if key not in dataset:
                    setattr(dataset, key, None)
            if dataset.PatientSex not in ("M", "F", "O"):
                dataset.PatientSex = None
            _share(dataset)
            found.append(dataset)
    return found


def _share(dataset: Any) -> None:
    """Of a file with many frames: what highdicom looks for in the groups that all share, and a scanner may have told frame by frame."""
    if "SharedFunctionalGroupsSequence" in dataset and "PerFrameFunctionalGroupsSequence" in dataset:
        shared, first = dataset.SharedFunctionalGroupsSequence[0], dataset.PerFrameFunctionalGroupsSequence[0]
        for group in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
            if group not in shared:
                setattr(shared, group, getattr(first, group))


def _frames(array: np.ndarray, source: Source, images: list[Any]) -> np.ndarray:
    """The mask as (frames, rows, columns), in the order of the source's files or, if it is one, of its frames."""
    planes = array.transpose(2, 1, 0)
    if len(images) == len(source.slices):
        return np.ascontiguousarray(planes)
    frames = np.zeros((source.slices[0].image.frames, *planes.shape[1:]), np.uint8)
    for one, plane in zip(source.slices, planes, strict=True):
        frames[one.frame] = plane
    return frames


def _segment(number: int, label: str, coded: dict[str, list[str]] | None, algorithm: Any, colour: Colour) -> Any:
    """The description of a label: what it is, who found it, how it is shown."""
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept
    from pydicom.uid import generate_uid

    known = {part: CodedConcept(*code) for part, code in (coded or codes.UNKNOWN).items()}
    described = SegmentDescription(
        segment_number=number,
        segment_label=printable(label)[:64],
        segmented_property_category=known["category"],
        segmented_property_type=known["type"],
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=generate_uid(),
        tracking_id=printable(label)[:64],
        anatomic_regions=[known["region"]] if "region" in known else None,
        display_color=CIELabColor.from_rgb(*colour),
    )
    if "modifier" in known:
        described.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [known["modifier"]]
    return described
