"""NRRD and MetaImage in: what is read is what was stored, on the grid that others see, and what is wrong is one clear line."""

from itertools import product

import nibabel
import numpy as np
import pytest
from conftest import DATA, needs_data
from fuzz.build import OBLIQUE, gz, head, mha, nifti, nrrd
from fuzz.build import PACKINGS as BYTES
from scans import DTYPES, ORIENTATIONS, refused, reoriented

from monet_edge import formats, pipeline
from monet_edge.errors import OutputError, ResourceError, ScanError
from monet_edge.runs import find_scans

BUILD = {"nrrd": nrrd, "mha": mha}
PACKINGS = [
    ("nrrd", "raw"),
    ("nrrd", "gzip"),
    ("nrrd", "bzip2"),
    ("nrrd", "text"),
    ("mha", "raw"),
    ("mha", "zlib"),
    ("mha", "gzip"),
    ("mha", "text"),
]
DETACHED = {"nrrd": ("scan.nhdr", "scan.raw.gz"), "mha": ("scan.mhd", "scan.zraw")}


@pytest.fixture
def names(tmp_path):
    """Write the two halves that a builder gives, and give the header's path."""

    def write(kind, **options):
        header, voxels = (tmp_path / name for name in DETACHED[kind])
        for path, raw in zip((header, voxels), BUILD[kind](file=options.pop("file", voxels.name), **options), strict=True):
            path.write_bytes(raw)
        return header

    return write


def same(scan, voxels, affine=OBLIQUE):
    np.testing.assert_array_equal(scan.voxels, voxels)
    assert scan.voxels.dtype == voxels.dtype
    assert scan.voxels.dtype.isnative
    assert scan.voxels.flags.f_contiguous
    assert not scan.voxels.flags.writeable
    np.testing.assert_allclose(scan.affine, affine, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "packing"), PACKINGS)
def test_every_dtype_order_and_packing(put, names, kind, packing, dtype, order):
    voxels = head(dtype=dtype)
    for path in (
        put(BUILD[kind](voxels, packing=packing, order=order), f"scan.{kind}"),
        names(kind, voxels=voxels, packing=packing, order=order),
    ):
        scan = formats.read(path)
        same(scan, voxels)
        assert scan.warnings == ()
        assert scan.oriented
        assert formats.peek(path).shape == voxels.shape


@pytest.mark.parametrize("kind", BUILD)
def test_every_orientation_lies_where_nifti_puts_it(put, kind):
    for orientation in ORIENTATIONS:
        voxels, affine = reoriented(head(), OBLIQUE, orientation)
        same(formats.read(put(BUILD[kind](voxels, affine), f"scan.{kind}")), voxels, affine)


@pytest.mark.parametrize(("space", "signs"), [("RAS", (1, 1)), ("left-anterior-superior", (-1, 1)), ("LPS", (-1, -1))])
def test_spaces_of_nrrd(put, space, signs):
    """A world of another name has other signs, not another place."""
    world = np.diag([-signs[0], -signs[1], 1, 1]) @ OBLIQUE  # which `nrrd` turns into that space's numbers
    same(formats.read(put(nrrd(affine=world, fields={"space": space}), "scan.nrrd")), head())


@pytest.mark.parametrize("kind", BUILD)
def test_one_of_several_volumes_wherever_their_axis_is(put, kind):
    several = np.stack([head(seed=i) for i in range(3)], axis=-1)
    first = np.moveaxis(several, -1, 0)
    if kind == "nrrd":
        vectors = [f"({x},{y},{z})" for x, y, z in np.eye(3)]
        inside = np.moveaxis(several, -1, 1)
        raws = [nrrd(several), *(
            nrrd(array, fields={"space directions": " ".join([*vectors[:at], "none", *vectors[at:]]), "kinds": None})
            for array, at in ((first, 0), (inside, 1)))]  # fmt: skip
    else:
        channels = {
            "NDims": 3,
            "DimSize": "12 10 6",
            "ElementNumberOfChannels": 3,
            "TransformMatrix": None,
            "ElementSpacing": "1 1 1",
            "Offset": None,
        }
        raws = [mha(several), mha(first, fields=channels)]
    for raw in raws:
        path = put(raw, f"scan.{kind}")
        for i in range(3):
            np.testing.assert_array_equal(formats.read(path, i).voxels, several[..., i])
        with pytest.raises(ScanError, match=r"holds 3 volumes of 12x10x6, expected one. Choose one with volume 0 to volume 2"):
            formats.read(path)


def test_many_interleaved_volumes_are_taken_apart_chunk_by_chunk(put, monkeypatch):
    monkeypatch.setattr("monet_edge.formats.raster._CHUNK", 64)
    several = np.stack([head(seed=i) for i in range(5)])
    vectors = "none (1,0,0) (0,1,0) (0,0,1)"
    path = put(nrrd(several, fields={"space directions": vectors, "kinds": None}), "scan.nrrd")
    for i in range(5):
        np.testing.assert_array_equal(formats.read(path, i).voxels, several[i])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 5), (30, 17, 1), (3000, 17, 2)])
@pytest.mark.parametrize("kind", BUILD)
def test_any_shape(put, kind, shape):
    same(formats.read(put(BUILD[kind](head(shape)), f"scan.{kind}")), head(shape))


def test_two_axes_are_a_single_slice(put):
    plane = head((12, 10, 1))
    flat = nrrd(plane, fields={"dimension": 2, "sizes": "12 10", "kinds": None, "space directions": "(0,2,0) (0,0,3)"})
    plain = {"space": None, "space dimension": 2, "space directions": "(0,2) (3,0)", "space origin": "(1,2)"}
    plain = nrrd(plane, fields={"dimension": 2, "sizes": "12 10", "kinds": None, **plain})
    turned = {"TransformMatrix": "0 1 -1 0", "ElementSpacing": "2 3", "Offset": "5 6"}
    meta = mha(plane, fields={"NDims": 2, "DimSize": "12 10", **turned})
    for raw, name in ((flat, "scan.nrrd"), (plain, "scan.nrrd"), (meta, "scan.mha")):
        scan = formats.read(put(raw, name))
        np.testing.assert_array_equal(scan.voxels, plane)
        assert np.round(scan.spacing, 6).tolist() == [2, 3, 1]


@pytest.mark.parametrize(
    ("lines", "skip", "packing"),
    [(3, 0, "raw"), (0, 7, "raw"), (2, 5, "raw"), (3, 0, "gzip"), (0, -1, "raw"), (0, -1, "gzip"), (1, 6, "bzip2")],
)
def test_lines_are_skipped_before_unpacking_and_bytes_after(names, lines, skip, packing):
    """As teem does; -1 takes the last bytes."""
    voxels = head()
    inside = bytes(abs(skip) * 9 if skip < 0 else skip) + voxels.tobytes("F")
    packed = BYTES[packing](inside)
    path = names("nrrd", packing=packing, fields={"line skip": lines, "byteskip": skip}, data=b"a line\n" * lines + packed)
    same(formats.read(path), voxels)


@pytest.mark.parametrize("skip", [0, 9, -1])
def test_the_header_size_of_metaimage_is_passed_over(names, skip):
    path = names("mha", packing="raw", fields={"HeaderSize": skip}, data=bytes(9 if skip else 0) + head().tobytes("F"))
    same(formats.read(path), head())


def test_a_file_with_line_ends_of_windows_is_read(put):
    raw = nrrd()
    end = raw.index(b"\n\n") + 2
    same(formats.read(put(raw[:end].replace(b"\n", b"\r\n") + raw[end:], "scan.nrrd")), head())
    raw = mha()
    end = raw.index(b"LOCAL\n") + 6
    same(formats.read(put(raw[:end].replace(b"\n", b"\r\n") + raw[end:], "scan.mha")), head())


def test_they_are_known_by_their_content(put):
    same(formats.read(put(nrrd(), "export.dat")), head())
    same(formats.read(put(mha(), "export.dat")), head())


def test_text_is_read_with_commas_infinities_and_no_last_line_end(put):
    voxels = np.array([1.5, -np.inf, np.nan, 1e30], np.float32).reshape(4, 1, 1)
    same(formats.read(put(nrrd(voxels, packing="text", data=b" 1.5,-inf\n NaN  1e30"), "scan.nrrd")), voxels)


def test_all_files_of_a_scan_are_in_its_header_and_no_result_may_replace_one(names, tmp_path, weights_file):
    path = names("nrrd", file="voxels.nrrd", packing="raw")
    (tmp_path / "scan.raw.gz").rename(tmp_path / "voxels.nrrd")
    assert formats.peek(path).files == (path, tmp_path / "voxels.nrrd")
    with pytest.raises(OutputError, match="is the input itself"):
        pipeline.segment(path, tmp_path / "voxels.nrrd", model=weights_file, overwrite=True)


def test_a_folder_s_scans_of_all_formats_are_found_and_segmentations_are_not(put, tmp_path):
    for name, raw in (("a.nii", nifti()), ("b.NRRD", nrrd()), ("c.mha", mha()), ("e.seg.nrrd", nrrd(keys="Segment0_ID:=Segment_1\n"))):
        put(raw, name)
    formats.write(tmp_path / "d.nrrd", np.zeros(head().shape, np.uint8), formats.read(tmp_path / "a.nii"))
    assert [one.scan.name for one in find_scans([tmp_path])] == ["a.nii", "b.NRRD", "c.mha"]
    assert [formats.stem(tmp_path / name) for name in ("b.NRRD", "x.seg.nrrd", "c.mhd")] == ["b", "x", "c"]


@pytest.mark.parametrize("kind", BUILD)
def test_the_mask_is_that_of_the_same_scan_in_nifti(put, weights_file, kind):
    voxels = head((32, 32, 4))
    ref = pipeline.segment(put(nifti(voxels), "ref.nii"), model=weights_file)
    comp = pipeline.segment(put(BUILD[kind](voxels), f"scan.{kind}"), model=weights_file)
    ref, comp = (nibabel.load(outcome.job.mask) for outcome in (ref, comp))
    np.testing.assert_array_equal(np.asarray(comp.dataobj), np.asarray(ref.dataobj))
    np.testing.assert_allclose(comp.affine, ref.affine, atol=1e-4)


# ---- what is refused, and the words of the refusal ----

BOMB = {"sizes": "32767 32767 32767"}
NO_SPACE = {"space": None, "space directions": None, "space origin": None}
RAW, GZ, MHA = nrrd(packing="raw"), nrrd(), mha()
BROKEN = {
    "1 wrong gzip checksum": (GZ[:-8] + bytes(4) + GZ[-4:], "damaged"),
    "1 wrong zlib checksum": (MHA[:-4] + bytes(4), "damaged"),
    "1 wrong bzip2 checksum": ((raw := nrrd(packing="bzip2"))[:-8] + bytes(4) + raw[-4:], "damaged"),
    "1 not the compression it says": (nrrd(packing="gzip", data=b"BZh9"), "not compressed by gzip"),
    "2 truncated gzip": (GZ[:-9], "truncated"),
    "2 truncated zlib": (MHA[:-9], "truncated"),
    "2 truncated bzip2": (raw[:-9], "truncated"),
    "2 gzip of too little": (nrrd(data=gz(head().tobytes("F")[:-5])), r"\(1,440 bytes\), the decompressed data ends after 1,435"),
    "2 gzip of too much": (nrrd(data=gz(head().tobytes("F") + b"1")), "holds more: the header is wrong"),
    "4 truncated": (RAW[:-5], r"promises 12x10x6 int16 \(1,440 bytes\), the file ends after 1,435: it is truncated"),
    "4 truncated text": (nrrd(packing="text", data=b"1 2 3"), "5 bytes of text cannot hold|ends after 6"),
    "4 a slice too many": (RAW + bytes(240), "the header is wrong"),
    "4 truncated MetaImage": (mha(packing="raw")[:-5], "the file ends after 1,435"),
    "5 bomb": (nrrd(packing="raw", fields=BOMB), "promises 32767x32767x32767"),
    "5 bomb, gzip": (nrrd(fields=BOMB), "compressed bytes cannot hold"),
    "5 bomb, text": (nrrd(packing="text", fields=BOMB), "bytes of text cannot hold"),
    "5 bomb, zlib": (mha(fields={"DimSize": "32767 32767 32767"}), "compressed bytes cannot hold"),
    "6 negative size": (nrrd(fields={"sizes": "12 -10 6"}), "3 whole numbers of at least 1"),
    "6 zero size": (mha(fields={"DimSize": "12 0 6"}), "3 whole numbers of at least 1"),
    "6 a size missing": (nrrd(fields={"sizes": "12 10"}), "3 whole numbers"),
    "6 no dimension": (nrrd(fields={"dimension": "0"}), "dimension is '0'"),
    "6 eight dimensions of NRRD": (nrrd(fields={"dimension": 8, "sizes": "1 " * 8}), "8 dimensions"),
    "6 no DimSize": (mha(fields={"DimSize": None}), "does not say its DimSize"),
    "6 no number of dimensions": (mha(fields={"NDims": "three"}), "NDims is 'three'; expected a whole number"),
    "6 channels and volumes": (mha(np.zeros((2, 2, 2, 3), np.int16), fields={"ElementNumberOfChannels": 2}), "3 volumes of 2 channels"),
    "6 volumes on both sides": (
        nrrd(
            np.zeros((2, 3, 4, 5, 2), np.int16),
            fields={"space directions": "none (1,0,0) (0,1,0) (0,0,1) none", "kinds": None},
        ),
        "axes on both sides of an axis of space",
    ),
    "6 eight dimensions": (mha(fields={"NDims": 8, "DimSize": "1 1 1 1 1 1 1 1"}), "8 dimensions"),
    "8 colours": (
        nrrd(
            np.zeros((3, 4, 4, 4), np.uint8),
            fields={"space directions": "none (1,0,0) (0,1,0) (0,0,1)", "kinds": "RGB-color domain domain domain"},
        ),
        "RGB-color of 3 numbers",
    ),
    "8 unknown type": (nrrd(fields={"type": "block"}), "type is 'block'; expected"),
    "8 unknown element": (mha(fields={"ElementType": "MET_STRING"}), "ElementType is 'MET_STRING'"),
    "8 no byte order": (nrrd(fields={"endian": None}), "does not say its endian"),
    "8 unknown encoding": (nrrd(fields={"encoding": "hex"}), "encoding is 'hex'; expected raw, gzip"),
    "8 not an image": (mha(fields={"ObjectType": "Mesh"}), "object of type Mesh"),
    "11 singular": (nrrd(fields={"space directions": "(1,0,0) (2,0,0) (0,0,1)"}), "space directions is singular"),
    "11 NaN": (nrrd(fields={"space directions": "(nan,0,0) (0,1,0) (0,0,1)"}), "expected numbers"),
    "11 huge": (nrrd(fields={"space directions": "(1e300,0,0) (0,1,0) (0,0,1)"}), "singular or not finite"),
    "11 tiny": (nrrd(fields={"space directions": "(1e-50,0,0) (0,1,0) (0,0,1)"}), "voxels of 1e-50, 1, 1 mm"),
    "11 far away": (mha(fields={"Offset": "0 1e50 0"}), r"begin at -?0, -1e\+50, 0 mm"),
    "11 no vectors": (nrrd(fields={"space directions": "1 1 1"}), "expected vectors of 3 numbers"),
    "11 too few": (nrrd(fields={"space directions": "(1,0,0) (0,1,0)"}), "2 space directions for 3 axes"),
    "11 of a plane": (nrrd(fields={"space directions": "(1,0) (0,1) (1,1)"}), "expected vectors of 3 numbers"),
    "11 four dimensions": (nrrd(fields={"space": None, "space dimension": 4}), "space dimension is '4'; expected 3"),
    "11 origin": (nrrd(fields={"space origin": "none"}), "space origin is 'none'"),
    "11 unknown space": (nrrd(fields={"space": "left-posterior-superior-time"}), "expected right-anterior-superior"),
    "11 MetaImage singular": (mha(fields={"TransformMatrix": "1 0 0 1 0 0 0 0 1"}), "TransformMatrix is singular"),
    "11 MetaImage nine numbers": (mha(fields={"TransformMatrix": "1 0 0 1"}), "expected 9 numbers"),
    "11 one axis of space": (nrrd(fields={"space directions": "(1,0,0) none none", "kinds": None}), "1 axes of space; expected 3"),
    "11 kinds": (nrrd(fields={"kinds": "domain domain"}), "2 kinds for 3 axes"),
    "11 spacings too few": (nrrd(fields=NO_SPACE | {"spacings": "1 2"}), "2 spacings for 3 axes"),
    "11 spacings negative": (nrrd(fields=NO_SPACE | {"spacings": "1 -2 3"}), "spacings are '1 -2 3'; expected numbers above 0"),
    "11 spacing negative": (mha(fields={"ElementSpacing": "1 -1 1"}), "expected numbers above 0"),
    "11 spacing NaN": (mha(fields={"ElementSpacing": "1 nan 1"}), "expected 3 numbers"),
    "15 skip": (nrrd(fields={"byte skip": "-5"}), "byteskip is '-5'"),
    "15 skip huge": (nrrd(packing="raw", fields={"byte skip": "999999999"}), "truncated"),
    "15 skip of what is compressed": (mha(fields={"HeaderSize": "5"}), "HeaderSize is 5, of voxels that are zlib; expected 0"),
    "15 neither true nor false": (mha(fields={"CompressedData": "perhaps"}), "CompressedData is 'perhaps'; expected True or False"),
    "15 line skip negative": (nrrd(fields={"line skip": "-1"}), "lineskip is '-1'"),
    "16 endless header": (b"NRRD0004\n" + b"# more and more\n" * 300_000, "longer than"),
    "16 endless MetaImage header": (b"NDims = 3\n" + b"More = 1\n" * 600_000, "twice|longer than"),
    "16 strange line": (nrrd(keys="spacingz: 1 1 1\n"), "has the line 'spacingz: 1 1 1'"),
    "16 strange line of MetaImage": (mha(fields={"DimSize": "12\nten 6"}), "expected Key = Value"),
    "16 a field twice": (nrrd(keys="sizes: 1 1 1\n"), "expected one"),
    "16 a field twice of MetaImage": (mha(fields={"Position": "1 2 3"}), "Offset twice"),
    "17 another version": (b"NRRD0009\n" + GZ[9:], "NRRD0001 to NRRD0006"),
    "17 text": (b"NRRD0 is not a scan", "not a NRRD file"),
    "17 no more than a header": (b"NRRD0004\ntype: short\n", "does not say its dimension"),
    "17 no more than a line": (b"NDims = 3\n", "does not say its ElementDataFile"),
    "17 gzip as a whole": (gz(RAW), "gzip as a whole"),
    "a word among numbers": (nrrd(packing="text", data=b"1 2 three" + b" 4" * 800), "expected int16, found 'three'"),
    "a number too large": (nrrd(packing="text", data=b"70000 " * 720), "a number that int16 does not have"),
    "an endless number": (nrrd(packing="text", data=b"7" * 100_000), "expected int16, found '7777"),
    "several files": (nrrd(fields={"data file": "LIST"}), "in several files"),
    "several numbered files": (nrrd(fields={"data file": "scan%03d.raw 1 6 1"}), "in several files"),
    "several files of MetaImage": (mha(fields={"ElementDataFile": "LIST"}), "in several files"),
    "numbered files of MetaImage": (mha(fields={"ElementDataFile": "scan%03d.raw 1 6 1"}), "in several files"),
}  # fmt: skip


@pytest.mark.parametrize("row", BROKEN)
def test_refused(put, row):
    raw, message = BROKEN[row]
    refused(put(raw, "scan.dat"), message)


def test_a_name_alone_makes_no_metaimage(put):
    with pytest.raises(ScanError, match="it does not begin with a line such as NDims = 3"):
        formats.read(put(bytes(99), "scan.mha"))


@pytest.mark.parametrize("name", ["../secret.raw", "/etc/passwd", "a/../../secret.raw", "nul\0.raw", "..", "."])
@pytest.mark.parametrize("kind", BUILD)
def test_a_header_may_not_name_a_file_outside_its_folder(names, kind, name):
    with pytest.raises(ScanError, match="outside its folder"):
        formats.peek(names(kind, file=name))


@pytest.mark.parametrize("kind", BUILD)
def test_voxels_below_the_header_s_folder_and_behind_a_link_are_read_as_those_of_nifti_s_pairs(names, tmp_path, kind):
    path = names(kind, file="voxels/scan.raw")
    with pytest.raises(ScanError, match=r"voxels/scan\.raw: no such file"):
        formats.peek(path)
    (tmp_path / "voxels").mkdir()
    (tmp_path / "voxels" / "scan.raw").symlink_to(tmp_path / DETACHED[kind][1])
    same(formats.read(path), head())


@pytest.mark.parametrize("kind", BUILD)
def test_more_than_memory_is_refused_before_it_is_asked_for(put, monkeypatch, kind):
    monkeypatch.setattr("monet_edge.limits.available", lambda: 1000)
    with pytest.raises(ResourceError, match="the volume needs 0 MB of memory"):
        formats.read(put(BUILD[kind](), f"scan.{kind}"))


@pytest.mark.parametrize("kind", BUILD)
def test_voxels_that_change_after_their_header_was_read_are_refused(names, tmp_path, kind):
    header = formats.peek(names(kind))
    names(kind, data=bytes(99))
    with pytest.raises(ScanError, match="it has changed since its header was read"):
        formats.read(header)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (RAW + b"more", "4 bytes after the end"),
        (GZ + b"more", "4 bytes after the end"),
        (MHA + b"more", "4 bytes after the end"),
        (nrrd(fields={"space": None, "space directions": None, "spacings": "1 2 3", "space origin": None}), "orientation is unknown"),
        (nrrd(fields={"space": None, "space dimension": 3}), "orientation is unknown"),
        (nrrd(fields={"space units": '"m" "m" "m"'}), "claim to be in m; they are taken as mm"),
        (mha(fields={"TransformMatrix": None}), "orientation is unknown"),
        (mha(fields={"ElementSpacing": None}), "voxel size is unknown"),
    ],
)  # fmt: skip
def test_read_with_a_warning(put, raw, message):
    scan = formats.read(put(raw, "scan.dat"))
    np.testing.assert_array_equal(scan.voxels, head())
    assert len(scan.warnings) == 1
    assert message in scan.warnings[0]
    assert scan.oriented == ("orientation" not in message)


@pytest.mark.usefixtures("library")
def test_every_changed_byte_of_zlib_s_is_found(put):
    """Also of its header, which ISA-L believes less of than zlib does."""
    raw = mha()
    start = raw.index(b"LOCAL\n") + 6
    for at, change in product([*range(start, start + 40), *range(len(raw) - 12, len(raw))], (1, 32, 128)):
        path = put(raw[:at] + bytes([raw[at] ^ change]) + raw[at + 1 :], "scan.mha")
        try:
            found = formats.read(path).voxels
        except ScanError:
            continue
        np.testing.assert_array_equal(found, head())  # zlib's own header has bits that change nothing


@needs_data
def test_real_files():
    """All encodings of one ball, and a CT of a lung."""
    folder = DATA / "dicom"
    ref = nibabel.load(folder / "nrrd" / "BallBinary30x30x30.nii.gz")
    balls = [path for path in (folder / "nrrd").glob("Ball*") if path.suffix in (".nrrd", ".nhdr") and "five" not in path.name]
    assert len(balls) > 6
    for path in balls:
        if path.name == "BallBinary30x30x30_nifti.nhdr":  # forgets to pass over NIfTI's header
            with pytest.raises(ScanError, match="the header is wrong"):
                formats.read(path)
        else:
            same(formats.read(path), np.asarray(ref.dataobj), ref.affine)
    lung = formats.read(folder / "metaimage" / "3DCT_lung_baseline_small.mha")
    assert (lung.shape, lung.spacing) == ((57, 78, 64), (2.732, 2.732, 5.0))
    assert lung.affine[:3, 3].tolist() == [152.461, 148.986, -1432]
    assert -1200 < lung.voxels.min() < -900
