"""A run remembers its data: other data stops it, later commands measure what was trained, memory that is not there is said in one line."""

import json
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from records import make_record
from synthetic import settings, write_dataset
from test_train_cli import call

from monet_edge import limits, weights
from monet_edge.errors import MonetError, ResourceError
from monet_edge.provenance import Provenance
from monet_train import cases, evaluate, export, train
from monet_train.data import build, memory_of
from monet_train.prepare import open_prepared
from monet_train.splits import read_rule, read_splits
from monet_train.step import TrainStep

QUICK = ["--size", "16", "--device", "cpu", "--set", "epochs=1", "--set", "batch=4", "--quiet"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data set of two channels, and a run on the second one, exported."""
    folder = tmp_path_factory.mktemp("cases")
    write_dataset(folder / "data", 3)
    assert call(folder, "fit", "data", "-o", "run", "--volume", "1", *QUICK) == 0
    assert call(folder, "export", "run", "data", "-o", "m.safetensors") == 0
    return folder


def copy(place, tmp_path):
    """Data and run for a test of its own."""
    for name in ("data", "run"):
        shutil.copytree(place / name, tmp_path / name)
    return tmp_path


def one_line(capsys):
    """What was said last; nothing of it is a traceback."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.splitlines()[-1]


def swap_labels(folder):
    for name in ("case_000", "case_001", "case_002"):
        path = folder / "data" / "labelsTr" / f"{name}.nii.gz"
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine), path)


def exchange_parts(folder):
    """Let a case validate that trained, and the reverse, in the run's own splits.json."""
    path = folder / "run" / "splits.json"
    (split,) = json.loads(path.read_text())
    split["train"][0], split["val"][0] = split["val"][0], split["train"][0]
    path.write_text(json.dumps([split]))


def rename_label(folder):
    path = folder / "data" / "dataset.json"
    path.write_text(path.read_text().replace("lesion", "tumour"))


RESUME = ["fit", "data", "-o", "run", "--resume", "--merge", "lesion", *QUICK]
EXPORT = ["export", "run", "data", "-o", "n.safetensors"]


@pytest.mark.parametrize("words", [RESUME, EXPORT], ids=["resume", "export"])
@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (None, ["--volume", "0"], "it was trained on volume 1, not 0"),
        (swap_labels, [], "the files of 3 of its cases are others now, such as those of case_000"),
        (rename_label, [], "its labels were lesion, and are tumour now"),
        (exchange_parts, [], "its split was another one: case_00"),
    ],
    ids=["channel", "files", "labels", "split"],
)
def test_a_run_does_not_go_on_with_other_data(place, tmp_path, capsys, words, change, more, message):
    folder = copy(place, tmp_path)
    config = json.loads((folder / "run" / "config.json").read_text())
    (folder / "run" / "config.json").write_text(
        json.dumps({**config, "merged": True}, indent=1)
    )  # so that labels' names decide nothing else
    if change is not None:
        change(folder)
    assert call(folder, *words, *more) == 2
    assert message in one_line(capsys)
    assert not (folder / "n.safetensors").exists()


@pytest.mark.parametrize("keys", [{"x": "1"}, {"x": "1", "y": "2", "z": "3"}], ids=["one less", "one more"])
def test_a_case_that_came_or_went_is_a_change(keys):
    then = cases.Cases((0,), ("a",), 5, {"x": "1", "y": "2"}, ("x",))
    assert "the files of 1 of its cases are others now" in cases.changes(then, replace(then, keys=keys))
    assert not cases.changes(then, replace(then))


def test_a_run_goes_on_with_its_own_data_channel_and_split(place, tmp_path):
    folder = copy(place, tmp_path)
    splits, part = folder / "run" / "splits.json", {"train": ["case_001", "case_002"], "val": ["case_000"]}
    splits.write_text(json.dumps([part]))  # as an earlier version would have split
    record = folder / "run" / "cases.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "train": part["train"]}))
    recorded = cases.read(folder / "run")
    assert call(folder, "fit", "data", "-o", "run", "--resume", *QUICK) == 0
    assert cases.read(folder / "run") == recorded
    assert recorded.channels == open_prepared(folder / "run" / "prepared").channels == (1,)
    assert read_splits(splits)[0]["val"] == ["case_000"]


def test_later_commands_measure_the_channel_that_was_trained(place, capsys):
    found = weights.load(place / "m.safetensors").provenance["training"]
    assert (found["channels"], found["split"]) == ([1], "by case")
    assert "**Split** by case:" in (place / "m.md").read_text()
    assert read_rule(place / "m.splits.json") == "by case"
    told = {}
    for name, more in (("default", []), ("one", ["--volume", "1"]), ("zero", ["--volume", "0"])):
        assert call(place, "evaluate", "m.safetensors", "data", "-o", name, *more) == 0
        told[name] = (place / name / "summary.json").read_text()
    assert told["default"] == told["one"] != told["zero"]
    assert call(place, "figures", "m.safetensors", "data", "-o", "figures", "--case", "case_000") == 0
    capsys.readouterr()


def test_a_run_and_weights_without_a_record_mean_channel_0(place, tmp_path, capsys):
    folder = copy(place, tmp_path)
    (folder / "run" / "cases.json").unlink()
    assert cases.run_channels(folder / "run", None) == (0,)
    found = weights.load(place / "m.safetensors")

    def channels(told, asked=None):
        return cases.weights_channels(replace(found, provenance=Provenance(told)), asked)

    assert channels({"training": {}}) == channels({}) == (0,)
    assert [channels({"training": {"channel": value}}) for value in (-1, "1", True, 2)] == [(0,), (0,), (0,), (2,)]
    assert [channels({"training": {"channels": value}}) for value in ([-1], 1, [1, 2], [2])] == [(0,), (0,), (0,), (2,)]
    assert channels({"training": {"channel": 2}}, (0,)) == (0,)
    assert call(folder, "export", "run", "data", "-o", "old.safetensors") == 0
    assert call(folder, "export", "run", "data", "-o", "old.safetensors", "--volume", "1") == 2
    assert "trained on volume 0, not 1" in one_line(capsys)


def test_a_record_that_does_not_say_who_trained_is_enough(place, tmp_path):
    folder = copy(place, tmp_path)
    record = folder / "run" / "cases.json"
    record.write_text(json.dumps({key: value for key, value in json.loads(record.read_text()).items() if key != "train"}))
    assert call(folder, *EXPORT) == 0


def test_a_prepared_folder_has_one_channel(place, capsys):
    assert call(place, "fit", "run/prepared", "-o", "other", "--volume", "0", *QUICK) == 2
    assert "was prepared with --volume 1, not 0" in one_line(capsys)


def sessions(folder, validation=()):
    """Six scans of three patients, named after patient and session."""
    write_dataset(folder, 6, shape=(2, 32, 32))
    about = json.loads((folder / "dataset.json").read_text())
    for i in range(6):
        for part in ("imagesTr", "labelsTr"):
            (folder / part / f"case_{i:03d}.nii.gz").rename(folder / part / f"pat{i // 2}_frame{i % 2}.nii.gz")
    text = json.dumps(about)
    for i in range(6):
        text = text.replace(f"case_{i:03d}", f"pat{i // 2}_frame{i % 2}")
    about = json.loads(text)
    about["validation"] = [entry for entry in about["training"] if any(name in entry["image"] for name in validation)]
    about["training"] = [entry for entry in about["training"] if entry not in about["validation"]]
    (folder / "dataset.json").write_text(json.dumps(about))


def test_who_is_a_patient_is_told_or_it_is_said_that_cases_were_split(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "fit", lambda settings, ready, split, folder, **more: given.append((split, more["rule"])))
    given = []
    sessions(tmp_path / "data")
    loud = [word for word in QUICK if word != "--quiet"]
    assert call(tmp_path, "fit", "data", "-o", "run", "--group", "(.*)_frame", *loud) == 0
    assert "warning" not in capsys.readouterr().err
    assert call(tmp_path, "fit", "data", "-o", "run", *loud) == 0
    assert "warning: split by case, though pat0_frame0 and pat0_frame1 may be of one patient" in capsys.readouterr().err
    assert call(tmp_path, "fit", "data", "-o", "run", "--folds", "3", "--fold", "1", "--group", "(.*)_frame", *loud) == 0
    assert call(tmp_path, "fit", "data", "-o", "run", "--group", "(x", *loud) == 2
    assert "no regular expression" in one_line(capsys)
    (first, rule), (_, by_case), (fold, _) = given
    assert (rule, by_case) == ("by patient: what `(.*)_frame` finds in the names", "by case")
    for part, held in ((first, 1), (fold, 1)):
        patients = {name[:4] for name in part["val"]}
        assert len(patients) == held
        assert not patients & {name[:4] for name in part["train"]}
    (tmp_path / "leak.json").write_text(json.dumps([{"train": ["pat0_frame0"], "val": ["pat0_frame1"]}]))
    assert call(tmp_path, "fit", "data", "-o", "run", "--splits", "leak.json", "--group", "(.*)_", *loud) == 2
    assert "the split has scans of pat0 in both parts" in one_line(capsys)


def test_what_the_command_line_says_is_what_is_trained(place, monkeypatch):
    given = []
    monkeypatch.setattr(train, "fit", lambda settings, ready, split, folder, **more: given.append((settings, more["transfer"])))
    slices = ["--slicing", "coronal", "--context", "1", "--thickness", "3", "--neighbours", "linear", "--spacing", "1.5"]
    intensities = ["--intensity", "percentile", "--low", "1", "--high", "99.5", "--threshold", "0.4"]
    start = ["--from", str(place / "m.safetensors"), "--freeze", "--seed", "3", "--deterministic", "--merge", "all"]
    assert call(place, "fit", "data", "-o", "other", *QUICK, *slices, *intensities, *start) == 0
    ((found, transfer),) = given
    assert found.preprocess == make_record(
        "all", size=16, slicing="coronal", context=1, thickness=3.0, neighbours="linear", spacing=1.5,
        intensity="percentile", low=1.0, high=99.5, threshold=0.4,
    )  # fmt: skip
    assert (found.seed, found.deterministic, found.merged, found.recipe.epochs, found.recipe.batch) == (3, True, True, 1, 4)
    assert (transfer.weights.name, transfer.frozen) == ("m", True)


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        (evaluate, "evaluate", ["evaluate", "m.safetensors", "data"]),
        (evaluate, "evaluate", ["calibrate", "m.safetensors", "data"]),
        (export, "plan", ["export", "run", "data", "-o", "other.safetensors"]),
    ],
    ids=["evaluate", "calibrate", "export"],
)
def test_both_sides_are_one_structure_where_it_is_said(place, capsys, monkeypatch, module, name, words):
    def stop(*given, sides_as_one=None, **_):
        raise MonetError(f"as one: {given[4] if sides_as_one is None else sides_as_one}")

    monkeypatch.setattr(module, name, stop)
    for more, said in (([], "as one: False"), (["--sides-as-one"], "as one: True")):
        assert call(place, *words, "--quiet", *more) == 2
        assert said in one_line(capsys)


def test_what_dataset_json_lists_to_validate_validates(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(train, "fit", lambda settings, ready, split, folder, **more: given.append((split, more["rule"])))
    sessions(tmp_path / "data", ("pat1_frame0", "pat1_frame1"))
    assert call(tmp_path, "fit", "data", "-o", "run", *QUICK) == 0
    ((split, rule),) = given
    assert split["val"] == ["pat1_frame0", "pat1_frame1"]
    assert rule == "as listed in dataset.json"


def test_what_is_not_read_is_said_before_anything_is_done(tmp_path, capsys):
    sessions(tmp_path / "data")
    (tmp_path / "data" / "imagesTr" / "more.nii.gz").touch()
    for words in (["check", "data"], ["prepare", "data", "-o", "prepared"]):
        assert call(tmp_path, *words) == 0
        assert "monet-train: warning: data: imagesTr/more.nii.gz is not read" in capsys.readouterr().err


PART = {"train": ["case_000"], "val": ["case_001"]}


def test_a_training_beyond_the_memory_is_refused_before_it_begins(small, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "available", lambda: 10_000_000)
    wide = replace(settings(), preprocess=replace(settings().preprocess, size=1024))
    with pytest.raises(ResourceError, match=r"a training on 16 slices of 1024x1024, 4 at a time, needs [\d,]+ MB of memory, 10 MB are"):
        train.fit(wide, small[1], PART, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("slicing", ["axial", "coronal", "sagittal"])
def test_the_estimate_counts_the_slices_that_are_held(small, slicing):
    record = replace(settings().preprocess, size=32, slicing=slicing)
    training, validation, held = memory_of(small[1], ["case_000", "case_002"], ["case_001"], record)
    slices = [build(small[1], names, record, False, "cpu", True) for names in (["case_000", "case_002"], ["case_001"])]
    assert (training, validation) == tuple(len(found.images) for found in slices)
    tensors = [tensor for found in slices for tensor in (found.images, found.labels, found.depths)]
    once = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert once <= held <= 2 * once


@pytest.mark.parametrize(
    "fail",
    [
        lambda: torch.empty(1 << 55),
        lambda: np.empty(1 << 55),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")),
    ],
    ids=["CPU", "NumPy", "CUDA"],
)
def test_memory_that_runs_out_while_training_is_one_line(small, tmp_path, monkeypatch, fail):
    monkeypatch.setattr(TrainStep, "epoch", lambda *given: fail())
    with pytest.raises(ResourceError, match=r"the memory ran out while training: .*llocate.*") as raised:
        train.fit(settings(), small[1], PART, tmp_path / "run", device="cpu")
    assert "\n" not in str(raised.value)


def test_another_error_of_pytorch_stays_what_it_is(small, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainStep, "epoch", lambda *given: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        train.fit(settings(), small[1], PART, tmp_path / "run", device="cpu")
