"""What cannot be printed is no scan's failure: masks, tables and exit status do not depend on what the output goes to."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic
from fuzz.build import head, nifti

from monet_edge import phantom

ROOT = Path(__file__).parents[1]
NAMES = ("Größe→.nii", "肿瘤\u200c.nii")


def closed(*streams):
    def close():
        for stream in streams:
            os.close(stream)

    return {"preexec_fn": close}


def full(*streams):
    def fill():
        for stream in streams:
            os.dup2(os.open("/dev/full", os.O_WRONLY), stream)

    return {"preexec_fn": fill}


def left(*streams):
    """As ``| head -1`` leaves them, once it has seen enough."""

    def leave():
        reader, writer = os.pipe()
        os.close(reader)
        for stream in streams:
            os.dup2(writer, stream)

    return {"preexec_fn": leave}


def encoded(encoding):
    return {"env": {**os.environ, "PYTHONIOENCODING": encoding}}


def with_no_locale():
    changed = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return {"env": {**os.environ, **changed}, "start_new_session": True, "stdin": subprocess.DEVNULL}


STREAMS = {
    "stderr closed": closed(2),
    "stdout closed": closed(1),
    "all closed": closed(0, 1, 2),
    "stdout left": left(1),
    "both left": left(1, 2),
    "stdout full": full(1),
    "both full": full(1, 2),
    "ascii": encoded("ascii:strict"),
    "cp1252": encoded("cp1252:strict"),
    "utf-16": encoded("utf-16"),
    "utf-32": encoded("utf-32-be"),
    "no locale, no terminal": with_no_locale(),
}


def start(module, *words, **where):
    where = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **where}
    return subprocess.run([sys.executable, "-m", module, *map(str, words)], cwd=ROOT, check=False, **where)


@pytest.fixture(scope="module")
def archive(tmp_path_factory, weights_file):
    """Two scans and a damaged one; how they are segmented into a folder, and what all that was written there is."""
    folder = tmp_path_factory.mktemp("archive")
    for seed, name in enumerate(NAMES):
        (folder / name).write_bytes(nifti(head((32, 32, 6), seed=seed)))
    (folder / "cut.nii").write_bytes(nifti()[:-5])

    def segment(out, **where):
        words = ["-o", out, "-m", weights_file, "--stats", out / "s.csv", "--with-identifiers", "--threads", 1]
        out.mkdir()
        done = start("monet_edge", "segment", folder, *words, **where)
        return done, {path.name: path.read_bytes() for path in out.iterdir()}

    done, ref = segment(tmp_path_factory.mktemp("ref") / "out")
    assert done.returncode == 1
    assert len(ref) == 3
    return segment, ref


@pytest.mark.slow
@pytest.mark.parametrize("case", STREAMS)
def test_masks_tables_and_exit_status_are_those_of_the_work(archive, tmp_path, case):
    segment, ref = archive
    done, comp = segment(tmp_path / "out", **STREAMS[case])
    assert comp == ref
    assert done.returncode == 1  # of three scans one is damaged
    assert b"Traceback" not in done.stderr
    assert b"unexpected" not in done.stderr + done.stdout
    assert b"Exception ignored" not in done.stderr


def test_the_first_line_is_enough_for_who_reads_no_more(archive, tmp_path, weights_file):
    """The pipe breaks while the second scan is being segmented, not before the first."""
    segment, ref = archive
    head_1 = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.readline()"], stdin=subprocess.PIPE)
    done, comp = segment(tmp_path / "out", stdout=head_1.stdin)
    head_1.stdin.close()
    assert head_1.wait() == 0
    assert (done.returncode, comp) == (1, ref)
    assert b"cannot be written" not in done.stderr


def test_what_is_lost_is_said_where_something_can_be():
    """Not to be confused with a command that had nothing to say."""
    done = start("monet_edge", "models", **full(1))
    assert (done.returncode, done.stderr) == (0, b"standard output cannot be written: No space left on device\n")


def test_a_result_never_takes_the_place_of_a_closed_stream():
    """A file opened where stream 2 was would hold what libraries print there."""
    code = """
import os
from monet_edge.terminal import steady_streams
steady_streams()
handle = os.open("/dev/null", os.O_RDONLY)
raise SystemExit(0 if handle > 2 else 3)
"""
    for streams in ((0,), (1,), (2,), (0, 1, 2)):
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, **closed(*streams)).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("encoding", "arrow"), [("ascii", "\\u2192"), ("cp1252", "\\u2192"), ("utf-16", "→"), ("utf-8", "→")])
def test_a_letter_that_a_stream_does_not_have_is_an_escape(tmp_path, weights_file, encoding, arrow):
    (tmp_path / "a.nii").write_bytes(nifti())
    done = start("monet_edge", "segment", tmp_path / "a.nii", "-m", weights_file, **encoded(f"{encoding}:strict"))
    assert done.returncode == 0
    assert f" ml {arrow} " in done.stdout.decode(encoding)


@pytest.mark.slow
@pytest.mark.parametrize("case", STREAMS)
def test_the_trainer_is_as_steady(tmp_path, case):
    synthetic.write_dataset(tmp_path / "data")
    phantom.save(phantom.make(7, synthetic.SHAPE)[0], tmp_path / "data" / "labelsTr" / "case_001.nii.gz", overwrite=True)  # no labels
    done = start("monet_train.cli", "check", tmp_path / "data", **STREAMS[case])
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "monet_edge").rglob("*.py")), ids=lambda path: path.name)
def test_every_file_of_text_has_its_encoding(path):
    """What the locale says is right for nobody else's files."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [word.arg for word in node.keywords]
        at = {"read_text": 0, "write_text": 1}.get(name)
        if at is not None:
            assert len(node.args) > at or "encoding" in given, f"line {node.lineno}"
        elif name in ("open", "fdopen") and ast.unparse(node.func) != "os.open":
            modes = [word.value for word in (*node.args, *(k.value for k in node.keywords)) if isinstance(word, ast.Constant)]
            binary = any(isinstance(mode, str) and "b" in mode for mode in modes)
            assert binary or "encoding" in given, f"line {node.lineno}"
