"""The slices that pictures and pages show: right side up, true to scale, outlined and not filled."""

from itertools import permutations, product

import nibabel
import numpy as np
import pytest
from scans import ball

from monet_edge import formats
from monet_edge.preprocess import SLICINGS
from monet_edge.report import slices

SPACING = (2.0, 1.0, 4.0)


@pytest.fixture(scope="module")
def image():
    """Bright towards the left, the front and the top, in a head of 40 x 60 x 20 voxels, right-anterior-superior."""
    x, y, z = np.meshgrid(np.linspace(1, 0, 40), np.linspace(0, 1, 60), np.linspace(0, 1, 20), indexing="ij")
    return nibabel.Nifti1Image((1000 * x * y * z).astype(np.int16), np.diag([*SPACING, 1]))


def test_every_axis_order_gives_the_same_planes(image):
    ref = None
    mask = nibabel.Nifti1Image(ball(image.shape), image.affine)
    for axes, flips in product(permutations(range(3)), product([1, -1], repeat=3)):
        turn = np.column_stack([axes, flips])
        scan = formats.from_image(image.as_reoriented(turn))
        labels = np.asarray(mask.as_reoriented(turn).dataobj)
        planes = [slices.cut(scan, labels, name) for name in SLICINGS]
        ref = ref or planes
        for plane, other in zip(planes, ref, strict=True):
            assert np.array_equal(plane.voxels.stored, other.voxels.stored)
            assert np.array_equal(plane.mask, other.mask)
            assert plane.spacing == pytest.approx(other.spacing)


@pytest.mark.parametrize(
    ("name", "letters", "brightest"),
    [("axial", "APRL", (0, -1)), ("coronal", "SIRL", (0, -1)), ("sagittal", "SIAP", (0, 0))],
)
def test_pictures_are_as_radiologists_see_them(image, name, letters, brightest):
    scan = formats.from_image(image)
    plane = slices.cut(scan, ball(image.shape), name)
    assert "".join(plane.letters[edge] for edge in ("top", "bottom", "left", "right")) == letters
    middle = plane.voxels.stored[len(plane.voxels) // 2]
    assert middle[brightest] == middle.max() > 0  # left, anterior and superior are bright


def test_numbers_count_as_stored(image):
    scan = formats.from_image(image)
    assert slices.cut(scan, ball(image.shape), "axial").number(0) == 1  # stored from below, seen from below
    assert slices.cut(scan, ball(image.shape), "coronal").number(0) == 60  # stored from behind, shown from the front


def test_the_scale_is_the_same_along_both_axes(image):
    scan = formats.from_image(image)
    sizes = {name: slices.pixels(slices.cut(scan, ball(image.shape), name), 0.5) for name in SLICINGS}
    assert sizes == {"axial": (160, 120), "coronal": (160, 160), "sagittal": (120, 160)}


def test_an_outline_is_no_filling():
    labels = np.zeros((40, 40), np.uint8)
    labels[10:30, 10:30] = 2
    ((label, edge),) = slices.outlines(labels, (400, 400), 4)
    edge = np.asarray(edge)
    assert label == 2
    assert edge[200, 101:104].all()
    assert not edge[200, 110:290].any()
    assert not edge[:99].any()
    assert not edge[:, :99].any()


def test_largest_slices():
    mask = np.zeros((9, 4, 4), np.uint8)
    mask[2, 0, :3] = mask[5, 0, :4] = mask[6, 0, :1] = 1
    plane = slices.Plane("axial", mask, mask, (1.0, 1.0, 1.0), False)
    assert plane.largest(1) == [5]
    assert plane.largest(3) == [2, 5, 6]
    assert slices.Plane("axial", mask, 0 * mask, (1.0, 1.0, 1.0), False).largest(1) == [4]
