"""monet-train as its user meets it: a mistake is one clear line and exit status 2, never a traceback; what a card says is so."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import write_dataset

from monet_edge import phantom, weights
from monet_edge.errors import MonetError
from monet_edge.files import locked
from monet_train import fold
from monet_train.cli import main
from monet_train.fold import fold_tensors


def call(folder, *words):
    """The exit status of a command that is called in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["monet-train", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    return ended.value.code


@pytest.fixture(scope="session")
def place(tmp_path_factory, small):
    """A folder with a data set, its prepared form, a finished run, and faulty ones of each."""
    folder = tmp_path_factory.mktemp("wrong")
    write_dataset(folder / "data")
    (folder / "prepared").symlink_to(small[1].folder)
    for name, text in (
        ("nolabels", '{"labels": {"background": 0, "lesion": 1}}'),
        ("badlist", '{"training": [{"label": 3}]}'),
        ("notjson", "{"),
        ("notobject", "[]"),
    ):
        (folder / name).mkdir()
        (folder / name / "dataset.json").write_text(text)
    (folder / "nolabels" / "imagesTr").symlink_to(folder / "data" / "imagesTr")
    (folder / "phantom").symlink_to("data")  # by the name in its dataset.json
    phantom.write_dataset(folder / "other", 2, shape=(6, 32, 32))
    about = json.loads((folder / "other" / "dataset.json").read_text())
    (folder / "other" / "dataset.json").write_text(json.dumps({**about, "name": "other"}))
    splits = {"strangers": [{"train": ["case_000"], "val": ["Smith"]}], "leak": [{"train": ["case_000"], "val": ["case_000"]}]}
    splits["folds"] = [{"train": ["case_000"], "val": ["case_001"]}, {"train": ["case_001"], "val": ["case_000"]}]
    for name, found in {**splits, "lists": [{"train": [["case_000"]], "val": []}], "nothing": 1}.items():
        (folder / f"{name}.json").write_text(json.dumps(found))
    (folder / "file").touch()
    (folder / "lost").mkdir()
    for part in ("imagesTr", "labelsTr"):
        (folder / "lost" / part).symlink_to(folder / "data" / part)
    about = json.loads((folder / "data" / "dataset.json").read_text())
    (folder / "lost" / "dataset.json").write_text(json.dumps({**about, "spacing": "unknown"}))
    shutil.copytree(folder / "other", folder / "renamed")
    about = json.loads((folder / "other" / "dataset.json").read_text())
    (folder / "renamed" / "dataset.json").write_text(json.dumps({**about, "labels": {"background": 0, "growth": 1}}))
    assert call(folder, "fit", "prepared", "-o", "run", *QUICK, "--quiet") == 0
    for name, missing in (("unfinished", "final.safetensors"), ("unknown", "config.json")):
        (folder / name).mkdir()
        for path in (folder / "run").iterdir():
            if path.name != missing:
                (folder / name / path.name).symlink_to(path)
    return folder


ROOT = str(Path(__file__).parents[1])
QUICK = ["--size", "16", "--device", "cpu", "--set", "epochs=1"]
FIT = ["fit", "prepared", "-o", "new", *QUICK]
NOBODY_KNOWS = ["fit", "lost", "-o", "new", *QUICK]  # what a voxel measures


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "nowhere"], "no readable dataset.json"),
        (["check", "nowhere"], 'The least that such a file says is {"labels": {"background": 0, "lesion": 1}}'),
        (["check", "notjson"], "not JSON"),
        (["check", "notobject"], "expected a JSON object"),
        (["check", "nolabels"], "has no labels in labelsTr"),
        (["check", "badlist"], "training must list every case"),
        (["prepare", "data", "-o", "file"], "file is a file; expected a folder"),
        (["prepare", "data", "-o", "new", "--volume", "7"], "has no volume 7"),
        (["prepare", "data", "-o", "new", "--channel", "7"], "has no volume 7"),  # its name of before
        ([*FIT, "--net", "resnet"], "expected one of monet"),
        ([*FIT, "--recipe", "best"], "expected one of paper, strong"),
        ([*FIT, "--set", "batch=0"], "batch must be at least 1"),
        ([*FIT, "--set", "schedule=cosine"], "schedule must be plateau or one-cycle"),
        ([*FIT, "--set", "augmentation.skull_strip_depth=[9]"], "two whole numbers"),
        ([*FIT, "--set", "augmentation.flip=-1"], "flip must be at least 0"),
        ([*FIT, "--size", "30"], "divides by 4"),
        ([*FIT, "--low", "9"], "low must be below high"),
        ([*FIT, "--spacing", "wide"], "--spacing wide: expected a number of mm, or auto"),
        ([*FIT, "--spacing", "-1"], "spacing and thickness must be 0, or 0.001 to 1000 mm"),
        ([*FIT, "--thickness", "2"], "give --context too"),
        ([*FIT, "--context", "1", "--thickness", "2", "--neighbours", "cubic"], "neighbours must be one of nearest, linear"),
        ([*NOBODY_KNOWS, "--spacing", "auto"], "there is no median for --spacing auto"),
        ([*NOBODY_KNOWS, "--spacing", "1"], "no model in millimetres can be trained on it"),
        ([*NOBODY_KNOWS, "--context", "1", "--thickness", "1"], "no model in millimetres can be trained on it"),
        ([*FIT, "--device", "gpu"], "device gpu: expected one of cpu"),
        ([*FIT, "--fold", "3"], "there are 1 splits"),
        ([*FIT, "--splits", "nowhere.json"], "nowhere.json: cannot be read"),
        ([*FIT, "--splits", "nothing.json"], "expected a list of splits"),
        ([*FIT, "--splits", "lists.json"], "expected a list of splits"),
        ([*FIT, "--splits", "strangers.json"], "such as Smith"),
        ([*FIT, "--splits", "leak.json"], "case_000 in both parts"),
        (["fit", "prepared", "-o", "file", *QUICK], "file"),
        ([*FIT, "--mix", "0.5"], "--mix: keeps what --from brings; give it too"),
        ([*FIT, "--freeze"], "--freeze: keeps what --from brings; give it too"),
        (["fit", "prepared", "-o", "run", *QUICK], "holds a run already"),
        (["fit", "prepared", "-o", "run", *QUICK, "--seed", "1", "--resume"], "other settings"),
        (["export", "nowhere", "data", "-o", "m.safetensors"], "cannot be read"),
        (["export", "unknown", "data", "-o", "m.safetensors"], "config.json: cannot be read"),
        (["export", "unfinished", "data", "-o", "m.safetensors"], "not finished"),
        (["export", "run", "data", "-o", "m.safetensors", "--codes", "notjson/dataset.json"], "no JSON"),
        (["export", "run", "data", "-o", "m.safetensors", "--codes", "notobject/dataset.json"], "codes: there are none for"),
        (["export", "run", "data", "-o", "m.bin"], "ends in .safetensors"),
        (["export", "run", "data", "-o", "run/final.safetensors"], "a checkpoint of the run"),
        (["export", "run", "data", "-o", "nowhere/m.safetensors"], "a folder that exists"),
        (["export", "run", "other", "-o", "m.safetensors"], "there is no case case_00"),
        (["evaluate", "data", "data"], "expected one .safetensors file in this folder"),
        (["evaluate", "nowhere.safetensors", "data"], "no such file"),
        (["evaluate", "nonsense", "data", "--engine", "gpu"], "expected one of runtime, torch"),
        (["evaluate", "nonsense", "data", "--splits", "folds.json"], "there are 2 splits; say --fold 0 to 1"),
        (["evaluate", "nonsense", "data", "--splits", "folds.json", "--fold", "2"], "there are 2 splits"),
        (["evaluate", "nonsense", "data", "--fold", "0"], "--splits, which is not given"),
        (["figures", "nonsense", "data", "-o", "new"], "no such model"),
        (["federated", "data", "data", "-o", "new"], "need different names"),
        (["federated", "data", "nowhere", "-o", "new"], "no readable dataset.json"),
        (["federated", "data", "other", "-o", "new", "--set", "federated.compression=zip"], "compression zip"),
        (["federated", "data", "other", "-o", "new", "--set", "federated.minimum=3"], "cannot come from 2 sites"),
        (["federated", "data", "other", "-o", "new", "--size", "30"], "divides by 4"),
        (["federated", "data", "renamed", "-o", "new"], "has the labels growth, the training lesion"),
        (["federated", "data", "other", "-o", "new", "--device", "gpu"], "device gpu"),
        (["federated", "data", "other", "-o", "new", "--like", "run", "--set", "epochs=2"], "--like"),
        (["federated", "data", "other", "-o", "new", "--set", "federated.speed=3"], "no such setting; there are rounds, epochs"),
        (
            ["federated", "data", "other", "-o", "new", "--set", "federated.rounds=0"],
            "--set federated.rounds=0: rounds must be more than 0",
        ),
        (["federated", "data", "other", "-o", "new", "--set", "federated.sites=3"], "there are 2 sites"),
        (["federated", "data", "nowhere", "-o", "new", "--set", "epochs=3"], "federated.rounds times federated.epochs"),
        (["federated-server", "run", "-o", "new", "--sites", "2", "--set", "batch=8"], "expected federated.NAME=VALUE"),
        (["federated-server", "run", "-o", "new", "--sites", "2", "--host", "0.0.0.0"], "other machines"),
        (["federated-site", "far.example:8000", "prepared", "-o", "new", "--name", "a"], "another machine"),
        (["federated-server", "nowhere", "-o", "new", "--sites", "2"], "cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line(place, capsys, words, message):
    if words[0].startswith("federated"):
        pytest.importorskip("flwr", reason="the extra federated is not installed")
    assert call(place, *words) == 2
    *before, last = capsys.readouterr().err.splitlines()
    assert last.startswith("monet-train: ")
    assert message in last
    assert all(line.startswith(("training ", "preparing ")) for line in before)


def test_an_error_cannot_steer_the_terminal_and_spells_options_as_they_are_typed(place, capsys, monkeypatch):
    assert call(place, "check", "\x1b[31mred") == 2
    assert "monet-train: ?[31mred: no readable dataset.json" in capsys.readouterr().err

    def fail():
        raise MonetError("there already", "Choose another {output}.")

    monkeypatch.setattr("monet_train.cli.app", fail)
    assert call(place) == 2
    assert capsys.readouterr().err == "monet-train: there already. Choose another --output.\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "extra", "words"),
    [
        ("torch", "train", FIT),
        ("scipy", "train", FIT),
        ("flwr", "federated", ["federated", "data", "other", "-o", "new"]),
        ("onnxruntime", "onnx", ["export", "run", "phantom", "-o", "new.safetensors", "--onnx", "new.onnx"]),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(place, module, extra, words):
    code = f"import sys; sys.modules[{module!r}] = None; from monet_train.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=place, env={**os.environ, "PYTHONPATH": ROOT}
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(f"is not installed: pip install 'monet-edge[{extra}]'")


@pytest.fixture(scope="module")
def released(place):
    """The folder again, with what `export` made of the run: two scans to train on, another data set to measure on too."""
    assert call(place, "export", "run", "phantom", "-o", "two.safetensors", "--also", "other", "--note", "Hardly trained.") == 0
    return place


def test_a_model_in_millimetres_goes_all_the_way(place, capsys):
    """The phantoms measure 0.9 mm, 5 between slices: the median of the former is what auto says; measured, drawn and told by its card."""
    words = ["--size", "32", "--spacing", "auto", "--context", "1", "--thickness", "5", "--neighbours", "linear", "--no-lone"]
    assert call(place, "fit", "prepared", "-o", "mm", *QUICK, *words, "--quiet") == 0
    assert call(place, "export", "mm", "phantom", "-o", "mm.safetensors") == 0
    record = weights.load(place / "mm.safetensors").preprocess
    assert (record.spacing, record.thickness, record.neighbours, record.lone) == (0.9, 5.0, "linear", False)
    card = (place / "mm.md").read_text()
    assert "slices of 0.9 mm a pixel, in tiles of 32x32, each with 1 neighbours on either side, 5 mm apart (linear)" in card
    assert call(place, "figures", "mm.safetensors", "phantom", "-o", "drawn") == 0
    assert (place / "drawn" / "overlays.png").exists()
    assert call(place, "evaluate", "mm.safetensors", "lost") == 2
    assert "says that the spacing is unknown, and mm works in millimetres" in capsys.readouterr().err


def test_a_release_is_told_in_its_card(released):
    found, text = weights.load(released / "two.safetensors"), (released / "two.md").read_text()
    assert found.fingerprint is None  # two scans are too few for one
    assert list(found.provenance["metrics"]) == ["phantom, validation", "other"]
    assert found.sha256 in text
    assert "- Hardly trained.\n" in text


def test_the_commands_in_a_card_give_its_figures(released):
    found = weights.load(released / "two.safetensors").provenance["metrics"]
    commands = re.findall(r"^    monet-train (evaluate .*)$", (released / "two.md").read_text(), re.MULTILINE)
    for command, told in zip(commands, found.values(), strict=True):
        assert call(released, *shlex.split(command), "-o", "measured") == 0
        measured = json.loads((released / "measured" / "summary.json").read_text())
        assert [{"dice": case["dice"]} for case in measured["lesion"].pop("worst")] == told["lesion"].pop("worst")
        assert measured == told


def test_patients_are_named_only_if_asked(released):
    def names(path):
        return re.findall(rb"case_\d+|phantom_\d+", path.read_bytes())

    assert not names(released / "two.safetensors")
    assert not names(released / "two.md")
    assert names(released / "two.splits.json")
    label, code = *weights.load(released / "two.safetensors").preprocess.labels, ["85756007", "SCT", "Tissue"]
    (released / "codes.json").write_text(json.dumps({label: {"category": code, "type": code}, "another": {}}))
    assert call(released, "export", "run", "phantom", "-o", "named.safetensors", "--name-cases", "--codes", "codes.json") == 0
    assert weights.load(released / "named.safetensors").provenance.codes == {label: {"category": code, "type": code}}
    assert names(released / "named.safetensors")
    assert names(released / "named.md")


def test_a_release_goes_into_an_onnx_file_and_a_hubs_folder(released):
    words = ["--name-cases", "--onnx", "two.onnx", "--hub", "hub"]
    assert call(released, "export", "run", "phantom", "-o", "hubbed.safetensors", *words) == 0
    assert (released / "two.onnx").stat().st_size > 10_000
    assert (released / "hub" / "preview.png").read_bytes().startswith(b"\x89PNG")
    assert (released / "hub" / "hubbed.safetensors").read_bytes() == (released / "hubbed.safetensors").read_bytes()
    assert call(released, "export", "run", "phantom", "-o", "again.safetensors", "--onnx", "two.bin") == 2
    assert call(released, "export", "run", "phantom", "-o", "again.safetensors", "--hub", "hub") == 2  # another model's
    assert not (released / "again.safetensors").exists()


def test_a_fold_is_measured_on_its_own_patients(released):
    assert call(released, "evaluate", "two.safetensors", "phantom", "--splits", "folds.json", "--fold", "1", "-o", "fold") == 0
    assert [row.split(",")[0] for row in (released / "fold" / "scores.csv").read_text().splitlines()] == ["case", "case_000"]


def test_two_data_sets_of_one_name_are_refused(released, capsys):
    """The second one's figures would replace the first one's."""
    (released / "again").symlink_to("other")
    assert call(released, "export", "run", "phantom", "-o", "x.safetensors", "--also", "other", "--also", "again") == 2
    assert "two of the data sets are called other" in capsys.readouterr().err
    assert not list(released.glob("x.*"))


def test_no_score_comes_from_scans_that_trained(released, capsys):
    """Its own data set, or another folder with links to its scans, beside which stood a Dice of cases that trained."""
    (released / "linked").mkdir()
    for part in ("imagesTr", "labelsTr"):
        (released / "linked" / part).symlink_to(released / "phantom" / part)
    about = json.loads((released / "phantom" / "dataset.json").read_text())
    (released / "linked" / "dataset.json").write_text(json.dumps({**about, "name": "linked"}))
    for also in ("phantom", "linked"):
        assert call(released, "export", "run", "phantom", "-o", "x.safetensors", "--also", also) == 2
        assert f"{also}: the run was trained on 2 of its scans, such as case_00" in capsys.readouterr().err
    assert not list(released.glob("x.*"))


def test_a_failed_export_leaves_the_release_before_it(released, capsys):
    """Measured first, then replaced, all three files or none: a damaged scan of the last data set costs nothing."""
    phantom.write_dataset(released / "damaged", 2, shape=(6, 32, 32))
    path = sorted((released / "damaged" / "labelsTr").iterdir())[-1]
    path.write_bytes(path.read_bytes()[:-9])
    about = json.loads((released / "damaged" / "dataset.json").read_text())
    (released / "damaged" / "dataset.json").write_text(json.dumps({**about, "name": "damaged"}))
    before = {path.name: path.read_bytes() for path in released.glob("two.*")}
    assert call(released, "export", "run", "phantom", "-o", "two.safetensors", "--also", "damaged", "--note", "Other.") == 2
    assert "truncated" in capsys.readouterr().err
    (released / "in.md").mkdir()
    assert call(released, "export", "run", "phantom", "-o", "in.safetensors") == 2
    assert "in.md is not a regular file" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in released.glob("two.*")} == before
    assert [path.name for path in released.glob("in.*")] == ["in.md"]


def test_two_fits_into_one_folder_are_refused(place, capsys):
    with locked(place / "held"):
        assert call(place, "fit", "prepared", "-o", "held", *QUICK, "--quiet") == 2
    assert "held: another process works in this folder" in capsys.readouterr().err
    assert call(place, "fit", "prepared", "-o", "held", *QUICK, "--quiet") == 0


def test_a_file_that_differs_from_pytorch_is_not_written(released, capsys, monkeypatch):
    def broken(*given):
        return {name: tensor + 1 for name, tensor in fold_tensors(*given).items()}

    monkeypatch.setattr(fold, "fold_tensors", broken)
    before = (released / "two.safetensors").read_bytes()
    for name in ("broken", "two"):
        assert call(released, "export", "run", "phantom", "-o", f"{name}.safetensors") == 2
        assert "differ from PyTorch's" in capsys.readouterr().err
    assert not list(released.glob("broken*"))
    assert (released / "two.safetensors").read_bytes() == before


def test_a_site_waits_as_long_as_it_is_told(place, monkeypatch):
    pytest.importorskip("flwr", reason="the extra federated is not installed")
    from monet_train.federated import launch

    given = []
    monkeypatch.setattr(launch, "join", lambda *_, wait, **__: given.append(wait))
    for more in ([], ["--wait", "7"]):
        assert call(place, "federated-site", "127.0.0.1:9", "prepared", "-o", "new", "--name", "a", "--quiet", *more) == 0
    assert given == [3600, 7]
