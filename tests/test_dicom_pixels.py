"""DICOM's pixels: every way to store and to scale them, and what of them is refused."""

import dicoms
import numpy as np
import pytest
from pydicom.uid import UID, JPEGLSLossless
from scans import blob

from monet_edge import formats
from monet_edge.errors import ScanError
from monet_edge.formats.dicom import codestream, lossless


@pytest.mark.parametrize("syntax", [*dicoms.NATIVE, *dicoms.COMPRESSED], ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8"])
def test_every_transfer_syntax_has_the_same_voxels(syntax, dtype, tmp_path, rng):
    voxels = rng.integers(0, 200, (40, 36, 3)).astype(dtype)
    voxels[:5] = -700 if dtype == "int16" else 0
    scan = formats.read(dicoms.write(tmp_path, voxels, syntax=syntax))
    assert scan.dtype == dtype
    assert np.array_equal(scan.voxels, voxels)


def test_jpeg_is_read_as_it_was_lossily_stored(tmp_path, rng):
    import io

    from PIL import Image

    voxels, ref = blob(rng, (32, 32, 2)).clip(0, 255).astype(np.uint8), []
    for number, dataset in enumerate(dicoms.slices(voxels)):
        stream = io.BytesIO()
        Image.fromarray(voxels[:, :, number].T.copy()).save(stream, "JPEG", quality=90)
        ref.append(np.asarray(Image.open(stream)).T)
        dicoms.save(dataset, tmp_path / "native")
        written = dicoms.pydicom.dcmread(tmp_path / "native")
        (tmp_path / "native").unlink()
        written.PixelData = dicoms.pydicom.encaps.encapsulate([stream.getvalue()])
        written["PixelData"].VR = "OB"
        written.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.50")
        written.save_as(tmp_path / f"IM{number}", enforce_file_format=True)
    assert np.array_equal(formats.read(tmp_path).voxels, np.stack(ref, 2))


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_lossless_gives_every_pixel_back(predictor, bits, rng):
    pixels = rng.integers(0, 1 << bits, (7, 9), np.uint16)
    pixels[3:] = np.arange(9) * 20 % (1 << bits)
    assert np.array_equal(lossless.decode(dicoms.jpeg_lossless(pixels, bits, predictor)), pixels)


def test_jpeg_lossless_has_codes_of_any_length_and_restarts(rng):
    pixels = rng.integers(0, 60000, (8, 6), np.uint16)
    pixels[0, :2] = 0, 32768  # the difference that has no bits of its own
    unary = (*range(1, 16), 16, 16)
    for options in ({"lengths": unary}, {"restart": 12}, {"restart": 6, "predictor": 4}, {"lengths": unary, "restart": 48}):
        assert np.array_equal(lossless.decode(dicoms.jpeg_lossless(pixels, 16, **options)), pixels), options


def test_jpeg_lossless_that_ends_too_early_is_refused(rng):
    stream = dicoms.jpeg_lossless(rng.integers(0, 60000, (8, 6), np.uint16))
    for end in range(2, len(stream) - 4):
        with pytest.raises(ScanError, match="JPEG Lossless data"):
            lossless.decode(stream[:end])


def test_jpeg_lossless_of_another_kind_is_refused(rng):
    stream = dicoms.jpeg_lossless(rng.integers(0, 60000, (8, 6), np.uint16), restart=12)
    frame, scan = b"\xff\xc3\0\x0b\x10", b"\xff\xda\0\x08\x01\x01\0\x01"
    for old, new, words in (
        (frame, frame[:-1] + b"\x11", "not of one component of 2 to 16 bits"),
        (scan, scan[:-1] + b"\x08", "uses predictor 8, shift 0; expected predictors 1 to 7"),
    ):
        assert stream.count(old) == 1
        with pytest.raises(ScanError, match=words):
            lossless.decode(stream.replace(old, new))
    with pytest.raises(ScanError, match="ends too early: it is truncated"):
        lossless.decode(stream[: stream.index(b"\xff\xd1")] + b"\xff\xd9")


def test_a_stream_of_another_size_is_not_decoded(tmp_path, rng):
    """A few bytes can promise 65535x65535 pixels."""
    for syntax in dicoms.COMPRESSED[1:]:
        folder = dicoms.write(tmp_path / syntax.keyword, blob(rng, (40, 36, 2)), syntax=syntax)
        for file in folder.iterdir():
            raw = file.read_bytes()
            sizes = (36).to_bytes(4, "big") if syntax.keyword == "JPEG2000Lossless" else (36).to_bytes(2, "big")
            at = raw.index(sizes, raw.index(b"\xff\x4f\xff\x51" if len(sizes) == 4 else b"\xff\xd8\xff"))
            file.write_bytes(raw[:at] + b"\xff" * 2 + raw[at + 2 :])
        with pytest.raises(ScanError, match=r"the header promises 40x36 pixels of 16 bits, the data (40x|nothing)"):
            formats.read(folder)


def test_jpeg_ls_that_has_lost_its_end_is_not_decoded(tmp_path, rng):
    """CharLS says so, too, but takes seconds where what is left looks like a long code."""
    folder = dicoms.write(tmp_path / "a", blob(rng, (40, 36, 2)), syntax=JPEGLSLossless)
    assert formats.read(folder).shape == (40, 36, 2)
    for file in folder.iterdir():
        raw = file.read_bytes()
        end = raw.rindex(b"\xff\xd9")
        file.write_bytes(raw[:end] + b"\x7f\x7f" + raw[end + 2 :])
    with pytest.raises(ScanError, match="JPEG-LS data does not end as it must"):
        formats.read(folder)


def test_the_sizes_of_streams_are_found_before_they_are_decoded():
    assert codestream.promise(b"") is None
    assert codestream.promise(b"\xff\xd8\xff\xc3\x00") is None
    assert codestream.promise(dicoms.jpeg_lossless(np.zeros((3, 5), np.uint16), 12)) == (3, 5, 1, 12)
    tiles = b"\xff\x4f\xff\x51" + bytes(4) + b"".join(n.to_bytes(4, "big") for n in (512, 512, 0, 0, 1, 1, 0, 0)) + b"\0\1\x0f"
    assert codestream.promise(tiles) is None  # a tile for every pixel


# ---- intensities ----


def intensities(folder):
    scan = formats.read(folder)
    return scan.voxels * scan.slope + scan.inter


def test_one_scale_for_all_slices_leaves_them_as_stored(tmp_path, rng):
    voxels = blob(rng)
    scan = formats.read(dicoms.write(tmp_path, voxels, RescaleSlope="2", RescaleIntercept="-1024"))
    assert (scan.dtype, scan.slope, scan.inter) == (np.int16, 2, -1024)
    assert np.array_equal(scan.voxels, voxels)


def test_every_slice_has_its_own_scale(tmp_path, rng):
    voxels, slopes = blob(rng), [f"{1 + z / 8}" for z in range(9)]
    folder = dicoms.write(tmp_path, voxels, modality="PT", RescaleSlope=slopes, RescaleIntercept=[str(z) for z in range(9)])
    assert np.allclose(intensities(folder), voxels * (1 + np.arange(9) / 8) + np.arange(9), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["uint16", "int16"])
def test_bits_above_those_stored_are_no_intensity(dtype, tmp_path, rng):
    voxels = rng.integers(-2048 if dtype == "int16" else 0, 2048 if dtype == "int16" else 4096, (30, 26, 3)).astype(dtype)
    dirty = (voxels & 0x0FFF) | (rng.integers(0, 16, voxels.shape).astype(np.uint16) << 12).view(dtype)
    folder = dicoms.write(tmp_path, dirty.astype(dtype), BitsStored=12, HighBit=11)
    assert np.array_equal(intensities(folder), voxels)


def test_signed_and_unsigned_slices_make_one_volume(tmp_path, rng):
    voxels = blob(rng)
    for number, dataset in enumerate(dicoms.slices(voxels)):
        if number % 2:
            dicoms.put_pixels(dataset, voxels[:, :, number].T.astype(np.uint16))
        dicoms.save(dataset, tmp_path / f"IM{number}")
    assert np.array_equal(intensities(tmp_path), voxels)


def test_monochrome1_is_turned_unless_its_values_are_physical(tmp_path, rng):
    voxels = blob(rng).astype(np.uint16)
    turned = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    turned |= {"RescaleSlope": "2", "RescaleIntercept": "-10"}
    folder = dicoms.write(tmp_path / "mr", 4095 - voxels, **turned)
    assert np.array_equal(intensities(folder), voxels * 2.0 - 10)
    assert "MONOCHROME1: its intensities were inverted, so that high ones are bright" in formats.read(folder).warnings
    folder = dicoms.write(tmp_path / "ct", voxels, modality="CT", **turned)
    assert np.array_equal(intensities(folder), voxels * 2.0 - 10)
    assert "physical" in formats.read(folder).warnings[0]


def test_padding_is_as_dark_as_the_darkest_pixel(tmp_path, rng):
    voxels = blob(rng) + 30
    padded = voxels.copy()
    padded[:6] = 32767
    comp = intensities(dicoms.write(tmp_path / "bright", padded, PixelPaddingValue=32767))
    assert (comp[:6] == voxels[6:].min()).all()
    assert np.array_equal(comp[6:], voxels[6:])
    comp = intensities(dicoms.write(tmp_path / "range", padded, PixelPaddingValue=32000, PixelPaddingRangeLimit=32767))
    assert (comp[:6] == voxels[6:].min()).all()
    padded[:6] = -2000
    assert np.array_equal(intensities(dicoms.write(tmp_path / "dark", padded, PixelPaddingValue=-2000)), padded)


# ---- memory, change, refusal ----


@pytest.mark.parametrize("syntax", [dicoms.ExplicitVRLittleEndian, dicoms.COMPRESSED[0]], ids=lambda uid: uid.keyword)
def test_a_volume_is_held_once_and_a_slice_besides(syntax, tmp_path, rng):
    import tracemalloc

    header = formats.peek(dicoms.write(tmp_path, rng.integers(0, 9, (256, 256, 60)).astype(np.int16), syntax=syntax))
    formats.read(header)  # imports what it needs
    tracemalloc.start()
    scan = formats.read(header)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < scan.voxels.nbytes + 12 * scan.voxels[:, :, 0].nbytes


def test_a_deflated_bomb_is_refused(tmp_path, rng, monkeypatch):
    folder = dicoms.write(tmp_path, np.zeros((300, 300, 2), np.int16), syntax=dicoms.DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr("monet_edge.formats.dicom.deflated.MOST_INFLATED", 100_000)
    with pytest.raises(ScanError, match="it inflates to more than"):
        formats.peek(folder)


def test_a_file_that_changed_since_its_header_was_read_is_refused(tmp_path, rng):
    folder = dicoms.write(tmp_path, blob(rng))
    header = formats.peek(folder)
    file = folder / "IM0003"
    file.write_bytes(file.read_bytes() + b"\0\0")
    with pytest.raises(ScanError, match="IM0003 has changed since its header was read"):
        formats.read(header)


@pytest.mark.parametrize("syntax", [*dicoms.NATIVE, *dicoms.COMPRESSED], ids=lambda uid: uid.keyword)
def test_a_file_that_was_cut_is_refused(syntax, tmp_path, rng):
    folder = dicoms.write(tmp_path, blob(rng, (40, 36, 4)), syntax=syntax)
    file = folder / "IM0003"
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(ScanError, match=r"IM0003.*(too early|the file ends after)"):
        formats.read(folder)


def test_damaged_deflated_data_is_refused(tmp_path, rng):
    folder = dicoms.write(tmp_path, blob(rng), syntax=dicoms.DeflatedExplicitVRLittleEndian)
    whole = (folder / "IM0003").read_bytes()
    # bits of 1 may mean something after what stands before them, identifiers that are new every time, and then they end too early
    damaged = whole[:-900] + b"\xff" * 900, "deflated data (is damaged|ends too early)"
    for raw, words in (damaged, (whole[:140] + bytes(4) + whole[144:], "has no length")):
        (folder / "IM0003").write_bytes(raw)
        with pytest.raises(ScanError, match=words):
            formats.peek(folder)


def test_a_few_bytes_of_rle_hold_no_large_frame(tmp_path, rng):
    folder = dicoms.write(tmp_path, blob(rng), syntax=dicoms.COMPRESSED[0])
    for file in folder.iterdir():
        raw = file.read_bytes()
        for tag in (b"\x28\0\x10\0US\x02\0", b"\x28\0\x11\0US\x02\0"):  # rows, columns
            at = raw.index(tag) + len(tag)
            raw = raw[:at] + b"\xff\x7f" + raw[at + 2 :]
        file.write_bytes(raw)
    with pytest.raises(ScanError, match="bytes cannot hold 32767x32767 pixels: it is corrupt"):
        formats.read(folder)


def test_native_pixels_that_call_themselves_compressed_are_refused(tmp_path, rng):
    folder = dicoms.write(tmp_path, blob(rng))
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes().replace(b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x14\x001.2.840.10008.1.2.5\0"))
    with pytest.raises(ScanError, match="its compressed pixels have a length"):
        formats.read(folder)


def test_bytes_that_were_added_to_the_pixels_are_noticed(tmp_path, rng):
    folder = dicoms.write(tmp_path, blob(rng))
    file = folder / "IM0003"
    file.write_bytes(file.read_bytes()[:-100] + bytes(33) + file.read_bytes()[-100:])
    with pytest.raises(ScanError, match="what follows its pixels is no element"):
        formats.read(folder)


def test_what_cannot_be_decoded_is_named(tmp_path, rng):
    for number, dataset in enumerate(dicoms.slices(blob(rng))):
        dicoms.save(dataset, tmp_path / f"IM{number}")
        raw = (tmp_path / f"IM{number}").read_bytes()
        (tmp_path / f"IM{number}").write_bytes(raw.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.100\0", 1)[:132] + _meta(raw))
    with pytest.raises(ScanError, match=r"compressed as MPEG2 .*, which cannot be decoded"):
        formats.peek(tmp_path)


def _meta(raw):
    """The rest of a file whose transfer syntax is another, four bytes longer."""
    old, new = b"\x02\x00\x10\x00UI\x14\x00" + b"1.2.840.10008.1.2.1\0", b"\x02\x00\x10\x00UI\x18\x00" + b"1.2.840.10008.1.2.4.100\0"
    length = int.from_bytes(raw[140:144], "little") + 4
    return (raw[132:140] + length.to_bytes(4, "little") + raw[144:]).replace(old, new, 1)


def test_without_the_extra_one_line_says_how_to_install_it(tmp_path, rng):
    import subprocess
    import sys

    folder = dicoms.write(tmp_path / "scan", blob(rng))
    code = "import sys; sys.modules['pydicom'] = None; from monet_edge.__main__ import main; main()"
    for arguments in (["segment", str(folder)], ["series", str(folder)]):
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1
        assert "pip install 'monet-edge[dicom]'" in result.stderr
