"""DICOM in: which files make a series, and where its voxels lie."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import dicoms
import nibabel
import numpy as np
import pytest
from conftest import DATA, needs_data
from scans import ORIENTATIONS, blob, image_of, reoriented
from typer.testing import CliRunner

from monet_edge import formats, pipeline
from monet_edge.cli import app
from monet_edge.errors import MonetError, ScanError
from monet_edge.formats.dicom.geometry import GAP_TOLERANCE
from monet_edge.model import load
from monet_edge.options import Options
from monet_edge.runs import find_scans, plan_jobs

REAL = DATA / "dicom"


@pytest.fixture(scope="module")
def model(weights_file):
    return load(weights_file, 1)


def turned(rng):
    """An affine of any direction: what an oblique series has."""
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * (0.8, 0.9, 3.0)
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return affine


def same_grid(path_or_scan, voxels, affine):
    """Voxels and affine as they were stored, but for the order of the slices, which DICOM does not keep."""
    scan = path_or_scan if hasattr(path_or_scan, "voxels") else formats.read(path_or_scan)
    if not np.allclose(scan.affine, affine, atol=1e-4, rtol=0):
        affine = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, voxels.shape[2] - 1], [0, 0, 0, 1]])
        voxels = voxels[:, :, ::-1]
    assert np.abs(scan.affine - affine).max() < 1e-4
    assert np.array_equal(scan.canonical("SPL").scaled(), formats.from_image(image_of(voxels, affine)).canonical("SPL").scaled())


def masks_agree(dicom, nifti, model, tmp_path):
    """The mask of a DICOM series is that of the NIfTI of the same volume, on one grid."""
    nibabel.save(nifti, tmp_path / "same.nii")
    pipeline.segment(tmp_path / "same.nii", tmp_path / "ref.nii", model=model, overwrite=True)
    pipeline.segment(dicom, tmp_path / "comp.nii", model=model, overwrite=True)
    ref, comp = (nibabel.as_closest_canonical(nibabel.load(tmp_path / name)) for name in ("ref.nii", "comp.nii"))
    assert np.abs(ref.affine - comp.affine).max() < 1e-4
    assert np.array_equal(np.asarray(ref.dataobj), np.asarray(comp.dataobj))
    assert np.asarray(ref.dataobj).any()


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda o: "".join("RAS"[int(a)] if f > 0 else "LPI"[int(a)] for a, f in o))
def test_a_series_of_any_orientation_has_the_mask_of_its_nifti(orientation, model, tmp_path, rng):
    voxels, affine = reoriented(blob(rng), np.diag([-0.8, -0.9, 3.0, 1.0]), orientation)
    folder = dicoms.write(tmp_path / "scan", voxels, affine)
    same_grid(folder, voxels, affine)
    masks_agree(folder, image_of(voxels, affine), model, tmp_path)


@pytest.mark.parametrize("seed", range(20))
def test_an_oblique_series_has_the_mask_of_its_nifti(seed, model, tmp_path):
    rng = np.random.default_rng(seed)
    voxels, affine = blob(rng), turned(rng)
    folder = dicoms.write(tmp_path / "scan", voxels, affine, seed=seed)
    same_grid(folder, voxels, affine)
    masks_agree(folder, image_of(voxels, affine), model, tmp_path)


def test_a_file_of_many_frames_is_a_scan_whatever_their_order(model, tmp_path, rng):
    voxels, affine = blob(rng), turned(rng)
    dicoms.save(dicoms.enhanced(voxels, affine, rng.permutation(voxels.shape[2])), tmp_path / "many")
    same_grid(tmp_path / "many", voxels, affine)


def dcm2niix(folder, output):
    """Another program's reading of a series: ref.nii."""
    subprocess.run(["dcm2niix", "-b", "n", "-z", "n", "-f", "ref", "-o", output, folder], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_dcm2niix_reads_the_same(seed, model, tmp_path):
    rng = np.random.default_rng(seed)
    voxels, affine = blob(rng), dicoms.LPS if seed is None else turned(rng)
    folder = dicoms.write(tmp_path / "scan", voxels, affine)
    dcm2niix(folder, tmp_path)
    ref, comp = nibabel.as_closest_canonical(nibabel.load(tmp_path / "ref.nii")), formats.read(folder)
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(comp.voxels, comp.affine))
    assert np.abs(ref.affine - image.affine).max() < 1e-4
    assert np.array_equal(np.asarray(ref.dataobj), np.asarray(image.dataobj))
    masks_agree(folder, nibabel.load(tmp_path / "ref.nii"), model, tmp_path)


def test_highdicom_has_the_same_affine(tmp_path, rng):
    import pydicom
    from highdicom.spatial import create_affine_matrix_from_attributes

    affine = turned(rng)
    folder = dicoms.write(tmp_path / "scan", blob(rng), affine)
    scan = formats.read(folder)
    first = pydicom.dcmread(folder / scan.header.slices[0].image.file)
    theirs = create_affine_matrix_from_attributes(
        first.ImagePositionPatient, first.ImageOrientationPatient, first.PixelSpacing, 3.0, index_convention="RD", slices_first=False
    )
    assert np.abs(np.diag([-1, -1, 1, 1]) @ theirs - scan.affine).max() < 1e-4


# ---- which files ----


def test_a_zip_a_tree_and_one_file_are_the_same_scan(tmp_path, rng):
    voxels = blob(rng)
    folder = dicoms.write(tmp_path / "tree" / "deep", voxels)
    (folder / "README.txt").write_text("the scan of a patient")
    with zipfile.ZipFile(tmp_path / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.write(file, f"a/b/{file.name}")
    assert formats.holds_study(tmp_path / "tree")
    assert not formats.holds_dicom(tmp_path / "tree")
    assert formats.holds_dicom(folder)
    for path in (folder, tmp_path / "tree", tmp_path / "scan.zip", folder / "IM0004"):
        same_grid(path, voxels, dicoms.LPS)


def test_an_archive_that_lies_is_refused(tmp_path, rng):
    folder = dicoms.write(tmp_path / "scan", blob(rng))
    path = Path(shutil.make_archive(str(tmp_path / "scan"), "zip", folder))
    raw = path.read_bytes()
    begin = raw.rindex(b"PK\x01\x02")  # an entry of the table at the end
    lies = {
        "cut short": (raw[:-40], "the zip archive is damaged"),
        "flipped": (raw[:5000] + bytes([raw[5000] ^ 4]) + raw[5001:], "damaged in the zip archive"),
        "a bomb": (raw[: begin + 24] + (1 << 31).to_bytes(4, "little") + raw[begin + 28 :], r"damaged|of memory"),
        "encrypted": (raw[: begin + 8] + b"\1" + raw[begin + 9 :], "the zip archive is encrypted"),
    }
    for name, (content, words) in lies.items():
        path.write_bytes(content)
        with pytest.raises(MonetError, match=words) as refused:
            formats.read(path)
        assert str(refused.value).startswith(f"{path}: "), name


def test_of_several_series_the_one_of_the_models_modality_is_taken(tmp_path, rng):
    voxels = blob(rng)
    dicoms.write(tmp_path / "study", voxels, SeriesNumber=1)
    for file in dicoms.write(tmp_path / "ct", voxels + 7, modality="CT", SeriesNumber=2).iterdir():
        file.rename(tmp_path / "study" / f"CT{file.name}")
    with pytest.raises(ScanError, match=r"several series that could be meant: 1 \(MR, 30x26x9\), 2 \(CT, 30x26x9\)"):
        formats.peek(tmp_path / "study")
    scan = formats.read(formats.peek(tmp_path / "study", modality="CT"))
    same_grid(scan, voxels + 7, dicoms.LPS)
    assert scan.warnings == ("series 2 (CT, 30x26x9) of 2 was taken",)
    same_grid(formats.read(formats.peek(tmp_path / "study", "1", "CT")), voxels, dicoms.LPS)
    uid = scan.header.slices[0].image.uids["SeriesInstanceUID"]
    same_grid(formats.read(formats.peek(tmp_path / "study", uid)), voxels + 7, dicoms.LPS)
    with pytest.raises(ScanError, match="has no series 3; it has 1"):
        formats.peek(tmp_path / "study", "3")


def test_a_slice_of_another_orientation_in_the_series_is_a_series_of_its_own(tmp_path, rng):
    voxels = blob(rng)
    folder = dicoms.write(tmp_path, voxels)
    (scout,) = dicoms.slices(voxels[:, :, :1], np.array([[0, 0, -3, 9], [-0.8, 0, 0, 0], [0, -0.9, 0, 0], [0, 0, 0, 1.0]]))
    first = dicoms.pydicom.dcmread(folder / "IM0000")
    scout.SeriesInstanceUID, scout.FrameOfReferenceUID = first.SeriesInstanceUID, first.FrameOfReferenceUID
    dicoms.save(scout, folder / "scout")
    same_grid(folder, voxels, dicoms.LPS)
    assert formats.read(folder).warnings == ("series 1 (MR, 30x26x9) of 2 was taken",)
    with pytest.raises(ScanError, match="a single slice"):
        formats.peek(folder, "2")


def test_another_modality_is_warned_of(tmp_path, rng):
    folder = dicoms.write(tmp_path / "scan", blob(rng))
    assert (
        "its modality is MR, the model was trained on CT; do not trust the mask"
        in formats.read(formats.peek(folder, modality="CT")).warnings
    )
    assert formats.read(formats.peek(folder, modality="T1-weighted MRI")).warnings == ()


def test_volumes_at_the_same_places_are_chosen_by_number(tmp_path, rng):
    first, second = blob(rng), blob(rng)
    series = list(dicoms.slices(first, EchoTime="30"))
    for extra in dicoms.slices(second, EchoTime="80"):
        extra.SeriesInstanceUID, extra.FrameOfReferenceUID = series[0].SeriesInstanceUID, series[0].FrameOfReferenceUID
        series.append(extra)
    for number, dataset in enumerate(series):
        dicoms.save(dataset, tmp_path / f"{number:02}")
    with pytest.raises(ScanError, match="holds 2 volumes of 30x26x9"):
        formats.read(tmp_path)
    for volume, voxels in enumerate((first, second)):
        same_grid(formats.read(tmp_path, volume), voxels, dicoms.LPS)
    for number, dataset in enumerate(series):  # the second by slopes of its own, slice by slice
        if number > 8:
            dataset.RescaleSlope, dataset.RescaleIntercept = f"{number / 2}", "0"
        dicoms.save(dataset, tmp_path / f"{number:02}")
    same_grid(formats.read(tmp_path, 0), first, dicoms.LPS)
    same_grid(formats.read(tmp_path, 1), second * np.arange(9, 18) / 2, dicoms.LPS)


def test_blank_uids_are_grouped_by_geometry_with_a_warning(tmp_path, rng):
    blank = dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"), "")
    folder = dicoms.write(tmp_path / "scan", blob(rng), **blank)
    dicoms.write(tmp_path / "scan" / "other", blob(rng, (20, 20, 9)), **blank)
    scan = formats.read(formats.peek(folder, "1"))
    assert scan.shape in ((30, 26, 9), (20, 20, 9))
    assert "its UIDs of study, series, instance, class are blank: the slices were put together by their geometry" in scan.warnings


def test_a_tree_of_one_study_is_a_scan_and_one_of_several_has_one_in_every_folder(tmp_path, rng):
    for patient in ("a", "b"):
        dicoms.write(tmp_path / patient / "axial", blob(rng))
    folders = [tmp_path / patient / "axial" for patient in ("a", "b")]
    assert [one.scan for one in find_scans([tmp_path])] == folders
    assert [one.scan for one in find_scans([tmp_path / "a"])] == [tmp_path / "a"]
    jobs = plan_jobs(find_scans([tmp_path]), tmp_path / "out", Options(format="dicom-seg"))
    assert [job.mask for job in jobs] == [tmp_path / "out" / patient / "axial_seg.dcm" for patient in ("a", "b")]


def test_a_discs_table_of_contents_is_no_scan(tmp_path, rng):
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(200))
    for patient in ("a", "b"):
        dicoms.write(tmp_path / patient, blob(rng))
    assert [one.scan for one in find_scans([tmp_path])] == [tmp_path / "a", tmp_path / "b"]


def test_slices_in_the_folder_given_are_a_scan_beside_those_of_other_studies_below(tmp_path, rng):
    disc = dicoms.write(tmp_path / "disc", blob(rng))
    dicoms.write(disc / "more", blob(rng))
    jobs = plan_jobs(find_scans([disc]), tmp_path / "out", Options())
    assert [(job.scan, job.mask) for job in jobs] == [
        (disc, tmp_path / "out" / "disc_seg.nii.gz"),
        (disc / "more", tmp_path / "out" / "more_seg.nii.gz"),
    ]


# ---- what is refused ----


def spoil(change):
    def spoiled(folder, rng):
        datasets = list(dicoms.slices(blob(rng)))
        datasets = change(datasets) or datasets
        for number, dataset in enumerate(datasets):
            dicoms.save(dataset, folder / f"IM{number}")

    return spoiled


def tilt(datasets):
    for z, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = [0, 3 * z * np.tan(np.radians(18.5)), 3 * z]


def unequal(datasets):
    datasets[4].ImagePositionPatient[2] += 3 * 9 * GAP_TOLERANCE


def narrow(datasets):
    datasets[3].PixelSpacing = ["0.5", "0.5"]


def small(datasets):
    dicoms.put_pixels(datasets[3], np.zeros((8, 8), np.int16))


def colour(datasets):
    for dataset in datasets:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"


def document(datasets):
    from pydicom.dataset import Dataset

    paper = Dataset()
    for key in ("PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(paper, key, getattr(datasets[0], key))
    paper.SOPClassUID, paper.MIMETypeOfEncapsulatedDocument = "1.2.840.10008.5.1.4.1.1.104.1", "application/pdf"
    paper.PixelData, paper.BitsAllocated = b"%PDF", 8
    return [paper]


def raw_data(datasets):
    for dataset in datasets:
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66"
        del dataset.Rows


def twice(datasets):
    return datasets * 2


def of_one(key, value):
    """Set an attribute of the fourth slice."""
    return lambda datasets: setattr(datasets[3], key, value)


def scaled_by_nothing(datasets):
    datasets[2].RescaleSlope, datasets[2].RescaleIntercept = "0", "0"


def looked_up(datasets):
    datasets[0].ModalityLUTSequence = [type(datasets[0])()]


def every(key, value):
    """Set an attribute of all slices, or take it away."""

    def change(datasets):
        for dataset in datasets:
            setattr(dataset, key, value) if value is not None else delattr(dataset, key)

    return change


SPOILED = {
    "tilt": (tilt, r"the gantry was tilted, by 18\.5 degrees"),
    "unequal distances": (unequal, r"unequal distances of 2\.730 to 3\.270 mm, the oddest between slice \d \(IM\d\) and slice \d"),
    "missing slice": (
        lambda datasets: datasets[:4] + datasets[5:],
        r"1 slice is missing: 6\.000 mm between slice 4 \(IM3\) and slice 6 \(IM4\), 3\.000 mm",
    ),
    "doubled slice": (lambda datasets: [*datasets, datasets[4]], r"doubled slices at 1 of 9 places: slice 5 \(IM4\) and slice 5 \(IM9\)"),
    "mixed sizes": (small, r"mixed sizes: slice 1 \(IM0\) has 30x26 pixels, slice 4 \(IM3\) 8x8"),
    "mixed pixel sizes": (narrow, "mixed pixel sizes"),
    "a single slice": (lambda datasets: datasets[:1], "a single slice"),
    "a localizer": (every("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localizer"),
    "a document": (document, r"an encapsulated document \(application/pdf\)"),
    "colour": (colour, r"a colour image \(RGB, 3 samples a pixel\)"),
    "raw data": (raw_data, r"no image \(Raw Data Storage\)"),
    "doubled everywhere": (twice, "doubled slices at 9 of 9 places"),
    "a slice beside the others": (of_one("ImagePositionPatient", ["4", "0", "9"]), r"slice 4 \(IM3\) lies \d\.\d+ mm beside the others"),
    "several frames of reference": (of_one("FrameOfReferenceUID", "1.2.3"), "several frames of reference"),
    "white at either end": (of_one("PhotometricInterpretation", "MONOCHROME1"), "disagree on which end of their values is white"),
    "undescribed frames": (every("NumberOfFrames", 3), "3 frames, and 0 of them described"),
    "bits at the top": (every("HighBit", 12), "pixels of 16 bits in 16, the highest in place 12"),
    "no sign": (every("PixelRepresentation", 2), "neither signed nor unsigned"),
    "out of this world": (every("ImagePositionPatient", ["1e9", "0", "0"]), r"ImagePositionPatient is \(1000000000\.0"),
    "no size": (every("PixelSpacing", ["0", "1"]), r"PixelSpacing is \(0\.0, 1\.0\) mm"),
    "no position": (every("ImagePositionPatient", None), "no ImagePositionPatient"),
    "no scale": (scaled_by_nothing, r"slice 3 \(IM2\): intensities scaled by 0"),
    "twisted": (every("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "right angles"),
    "pixels cut short": (every("PixelData", bytes(100)), "1,560 bytes of pixels, 100 are stored"),
    "a table of intensities": (looked_up, "Modality LUT"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_is_no_grid_is_refused_in_one_line(name, tmp_path, rng):
    change, words = SPOILED[name]
    spoil(change)(tmp_path, rng)
    with pytest.raises(ScanError, match=words) as refused:
        formats.read(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(refused.value)


def test_distances_within_the_tolerance_are_one_grid(tmp_path, rng):
    voxels = blob(rng)
    datasets = list(dicoms.slices(voxels))
    datasets[4].ImagePositionPatient[2] += 3 * 0.5 * GAP_TOLERANCE
    for number, dataset in enumerate(datasets):
        dicoms.save(dataset, tmp_path / f"IM{number}")
    same_grid(tmp_path, voxels, dicoms.LPS)


def test_a_damaged_file_is_named_unless_another_series_is_meant(tmp_path, rng):
    folder = dicoms.write(tmp_path / "scan", blob(rng))
    (folder / "half.dcm").write_bytes((folder / "IM0000").read_bytes()[:200])
    with pytest.raises(ScanError, match=r"half\.dcm"):
        formats.peek(folder)
    assert formats.peek(folder, "1").shape == (30, 26, 9)


def test_a_file_that_is_called_dicom_and_is_none_is_named(tmp_path, rng):
    folder = dicoms.write(tmp_path / "scan", blob(rng))
    (folder / "note.dcm").write_text("seen by nobody")
    with pytest.raises(ScanError, match=r"note\.dcm is called DICOM and does not begin so"):
        formats.peek(folder)


def test_of_series_that_are_all_unfit_each_says_why(tmp_path, rng):
    dicoms.write(tmp_path / "a", blob(rng), SeriesNumber=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    dicoms.write(tmp_path / "b", blob(rng)[:, :, :1], SeriesNumber=2)
    with pytest.raises(ScanError, match=r"no series can be segmented: 1 \(MR\): a localizer; 2 \(MR, 30x26x1\): a single slice"):
        formats.peek(tmp_path)


def test_a_table_of_contents_is_no_image(tmp_path, rng):
    folder = dicoms.write(tmp_path / "scan", blob(rng)[:, :, :1])
    (folder / "IM0000").rename(folder / "DICOMDIR")
    with pytest.raises(ScanError, match=r"holds no DICOM image|a folder without DICOM"):
        formats.peek(folder)


def test_too_many_files_are_refused(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("monet_edge.formats.dicom.members.MOST_FILES", 3)
    with pytest.raises(ScanError, match="more than 3 files"):
        formats.peek(dicoms.write(tmp_path, blob(rng)))


# ---- the command line ----


def test_series_are_listed_without_a_name(tmp_path, rng):
    dicoms.write(tmp_path, blob(rng), SeriesDescription="T1 planted PERSON")
    dicoms.write(tmp_path / "b", blob(rng)[:, :, ::4], modality="CT", SeriesNumber=9, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    result = CliRunner().invoke(app, ["series", str(tmp_path)])
    assert result.exit_code == 0
    for words in ("MR", "30 x 26", "0.8 x 0.9 x 3", "T1 … …", "CT", "a localizer", "Research use only"):
        assert words in result.output
    assert "planted" not in result.output.lower()


def test_a_folder_is_segmented_beside_itself(tmp_path, rng, weights_file):
    folder = dicoms.write(tmp_path / "ct.2020", blob(rng))
    result = CliRunner().invoke(app, ["segment", str(folder), "-m", str(weights_file), "--series", "1"])
    assert result.exit_code == 0, result.output
    assert nibabel.load(tmp_path / "ct.2020_seg.nii.gz").shape == (30, 26, 9)


@needs_data
def test_real_series_are_right_or_refused():
    header = formats.peek(REAL / "ct-jpeg2000", modality="CT")
    assert header.shape == (512, 512, 20)
    organs = nibabel.load(REAL / "ct-jpeg2000-organs.nii.gz")
    flipped = nibabel.as_closest_canonical(nibabel.Nifti1Image(np.zeros(header.shape, np.uint8), header.affine))
    assert np.abs(nibabel.as_closest_canonical(organs).affine - flipped.affine).max() < 1e-3
    with pytest.raises(ScanError, match=r"tilted, by 18\.5 degrees.*unequal distances of 8\.004 to 13\.997 mm"):
        formats.peek(REAL / "ct-gantry-tilt")
    header = formats.peek(REAL / "mr-enhanced")
    assert (header.shape, header.volumes) == ((64, 64, 6), 4)


@needs_data
@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
@pytest.mark.parametrize("name", ["ct-jpeg2000", "mr-enhanced"])
def test_dcm2niix_reads_the_same_of_real_series(name, tmp_path):
    dcm2niix(REAL / name, tmp_path)
    ref = nibabel.as_closest_canonical(nibabel.load(tmp_path / "ref.nii"))
    header = formats.peek(REAL / name)
    for volume in range(header.volumes):
        scan = formats.read(header, volume)
        comp = nibabel.as_closest_canonical(nibabel.Nifti1Image(scan.voxels * scan.slope + scan.inter, scan.affine))
        assert np.abs(ref.affine - comp.affine).max() < 1e-4
        assert np.array_equal(ref.get_fdata().reshape(*header.shape, -1)[..., volume], comp.get_fdata())
