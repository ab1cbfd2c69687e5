"""DICOM series that lie: zip archives of a few slices or one file of many frames, broken in one file or in the archive."""

import io
import zipfile
from functools import cache

import dicoms
import numpy as np
import pydicom

from monet_edge import formats, pipeline
from monet_edge.formats.dicom.image import TAGS

from . import build
from .mutate import anything, flip, pick

SHAPE = (36, 33, 4)  # columns, rows, slices: the encoder of JPEG 2000 wants 32 or more
TEXTS = ["", "0", "-1", "1e300", "nan", "inf", "abc", "1\\2", "65536", "0\\0\\0", "1\\0\\0\\1\\0\\0", "2147483648"]
NUMBERS = [0, 1, 2, 3, 7, 8, 12, 16, 17, 24, 32, 33, 36, 64, 255, 32767, 65535]
# The same in every run, so that a seed is the same file
UIDS = {"StudyInstanceUID": "2.25.1", "SeriesInstanceUID": "2.25.2", "FrameOfReferenceUID": "2.25.3",
        "SOPInstanceUID": [f"2.25.4{z}" for z in range(SHAPE[2])]}  # fmt: skip


@cache
def files(syntax, scaled):
    """A valid series' files, or one of many frames where there is no syntax."""
    voxels = build.head(SHAPE, np.int16)
    tags = UIDS | ({"RescaleSlope": "2.5", "RescaleIntercept": "-10"} if scaled else {})
    datasets = list(dicoms.slices(voxels, **tags)) if syntax else [dicoms.enhanced(voxels, **UIDS)]
    return tuple(_bytes(dataset, syntax or pydicom.uid.ExplicitVRLittleEndian) for dataset in datasets)


def _bytes(dataset, syntax):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        dicoms.save(dataset, Path(folder) / "file", syntax)
        return (Path(folder) / "file").read_bytes()


def element_to_extreme(rng, raw):
    """Set an element that is read to something nobody writes, or take it away."""
    try:
        with pydicom.config.disable_value_validation():
            dataset = pydicom.dcmread(io.BytesIO(raw))
            key = pick(rng, [key for key in (*TAGS, "PixelData") if key in dataset])
            element = dataset[key]
            if rng.random() < 0.2:
                del dataset[key]
            elif element.VR in ("US", "SS", "UL"):
                element.value = pick(rng, NUMBERS)
            elif element.VR == "SQ":
                element.value = []
            elif key == "PixelData":
                element.value = element.value[: int(rng.integers(len(element.value)))]
            else:
                dataset[key] = pydicom.dataelem.RawDataElement(element.tag, element.VR, 0, pick(rng, TEXTS).encode(), 0, False, True)
            out = io.BytesIO()
            dataset.save_as(out)
            return out.getvalue()
    except Exception:  # pydicom does not write everything
        return flip(rng, raw)


def hostile(rng):
    """The bytes of an archive; sometimes nothing in it is broken."""
    syntax = pick(rng, [*dicoms.NATIVE, *dicoms.COMPRESSED, None])
    whole = list(files(syntax, bool(rng.random() < 0.5)))
    at = int(rng.integers(len(whole)))
    for _ in range(int(rng.integers(0, 3))):
        change = pick(rng, [element_to_extreme, lambda rng, raw: flip(rng, raw, 900), lambda rng, raw: anything(rng, raw, whole[0])])
        whole[at] = change(rng, whole[at]) or whole[at]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", pick(rng, [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for number, raw in enumerate(whole):
            archive.writestr(f"IM{number}.dcm", raw)
    raw = out.getvalue()
    return anything(rng, raw, raw) if rng.random() < 0.15 else raw


ORIGINAL = [
    (np.array([0, 0, 3.0 * z]), build.head(SHAPE, np.int16)[:, :, z].T * slope + inter)
    for z in range(SHAPE[2])
    for slope, inter in ((1, 0), (2.5, -10))
]


def judge(raw, rng, folder, model):
    """Read it, find every slice of the scan among the files by pydicom alone, segment it."""
    path, mask = folder / "scan.zip", folder / "mask.nii.gz"
    path.write_bytes(raw)
    try:
        scan = formats.read(formats.peek(path), 0)
        known = [part for name in zipfile.ZipFile(path).namelist() for part in _theirs(zipfile.ZipFile(path).read(name))]
        known += ORIGINAL  # of what pydicom refuses and we don't, as two lengths that disagree
        for z in range(scan.shape[2]):
            place = np.diag([-1, -1, 1]) @ (scan.affine @ [0, 0, z, 1])[:3]
            ours = scan.voxels[:, :, z].T * scan.slope + scan.inter
            near = [pixels for position, pixels in known if np.abs(place - position).max() < 0.05 and pixels.shape == ours.shape]
            alike = [np.allclose(ours, pixels, rtol=1e-6, atol=0) for pixels in near]  # with scales of their own slices are float32
            assert any(alike), f"slice {z} is in none of the files"
        pipeline.segment(path, mask, model=model, volume=0, overwrite=True)
        mask.unlink()
    finally:
        assert path.read_bytes() == raw, "the scan was changed"
        assert [file.name for file in folder.iterdir()] == [path.name], "something was left behind"


def _theirs(raw):
    """Position and intensities of every frame of a file, as pydicom has them."""
    import warnings

    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(io.BytesIO(raw))
            if str(dataset.file_meta.TransferSyntaxUID) in ("1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.57"):
                from monet_edge.formats.dicom import lossless

                stream = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
                pixels = lossless.decode(stream).astype(f"{'ui'[dataset.PixelRepresentation]}{dataset.BitsAllocated // 8}")
            else:
                pixels = dataset.pixel_array
            pixels = pixels.reshape(-1, *pixels.shape[-2:])
            unused = dataset.BitsAllocated - dataset.BitsStored
            pixels = (pixels << unused) >> unused
            if dataset.get("PhotometricInterpretation") == "MONOCHROME1" and dataset.get("Modality") not in ("CT", "PT"):
                pixels = (-1 if dataset.PixelRepresentation else (1 << dataset.BitsStored) - 1) - pixels.astype(np.int64)
            pixels = pixels * float(dataset.get("RescaleSlope") or 1) + float(dataset.get("RescaleIntercept") or 0)
            frames = dataset.get("PerFrameFunctionalGroupsSequence") or [None] * len(pixels)
            places = [(frame.PlanePositionSequence[0] if frame else dataset).ImagePositionPatient for frame in frames]
            return [(np.array(place, np.float64), one) for place, one in zip(places, pixels, strict=False)]
        except Exception:
            return []
