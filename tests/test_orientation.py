"""Every axis order becomes one canonical order, and back, exactly."""

import nibabel
import numpy as np
import pytest
from fuzz.build import OBLIQUE, head
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scans import DTYPES, ORIENTATIONS, reoriented

from monet_edge import formats, volume
from monet_edge.preprocess import SLICINGS


@pytest.mark.parametrize("axes", SLICINGS.values())
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda ornt: "".join(f"{a}{'+' if f > 0 else '-'}" for a, f in ornt))
def test_every_axis_order_gives_one_canonical_volume(orientation, axes):
    voxels = head((5, 6, 7))
    ref = nibabel.apply_orientation(voxels, ornt_transform(io_orientation(OBLIQUE), axcodes2ornt(axes)))
    stored, affine = reoriented(voxels, OBLIQUE, orientation)
    comp = volume.to_canonical(stored, affine, axes)
    np.testing.assert_array_equal(comp, ref)
    assert np.shares_memory(comp, stored)


@settings(max_examples=100, deadline=None)
@given(
    voxels=hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=3, max_dims=4, max_side=7)),
    orientation=st.sampled_from(ORIENTATIONS),
    angles=st.tuples(*[st.floats(-3.2, 3.2)] * 3),
    axes=st.sampled_from(sorted(SLICINGS.values())),
)
def test_what_is_written_into_the_view_lands_where_it_came_from_for_any_rotation(voxels, orientation, angles, axes):
    rotation = np.linalg.multi_dot(
        [np.roll(np.roll([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]], i, 0), i, 1) for i, a in enumerate(angles)]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * (0.5, 1, 4)
    comp = np.ascontiguousarray(volume.to_canonical(voxels, affine, axes))
    back = np.zeros_like(voxels)
    volume.to_canonical(back, affine, axes)[...] = comp
    assert sorted(volume.orient(affine, axes).axes) == [0, 1, 2]
    assert back.tobytes() == voxels.tobytes()


def test_the_nearest_axis_is_told_by_angles_and_not_by_spacing(rng):
    """A thick slice does not pull: turned between two axes, coarse voxels lie as fine ones do."""
    for _ in range(300):
        affine = np.eye(4)
        affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        coarse = affine * (0.3, 1, 8, 1)
        assert volume.orient(coarse, "SPL") == volume.orient(affine, "SPL")


@pytest.mark.parametrize("axes", SLICINGS.values())
def test_the_spacing_goes_with_its_axis(axes):
    """Of a scan stored in any order: along Z, H, W the columns of the affine that these axes came from."""
    along = {"S": 3.0, "I": 3.0, "P": 0.9, "A": 0.9, "L": 0.8, "R": 0.8}
    base = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.diag([0.8, 0.9, 3.0, 1]))
    for orientation in ORIENTATIONS:
        scan = formats.from_image(base.as_reoriented(orientation))
        turn = volume.orient(scan.affine, axes)
        assert [scan.spacing[axis] for axis in turn.axes] == pytest.approx([along[code] for code in axes])
