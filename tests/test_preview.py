"""The picture: any scan gives one, within bounds and without metadata."""

import nibabel
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from records import make_record
from scans import ball

from monet_edge import formats, phantom
from monet_edge.intensities import measure
from monet_edge.report import preview
from monet_edge.report.slices import Finding, cut, grey, window
from monet_edge.report.statistics import measure as statistics
from monet_edge.volume import Voxels
from monet_edge.volume.labels import COLOURS, colours


def picture_of(voxels, affine, mask, names=("tumour",), warnings=()):
    scan = formats.from_image(nibabel.Nifti1Image(voxels, affine))
    limits = np.nan_to_num(np.percentile(voxels, (1, 99.5)))
    return preview.draw(Finding(scan, mask, statistics(scan, mask, names), tuple(limits), "axial", "a title", warnings))


@pytest.mark.parametrize("shape", [(1, 1, 1), (40, 30, 1), (300, 17, 2), (3, 2, 200), (33, 31, 30)])
@pytest.mark.parametrize("kind", ["ball", "empty", "full"])
def test_any_shape(rng, shape, kind):
    mask = {"ball": ball(shape), "empty": np.zeros(shape, np.uint8), "full": np.ones(shape, np.uint8)}[kind]
    picture = picture_of(rng.integers(0, 99, shape, dtype=np.int16), np.diag([1, 2, 3, 1]), mask, warnings=("long " * 80,))
    assert picture.width < 3 * preview.SIDE + 200
    assert picture.height < 2 * preview.SIDE


@pytest.mark.parametrize("values", [np.nan, np.inf, -1e308, 1e308, 0.0])
@pytest.mark.filterwarnings("error")
def test_any_intensity_is_drawn(values, rng):
    """What is no number, or beyond float32, is black as the background is; it hides nothing of the rest, and not the outline."""
    voxels = rng.normal(0, 1, (9, 9, 9))
    voxels[:, :, 3:] = values
    voxels[4] = 1e308
    scan = formats.from_image(nibabel.Nifti1Image(voxels, np.eye(4)))
    record = make_record("a")
    with np.errstate(all="ignore"):
        limits = window(record, measure(Voxels(scan.voxels)))
    mask = ball(voxels.shape)
    picture = preview.draw(Finding(scan, mask, statistics(scan, mask, ("a",)), limits, "axial", ""))
    assert (np.asarray(picture) == COLOURS[0]).all(axis=-1).any()
    plane = cut(scan, mask, "axial")
    shown = np.stack([np.asarray(grey(plane.voxels[z], limits, (9, 9))) for z in range(9)])
    assert shown[:3].max() > 128
    assert not shown[3:].any()


LATIN = {"Größe der Läsion": "Grosse der Lasion", "naïve – café": "naive - cafe", "Łódź, ı": "Lodz, i", "why?": "why?", "a\x1bb": "a?b"}


@pytest.mark.parametrize(("text", "drawn"), LATIN.items())
def test_accents_are_left_out_where_the_font_has_none(text, drawn):
    assert preview._drawable(text) == drawn
    assert not preview._lacks(text)


NAMES = {"Опухоль": "label 1", "肿瘤": "label 1", "종양 2": "label 1", "ورم": "label 1", "Läsion": "Lasion", "tumour": "tumour"}


@pytest.mark.parametrize(("name", "shown"), NAMES.items())
def test_names_are_drawn_or_numbered_and_never_boxes(rng, monkeypatch, name, shown):
    """The same words as a picture of them, letter by letter; a box is what pillow draws for a letter that the font lacks."""
    texts = []
    draw = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, at, text, *more, **options: (texts.append(text), draw(self, at, text, *more, **options))[1],
    )
    shape = (30, 30, 30)
    picture_of(rng.integers(0, 99, shape, dtype=np.int16), np.eye(4), ball(shape), names=(name,), warnings=(f"{name} is doubtful",))
    assert shown in texts
    assert any("Latin letters only" in text for text in texts) == shown.startswith("label")
    box = bytes(ImageFont.load_default(14).getmask("\U0010ffff"))
    assert all(bytes(ImageFont.load_default(14).getmask(letter)) != box for text in texts for letter in text)


def test_a_swatch_stands_before_its_name(rng, monkeypatch):
    swatches, places = {}, {}
    monkeypatch.setattr(ImageDraw.ImageDraw, "rounded_rectangle", lambda self, box, radius, outline, width: swatches.update({outline: box}))
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, at, text, *more, **options: places.update({text: at}))
    names, shape = ("kidney", "liver", "spleen"), (30, 30, 30)
    picture_of(rng.integers(0, 99, shape, dtype=np.int16), np.eye(4), ball(shape), names=names)
    for name, colour in zip(names, colours(names), strict=True):
        (left, top, right, bottom), (x, y) = swatches[colour], places[name]
        assert left < right < x
        assert y <= top < bottom < y + preview.ROW


@pytest.mark.parametrize(
    ("mm", "shown", "length"), [(0.011, "0.5 mm", 0.5), (0.1, "5 mm", 5), (0.5, "2 cm", 20), (0.6, "5 cm", 50), (3.0, "20 cm", 200)]
)
def test_the_scale_bar_is_as_long_as_it_says(mm, shown, length, monkeypatch):
    places, lines = {}, []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, at, text, *more, **options: places.update({text: at}))
    monkeypatch.setattr(ImageDraw.ImageDraw, "line", lambda self, ends, *more: lines.append(ends))
    pen, font = ImageDraw.Draw(Image.new("RGB", (400, 50))), ImageFont.load_default(14)
    preview._scale_bar(pen, (400, 10), mm, font)
    (ends,) = lines
    assert (max(ends[::2]) - min(ends[::2])) * mm == pytest.approx(length)
    assert length / mm <= 90
    assert max(ends[::2]) < places[shown][0] <= 400 - font.getlength(shown)


def test_the_phantom(tmp_path):
    voxels, truth = phantom.make()
    image = phantom.to_image(voxels)
    scan, mask = formats.from_image(image), np.asfortranarray(phantom.to_image(truth).dataobj)
    limits = measure(Voxels(scan.voxels)).quantiles
    picture = preview.draw(Finding(scan, mask, statistics(scan, mask, ("tumour",)), (limits[1], limits[-1]), "axial", "phantom"))
    preview.save(tmp_path / "phantom.png", picture, overwrite=False)
    saved = Image.open(tmp_path / "phantom.png")
    assert saved.info == {}  # no text, no time
    pixels = np.asarray(saved.convert("RGB")).astype(int)
    coloured = (abs(pixels - COLOURS[0]).sum(axis=-1) < 40).sum()
    assert 300 < coloured < 4000  # an outline in three planes and the legend's box; filled it would be 12,000
