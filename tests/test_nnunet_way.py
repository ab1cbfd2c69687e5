"""The way of a case through a model of nnU-Net's, against what nnU-Net made of it: `nnunet_reference.py` says how."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import GENUINE, needs_genuine
from typer.testing import CliRunner

import monet_edge
from monet_edge import formats, limits, pipeline
from monet_edge.cli import app
from monet_edge.errors import ModelError, ResourceError, ScanError
from monet_edge.options import Options
from monet_edge.ways.nnunet import stated_spacing
from monet_train.import_nnunet import import_model

MODELS = Path(__file__).parent / "nnunet_models"
VARIANTS = sorted(path.name for path in MODELS.iterdir())


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """``ready(variant, threads)``: its model, imported once, and its scans."""
    folder, made = tmp_path_factory.mktemp("nnunet"), {}

    def make(name, threads=1):
        if name not in made:
            made[name] = folder / f"{name}.safetensors"
            import_model(MODELS / name / "model", made[name])
        scans = [formats.read(path) for path in sorted((MODELS / name / "images").iterdir())]
        return monet_edge.load(made[name], threads), scans

    make.path = lambda name: folder / f"{name}.safetensors"
    return make


def stored(path):
    return np.asarray(nibabel.load(path).dataobj)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_mask_is_nnunets_own(name, threads, ready):
    model, scans = ready(name, threads)
    found = model.segment_scan(scans, Options(probabilities=True))
    assert np.array_equal(found.mask, stored(MODELS / name / "expected.nii.gz"))
    assert found.mask.any()
    assert found.warnings == ()
    expected = np.load(MODELS / name / "expected.npz")["probabilities"].transpose(3, 2, 1, 0) / 65535
    if name == "turned":  # nnU-Net leaves probabilities as it has turned the image
        expected = expected[::-1, :, ::-1]
    assert np.abs(found.probability - expected).max() <= 2e-3  # measured: 9e-4, where a logit falls to the other float16


@pytest.mark.parametrize("name", VARIANTS)
def test_a_mirrored_mask_is_nnunets_own(name, ready):
    model, scans = ready(name)
    assert np.array_equal(model.segment_scan(scans, Options(flip=True)).mask, stored(MODELS / name / "mirrored.nii.gz"))


@needs_genuine
@pytest.mark.parametrize("mirrored", [False, True])
def test_masks_of_a_genuine_model_are_nnunets_own(mirrored, tmp_path):
    import_model(GENUINE / "model", tmp_path / "model.safetensors")
    model = monet_edge.load(tmp_path / "model.safetensors")
    for case in ("hippo_a", "hippo_b", "hippo_c", "hippo_d"):
        found = model.segment_scan(formats.read(GENUINE / "images" / f"{case}_0000.nii.gz"), Options(probabilities=True, flip=mirrored))
        assert np.array_equal(found.mask, stored(GENUINE / ("expected_mirrored" if mirrored else "expected") / f"{case}.nii.gz"))
        if not mirrored:
            expected = np.load(GENUINE / "expected" / f"{case}.npz")["probabilities"].transpose(3, 2, 1, 0)
            assert np.abs(found.probability - expected).max() <= 5e-4


def test_several_files_are_one_case_however_they_are_given(tmp_path, ready):
    ready("channels")
    for path in (MODELS / "channels" / "images").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    first, second = tmp_path / "case_0000.nii.gz", tmp_path / "case_0001.nii.gz"
    for given in ([first], [second], [first, second], [tmp_path]):
        result = CliRunner().invoke(app, ["segment", *map(str, given), "-m", str(ready.path("channels")), "--overwrite"])
        assert result.exit_code == 0, result.output
        assert np.array_equal(stored(tmp_path / "case_seg.nii.gz"), stored(MODELS / "channels" / "expected.nii.gz"))
        (tmp_path / "case_seg.nii.gz").unlink()
    model = monet_edge.load(ready.path("channels"))
    for given in (first, [first, second], [nibabel.load(first), nibabel.load(second)]):
        assert np.array_equal(np.asarray(model.segment(given).dataobj), stored(MODELS / "channels" / "expected.nii.gz"))
    monet_edge.segment([first, second], tmp_path / "mask.nii.gz", model=model)
    assert np.array_equal(stored(tmp_path / "mask.nii.gz"), stored(MODELS / "channels" / "expected.nii.gz"))
    one, two = map(nibabel.load, (first, second))
    nibabel.save(nibabel.Nifti1Image(np.stack([one.dataobj, two.dataobj], axis=-1), one.affine, one.header), tmp_path / "both.nii.gz")
    monet_edge.segment(tmp_path / "both.nii.gz", model=model)
    assert (tmp_path / "both_seg.nii.gz").read_bytes() == (tmp_path / "mask.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["case_0000.nii.gz"], "case_0001.nii.gz: "),
        (["case.nii.gz", "other.nii.gz"], "the model takes 2 images of a case, found 1 volume in this file"),
        (["case_0002.nii.gz"], "or files named _0000 to _0001"),
    ],
)
def test_a_case_that_is_not_whole_is_refused_in_one_line(names, message, tmp_path, ready):
    ready("channels")
    for name in names:
        (tmp_path / name).write_bytes((MODELS / "channels" / "images" / "case_0000.nii.gz").read_bytes())
    result = CliRunner().invoke(app, ["segment", str(tmp_path / names[0]), "-m", str(ready.path("channels"))])
    assert result.exit_code == 2
    with pytest.raises(ScanError, match=message):
        monet_edge.segment(tmp_path / names[0], model=ready.path("channels"))
    assert not list(tmp_path.glob("*_seg*"))


def test_images_of_different_grids_are_refused(ready):
    model, (scan, _) = ready("channels")
    other = formats.from_image(nibabel.Nifti1Image(np.ones(scan.shape, np.int16), np.diag([1, 1, 1.2, 1])))
    with pytest.raises(ScanError, match=r"must have one grid: image 0 has .* 0\.8 x 1\.1 x 1\.2 mm, image 1 .*1 x 1 x 1\.2"):
        model.segment_scan([scan, other])
    affine = scan.affine.copy()
    affine[:3, 3] += 2 * affine[:3, 0]
    with pytest.raises(ScanError, match="must lie in one place: image 1 lies 2 voxels from image 0 at a corner"):
        model.segment_scan([scan, replace(scan, affine=affine)])
    with pytest.raises(ScanError, match="takes 2 images of a case, found 1"):
        model.segment_scan(scan)


def test_an_empty_scan_gives_a_mask_as_any_other(ready):
    """nnU-Net does not look whether there is anything to see; nor is there an error here."""
    model, (scan,) = ready("tiles")
    image = nibabel.Nifti1Image(np.zeros(scan.shape, np.int16), scan.affine)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert model.segment_scan(formats.from_image(image)).mask.shape == scan.shape


def test_what_is_no_number_counts_as_0(ready):
    model, (scan,) = ready("tiles")
    voxels = scan.voxels.astype(np.float32)
    voxels[3, 4, 1], voxels[5, 6, 2] = np.nan, np.inf
    zeros = np.where(np.isfinite(voxels), voxels, 0)
    found, ref = (model.segment_scan(formats.from_image(nibabel.Nifti1Image(each, scan.affine))) for each in (voxels, zeros))
    assert np.array_equal(found.mask, ref.mask)
    assert any("2 voxels are NaN or infinite; they count as 0" in warning for warning in found.warnings)


def test_more_memory_than_there_is_is_refused_before_reading(ready, tmp_path, monkeypatch):
    """Pixels of 14 mm make a slice 15 times as long, and as wide, at the model's spacing."""
    model, _ = ready("tiles")
    nibabel.save(nibabel.Nifti1Image(np.ones((200, 200, 2), np.int16), np.diag([14, 14, 2, 1])), tmp_path / "scan.nii.gz")
    monkeypatch.setattr(limits, "available", lambda: 1 << 28)
    with pytest.raises(ResourceError, match=r"scan.nii.gz: segmenting it .* needs .* MB of memory, 268 MB are available"):
        model.segment(tmp_path / "scan.nii.gz")


def test_a_scan_of_which_nothing_is_left_is_refused(ready):
    model, _ = ready("tiles")
    image = nibabel.Nifti1Image(np.ones((4, 30, 3), np.int16), np.diag([0.1, 1, 1, 1]))
    with pytest.raises(ScanError, match=r"3 x 30 x 4 voxels of 1 x 1 x 0.1 mm leave none at the model's"):
        model.segment(image)


def test_options_without_effect_are_told(ready):
    model, scans = ready("tiles")
    assert any("threshold is ignored" in warning for warning in model.segment_scan(scans, Options(threshold=0.3)).warnings)


def test_info_says_that_it_came_from_nnunet(ready):
    ready("channels")
    result = CliRunner().invoke(app, ["info", str(ready.path("channels"))])
    assert result.exit_code == 0
    assert "a slice of 24x20" in result.output
    assert '"made_by": "nnU-Net 2.4 or later"' in result.output
    assert '"trainer": "nnUNetTrainer"' in result.output
    assert CliRunner().invoke(app, ["info", "--plan", str(ready.path("channels"))]).exit_code == 0


def test_statistics_pictures_and_pages_are_as_of_any_model(ready, tmp_path):
    ready("ct")
    scan = MODELS / "ct" / "images" / "case_0000.nii.gz"
    arguments = ["--preview", "--probabilities", "--report", str(tmp_path), "--stats", str(tmp_path / "stats.json")]
    result = CliRunner().invoke(
        app, ["segment", str(scan), "-m", str(ready.path("ct")), "-o", str(tmp_path / "case_seg.nii.gz"), *arguments]
    )
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {
        "case_seg.nii.gz", "case_prob.nii.gz", "case_preview.png", "case_report.html", "stats.json"
    }  # fmt: skip
    assert json.loads((tmp_path / "stats.json").read_text())["scans"][0]["labels"][0]["name"] == "a"
    assert nibabel.load(tmp_path / "case_prob.nii.gz").shape == (*stored(scan).shape, 3)


def test_only_segmenting_is_done_with_it(ready):
    model, scans = ready("tiles")
    with pytest.raises(ModelError, match="tiles is a model of nnU-Net's: only segmenting is done with it"):
        model.slices(scans[0])


@pytest.mark.parametrize("turn", [0, 0.5])
def test_a_pixel_measures_what_the_header_states_to_the_last_digit(turn, tmp_path):
    """Of 0.9 mm a float32 is a little less, which decides how 4.5 voxels are rounded; an affine that is turned loses that digit."""
    affine = np.diag([0.9, 1.2, 1.1, 1])
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]] @ affine[:2, :2]
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 4, 5), np.int16), affine), tmp_path / "scan.nii")
    expected = tuple(float(np.float32(mm)) for mm in (0.9, 1.2, 1.1))
    assert stated_spacing(formats.read(tmp_path / "scan.nii")) == expected
    assert stated_spacing(formats.from_image(nibabel.load(tmp_path / "scan.nii"))) == expected


def test_a_spacing_that_is_stated_counts_and_an_unknown_one_is_refused(ready, tmp_path):
    model, (scan,) = ready("tiles")
    other = formats.from_image(nibabel.Nifti1Image(scan.voxels, np.eye(4)))
    found = model.segment_scan(other, Options(spacing=scan.spacing))
    assert np.array_equal(found.mask, stored(MODELS / "tiles" / "expected.nii.gz"))
    with pytest.raises(ScanError, match="what its voxels measure is not known, and the model works in millimetres"):
        model.segment_scan(replace(other, spacing_known=False))


@pytest.mark.parametrize("name", ["channels", "tiles", "residual"])
def test_dicom_series_have_nnunets_mask_as_a_segmentation(name, ready, tmp_path):
    """nnU-Net takes columns, rows and slices as its reader stacks them: of series of the same voxels too."""
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    import dicoms
    from test_dicom_seg import voxels_of

    model, scans = ready(name)
    affine = np.diag([-1, -1, 1, 1]) @ scans[0].affine
    folders = [dicoms.write(tmp_path / f"series{number}", scan.voxels, affine) for number, scan in enumerate(scans)]
    pipeline.segment(folders, tmp_path / "mask.dcm", model=model)
    found = voxels_of(tmp_path / "mask.dcm", scans[0].shape, affine[2, 2])
    assert np.array_equal(found, stored(MODELS / name / "expected.nii.gz"))
