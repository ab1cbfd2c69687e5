"""A head without its skull: what is kept is the scan's own, all around it is 0, and both files lie on its grid."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scans import blob, image_of
from typer.testing import CliRunner

from monet_edge import formats
from monet_edge.cli import app
from monet_edge.errors import ModelError, OutputError
from monet_edge.model import Model
from monet_edge.options import Options
from monet_edge.postprocess import solid
from monet_edge.strip import strip
from monet_edge.weights import load, save

pytest.importorskip("cc3d", reason="the extra components is not installed")


@pytest.fixture
def head(tmp_path, rng):
    path = tmp_path / "head.nii.gz"
    nibabel.save(image_of(blob(rng)), path)
    return path


@pytest.fixture
def other(weights_file):
    return Model(load(weights_file), threads=1)


@pytest.fixture
def brain_file(other, tmp_path_factory):
    """The same, of which what it finds is called a brain."""
    path, found = tmp_path_factory.mktemp("model") / "tiny.safetensors", other.weights
    save(path, found.spec, found.tensors, replace(found.preprocess, labels=("Brain",)), found.provenance)
    return path


@pytest.fixture
def model(brain_file):
    return Model(load(brain_file), threads=1)


def test_what_is_no_brain_is_not_taken_for_one(head, other):
    with pytest.raises(ModelError, match="tiny finds blob, and that is no brain; expected a model with a label brain or"):
        strip(head, None, other)
    assert not head.with_name("head_brain.nii.gz").exists()


def test_the_largest_piece_is_kept_and_its_holes_are_filled():
    ball = np.linalg.norm(np.indices((19, 19, 19)) - 9, axis=0) < 8
    hollow = ball.copy()
    hollow[7:10, 8:11, 9] = False
    hollow[0, 0, :3] = True  # away from the ball
    assert np.array_equal(solid(hollow), ball)
    tunnel = ball.copy()
    tunnel[:, 9, 9] = False  # leads out
    assert np.array_equal(solid(tunnel), tunnel)
    assert not solid(np.zeros((3, 3, 3), bool)).any()


def test_the_brain_is_the_scans_own_and_all_else_is_0(head, model):
    done = strip(head, None, model)
    assert sorted(path.name for path in head.parent.iterdir()) == ["head.nii.gz", "head_brain.nii.gz", "head_brain_mask.nii.gz"]
    given, brain, mask = (nibabel.load(path) for path in (head, done.scan, done.mask))
    inside = np.asanyarray(mask.dataobj) == 1
    assert 0 < inside.sum() < inside.size
    assert np.array_equal(inside, solid(model.segment_scan(formats.read(head)).mask > 0))
    assert np.array_equal(brain.get_fdata(), np.where(inside, given.get_fdata(), 0))
    for made in (brain, mask):
        assert np.allclose(made.affine, given.affine)
        assert made.header["sform_code"] == given.header["sform_code"]
    assert formats.is_ours(done.mask)
    assert not formats.is_ours(done.scan)  # a folder's walk takes it for a scan


def test_what_exists_is_kept_and_nothing_is_written(head, model):
    mask = head.with_name("head_brain_mask.nii.gz")
    mask.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        strip(head, None, model)
    assert mask.read_bytes() == b"mine"
    assert not head.with_name("head_brain.nii.gz").exists()
    strip(head, None, model, Options(overwrite=True))
    assert formats.is_ours(mask)


def test_it_is_written_as_nifti_only(head, model):
    with pytest.raises(OutputError, match=r"as .nii.gz or .nii"):
        strip(head, head.with_name("brain.mha"), model)


def test_the_command_says_what_it_wrote(head, brain_file):
    result = CliRunner().invoke(app, ["strip", str(head), "-m", str(brain_file), "-o", str(head.with_name("b.nii"))])
    assert result.exit_code == 0, result.output
    assert "ml → " in result.stdout
    assert result.stdout.endswith("Research use only, not a medical device.\n")
    assert {path.name for path in head.parent.iterdir()} == {"head.nii.gz", "b.nii", "b_mask.nii.gz"}


def test_a_file_that_the_scan_names_is_not_replaced(tmp_path, model, rng):
    voxels = blob(rng).astype("<f4")
    (tmp_path / "voxels.nii").write_bytes(voxels.tobytes(order="F"))
    sizes = " ".join(map(str, voxels.shape))
    (tmp_path / "head.nhdr").write_text(
        f"NRRD0004\ntype: float\ndimension: 3\nsizes: {sizes}\nendian: little\nencoding: raw\ndata file: voxels.nii\n\n"
    )
    with pytest.raises(OutputError, match=r"voxels\.nii is the input itself"):
        strip(tmp_path / "head.nhdr", tmp_path / "voxels.nii", model, Options(overwrite=True))
    assert (tmp_path / "voxels.nii").read_bytes() == voxels.tobytes(order="F")


def test_the_folder_one_stands_in_has_a_name(tmp_path, model, rng, monkeypatch):
    import dicoms  # of the extra of that name

    monkeypatch.chdir(dicoms.write(tmp_path / "study", blob(rng)))
    assert strip(Path("."), None, model).scan == tmp_path / "study_brain.nii.gz"
