"""The trainer on small synthetic data: data sets, preparation, training, resuming after kill -9, evaluation, export."""

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from monet_edge import phantom, volume
from monet_edge.errors import DatasetError, ModelError, MonetError, OutputError
from monet_edge.preprocess import SLICINGS, Preprocess, measure, network_input
from trainer import checkpoint
from trainer.augment import augment
from trainer.config import PAPER, STRONG, Augmentation, Settings
from trainer.config_text import override
from trainer.data import DEPTHS, build
from trainer.dataset import check, load, read, split
from trainer.evaluate import compare, evaluate, make_model, summarise, surface_distances
from trainer.export import export
from trainer.losses import dice_loss, loss, one_hot
from trainer.prepare import open_prepared, oriented, prepare
from trainer.schedule import one_cycle
from trainer.train import fit

SHAPE = (8, 64, 64)
RECORD = Preprocess(64, "axial", 0, "zscore", -2.0, 4.0, 0.5, ("lesion",))


def write_dataset(folder, cases=3, dialect="decathlon", shape=SHAPE):
    """Phantoms in the genuine layout of the decathlon (4-D, listed, ._ files) or of nnU-Net (a file a channel, nothing listed)."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    names = [f"case_{seed:03d}" for seed in range(cases)]
    for seed, name in enumerate(names):
        image, mask = phantom.make(seed, shape)
        second = np.flip(image, 2)
        affine = phantom.to_image(image).affine
        if dialect == "decathlon":
            both = np.stack([array.transpose(2, 1, 0) for array in (image, second)], axis=-1)
            nibabel.save(nibabel.Nifti1Image(both, affine), folder / "imagesTr" / f"{name}.nii.gz")
            (folder / "imagesTr" / f"._{name}.nii.gz").write_bytes(b"resource fork")
        else:
            for channel, array in enumerate((image, second)):
                nibabel.save(phantom.to_image(array), folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz")
        nibabel.save(phantom.to_image(mask), folder / "labelsTr" / f"{name}.nii.gz")
    if dialect == "decathlon":
        about = {
            "name": "phantom",
            "licence": "none",
            "modality": {"0": "FLAIR", "1": "mirrored"},
            "labels": {"0": "background", "1": "lesion"},
            "numTraining": cases,
            "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
        }
    else:
        about = {
            "channel_names": {"0": "FLAIR", "1": "mirrored"},
            "labels": {"background": 0, "lesion": 1},
            "numTraining": cases,
            "file_ending": ".nii.gz",
        }
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    dataset = read(write_dataset(folder / "data"))
    return dataset, prepare(dataset, folder / "prepared")


def settings(**changes):
    recipe = replace(STRONG, batch=4, epochs=2, average=0.9, **changes)
    return Settings("phantom", "monet", RECORD, False, recipe, 0, True)


@pytest.mark.parametrize("dialect", ["decathlon", "nnunet"])
@pytest.mark.parametrize("channel", [0, 1])
def test_both_dialects_are_read_as_they_are(tmp_path, dialect, channel):
    dataset = read(write_dataset(tmp_path / "d", 2, dialect), channel)
    assert list(dataset.pairs) == ["case_000", "case_001"]
    assert dataset.labels == ("lesion",)
    image, mask = phantom.make(1, SHAPE)
    case = load(dataset, "case_001", channel)
    np.testing.assert_array_equal(case.image, image if channel == 0 else np.flip(image, 2))
    np.testing.assert_array_equal(case.label, mask)
    assert case.spacing == pytest.approx(phantom.SPACING)
    assert [severity for _, severity, _ in check(dataset, channel)] == ["ok", "ok"]


def _break(folder, fault):
    path = folder / "labelsTr" / "case_001.nii.gz"
    image = nibabel.load(path)
    voxels, affine = np.asarray(image.dataobj).copy(), image.affine.copy()
    if fault == "shape":
        voxels = voxels[:-1]
    elif fault == "affine":
        affine[0, 3] += 5
    elif fault == "values":
        voxels[0, 0, 0] = 7
    elif fault == "empty":
        voxels[:] = 0
    if fault == "nan":
        path = folder / "imagesTr" / "case_001_0000.nii.gz"
        voxels = np.asarray(nibabel.load(path).dataobj).astype(np.float32)
        voxels[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)


@pytest.mark.parametrize(
    ("fault", "severity", "words"),
    [
        ("shape", "error", "shape"),
        ("affine", "error", "affines"),
        ("values", "error", "labels must be 0 to 1"),
        ("nan", "error", "NaN"),
        ("empty", "warning", "no voxel is labelled"),
    ],
)
def test_check_names_the_case_and_the_fault(tmp_path, fault, severity, words):
    folder = write_dataset(tmp_path / "d", 2, "nnunet")
    _break(folder, fault)
    first, second = check(read(folder))
    assert first[1] == "ok"
    assert second[:2] == ("case_001", severity)
    assert words in second[2]


def test_a_missing_file_is_an_error_before_any_work(tmp_path):
    folder = write_dataset(tmp_path / "d", 2)
    (folder / "labelsTr" / "case_000.nii.gz").unlink()
    with pytest.raises(DatasetError, match="case_000 has no labels"):
        read(folder)


def test_the_split_is_by_patient_within_each_institution():
    names = [f"TCGA_{place}_{i:04d}" for place, count in (("CS", 16), ("DU", 45), ("EZ", 1), ("HT", 34)) for i in range(count)]
    (part,) = split(names)
    assert (len(part["train"]), len(part["val"])) == (67, 29)
    assert not set(part["train"]) & set(part["val"])
    assert [sum(name[5:7] == place for name in part["train"]) for place in ("CS", "DU", "EZ", "HT")] == [11, 31, 1, 24]
    assert split(names[::-1]) == [part]
    folds = split(names, folds=5)
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(names)


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<f4", "<f8"])
def test_prepared_voxels_are_the_same_bits(tmp_path, dtype):
    folder = write_dataset(tmp_path / "d", 1, "nnunet")
    rng = np.random.default_rng(0)
    voxels = (rng.normal(0, 90, (9, 11, 5)) if "f" in dtype else rng.integers(0, 250, (9, 11, 5))).astype(dtype)
    if "f" in dtype:
        voxels[0, 0, 0] = -0.0
    for part, array in (("imagesTr/case_000_0000", voxels), ("labelsTr/case_000", np.zeros(voxels.shape, np.uint8))):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"{part}.nii.gz")
    dataset = read(folder)
    ref, comp = load(dataset, "case_000"), prepare(dataset, tmp_path / "p").load("case_000")
    assert ref.image.dtype == comp.image.dtype
    assert np.ascontiguousarray(ref.image).tobytes() == comp.image.tobytes()
    assert (ref.statistics, ref.slope, ref.inter, ref.spacing) == (comp.statistics, comp.slope, comp.inter, comp.spacing)


def test_prepare_redoes_only_what_changed(small, tmp_path):
    folder = write_dataset(tmp_path / "d", 2)
    prepare(read(folder), tmp_path / "p")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "p").glob("*.zip")}
    nibabel.save(nibabel.load(folder / "labelsTr" / "case_001.nii.gz"), folder / "labelsTr" / "case_000.nii.gz")
    prepare(read(folder), tmp_path / "p")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "p").glob("*.zip")}
    assert after["case_001.zip"] == before["case_001.zip"]
    assert after["case_000.zip"] != before["case_000.zip"]


@pytest.mark.parametrize("slicing", SLICINGS)
@pytest.mark.parametrize("context", [0, 2])
def test_the_trainer_feeds_what_the_runtime_feeds(small, slicing, context):
    dataset, prepared = small
    record = replace(RECORD, slicing=slicing, context=context, size=48)
    slices = build(prepared, ["case_000", "case_001"], record, False, "cpu", True)
    start = 0
    for name in slices.names:
        scan = volume.read(dataset.pairs[name][0], 0)
        voxels, _ = volume.to_canonical(scan.voxels, scan.affine, SLICINGS[slicing])
        statistics = measure(voxels, scan.slope, scan.inter)
        for z in range(len(voxels)):
            ref = network_input(voxels, z, record, statistics, scan.slope, scan.inter)
            assert slices.inputs(torch.tensor([start + z]))[0].numpy().tobytes() == ref.tobytes()
        start += len(voxels)
    assert start == len(slices.images)


def test_stripping_takes_the_zscore_anew(small):
    slices = build(small[1], ["case_000"], RECORD, False, "cpu", True)
    assert slices.strips.shape == (1, DEPTHS, 2)
    inside = slices.images[(slices.depths >= 5) & (slices.images > 0)]
    np.testing.assert_allclose(slices.strips[0, 5], [inside.mean(), inside.std(correction=0)], rtol=1e-4)
    index, labels = torch.arange(8), one_hot(slices.labels, 1)
    torch.manual_seed(0)
    only = Augmentation(strip=1.0, strip_depth=(5, 5))
    images, truth = augment(slices.inputs(index), labels, slices.depths, slices.strips[slices.cases], only, (-2.0, 4.0))
    before, kept = slices.images[:, None], (slices.depths >= 5)[:, None] & (slices.images > 0)[:, None]
    mean, sd = slices.strips[0, 5]
    np.testing.assert_allclose(images[kept], (((before[kept] - mean) / sd + 2) / 6).clamp(0, 1), atol=1e-6)
    assert not images[~kept].any()
    assert not truth[(slices.depths < 5)[:, None]].any()
    assert truth.any()


@pytest.mark.parametrize("classes", [1, 3])
def test_augmentation_moves_images_and_labels_together(classes):
    torch.manual_seed(0)
    labels = torch.zeros(6, 32, 32, dtype=torch.uint8)
    labels[:, 10:20, 6:14] = 1
    labels[:, 20:26, 6:14] = 2
    images = torch.stack([labels / 2.0] * 3, 1)
    settings = replace(PAPER.augmentation, flip=0.5)
    moved, truth = augment(images, one_hot(labels, classes), labels, torch.zeros(6, DEPTHS, 2), settings, (-2.0, 4.0))
    assert truth.shape == (6, classes, 32, 32)
    assert not torch.equal(moved, images)
    foreground = truth[:, 0] if classes == 1 else truth[:, 1:].sum(1)
    assert torch.equal(foreground > 0, (moved[:, 1] > 0.25) & (foreground > 0))
    assert float((foreground > 0).float().sum() / ((moved[:, 1] > 0.25).float().sum())) > 0.9


def test_intensities_leave_the_background_alone(small):
    torch.manual_seed(0)
    images = build(small[1], ["case_000"], RECORD, False, "cpu", False).images[:, None]
    strong = replace(STRONG.augmentation, rotate=0.0, zoom=0.0, shift=0.0, flip=0.0, strip=0.0, curve=0.5)
    changed, _ = augment(images, images, images[:, 0], images, strong, (-2.0, 4.0))
    assert not changed[images == 0].any()
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    assert float((changed - images).abs().mean()) > 0.01


def test_losses_against_plain_formulas():
    rng = np.random.default_rng(0)
    p, t = rng.random((2, 1, 5, 5)), rng.integers(0, 2, (2, 1, 5, 5)).astype(float)
    ref = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    entropy = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    assert float(dice_loss(torch.tensor(p), torch.tensor(t))) == pytest.approx(ref)
    assert float(loss(torch.tensor(p), torch.tensor(t), 0.5)) == pytest.approx(ref + 0.5 * entropy)


def test_one_cycle_goes_up_and_comes_down():
    rates = [one_cycle(i / 100) for i in range(101)]
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == pytest.approx(1)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_a_setting_can_be_changed_and_a_wrong_one_says_so():
    assert override(STRONG, ["epochs=7", "augmentation.flip=0"]).augmentation.flip == 0.0
    for change, words in (("epoch=7", "no such setting"), ("epochs=many", "expected a value"), ("epochs=1.5", "expected a value")):
        with pytest.raises(MonetError, match=words):
            override(STRONG, [change])


def test_surface_distances_against_every_pair_of_surface_points():
    rng = np.random.default_rng(0)
    a, b = (np.pad(rng.random((5, 6, 7)) > 0.7, 1) for _ in range(2))
    spacing = (3.0, 1.0, 0.5)

    def surface(mask):
        inside = np.ones_like(mask)
        for axis in range(3):
            for step in (-1, 1):
                inside &= np.roll(mask, step, axis)
        return np.argwhere(mask & ~inside) * spacing

    pairs = np.linalg.norm(surface(a)[:, None] - surface(b)[None], axis=-1)
    directed = pairs.min(1), pairs.min(0)
    ref = max(d.max() for d in directed), max(np.percentile(d, 95) for d in directed)
    assert surface_distances(a, b, spacing) == pytest.approx(ref)
    assert surface_distances(a, np.zeros_like(a), (1, 1, 1))[0] == pytest.approx(np.linalg.norm(a.shape))
    assert surface_distances(np.zeros_like(a), np.zeros_like(a), (1, 1, 1)) == (0.0, 0.0)


def test_missed_and_invented_structures_stay_in_the_mean():
    some, none = np.zeros((3, 4, 4), bool), np.zeros((3, 4, 4), bool)
    some[1, 1:3, 1:3] = True
    scores = [compare("a", "x", t, p, None) for t, p in ((some, some), (some, none), (none, some), (none, none))]
    assert [score.status for score in scores] == ["found", "missed", "invented", "empty"]
    assert [score.dice for score in scores] == [1, 0, 0, 1]
    assert [score.hausdorff for score in scores] == pytest.approx([0, 32**0.5, 32**0.5, 0])
    row = summarise(scores)["x"]
    assert (row["cases"], row["dice"]["mean"], row["unit"]) == (4, 0.5, "px")


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(small, tmp_path):
    part = {"train": ["case_000"], "val": ["case_001"]}
    quick = replace(settings(), recipe=replace(settings().recipe, epochs=1))
    fit(quick, small[1], part, tmp_path / "run", device="cpu")
    assert {"config.json", "splits.json", "metrics.csv", "curves.png", "final.safetensors"} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }
    with pytest.raises(OutputError, match="--resume"):
        fit(quick, small[1], part, tmp_path / "run", device="cpu")
    with pytest.raises(OutputError, match="other settings"):
        fit(replace(quick, seed=1), small[1], part, tmp_path / "run", device="cpu", resume=True)
    with pytest.raises(OutputError, match=r"other settings \(see its splits"):
        fit(quick, small[1], {"train": ["case_001"], "val": ["case_000"]}, tmp_path / "run", device="cpu", resume=True)


@pytest.mark.parametrize("part", [{"train": ["case_000"], "val": ["case_000"]}, {"train": ["x"], "val": ["case_000"]}])
def test_a_split_that_leaks_or_names_strangers_is_refused(small, tmp_path, part):
    with pytest.raises(DatasetError, match="split"):
        fit(settings(), small[1], part, tmp_path / "run", device="cpu")


def test_the_checkpoint_before_a_torn_one_is_used(tmp_path):
    for epoch in range(4):
        checkpoint.keep_epoch(tmp_path, epoch, {"x": torch.full((3,), float(epoch))}, {"epoch": epoch})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-00002.safetensors", "epoch-00003.safetensors"]
    (tmp_path / "epoch-00003.safetensors").write_bytes((tmp_path / "epoch-00003.safetensors").read_bytes()[:-5])
    tensors, state = checkpoint.newest(tmp_path)
    assert (float(tensors["x"][0]), state["epoch"]) == (2.0, 2)
    with pytest.raises(ModelError, match="not an intact"):
        checkpoint.load(tmp_path / "epoch-00003.safetensors")


def _command(prepared, run, splits, *options):
    base = ["fit", str(prepared), "-o", str(run), "--splits", str(splits), "--size", "16", "--device", "cpu", "--deterministic", "--resume"]
    return [*base, "--set", "epochs=5", "--set", "batch=4", *options]


@pytest.mark.parametrize("recipe", ["strong", "paper"])
def test_kill_and_resume_gives_the_same_bits(small, tmp_path, recipe):
    """`kill -9` at random moments; ten in a row were run by hand."""
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps([{"train": ["case_000"], "val": ["case_001"]}]))
    python = [sys.executable, "-m", "trainer.cli"]
    root = Path(__file__).parents[1]
    options = ("--recipe", recipe)
    subprocess.run([*python, *_command(small[1].folder, tmp_path / "whole", splits, *options)], check=True, capture_output=True, cwd=root)
    dice = random.Random(0)
    kills = 0
    for _ in range(5):
        run = subprocess.Popen([*python, *_command(small[1].folder, tmp_path / "torn", splits, *options)], stdout=subprocess.PIPE, cwd=root)
        assert run.stdout is not None
        run.stdout.readline()  # an epoch is done
        time.sleep(dice.random() * 0.2)
        run.send_signal(signal.SIGKILL)
        run.stdout.close()
        kills += run.wait() == -signal.SIGKILL
        if kills:
            break
    assert kills
    subprocess.run([*python, *_command(small[1].folder, tmp_path / "torn", splits, *options)], check=True, capture_output=True, cwd=root)
    assert (tmp_path / "whole" / "final.safetensors").read_bytes() == (tmp_path / "torn" / "final.safetensors").read_bytes()


def test_two_processes_train_one_network(small, tmp_path):
    """DistributedDataParallel over gloo: both see half of every batch, and the run folder is written once."""
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps([{"train": ["case_000", "case_002"], "val": ["case_001"]}]))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainer.cli"]
    done = subprocess.run(
        [*torchrun, *_command(small[1].folder, tmp_path / "run", splits, "--set", "epochs=2")],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.count("train_loss") == 2
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3


def test_a_small_training_learns_exports_and_runs(tmp_path):
    """The whole way on the phantom: fit, fold, measure through the runtime, on patients it has not seen."""
    dataset = read(write_dataset(tmp_path / "data", 10, shape=(10, 64, 64)))
    prepared = prepare(dataset, tmp_path / "prepared")
    (part,) = split(list(prepared.keys))
    calm = Augmentation(rotate=5, zoom=0.1, shift=0.05, flip=0.5, contrast=0.1)
    recipe = replace(STRONG, batch=8, epochs=14, average=0.9, dropout=0.0, augmentation=calm)
    quick = replace(settings(), recipe=recipe, deterministic=False, preprocess=replace(RECORD, size=48))
    fit(quick, prepared, part, tmp_path / "run", device="cpu")
    weights = export(tmp_path / "run", dataset, tmp_path / "phantom.safetensors")
    scores = {engine: list(evaluate(make_model(weights, engine, 1), dataset, part["val"])) for engine in ("runtime", "torch")}
    row = summarise(scores["runtime"])["lesion"]
    assert row["status"]["found"] == 3
    assert row["dice"]["mean"] >= 0.9
    for ref, comp in zip(scores["torch"], scores["runtime"], strict=True):
        assert abs(ref.predicted - comp.predicted) <= 2  # probabilities that differ by 1e-4 at the threshold


def test_oriented_turns_as_the_runtime_does(small):
    dataset, prepared = small
    scan = volume.read(dataset.pairs["case_000"][0], 0)
    for slicing, axes in SLICINGS.items():
        case = oriented(open_prepared(prepared.folder).load("case_000"), slicing)
        np.testing.assert_array_equal(case.image, volume.to_canonical(scan.voxels, scan.affine, axes)[0])
