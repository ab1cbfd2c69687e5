"""The house rules that a machine can hold: which module may import which, and what is light."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import monet_edge

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "monet_edge"
# Lower floors never import higher ones; a module may import what stands before it. A room (a folder) stands above its own modules.
FLOORS = [
    ["about", "errors", "text", "system", "sides"],
    ["spec", "files", "terminal", "limits", "options", "anatomy", "codes", "quality", "tiles"],
    ["streams.deflate", "streams.numerals"],
    ["streams.packing"],
    ["streams.stream"],
    ["streams.ahead"],
    ["streams"],
    ["architectures", "nnunet.networks", "nnunet.record", "postprocess", "flip", "extent"],
    ["nnunet.resample"],
    ["engine.codegen.simd", "engine.codegen.cache"],
    ["engine.codegen.amx"],
    ["engine.codegen.step", "engine.codegen.layout", "engine.codegen.memory", "engine.codegen.gemm"],
    ["engine.codegen.epilogue", "engine.codegen.transforms", "engine.codegen.interpreter"],
    ["engine.codegen.jit"],
    ["engine.codegen"],
    ["engine.threads", "engine.voxels.stored"],
    ["engine.voxels.lines"],
    ["engine.voxels.halves"],
    ["engine.voxels.kernels"],
    ["engine.voxels.sorted", "engine.voxels.slices"],
    ["engine.voxels"],
    ["volume.voxels", "volume.labels", "volume.orientation"],
    ["volume.geometry"],
    ["volume.scan"],
    ["volume"],
    ["intensities"],
    ["preprocess"],
    ["inputs", "nnunet.case"],
    ["formats.reading", "formats.space", "formats.beside"],
    ["formats.contract"],
    ["formats.raster"],
    ["formats.textual"],
    ["formats.nifti.fields", "formats.nifti.label_table"],
    ["formats.nifti.header"],
    ["formats.nifti.writer"],
    ["formats.nifti.reader", "formats.nifti.seal"],
    ["formats.nifti.image"],
    ["formats.nifti"],
    ["formats.nrrd.header", "formats.nrrd.writer", "formats.nrrd.seal"],
    ["formats.nrrd.reader"],
    ["formats.nrrd", "formats.metaimage", "formats.mgh"],
    ["formats.dicom.library", "formats.dicom.members", "formats.dicom.codestream", "formats.dicom.deflated"],
    ["formats.dicom.image", "formats.dicom.lossless"],
    ["formats.dicom.geometry", "formats.dicom.pixels"],
    ["formats.dicom.series"],
    ["formats.dicom.reader"],
    ["formats.dicom.segmentation"],
    ["formats.dicom"],
    ["formats"],
    ["channels", "fingerprint", "phantom"],
    ["job"],
    ["bids"],
    ["tensors", "registry", "provenance"],
    ["weights"],
    ["doubts"],
    ["engine.fuse"],
    ["engine.arena", "engine.paging"],
    ["engine.algorithms.contract"],
    [
        f"engine.algorithms.{path.stem}"
        for path in (PACKAGE / "engine" / "algorithms").glob("*.py")
        if path.stem not in ("__init__", "contract", "winograd_deep")
    ],
    ["engine.algorithms.winograd_deep"],
    ["engine.algorithms"],
    ["engine.plan", "engine.bands"],
    ["engine.program"],
    ["engine.pool"],
    ["engine.engine", "engine.layers"],
    ["engine"],
    ["nnunet.predict"],
    ["nnunet"],
    ["passes"],
    ["ways.contract"],
    ["ways.slices", "ways.nnunet"],
    ["ways"],
    ["model"],
    ["strip"],
    ["report.statistics"],
    ["report.slices", "report.surface"],
    ["report.preview", "report.page"],
    ["report"],
    ["pipeline"],
    ["runs.record", "runs.table", "runs.find", "runs.there", "runs.task"],
    ["runs.journal", "runs.here"],
    ["runs.plan", "runs.summary", "runs.cluster"],
    ["runs.run"],
    ["runs"],
    ["app.findings", "app.guard"],
    ["app.cases", "app.results"],
    ["app.worker"],
    ["app.routes"],
    ["app.server"],
    ["app"],
    ["cli.shared"],
    ["cli.begin", "cli.segment", "cli.tell"],
    ["cli"],
    ["__main__"],
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}


def module_of(path):
    """Where a file lives, as FLOORS says it: "streams.stream", "streams" for its __init__."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path):
    """Full names of what a file imports, at any place but under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    hidden = {id(node) for block in ast.walk(tree) if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
              for statement in block.body for node in ast.walk(statement)}  # fmt: skip
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            yield from (".".join([*base, *([node.module] if node.module else []), alias.name]) for alias in node.names)


def floor_of(name):
    """The module that an imported name lives in, None for what is not ours: "monet_edge.formats.read" is of "formats"."""
    parts = name.split(".")[1:]
    return next((found for end in range(len(parts), 0, -1) if (found := ".".join(parts[:end])) in FLOOR), None)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    here = module_of(path)
    assert here in FLOOR or here == "__init__", f"{here} stands on no floor: say where in FLOORS"
    for name in imports_of(path):
        assert name.split(".")[0] not in {"torch", "scipy", "monet_train", "matplotlib"}
        if name.startswith("monet_edge."):
            there = floor_of(name)
            assert there is None or here == "__init__" or FLOOR[there] < FLOOR[here], f"{here} imports {there}"


def test_every_floor_stands():
    """A module that has moved leaves no rule behind that holds nothing."""
    assert {module_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"} == set(FLOOR)


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_help_is_light():
    code = """
import sys
from monet_edge.cli import app
try: app(["segment", "--help"])
except SystemExit: pass
print("loaded", [name for name in ("numba", "nibabel", "numpy", "torch", "monet_train", "scipy") if name in sys.modules])
"""
    assert run(code).endswith("loaded []\n")


def test_the_command_starts_with_python():
    """Nothing is imported before `main` catches Ctrl-C: what it would show before that is Python's own traceback."""
    code = "import sys; before = set(sys.modules); import monet_edge.__main__; print(sorted(set(sys.modules) - before))"
    assert run(code) == "['monet_edge', 'monet_edge.__main__']\n"


def test_pillow_is_for_pictures_only():
    """With the extra dicom it is there: nibabel imports pydicom, where that is installed, and pydicom pillow."""
    assert run("import sys; sys.modules['pydicom'] = None; import monet_edge.pipeline; print('PIL' in sys.modules)") == "False\n"


def test_nibabel_is_for_images_in_memory_only():
    """It imports every format that it knows, and pydicom where that is installed: as long as all of ours."""
    assert run("import sys, monet_edge.runs, monet_edge.cli; print('nibabel' in sys.modules)") == "False\n"


def test_the_runtime_needs_no_torch():
    code = "import sys, monet_edge.cli, monet_edge.pipeline; print([m for m in ('torch', 'monet_train') if m in sys.modules])"
    assert run(code) == "[]\n"


def test_public_names_are_sorted_and_there():
    assert monet_edge.__all__ == sorted(monet_edge.__all__)
    assert dir(monet_edge) == monet_edge.__all__
    for name in monet_edge.__all__:
        assert getattr(monet_edge, name) is not None


def test_segment_stays_a_function_when_every_module_is_imported():
    code = """
import monet_edge, importlib, pkgutil
first = monet_edge.segment
for module in pkgutil.walk_packages(monet_edge.__path__, "monet_edge."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:  # what an extra brings
            assert error.name.split(".")[0] in ("starlette", "uvicorn"), error
        except monet_edge.errors.MonetError as error:
            assert "is not installed" in str(error), error
assert callable(first) and monet_edge.segment is first and callable(monet_edge.load), monet_edge.segment
print("same")
"""
    assert run(code) == "same\n"


def test_every_room_travels_in_the_wheel():
    """Packages and the files beside them are listed by hand: the top-level folder weights/ is one of them under another name."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = {
        ".".join(path.parent.relative_to(top).parts): path.parent
        for top in (ROOT, ROOT / "trainer")
        for path in top.glob("monet_*/**/__init__.py")
    }
    assert set(setup["packages"]) == {*rooms, "monet_edge.shipped"}
    for room, folder in rooms.items():
        others = [other for other in rooms.values() if other != folder and other.is_relative_to(folder)]
        beside = {
            path.relative_to(folder)
            for path in folder.rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc") and path.name[0] != "." and not any(map(path.is_relative_to, others))
        }
        listed = {path.relative_to(folder) for pattern in setup["package-data"].get(room, []) for path in folder.glob(pattern)}
        assert beside == listed, room


def test_no_file_names_this_machine():
    """A path of whoever wrote the code would fail at everybody else's."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt"} and path.exists() and path != Path(__file__):
            assert f"{Path.home()}/" not in path.read_text()


def test_only_the_command_line_speaks_of_its_options():
    """The library states facts, and advice with an option's name in braces; see `errors.MonetError`."""
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "cli" or path.name == "terminal.py":
            continue
        nodes = list(ast.walk(ast.parse(path.read_text())))
        documented = (node for node in nodes if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)))
        comments = {ast.get_docstring(node, clean=False) for node in documented}
        texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        assert not [text for text in texts - comments if re.search(r"(^|\s)--[a-z]", text)], path


def test_no_function_is_longer_than_fifty_lines():
    """Its documentation not counted. The engine's kernels are held by the engine's own tests."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and "engine" not in path.parts:
                text = ast.get_docstring(node, clean=False)
                assert node.end_lineno - node.lineno + 1 - (text.count("\n") + 1 if text else 0) <= 50, f"{path}: {node.name}"
