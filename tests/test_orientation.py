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

from monet_edge import volume
from monet_edge.preprocess import SLICINGS


@pytest.mark.parametrize("axes", SLICINGS.values())
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda ornt: "".join(f"{a}{'+' if f > 0 else '-'}" for a, f in ornt))
def test_every_axis_order_gives_one_canonical_volume(orientation, axes):
    voxels = head((5, 6, 7))
    ref = nibabel.apply_orientation(voxels, ornt_transform(io_orientation(OBLIQUE), axcodes2ornt(axes)))
    stored, affine = reoriented(voxels, OBLIQUE, orientation)
    comp, record = volume.to_canonical(stored, affine, axes)
    np.testing.assert_array_equal(comp, ref)
    assert np.shares_memory(comp, stored)
    back = volume.from_canonical(comp, record)
    assert back.__array_interface__ == stored.__array_interface__  # not merely equal: the very same view


@settings(max_examples=100, deadline=None)
@given(
    voxels=hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=3, max_dims=4, max_side=7)),
    orientation=st.sampled_from(ORIENTATIONS),
    angles=st.tuples(*[st.floats(-3.2, 3.2)] * 3),
    axes=st.sampled_from(sorted(SLICINGS.values())),
)
def test_there_and_back_is_exact_for_any_rotation(voxels, orientation, angles, axes):
    rotation = np.linalg.multi_dot(
        [np.roll(np.roll([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]], i, 0), i, 1) for i, a in enumerate(angles)]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * (0.5, 1, 4)
    comp, record = volume.to_canonical(voxels, affine, axes)
    assert sorted(record.axes) == [0, 1, 2]
    assert volume.from_canonical(comp, record).__array_interface__ == voxels.__array_interface__
