"""Label names inside a mask, as Connectome Workbench looks for them: extension code 30, XML with a label table."""

import gzip
import os
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import nibabel
import numpy as np
import pytest

from monet_edge import formats
from monet_edge.formats.nifti.label_table import extension
from monet_edge.volume import labels


@pytest.mark.parametrize(
    "names", [("tumour",), ("anterior", "posterior"), ("<b>&\"'", "Größe", "a\x07b"), tuple("x" * n for n in range(1, 20))]
)
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_names_travel_in_the_mask(tmp_path, names, kind):
    scan = formats.from_image(kind(np.zeros((5, 4, 3), np.int16), np.eye(4)))
    mask = np.arange(60, dtype=np.uint8).reshape((5, 4, 3), order="F")
    formats.write(tmp_path / "mask.nii.gz", mask, like=scan, labels=names)
    image = nibabel.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asanyarray(image.dataobj), mask)
    assert np.array_equal(formats.read(tmp_path / "mask.nii.gz").voxels, mask)
    (table,) = image.header.extensions
    assert table.get_code() == 30
    raw = gzip.decompress((tmp_path / "mask.nii.gz").read_bytes())
    start = 352 if kind is nibabel.Nifti1Image else 544
    size, code = np.frombuffer(raw[start : start + 8], image.header.endianness + "i4")
    assert (size % 16, code) == (0, 30)
    content = raw[start + 8 : start + size]
    assert b"\0" not in content  # blanks fill it up: XML that is read as one text stays XML
    rows = ElementTree.fromstring(content).findall("VolumeInformation/LabelTable/Label")
    assert [row.get("Key") for row in rows] == [str(label) for label in range(len(names) + 1)]
    assert [row.text for row in rows[1:]] == [name.replace("\x07", "?") for name in names]


@pytest.mark.skipif(shutil.which("wb_command") is None, reason="Connectome Workbench is not installed")
def test_connectome_workbench_reads_names_and_colours(tmp_path):
    scan = formats.from_image(nibabel.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.eye(4)))
    formats.write(tmp_path / "mask.nii.gz", np.ones((5, 4, 3), np.uint8), like=scan, labels=("anterior", "Größe & <b>"))
    command = ["wb_command", "-volume-label-export-table", str(tmp_path / "mask.nii.gz"), "1", str(tmp_path / "table.txt")]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "QT_QPA_PLATFORM": "offscreen"})
    lines = (tmp_path / "table.txt").read_text().splitlines()
    assert lines[2:6] == ["anterior", "1 255 94 58 255", "Größe & <b>", "2 64 196 255 255"]


def test_without_names_there_is_no_extension(tmp_path):
    scan = formats.from_image(nibabel.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.eye(4)))
    formats.write(tmp_path / "mask.nii", np.zeros((5, 4, 3), np.uint8), like=scan)
    assert not nibabel.load(tmp_path / "mask.nii").header.extensions
    assert (tmp_path / "mask.nii").stat().st_size == 352 + 60


@pytest.mark.parametrize("length", range(1, 17))
def test_blanks_fill_the_extension_up(length):
    assert (len(extension(("x" * length,))) + 8) % 16 == 0


def test_eight_colours_and_then_again():
    found = labels.colours([f"label {label}" for label in range(1, 10)])
    assert len(set(found)) == 8
    assert found[8] == found[0]


def test_both_sides_of_a_structure_have_one_colour_the_right_one_paler():
    left, right, stem, lone = labels.colours(["left thalamus", "right thalamus", "brainstem", "right tumour"])
    assert (left, stem, lone) == labels.COLOURS[:3]
    assert all(right >= left for left, right in zip(left, right, strict=True))
    assert right != left
