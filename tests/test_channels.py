"""Several images of a case: what is trained on two channels is fed, recorded and run as two files, byte for byte."""

import json
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from records import make_record, network_input
from synthetic import RECORD, write_dataset
from test_cases import QUICK, call, one_line
from typer.testing import CliRunner

import monet_edge
from monet_edge import cli, formats, preprocess, weights
from monet_edge.errors import DatasetError, ModelError, MonetError
from monet_edge.inputs import Inputs, make_grid
from monet_edge.intensities import measure
from monet_edge.options import Options
from monet_edge.preprocess import SLICINGS, Channel
from monet_edge.volume import Voxels
from monet_train import prepare as prepared_cases
from monet_train.augment import augment
from monet_train.checks import check_images
from monet_train.config import DEPTHS, STRONG, Augmentation, Settings, effective_settings, make_preprocess, training_spec
from monet_train.config_text import to_json
from monet_train.data import build, memory_of
from monet_train.dataset import all_channels, load, read
from monet_train.federated.site import open_site
from monet_train.prepare import VERSION, key, open_prepared, prepare

TWO = make_preprocess(("lesion",), ("FLAIR", "mirrored"), size=64, low=[-2.0, -1.0], high=[4.0, 3.0])
CHANNEL = {"name": "T1", "intensity": "zscore", "low": -3.0, "high": 5.0}


@pytest.fixture(scope="module", params=["decathlon", "nnunet"])
def both(request, tmp_path_factory):
    """A data set of two channels in either dialect, read and prepared with both."""
    folder = tmp_path_factory.mktemp("channels")
    write_dataset(folder / "data", 3, request.param)
    found = read(folder / "data", (0, 1))
    return found, prepare(found, folder / "prepared")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data set of two files a case, and a run on both, exported."""
    folder = tmp_path_factory.mktemp("run")
    write_dataset(folder / "data", 8, "nnunet")
    assert call(folder, "fit", "data", "-o", "run", "--volume", "all", "--context", "1", *QUICK) == 0
    assert call(folder, "export", "run", "data", "-o", "two.safetensors") == 0
    return folder


# the record


def test_a_record_of_several_images_survives_json_and_one_of_before_means_one():
    assert preprocess.from_json(preprocess.to_json(TWO)) == TWO
    assert (TWO.images, TWO.names, replace(TWO, context=2).inputs) == (2, ("FLAIR", "mirrored"), 10)
    assert (TWO.of(1).image, TWO.of(1).low, TWO.of(1).high, TWO.of(1).images) == ("mirrored", -1.0, 3.0, 1)
    assert (TWO.of(0).low, TWO.of(0).images) == (-2.0, 1)
    one = make_record("lesion")
    assert {"image", "others"}.isdisjoint(json.loads(preprocess.to_json(one)))  # the bytes of before
    assert one.of(0) == one


@pytest.mark.parametrize("image", ["", "T1", "T1\n", 3])
def test_an_image_that_is_called_nothing_or_as_another_is_refused(image):
    refuse({"image": image})


@pytest.mark.parametrize(
    "change",
    [{"name": ""}, {"low": 5.0}, {"intensity": "ct"}, {"intensity": []}, {"intensity": "percentile"}, {"high": float("nan")}, {"more": 1}],
)
def test_a_further_image_that_is_none_is_refused(change):
    refuse({"others": [{**CHANNEL, **change}]})


@pytest.mark.parametrize("others", [CHANNEL, ["T1"], [CHANNEL, CHANNEL], [{**CHANNEL, "name": f"T{i}"} for i in range(16)]])
def test_images_that_are_none_or_too_many_are_refused(others):
    refuse({"others": others})


def refuse(changes):
    good = json.loads(preprocess.to_json(replace(make_record("lesion"), image="FLAIR", others=(Channel(**CHANNEL),))))
    assert preprocess.from_json(json.dumps(good)).images == 2
    with pytest.raises(ModelError, match="preprocessing record"):
        preprocess.from_json(json.dumps({**good, **changes}))


def test_a_value_for_each_image_or_one_for_all():
    assert [image.low for image in (TWO, *TWO.others)] == [-2.0, -1.0]
    assert make_preprocess(("a",), ("x", "y"), intensity=["window", "zscore"]).others[0].intensity == "zscore"
    with pytest.raises(MonetError, match="one for each of the 2 images, found 3"):
        make_preprocess(("a",), ("x", "y"), low=[1.0, 2.0, 3.0])


# what the network sees


@pytest.mark.parametrize("threads", [1, 3])
def test_channels_are_those_of_one_image_after_those_of_the_other(rng, threads):
    images = [Voxels(rng.integers(0, 900, (6, 20, 24)).astype(dtype)) for dtype in (np.int16, np.float32)]
    statistics = [measure(image) for image in images]
    record = replace(TWO, context=2, size=32)
    inputs = Inputs(images, record, statistics, threads=threads)
    for z in range(6):
        alone = [network_input(image, z, record.of(i), statistics[i]) for i, image in enumerate(images)]
        assert inputs(z).tobytes() == np.concatenate(alone).tobytes()
    assert len(inputs._kept) <= 2 * Inputs.room(inputs.grid, threads)


@pytest.mark.parametrize("slicing", SLICINGS)
@pytest.mark.parametrize("lengths", [{}, {"spacing": 1.1, "thickness": 7.0, "neighbours": "linear"}])
def test_the_trainer_feeds_what_the_runtime_feeds(both, slicing, lengths):
    dataset, prepared = both
    record = replace(TWO, slicing=slicing, context=1, size=48, **lengths)
    names = ["case_000", "case_002"]
    slices = build(prepared, names, record, False, "cpu", True)
    assert (slices.images.shape[1], slices.rims.shape) == (2, (2, 2, DEPTHS, 2))
    start = 0
    for name in names:
        scans = [formats.read(file, volume) for file, volume in dataset.volumes(name)]
        images = [scan.canonical(SLICINGS[slicing]) for scan in scans]
        spacing = {"axial": (5.0, 0.9, 0.9), "coronal": (0.9, 5.0, 0.9), "sagittal": (0.9, 5.0, 0.9)}[slicing]
        grid = make_grid(record, images[0].stored.shape[1:], spacing)
        inputs = Inputs(images, record, [measure(image) for image in images], grid)
        for i in range(len(inputs)):
            assert slices.inputs(torch.tensor([start + i]))[0].numpy().tobytes() == inputs(i).tobytes()
        start += len(inputs)
    assert start == len(slices.images)
    tensors = 48 * 48 * (2 * 4 + 1 + 1)
    assert memory_of(prepared, names, (), record) == (start, 0, 2 * start * tensors)


def test_both_channels_are_prepared_exactly(both):
    dataset, prepared = both
    for name in dataset.pairs:
        ref, comp = load(dataset, name), prepared.load(name)
        assert [image.stored.dtype for image in comp.images] == [image.stored.dtype for image in ref.images]
        for one, other in zip(ref.images, comp.images, strict=True):
            np.testing.assert_array_equal(one.stored, other.stored)
        assert ref.statistics == comp.statistics
        np.testing.assert_array_equal(np.flip(ref.images[0].stored, 2), ref.images[1].stored)
    assert (prepared.channels, prepared.modalities, prepared.modality) == ((0, 1), ("FLAIR", "mirrored"), "FLAIR, mirrored")


def test_an_order_of_channels_is_another_case(both, tmp_path):
    dataset, prepared = both
    other = prepare(read(dataset.folder, (1, 0)), tmp_path / "p")
    assert {*other.keys.values()}.isdisjoint(prepared.keys.values())
    np.testing.assert_array_equal(other.load("case_000").images[0].stored, prepared.load("case_000").images[1].stored)


def test_every_channels_file_is_in_a_cases_key(tmp_path):
    folder = write_dataset(tmp_path / "data", 1, "nnunet")
    before = key(read(folder, (0, 1)), "case_000", VERSION), key(read(folder), "case_000", VERSION)
    shutil.copy(folder / "imagesTr" / "case_000_0000.nii.gz", folder / "imagesTr" / "case_000_0001.nii.gz")
    after = key(read(folder, (0, 1)), "case_000", VERSION), key(read(folder), "case_000", VERSION)
    assert (after[0] == before[0], after[1] == before[1]) == (False, True)


def test_a_folder_prepared_before_there_could_be_several_is_read(tmp_path):
    dataset = read(write_dataset(tmp_path / "data", 2), (1,))
    prepare(dataset, tmp_path / "p")
    index = tmp_path / "p" / prepared_cases.INDEX
    about = json.loads(index.read_text())
    assert about.pop("channels") == [1]
    assert about.pop("modalities") == ["mirrored"]
    del about["sha256"]  # as old as that
    index.write_text(json.dumps({**about, "channel": 1, "modality": "mirrored"}))
    found = open_prepared(tmp_path / "p")
    assert (found.channels, found.modality) == ((1,), "mirrored")
    np.testing.assert_array_equal(found.load("case_000").images[0].stored, load(dataset, "case_000").images[0].stored)


# augmentation


def test_each_image_changes_its_intensities_on_its_own_and_all_move_together():
    torch.manual_seed(0)
    images = torch.rand(8, 1, 32, 32).repeat(1, 4, 1, 1) * 0.5 + 0.25  # two images of two slices, all alike
    labels, nothing = torch.ones(8, 1, 32, 32), torch.zeros(8, 32, 32)
    clips, rims = [(-3.0, 6.0)] * 2, torch.zeros(8, 2, DEPTHS, 2)
    changed, _ = augment(images, labels, nothing, rims, Augmentation(contrast=0.3, gamma=0.3), clips)
    assert torch.equal(changed[:, 0], changed[:, 1])  # a slice and its neighbour are of one image
    assert not torch.allclose(changed[:, 0], changed[:, 2], atol=0.01)
    moved, _ = augment(images, labels, nothing, rims, Augmentation(rotate=20, zoom=0.2, shift=0.1, flip=0.5), clips)
    assert all(torch.equal(moved[:, 0], moved[:, k]) for k in (1, 2, 3))


def test_neighbours_give_way_to_the_slice_of_their_own_image():
    torch.manual_seed(0)
    images = torch.arange(6.0).view(1, 6, 1, 1).expand(2, 6, 4, 4) / 10
    found, _ = augment(images, images[:, :1], images[:, 0], torch.zeros(2, 2, DEPTHS, 2), Augmentation(drop_context=1.0), [(0.0, 1.0)] * 2)
    assert found[0, :, 0, 0].tolist() == pytest.approx([0.1, 0.1, 0.1, 0.4, 0.4, 0.4])


def test_a_rim_takes_each_images_zscore_anew(both):
    slices = build(both[1], ["case_000"], TWO, False, "cpu", True)
    torch.manual_seed(0)
    only, index = Augmentation(skull_strip=1.0, skull_strip_depth=(5, 5)), torch.arange(8)
    clips = [(TWO.low, TWO.high), (TWO.others[0].low, TWO.others[0].high)]
    images, _ = augment(slices.inputs(index), slices.labels[:, None].float(), slices.depths, slices.rims[slices.cases], only, clips)
    for k, (low, high) in enumerate(clips):
        before = slices.images[:, k]
        kept = (slices.depths >= 5) & (before > 0)
        mean, sd = before[kept].mean(), before[kept].std(correction=0)
        ref = (((before - mean) / sd - low) / (high - low)).clamp(0, 1)
        np.testing.assert_allclose(images[:, k][kept], ref[kept], atol=1e-4)
        assert not images[:, k][~kept].any()


def test_a_rim_is_removed_only_where_every_image_is_a_zscore():
    recipe = replace(STRONG, augmentation=Augmentation(skull_strip=0.5))
    for intensity, kept in (("zscore", 0.5), ("window", 0.0)):
        record = make_preprocess(("a",), ("x", "y"), intensity=["zscore", intensity])
        settings = Settings(dataset="", net="monet", preprocess=record, recipe=recipe)
        assert effective_settings(settings).recipe.augmentation.skull_strip == kept
    assert training_spec(replace(settings, preprocess=replace(record, context=1))).in_channels == 6


# from training to use


def test_what_is_trained_on_two_channels_segments_two_files(place):
    """Its own mask and the evaluation's are one: the Dice that `evaluate` writes is that of the files that `segment` writes."""
    found = weights.load(place / "two.safetensors")
    record = found.sliced
    assert (record.names, record.images, found.spec.in_channels, found.provenance.stated("modality")) == (
        ("FLAIR", "mirrored"),
        2,
        6,
        "FLAIR, mirrored",
    )
    assert found.provenance["training"]["channels"] == [0, 1]
    assert "`_0000` FLAIR: zscore, -3 to 6 SD of the foreground; `_0001` mirrored: zscore" in (place / "two.md").read_text()
    assert call(place, "evaluate", "two.safetensors", "data", "-o", "scores") == 0
    rows = (place / "scores" / "scores.csv").read_text().splitlines()[1:]
    done = CliRunner().invoke(
        cli.app, ["segment", str(place / "data" / "imagesTr"), "-m", str(place / "two.safetensors"), "-o", str(place / "masks")]
    )
    assert done.exit_code == 0, done.output
    assert "8 of 8 scans segmented" in done.output
    for row in rows:
        name, predicted = row.split(",")[0], int(row.split(",")[9])
        mask = formats.read(place / "masks" / f"{name}_seg.nii.gz").voxels
        truth = formats.read(place / "data" / "labelsTr" / f"{name}.nii.gz").voxels
        assert np.count_nonzero(mask) == predicted
        assert float(row.split(",")[4]) == pytest.approx(
            2 * np.count_nonzero(mask & truth) / (predicted + np.count_nonzero(truth)), abs=1e-5
        )


def test_the_order_of_the_images_decides(place):
    model = monet_edge.load(place / "two.safetensors", threads=1)
    files = [place / "data" / "imagesTr" / f"case_000_000{i}.nii.gz" for i in (0, 1)]
    seen, turned = (model.slices(order) for order in (files, files[::-1]))
    assert seen.shape == (8, 6, 16, 16)
    assert np.array_equal(seen[:, :3], turned[:, 3:])
    assert not np.array_equal(seen[:, :3], turned[:, :3])
    assert np.array_equal(model.slices(files[1]), seen)  # any file stands for its case


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "case_0001.nii.gz: "),
        (lambda path: nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), path), "must have one grid"),
        (lambda path: shift(path), "must lie in one place: image 1 lies 3 voxels from image 0 at a corner"),
    ],
    ids=["missing", "another shape", "elsewhere"],
)
def test_a_case_that_is_not_whole_is_refused_in_one_line(place, tmp_path, change, message):
    for i in (0, 1):
        shutil.copy(place / "data" / "imagesTr" / f"case_000_000{i}.nii.gz", tmp_path / f"case_000{i}.nii.gz")
    change(tmp_path / "case_0001.nii.gz")
    done = CliRunner().invoke(cli.app, ["segment", str(tmp_path / "case_0000.nii.gz"), "-m", str(place / "two.safetensors")])
    assert done.exit_code == 2
    assert message in done.output
    assert [path.name for path in tmp_path.glob("*_seg*")] == []


def as_volumes(place, name, folder, count=2):
    """A case's files as the volumes of one."""
    files = [nibabel.load(place / "data" / "imagesTr" / f"{name}_000{i}.nii.gz") for i in (0, 1)]
    volumes = np.stack([files[i % 2].dataobj for i in range(count)], axis=-1)
    nibabel.save(nibabel.Nifti1Image(volumes, files[0].affine, files[0].header), folder / f"{name}.nii.gz")
    return folder / f"{name}.nii.gz"


def test_volumes_of_one_file_are_the_images_in_their_order(place, tmp_path):
    """In a folder, by name, through Python, from memory: the mask of two files, byte for byte."""
    model, names = place / "two.safetensors", ("case_000", "case_001")
    ready = monet_edge.load(model, threads=1)
    case = [formats.read(place / "data" / "imagesTr" / f"case_000_000{i}.nii.gz") for i in (0, 1)]
    threshold = float(np.median(ready.segment_scan(case, Options(probabilities=True)).probability))  # so little a training finds nothing
    options = ["--threshold", str(threshold), "--probabilities"]
    for folder, take in (("files", shutil.copy), ("volumes", None)):
        (tmp_path / folder).mkdir()
        for name in names:
            if take is None:
                as_volumes(place, name, tmp_path / folder)
            else:
                [take(place / "data" / "imagesTr" / f"{name}_000{i}.nii.gz", tmp_path / folder) for i in (0, 1)]
        words = ["segment", str(tmp_path / folder), "-m", str(model), "-o", str(tmp_path / f"{folder} out"), *options]
        assert "2 of 2 scans segmented" in CliRunner().invoke(cli.app, words).output
    made = [{path.name: path.read_bytes() for path in (tmp_path / f"{folder} out").iterdir()} for folder in ("files", "volumes")]
    assert made[0] == made[1]
    assert len(made[0]) == 4  # masks and probabilities
    scan = tmp_path / "volumes" / "case_000.nii.gz"
    done = CliRunner().invoke(cli.app, ["segment", str(scan), "-m", str(model), *options])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "volumes" / "case_000_seg.nii.gz").read_bytes() == made[0]["case_000_seg.nii.gz"]
    monet_edge.segment(scan, tmp_path / "one.nii.gz", model=model, threshold=threshold, probabilities=True)
    assert (tmp_path / "one.nii.gz").read_bytes() == made[0]["case_000_seg.nii.gz"]
    image, mask = nibabel.load(scan), np.asarray(nibabel.load(tmp_path / "one.nii.gz").dataobj)
    assert 0.3 < mask.mean() < 0.7
    held = nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    for given in (scan, image, held, [image.slicer[..., 0], image.slicer[..., 1]]):
        assert np.array_equal(ready.segment(given, threshold=threshold).dataobj, mask)


@pytest.mark.parametrize(
    ("count", "words", "message"),
    [
        (1, [], "takes 2 images of a case, found 1 volume in this file. Give one file of 2 volumes, or files named _0000 to _0001"),
        (3, [], "takes 2 images of a case, found 3 volumes in this file"),
        (2, ["--volume", "0"], "its 2 volumes are the images that the model takes of a case. Leave --volume out."),
    ],
)
def test_a_file_of_other_volumes_than_images_is_refused_in_one_line(place, tmp_path, count, words, message):
    path = as_volumes(place, "case_000", tmp_path, count)
    done = CliRunner().invoke(cli.app, ["segment", str(path), "-m", str(place / "two.safetensors"), *words])
    assert (done.exit_code, message in done.output, list(tmp_path.glob("*_seg*"))) == (2, True, []), done.output


def test_an_image_in_memory_of_other_volumes_than_images_is_refused(place, tmp_path):
    model = monet_edge.load(place / "two.safetensors", threads=1)
    with pytest.raises(MonetError, match=r"takes 2 images of a case, found 3 in an image of shape .* one of shape \(X, Y, Z, 2\)"):
        model.segment(nibabel.load(as_volumes(place, "case_000", tmp_path, 3)))


def test_a_number_that_no_image_has_belongs_to_the_name(place, tmp_path):
    path = as_volumes(place, "case_000", tmp_path).rename(tmp_path / "visit_2024.nii.gz")
    outcome = monet_edge.segment(path, model=place / "two.safetensors")
    assert outcome.job.mask.name == "visit_2024_seg.nii.gz"


def shift(path):
    image = nibabel.load(path)
    affine = image.affine.copy()
    affine[:3, 3] += 3 * affine[:3, 0]
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), path)


def test_an_image_of_one_intensity_is_told_and_two_give_an_empty_mask(place):
    model = monet_edge.load(place / "two.safetensors", threads=1)
    scans = [formats.read(place / "data" / "imagesTr" / f"case_000_000{i}.nii.gz") for i in (0, 1)]
    flat = replace(scans[1], voxels=np.asfortranarray(np.full_like(scans[1].voxels, 7)))
    assert any("nothing is seen of mirrored" in warning for warning in model.segment_scan([scans[0], flat]).warnings)
    found = model.segment_scan([flat, flat])
    assert not found.mask.any()
    assert any("holds one intensity only; the mask is empty" in warning for warning in found.warnings)


def test_images_in_another_order_look_foreign(place):
    """A fingerprint is of all images; the second one of this data set is the first one's mirror image, so another order is made up."""
    found = weights.load(place / "two.safetensors")
    model = monet_edge.Model(found, 1)
    scans = [formats.read(place / "data" / "imagesTr" / f"case_000_000{i}.nii.gz") for i in (0, 1)]
    inverted = replace(scans[1], voxels=np.asfortranarray(scans[1].voxels.max() - scans[1].voxels))
    warned = [
        any("does not look like" in warning for warning in model.segment_scan(case).warnings) for case in (scans, [scans[0], inverted])
    ]
    assert warned == [False, True]


# what is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "data", "-o", "x", "--volume", "0,2"], "has no scan in imagesTr for volume 2"),
        (["fit", "data", "-o", "x", "--volume", "0,0"], "--volume 0,0: expected the number of a volume"),
        (["fit", "data", "-o", "x", "--volume", "-1"], "--volume -1: expected the number of a volume"),
        (["fit", "data", "-o", "x", "--volume", "both"], "several different ones as in 0,1, or all"),
        (["fit", "run/prepared", "-o", "x", *("--low", "1") * 3], "--low: given 3 times, and there are 2 channels"),
        (["evaluate", "two.safetensors", "data", "--volume", "1"], "takes 2 images of a case, in this order, and --volume 1 chooses 1"),
        (["evaluate", "brain-flair", "data", "--volume", "0,1"], "takes 1 image of a case"),
        (["export", "run", "data", "-o", "y.safetensors", "--volume", "1,0"], "it was trained on volumes 0,1, not 1,0"),
        (["fit", "data", "-o", "run", "--resume", "--volume", "0"], "it was trained on volumes 0,1, not 0"),
        (["fit", "run/prepared", "-o", "x", "--volume", "0"], "was prepared with --volume 0,1, not 0"),
    ],
)  # fmt: skip
def test_channels_that_do_not_fit_are_refused_in_one_line(place, capsys, words, message):
    assert call(place, *words, *(QUICK if words[0] == "fit" else [])) == 2
    assert message in one_line(capsys)
    assert not (place / "x" / "config.json").exists()


def test_a_missing_file_of_one_channel_is_named(tmp_path):
    folder = write_dataset(tmp_path / "data", 2, "nnunet")
    (folder / "imagesTr" / "case_001_0001.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"case_001 has no scan in imagesTr for volume 1$"):
        read(folder, (0, 1))
    assert read(folder, (0,)).warnings == ()
    about = json.loads((folder / "dataset.json").read_text())
    listed = [{"image": f"imagesTr/case_00{i}.nii.gz", "label": f"labelsTr/case_00{i}.nii.gz"} for i in (0, 1)]
    (folder / "dataset.json").write_text(json.dumps({**about, "training": listed}))
    with pytest.raises(
        DatasetError, match=r"case_001 has no scan: training\[1\] says .*, here case_001_0001\.nii\.gz, and there is no such file"
    ):
        read(folder, (0, 1))


def test_too_few_volumes_of_a_4d_scan_are_named(tmp_path):
    dataset = read(write_dataset(tmp_path / "data", 2), (0, 2))
    with pytest.raises(DatasetError, match="case_000: the scan has no volume 2; it has 2, counted from 0"):
        load(dataset, "case_000")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), path), r"its volume 1 \(4, 4, 4\)"),
        (lambda path: shift(path), "volumes 0 and 1 have different affines: a corner of the volume lies 3 voxels away"),
    ],
)
def test_channels_of_different_grids_are_no_case(tmp_path, change, words):
    folder = write_dataset(tmp_path / "data", 2, "nnunet")
    change(folder / "imagesTr" / "case_001_0001.nii.gz")
    with pytest.raises(DatasetError, match=words):
        load(read(folder, (0, 1)), "case_001")
    load(read(folder, (0, 1)), "case_000")


def test_all_channels_are_those_that_are_named(tmp_path):
    folder = write_dataset(tmp_path / "data", 2)
    assert all_channels(folder) == (0, 1)
    about = json.loads((folder / "dataset.json").read_text())
    for modality in ({}, "MRI", {"0": "FLAIR", "2": "T1"}):
        (folder / "dataset.json").write_text(json.dumps({**about, "modality": modality}))
        with pytest.raises(DatasetError, match="does not number the volumes of a scan"):
            all_channels(folder)
    assert read(folder, (0, 1)).modalities == ("FLAIR", "")


def test_a_site_with_other_images_does_not_take_part(both, tmp_path):
    prepared = both[1]
    settings = Settings(dataset="", net="monet", preprocess=TWO, recipe=STRONG)
    check_images(TWO, prepared)
    for record in (RECORD, replace(TWO, image="mirrored", others=(replace(TWO.others[0], name="FLAIR"),))):
        with pytest.raises(DatasetError, match=r"the images of a case are 2 \(FLAIR, mirrored\), the network takes"):
            check_images(record, prepared)
    with pytest.raises(DatasetError, match="the network takes 1"):
        open_site(to_json(replace(settings, preprocess=RECORD)), str(prepared.folder), "", "cpu")
    assert open_site(to_json(settings), str(prepared.folder), "", "cpu").step.training.images.shape[1] == 2
