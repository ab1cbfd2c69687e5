"""Younger heads of old ones: fluid gives way to the tissue it touches, and nothing else changes."""

from dataclasses import replace

import heads
import numpy as np
import pytest
import torch
from scipy import ndimage

from monet_train.synth import labels
from monet_train.synth.ages import with_younger, younger
from monet_train.synth.draw import draw
from monet_train.synth.labels import DEPTHS, NUMBERS, RING_OF_ID

YOUNG = replace(heads.STILL, young=1.0, horns=3.0, fissure=2.0)


def line(*runs):
    """Numbers along one axis: (number, how many) after another."""
    return np.concatenate([np.full((count, 5, 5), number, np.int16) for number, count in runs])


@pytest.mark.parametrize(("depth", "left"), [(0.5, 5), (1.0, 3), (2.0, 1), (3.0, 0)])
def test_a_sulcus_closes_from_both_sides(depth, left):
    numbers = line((41, 4), (42, 4), (24, 5), (3, 4), (2, 4))
    before = numbers.copy()
    comp = younger(numbers, depth)[:, 2, 2].tolist()
    near = (5 - left) // 2 if left else 0
    assert comp.count(24) == left
    if left:
        assert comp == [41] * 4 + [42] * (4 + near) + [24] * left + [3] * (4 + near) + [2] * 4
    assert np.array_equal(numbers, before)


def test_only_fluid_gives_way_and_only_to_tissue():
    """Dura, bone and air stay; a vessel, the optic chiasm and a lesion grow into nothing."""
    for other in (502, 515, 30, 62, 85, 25, 57):
        numbers = line((3, 4), (24, 4), (other, 4), (24, 3), (0, 3))
        comp = younger(numbers, 1.0)[:, 2, 2].tolist()
        assert comp == [3] * 5 + [24] * 3 + [other] * 4 + [24] * 3 + [0] * 3
    horn = line((2, 3), (5, 2), (17, 4), (2, 3))
    assert younger(horn, 1.0)[:, 2, 2].tolist() == [2] * 4 + [17] * 5 + [2] * 3


def test_lower_horns_and_the_fluid_at_a_hippocampus_give_way_more():
    """Of 12 voxels of fluid a ventricle keeps 10, a lower horn 6, with what hangs in it; fluid by a hippocampus 9, by cortex 10."""

    def left(number, tissue):
        numbers = line((2, 3), (number, 12), (tissue, 4), (2, 3))
        return int((younger(numbers, 1.0, 3.0, 2.0)[:, 2, 2] == number).sum())

    assert [left(number, 17) for number in (4, 5, 44, 137, 164)] == [10, 6, 6, 6, 6]
    assert [left(24, tissue) for tissue in (17, 53, 3, 18)] == [9, 9, 10, 10]  # 1 mm from white matter, which is no hippocampus
    numbers = line((2, 3), (5, 4), (24, 4), (17, 4))
    assert np.array_equal(younger(numbers, 1.0), younger(numbers, 1.0, 0.5, 0.5))


def test_a_map_without_tissue_stays():
    numbers = line((515, 4), (24, 4), (0, 2))
    assert np.array_equal(younger(numbers, 2.0), numbers)


def test_nothing_but_what_is_near_tissue_changes():
    numbers = heads.head(shape=(60, 60, 60))
    comp = younger(numbers, 1.0)
    solid, fluid = np.isin(numbers, labels.SOLID), np.isin(numbers, labels.FLUIDS)
    ref = fluid & (ndimage.distance_transform_edt(~solid) <= 1)
    assert np.array_equal(comp != numbers, ref)
    assert ref.sum() > 1000
    assert np.isin(comp[ref], labels.SOLID).all()


def test_every_head_comes_twice():
    maps = heads.label_maps()
    both = with_younger(maps, YOUNG)
    count = len(maps.names)
    assert both.names == (*maps.names, *(f"{name} younger" for name in maps.names))
    assert np.array_equal(both.ids[:count], maps.ids)
    for old, young in zip(maps.ids.numpy(), both.ids[count:].numpy(), strict=True):
        old_numbers, numbers = NUMBERS[old // DEPTHS], NUMBERS[young // DEPTHS]
        assert np.array_equal(numbers, younger(old_numbers, 1.0, 3.0, 2.0))
        assert (numbers == 24).sum() < (old_numbers == 24).sum()
        brain = labels.is_brain(numbers)
        assert np.array_equal(RING_OF_ID[young] == 1, ~brain & (ndimage.distance_transform_edt(~brain) <= labels.RINGS[0]))
    assert with_younger(maps, heads.STILL) is maps


def test_half_of_the_slices_are_of_younger_heads():
    both = with_younger(heads.label_maps(), YOUNG)
    head = draw(both, torch.Generator().manual_seed(0), 400, 16, 0, False, heads.STILL).head
    assert float((head >= len(both.names) // 2).float().mean()) == pytest.approx(0.5, abs=0.08)
