"""`evaluate --spacing`: what a voxel measures as somebody states it, in place of what the scans say."""

import json
import shutil

import nibabel
import numpy as np
import pytest
from synthetic import write_dataset
from test_cases import QUICK, call, one_line

from monet_train.dataset import load, read

KNOWN = (0.9, 0.9, 5.0)  # mm along X, Y, Z as the phantoms are stored


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model in millimetres, the data set it was trained on, and the same one lying on its side, of voxels that all claim 1 mm."""
    folder = tmp_path_factory.mktemp("spacing")
    write_dataset(folder / "data", 3)
    assert call(folder, "fit", "data", "-o", "run", "--spacing", "1.8", *QUICK) == 0
    assert call(folder, "export", "run", "data", "-o", "m.safetensors") == 0
    shutil.copytree(folder / "data", folder / "false")
    for path in folder.glob("false/*Tr/case*.nii.gz"):
        image = nibabel.load(path).as_reoriented(np.array([[1, 1], [2, 1], [0, 1]]))  # X, Y, Z becomes Z, X, Y
        affine = image.affine.copy()
        affine[:3, :3] /= np.linalg.norm(affine[:3, :3], axis=0)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), path)
    about = json.loads((folder / "false" / "dataset.json").read_text())
    (folder / "false" / "dataset.json").write_text(json.dumps({**about, "spacing": "unknown"}))
    return folder


def scores(place, data, *more):
    assert call(place, "evaluate", "m.safetensors", data, "-o", "scores", *more) == 0
    return (place / "scores" / "scores.csv").read_text()


def test_a_stated_spacing_gives_the_scores_of_scans_that_tell_it(place):
    ref = scores(place, "data")
    assert ",mm," in ref
    assert scores(place, "false", "--spacing", "5,0.9,0.9") == ref
    assert scores(place, "data", "--spacing", "0.9,0.9,5") == ref
    assert scores(place, "data", "--spacing", "2") != ref


def test_a_false_spacing_is_refused_unless_one_is_stated(place, capsys):
    assert call(place, "evaluate", "m.safetensors", "false") == 2
    assert "the spacing is unknown, and m works in millimetres; state it with --spacing" in one_line(capsys)
    for wrong in ("0", "1,2", "-1", "nan"):
        assert call(place, "evaluate", "m.safetensors", "false", "--spacing", wrong) == 2
        assert "spacing: expected one length in mm, or three, all above 0" in one_line(capsys)


def test_it_goes_along_the_axes_as_stored(place):
    ref, comp = load(read(place / "data"), "case_001"), load(read(place / "false", spacing=(5.0, 0.9, 0.9)), "case_001")
    np.testing.assert_array_equal(ref.images[0].stored, comp.images[0].stored)
    np.testing.assert_allclose(ref.steps, comp.steps, rtol=1e-6)
    assert not read(place / "false").spacing_known
    assert read(place / "false", spacing=KNOWN).spacing_known
