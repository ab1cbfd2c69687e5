"""What is wrong with a scan is said in one clear line, and what is doubtful in a warning: the table of hostile input, row by row."""

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from fuzz.build import head
from scans import PAIRS, RAW, REFUSED, WARNED, refused

from monet_edge import formats
from monet_edge.errors import ResourceError, ScanError


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("row", REFUSED)
def test_refused(put, row):
    raw, message = REFUSED[row]
    refused(put(raw, "scan.nii.gz"), message)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("row", PAIRS)
def test_a_pair_is_refused(tmp_path, row):
    files, message = PAIRS[row]
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
    with pytest.raises(ScanError, match=message) as caught:
        formats.read(tmp_path / next(iter(files)))
    assert str(caught.value).startswith(str(tmp_path / "scan."))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("row", WARNED)
def test_read_with_a_warning(put, row):
    raw, message = WARNED[row]
    scan = formats.read(put(raw))
    np.testing.assert_array_equal(scan.voxels, head())
    assert len(scan.warnings) == 1
    assert message in scan.warnings[0]


@pytest.mark.parametrize("name", ["missing.nii.gz", "scan.nii/inside.nii", "nul\0.nii", "x" * 300])
def test_no_such_file(put, tmp_path, name):
    put(RAW)
    with pytest.raises(ScanError, match=r"no such file|cannot be read"):
        formats.read(tmp_path / name)


def test_a_folder_a_pipe_and_a_device_are_no_scans(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    for path in (tmp_path, tmp_path / "pipe.nii", Path("/dev/zero")):
        with pytest.raises(ScanError, match=r"a folder|not a regular file"):
            formats.read(path)


def test_more_than_memory_is_refused_before_it_is_asked_for(put, monkeypatch):
    monkeypatch.setattr("monet_edge.limits.available", lambda: 1000)
    with pytest.raises(ResourceError, match=r"scan\.nii: the volume needs 0 MB of memory, 0 MB are available"):
        formats.read(put(RAW))


def test_every_changed_byte_of_a_gzip_stream_is_found_as_zlib_finds_it(put, library):
    """Header, trees, literals, checksum and size; and every length that a truncated file may have."""
    raw = gzip.compress(RAW, 6, mtime=0)
    broken = [
        raw[:i] + bytes([raw[i] ^ change]) + raw[i + 1 :] for i in [*range(64), *range(len(raw) - 24, len(raw))] for change in (1, 128, 255)
    ]
    for data in [raw, *broken, *(raw[:-i] for i in range(1, 24))]:
        try:
            member = zlib.decompressobj(31)
            whole = member.decompress(data) == RAW and member.eof
        except zlib.error:
            whole = False
        try:
            found = formats.read(put(data, "scan.nii.gz")).voxels.tobytes("F") == head().tobytes("F")
        except ScanError:
            found = False
        assert found == whole
