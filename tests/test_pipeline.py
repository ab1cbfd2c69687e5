"""A scan in, a mask out: the grid is the scan's own, whatever its axis order, and nothing else is touched."""

import copy
import hashlib
import multiprocessing
import pickle
import sys
from dataclasses import replace
from itertools import permutations, product

import nibabel
import numpy as np
import pytest
from conftest import DATA, needs_data, random_tensors
from records import make_record
from scans import SHAPE, blob, image_of

import monet_edge
from monet_edge import errors, phantom, weights
from monet_edge.architectures import monet
from monet_edge.formats import stem
from monet_edge.intensities import measure
from monet_edge.model import Model
from monet_edge.options import Options
from monet_edge.postprocess import remove_lone
from monet_edge.provenance import Provenance
from monet_edge.runs import Found, find_scans, plan_jobs
from monet_edge.spec import fold_batchnorm
from monet_edge.volume import Voxels


@pytest.fixture(scope="module")
def model(weights_file):
    return monet_edge.load(weights_file, threads=2)


@pytest.fixture
def scan(tmp_path, rng):
    path = tmp_path / "scan.nii.gz"
    nibabel.save(image_of(blob(rng)), path)
    return path


def test_kept_probabilities_are_in_the_order_of_the_labels(tmp_path, rng):
    spec, path = fold_batchnorm(monet(classes=3, filters=4, depth=1)), tmp_path / "two.safetensors"
    weights.save(path, spec, random_tensors(spec), make_record("a", "b"), {})
    image = monet_edge.formats.from_image(image_of(blob(rng)))
    found = monet_edge.load(path).segment_scan(image, Options(probabilities=True))
    assert len(np.unique(found.mask)) > 1
    np.testing.assert_array_equal(found.mask, found.probability.argmax(-1))


def test_the_mask_is_on_the_scans_own_grid(tmp_path, rng, model):
    turn = nibabel.eulerangles.euler2mat(0.2, 0.1, -0.3)  # oblique
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.8, 0.9, 3.0])
    affine[:3, 3] = 10, -20, 30.5
    image = image_of(blob(rng), affine, qcode=3, scode=4)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / "oblique.nii")
    outcome = monet_edge.segment(tmp_path / "oblique.nii", model=model)
    mask, ref = nibabel.load(outcome.job.mask), nibabel.load(tmp_path / "oblique.nii")
    assert outcome.job.mask == tmp_path / "oblique_seg.nii.gz"
    assert mask.shape == ref.shape
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(mask.affine, ref.affine)
    for field in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "srow_x", "srow_y", "srow_z", "pixdim"):
        assert np.array_equal(mask.header[field], ref.header[field]), field
    assert mask.dataobj.slope == 1
    assert mask.dataobj.inter == 0
    assert set(np.unique(np.asanyarray(mask.dataobj))) == {0, 1}


def test_what_is_doubtful_is_a_warning(model):
    with pytest.warns(UserWarning, match="the scan holds one intensity only"):
        model.segment(image_of(np.full(SHAPE, 7, np.int16)))


def test_all_48_axis_orders_give_the_same_mask(tmp_path, rng, model):
    voxels = blob(rng)
    base = image_of(voxels)
    ref = np.asanyarray(model.segment(base).dataobj)
    assert 0 < ref.mean() < 1
    for axes, flips in product(permutations(range(3)), product([1, -1], repeat=3)):
        ornt = np.column_stack([axes, flips])
        turned = base.as_reoriented(ornt)
        nibabel.save(turned, tmp_path / "turned.nii")
        mask = model.segment(tmp_path / "turned.nii")
        back = mask.as_reoriented(
            nibabel.orientations.ornt_transform(nibabel.io_orientation(mask.affine), nibabel.io_orientation(base.affine))
        )
        assert np.array_equal(np.asanyarray(back.dataobj), ref), (axes, flips)


@pytest.mark.parametrize("shape", [(30, 26, 1), (1, 1, 1), (300, 17, 2), (33, 31, 3)])
def test_any_shape(shape, rng, model):
    image = model.segment(image_of(blob(rng, shape)))
    assert image.shape == shape


def test_probabilities_agree_with_the_mask(scan, model):
    outcome = monet_edge.segment(scan, model=model, probabilities=True, threshold=0.3)
    mask = np.asanyarray(nibabel.load(outcome.job.mask).dataobj)
    probability = np.asanyarray(nibabel.load(outcome.job.probability).dataobj)
    assert outcome.job.probability.name == "scan_prob.nii.gz"
    assert probability.dtype == np.float32
    assert np.array_equal(mask, probability > np.float32(0.3))
    voxel = 0.8 * 0.9 * 3 / 1000
    assert outcome.volumes["blob"] == pytest.approx(mask.sum() * voxel)


def test_what_a_record_says_of_pieces_in_one_slice_holds_on_every_grid(tmp_path, rng, model):
    record = replace(model.weights.preprocess, lone=False, threshold=0.5)
    strict = Model(replace(model.weights, preprocess=record))
    noise = rng.random(SHAPE).astype(np.float32)
    for axes in ((0, 1, 2), (2, 0, 1)):
        given = np.ascontiguousarray(noise.transpose(axes))
        affine = np.eye(4)[:, [*axes, 3]]
        image = nibabel.Nifti1Image(given, affine)
        probability = np.median(model.predict(model.slices(image)))
        every, some = (np.asarray(one.segment(image, threshold=float(probability)).dataobj) for one in (model, strict))
        expected = every.transpose(np.argsort(axes)).T.copy()  # (Z, Y, X)
        remove_lone(expected)
        np.testing.assert_array_equal(some.transpose(np.argsort(axes)).T, expected)
        assert some.any()
        assert (some != every).any()


def test_the_python_function_takes_what_the_command_takes(tmp_path, rng, model):
    """What a 4-D scan's refusal says to choose, and what else one may want without a file in between."""
    voxels = blob(rng)
    nibabel.save(image_of(np.stack([voxels * 0, voxels], axis=-1)), tmp_path / "four.nii")
    with pytest.raises(errors.ScanError, match="with volume 0 or volume 1"):
        model.segment(tmp_path / "four.nii")
    found = model.segment(tmp_path / "four.nii", volume=1, threshold=0.3, flip=True)
    ref = model.segment_scan(monet_edge.formats.from_image(image_of(voxels)), Options(threshold=0.3, flip=True)).mask
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), ref)
    with pytest.raises(errors.ScanError, match="of an image in memory give one volume"):
        model.segment(image_of(voxels), volume=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"threshold": 3}, "probability between 0 and 1"), ({"min_volume": np.inf}, "0 or more"), ({"min_volume": np.nan}, "0 or more")],
)
def test_a_senseless_value_is_refused_before_any_work(tmp_path, options, message):
    with pytest.raises(errors.MonetError, match=message):
        monet_edge.segment(tmp_path / "nowhere.nii", model="nowhere", **options)


def test_a_threshold_is_refused_where_there_is_no_file(rng, model):
    with pytest.raises(errors.ModelError, match="probability between 0 and 1"):
        model.segment(image_of(blob(rng)), threshold=3)


def test_a_threshold_for_several_labels_is_warned_of(tmp_path, rng):
    spec = fold_batchnorm(monet(filters=4, depth=1, classes=3))
    record = make_record("a", "b")
    weights.save(tmp_path / "two.safetensors", spec, random_tensors(spec), record, {})
    several = monet_edge.load(tmp_path / "two.safetensors", 1)
    scan = monet_edge.formats.from_image(image_of(blob(rng)))
    told = [any("threshold is ignored" in one for one in several.segment_scan(scan, Options(threshold=t)).warnings) for t in (0.3, None)]
    assert told == [True, False]


def test_paths_may_be_text(scan, model, tmp_path):
    outcome = monet_edge.segment(str(scan), str(tmp_path / "mask.nii"), model=model, report=str(tmp_path / "page.html"))
    assert outcome.job.report.is_file()


def test_what_is_missing_is_said_before_the_network_runs(scan, monkeypatch, model):
    monkeypatch.setitem(sys.modules, "cc3d", None)
    monkeypatch.setattr(Model, "segment_scan", lambda *_, **__: pytest.fail("was segmented"))
    with pytest.raises(errors.MonetError, match="connected-components-3d"):
        monet_edge.segment(scan, model=model, keep_largest=True)


def test_flip_is_the_mean_of_both_mirror_images(rng, model):
    image = image_of(blob(rng))
    scan = monet_edge.formats.from_image(image)
    mirrored = monet_edge.formats.from_image(image_of(np.ascontiguousarray(blob(np.random.default_rng(0))[::-1])))
    plain = model.segment_scan(scan, Options(probabilities=True)).probability
    other = model.segment_scan(mirrored, Options(probabilities=True)).probability[::-1]
    both = model.segment_scan(scan, Options(probabilities=True, flip=True)).probability
    np.testing.assert_allclose(both, (plain + other) / 2, atol=1e-6)
    assert abs(plain - other).max() > 0.01


@pytest.mark.parametrize(("share", "warned"), [(0.0, True), (0, True), (0.5, False), ({}, False), (None, False)])
def test_flipping_for_a_model_that_never_saw_flips_is_warned_of(rng, model, share, warned):
    provenance = {"training": {"settings": {"recipe": {"augmentation": {"flip": share}}}}} if share is not None else {"training": [0]}
    doubtful = Model(replace(model.weights, provenance=Provenance(provenance)), 1)
    scan = monet_edge.formats.from_image(image_of(blob(rng)))
    told = [any("mirrored" in warning for warning in doubtful.segment_scan(scan, Options(flip=flip)).warnings) for flip in (True, False)]
    assert told == [warned, False]


@pytest.mark.parametrize(
    ("labels", "refused"), [(("left X", "right X"), True), (("Right_X", "Left_X"), True), (("left X", "right Y"), False)]
)
def test_flipping_is_refused_where_it_would_exchange_sides_unlearnt(rng, tmp_path, labels, refused):
    spec = fold_batchnorm(monet(1, 3, 4))
    weights.save(tmp_path / "two.safetensors", spec, random_tensors(spec), make_record(*labels), {})
    model, scan = monet_edge.load(tmp_path / "two.safetensors", 1), monet_edge.formats.from_image(image_of(blob(rng)))
    if refused:
        with pytest.raises(errors.ModelError, match="tells left from right"):
            model.segment_scan(scan, Options(flip=True))
    assert model.segment_scan(scan, Options(flip=not refused)).mask.any()


def test_a_flip_exchanges_the_sides_of_a_model_that_has_learnt_mirrors(rng, tmp_path):
    spec = fold_batchnorm(monet(1, 4, 4))
    about = {"generated": {"ranges": {"mirror": 0.5}}}
    weights.save(tmp_path / "sides.safetensors", spec, random_tensors(spec), make_record("left X", "middle", "right X"), about)
    model, voxels = monet_edge.load(tmp_path / "sides.safetensors", 1), blob(rng)
    scan, mirrored = (monet_edge.formats.from_image(image_of(np.ascontiguousarray(one))) for one in (voxels, voxels[::-1]))
    plain, other = (model.segment_scan(one, Options(probabilities=True)).probability for one in (scan, mirrored))
    both = model.segment_scan(scan, Options(probabilities=True, flip=True)).probability
    np.testing.assert_allclose(both, (plain + other[::-1, ..., [0, 3, 2, 1]]) / 2, atol=1e-5)


def test_threads_do_not_change_a_bit(scan, weights_file):
    masks = []
    for threads in (1, 2, 5):
        result = monet_edge.load(weights_file, threads).segment_scan(monet_edge.formats.read(scan), Options(probabilities=True))
        masks.append(result.probability)
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])


def test_predict_takes_preprocessed_slices(rng, model):
    slices = rng.random((3, 16, 40), dtype=np.float32)
    ref = model.predict(slices)
    assert ref.shape == (3, 1, 16, 40)
    assert ref.dtype == np.float32
    assert np.array_equal(model.predict(slices[:, None]), ref)


@pytest.mark.parametrize(("shape", "dtype"), [((3, 15, 40), "f4"), ((3, 2, 16, 40), "f4"), ((16, 40), "f4"), ((3, 16, 40), "f8")])
def test_predict_says_what_it_expects(shape, dtype, model):
    with pytest.raises(errors.ModelError, match="predict expects"):
        model.predict(np.zeros(shape, dtype))


GIVEN = [np.zeros((8, 8, 8)), [1], None, 3, b"scan.nii", nibabel.Nifti1Header(), nibabel.gifti.GiftiImage()]


@pytest.mark.parametrize("given", GIVEN, ids=lambda given: type(given).__name__)
def test_what_is_no_image_is_one_clear_error(given, model):
    """An array has no affine; whoever has a tensor of PyTorch has one to the same words, see below."""
    name = type(given).__name__
    with pytest.raises(errors.ScanError, match=f"expected a nibabel image or the path of a file, found .*{name}"):
        model.segment(given)
    with pytest.raises(errors.ScanError, match=f"segment_scan expects a Scan.* found .*{name}"):
        model.segment_scan(given)
    with pytest.raises(errors.MonetError, match=f"scan: expected the path of a file, found .*{name}"):
        monet_edge.segment(given, model=model)


def test_a_tensor_is_one_clear_error(model):
    tensor = pytest.importorskip("torch", reason="PyTorch is not installed").zeros(3, 16, 40)
    with pytest.raises(errors.ScanError, match=r"nibabel image or the path of a file, found torch\.Tensor"):
        model.segment(tensor)
    with pytest.raises(errors.ModelError, match=r"NumPy array, .*found torch\.Tensor"):
        model.predict(tensor)
    with pytest.raises(errors.ModelError, match=r"NumPy array, .*found list"):
        model.predict([[0.0]])
    with pytest.raises(errors.MonetError, match=r"output: expected the path of a file, found torch\.Tensor"):
        monet_edge.segment("scan.nii", tensor, model=model)


@pytest.mark.parametrize(
    "travel", [lambda one: pickle.loads(pickle.dumps(one)), copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"]
)
def test_a_model_travels_as_its_weights(travel, tmp_path, rng, weights_file):
    """Also where its file is no more."""
    gone = tmp_path / "gone.safetensors"
    gone.write_bytes(weights_file.read_bytes())
    here = monet_edge.load(gone, 2)
    gone.unlink()
    there = travel(here)
    assert (there.threads, there.weights.sha256, there.weights.name) == (2, here.weights.sha256, "gone")
    image = image_of(blob(rng))
    np.testing.assert_array_equal(*(np.asanyarray(one.segment(image).dataobj) for one in (here, there)))


def test_a_model_works_in_another_process(rng, model):
    slices = rng.random((2, 16, 40), dtype=np.float32)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (comp,) = pool.map(model.predict, [slices])
    np.testing.assert_array_equal(comp, model.predict(slices))


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_scan_of_values_below_zero_is_segmented_as_any_other(dtype, rng, tmp_path):
    """A window is in HU, wherever they lie: part of a lung is all below 0, and no two of its voxels need be alike."""
    spec = fold_batchnorm(monet(filters=4, depth=1))
    record = make_record("lung", intensity="window", low=-1000.0, high=-100.0)
    weights.save(tmp_path / "lung.safetensors", spec, random_tensors(spec), record, {})
    lung = monet_edge.load(tmp_path / "lung.safetensors", 1)
    voxels = (rng.permutation(30 * 26 * 9).reshape(30, 26, 9) / -7.8 - 1).astype(dtype)
    assert voxels.max() < 0
    below = lung.segment_scan(monet_edge.formats.from_image(image_of(voxels)), Options(probabilities=True))
    with_a_bright_voxel = voxels.copy()
    with_a_bright_voxel[:, :, -1] = 40
    above = lung.segment_scan(monet_edge.formats.from_image(image_of(with_a_bright_voxel)), Options(probabilities=True))
    assert below.mask.any()
    np.testing.assert_array_equal(below.probability[:, :, :-1], above.probability[:, :, :-1])
    assert not any("one intensity" in warning for warning in below.warnings)


@pytest.mark.parametrize(
    ("voxels", "told"),
    [
        (np.full(SHAPE, -7, np.int16), "the scan holds one intensity only"),
        (np.full(SHAPE, np.nan, np.float32), "no voxel holds a number"),
        (np.indices(SHAPE).sum(axis=0) % 2, "all that is no background holds one intensity only"),
    ],
)
def test_why_there_is_nothing_to_see_is_the_truth(voxels, told, model):
    found = model.segment_scan(monet_edge.formats.from_image(image_of(voxels.astype(np.float32))))
    assert not found.mask.any()
    assert f"{told}; the mask is empty" in found.warnings


def test_the_input_is_never_touched(scan, model):
    before = (hashlib.sha256(scan.read_bytes()).hexdigest(), scan.stat().st_mtime_ns)
    monet_edge.segment(scan, model=model)
    assert (hashlib.sha256(scan.read_bytes()).hexdigest(), scan.stat().st_mtime_ns) == before


@pytest.mark.parametrize("how", ["itself", "symlink", "hardlink"])
def test_the_output_cannot_be_the_input(how, scan, tmp_path, model):
    target = scan
    if how != "itself":
        target = tmp_path / "other.nii.gz"
        target.symlink_to(scan) if how == "symlink" else target.hardlink_to(scan)
    before = scan.read_bytes()
    with pytest.raises(errors.OutputError, match="is the input itself"):
        monet_edge.segment(scan, target, model=model, overwrite=True)
    assert scan.read_bytes() == before


def test_an_existing_output_needs_overwrite(scan, model):
    first = monet_edge.segment(scan, model=model).job.mask
    before = first.read_bytes()
    with pytest.raises(errors.OutputError, match="exists already"):
        monet_edge.segment(scan, model=model)
    assert monet_edge.segment(scan, model=model, overwrite=True).job.mask.read_bytes() == before


@pytest.mark.parametrize("fill", [0, 7])
def test_a_constant_scan_gives_an_empty_mask_and_says_so(fill, tmp_path, model):
    nibabel.save(image_of(np.full(SHAPE, fill, np.int16)), tmp_path / "flat.nii.gz")
    outcome = monet_edge.segment(tmp_path / "flat.nii.gz", model=model)
    assert not np.asanyarray(nibabel.load(outcome.job.mask).dataobj).any()
    assert any("one intensity" in warning for warning in outcome.warnings)


def test_our_masks_in_a_folder_are_not_scans(tmp_path, scan, model):
    assert find_scans([tmp_path, scan]) == [Found(scan, tmp_path)]
    monet_edge.segment(scan, model=model, probabilities=True)
    assert find_scans([tmp_path, scan]) == [Found(scan, tmp_path)]


def test_where_results_go(tmp_path):
    a, b = tmp_path / "a" / "x.nii", tmp_path / "b" / "x.nii.gz"
    both = [Found(a), Found(b)]
    assert [job.mask for job in plan_jobs(both, None, Options())] == [a.parent / "x_seg.nii.gz", b.parent / "x_seg.nii.gz"]
    for options in (Options(), Options(report=tmp_path / "out")):
        with pytest.raises(errors.OutputError, match="would both be written"):
            plan_jobs(both, None if options.report else tmp_path / "out", options)
    with pytest.raises(errors.OutputError, match="cannot go into one file"):
        plan_jobs(both, tmp_path / "out.nii.gz", Options())
    (job,) = plan_jobs([Found(a)], tmp_path / "x_prob.nii.gz", Options(probabilities=True))
    assert len(set(job.results)) == 2
    (job,) = plan_jobs([Found(a)], tmp_path / "new", Options(probabilities=True))
    assert (job.mask, job.probability) == (tmp_path / "new/x_seg.nii.gz", tmp_path / "new/x_prob.nii.gz")
    assert stem(b) == "x"


@pytest.mark.parametrize("count", [1, 2])
def test_a_folder_for_results_is_made_for_one_scan_as_for_several(tmp_path, count):
    scans = [Found(tmp_path / f"{i}.nii") for i in range(count)]
    jobs = plan_jobs(scans, tmp_path / "masks", Options(report=tmp_path / "pages"))
    assert {path.parent for job in jobs for path in job.results} == {tmp_path / "masks", tmp_path / "pages"}
    assert all(path.parent.is_dir() for job in jobs for path in job.results)
    (tmp_path / "v1.0").mkdir()
    assert plan_jobs(scans, tmp_path / "v1.0", Options())[0].mask == tmp_path / "v1.0" / "0_seg.nii.gz"


def test_endings_in_capitals_are_scans_too(tmp_path, scan):
    loud = scan.rename(tmp_path / "SCAN.NII.GZ")
    assert find_scans([tmp_path]) == [Found(loud, tmp_path)]
    assert plan_jobs([Found(loud)], None, Options())[0].mask == tmp_path / "SCAN_seg.nii.gz"


def test_the_phantom_is_hard_for_a_threshold():
    for seed in range(5):
        volume, mask = phantom.make(seed)
        scores = [2 * ((volume > t) & (mask > 0)).sum() / ((volume > t).sum() + mask.sum()) for t in range(100, 1200, 20)]
        assert max(scores) < 0.6
        assert mask.sum() > 1000


def test_the_phantom_is_found():
    volume, mask = phantom.make(0)
    found = np.asanyarray(monet_edge.load("brain-flair").segment(phantom.to_image(volume)).dataobj).T
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) >= 0.7


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("change", ["times 16", "noise floor"])
def test_a_real_scan_rescaled_is_segmented_the_same(change):
    path = sorted((DATA / "brain-flair" / "imagesTr").glob("*.nii.gz"))[0]
    image = nibabel.load(path)
    voxels = np.asanyarray(image.dataobj)
    if change == "times 16":
        other = voxels.astype(np.int16) * 16
    else:  # scanner noise where upstream put 0, as high as 3 % of the scan's bright end
        noise = np.random.default_rng(0).integers(0, int(measure(Voxels(voxels)).floor) + 1, voxels.shape)
        other = np.where(voxels == 0, noise, voxels).astype(np.uint8)
    model = monet_edge.load("brain-flair")
    ref, comp = (np.asanyarray(model.segment(image_of(v, image.affine)).dataobj) for v in (voxels, other))
    assert 2 * (ref & comp).sum() / (ref.sum() + comp.sum()) > 0.99
