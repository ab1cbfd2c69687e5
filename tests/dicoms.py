"""DICOM series for the tests: of any grid, transfer syntax and oddity; and an encoder of JPEG Lossless."""

import os
from collections import defaultdict
from itertools import count

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
Dataset, FileMetaDataset, Sequence = pydicom.dataset.Dataset, pydicom.dataset.FileMetaDataset, pydicom.sequence.Sequence
JPEGLosslessSV1 = pydicom.uid.JPEGLosslessSV1
ExplicitVRLittleEndian, ImplicitVRLittleEndian = pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian
ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian = pydicom.uid.ExplicitVRBigEndian, pydicom.uid.DeflatedExplicitVRLittleEndian

NAME, ID = "Planted^Person", "PLANTED-4711"
CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "PT": "1.2.840.10008.5.1.4.1.1.128"}
ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"
LPS = np.diag([-0.8, -0.9, 3.0, 1.0])  # columns to the left, rows to the back, slices up
NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
COMPRESSED = (pydicom.uid.RLELossless, pydicom.uid.JPEGLSLossless, pydicom.uid.JPEG2000Lossless, JPEGLosslessSV1)
_numbers = defaultdict(count)


def generate_uid():
    """A new identifier, the same in every run of a test: of random ones, a file that is damaged somewhere was another every time."""
    test, _, _ = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")  # behind it stands which part of the test it is
    return pydicom.uid.generate_uid(entropy_srcs=[test, str(next(_numbers[test]))])


def slices(voxels, affine=LPS, modality="MR", **tags):
    """A dataset for every slice of voxels (columns, rows, slices), whose affine leads to right, anterior, superior."""
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    along, down, step = lps[:3, :3].T
    common = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    for z in range(voxels.shape[2]):
        dataset = Dataset()
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = NAME, ID, "19500101", "O"
        dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = dataset.StudyID = ""
        dataset.ReferringPhysicianName, dataset.SeriesNumber, dataset.InstanceNumber = "Planted^Physician", 3, z + 1
        dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = CLASSES[modality], generate_uid(), modality
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        for key, value in common.items():
            setattr(dataset, key, value)
        place(dataset, lps[:3, 3] + z * step, along, down)
        put_pixels(dataset, voxels[:, :, z].T)
        for key, value in tags.items():
            setattr(dataset, key, value[z] if isinstance(value, list) and len(value) == voxels.shape[2] else value)
        yield dataset


def place(dataset, position, along, down):
    """Where a slice lies: its first pixel, and the ways, in mm, to the next along a row and down a column."""
    sizes = np.linalg.norm(along), np.linalg.norm(down)
    dataset.ImagePositionPatient = [f"{value:.10g}" for value in position]
    dataset.ImageOrientationPatient = [f"{value:.10f}"[:16] for value in (*along / sizes[0], *down / sizes[1])]
    dataset.PixelSpacing = [f"{sizes[1]:.12g}", f"{sizes[0]:.12g}"]
    dataset.SliceThickness = "1"


def put_pixels(dataset, pixels, bits=None):
    """Native pixels (rows, columns) of 8, 16 or 32 bits."""
    size = 8 * pixels.dtype.itemsize
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored = size, bits or size
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    raw = np.ascontiguousarray(pixels).tobytes()
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)


def save(dataset, path, syntax=ExplicitVRLittleEndian):
    """Write a dataset in any of the transfer syntaxes; what is compressed is so by other means than the package's own."""
    dataset = pydicom.dcmread(_written(dataset)) if syntax in COMPRESSED else dataset
    if syntax == JPEGLosslessSV1:
        pixels = dataset.pixel_array
        dataset.PixelData = pydicom.encaps.encapsulate([jpeg_lossless(pixels, dataset.BitsStored)])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path, enforce_file_format=True)
    elif syntax in COMPRESSED:
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path, enforce_file_format=True)
    else:
        path.write_bytes(_written(dataset, syntax).getvalue())


def _written(dataset, syntax=ExplicitVRLittleEndian):
    """A dataset as a file in memory; numbers of 16 bits are turned where that is big-endian."""
    file, native = pydicom.filebase.DicomBytesIO(), dataset.PixelData
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, dataset.SOPClassUID or CLASSES["CT"]
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID or generate_uid()
    dataset.file_meta = meta
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(native, f"u{dataset.BitsAllocated // 8}").byteswap().tobytes()
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
    little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    pydicom.dcmwrite(file, dataset, enforce_file_format=True, little_endian=little, implicit_vr=implicit)
    dataset.PixelData = native
    file.seek(0)
    return file


def write(folder, voxels, affine=LPS, syntax=ExplicitVRLittleEndian, seed=0, **tags):
    """A series in a folder, its files called by numbers that say nothing; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    datasets = list(slices(voxels, affine, **tags))
    for number, dataset in zip(np.random.default_rng(seed).permutation(len(datasets)), datasets, strict=True):
        save(dataset, folder / f"IM{number:04}", syntax)
    return folder


def enhanced(voxels, affine=LPS, order=None, **tags):
    """One file of many frames: spacing and orientation shared, positions each its own; the frames in any order."""
    parts = list(slices(voxels, affine, **tags))
    first = parts[0]
    whole = pydicom.dcmread(_written(first))
    for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        del whole[key]
    shared, whole.SOPClassUID, whole.NumberOfFrames = Dataset(), ENHANCED, len(parts)
    shared.PixelMeasuresSequence = Sequence([_part(first, "PixelSpacing", "SliceThickness")])
    shared.PlaneOrientationSequence = Sequence([_part(first, "ImageOrientationPatient")])
    whole.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for place_ in order if order is not None else range(len(parts)):
        frame = Dataset()
        frame.PlanePositionSequence = Sequence([_part(parts[place_], "ImagePositionPatient")])
        frame.FrameContentSequence = Sequence([Dataset()])
        frame.FrameContentSequence[0].InStackPositionNumber = int(place_) + 1
        frame.FrameContentSequence[0].StackID = "1"
        frames.append((frame, parts[place_].PixelData))
    whole.PerFrameFunctionalGroupsSequence = Sequence([frame for frame, _ in frames])
    whole.PixelData = b"".join(pixels for _, pixels in frames)
    return whole


def _part(dataset, *keys):
    part = Dataset()
    for key in keys:
        setattr(part, key, getattr(dataset, key))
    return part


def jpeg_lossless(pixels, bits=16, predictor=1, lengths=(5,) * 17, restart=0):
    """A frame of one component as ITU-T T.81, process 14, has it; ``lengths`` are of the codes of the categories 0, 1, ..."""
    x = pixels.astype(np.int64) & ((1 << bits) - 1)
    rows, columns = x.shape
    predicted = np.empty_like(x)
    for i in range(rows):
        fresh = restart and i % (restart // columns) == 0
        for j in range(columns):
            a, b, c = (x[i, j - 1] if j else 0), (x[i - 1, j] if i else 0), (x[i - 1, j - 1] if i and j else 0)
            if i == 0 or fresh:
                predicted[i, j] = a if j else 1 << (bits - 1)
            elif j == 0:
                predicted[i, j] = b
            else:
                predicted[i, j] = (a, b, c, a + b - c, a + ((b - c) >> 1), b + ((a - c) >> 1), (a + b) >> 1)[predictor - 1]
    difference = ((x - predicted + 32768) & 0xFFFF) - 32768
    codes, code = {}, 0
    for length in sorted(set(lengths)):
        for category in [one for one, its in enumerate(lengths) if its == length]:
            codes[category], code = f"{code:0{length}b}", code + 1
        code <<= next((one for one in sorted(set(lengths)) if one > length), length) - length
    scans = [difference.ravel()] if not restart else np.split(difference.ravel(), range(restart, x.size, restart))
    data = b"".join(_bits(scan, codes) + (b"\xff%c" % (0xD0 + i % 8) if i + 1 < len(scans) else b"") for i, scan in enumerate(scans))
    table = bytes(list(lengths).count(length) for length in range(1, 17)) + bytes(sorted(range(len(lengths)), key=lambda one: lengths[one]))
    sof = bytes([bits, *rows.to_bytes(2, "big"), *columns.to_bytes(2, "big"), 1, 1, 0x11, 0])
    interval = _segment(0xDD, restart.to_bytes(2, "big")) if restart else b""
    head = _segment(0xC3, sof) + _segment(0xC4, b"\0" + table) + interval + _segment(0xDA, bytes([1, 1, 0, predictor, 0, 0]))
    return b"\xff\xd8" + head + data + b"\xff\xd9"


def _segment(marker, content):
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def _bits(differences, codes):
    text = []
    for value in differences.tolist():
        category = 16 if value == -32768 else abs(value).bit_length()
        text.append(codes[category])
        if 0 < category < 16:
            text.append(f"{value if value > 0 else value + (1 << category) - 1:0{category}b}")
    text = "".join(text)
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0") if text else b""
