"""A model in millimetres: its grid, its tiles, its neighbours, against plain NumPy; and whose spacing it believes."""

import json
from dataclasses import replace
from itertools import permutations, product

import naive
import nibabel
import numpy as np
import pytest
from records import make_record
from scans import blob, image_of

from monet_edge import formats, limits, model, preprocess
from monet_edge.cli import app
from monet_edge.errors import ModelError, MonetError, ScanError
from monet_edge.inputs import MAX_SIDE, Inputs, make_grid
from monet_edge.intensities import measure
from monet_edge.model import Model
from monet_edge.options import Options
from monet_edge.preprocess import span
from monet_edge.provenance import Provenance
from monet_edge.spec import Op, Spec
from monet_edge.tiles import gaussian, positions
from monet_edge.volume import Voxels
from monet_edge.weights import Weights

RECORD = make_record("lesion", size=16, spacing=1.5)
SHAPES = [(7, 9), (16, 16), (15, 17), (17, 16), (24, 33), (25, 1), (41, 50)]  # of slices; around a tile of 16 and its halves


def pixelwise(record, channels, seed=0):
    """A model whose network sees one pixel at a time."""
    attrs = {"filters": record.classes, "kernel": 1, "stride": 1, "dilation": 1, "padding": 0, "bias": True}
    last = "sigmoid" if record.classes == 1 else "none"
    ops = [Op("head", "conv", ("image",), {**attrs, "activation": last})]
    if record.classes > 1:
        ops.append(Op("out", "softmax", ("head",), {"activation": "none"}))
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 6, (record.classes, channels, 1, 1)).astype(np.float32)
    tensors = {"head.weight": weight, "head.bias": -weight.sum((1, 2, 3)) / 2}
    return Weights("pixelwise", Spec("pixelwise", channels, tuple(ops)), tensors, record, None, Provenance(), "")


def network_tiles(voxels, record, spacing):
    """By the definition: what the network sees of a canonical volume, slice by slice and tile by tile."""
    low, high, floor = span(record, measure(voxels))
    depth, *sides = voxels.stored.shape
    height, width = (max(1, round(side * mm / record.spacing)) for side, mm in zip(sides, spacing[1:], strict=True))
    numbers = {"slope": voxels.slope, "inter": voxels.inter, "low": low, "high": high, "floor": floor}
    slices = np.stack([naive.network_slice(raw, (height, width), **numbers) for raw in voxels.stored])
    missing = [max(record.size - side, 0) for side in (height, width)]
    slices = np.pad(slices, [(0, 0), *((each // 2, each - each // 2) for each in missing)])
    corners = list(product(*(positions(side, record.size) for side in slices.shape[1:])))
    for z in range(depth):
        channels = []
        for k in range(-record.context, record.context + 1):
            away = k * record.thickness / spacing[0] if record.thickness else k
            if record.neighbours == "nearest":
                away = np.sign(k) * np.floor(abs(away) + 0.5)
            place = min(max(z + away, 0), depth - 1)
            below, weight = slices[int(place)], np.float32(place - int(place))
            channels.append(below + weight * (slices[int(place) + 1] - below) if weight else below)
        for y, x in corners:
            yield np.stack([channel[y : y + record.size, x : x + record.size] for channel in channels])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.int16, np.float32, ">f8"])
def test_slices_are_resampled_padded_and_cut(shape, dtype):
    volume = Voxels((np.random.default_rng(0).random((3, *shape)) * 900).astype(dtype), 1.5, -20.0)
    spacing = (3.0, 1.2, 1.9)
    inputs = Inputs([volume], RECORD, [measure(volume)], make_grid(RECORD, shape, spacing))
    expected = list(network_tiles(volume, RECORD, spacing))
    assert len(inputs) == len(expected)
    assert all(inputs(i).tobytes() == ref.tobytes() for i, ref in enumerate(expected))


@pytest.mark.parametrize("neighbours", ["nearest", "linear"])
@pytest.mark.parametrize(("thickness", "between"), [(0, 2.0), (2.0, 2.0), (2.0, 5.0), (3.0, 2.0), (1.0, 0.7), (5.0, 0.3), (100.0, 1.0)])
@pytest.mark.parametrize("block", [1, 3])
def test_neighbours_lie_at_their_distance(neighbours, thickness, between, block, monkeypatch):
    monkeypatch.setattr("monet_edge.inputs.BLOCK", block * 20 * 16)  # padded
    record = replace(RECORD, context=2, thickness=thickness, neighbours=neighbours, spacing=1.0)
    volume = Voxels(np.random.default_rng(1).integers(0, 900, (23, 20, 12)).astype(np.int16))
    spacing = (between, 1.0, 1.0)
    inputs = Inputs([volume], record, [measure(volume)], make_grid(record, (20, 12), spacing))
    for i, ref in enumerate(network_tiles(volume, record, spacing)):
        assert inputs(i).tobytes() == ref.tobytes()
    assert block * len(inputs._kept) <= Inputs.room(inputs.grid, 1) <= 3 * preprocess.MAX_CONTEXT + 3 + 4 * (block - 1)


def test_thickness_alone_leaves_slices_squeezed():
    record = replace(RECORD, spacing=0, context=1, thickness=4.0)
    grid = make_grid(record, (30, 20), (2.0, 1.0, 1.0))
    assert grid.tiling.shape == (16, 16)
    assert grid.neighbours == (-2, 0, 2)


def merged(found, record, shape, spacing, voxels):
    """By the definition, in float64: tiles' probabilities (Z * tiles, C, S, S), merged, on the model's grid without its padding."""
    size = record.size
    sides = [max(1, round(side * mm / record.spacing)) for side, mm in zip(shape, spacing[1:], strict=True)]
    padded = [max(side, size) for side in sides]
    corners = list(product(*(positions(side, size) for side in padded)))
    top, left = ((side - inner) // 2 for side, inner in zip(padded, sides, strict=True))
    for tiles in found.reshape(len(voxels), len(corners), *found.shape[1:]):
        total, weights = np.zeros((found.shape[1], *padded)), np.zeros(padded)
        for (y, x), tile in zip(corners, tiles, strict=True):
            window = slice(y, y + size), slice(x, x + size)
            total[:, *window] += tile * gaussian((size, size))
            weights[window] += gaussian((size, size))
        yield (total / weights)[:, top : top + sides[0], left : left + sides[1]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("labels", [("a",), ("a", "b")])
@pytest.mark.parametrize("flip", [False, True])
def test_the_result_is_that_of_all_tiles_on_the_scans_grid(shape, labels, flip):
    record = make_record(*labels, size=16, spacing=1.5, context=1, thickness=2.0)
    ready = Model(pixelwise(record, 3), threads=2)
    voxels = np.asfortranarray(np.random.default_rng(2).integers(0, 900, (*shape[::-1], 4)).astype(np.int16))
    image = image_of(voxels, np.diag([-1.9, -1.2, 3.0, 1.0]))  # canonical order, so that (X, Y, Z) are (W, H, Z)
    scan = formats.from_image(image)
    probabilities = ready.predict(ready.slices(scan))
    expected = list(merged(probabilities, record, shape, (3.0, 1.2, 1.9), voxels.T))
    done = []
    comp = ready.segment_scan(scan, Options(probabilities=True, flip=flip), progress=lambda *numbers: done.append(numbers))
    assert done[-1] == (4, 4)  # slices, whatever the tiles
    found = comp.probability if len(labels) > 1 else comp.probability[..., None]
    for z, ref in enumerate(expected):
        on_scan = naive.to_mask(ref.astype(np.float32), 0.5, shape)[0]
        np.testing.assert_allclose(found[:, :, z].T, on_scan, atol=1e-6)
    labelled = (found[..., 0] > 0.5) if len(labels) == 1 else found.argmax(-1)
    assert np.array_equal(comp.mask, labelled)


def test_tiles_of_a_pixelwise_network_agree_with_the_whole_slice():
    """Within 1e-6: what a network of one pixel says cannot depend on where the tiles lie."""
    volume = image_of(np.random.default_rng(3).integers(0, 900, (70, 90, 2)).astype(np.int16), np.diag([-1.0, -1.0, 3.0, 1.0]))
    scan, options = formats.from_image(volume), Options(probabilities=True)
    whole, tiled = (
        Model(pixelwise(make_record("a", size=size, spacing=1.0), 1), 1).segment_scan(scan, options).probability for size in (128, 32)
    )
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def in_mm(weights_file):
    """The tiny MoNet in tiles of 32 pixels of 0.5 mm."""
    found = model.load_weights(weights_file)
    return replace(found, preprocess=replace(found.preprocess, spacing=0.5))


@pytest.mark.parametrize("neighbours", ["nearest", "linear"])
def test_all_48_axis_orders_and_any_threads_give_the_same_bits(rng, neighbours):
    record = make_record("a", "b", size=16, spacing=0.7, context=1, thickness=1.4, neighbours=neighbours)
    ready = [Model(pixelwise(record, 3), threads) for threads in (1, 3)]
    base = image_of(blob(rng, (18, 15, 5)), np.diag([-0.8, -0.9, 3.0, 1.0]))
    options = Options(probabilities=True)
    ref = ready[0].segment_scan(formats.from_image(base), options)
    assert len(np.unique(ref.mask)) > 1
    for number, (axes, flips) in enumerate(product(permutations(range(3)), product([1, -1], repeat=3))):
        turned = base.as_reoriented(np.column_stack([axes, flips]))
        comp = ready[number % 2].segment_scan(formats.from_image(turned), options)
        undo = nibabel.orientations.ornt_transform(nibabel.io_orientation(turned.affine), nibabel.io_orientation(base.affine))
        for found, expected in ((comp.mask, ref.mask), (comp.probability, ref.probability)):
            assert nibabel.apply_orientation(found, undo).tobytes() == np.ascontiguousarray(expected).tobytes(), (axes, flips)


def test_a_network_with_a_view_gives_the_same_bits_with_any_threads(rng, in_mm):
    scan = formats.from_image(image_of(blob(rng)))
    ref, comp = (Model(in_mm, threads).segment_scan(scan, Options(probabilities=True)) for threads in (1, 4))
    assert ref.probability.tobytes() == comp.probability.tobytes()


# ---- whose spacing is believed ----


@pytest.fixture
def unknown(tmp_path, rng):
    """A scan in a data set that says that its spacing is unknown."""
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "dataset.json").write_text(json.dumps({"spacing": "unknown"}))
    path = tmp_path / "imagesTr" / "scan.nii"
    nibabel.save(image_of(blob(rng)), path)
    return path


def test_a_false_spacing_is_refused_in_one_line(unknown, in_mm):
    ready = Model(in_mm, 1)
    for use in (ready.segment, ready.slices):
        with pytest.raises(ScanError, match=r"scan\.nii: .* not known, and the model works in millimetres") as caught:
            use(unknown)
        assert "\n" not in str(caught.value)
    assert not formats.read(unknown).spacing_known


def test_a_spacing_that_is_stated_is_taken(unknown, in_mm, rng):
    ready = Model(in_mm, 1)
    ref = ready.segment(image_of(blob(np.random.default_rng(0)), np.diag([-0.6, -0.7, 3.0, 1.0])))
    comp = ready.segment(unknown, spacing=(0.6, 0.7, 3.0))
    assert np.array_equal(np.asanyarray(comp.dataobj), np.asanyarray(ref.dataobj))
    assert np.array_equal(comp.affine, nibabel.load(unknown).affine)  # the results' grid stays the scan's
    assert ready.slices(unknown, spacing=0.6).tobytes() == ready.slices(unknown, spacing=(0.6, 0.6, 0.6)).tobytes()


def test_a_model_that_squeezes_asks_for_no_spacing(unknown, weights_file):
    ready = model.load(weights_file, 1)
    ref = np.asanyarray(ready.segment(image_of(blob(np.random.default_rng(0)))).dataobj)
    assert np.array_equal(np.asanyarray(ready.segment(unknown).dataobj), ref)


def run(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        app([str(argument) for argument in arguments])
    return caught.value.code, capsys.readouterr().err


def test_the_command_line_refuses_and_takes_it(unknown, in_mm, tmp_path, capsys):
    path = tmp_path / "mm.safetensors"
    model_file(path, in_mm)
    code, error = run(["segment", unknown, "--model", path, "--quiet"], capsys)
    assert code == 2
    assert error.count("\n") == 1
    assert error.rstrip().endswith("the model works in millimetres. State it with --spacing.")
    assert run(["segment", unknown, "--model", path, "--spacing", "0.8,0.9,3", "--quiet"], capsys)[0] == 0
    assert (unknown.parent / "scan_seg.nii.gz").exists()


def model_file(path, given):
    from monet_edge import weights

    weights.save(path, given.spec, given.tensors, given.preprocess, given.provenance)


@pytest.mark.parametrize("text", ["[]", "{", '{"spacing": "known"}', '{"spacing": [1, 1, 1]}', '["spacing"]', "[" * 100000])
def test_another_dataset_json_says_nothing(unknown, text):
    (unknown.parents[1] / "dataset.json").write_text(text)
    assert formats.read(unknown).spacing_known


@pytest.mark.parametrize("spacing", [0, -1.0, float("nan"), float("inf"), (1.0, 2.0), (1.0, 0.0, 1.0), "115", "1,1,5", {}, [None] * 3])
def test_a_spacing_that_is_none_is_refused(spacing):
    with pytest.raises(MonetError, match="spacing: expected one length in mm, or three"):
        Options(spacing=spacing)


def test_a_spacing_may_be_any_numbers():
    """As a nibabel header has them, or a list."""
    ref = Options(spacing=(0.5, 1.0, 2.0))
    for spacing in ([0.5, 1, 2], np.array([0.5, 1, 2], np.float32), tuple(np.float32([0.5, 1, 2]))):
        comp = Options(spacing=spacing)
        assert (comp.voxel_mm, comp.key("model")) == (ref.voxel_mm, ref.key("model"))
    assert Options(spacing=np.float32(2)).voxel_mm == Options(spacing=2).voxel_mm == (2.0, 2.0, 2.0)


def test_a_slice_without_end_is_refused_before_it_is_made(in_mm):
    fine = replace(in_mm, preprocess=replace(in_mm.preprocess, spacing=0.02))
    with pytest.raises(ScanError, match=rf"would be 39000x45000 of the model's 0.02 mm, at most {MAX_SIDE} each way"):
        Model(fine, 1).segment(image_of(np.ones((30, 26, 2), np.int16), np.diag([-30.0, -30.0, 3.0, 1.0])))


@pytest.mark.parametrize(
    ("mm", "words"),
    [
        (900.0, "voxels of 900 x 900 mm are 27 m long, and no scan is longer than 3 m"),
        (0.001, "voxels of 0.001 x 0.001 mm leave none at the model's 0.5 mm"),
    ],
)
def test_voxels_that_no_scanner_makes_are_refused_unless_their_size_is_stated(in_mm, rng, mm, words):
    scan = image_of(blob(rng, (30, 26, 5)), np.diag([-mm, -mm, 3.0, 1.0]))
    with pytest.raises(ScanError, match=words) as caught:
        Model(in_mm, 1).segment(scan)
    assert caught.value.advice == "State what they measure with {spacing}."
    Model(in_mm, 1).segment(scan, spacing=(1.0, 1.0, 3.0))


def test_the_estimate_counts_the_models_grid(in_mm, monkeypatch):
    estimates = []
    monkeypatch.setattr(limits, "demand", lambda size, what: estimates.append(size))
    ready = Model(in_mm, 1)
    for mm in (0.5, 50.0):
        scan = formats.from_image(image_of(np.ones((30, 26, 2), np.int16), np.diag([-mm, -mm, 3.0, 1.0])))
        ready._demand_memory([scan], "", Options())
    assert estimates[1] - estimates[0] > 4 * 3000 * 2600 * 3  # the slices that are kept alone


# ---- the record ----


def test_a_file_of_before_squeezes():
    before = json.loads(preprocess.to_json(make_record("lesion")))
    for key in ("spacing", "thickness", "neighbours"):
        del before[key]
    found = preprocess.from_json(json.dumps(before))
    assert found == make_record("lesion")
    assert not found.in_mm
    for key in ("spacing", "thickness", "neighbours"):
        with pytest.raises(ModelError, match="must hold exactly"):
            preprocess.from_json(json.dumps({**before, key: 0}))


@pytest.mark.parametrize(
    "changes",
    [{"spacing": -1}, {"spacing": 1e-4}, {"spacing": 1e9}, {"spacing": True}, {"spacing": "1"}, {"spacing": float("nan")},
     {"thickness": -0.5}, {"thickness": float("inf")}, {"neighbours": "cubic"}, {"neighbours": None}, {"neighbours": ["linear"]}],
)  # fmt: skip
def test_millimetres_that_mean_nothing_are_refused(changes):
    record = {**json.loads(preprocess.to_json(make_record("lesion"))), **changes}
    with pytest.raises(ModelError, match="preprocessing record"):
        preprocess.from_json(json.dumps(record))


def test_in_millimetres_where_a_pixel_or_a_neighbour_is():
    assert [make_record("a", **changes).in_mm for changes in ({"spacing": 1}, {"thickness": 1}, {"thickness": 1, "context": 1})] == [
        True,
        False,
        True,
    ]


def test_a_spacing_of_float32_is_the_number_that_was_meant():
    """25 pixels of 0.9 mm are 22.5 of 1 mm: the last bit would decide between 22 and 23, and with it the axis order of a file."""
    ref, comp = (make_grid(replace(RECORD, spacing=1.0), (25, 25), (3.0, mm, mm)) for mm in (0.9, float(np.float32(0.9000001))))
    assert ref == comp
    assert make_grid(replace(RECORD, spacing=0.01), (16, 16), (3.0, 0.46875, 0.46875)).tiling.shape == (750, 750)
