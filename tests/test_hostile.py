"""Bad files as a user meets them, through the command line: one clear line, no harm, never a traceback."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzz.build import head, nifti
from scans import REFUSED, WARNED
from typer.testing import CliRunner

from monet_edge import formats
from monet_edge.cli import app

ROOT = Path(__file__).parents[1]


@pytest.fixture
def segment(weights_file):
    """The command, in this process."""
    return lambda *arguments: CliRunner().invoke(app, ["segment", *map(str, arguments), "-m", str(weights_file), "--threads", "1"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scans", "nrrd", "mha", "mgh", "dicom", "weights"])
def test_a_thousand_hostile_files(kind):
    """Each gives the right answer or one clear line, in 2 GB of address space; `python -m tests.fuzz` makes more of them."""
    command = [sys.executable, "-m", "tests.fuzz", "--count", "1000", "--seed", "20000", "--kind", kind]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    refused, right = (
        int(n.replace(",", "")) for n in re.search(r": ([\d,]+) clear errors, ([\d,]+) right answers; 0 anything", done.stdout).groups()
    )
    assert refused + right == 1000
    assert min(refused, right) > 40


@pytest.mark.parametrize("row", REFUSED)
def test_a_bad_scan_is_one_line_and_nothing_else(segment, tmp_path, row):
    """Every row of the table, through the command line."""
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(REFUSED[row][0])
    result = segment(path)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("segmenting", "compiling"))]
    assert len(lines) == 1
    assert lines[0].startswith(f"monet-edge: {path}: ")
    assert "unexpected" not in lines[0]
    assert [file.name for file in tmp_path.iterdir()] == ["scan.nii.gz"]
    assert path.read_bytes() == REFUSED[row][0]


@pytest.mark.parametrize("row", WARNED)
def test_a_doubtful_scan_is_segmented_with_a_warning(segment, tmp_path, row):
    path = tmp_path / "scan.nii"
    path.write_bytes(WARNED[row][0])
    result = segment(path)
    assert result.exit_code == 0
    assert f"warning: {formats.read(path).warnings[0]}" in result.stderr


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity_count_as_background(segment, tmp_path, dtype):
    """Row 18: the mask is that of the same scan with background there, and a warning says how many they were."""
    voxels = head((32, 32, 6), dtype)
    voxels[:5] = 0
    huge = 1e39 if dtype == np.float64 else np.inf
    for name in ("zero", "nonfinite"):
        (tmp_path / f"{name}.nii").write_bytes(nifti(voxels))
        result = segment(tmp_path / f"{name}.nii")
        assert result.exit_code == 0
        voxels[1, :6, 0] = np.array([np.nan, np.inf, -np.inf, np.nan, huge, -huge])
    assert "6 voxels are NaN or infinite; they count as background" in result.stderr
    masks = [formats.read(tmp_path / f"{name}_seg.nii.gz").voxels for name in ("zero", "nonfinite")]
    np.testing.assert_array_equal(*masks)


def test_signalling_nans_are_quiet(segment, tmp_path, recwarn):
    """In the voxels, and in an affine that is refused; fuzzing found that converting them prints a warning."""
    signalling = np.array([0x7F800001], np.uint32).view(np.float32)
    voxels = head((32, 32, 6), np.float32)
    voxels[10:20, 10] = signalling
    raw = nifti(voxels)
    (tmp_path / "voxels.nii").write_bytes(raw)
    (tmp_path / "affine.nii").write_bytes(raw[:280] + signalling.tobytes() + raw[284:])  # srow_x
    assert segment(tmp_path / "voxels.nii").exit_code == 0
    assert segment(tmp_path / "affine.nii").exit_code == 2
    assert not recwarn.list
