"""The contract of formats: a scan is known by its content or name, its header is parsed once, and another format is one entry."""

import os
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from fuzz.build import OBLIQUE, gz, head, nifti
from typer.testing import CliRunner

import monet_edge
from monet_edge import formats, limits, pipeline, streams, weights
from monet_edge.cli import app
from monet_edge.errors import MonetError, OutputError, ResourceError, ScanError
from monet_edge.formats import raster, reading
from monet_edge.formats.contract import Format, Header, Writer
from monet_edge.formats.nifti import reader
from monet_edge.job import make_job
from monet_edge.options import FORMATS, Options
from monet_edge.runs import Found, plan_jobs
from monet_edge.streams import ahead
from monet_edge.volume import Scan


@pytest.fixture
def parsed(monkeypatch):
    """How often a header has been parsed: a list that grows."""
    calls, parse = [], reader.parse
    monkeypatch.setattr(reader, "parse", lambda *arguments, **options: calls.append(1) or parse(*arguments, **options))
    return calls


def test_a_scan_s_header_is_parsed_once_a_run(put, weights_file, parsed):
    scan = put(nifti(head((32, 32, 4))))
    pipeline.segment(scan, model=weights_file)
    assert len(parsed) == 1
    monet_edge.load(weights_file).segment(scan)
    assert len(parsed) == 2
    assert (
        CliRunner().invoke(app, ["segment", str(scan), "-m", str(weights_file), "--overwrite", "--stats", str(scan) + ".csv"]).exit_code
        == 0
    )
    assert len(parsed) == 3


def test_headers_of_a_folder_are_parsed_once_its_results_by_their_seals(put, weights_file, parsed):
    for name in ("a.nii", "b.nii"):
        scan = put(nifti(head((32, 32, 4))), name)
    assert CliRunner().invoke(app, ["segment", str(scan.parent), "-m", str(weights_file)]).exit_code == 0
    assert len(parsed) == 2


def test_a_file_that_changes_between_its_header_and_its_voxels_is_refused(put):
    header = formats.peek(put(nifti()))
    put(nifti(head((5, 4, 3))))
    with pytest.raises(ScanError, match=r"scan\.nii: it has changed since its header was read"):
        formats.read(header)


def test_a_reading_that_has_begun_is_the_scan_or_what_it_failed_of(put):
    scan = put(nifti())
    begun = formats.read(formats.begin(formats.peek(scan)))
    assert np.array_equal(begun.voxels, formats.read(scan).voxels)
    broken = formats.begin(formats.peek(put(gz(nifti(head((64, 64, 8))))[:-9], "broken.nii.gz")))
    with pytest.raises(ScanError, match=r"broken\.nii\.gz: the compressed data ends too early"):
        formats.read(broken)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["i2", "u1", "f4", "f8"])
def test_voxels_that_come_while_a_scan_is_read_are_all_of_it_or_none(put, monkeypatch, order, dtype):
    """None of those that are changed once all are there: turned to this machine's order of bytes, or made infinite."""
    monkeypatch.setattr(raster, "_ALONE", 1000)
    voxels = head((32, 31, 4)).astype(dtype)
    begun = formats.begin(formats.peek(put(gz(nifti(voxels, order=order)), "scan.nii.gz"))).begun
    found = [piece.copy() for piece in begun.pieces()]
    assert np.array_equal(begun.result().voxels, voxels)
    if dtype == "f8" or not np.dtype(order + dtype).isnative:
        assert not found
    else:
        assert np.array_equal(np.concatenate(found), voxels.ravel(order="F"))


def test_a_mask_does_not_depend_on_who_has_read_and_counted_the_scan(put, weights_file):
    scan, ready = put(nifti(head((64, 64, 4)))), monet_edge.load(weights_file)
    begun, read = ready.read_scan(formats.begin(formats.peek(scan))), ready.read_scan(formats.peek(scan))
    assert begun.counts.sum() == read.voxels.size
    assert read.counts is None
    one, other = map(ready.segment_scan, (begun, read))
    assert one.statistics == other.statistics
    assert np.array_equal(one.mask, other.mask)


def begun_ahead(path):
    """A file that is being inflated, which ISA-L alone can do beside others."""
    pytest.importorskip("isal.isal_zlib", reason="isal has no wheels for this machine")
    return streams.begin(path)


def inflated(path):
    """`formats.read` of a file that is inflated before anybody knows what it is, as the command does."""
    return formats.read(formats.begin(formats.peek(path), inflated=streams.begin(path)))


@pytest.mark.parametrize("most", [1000, 1 << 20])  # bytes before somebody asks
def test_a_scan_that_was_inflated_ahead_is_the_scan_or_what_it_failed_of(put, monkeypatch, most):
    monkeypatch.setattr(ahead, "_MOST", most)
    monkeypatch.setattr(ahead, "_STEP", 999)
    whole = nifti(head((32, 31, 4)))
    parts, same_size = gz(whole[:5000]) + gz(whole[5000:]), gz(whole) + gz(whole)[-4:]  # the last four bytes are to be a member's size
    for data in (gz(whole), parts, gz(whole) + b"more", gz(whole) + bytes(3), same_size, gz(whole + b"spare"), whole):
        path = put(data, "scan.nii.gz")
        found, read = inflated(path), formats.read(path)
        assert np.array_equal(found.voxels, read.voxels)
        assert found.warnings == read.warnings
        assert found.voxels.flags.f_contiguous
        assert not found.voxels.flags.writeable
    damaged = bytearray(gz(whole))
    damaged[-5] ^= 1
    for data in (gz(whole)[:-9], bytes(damaged), gz(whole[:-1]), gz(whole) + gz(whole), gz(whole)[:100] + bytes(100) + gz(whole)[200:]):
        path = put(data, "broken.nii.gz")
        with pytest.raises(ScanError) as told:
            formats.read(path)
        with pytest.raises(ScanError, match=re.escape(str(told.value))):
            inflated(path)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["i2", "u1", "f4", "f8"])
def test_voxels_that_are_inflated_ahead_are_those_of_the_file(put, monkeypatch, order, dtype):
    monkeypatch.setattr(raster, "_ALONE", 1000)
    path = put(gz(nifti(head((32, 31, 4)).astype(dtype), order=order)), "scan.nii.gz")
    begun = formats.begin(formats.peek(path), inflated=streams.begin(path)).begun
    pieces, read = [piece.copy() for piece in begun.pieces()], formats.read(path)
    assert np.array_equal(begun.result().voxels, read.voxels)
    assert begun.result().voxels.dtype == read.voxels.dtype
    assert not pieces or np.array_equal(np.concatenate(pieces), read.voxels.ravel(order="F"))


def test_voxels_that_were_inflated_ahead_and_then_read_again_do_not_come_by_twice(put, weights_file, monkeypatch):
    monkeypatch.setattr(ahead, "_STEP", 999)
    monkeypatch.setattr(raster, "_ALONE", 1000)
    whole, ready = gz(nifti(head((64, 64, 4)))), monet_edge.load(weights_file)
    path = put(whole + whole[-4:], "scan.nii.gz")  # inflated nearly to the end, and then read as ever
    begun = formats.begin(formats.peek(path), inflated=begun_ahead(path)).begun
    assert 0 < sum(piece.size for piece in begun.pieces()) < begun.result().voxels.size
    scan = ready.read_scan(formats.begin(formats.peek(path), inflated=begun_ahead(path)))
    assert scan.counts is None  # of some only


def test_no_more_is_inflated_ahead_than_was_asked_for_and_nothing_where_nobody_asks(put, monkeypatch):
    monkeypatch.setattr(ahead, "_MOST", 1000)
    monkeypatch.setattr(ahead, "_STEP", 400)
    path, threads = put(gz(nifti(head((8, 8, 8, 3)))), "several.nii.gz"), set(threading.enumerate())
    stream = begun_ahead(path)
    (thread,) = set(threading.enumerate()) - threads
    while stream._done < 1000:
        time.sleep(0.001)
    thread.join(0.1)  # it waits
    assert stream._done == 1200
    assert formats.begin(formats.peek(path), inflated=stream).begun is None  # nobody has said which volume
    thread.join(10)
    assert not thread.is_alive()
    assert stream._done == 1200


def test_what_was_inflated_ahead_is_not_taken_for_a_file_that_came_in_its_place(put):
    scan, voxels = put(gz(nifti(head((8, 8, 2)))), "scan.nii.gz"), head((8, 8, 2))[::-1] + 1
    stream = begun_ahead(scan)
    assert stream.whole()
    put(gz(nifti(voxels)), "scan.nii.gz")
    assert np.array_equal(formats.read(formats.begin(formats.peek(scan), inflated=stream)).voxels, voxels)


def test_only_what_is_packed_as_a_whole_is_inflated_ahead(put, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    huge = gz(nifti())[:-4] + b"\xff" * 4  # bytes that so short a file cannot hold
    paths = (
        put(nifti()),
        put(b"\x1f\x8b", "short.gz"),
        put(huge, "huge.gz"),
        tmp_path,
        tmp_path / "pipe",
        tmp_path / "missing",
        Path("a\0b"),
    )
    assert [streams.begin(path) for path in paths] == [None] * len(paths)


def test_nothing_is_read_ahead_that_the_model_may_choose_from(put, tmp_path):
    assert formats.ahead(put(nifti())).begun is not None
    assert formats.ahead(put(nifti(head((8, 8, 2, 3))), "several.nii")).begun is None
    for path in (tmp_path, tmp_path / "missing.nii", put(b"Dear colleague", "notes.txt"), put(bytes(128) + b"DICM" + bytes(200), "slice")):
        assert formats.ahead(path) is None


def test_where_memory_is_short_no_reading_begins(put, monkeypatch):
    header = formats.peek(put(nifti()))
    monkeypatch.setattr(limits, "available", lambda: 1 << 29)  # the scan would fit, and what is loaded beside it would not
    assert formats.begin(header) is header


def test_the_only_scan_of_a_run_is_read_while_the_model_is_loaded(put, weights_file, monkeypatch):
    order, load, thread = [], weights.load, reading.Thread
    monkeypatch.setattr(reading, "Thread", lambda **options: order.append("reading") or thread(**options))
    monkeypatch.setattr(weights, "load", lambda model: order.append("loading") or load(model))
    assert CliRunner().invoke(app, ["segment", str(put(nifti(head((32, 32, 4))))), "-m", str(weights_file)]).exit_code == 0
    assert order[:2] == ["reading", "loading"]


def test_a_scan_read_already_is_still_refused_where_the_rest_would_not_fit(put, weights_file, monkeypatch):
    begun = formats.begin(formats.peek(put(nifti(head((32, 32, 4))))))
    ready = monet_edge.load(weights_file)
    monkeypatch.setattr(limits, "available", lambda: 1 << 20)
    with pytest.raises(ResourceError, match=r"scan\.nii: segmenting it with .* needs \d+ MB"):
        ready.read_scan(begun)


def test_what_no_format_knows_is_refused_by_the_names_of_those_there_are(put):
    with pytest.raises(ScanError, match=r"notes\.txt: not a scan of a kind that can be read; expected \.nii\.gz, \.nii"):
        formats.peek(put(b"Dear colleague", "notes.txt"))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("version", [1, 2])
def test_nifti_is_known_by_its_content_whatever_it_is_called(put, order, version):
    path = put(nifti(order=order, version=version), "export.dat")
    np.testing.assert_array_equal(formats.read(path).voxels, head())


MARK = b"toy scan"


def toy_peek(path):
    return Header("toy", path, (32, 32, 4), 1, np.dtype(np.int16), OBLIQUE, False, None, (path,))


def toy_read(header, volumes):
    voxels = np.frombuffer(header.path.read_bytes()[len(MARK) :], np.int16).reshape(header.shape, order="F")
    return tuple(Scan(header.path, voxels, 1.0, 0.0, header.affine, None, ()) for _ in volumes)


TOY = Format("toy", (".toy",), (), lambda path, start: start.startswith(MARK), toy_peek, toy_read)


def test_another_format_is_one_entry(put, weights_file, monkeypatch):
    """Its scan gives the mask that the same voxels give as NIfTI, on the same grid."""
    monkeypatch.setattr(formats, "FORMATS", (TOY, *formats.FORMATS))
    voxels = head((32, 32, 4))
    toy = put(MARK + voxels.tobytes("F"), "toy.toy")
    ref = pipeline.segment(put(nifti(voxels, OBLIQUE)), model=weights_file)
    comp = pipeline.segment(toy, model=weights_file)
    assert comp.job.mask.name == "toy_seg.nii.gz"
    ref, comp = (nibabel.load(outcome.job.mask) for outcome in (ref, comp))
    np.testing.assert_array_equal(np.asarray(comp.dataobj), np.asarray(ref.dataobj))
    np.testing.assert_allclose(comp.affine, ref.affine, atol=1e-6)
    np.testing.assert_allclose(comp.get_sform(), OBLIQUE, atol=1e-6)
    assert [int(comp.header[code]) for code in ("sform_code", "qform_code")] == [1, 1]
    assert comp.header.get_xyzt_units()[0] == "mm"


def test_a_scan_that_does_not_say_how_the_patient_lies_gives_a_result_that_does_not_either(tmp_path, put):
    scan = replace(formats.read(put(nifti())), header=None, oriented=False)
    formats.write(tmp_path / "mask.nii", np.zeros(scan.shape, np.uint8), scan)
    assert not formats.read(tmp_path / "mask.nii").oriented


def test_a_writer_is_chosen_by_the_ending(tmp_path, put, monkeypatch):
    def write(file, name, array, like, legend):
        file.write(f"{name} {array.sum()} {like.shape} {legend.labels}".encode())

    monkeypatch.setattr(formats, "WRITERS", (*formats.WRITERS, Writer("toy", (".toy",), "_toy.toy", write)))
    scan = formats.read(put(nifti()))
    formats.write(tmp_path / "mask.toy", np.ones(scan.shape, np.uint8), scan, labels=("a",))
    assert (tmp_path / "mask.toy").read_text() == f"mask.toy {np.prod(scan.shape)} {scan.shape} ('a',)"
    assert formats.writer(None, "toy").suffix == "_toy.toy"
    with pytest.raises(OutputError, match=r"mask\.nii: a result in the format toy is written as \.toy"):
        formats.writer("mask.nii", "toy")
    with pytest.raises(OutputError, match="a result is written as"):
        formats.write(tmp_path / "mask.other", np.ones(scan.shape, np.uint8), scan)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask.toy", "scan.nii"]


def test_every_format_of_results_can_be_asked_for_by_name():
    assert tuple(writer.name for writer in formats.WRITERS) == FORMATS
    assert [formats.writer(None, name).name for name in (None, *FORMATS)] == [FORMATS[0], *FORMATS]
    assert len({*formats.ENDINGS}) == len(formats.ENDINGS)  # two write .dcm; what a person may choose from has it once
    with pytest.raises(MonetError, match="format: expected nifti"):
        Options(format="jpeg")


def test_a_format_chooses_the_name_of_what_nobody_named(put, tmp_path, weights_file):
    scan = put(nifti(head((32, 32, 4))))
    names = {"nifti": "scan_seg.nii.gz", "nrrd": "scan_seg.nrrd", "seg-nrrd": "scan.seg.nrrd"}
    names |= {"dicom-seg": "scan_seg.dcm", "dicom-labelmap": "scan_seg.dcm"}
    assert names.keys() == {*FORMATS}
    for name, mask in names.items():
        options = Options(format=name, probabilities=True, preview=True)
        job = make_job(scan, None, options)
        assert [path.name for path in job.results] == [mask, "scan_prob.nii.gz", "scan_preview.png"]
        (job,) = plan_jobs([Found(scan)], tmp_path / "out", options)
        assert job.mask == tmp_path / "out" / mask
        assert formats.stem(job.mask).removesuffix("_seg") == "scan"
    arguments = ["segment", str(scan), "-m", str(weights_file), "--format"]
    done = CliRunner().invoke(app, [*arguments, "seg-nrrd", "--probabilities"])
    assert done.exit_code == 0, done.stderr
    assert b"Segment0_Name:=blob" in (tmp_path / "scan.seg.nrrd").read_bytes()
    done = CliRunner().invoke(app, [*arguments, "nrrd", "-o", str(tmp_path / "x.seg.nrrd")])
    assert (done.exit_code, "a result in the format nrrd is written as .nrrd. Choose such a name for --output." in done.stderr) == (2, True)
    assert not (tmp_path / "x.seg.nrrd").exists()
