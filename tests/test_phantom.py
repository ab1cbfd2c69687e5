"""The synthetic data set is one that the trainer takes, and says no rather than writing over another."""

import nibabel
import numpy as np
from typer.testing import CliRunner

from monet_edge import phantom
from monet_edge.cli import app
from monet_train import dataset


def test_the_data_set_is_valid_and_known(tmp_path):
    result = CliRunner().invoke(app, ["phantom", str(tmp_path / "heads"), "--cases", "2", "--seed", "5"])
    assert result.exit_code == 0, result.output
    found = dataset.read(tmp_path / "heads")
    assert list(found.pairs) == ["phantom_00", "phantom_01"]
    assert found.labels == ("lesion",)
    assert [severity for _, severity, _ in dataset.check(found)] == ["ok", "ok"]
    volume, mask = phantom.make(501)
    image, label = (nibabel.load(path) for path in found.pairs["phantom_01"])
    assert np.array_equal(np.asanyarray(image.dataobj).T, volume)
    assert np.array_equal(np.asanyarray(label.dataobj).T, mask)
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")  # else left is right
    assert np.allclose(image.header.get_zooms(), phantom.SPACING[::-1])
    assert np.allclose(image.affine[:3, 3], -np.diag(image.affine)[:3] * np.array(image.shape) / 2)  # the middle lies at 0


def test_an_existing_data_set_is_left_alone(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    result = CliRunner().invoke(app, ["phantom", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds a data set already" in result.stderr


def test_another_seed_is_other_patients(tmp_path):
    """Or a network would be tested on the heads that it was trained on."""
    for seed in range(3):
        phantom.write_dataset(tmp_path / str(seed), 3, seed, (4, 16, 16))
    heads = [path.read_bytes() for path in tmp_path.glob("*/imagesTr/*.nii.gz")]
    assert len(heads) == len(set(heads)) == 9


def test_a_data_set_of_another_layout_is_left_alone_too(tmp_path):
    (tmp_path / "dataset.json").write_text("precious")
    assert CliRunner().invoke(app, ["phantom", str(tmp_path)]).exit_code == 2
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]
