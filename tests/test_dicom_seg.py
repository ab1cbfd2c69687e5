"""DICOM out: a mask as a segmentation of its series, and whose names stand where."""

import gzip
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import dicoms
import numpy as np
import pydicom
import pytest
from conftest import DATA, needs_data
from scans import ball, blob
from typer.testing import CliRunner

from monet_edge import formats, pipeline, registry, weights
from monet_edge.cli import app
from monet_edge.errors import OutputError
from monet_edge.model import load

KINDS = {"dicom-seg": "BINARY", "dicom-labelmap": "LABELMAP"}
LABELS = ("anterior", "posterior")
CODES = json.loads((Path(__file__).parents[1] / "weights" / "codes.json").read_text())


def two_labels(shape):
    mask = ball(shape)
    mask[:, : shape[1] // 2] *= 2
    return mask


def voxels_of(path, shape, step=3):
    """What a segmentation holds, by pydicom alone and its frames' positions: (columns, rows, slices), slices in order of height."""
    found, mask = pydicom.dcmread(path), np.zeros(shape, np.uint8)
    frames = found.pixel_array.reshape(-1, shape[1], shape[0])
    for frame, about in zip(frames, found.PerFrameFunctionalGroupsSequence, strict=True):
        height = float(about.PlanePositionSequence[0].ImagePositionPatient[2])
        number = 1
        if "SegmentIdentificationSequence" in about:
            number = about.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        plane = mask[:, :, round(height / step)]
        plane[frame.T > 0] = frame.T[frame.T > 0] if found.SegmentationType == "LABELMAP" else number
    return mask


def by_highdicom(path, folder):
    """The same by highdicom, for the slices of the series."""
    from highdicom.seg import segread

    slices = sorted((pydicom.dcmread(file) for file in folder.iterdir()), key=lambda one: one.ImagePositionPatient[2])
    found = segread(path)
    return found.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in slices], combine_segments=True, ignore_spatial_locations=False, assert_missing_frames_are_empty=True
    ).T


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [two_labels, lambda shape: np.zeros(shape, np.uint8)], ids=["labels", "empty"])
def test_a_segmentation_is_read_back_voxel_for_voxel(kind, make, tmp_path, rng):
    folder = dicoms.write(tmp_path / "scan", blob(rng))
    scan = formats.read(folder)
    mask = make(scan.shape)
    formats.write(tmp_path / "mask.dcm", mask, scan, labels=LABELS, codes=CODES, model="tiny", format=kind)
    found = pydicom.dcmread(tmp_path / "mask.dcm")
    assert found.SegmentationType == KINDS[kind]
    assert np.array_equal(voxels_of(tmp_path / "mask.dcm", scan.shape), mask)
    assert np.array_equal(by_highdicom(tmp_path / "mask.dcm", folder), mask)


def test_a_segmentation_of_many_frames_is_read_back(tmp_path, rng):
    dicoms.save(dicoms.enhanced(blob(rng), order=rng.permutation(9)), tmp_path / "many")
    scan = formats.read(tmp_path / "many")
    formats.write(tmp_path / "mask.dcm", two_labels(scan.shape), scan, labels=LABELS)
    assert np.array_equal(voxels_of(tmp_path / "mask.dcm", scan.shape), two_labels(scan.shape))


def test_a_segmentation_of_a_zip_is_the_folders(tmp_path, rng):
    folder = dicoms.write(tmp_path / "scan", blob(rng))
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    scan = formats.read(tmp_path / "scan.zip")
    formats.write(tmp_path / "mask.dcm", two_labels(scan.shape), scan, labels=LABELS)
    assert np.array_equal(by_highdicom(tmp_path / "mask.dcm", folder), two_labels(scan.shape))


def test_a_segmentation_says_what_it_is_and_what_of(tmp_path, rng):
    folder = dicoms.write(tmp_path / "scan", blob(rng))
    scan = formats.read(folder)
    formats.write(
        tmp_path / "mask.dcm",
        two_labels(scan.shape),
        scan,
        labels=(*LABELS, "thing"),
        codes={label: CODES[label] for label in LABELS},
        model="tiny",
    )
    found, slices = pydicom.dcmread(tmp_path / "mask.dcm"), [pydicom.dcmread(file) for file in folder.iterdir()]
    first, second, third = found.SegmentSequence
    assert [one.SegmentLabel for one in found.SegmentSequence] == [*LABELS, "thing"]
    coded = first.SegmentedPropertyTypeCodeSequence[0]
    assert (coded.CodeValue, coded.CodingSchemeDesignator) == ("5366008", "SCT")
    assert coded.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Anterior"
    assert third.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
    assert first.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "tiny"
    assert len({one.TrackingUID for one in found.SegmentSequence}) == 3
    assert first.RecommendedDisplayCIELabValue != second.RecommendedDisplayCIELabValue
    (series,) = found.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == slices[0].SeriesInstanceUID
    assert {one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence} == {one.SOPInstanceUID for one in slices}
    for key in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
        assert found[key].value == slices[0][key].value
    assert "not a medical device" in found.ContentDescription


def test_of_a_person_nothing_leaves_but_what_files_the_segmentation(tmp_path, rng, weights_file):
    """Everything that a run writes or prints is searched for what stands in the series' header."""
    folder = dicoms.write(
        tmp_path / "scan", blob(rng), InstitutionName="Planted Hospital", PatientAddress="Planted street", OperatorsName="Planted^Nurse",
        PatientComments="planted", SeriesDescription="MR Planted", DeviceSerialNumber="planted-17", PatientAge="070Y",
    )  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    options = [
        *("--preview", "--probabilities", "--stats", str(out / "s.csv"), "--run-record", str(out / "r.json")),
        *("--report", str(out / "r.html")),
    ]
    for name in ("mask.nii.gz", "mask.dcm"):
        result = CliRunner().invoke(app, ["segment", str(folder), "-m", str(weights_file), "-o", str(out / name), "--overwrite", *options])
        assert result.exit_code == 0, result.output
        assert "planted" not in result.output.lower()
    for file in out.iterdir():
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        if file.name == "mask.dcm":
            found = pydicom.dcmread(file)
            assert (str(found.PatientName), found.PatientID, found.PatientBirthDate) == (dicoms.NAME, dicoms.ID, "19500101")
            del found.PatientName, found.PatientID
            assert "planted" not in str(found).lower()
            assert not {"PatientAddress", "PatientAge", "InstitutionName", "OperatorsName"} & set(found.dir())
        else:
            assert b"planted" not in raw.lower(), file.name


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_passes_over_the_segmentations_that_it_made(kind, tmp_path, rng, weights_file):
    dicoms.write(tmp_path / "in" / "a", blob(rng))
    dicoms.write(tmp_path / "in" / "b", blob(rng))
    words = ["segment", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(weights_file), "--format", kind, "--skip-existing"]
    assert "0 of 2 scans are done already" in CliRunner().invoke(app, words).stdout
    assert "2 of 2 scans are done already" in CliRunner().invoke(app, words).stdout
    mask = tmp_path / "out" / "a_seg.dcm"
    mask.write_bytes(mask.read_bytes()[:-1])
    assert "1 of 2 scans are done already; done anew: 1 damaged" in CliRunner().invoke(app, words).stdout
    said = CliRunner().invoke(app, [*words, "--threshold", "0.4", "--overwrite"]).stdout
    assert "0 of 2 scans are done already; done anew: 2 of another model or other options" in said


# ---- refusals ----


def test_blank_uids_are_named(tmp_path, rng, weights_file):
    folder = dicoms.write(tmp_path / "scan", blob(rng), SOPInstanceUID="", StudyInstanceUID="")
    with pytest.raises(OutputError, match=r"its UIDs of study, instance are blank: a DICOM segmentation could not refer to it"):
        pipeline.segment(folder, tmp_path / "mask.dcm", model=weights_file)
    assert not (tmp_path / "mask.dcm").exists()


def test_a_scan_that_is_no_dicom_has_no_segmentation_in_dicom(put, weights_file):
    from fuzz.build import nifti

    with pytest.raises(OutputError, match="a DICOM segmentation refers to a series of DICOM, this is NIfTI"):
        pipeline.segment(put(nifti()), model=weights_file, format="dicom-seg")


@pytest.mark.parametrize("output", ["scan/IM0003", "scan.zip"])
def test_no_result_replaces_a_slice(output, tmp_path, rng, weights_file):
    folder = dicoms.write(tmp_path / "scan", blob(rng))
    path = folder
    if output.endswith("zip"):
        path = Path(shutil.make_archive(str(tmp_path / "scan"), "zip", folder))
    (tmp_path / "link.dcm").symlink_to(tmp_path / output)
    before = (tmp_path / output).read_bytes()
    with pytest.raises(OutputError, match=r"link\.dcm is the input itself"):
        pipeline.segment(path, tmp_path / "link.dcm", model=weights_file, overwrite=True)
    assert (tmp_path / output).read_bytes() == before


def test_a_mask_in_the_folder_is_no_series_of_the_next_run(tmp_path, rng, weights_file):
    folder = dicoms.write(tmp_path / "scan", blob(rng))
    pipeline.segment(folder, folder / "mask.dcm", model=weights_file)
    with pytest.raises(OutputError, match="exists already"):
        pipeline.segment(folder, folder / "mask.dcm", model=weights_file)
    pipeline.segment(folder, folder / "mask.dcm", model=weights_file, overwrite=True)


# ---- by others ----


@pytest.fixture(params=[False, True], ids=["labels", "empty"])
def shipped_mask(request, shipped_name, tmp_path, rng):
    """The segmentation of a shipped model's labels, full or empty."""
    found = weights.load(shipped_name)
    dicoms.write(tmp_path / "scan", blob(rng), modality="CT" if found.provenance.stated("modality") == "CT" else "MR")
    scan = formats.read(tmp_path / "scan")
    mask = np.zeros(scan.shape, np.uint8) if request.param else two_labels(scan.shape).clip(0, len(found.preprocess.labels))
    formats.write(tmp_path / "mask.dcm", mask, scan, labels=found.preprocess.labels, codes=found.provenance.codes, model=shipped_name)
    return tmp_path / "mask.dcm"


@pytest.fixture(params=sorted(registry.shipped()))
def shipped_name(request):
    return request.param


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
def test_dciodvfy_finds_no_error(shipped_mask):
    """Of a label map it does not know the kind of object."""
    said = subprocess.run(["dciodvfy", shipped_mask], capture_output=True, text=True, check=False).stderr
    assert not [line for line in said.splitlines() if line.startswith("Error")]


@pytest.fixture
def standard():
    """What dicom-validator says of a file."""
    return pytest.importorskip("standard", reason="dicom-validator is not installed")


def test_dicom_validator_finds_no_error(shipped_mask, standard):
    """Of a label map its edition of the standard knows nothing."""
    assert standard.errors(shipped_mask) == []


def test_dicom_validator_finds_what_is_wrong(tmp_path, rng, standard):
    scan = formats.read(dicoms.write(tmp_path / "scan", blob(rng)))
    formats.write(tmp_path / "mask.dcm", ball(scan.shape), scan)
    dataset = pydicom.dcmread(tmp_path / "mask.dcm")
    del dataset.ContentLabel, dataset.SegmentSequence[0].SegmentAlgorithmType
    del dataset.PerFrameFunctionalGroupsSequence[0].FrameContentSequence
    dataset.SegmentationType = "DRAWN"
    dataset.save_as(tmp_path / "wrong.dcm")
    assert standard.errors(tmp_path / "wrong.dcm") == [
        "frame-content: FrameContentSequence TagMissing",
        *(f"segmentation-image: {tag} EnumValueNotAllowed" for tag in ("BitsAllocated", "BitsStored", "HighBit", "SegmentationType")),
        "segmentation-image: SegmentAlgorithmType TagMissing",
        "segmentation-image: ContentLabel TagMissing",
    ]


@needs_data
def test_dicom_validator_finds_no_error_in_the_mask_of_a_multi_frame_file(tmp_path, standard):
    scan = formats.read(DATA / "dicom" / "mr-enhanced", volume=0)
    formats.write(tmp_path / "mask.dcm", ball(scan.shape), scan)
    assert standard.errors(tmp_path / "mask.dcm") == []


@needs_data
def test_a_real_series_with_uids_has_the_same_mask_in_dicom_and_nifti(tmp_path):
    model = load("pancreas-ct", 2)
    uids = {key: dicoms.generate_uid() for key in ("StudyInstanceUID", "SeriesInstanceUID")}
    (tmp_path / "scan").mkdir()
    for file in (DATA / "dicom" / "ct-jpeg2000").iterdir():
        dataset = pydicom.dcmread(file)
        for key, value in uids.items():
            setattr(dataset, key, value)
        dataset.SOPClassUID, dataset.SOPInstanceUID = dicoms.CLASSES["CT"], dicoms.generate_uid()
        dataset.save_as(tmp_path / "scan" / file.name)
    for name in ("mask.nii.gz", "mask.dcm"):
        pipeline.segment(tmp_path / "scan", tmp_path / name, model=model)
    ref = formats.read(tmp_path / "mask.nii.gz").voxels
    assert ref.any()
    assert np.array_equal(by_highdicom(tmp_path / "mask.dcm", tmp_path / "scan"), ref)
