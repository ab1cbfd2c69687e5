"""Label names inside a mask, as Connectome Workbench looks for them: extension code 30, XML with a label table."""

import gzip
import os
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import nibabel
import numpy as np
import pytest

from monet_edge import formats, weights
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


def in_lab(colours):
    """sRGB, 0 to 255, in CIE L*a*b* of 1976 under D65."""
    shares = np.array(colours) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    white = linear @ np.transpose(matrix) / (0.95047, 1, 1.08883)
    x, y, z = np.where(white > 0.008856, np.cbrt(white), 7.787 * white + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@pytest.mark.parametrize(
    ("names", "apart"),
    [
        (weights.load("brain").preprocess.labels, 13),
        ([f"label {label}" for label in range(len(labels.COLOURS))], 12),
        ([f"{side} part {part}" for part in range(len(labels.COLOURS)) for side in ("left", "right")], 8),
    ],
    ids=["brain", "all", "all, of two sides"],
)
def test_labels_have_colours_that_can_be_told_apart_and_from_grey(names, apart):
    found = in_lab(labels.colours(names))
    others = ~np.eye(len(found), dtype=bool)
    assert np.linalg.norm(found[:, None] - found[None], axis=-1)[others].min() >= apart
    assert np.hypot(found[:, 1], found[:, 2]).min() > 16
    assert found[:, 0].min() > 45


def test_after_the_last_colour_comes_the_first():
    found = labels.colours([f"label {label}" for label in range(len(labels.COLOURS) + 1)])
    assert found[-1] == found[0]


def test_both_sides_of_a_structure_have_one_colour_the_right_one_paler():
    left, right, stem, lone = labels.colours(["left thalamus", "right thalamus", "brainstem", "right tumour"])
    assert (left, stem, lone) == labels.COLOURS[:3]
    assert all(right >= left for left, right in zip(left, right, strict=True))
    assert right != left
