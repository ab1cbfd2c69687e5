"""The picture: right side up, true to scale, outlined and not filled."""

from itertools import permutations, product

import nibabel
import numpy as np
import pytest
from PIL import Image

from monet_edge import phantom, volume
from monet_edge.preprocess import SLICINGS, Preprocess, measure
from monet_edge.report import preview
from monet_edge.report.statistics import measure as statistics
from monet_edge.volume.labels import colour

SPACING = (2.0, 1.0, 4.0)


@pytest.fixture(scope="module")
def image():
    """Bright towards the left, the front and the top, in a head of 40 x 60 x 20 voxels, right-anterior-superior."""
    x, y, z = np.meshgrid(np.linspace(1, 0, 40), np.linspace(0, 1, 60), np.linspace(0, 1, 20), indexing="ij")
    return nibabel.Nifti1Image((1000 * x * y * z).astype(np.int16), np.diag([*SPACING, 1]))


def ball(shape):
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.asfortranarray(sum(np.square(axis) for axis in grid) < 0.3).astype(np.uint8)


def test_every_axis_order_gives_the_same_planes(image):
    ref = None
    mask = nibabel.Nifti1Image(ball(image.shape), image.affine)
    for axes, flips in product(permutations(range(3)), product([1, -1], repeat=3)):
        turn = np.column_stack([axes, flips])
        scan = volume.from_image(image.as_reoriented(turn))
        labels = np.asarray(mask.as_reoriented(turn).dataobj)
        planes = [preview.cut(scan, labels, name) for name in SLICINGS]
        ref = ref or planes
        for plane, other in zip(planes, ref, strict=True):
            assert np.array_equal(plane.voxels, other.voxels)
            assert np.array_equal(plane.mask, other.mask)
            assert plane.spacing == pytest.approx(other.spacing)


@pytest.mark.parametrize(
    ("name", "letters", "brightest"),
    [("axial", "APRL", (0, -1)), ("coronal", "SIRL", (0, -1)), ("sagittal", "SIAP", (0, 0))],
)
def test_pictures_are_as_radiologists_see_them(image, name, letters, brightest):
    scan = volume.from_image(image)
    plane = preview.cut(scan, ball(image.shape), name)
    assert "".join(plane.letters[edge] for edge in ("top", "bottom", "left", "right")) == letters
    middle = plane.voxels[len(plane.voxels) // 2]
    assert middle[brightest] == middle.max() > 0  # left, anterior and superior are bright


def test_numbers_count_as_stored(image):
    scan = volume.from_image(image)
    assert preview.cut(scan, ball(image.shape), "axial").number(0) == 1  # stored from below, seen from below
    assert preview.cut(scan, ball(image.shape), "coronal").number(0) == 60  # stored from behind, shown from the front


def test_the_scale_is_the_same_along_both_axes(image):
    scan = volume.from_image(image)
    sizes = {name: preview.pixels(preview.cut(scan, ball(image.shape), name), 0.5) for name in SLICINGS}
    assert sizes == {"axial": (160, 120), "coronal": (160, 160), "sagittal": (120, 160)}


def test_an_outline_is_no_filling():
    labels = np.zeros((40, 40), np.uint8)
    labels[10:30, 10:30] = 2
    ((label, edge),) = preview.outlines(labels, (400, 400), 4)
    edge = np.asarray(edge)
    assert label == 2
    assert edge[200, 101:104].all()
    assert not edge[200, 110:290].any()
    assert not edge[:99].any()
    assert not edge[:, :99].any()


def test_largest_slices():
    mask = np.zeros((9, 4, 4), np.uint8)
    mask[2, 0, :3] = mask[5, 0, :4] = mask[6, 0, :1] = 1
    plane = preview.Plane("axial", mask, mask, (1.0, 1.0, 1.0), False)
    assert plane.largest(1) == [5]
    assert plane.largest(3) == [2, 5, 6]
    assert preview.Plane("axial", mask, 0 * mask, (1.0, 1.0, 1.0), False).largest(1) == [4]


def picture_of(voxels, affine, mask, names=("tumour",), warnings=()):
    scan = volume.from_image(nibabel.Nifti1Image(voxels, affine))
    limits = np.nan_to_num(np.percentile(voxels, (1, 99.5)))
    return preview.draw(scan, mask, statistics(scan, mask, names), tuple(limits), "a title", warnings)


@pytest.mark.parametrize("shape", [(1, 1, 1), (40, 30, 1), (300, 17, 2), (3, 2, 200), (33, 31, 30)])
@pytest.mark.parametrize("kind", ["ball", "empty", "full"])
def test_any_shape(rng, shape, kind):
    mask = {"ball": ball(shape), "empty": np.zeros(shape, np.uint8), "full": np.ones(shape, np.uint8)}[kind]
    picture = picture_of(rng.integers(0, 99, shape, dtype=np.int16), np.diag([1, 2, 3, 1]), mask, warnings=("long " * 80,))
    assert picture.width < 3 * preview.SIDE + 200
    assert picture.height < 2 * preview.SIDE


@pytest.mark.parametrize("values", [np.nan, np.inf, -1e308, 1e308, 0.0])
@pytest.mark.filterwarnings("error")
def test_any_intensity_is_drawn(values, rng):
    voxels = rng.normal(0, 1, (9, 9, 9))
    voxels[:, :, 3:] = values
    voxels[4] = 1e308
    scan = volume.from_image(nibabel.Nifti1Image(voxels, np.eye(4)))
    record = Preprocess(32, "axial", 0, "zscore", -3.0, 5.0, 0.5, ("a",))
    with np.errstate(all="ignore"):
        limits = preview.window(record, measure(scan.voxels))
    preview.draw(scan, ball(voxels.shape), (), limits, "", ())


def test_the_phantom(tmp_path):
    voxels, truth = phantom.make()
    image = phantom.to_image(voxels)
    scan, mask = volume.from_image(image), np.asfortranarray(phantom.to_image(truth).dataobj)
    limits = measure(scan.voxels).quantiles
    picture = preview.draw(scan, mask, statistics(scan, mask, ("tumour",)), (limits[1], limits[-1]), "phantom", ())
    preview.save(tmp_path / "phantom.png", picture, overwrite=False)
    saved = Image.open(tmp_path / "phantom.png")
    assert saved.info == {}  # no text, no time
    pixels = np.asarray(saved.convert("RGB")).astype(int)
    coloured = (abs(pixels - colour(1)).sum(axis=-1) < 40).sum()
    assert 300 < coloured < 4000  # an outline in three planes and the legend's box; filled it would be 12,000
