"""Images from label maps: what the generator promises, held to NumPy and to the runtime's own preprocessing."""

from dataclasses import fields, replace

import heads
import nibabel
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from monet_edge import preprocess
from monet_edge.errors import DatasetError
from monet_edge.intensities import measure
from monet_edge.volume import Voxels
from monet_train.synth import labels, render
from monet_train.synth.draw import draw
from monet_train.synth.generator import Generator
from monet_train.synth.maps import boxed, encode, open_packed, pack, read_folder
from monet_train.synth.ranges import Ranges
from monet_train.synth.train import make_record

SIZE = 64


@pytest.fixture(scope="module")
def maps():
    return heads.label_maps()


def one_draw(maps, ranges, seed=0, count=6, sides=False, context=1):
    return draw(maps, torch.Generator().manual_seed(seed), count, SIZE, context, sides, ranges)


def test_a_seed_repeats_every_batch(maps):
    generator = Generator(maps, make_record(SIZE, 1, False), Ranges())
    first, again, other = (list(generator.batches(seed, 2, 3)) for seed in ([1, 2], [1, 2], [1, 3]))
    for (images, truth), (images_again, truth_again) in zip(first, again, strict=True):
        assert torch.equal(images, images_again)
        assert torch.equal(truth, truth_again)
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(first[0][0], other[0][0])
    assert all(torch.equal(a, b) for a, b in zip(generator.slices(0, 3).images, generator.slices(0, 3).images, strict=True))


def test_images_are_what_the_network_takes(maps):
    images, truth = next(Generator(maps, make_record(SIZE, 2, True), Ranges()).batches([0], 1, 8))
    assert images.shape == (8, 5, SIZE, SIZE)
    assert images.dtype == torch.float32
    assert images.isfinite().all()
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert truth.shape == (8, SIZE, SIZE)
    assert truth.dtype == torch.uint8
    assert int(truth.max()) <= len(labels.label_names(True))


def test_labels_equal_a_gather_in_numpy(maps):
    drawn = one_draw(maps, replace(Ranges(), strip=0.0, crop=0.0), count=8, sides=True)
    _, comp = render.render(maps.ids, drawn, 0.5, 99.0)
    ref = np.zeros(comp.shape, np.uint8)
    # bicubic control points of first and last plane, of which the slice lies in the middle
    fields_of = F.interpolate(drawn.bend, (SIZE, SIZE), mode="bicubic", align_corners=False).numpy()
    bend = (fields_of[:, :3] + fields_of[:, 3:]) / 2
    ids, pixels = maps.ids.numpy(), np.arange(SIZE) - SIZE // 2
    for n in range(len(ref)):
        shift, matrix = drawn.shift[n].numpy(), drawn.matrix[n].numpy()
        for i, y in enumerate(pixels - shift[0]):
            for j, x in enumerate(pixels - shift[1]):
                place = drawn.centre[n].numpy() + matrix @ np.array([0, y, x], np.float32) + bend[n, :, i, j]
                voxel = np.floor(place + 0.5).astype(int)
                if (voxel >= 0).all() and (voxel < ids.shape[1:]).all():
                    ref[n, i, j] = drawn.labels[n, ids[(drawn.head[n], *voxel)]]
    assert len(np.unique(ref)) > 8
    assert (comp.numpy() == ref).mean() > 0.999  # what lies between two voxels to the last bit may go either way


def test_a_mirrored_head_exchanges_its_sides(maps):
    plain, mirrored = (render.render(maps.ids, one_draw(maps, replace(heads.STILL, mirror=p), sides=True), 0.5, 99) for p in (0.0, 1.0))
    names = ("background", *labels.label_names(True))
    exchanged = {"left ": "right ", "right": "left "}
    other = torch.tensor([names.index(exchanged.get(name[:5], name[:5]) + name[5:].lstrip()) for name in names])
    assert torch.equal(mirrored[1][:, :, 1:], other[plain[1].long()].to(torch.uint8)[:, :, 1:].flip(2))
    assert len(plain[1].unique()) > 8
    left, right = (
        torch.isin(plain[1], torch.tensor([i for i, name in enumerate(names) if name.startswith(side)])) for side in labels.SIDES
    )
    columns = torch.arange(SIZE).expand_as(plain[1])
    assert columns[left].min() >= SIZE // 2 > columns[right].max()  # the patient's left is on the right
    assert torch.equal(mirrored[0][:, :, :, 1:], plain[0][:, :, :, 1:].flip(3))


def test_beyond_a_stripped_brain_all_is_0(maps):
    drawn = one_draw(maps, replace(Ranges(), strip=1.0, native=1.0, blur=(0.0, 0.0)), count=12)
    images, truth = render.render(maps.ids, drawn, 0.5, 99.0)
    found, _ = render.look_up(maps.ids, drawn)
    middle = found[:, found.shape[1] // 2]
    brain = torch.from_numpy(labels.BRAIN_OF_ID)[middle.long()]
    kept = torch.stack([table[ids.long()] for table, ids in zip(drawn.kept, middle, strict=True)])
    assert not images[:, 1][~kept].any()
    assert not truth[~kept].any()
    assert (kept | ~brain).all()  # of the brain itself nothing is taken
    assert (images[:, 1][brain] > 0).float().mean() > 0.5
    assert kept.sum() > brain.sum()  # some keep fluid around it


def test_stripping_leaves_what_lies_so_near_the_brain():
    numbers = np.zeros((20, 20, 20), int)
    numbers[8:12, 8:12, 8:12] = 3
    ids = encode(numbers)
    assert (ids % labels.DEPTHS)[8:13, 10, 10].tolist() == [0, 0, 0, 0, 1]
    assert (ids % labels.DEPTHS)[12:20, 10, 10].tolist() == [1, 2, 2, 3, 3, 3, 0, 0]  # 1 mm; 2, 3; 4, 5, 6; beyond


def test_1_mm_scans_are_untouched():
    pixels = torch.arange(-8, 8).float()
    comp = render.acquisition(pixels[None], pixels, torch.ones(1), torch.zeros(1), torch.zeros(1))
    torch.testing.assert_close(comp[0], torch.eye(16), atol=1e-6, rtol=0)


@pytest.mark.parametrize("thickness", [2.0, 4.0, 6.0])
def test_thick_slices_have_their_width(thickness):
    """A sample's profile falls to half at half the thickness, and a row of the matrix neither adds nor loses brightness."""
    fine, wanted = torch.linspace(-30, 30, 6001), torch.arange(-8, 9).float()
    comp = render.acquisition(fine[None], wanted, torch.tensor([thickness]), torch.zeros(1), torch.zeros(1))[0]
    torch.testing.assert_close(comp.sum(1), torch.ones(17), atol=1e-5, rtol=0)
    profile = comp[8] / comp[8].max()  # at 0, where a sample lies
    # a Gaussian of that width blurs what 1 mm voxels have blurred already, of whose variance 1 mm^2 / 2.355^2 is taken off
    half = float(fine[profile > 0.5].max())
    assert half == pytest.approx(np.sqrt(thickness**2 - 1) / 2, abs=0.06)


def test_thick_slices_blend_their_neighbours(maps):
    """A slice beside a border holds one tissue only; thick slices hold both, in the middle slice and its neighbours."""
    split = maps.ids.clone()
    half = split.shape[1] // 2
    white, cortex = (int(np.flatnonzero(number == labels.NUMBERS)[0]) * labels.DEPTHS for number in (2, 3))
    split[:, :half], split[:, half:] = white, cortex
    drawn = one_draw(maps, heads.STILL, context=2)
    drawn = replace(drawn, centre=torch.cat([torch.full((6, 1), float(half)), drawn.centre[:, 1:]], 1))
    thick = replace(drawn, thickness=torch.tensor([[5.0, 1.0, 1.0]]).repeat(6, 1), planes=2.4 * (torch.arange(9.0) - 4).repeat(6, 1))
    pixel = SIZE // 2
    sharp, blended = (render.render(split, one, 0.5, 99.0)[0][:, :, pixel, pixel] for one in (drawn, thick))
    assert set(sharp.flatten().round(decimals=3).tolist()) == {0.0, 1.0}
    assert ((blended[:, 1:4] > 0.1) & (blended[:, 1:4] < 0.9)).all()
    signs = blended.diff(dim=1).sign()
    assert (signs == signs[:, :1]).all()  # from one tissue towards the other


def test_a_nucleus_is_the_brighter_the_nearer_white_matter_is(maps):
    """No step is left at the border where it takes on all, half of it where it takes on half; far inside it is as it was."""
    split = maps.ids.clone()
    half = split.shape[2] // 2
    white, thalamus = (int(np.flatnonzero(number == labels.NUMBERS)[0]) * labels.DEPTHS for number in (2, 10))
    split[:, :, :half], split[:, :, half:] = white, thalamus
    drawn = one_draw(maps, heads.STILL)
    found, spots = render.look_up(split, drawn)
    inside, pixel = found[0, 4, :, SIZE // 2] == thalamus, SIZE // 2

    def column(share):
        shares = drawn.myelin.clone()
        shares[:, [white, thalamus]] = torch.tensor([0.0, share])
        lent = render.myelin(replace(drawn, myelin=shares, reach=torch.full((6,), 2.0)), found)
        still = torch.zeros_like(lent)
        return render.brightness(drawn, found, render.cluster(spots), still, still, lent)[0, 4, :, pixel]

    plain, half_way, full = (column(share) for share in (0.0, 0.5, 1.0))
    of_white, of_thalamus = (float(drawn.means[0, 0, one]) for one in (white, thalamus))
    assert torch.equal(plain[inside].unique(), torch.tensor([of_thalamus]))
    for share, values in ((0.5, half_way), (1.0, full)):
        steps = values[inside].diff().sign() * np.sign(of_thalamus - of_white)
        assert (steps >= 0).all()
        assert float(values[inside][0]) == pytest.approx(
            of_thalamus + share * (of_white - of_thalamus), abs=0.25 * abs(of_white - of_thalamus)
        )
        assert float(values[inside][7]) == pytest.approx(of_thalamus, abs=1e-3)
    assert torch.equal(full[~inside & (found[0, 4, :, pixel] == white)].unique(), torch.tensor([of_white]))


def test_a_shaded_tissue_varies_smoothly(maps):
    """A tissue that was even: neighbours differ little, places far apart much; its labels are what they were."""
    even = torch.full_like(maps.ids, int(np.flatnonzero(labels.NUMBERS == 2)[0]) * labels.DEPTHS)
    drawn = one_draw(maps, replace(heads.STILL, shaded=1.0, shade=0.1))
    slices = render.acquire(even, drawn).slices[:, 1, 24:40, 24:40]
    reach = slices.amax((1, 2)) - slices.amin((1, 2))
    assert (reach > 0).all()
    assert (slices.diff(dim=1).abs().amax((1, 2)) < reach).all()
    assert (reach < 8 * drawn.shades.abs().amax(1)).all()
    plain, shaded = (render.render(maps.ids, one, 0.5, 99.0)[1] for one in (replace(drawn, shades=0 * drawn.shades), drawn))
    assert torch.equal(plain, shaded)


def test_some_scans_are_even_and_some_borders_clear(maps):
    drawn = one_draw(maps, Ranges(), count=200)
    for values, share in ((drawn.shades, 0.5), (drawn.myelin, 0.5)):
        assert float((values != 0).any(1).float().mean()) == pytest.approx(share, abs=0.15)
    assert not drawn.myelin[:, ~labels.DEEP[labels.TISSUE_OF_ID]].any()


def test_normalisation_is_the_runtimes(rng):
    """All voxels given, the same numbers; background, a bright tail and a stripped brain included."""
    record = make_record(SIZE, 0, False)
    tissue = np.abs(rng.normal(0.5, 0.2, (12, SIZE, SIZE))).astype(np.float32)
    for volume in (tissue, np.where(rng.random(tissue.shape) < 0.6, 0, tissue), tissue**3):
        volume = volume.astype(np.float32)
        voxels = Voxels(volume)
        statistics = measure(voxels)
        ref = np.stack([preprocess.normalise(voxels[z], record, statistics) for z in range(len(voxels))])
        comp = render.normalise(torch.from_numpy(volume)[None], torch.from_numpy(volume).reshape(1, -1), record.low, record.high)
        np.testing.assert_allclose(comp[0].numpy(), ref, atol=1e-5)


@pytest.mark.parametrize("strip", [0.0, 1.0])
def test_normalisation_by_some_voxels_is_close_to_the_whole_volumes(maps, rng, strip):
    """Within 0.05 of what the runtime makes of the whole head by percentiles near its own: 0.5 to 1 for 0.5, 98 to 99.5 for 99.

    A percentile is off where something rare begins just there: the generator sees 8192 voxels, of a stripped head 1,000 foreground ones.
    """
    record = make_record(SIZE, 1, False)
    drawn = one_draw(maps, replace(heads.STILL, texture=0.1, jitter=(0.1, 0.1), strip=strip))
    comp, _ = render.render(maps.ids, drawn, record.low, record.high)
    found, _ = render.look_up(maps.ids, drawn)
    middle = found.shape[1] // 2
    for n in range(len(comp)):
        z, y, x = (slice(a, b) for a, b in zip(maps.starts[drawn.head[n]], maps.ends[drawn.head[n]], strict=True))
        ids = maps.ids[drawn.head[n], z, y, x].numpy().astype(int)
        means, sds, kept = (array[n].numpy() for array in (drawn.means[:, 0], drawn.sds, drawn.kept))
        volume = (np.maximum(means[ids] + sds[ids] * rng.normal(size=ids.shape), 0) * kept[ids]).astype(np.float32)
        seen = found[n, middle].numpy().astype(int)
        raw = np.maximum(means[seen] + sds[seen] * drawn.texture[n, middle].numpy(), 0) * kept[seen]
        statistics = measure(Voxels(volume))
        spans = (replace(record, low=low, high=high) for low, high in ((1.0, 99.5), (0.5, 98.0)))
        dark, bright = (preprocess.normalise(Voxels(raw.astype(np.float32)), span, statistics) for span in spans)
        image = comp[n, 1].numpy()
        edge = (dark > 0) != (image > 0)  # just above the floor for one, just below for the other
        assert edge.mean() < 0.01
        assert (image[~edge] >= dark[~edge] - 0.05).all()
        assert (image[~edge] <= bright[~edge] + 0.05).all()


def test_real_contrasts_are_drawn_and_others_too(maps):
    """Half of the draws have the order of a real contrast: white matter, cortex, fluid as in T1, or the other way round as in T2."""
    drawn = one_draw(maps, Ranges(), count=400)
    white, grey, fluid = (drawn.means[:, 0, int(np.flatnonzero(n == labels.NUMBERS)[0]) * labels.DEPTHS] for n in (2, 3, 24))
    orders = {"T1": (white > grey) & (grey > fluid), "T2": (fluid > grey) & (grey > white), "FLAIR": (grey > white) & (white > fluid)}
    shares = {name: float(order.float().mean()) for name, order in orders.items()}
    assert all(share > 0.17 for share in shares.values()), shares  # a sixth each if all were random
    assert sum(shares.values()) < 0.95


def test_grey_matter_may_look_alike(maps):
    """What tells grey tissues apart shrinks to a share, towards the cortex; all else stays."""
    plain, close = (one_draw(maps, replace(Ranges(), alike=alike, apart=0.15), count=50).means[:, 0] for alike in (0.0, 1.0))
    tissue, cortex = labels.TISSUE_OF_ID, int(np.flatnonzero(labels.TISSUE_OF_ID == labels.CORTEX)[0])
    grey = torch.from_numpy(labels.GREY[tissue])
    apart = (plain - plain[:, cortex, None])[:, grey]
    assert apart.abs().amax() > 0.3
    torch.testing.assert_close((close - close[:, cortex, None])[:, grey], 0.15 * apart)
    assert torch.equal(close[:, ~grey], plain[:, ~grey])
    assert {labels.TISSUES[i].left for i in np.flatnonzero(labels.GREY)} == {3, 11, 17, 18, 26}


def test_some_slices_go_through_a_hippocampus():
    numbers = np.full((30, 12, 12), 2)
    numbers[20:24, 4:8, 4:8] = 17
    maps = boxed([encode(numbers)], ("one",), "maps", "", "")
    for share, expected in ((1.0, 1.0), (0.0, 5 / 31)):  # a slice's place is a whole number from the first plane to the end
        centre = one_draw(maps, replace(heads.STILL, hippocampus=share), count=400).centre[:, 0]
        within = float(((centre >= 20) & (centre <= 24)).float().mean())
        assert within == pytest.approx(expected, abs=0.05)


def test_1_mm_scans_are_blurred_in_all_directions(maps):
    blur = one_draw(maps, replace(Ranges(), native=1.0), count=50).blur
    assert float(blur.min()) >= 0.25
    assert float(blur.max()) <= 0.8
    assert torch.equal(blur[:, :1].expand(-1, 3), blur)
    assert blur[:, 0].std() > 0.1


def test_every_number_has_its_structure_and_side():
    for sides in (False, True):
        names = ("background", *labels.label_names(sides))
        plain, mirrored = labels.label_table(sides)
        told = {}
        for i, number in enumerate(labels.NUMBERS):
            told[int(number)] = names[plain[i * labels.DEPTHS]], names[mirrored[i * labels.DEPTHS]]
        left, right = ("left ", "right ") if sides else ("", "")
        assert told[17] == (left + "hippocampus", right + "hippocampus")
        assert told[53] == (right + "hippocampus", left + "hippocampus")
        assert told[16] == ("brainstem", "brainstem")
        assert told[0] == told[515] == ("background", "background")
        assert set(plain) == set(range(len(names)))
    assert labels.label_names(False)[:11] == BRAIN_T1


BRAIN_T1 = (
    *("white matter", "cortex", "lateral ventricle", "cerebellum", "thalamus", "caudate", "putamen", "pallidum", "brainstem"),
    *("hippocampus", "amygdala"),
)


def test_a_folder_is_read_and_packed_exactly(tmp_path, maps):
    read = read_folder(heads.write_folder(tmp_path / "heads"))
    pack(read, tmp_path / "maps.zip")
    for found in (read, open_packed(tmp_path / "maps.zip")):
        for field in fields(maps):
            ref, comp = getattr(maps, field.name), getattr(found, field.name)
            if field.name != "key":
                assert torch.equal(ref, comp) if isinstance(ref, torch.Tensor) else ref == comp, field.name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda numbers: (np.where(numbers == 24, 999, numbers), np.eye(4)), r"labels \[999\]"),
        (lambda numbers: (numbers, np.diag([2, 1, 1, 1])), "2 x 1 x 1 mm"),
    ],
)
def test_what_is_no_label_map_is_refused(tmp_path, change, words):
    folder = heads.write_folder(tmp_path / "heads", 1)
    with pytest.raises(DatasetError, match="found 1"):
        read_folder(folder)
    numbers, affine = change(heads.head())
    nibabel.save(nibabel.Nifti1Image(numbers.astype(np.int16), affine.astype(float)), folder / "odd.nii.gz")
    with pytest.raises(DatasetError, match=words):
        read_folder(folder)


def test_a_packed_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "maps.zip").write_bytes(b"PK\x03\x04nothing")
    with pytest.raises(DatasetError, match="--pack"):
        open_packed(tmp_path / "maps.zip")
