"""Scans without a tumour, from label maps: a data set as any other, by seed, and like a FLAIR."""

import heads
import numpy as np
import pytest
import torch

from monet_edge.errors import OutputError
from monet_train.dataset import load, read
from monet_train.synth.labels import LESION, NUMBERS, TISSUE_OF_ID, TISSUES
from monet_train.synth.negatives import axial, brightness, coils, scan, with_lesions, write

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def maps():
    return heads.label_maps()


@pytest.fixture(scope="module")
def folder(maps, tmp_path_factory):
    """A scan of either head."""
    folder = tmp_path_factory.mktemp("negatives")
    write(maps, folder, 1, 5, CPU)
    return folder


def test_it_is_a_data_set_without_a_tumour(maps, folder):
    found = read(folder)
    assert (found.labels, found.licence, found.warnings) == (("tumour",), "Apache-2.0", ())
    assert [*found.pairs] == ["head_0_00", "head_1_00"]
    for name in found.pairs:
        case = load(found, name)
        assert case.images[0].stored.dtype == np.uint8
        assert case.images[0].stored.shape[1:] == (256, 256)
        assert case.images[0].stored.max() == 255
        assert not ((case.images[0].stored > 0) & (case.images[0].stored < 8)).any()
        assert not case.label.any()
    with pytest.raises(OutputError, match="holds a data set"):
        write(maps, folder, 1, 5, CPU)


def test_a_seed_repeats_the_scans_of_a_head_whichever_others_there_are(maps, folder):
    alone, comp = axial(maps).choose(["head_1"]), load(read(folder), "head_1_00").images[0].stored
    assert np.array_equal(comp, scan(alone, [5, *b"head_1", 0], CPU))
    assert not np.array_equal(comp, scan(alone, [6, *b"head_1", 0], CPU)[: len(comp)])


def test_an_axial_head_has_its_face_above_and_its_neck_first(maps):
    """Of a head's map (right, anterior, superior) a slice from below, a row from the front, a column from the right."""
    numbers, turned = heads.head(0), axial(maps)
    (z, y, x), (a, b, c) = turned.starts[0].tolist(), turned.ends[0].tolist()
    found = NUMBERS[turned.ids[0, z:a, y:b, x:c].numpy() // (len(TISSUE_OF_ID) // len(NUMBERS))]
    assert np.array_equal(found, numbers[::-1, ::-1].transpose(2, 1, 0))


def test_lesions_lie_in_white_matter_and_nowhere_else(maps):
    ids, tissues = axial(maps).ids[0].numpy(), [tissue.structure for tissue in TISSUES]
    changed = [with_lesions(ids, np.random.default_rng(seed)) for seed in range(8)]
    assert any((after != ids).any() for after in changed)
    for after in changed:
        where = after != ids
        assert {tissues[TISSUE_OF_ID[value]] for value in ids[where]} <= {"white matter"}
        assert {int(TISSUE_OF_ID[value]) for value in after[where]} <= {LESION}
        assert np.array_equal(NUMBERS[after // 4] > 40, NUMBERS[ids // 4] > 40)  # on the side where they were


def test_fluid_is_dark_and_lesions_are_bright_as_on_a_flair():
    at = {number: next(i for i, tissue in enumerate(TISSUES) if tissue.left == number) for number in (2, 3, 4, 25)}
    for seed in range(20):
        means = brightness(np.random.default_rng(seed))[0][0]
        assert means[at[4]] < means[at[2]] < means[at[25]]
    cortex, white = np.mean([brightness(np.random.default_rng(seed))[0][0][[at[3], at[2]]] for seed in range(20)], axis=0)
    assert cortex > white


def test_fat_is_brighter_than_the_brain_or_saturated():
    scalp, white = (next(i for i, tissue in enumerate(TISSUES) if tissue.left == number) for number in (511, 2))
    means = [brightness(np.random.default_rng(seed))[0][0] for seed in range(100)]
    ratio = np.array([mean[scalp] / mean[white] for mean in means])
    assert (ratio < 0.4).mean() > 0.2
    assert (ratio > 1).mean() > 0.2


def test_the_first_and_last_slices_may_be_brighter_or_darker_than_the_middle():
    found = torch.stack([coils(31, torch.Generator().manual_seed(seed)).flatten() for seed in range(40)])
    assert found[:, 15].abs().max() < 1e-6
    assert 0.2 < found[:, 0].std() < 0.5
    assert (found[:, 0] > 0.2).any()
    assert (found[:, -1] < -0.2).any()
    assert (found[:, 1:] - found[:, :-1]).abs().max() < 0.15  # from slice to slice it changes little
