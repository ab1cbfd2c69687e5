"""The command line as a person meets it: what it prints, how it ends, what it leaves behind."""

import contextlib
import json
import os
import pickle
import pty
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from importlib import metadata
from pathlib import Path

import nibabel
import numpy as np
import pytest
import typer
from scans import SHAPE, blob, image_of
from typer.testing import CliRunner

import monet_edge
from monet_edge import registry, weights
from monet_edge.cli import DISCLAIMER, app
from monet_edge.errors import OutputError
from monet_edge.options import Options

runner = CliRunner()


@pytest.fixture
def scan(tmp_path, rng):
    path = tmp_path / "scan.nii.gz"
    nibabel.save(image_of(blob(rng)), path)
    return path


@pytest.fixture
def call(weights_file):
    def call(*arguments, model=weights_file):
        options = [] if model is None else ["-m", str(model)]
        return runner.invoke(app, ["segment", *map(str, arguments), *options])

    return call


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_one_scan(call, scan):
    result = call(scan, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert "tiny (synthetic, blob) · 1 thread\n" in result.stdout
    assert "scan_seg.nii.gz" in result.stdout
    assert " ml" in result.stdout
    assert result.stdout.endswith(DISCLAIMER + "\n")
    assert files(scan.parent) == ["scan.nii.gz", "scan_seg.nii.gz"]


def test_quiet_prints_nothing(call, scan):
    result = call(scan, "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_output_and_probabilities(call, scan):
    result = call(scan, "-o", scan.parent / "mask.nii", "--probabilities")
    assert result.exit_code == 0
    assert files(scan.parent) == ["mask.nii", "mask_prob.nii.gz", "scan.nii.gz"]


def test_a_folder_twice_gives_the_same(call, scan, rng):
    nibabel.save(image_of(blob(rng)), scan.parent / "other.nii")
    assert call(scan.parent).exit_code == 0
    first = {path.name: path.read_bytes() for path in scan.parent.iterdir()}
    assert set(first) == {"scan.nii.gz", "scan_seg.nii.gz", "other.nii", "other_seg.nii.gz"}
    result = call(scan.parent, "--overwrite")
    assert "2 of 2 scans segmented" in result.stdout
    assert {path.name: path.read_bytes() for path in scan.parent.iterdir()} == first


def test_a_folder_goes_on_after_a_broken_scan(call, scan):
    (scan.parent / "broken.nii.gz").write_bytes(scan.read_bytes()[:-30])
    result = call(scan.parent, "-o", scan.parent / "out")
    assert result.exit_code == 1
    assert files(scan.parent / "out") == ["scan_seg.nii.gz"]
    assert "broken.nii.gz" in result.stderr
    assert "1 of 2 scans segmented" in result.stdout
    scan.unlink()
    assert call(scan.parent, "-o", scan.parent / "out").exit_code == 2


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_scan_is_not_replaced_by_the_mask_of_another(call, scan, options):
    """Somebody's own case_seg.nii.gz beside case.nii.gz is a scan to us: it was drawn by hand."""
    drawn = write(scan.with_name("scan_seg.nii.gz"), scan.read_bytes())
    result = call(scan.parent, *options)
    assert result.exit_code == 2
    assert f"{drawn} is one of the scans" in result.stderr
    assert files(scan.parent) == ["scan.nii.gz", "scan_seg.nii.gz"]
    assert drawn.read_bytes() == scan.read_bytes()


BAD = {
    "missing file": (lambda folder, scan: [folder / "none.nii.gz"], "no such file"),
    "empty folder": (lambda folder, scan: [make(folder / "empty")], "no scan"),
    "mistyped folder": (lambda folder, scan: [folder / "sacn" / "scan.nii.gz"], "scan.nii.gz: no such file"),
    "name too long": (lambda folder, scan: [write(folder / f"{'x' * 248}.nii.gz", scan.read_bytes())], "File name too long"),
    "text renamed": (lambda folder, scan: [write(folder / "text.nii.gz", b"hello, this is text\n" * 50)], "not a NIfTI file"),
    "truncated gzip": (lambda folder, scan: [write(folder / "cut.nii.gz", scan.read_bytes()[:-400])], "truncated"),
    "4-D": (lambda folder, scan: [save4d(folder / "four.nii.gz")], "--volume 0 or --volume 1"),
    "no such volume": (lambda folder, scan: [save4d(folder / "four.nii.gz"), "--volume", 7], "no volume 7"),
    "output is input": (lambda folder, scan: [scan, "-o", scan, "--overwrite"], "is the input itself"),
    "output exists": (lambda folder, scan: [scan, "-o", write(folder / "there.nii.gz", b"precious")], "exists already"),
    "output is a folder": (lambda folder, scan: [scan, "--stats", make(folder / "table.csv")], "table.csv is a folder"),
    "no output folder": (lambda folder, scan: [scan, "-o", folder / "no" / "mask.nii.gz"], "no such folder"),
    "unknown model": (lambda folder, scan: [scan, "-m", "brain-flare"], "no such model"),
    "missing weights": (lambda folder, scan: [scan, "-m", folder / "none.safetensors"], "no such file"),
    "corrupt weights": (lambda folder, scan: [scan, "-m", write(folder / "bad.safetensors", b"\x10" * 4000)], "not an intact"),
}


def make(folder):
    folder.mkdir()
    return folder


def write(path, data):
    path.write_bytes(data)
    return path


def save4d(path):
    nibabel.save(image_of(np.zeros((*SHAPE, 2), np.int16)), path)
    return path


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_clear_line_and_writes_nothing(case, call, scan, tmp_path):
    arguments, message = BAD[case]
    arguments = arguments(tmp_path, scan)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = call(*arguments, model=None) if "-m" in arguments else call(*arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()[-1:]
    assert line.startswith("monet-edge: ")
    assert message in line
    assert "unexpected" not in line
    assert "Traceback" not in result.output
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_debug_shows_the_traceback(call, tmp_path):
    result = call(tmp_path / "none.nii.gz", "--debug")
    assert isinstance(result.exception, monet_edge.errors.ScanError)


@pytest.mark.parametrize("command", ["demo", "info", "models", "phantom", "segment", "warmup"])
def test_every_command_has_the_option_that_errors_name(command):
    assert "--debug" in runner.invoke(app, [command, "--help"], env={"COLUMNS": "120"}).output


@pytest.mark.parametrize("arguments", [["segment", ""], ["segment", "x.nii", "-o", ""], ["segment", "x.nii", "--output="]])
def test_an_argument_of_nothing_is_not_the_folder_one_stands_in(arguments, scan, monkeypatch):
    monkeypatch.chdir(scan.parent)
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert "is empty: a variable of the shell" in " ".join(result.stderr.split())
    assert [path.name for path in scan.parent.iterdir()] == [scan.name]


def test_a_mistyped_command_is_guessed_once():
    assert runner.invoke(app, ["segmnt"]).stderr.count("'segment'") == 1


def test_a_model_that_is_not_there_is_said_before_compiling(call, scan, monkeypatch):
    monkeypatch.setattr("monet_edge.cli.shared.compile_kernels", lambda quiet: pytest.fail("compiles"))
    assert "no such model" in call(scan, model="typo").stderr


@pytest.mark.parametrize("value", ["0", "1", "-3", "nan", "half"])
def test_a_threshold_is_a_probability(call, scan, value):
    assert call(scan, "--threshold", value).exit_code == 2


def test_models_and_info(weights_file):
    result = runner.invoke(app, ["models"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert "brain-flair" in result.stdout
    assert "non-commercial" in result.stdout
    assert "│ 14 " in result.stdout  # structures of brain, too many to name
    words = {word for path in registry.shipped().values() for word in re.findall(r"[^\s/]+", weights.load(path).contents)}
    assert words <= {*re.findall(r"[^\s/]+", result.stdout)}  # none is broken
    result = runner.invoke(app, ["info", str(weights_file)])
    assert result.exit_code == 0
    assert monet_edge.load(weights_file).weights.sha256 in result.stdout
    assert runner.invoke(app, ["info", "nonsense"]).exit_code == 2


def test_info_shows_a_shipped_models_card_and_of_a_copy_that_was_changed_its_record(tmp_path):
    told = runner.invoke(app, ["info", "brain-flair"]).stdout
    assert "It has never seen other tumours" in told
    assert told.count(DISCLAIMER) == 2  # beneath its title, and at its end
    (tmp_path / "brain-flair.safetensors").symlink_to(registry.find("brain-flair"))
    assert "It has never seen" in runner.invoke(app, ["info", str(tmp_path)]).stdout
    found = weights.load("brain-flair")
    provenance = {**found.provenance, "licence": "another"}
    weights.save(tmp_path / "other.safetensors", found.spec, found.tensors, found.preprocess, provenance)
    told = runner.invoke(app, ["info", str(tmp_path / "other.safetensors")]).stdout
    assert "never seen" not in told
    assert '"licence": "another"' in told


def test_version_says_what_it_is():
    assert runner.invoke(app, ["--version"]).stdout == f"monet-edge {monet_edge.__version__}. {DISCLAIMER}\n"


def test_the_version_is_the_package_s():
    """It stands in `monet_edge/__init__.py`; what is installed and what is cited have it from there."""
    cited = re.search(r"^version: (.*)$", (Path(monet_edge.__file__).parents[1] / "CITATION.cff").read_text("utf-8"), re.MULTILINE)[1]
    assert monet_edge.__version__ == cited == metadata.version("monet-edge")


def test_demo_segments_the_phantom(tmp_path):
    result = runner.invoke(app, ["demo", "-o", str(tmp_path / "demo")])
    assert result.exit_code == 0, result.output
    assert "Dice 0." in result.stdout
    assert files(tmp_path / "demo") == ["phantom.nii.gz", "phantom_lesion.nii.gz", "phantom_seg.nii.gz"]


def test_demo_fails_with_a_model_that_finds_nothing(tmp_path, weights_file):
    result = runner.invoke(app, ["demo", "-o", str(tmp_path / "demo"), "-m", str(weights_file)])
    assert result.exit_code == 2
    assert "expected at least 0.7" in result.stderr


@pytest.mark.parametrize("name", ["phantom.nii.gz", "phantom_lesion.nii.gz", "phantom_seg.nii.gz"])
def test_demo_replaces_nothing_unless_told(tmp_path, name, weights_file):
    """phantom.nii.gz is also what a scanner's own quality check is called."""
    (tmp_path / name).write_bytes(b"precious")
    command = ["demo", "-o", str(tmp_path), "-m", str(weights_file)]
    result = runner.invoke(app, command)
    assert result.exit_code == 2
    assert f"{name} exists already" in result.stderr
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]
    runner.invoke(app, [*command, "--overwrite"])
    assert len(files(tmp_path)) == 3
    assert (tmp_path / name).read_bytes() != b"precious"


def test_demo_says_so_where_a_file_is(tmp_path):
    write(tmp_path / "demo", b"precious")
    assert "cannot be made a folder" in runner.invoke(app, ["demo", "-o", str(tmp_path / "demo")]).stderr


def start_on_a_terminal(*command):
    """A command that begins on a terminal, and piece by piece what it shows there until its end."""
    parent, child = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "monet_edge", *map(str, command)], stdout=child, stderr=child)
    os.close(child)

    def pieces():
        with os.fdopen(parent, "rb", 0) as terminal, contextlib.suppress(OSError):  # how a terminal whose other side is closed ends
            while piece := terminal.read(4096):
                yield piece.decode(errors="replace")

    return process, pieces()


def on_a_terminal(*command):
    """What a command shows on a terminal."""
    process, pieces = start_on_a_terminal(*command)
    shown = "".join(pieces)
    assert process.wait() == 0
    return shown


def test_a_terminal_gets_a_bar(scan, weights_file):
    shown = on_a_terminal("segment", scan, "-m", weights_file)
    assert "━" in shown
    assert f"{SHAPE[2]}/{SHAPE[2]}" in shown


def test_a_file_name_cannot_steer_the_terminal(scan, weights_file):
    """Neither by escape sequences nor by what rich takes for markup."""
    hostile = scan.rename(scan.with_name("a[red]b\x1b]2;c.nii.gz"))
    shown = on_a_terminal("segment", hostile, "-m", weights_file)
    assert "segmenting a[red]b?]2;c.nii.gz" in shown
    assert "\x1b]2;" not in shown


@pytest.mark.parametrize("encoding", ["utf-8:strict", "iso-8859-1:strict"])
def test_a_name_that_cannot_be_printed_is_no_failure(scan, weights_file, encoding):
    """Of an old archive, in bytes that are no UTF-8; the arrow of our own line is not in every encoding either."""
    folder = os.fsencode(scan.parent)
    os.rename(scan, folder + b"/M\xfcller.nii.gz")
    command = [sys.executable, "-m", "monet_edge", "segment", folder + b"/M\xfcller.nii.gz", "-m", str(weights_file)]
    tables = [scan.parent / name for name in ("s.csv", "run.json")]
    command += ["--with-identifiers", "--report", scan.parent, "--stats", tables[0], "--run-record", tables[1]]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    assert b" ml " in done.stdout
    assert all(b"ller.nii.gz" in table.read_bytes() for table in tables)
    assert json.loads(tables[1].read_bytes())["scans"][0]["path"] == os.fsdecode(folder + b"/M\xfcller.nii.gz")
    assert len(os.listdir(folder)) == 5


def test_ctrl_c_ends_at_once_and_leaves_nothing(tmp_path):
    """A scan of 20,000 slices, which takes minutes, interrupted once its bar says that it is being segmented."""
    rng = np.random.default_rng(0)
    nibabel.save(image_of(blob(rng, (8, 8, 20_000))), tmp_path / "big.nii")
    process, pieces = start_on_a_terminal("segment", tmp_path / "big.nii")
    shown = ""
    while not re.search(r"[1-9]\d*/20000", shown):
        shown += next(pieces)
    process.send_signal(signal.SIGINT)
    shown += "".join(pieces)
    assert process.wait() == 130
    assert "20000/20000" not in shown
    assert files(tmp_path) == ["big.nii"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_nothing_is_sent_anywhere(scan, weights_file):
    command = [
        "strace",
        "-f",
        "-e",
        "trace=connect,sendto",
        sys.executable,
        "-m",
        "monet_edge",
        "segment",
        str(scan),
        "-m",
        str(weights_file),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "AF_INET" not in result.stderr


def test_every_option_of_the_library_is_one_of_the_command():
    command = typer.main.get_command(app).commands["segment"]
    flags = {parameter.name: parameter for parameter in command.params}
    for field in fields(Options):
        assert flags[field.name].opts == [f"--{field.name.replace('_', '-')}"]
        assert flags[field.name].default == field.default


def test_advice_is_spelled_as_its_reader_types_it(call, scan, weights_file, tmp_path):
    """The same refusal, in Python and on the command line."""
    (tmp_path / "mask.nii").touch()
    with pytest.raises(OutputError) as caught:
        monet_edge.segment(scan, tmp_path / "mask.nii", model=weights_file)
    assert str(caught.value) == f"{tmp_path / 'mask.nii'} exists already. Choose another output, or say overwrite."
    assert pickle.loads(pickle.dumps(caught.value)).text(str.upper).endswith("Choose another OUTPUT, or say OVERWRITE.")
    result = call(scan, "-o", tmp_path / "mask.nii")
    assert result.stderr.endswith(f"{tmp_path / 'mask.nii'} exists already. Choose another --output, or say --overwrite.\n")
