"""The module of 3D Slicer without 3D Slicer: what it runs is run, what it asks Slicer for is answered by a stand-in."""

import ast
import importlib
import re
import sys
import time
import types
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
from processes import HANGS

from monet_edge import formats, load, phantom, registry, weights
from monet_edge.options import Options
from monet_edge.volume.labels import COLOURS

SLICER = Path(__file__).parents[1] / "slicer"
MODULE = SLICER / "MonetEdge"
# What of slicer.util the module may use, as its documentation has it (slicer.readthedocs.io, developer guide, slicer.util)
UTIL = {"pip_install", "exportNode", "loadSegmentation", "tryWithErrorDisplay", "confirmOkCancelDisplay", "errorDisplay"}


@pytest.fixture
def runner(monkeypatch):
    monkeypatch.syspath_prepend(str(MODULE))
    return importlib.import_module("MonetEdgeLib.runner")


@pytest.fixture
def head(tmp_path):
    path = tmp_path / "a head.nii.gz"
    phantom.save(phantom.make(1, (6, 64, 64))[0], path)
    return path


def finish(poll):
    end = time.monotonic() + HANGS
    while time.monotonic() < end:
        found = poll()
        if found is not None:
            return found
        time.sleep(0.02)
    raise TimeoutError


def test_it_knows_the_models_their_labels_and_colours(runner):
    models, ending = runner.about(sys.executable)
    assert {one.name: [name for name, _ in one.labels] for one in models} == {
        name: list(weights.load(path).preprocess.labels) for name, path in registry.shipped().items()
    }
    assert models[0].labels[0][1] == tuple(part / 255 for part in COLOURS[0])
    assert {one.name: one.binary for one in models}["hippocampus"] is False
    assert ending == (".seg.nrrd" if ".seg.nrrd" in formats.ENDINGS else ".nii.gz")


def test_a_run_gives_the_commands_mask(runner, head, tmp_path):
    run = runner.Run(runner.command(sys.executable, head, tmp_path / "mask.nii.gz", "brain-flair", 0.3))
    lines = finish(lambda: run.lines if run.read()[1] else None)
    assert "Research use only, not a medical device." in lines
    expected = load("brain-flair").segment_scan(formats.read(head), Options(threshold=0.3))
    assert np.array_equal(formats.read(tmp_path / "mask.nii.gz").voxels, expected.mask)
    assert runner.warnings(lines) == list(expected.warnings)


def test_what_fails_says_why(runner, head, tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(head.read_bytes()[:3000])
    run = runner.Run(runner.command(sys.executable, broken, tmp_path / "mask.nii.gz", "brain-flair"))
    with pytest.raises(runner.RunError, match=r"^.*broken.nii.gz: .*truncated. Copy it again.$"):
        finish(lambda: True if run.read()[1] else None)
    with pytest.raises(runner.RunError, match="No module named"):
        runner.about(bare(tmp_path))


def bare(folder):
    """A Python without monet-edge."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_a_run_can_be_stopped(runner, tmp_path):
    run = runner.Run([sys.executable, "-c", "import time; print('begun'); time.sleep(600)"])
    finish(lambda: True if "begun" in run.lines or run.read()[0] else None)
    run.stop()
    with pytest.raises(runner.RunError):  # it has not ended by itself
        finish(lambda: True if run.read()[1] else None)


def test_an_old_slicer_is_refused_in_one_line(runner):
    runner.demand_python((3, 11))
    with pytest.raises(runner.RunError, match=r"^this 3D Slicer has Python 3.9, monet-edge needs 3.11 or newer"):
        runner.demand_python((3, 9))


def test_it_installs_without_pytorch(runner):
    assert runner.requirements() == ["monet-edge>=0.1,<0.2"]
    assert runner.requirements("/wheels") == ["--no-index", "--find-links", "/wheels", "monet-edge>=0.1,<0.2"]
    assert "[" not in runner.REQUIREMENT  # no extra, of which one would bring PyTorch


class Base:
    """Stands for Slicer's base classes."""

    def __init__(self, parent=None):
        self.parent = parent


@pytest.fixture
def module(runner, monkeypatch, tmp_path):
    """The module, with a stand-in for Slicer that writes and reads files."""
    slicer = MagicMock()
    slicer.app.temporaryPath = str(tmp_path)
    names = ("ScriptedLoadableModule", "ScriptedLoadableModuleLogic", "ScriptedLoadableModuleTest", "ScriptedLoadableModuleWidget")
    bases = types.SimpleNamespace(**{name: type(name, (Base,), {}) for name in names})
    for name, stand_in in {"slicer": slicer, "slicer.ScriptedLoadableModule": bases, "qt": MagicMock(), "ctk": MagicMock()}.items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    monkeypatch.delitem(sys.modules, "MonetEdge", raising=False)
    return importlib.import_module("MonetEdge")


@pytest.mark.parametrize("ending", [".nii.gz", *({".seg.nrrd"} & set(formats.ENDINGS))])
def test_a_volume_becomes_a_segmentation_with_names_and_colours(module, runner, head, tmp_path, ending):
    util = module.slicer.util
    util.exportNode.side_effect = lambda node, path: bool(Path(path).write_bytes(head.read_bytes()))
    segment, read = MagicMock(), []
    segment.GetLabelValue.return_value = 1
    node = util.loadSegmentation.return_value
    util.loadSegmentation.side_effect = lambda path: read.append(formats.read(Path(path))) or node
    node.GetSegmentation().GetNumberOfSegments.return_value = 1
    node.GetSegmentation().GetNthSegment.return_value = segment
    logic = module.MonetEdgeLogic()
    logic.python = lambda: sys.executable
    logic.ask()
    logic.ending = ending
    volume = MagicMock()
    volume.GetName.return_value = "FLAIR"
    logic.start(volume, logic.models[0], 0.5)
    assert logic.isRunning()
    assert finish(logic.poll) is node
    assert read[0].shape == (64, 64, 6)
    node.SetName.assert_called_once_with("FLAIR brain-flair")
    node.SetReferenceImageGeometryParameterFromVolumeNode.assert_called_once_with(volume)
    if ending == ".nii.gz":
        segment.SetName.assert_called_once_with("tumour")
        segment.SetColor.assert_called_once_with(*(part / 255 for part in COLOURS[0]))
    assert not logic.isRunning()
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []  # its files are gone


def test_a_failed_run_leaves_nothing(module, runner, head, tmp_path):
    module.slicer.util.exportNode.side_effect = lambda node, path: bool(Path(path).write_bytes(head.read_bytes()[:2000]))
    logic = module.MonetEdgeLogic()
    logic.python = lambda: sys.executable
    logic.ending = ".nii.gz"
    logic.start(MagicMock(), types.SimpleNamespace(name="brain-flair"))
    with pytest.raises(runner.RunError, match="truncated"):
        finish(logic.poll)
    assert not logic.isRunning()
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_the_panel_is_built_and_its_button_installs_segments_and_stops(module, monkeypatch):
    widget = module.MonetEdgeWidget()
    widget.layout = MagicMock()
    module.ScriptedLoadableModuleWidget.setup = lambda self: None
    widget.setup()
    assert widget.apply.text == "Install monet-edge"
    widget.logic.models = [module.runner.Model("m", "CT", "CC0", True, 0.4, (("liver", (1, 0, 0)),))]
    widget.refresh()
    assert widget.apply.text == "Segment"
    widget.onModel(0)
    assert (widget.threshold.value, widget.facts.text) == (0.4, "liver. CC0")
    widget.logic._run = MagicMock()
    widget.refresh()
    assert widget.apply.text == "Stop"
    widget.onApply()
    assert widget.apply.text == "Segment"


def test_its_form_is_that_of_a_scripted_module():
    tree = ast.parse((MODULE / "MonetEdge.py").read_text())
    classes = {node.name: [ast.unparse(base) for base in node.bases] for node in tree.body if isinstance(node, ast.ClassDef)}
    assert classes == {f"MonetEdge{part}": [f"ScriptedLoadableModule{part}"] for part in ("", "Widget", "Logic", "Test")}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "slicer.util"}
    assert used == UTIL


def test_the_build_lists_the_files_that_are_there():
    text = (MODULE / "CMakeLists.txt").read_text().replace("${MODULE_NAME}", "MonetEdge")
    listed = {word for word in re.findall(r"\S+", text) if word.endswith((".py", ".png"))}
    listed = {word for word in listed if "/" in word or word == "MonetEdge.py"}
    there = {path.relative_to(MODULE).as_posix() for path in MODULE.rglob("*") if path.suffix in (".py", ".png")}
    assert listed == there
    top = (SLICER / "CMakeLists.txt").read_text()
    for needed in ("find_package(Slicer REQUIRED)", "add_subdirectory(MonetEdge)", "EXTENSION_DEPENDS", "EXTENSION_CPACK"):
        assert needed in top


def test_the_part_without_slicer_needs_the_standard_library_alone():
    tree = ast.parse((MODULE / "MonetEdgeLib" / "runner.py").read_text())
    names = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names)
