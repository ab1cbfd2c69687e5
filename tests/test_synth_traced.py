"""Hippocampi and amygdalae as a hand traces them: thin sheets lose their label and keep their looks, the rest of a head stays as it is."""

from dataclasses import replace

import heads
import numpy as np
import pytest
import torch
from scipy import ndimage

from monet_train.synth.draw import draw
from monet_train.synth.labels import BRAIN_OF_ID, DEPTHS, NUMBERS, TISSUE_OF_ID, label_names, label_table
from monet_train.synth.maps import boxed, encode
from monet_train.synth.ranges import Ranges
from monet_train.synth.render import acquire, render
from monet_train.synth.traced import taught, traced

TRACED = replace(heads.STILL, traced=2.0)
NUMBERS_TRACED = (17, 53, 18, 54)
SIDES = ("", *label_names(True))


def head(number=17, sheet=3, around=2):
    """A ball of hippocampus of a radius of 7 voxels with a sheet, one voxel thin, whose end lies in cortex, in so much else."""
    grid = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in (34, 34, 60)), indexing="ij"))
    numbers = np.full(grid.shape[1:], around, np.int16)
    numbers[:, :, 45:] = 3
    numbers[(grid**2).sum(0) <= 49] = number
    if sheet:
        numbers[17, 12:22, 30 : 40 + sheet] = number
    return numbers


def named(ids, mirrored=0):
    return np.array(SIDES)[label_table(True)[mirrored][ids]]


def test_a_thin_sheet_loses_its_label_and_not_its_looks():
    numbers = head()
    ids = encode(numbers)
    before = ids.copy()
    comp = traced(ids, 2.0)
    names = named(comp)
    assert np.array_equal(ids, before)
    assert np.array_equal(NUMBERS[comp // DEPTHS], numbers)
    assert np.array_equal(TISSUE_OF_ID[comp], TISSUE_OF_ID[ids])
    assert (names[17, 14:20, 38:42] == "left white matter").all()
    assert (named(traced(encode(head(sheet=12)), 2.0))[17, 14:20, 46:50] == "left cortex").all()
    assert names[17, 17, 17:20].tolist() == ["left white matter"] * 3
    assert names[17, 17, 25:36].tolist() == ["left hippocampus"] * 11


@pytest.mark.parametrize(("number", "name"), [(17, "left hippocampus"), (18, "left amygdala"), (54, "right amygdala")])
@pytest.mark.parametrize("sd", [1.0, 1.5, 2.0])
def test_what_is_left_is_what_a_gaussian_holds_more_of(sd, number, name):
    numbers = head(number, sheet=6)
    own = numbers == number
    ref = own & (ndimage.gaussian_filter(own.astype(float), sd) > 0.5)
    comp = named(traced(encode(numbers), sd)) == name
    assert np.array_equal(comp, ref)
    assert 0.5 * own.sum() < ref.sum() < 0.99 * own.sum()


@pytest.mark.parametrize(("around", "name"), [(2, "white matter"), (4, "lateral ventricle"), (5, "lateral ventricle"), (3, "cortex")])
def test_it_is_called_what_lies_beside_it(around, name):
    names = named(traced(encode(head(around=around)), 2.0))[17, 14:20, 37:40]
    assert (names == f"left {name}").all()


def test_fluid_beside_it_is_passed_over():
    """No tissue of a hippocampus is fluid around the brain: it is cortex, or what else of the three is nearest."""
    names = named(traced(encode(head(around=24)), 2.0))
    assert (names[17, 14:20, 38:40] == "left cortex").all()


def two(border=30):
    """A box of hippocampus before one of amygdala, in white matter; a peg of the first in the second, and a sheet of it behind."""
    numbers = np.full((34, 34, 60), 2, np.int16)
    numbers[10:24, 10:24, 15:border] = 17
    numbers[10:24, 10:24, border:45] = 18
    numbers[16:18, 16:18, border : border + 4] = 17
    numbers[17, 12:22, 45:50] = 17
    return numbers


@pytest.mark.parametrize("sides", [(17, 18), (18, 17)])
def test_between_the_two_a_voxel_is_of_what_a_gaussian_holds_more_of(sides):
    numbers = two()
    first, second = sides
    numbers = np.select([numbers == 17, numbers == 18], sides, numbers)
    comp = traced(encode(numbers), 2.0)
    held = [ndimage.gaussian_filter((numbers == number).astype(float), 2.0) for number in sides]
    both = np.isin(numbers, sides)
    kept = both & (held[0] + held[1] > 0.5)
    ref = np.select([~kept, held[0] > held[1]], [numbers, first], second)
    assert np.array_equal(NUMBERS[comp // DEPTHS], ref)
    assert (ref[16:18, 16:18, 31:34] == second).all()  # the peg
    assert np.array_equal(comp % DEPTHS > 0, both & ~kept)
    assert (both & ~kept).any()
    assert kept[17, 17, 15:45].all()


def test_where_they_touch_neither_loses():
    """The two as one have no edge there; each by itself would have retreated."""
    numbers = two()
    numbers[numbers == 18] = 17
    one = traced(encode(numbers), 2.0) % DEPTHS > 0
    assert np.array_equal(traced(encode(two()), 2.0) % DEPTHS > 0, one)


@pytest.mark.parametrize("number", [53, 54])
def test_sides_change_places_in_a_mirrored_head(number):
    comp = traced(encode(head(number, around=41)), 2.0)[17, 17, 38]
    assert (named(comp), named(comp, mirrored=1)) == ("right white matter", "left white matter")
    assert label_names(False)[label_table(False)[0][comp] - 1] == "white matter"


def test_only_what_is_traced_changes():
    numbers = heads.head(shape=(60, 60, 60))
    assert np.array_equal(traced(encode(numbers), 2.0), encode(numbers))
    numbers = head(sheet=8)
    changed = traced(encode(numbers), 2.0) != encode(numbers)
    assert changed.any()
    assert np.isin(numbers[changed], NUMBERS_TRACED).all()


def test_no_stripping_takes_it_away():
    comp = traced(encode(head()), 2.0)
    assert BRAIN_OF_ID[comp[np.isin(NUMBERS[comp // DEPTHS], NUMBERS_TRACED)]].all()


def maps():
    numbers = head(sheet=8).transpose(1, 2, 0)
    return boxed([encode(numbers)] * 2, ("one", "two"), "heads", "", "")


def test_a_network_is_taught_the_label_and_shown_the_tissue():
    plain, told = maps(), taught(maps(), TRACED)
    one = draw(plain, torch.Generator().manual_seed(0), 8, 64, 0, True, TRACED)
    assert torch.equal(acquire(plain.ids, one).slices, acquire(told.ids, one).slices)
    hippocampus = SIDES.index("left hippocampus")
    as_is, as_traced = (render(each.ids, one, 0.5, 99.0)[1] == hippocampus for each in (plain, told))
    assert not (as_traced & ~as_is).any()
    assert 0.3 * as_is.sum() < as_traced.sum() < 0.95 * as_is.sum()
    assert told.sizes(True)["left hippocampus"] < plain.sizes(True)["left hippocampus"]


def test_every_head_is_traced_and_the_maps_given_stay():
    plain = maps()
    before = plain.ids.clone()
    assert taught(plain, heads.STILL) is plain
    for ranges, count in ((TRACED, 2), (replace(TRACED, young=1.0), 4)):
        told = taught(plain, ranges)
        assert len(told.names) == len(told.ids) == count
        assert all((ids % DEPTHS > 0)[np.isin(NUMBERS[ids // DEPTHS], NUMBERS_TRACED)].any() for ids in told.ids.numpy())
    assert torch.equal(plain.ids, before)
    assert Ranges().traced == 2.0
