"""The kernels over stored voxels against NumPy, in every form that a scan may have; sorted without sorting."""

import os
import sys
import threading
from itertools import permutations, product
from pathlib import Path

import naive
import numpy as np
import pytest
from conftest import needs_cache
from processes import run
from records import make_record, network_input

from monet_edge import inputs
from monet_edge.engine import Engine, voxels
from monet_edge.inputs import Inputs
from monet_edge.intensities import measure
from monet_edge.preprocess import span
from monet_edge.spec import Op, Spec
from monet_edge.volume import Voxels

DTYPES = [f"{order}{kind}" for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8") for order in "<>"]
RECORD = make_record("lesion", size=16, context=1)


def volume_of(dtype, shape=(5, 19, 37)):
    """Random voxels that reach far into the dtype; among floats such as are no numbers."""
    dtype, rng = np.dtype(dtype), np.random.default_rng(1)
    if dtype.kind == "f":
        found = rng.normal(50, 300, shape).astype(dtype)
        found[0, 0, :6] = np.nan, np.inf, -np.inf, -0.0, 0.0, np.finfo(dtype).tiny / 4
        return found
    limits = np.iinfo(dtype)
    return rng.integers(max(limits.min, -(2**50)), min(limits.max, 2**50), shape).astype(dtype)


def views(volume):
    """As stored, turned round, and with other axes first."""
    return volume, volume[::-1, :, ::-1], volume.transpose(2, 0, 1)[:, ::-1], volume[:, ::2, ::3]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(19, 37), (16, 16), (50, 70), (1, 3)])
def test_the_input_is_that_of_numpy_bit_for_bit(dtype, shape):
    volume = volume_of(dtype)
    centre, spread = (float(np.nan_to_num(part(volume[2].astype(np.float64)))) for part in (np.mean, np.std))
    for view in views(volume):
        for floor in (-np.inf, centre - spread, float(view[1, 1, 1]) * 1.7 - 3.1):  # a voxel at the floor is background
            numbers = {"slope": 1.7, "inter": -3.1, "low": centre - 2 * spread, "high": centre + spread, "floor": floor}
            comp = np.full((len(view), *shape), 9, np.float32)
            voxels.fill(comp, view, **numbers)
            assert comp.tobytes() == np.stack([naive.network_slice(raw, shape, **numbers) for raw in view]).tobytes()


def test_every_voxel_of_a_row_is_read_whatever_its_length():
    for width in range(1, 70):  # around whole vectors of every instruction set
        raw = np.arange(3 * width, dtype=np.int16).reshape(1, 3, width)
        comp = np.empty(raw.shape, np.float32)
        voxels.fill(comp, raw, slope=1.0, inter=0.0, low=0.0, high=500.0, floor=-1.0)
        assert comp.tobytes() == naive.normalise(raw, 0.0, 500.0, -1.0).tobytes()


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("shape", [(16, 20), (40, 33), (7, 5)])
@pytest.mark.parametrize("keep", [False, True])
def test_labels_are_those_of_numpy(classes, shape, keep):
    rng = np.random.default_rng(2)
    probability = rng.random((classes, 16, 20), dtype=np.float32)
    probability[:, :3] = np.float32(0.5)  # at the threshold, and likeliest all alike
    expected, labels = naive.to_mask(probability, 0.5, shape)
    height, width = shape
    for target in (np.full(shape, 9, np.uint8), np.full((width, 2, height), 9, np.uint8)[::-1, 1].T):
        kept = [np.full((width, height), 9, np.float32).T[:, ::-1] for _ in range(classes * keep)]
        voxels.assign(target, probability, 0.5, kept)
        assert np.array_equal(target, labels)
        for ref, comp in zip(expected, kept, strict=False):
            assert np.array_equal(comp, ref)


@pytest.mark.parametrize("width", [1, 5, 16, 37])
def test_lines_without_anything_are_labelled_as_others(width):
    """They are not resampled: what lies at the threshold, just below it or in one pixel at the end must still be seen."""
    probability = np.zeros((1, 24, width), np.float32)
    probability[0, 3, -1] = 0.9
    probability[0, 8], probability[0, 9] = (np.nextafter(np.float32(0.5), np.float32(end)) for end in (0, 1))
    probability[0, 14:16] = 0.5
    probability[0, 19, 0] = np.nan
    for shape in ((24, width), (50, 2 * width + 1)):
        for target in (np.full(shape, 9, np.uint8), np.full(shape[::-1], 9, np.uint8).T, np.full(shape, 9, np.uint8)[::-1, ::-1]):
            voxels.assign(target, probability, 0.5)
            assert np.array_equal(target, naive.to_mask(probability, 0.5, shape)[1])


def test_halves_are_numpys():
    """Every float16, what lies midway between two, and next to those; numbers of all sizes; what is no number."""
    rng = np.random.default_rng(0)
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    midway = np.array([65520, -65520], np.float32)
    with np.errstate(all="ignore"):  # infinities are among them
        midway = np.concatenate([midway, (halves[:-1] + halves[1:]) / 2])
        sizes = (rng.standard_normal(9000) * 10.0 ** rng.integers(-12, 8, 9000)).astype(np.float32)
        values = np.concatenate([halves, midway, *(np.nextafter(midway, np.float32(end)) for end in (-np.inf, np.inf)), sizes])
        values = values[: len(values) // 37 * 37].reshape(-1, 37)
        padded = np.zeros((len(values), 50), np.float32)
        sums, weights = padded[:, 5:42], np.full(values.shape, 3, np.float32)
        for _ in range(2):
            expected = (values * weights + sums).astype(np.float16)
            voxels.add_halves(sums, values, weights)
            np.testing.assert_array_equal(sums, expected.astype(np.float32))
        share = np.pad(weights, ((0, 0), (5, 8)))
        sums[...] = values
        voxels.divide_halves(sums, share[:, 5:42])
        np.testing.assert_array_equal(sums, (values / weights).astype(np.float16).astype(np.float32))
    assert not padded[:, :5].any()
    assert not padded[:, 42:].any()


def test_nothing_beside_the_labels_is_written():
    whole = np.full((12, 30), 9, np.uint8)
    voxels.assign(whole[2:10:2, 3:27:3], np.ones((1, 4, 8), np.float32), 0.5)
    inside = np.zeros(whole.shape, bool)
    inside[2:10:2, 3:27:3] = True
    assert (whole[inside] == 1).all()
    assert (whole[~inside] == 9).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_sorted_without_sorting(dtype, threads, monkeypatch):
    monkeypatch.setattr(voxels.sorted, "PIECE", 100)  # so that threads share them
    volume, rng = volume_of(dtype), np.random.default_rng(3)
    values = np.sort(volume[np.isfinite(volume)].astype(volume.dtype.newbyteorder("=")), axis=None)
    ranks = [0, len(values) - 1, *map(int, rng.integers(0, len(values), 13))]
    for view in (*views(volume)[:3], np.ascontiguousarray(volume)[None]):
        found = voxels.Sorted(view, threads)
        keys = found.select(ranks)
        assert found.count == len(values)
        assert [found.value(key) for key in keys] == [float(value) for value in values[ranks]]
        first, last = sorted(keys[2:4])
        low, high = (np.array(found.value(key)).astype(values.dtype) for key in (first, last))
        inside = values[(values >= low) & (values <= high)].astype(np.float64)
        moments = found.moments(first, last)
        assert moments.count == len(inside)
        assert found.rank(first) == np.count_nonzero(values < low)
        assert (moments.mean, moments.variance) == pytest.approx((inside.mean(), inside.var()), rel=1e-12)


def test_a_spread_far_below_the_mean_is_not_lost():
    """Sums of squares in float64 would cancel: here they are sums of integers."""
    values = (1e6 + np.random.default_rng(4).normal(0, 0.01, (20, 20, 20))).astype(np.float64)
    found = voxels.Sorted(values)
    exact = values.astype(np.longdouble)
    assert found.moments(found.lowest, found.highest).variance == pytest.approx(float(exact.var()), rel=1e-9)


@pytest.mark.parametrize("dtype", ["<i2", ">u2", "<f4", "<i4", "<f8"])
def test_all_48_axis_orders_and_any_threads_measure_the_same_bits(dtype, monkeypatch):
    monkeypatch.setattr(voxels.sorted, "PIECE", 500)
    volume = volume_of(dtype, (6, 11, 17))
    expected = measure(Voxels(volume, 0.7, -3.0))
    for order, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        turned = volume.transpose(order)[tuple(slice(None, None, flip) for flip in flips)]
        assert measure(Voxels(turned, 0.7, -3.0), threads=2) == expected
    assert measure(Voxels(volume.astype(volume.dtype.newbyteorder("S")), 0.7, -3.0)) == expected


@pytest.mark.parametrize("dtype", ["<f2", "?"])
def test_forms_that_no_file_holds_are_taken_too(dtype):
    stored = (np.random.default_rng(5).random((3, 8, 8)) > 0.5).astype(dtype)
    ref, comp = Voxels(stored.astype(np.float32)), Voxels(stored)
    assert measure(comp) == measure(ref)
    assert network_input(comp, 1, RECORD, measure(comp)).tobytes() == network_input(ref, 1, RECORD, measure(ref)).tobytes()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("block", [1, 5, 99])
def test_a_slice_with_neighbours_is_made_once(threads, block, monkeypatch):
    """And what the network sees is what it would see of that slice alone, however many are made at a time."""
    monkeypatch.setattr(inputs, "BLOCK", block * 16 * 16)
    volume = Voxels(np.random.default_rng(6).integers(0, 900, (40, 20, 24)).astype(np.int16))
    record = make_record("lesion", size=16, context=3)
    statistics, made, lock = measure(volume), [], threading.Lock()
    expected = [network_input(volume, z, record, statistics) for z in range(len(volume))]
    make_slices = inputs.make_slices

    def count(raw, *args, **kwargs):
        with lock:
            made.extend(one.ctypes.data for one in raw.stored)
        return make_slices(raw, *args, **kwargs)

    monkeypatch.setattr(inputs, "make_slices", count)
    seeing = Inputs([volume], record, [statistics], threads=threads)
    seen = {}

    def load(z, image):
        seeing.load(z, image)
        seen[z] = image.copy()

    first = Spec("first", 7, (Op("out", "conv", ("image",), {"filters": 1, "kernel": 1, "stride": 1, "dilation": 1, "padding": 0,
                                                             "bias": False, "activation": "sigmoid"}),))  # fmt: skip
    Engine(first, {"out.weight": np.ones((1, 7, 1, 1), np.float32)}, threads).map(len(volume), (16, 16), load, lambda z, p: None)
    assert all(seen[z].tobytes() == expected[z].tobytes() for z in range(len(volume)))
    assert len(set(made)) == len(volume)
    if threads == 1:  # a thread that lags behind may find its neighbours dropped, and makes them again
        assert len(made) == len(volume)
    assert len(seeing._kept) <= Inputs.room(seeing.grid, threads)


def test_the_networks_input_is_of_scaled_intensities():
    stored = np.random.default_rng(3).integers(-99, 99, (5, 20, 24)).astype(np.int16)
    comp, ref = Voxels(stored, 2.0, -5.0), Voxels(stored * 2.0 - 5.0)
    record = make_record("lesion", size=16, intensity="window", low=-50.0, high=100.0)
    assert network_input(comp, 1, record, measure(comp)).tobytes() == network_input(ref, 1, record, measure(ref)).tobytes()


def test_whoever_waits_for_a_slice_hears_of_its_error(monkeypatch):
    seeing = Inputs([Voxels(np.zeros((4, 8, 8)))], RECORD, [measure(Voxels(np.arange(256.0).reshape(4, 8, 8)))])
    monkeypatch.setattr(inputs, "make_slices", lambda *_: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            seeing(1)


def test_an_empty_span_sees_nothing():
    volume = Voxels(np.full((3, 4, 4), 7, np.int16))
    low, high, _ = span(RECORD, measure(volume))
    assert not high > low
    assert not network_input(volume, 0, RECORD, measure(volume)).any()


@needs_cache
def test_they_need_no_numba_even_when_they_are_compiled(tmp_path):
    code = """if True:
        import sys
        import numpy as np
        from monet_edge.intensities import measure
        from monet_edge.volume import Voxels
        print(measure(Voxels(np.arange(24.0).reshape(2, 3, 4))).foreground > 0, "numba" in sys.modules)
    """
    assert run(code, XDG_CACHE_HOME=str(tmp_path)).split() == ["True", "False"]
    assert [path.name.split("-")[0] for path in (tmp_path / "monet-edge").iterdir()] == ["voxels"]


def test_sums_of_128_bits_carry():
    numbers = np.random.default_rng(7).integers(0, 2**64, (2, 500, 2), np.uint64)
    numbers[:, :, 1] >>= np.uint64(1)

    def whole(table):
        return [int(low) + (int(high) << 64) for low, high in table]

    expected = [a + b for a, b in zip(whole(numbers[0]), whole(numbers[1]), strict=True)]
    assert whole(voxels.sorted._add128(*numbers)) == expected


@pytest.mark.parametrize("dtype", ["<i2", "u1", "f4", "i8"])
def test_what_is_counted_of_the_parts_is_what_the_whole_has(dtype):
    volume = volume_of(dtype)
    parts = np.split(volume.reshape(-1), [1, 700, 701])
    assert np.array_equal(sum(map(voxels.count, parts)), voxels.count(volume.transpose(2, 0, 1)[:, ::-1]))
    counted = measure(Voxels(volume, 1.7, -3.1, voxels.count(volume)))
    assert counted == measure(Voxels(volume, 1.7, -3.1))
    assert measure(Voxels(volume, counts=voxels.count(volume))[2:4]) == measure(Voxels(volume[2:4]))  # a part's are its own


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory in use is read from /proc")
def test_where_there_is_no_label_a_new_mask_takes_no_memory():
    mask, nothing = np.zeros((64, 1024, 1024), np.uint8), np.zeros((1, 64, 64), np.float32)
    voxels.assign(mask[0], nothing, 0.5)
    before = resident()
    for each in mask:
        voxels.assign(each, nothing, 0.5)
    assert resident() - before < 8 << 20  # bytes, of 64 MB


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("step", [1, 3])
def test_no_label_stays_where_nothing_is_found(step):
    """Of whatever width: only what holds labels is written to."""
    for width in (1, 7, 64, 65, 130, 200):
        whole = np.zeros((3, step * width), np.uint8)
        whole[:, ::5] = 1
        kept = whole.copy()
        kept[:, ::step] = 0
        voxels.assign(whole[:, ::step], np.zeros((1, 3, 8), np.float32), 0.5)
        assert np.array_equal(whole, kept)
