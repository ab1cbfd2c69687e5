"""What `monet-train evaluate` and `export` say of a model: the right label, in true mm and ml, nothing lost, nothing half replaced."""

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import random_tensors
from records import make_record
from test_train_cli import call

from monet_edge import registry, weights
from monet_edge.architectures import monet
from monet_edge.errors import DatasetError, ModelError
from monet_edge.spec import fold_batchnorm
from monet_train import evaluate as scoring
from monet_train import export, figures
from monet_train.cli import app
from monet_train.config import PAPER, STRONG, Settings, effective_settings
from monet_train.dataset import load, read
from monet_train.evaluate import evaluate, make_model
from monet_train.labels import Pair, match
from monet_train.prepare import open_prepared, prepare
from monet_train.provenance import Provenance, Source
from monet_train.scores import compare, surface_distances

TRAINER = Path(__file__).parents[1] / "trainer"
TILTED = np.array([[1.0, 0, 0, 0], [0, 1.0, 0.9, 0], [0, 0, 2.0, 0], [0, 0, 0, 1]])


def make_dataset(folder, labels, affine=None, cases=2, name="data"):
    """Two squares of label 1 and 2 in noise; the last labels have no voxel."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine
    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for i in range(cases):
        mask = np.zeros((32, 32, 4), np.uint8)
        mask[4:12, 6:20, 1:3], mask[18:28, 6 + i : 20, 2:4] = 1, 2
        nibabel.save(nibabel.Nifti1Image(rng.normal(300, 40, mask.shape).astype(np.int16), affine), folder / "imagesTr" / f"c{i}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(np.minimum(mask, len(labels)), affine), folder / "labelsTr" / f"c{i}.nii.gz")
    about = {"name": name, "file_ending": ".nii.gz", "labels": {"background": 0, **{one: i for i, one in enumerate(labels, 1)}}}
    (folder / "dataset.json").write_text(json.dumps(about), "utf-8")
    return read(folder)


def make_weights(path, labels, merged=False):
    spec = fold_batchnorm(monet(classes=1 if len(labels) == 1 else len(labels) + 1, filters=4, depth=1))
    record = make_record(*labels)
    weights.save(path, spec, random_tensors(spec), record, {"training": {"settings": {"merged": merged}}})
    return weights.load(path)


class Oracle:
    """A model that answers with given masks (X, Y, Z), as it numbers labels."""

    def __init__(self, found, masks):
        self.weights, self.masks = found, iter(masks)

    def segment_scan(self, scan, options):
        return type("Result", (), {"mask": next(self.masks), "agreement": ()})


# ---- labels by name ----


def test_labels_are_matched_by_name_whatever_their_numbers(tmp_path):
    """A model that is right scores 1 on a set that numbers the same names another way, and one that has swapped them 0."""
    dataset = make_dataset(tmp_path / "data", ("liver", "spleen", "kidney"))
    found = make_weights(tmp_path / "m.safetensors", ("aorta", "spleen", "liver"))
    truths = [load(dataset, name).label.T for name in dataset.pairs]
    right = [np.choose(truth, [0, 3, 2, 0]).astype(np.uint8) for truth in truths]
    scores = list(evaluate(Oracle(found, right), dataset, list(dataset.pairs)))
    assert {(score.label, score.dice) for score in scores} == {("spleen", 1.0), ("liver", 1.0)}
    swapped = [np.choose(truth, [0, 2, 3, 0]).astype(np.uint8) for truth in truths]
    assert {score.dice for score in evaluate(Oracle(found, swapped), dataset, list(dataset.pairs))} == {0.0}


def test_names_that_one_side_has_are_told_and_not_scored():
    found = match(("liver", "aorta"), ("spleen", "liver"))
    assert found.pairs == (Pair("liver", (1,), (2,)),)
    assert str(found) == "aorta (only the model has it), spleen (only the data set has it)"
    assert not str(match(("a", "b"), ("b", "a")))
    with pytest.raises(DatasetError, match="no label in common: tumour and lesion"):
        match(("tumour",), ("lesion",))


def test_one_label_of_a_model_is_not_all_of_a_data_sets_unless_it_was_merged(tmp_path):
    assert match(("liver",), ("spleen", "liver")).pairs == (Pair("liver", (1,), (2,)),)
    assert match(("anything",), ("spleen", "liver"), merged=True).pairs == (Pair("anything", (1,), (1, 2)),)
    assert make_weights(tmp_path / "m.safetensors", ("all",), merged=True).merged
    assert not make_weights(tmp_path / "o.safetensors", ("all",)).merged


@pytest.mark.parametrize(
    ("model", "data", "pairs"),
    [
        (("X",), ("left X", "right X"), [("X", (1,), (1, 2))]),
        (("Right X", "Y", "left X"), ("Y", "X"), [("X", (1, 3), (2,)), ("Y", (2,), (1,))]),
        (("left X", "right X"), ("right_X", "left_X"), [("X", (1, 2), (1, 2))]),
        (("X", "Y"), ("left X", "Y"), [("Y", (2,), (2,))]),  # half an X is no X
        (("left X", "right X"), ("left X",), [("left X", (1,), (1,))]),
    ],
)
def test_sides_as_one(model, data, pairs):
    found = match(model, data, sides_as_one=True).pairs
    assert sorted((pair.name, pair.predicted, pair.truth) for pair in found) == pairs


@pytest.mark.parametrize("name", registry.shipped())
def test_a_shipped_model_is_compared_as_before(name):
    found = weights.load(name)
    assert not found.merged
    numbers = [(pair.predicted, pair.truth) for pair in match(found.preprocess.labels, found.preprocess.labels).pairs]
    assert numbers == [((i,), (i,)) for i in range(1, len(found.preprocess.labels) + 1)]


def test_pictures_show_the_same_structures_of_both(tmp_path):
    dataset = make_dataset(tmp_path / "data", ("liver", "spleen"))
    model = make_model(make_weights(tmp_path / "m.safetensors", ("aorta", "spleen")), threads=1)
    case = load(dataset, "c0")
    _, truth, predicted = figures.example(model, case, match(("aorta", "spleen"), dataset.labels))
    assert np.array_equal(np.unique(truth), [0, 1])
    assert np.array_equal(truth > 0, (case.label == 2).any(0))
    assert predicted.max() <= 1


# ---- true millilitres and millimetres ----


@pytest.mark.parametrize("prepared", [False, True])
def test_a_tilted_scan_is_measured_in_true_mm_and_ml(tmp_path, prepared):
    """By every pair of surface points in world coordinates; the product of spacings would be a tenth too large."""
    dataset = make_dataset(tmp_path / "data", ("a", "b"), TILTED, 1)
    case = load(dataset, "c0")
    if prepared:
        case = prepare(dataset, tmp_path / "prepared").load("c0")
    image = nibabel.load(dataset.pairs["c0"][1])
    a, b = (np.asanyarray(image.dataobj) == number for number in (1, 2))
    truth, other = case.label == 1, case.label == 2
    score = compare("c0", "a", truth, other, case.steps)

    def surface(mask):
        inside = np.pad(mask, 1)
        inside = np.all([np.roll(inside, step, axis) for axis in range(3) for step in (-1, 1)], 0)[1:-1, 1:-1, 1:-1]
        return nibabel.affines.apply_affine(image.affine, np.argwhere(mask & ~inside))

    pairs = np.linalg.norm(surface(a)[:, None] - surface(b)[None], axis=-1)
    directed = pairs.min(1), pairs.min(0)
    assert score.hausdorff == pytest.approx(max(d.max() for d in directed))
    assert score.hausdorff95 == pytest.approx(max(np.percentile(d, 95) for d in directed))
    assert (score.truth_ml, score.predicted_ml) == pytest.approx((a.sum() * 0.002, b.sum() * 0.002))


@pytest.mark.parametrize("side", [1, -1])
def test_the_diagonal_of_a_tilted_array_is_its_longest(side):
    a = np.zeros((3, 4, 5), bool)
    a[0, 0, 0] = True
    steps = TILTED[:3, :3] * [1, 1, side]  # tilted either way: from the first corner to the last, or across
    corners = np.stack(np.meshgrid([0, 3], [0, 4], [0, 5], indexing="ij"), -1).reshape(-1, 3) @ steps.T
    longest = np.linalg.norm(corners[:, None] - corners[None], axis=-1).max()
    assert surface_distances(a, np.zeros_like(a), steps)[0] == pytest.approx(longest)


# ---- nothing lost, nothing half replaced ----


@pytest.fixture
def measured(tmp_path):
    """A folder with a data set of two cases and a model for it."""
    make_dataset(tmp_path / "data", ("lésion",))
    make_weights(tmp_path / "m.safetensors", ("lésion",))
    return tmp_path


def test_one_damaged_label_costs_one_case(measured, capsys):
    path = measured / "data" / "labelsTr" / "c0.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])
    assert call(measured, "evaluate", "m.safetensors", "data", "-o", "out") == 1
    assert [row.split(",")[0] for row in (measured / "out" / "scores.csv").read_text("utf-8").splitlines()] == ["case", "c1"]
    missing = json.loads((measured / "out" / "missing.json").read_text("utf-8"))
    assert "truncated" in missing["cases"]["c0"]
    said = capsys.readouterr()
    assert "n 1" in said.out
    assert "not scored: c0: " in said.err
    (measured / "data" / "labelsTr" / "c1.nii.gz").write_bytes(b"")
    assert call(measured, "evaluate", "m.safetensors", "data") == 2


def test_what_fails_in_the_midst_of_a_case_is_told_too(measured, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(scoring, "compare", fail)
    failures: dict[str, str] = {}
    model = make_model(weights.load(measured / "m.safetensors"), threads=1)
    assert list(evaluate(model, read(measured / "data"), ["c0", "c1"], failures=failures)) == []
    assert list(failures) == ["c0", "c1"]
    with pytest.raises(MemoryError):
        list(evaluate(model, read(measured / "data"), ["c0"]))


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_scores_are_written_before_they_are_printed(measured, encoding):
    """A terminal that cannot show a name, or no terminal at all, loses no score."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C"}
    command = [sys.executable, "-m", "monet_train.cli", "evaluate", "m.safetensors", "data", "-o", "out"]
    subprocess.run(command, cwd=measured, env=environment, capture_output=True, check=False)
    assert len((measured / "out" / "scores.csv").read_text("utf-8").splitlines()) == 3
    assert list(json.loads((measured / "out" / "summary.json").read_text("utf-8"))) == ["lésion"]


def test_every_text_file_of_the_trainer_has_its_encoding():
    for path in TRAINER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            given = [ast.unparse(one) for one in (*node.args, *(keyword.value for keyword in node.keywords))]
            name, binary = node.func.attr, any(mode in given for mode in ("'rb'", "'ab'", "'wb'"))
            if name in ("read_text", "write_text") or (
                name == "open" and "path" not in given and not binary and "Image" not in ast.unparse(node.func)
            ):
                assert any("utf-8" in one for one in given), f"{path.name}:{node.lineno}"


def test_an_output_that_is_a_file_is_said_before_the_work(measured, capsys, monkeypatch):
    monkeypatch.setattr(scoring, "score", lambda *_, **__: pytest.fail("was segmented"))
    (measured / "file").touch()
    for words in (["evaluate", "m.safetensors", "data"], ["figures", "m.safetensors", "data"], ["prepare", "data"], ["fit", "data"]):
        for output in ("file", "file/sub"):
            assert call(measured, *words, "-o", output) == 2
            assert "file is a file; expected a folder" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_is_said_before_the_work(measured, capsys, monkeypatch):
    monkeypatch.setattr(figures, "example", lambda *_: pytest.fail("was segmented"))
    (measured / "pictures" / "activations.png").mkdir(parents=True)
    assert call(measured, "figures", "m.safetensors", "data", "-o", "pictures") == 2
    assert "activations.png is not a regular file" in capsys.readouterr().err


def test_every_command_has_debug_and_it_shows_the_traceback(measured, capsys):
    assert len(app.registered_commands) >= 9
    for one in app.registered_commands:
        assert "debug" in one.callback.__signature__.parameters, one.callback.__name__
    assert call(measured, "evaluate", "nonsense", "data") == 2
    assert "Traceback" not in capsys.readouterr().err
    assert call(measured, "evaluate", "nonsense", "data", "--debug") == 2
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.splitlines()[-1].startswith("monet-train: nonsense: no such model")


def test_progress_is_told_case_by_case(measured):
    done = []
    model = make_model(weights.load(measured / "m.safetensors"), threads=1)
    list(evaluate(model, read(measured / "data"), ["c0", "c1"], progress=done.append))
    assert done == ["c0", "c1"]


def test_the_fingerprint_knows_heads_stripped_as_deep_as_training_strips_them(tmp_path, monkeypatch):
    """6 to 20 pixels of a slice of 256 are 2 to 5 of the fingerprint's 64."""
    depths, dataset = [], make_dataset(tmp_path / "data", ("a",))
    monkeypatch.setattr(export, "strip_skull", lambda slices, depth, record: depths.append(depth) or slices)
    record = make_record("a", size=256)
    export._fingerprint([load(dataset, "c0")], Settings(dataset="data", net="monet", preprocess=record, recipe=STRONG), True)
    assert depths == [2, 3, 5]


# ---- names of labels ----


@pytest.mark.parametrize("name", ["a\u00a0b", "a\u200cb", "x" * 101], ids=["U+00A0", "U+200C", "long"])
@pytest.mark.parametrize("command", [["check", "data"], ["prepare", "data", "-o", "new"], ["fit", "data", "-o", "new", "--size", "32"]])
def test_a_label_that_no_file_could_hold_is_refused_before_the_training(tmp_path, capsys, command, name):
    make_dataset(tmp_path / "data", ("lesion",))
    about = json.loads((tmp_path / "data" / "dataset.json").read_text("utf-8"))
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({**about, "labels": {"background": 0, name: 1}}), "utf-8")
    assert call(tmp_path, *command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a label's name" in line
    assert not (tmp_path / "new").exists()
    with pytest.raises(ModelError, match="a label's name"):
        make_weights(tmp_path / "m.safetensors", (name,))


def test_many_names_of_any_alphabet_fit_into_a_file(tmp_path):
    """117 Cyrillic ones once made a run's settings too long to be read again; so many of the longest fit, too."""
    from monet_train.config_text import from_json, to_json

    for names in (tuple(f"структура мозга {i}" for i in range(117)), tuple(f"{i:03d}" + "😀" * 97 for i in range(255))):
        settings = Settings(dataset="d", net="monet", preprocess=make_record(*names), recipe=STRONG)
        assert from_json(to_json(settings)) == settings
        spec = fold_batchnorm(monet(classes=len(names) + 1, filters=4, depth=1))
        record = Provenance((Source("d", "", "", ""),), settings, 1).to_record()
        weights.save(tmp_path / "m.safetensors", spec, random_tensors(spec), settings.preprocess, record)
        assert weights.load(tmp_path / "m.safetensors").preprocess.labels == names


# ---- provenance ----


def settings_of(intensity="window", context=0, recipe=STRONG, net="monet"):
    low, high = {"window": (0.0, 255.0), "zscore": (-3.0, 5.0), "percentile": (1.0, 99.0)}[intensity]
    record = make_record("a", context=context, intensity=intensity, low=low, high=high)
    return Settings(dataset="d", net=net, preprocess=record, recipe=recipe)


@pytest.mark.parametrize(("intensity", "skull_strip"), [("window", 0.0), ("percentile", 0.0), ("zscore", 0.5)])
@pytest.mark.parametrize(("context", "drop_context"), [(0, 0.0), (1, 0.1)])
def test_a_provenance_claims_the_augmentation_that_ran(intensity, skull_strip, context, drop_context):
    settings = settings_of(intensity, context)
    told = Provenance((Source("d", "", "", ""),), settings, 3).to_record()["training"]["settings"]["recipe"]
    assert (told["augmentation"]["skull_strip"], told["augmentation"]["drop_context"]) == (skull_strip, drop_context)
    assert told["augmentation"]["rotate"] == STRONG.augmentation.rotate


def test_a_provenance_claims_no_decay_of_an_optimiser_without():
    assert effective_settings(settings_of(recipe=replace(PAPER, weight_decay=0.1))).recipe.weight_decay == 0
    assert effective_settings(settings_of(recipe=STRONG)).recipe.weight_decay == STRONG.weight_decay


def test_a_provenance_of_several_sources_hides_none_of_their_licences():
    sources = (Source("a", "x", "CC BY 4.0", "MRI"), Source("b", "x", "", "MRI"))
    record = Provenance(sources, settings_of(), 1).to_record()
    assert record["licence"] == record["data"]["licence"] == "CC BY 4.0; not stated"
    assert (record["data"]["name"], record["data"]["reference"], record["modality"]) == ("a; b", "x", "MRI")


@pytest.mark.parametrize("change", [{"sources": ()}, {"epochs": 0}, {"training": {"settings": 1}}, {"more": {"licence": "mine"}}])
def test_a_provenance_that_is_none_is_refused(change):
    with pytest.raises(ModelError):
        Provenance(**{"sources": (Source("d", "", "", ""),), "settings": settings_of(), "epochs": 1, **change})
    with pytest.raises(ModelError, match="cannot tell"):
        Provenance((Source("d", "", "", ""),), settings_of(), 1, {"loss": float("nan")}).to_record()
    with pytest.raises(ModelError, match="printable"):
        Source("d", "", "two\nlines", "")


def test_no_line_break_in_a_licence_makes_a_training_worthless(tmp_path):
    dataset = replace(make_dataset(tmp_path / "data", ("a",)), licence="CC\u00a0BY\n4.0", name="d\u200cata")
    settings = replace(settings_of(), dataset=dataset.name)
    record = Provenance((Source.of(dataset),), settings, 1, {"command": "a\u00a0b"}).to_record()
    assert record["licence"] == "CC BY 4.0"
    spec = fold_batchnorm(monet(filters=4, depth=1))
    weights.save(tmp_path / "m.safetensors", spec, random_tensors(spec), settings.preprocess, record)


def test_a_prepared_folder_knows_its_modality(tmp_path):
    dataset = replace(make_dataset(tmp_path / "data", ("a",)), modalities=("CT",))
    prepare(dataset, tmp_path / "prepared")
    assert Source.of(open_prepared(tmp_path / "prepared")).modality == "CT"
