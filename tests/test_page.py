"""The page: one file that loads nothing and runs nothing but its own script; looked at in a real browser where there is one."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import browser
import nibabel
import numpy as np
import pytest
from records import make_record

from monet_edge import formats, phantom
from monet_edge.intensities import measure as intensities
from monet_edge.report import page
from monet_edge.report.slices import Finding, window
from monet_edge.report.statistics import measure
from monet_edge.volume import Voxels

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"


def build(shape=(24, 64, 48), names=("tumour",), evil=""):
    voxels, truth = phantom.make(1, shape)
    scan = formats.from_image(phantom.to_image(voxels))
    mask = np.asfortranarray(phantom.to_image(truth).dataobj)
    finding = Finding(scan, mask, measure(scan, mask, names), (0.0, 800.0), "axial", f"phantom {evil}", [f"a warning {evil}"])
    return page.build(finding, f"facts {evil}", {"name": f"model {evil}", "data": {"nested": [evil, 1]}}, f"# card\n{evil}")


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_the_policy_names_exactly_the_pages_own_script_and_style():
    text = build()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind, tag in (("script-src", "script"), ("style-src", "style")):
        source = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(source) == 1
        digest = base64.b64encode(hashlib.sha256(source[0].encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"


def test_nothing_is_loaded_and_no_attribute_runs_or_styles():
    for tag, attributes in Tags(build()).found:
        assert not attributes.keys() & {"href", "srcset", "style", "action"}
        assert not any(name.startswith("on") for name in attributes)
        assert "src" not in attributes
        assert tag not in {"link", "iframe", "object", "embed", "form", "base"}


def test_all_text_is_escaped():
    plain, evil = build(names=("tumour",)), build(names=(EVIL,), evil=EVIL)
    assert [tag for tag, _ in Tags(evil).found] == [tag for tag, _ in Tags(plain).found]
    assert "<script>alert" not in evil
    assert evil.count("&lt;script&gt;alert(1)") >= 6


def test_a_long_scan_keeps_every_second_slice_and_stays_small():
    text = build((2 * page.SLICES - 10, 20, 16))
    data = data_of(text)
    assert len(data["slices"]) == page.SLICES - 5
    assert data["count"] == 2 * page.SLICES - 10
    assert [one["number"] for one in data["slices"]][:3] == [1, 3, 5]


def test_pictures_have_square_pixels_and_a_bound():
    rng = np.random.default_rng(0)
    image = nibabel.Nifti1Image(rng.integers(0, 999, (700, 100, 2), dtype=np.int16), np.diag([1, 3, 9, 1]))
    scan = formats.from_image(image)
    mask = np.ones(scan.shape, np.uint8, order="F")
    text = page.build(Finding(scan, mask, measure(scan, mask, ("a",)), (0, 999), "axial", ""), "", {}, "")
    (width, height) = page.pixels(page.cut(scan, mask, "axial"), 700 / page.SIDE)
    assert (width, height) == (512, 219)
    assert len(text) < 1_000_000


def test_an_empty_mask_and_a_constant_scan():
    image = nibabel.Nifti1Image(np.full((9, 9, 9), 7, np.int16), np.eye(4))
    scan = formats.from_image(image)
    mask = np.zeros(scan.shape, np.uint8, order="F")
    text = page.build(Finding(scan, mask, measure(scan, mask, ("a",)), (7.0, 7.0), "axial", "t"), "f", {}, "")
    assert all(one["outline"] is None for one in data_of(text)["slices"])


def test_intensities_that_lie_further_apart_than_floats_go():
    image = nibabel.Nifti1Image(np.linspace(0, 1.3e308, 729).reshape(9, 9, 9), np.eye(4))
    scan = formats.from_image(image)
    with np.errstate(all="ignore"):
        limits = window(make_record("a"), intensities(Voxels(scan.voxels)))
    mask = np.ones(scan.shape, np.uint8, order="F")
    with np.errstate(all="ignore"):
        text = page.build(Finding(scan, mask, measure(scan, mask, ("a",)), limits, "axial", "t"), "f", {}, "")
    assert len(data_of(text)["slices"]) == 9


needs_browser = pytest.mark.skipif(browser.FOUND is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    (folder / "page.html").write_text(build(names=(EVIL,), evil=EVIL))
    with browser.Browser(folder / "profile") as opened:
        opened.open(folder / "page.html")
        yield opened


def value(tab, what):
    return tab.run(f'document.getElementById("{what}").value')


@needs_browser
def test_in_the_browser_nothing_is_refused_and_nothing_is_asked_for(tab):
    assert tab.complaints() == []
    assert [address.split(":")[0] for address in tab.requests()].count("file") == 1  # the page itself
    assert {address.split(":")[0] for address in tab.requests()} == {"file", "data"}
    assert tab.run("document.querySelectorAll('main script, main b, img').length") == 2


@needs_browser
def test_in_the_browser_the_slider_and_the_keys_move_through_the_slices(tab):
    data = data_of(build(names=(EVIL,), evil=EVIL))
    assert value(tab, "slice") == str(data["largest"])
    for at in (0, 23, 12):
        tab.run(f'{{ const s = document.getElementById("slice"); s.value = {at}; s.dispatchEvent(new Event("input")); }}')
        assert tab.run('document.getElementById("scan").src') == data["slices"][at]["image"]
        assert tab.run('document.getElementById("slice-text").textContent') == f"{data['slices'][at]['number']} of 24"
        shown = tab.run('!document.getElementById("outline").hidden')
        assert shown == (data["slices"][at]["outline"] is not None)
    tab.press("ArrowRight")
    assert value(tab, "slice") == "13"
    tab.press("ArrowLeft")
    tab.press("ArrowDown")
    assert value(tab, "slice") == "11"
    tab.press("l")
    assert value(tab, "slice") == str(data["largest"])


@needs_browser
def test_in_the_browser_the_mask_goes_and_comes_back(tab):
    tab.press("l")
    hidden = 'document.getElementById("outline").hidden'
    assert tab.run(hidden) is False
    tab.press("m")
    assert tab.run(hidden) is True
    tab.press("m")
    assert tab.run(hidden) is False


@needs_browser
def test_in_the_browser_the_window_maps_its_ends_to_black_and_white(tab):
    """The filter's line through (low, 0) and (high, 1), in shares of the pictures' range."""
    data = data_of(build(names=(EVIL,), evil=EVIL))
    tab.press("r")
    for key in ("", "]", "+"):
        if key:
            tab.press(key)
        level, width = float(value(tab, "level")), float(value(tab, "width"))
        slope, intercept = (float(tab.run(f'document.querySelector("feFuncG").getAttribute("{name}")')) for name in ("slope", "intercept"))
        for intensity, shade in ((level - width / 2, 0), (level + width / 2, 1)):
            share = (intensity - data["low"]) / (data["high"] - data["low"])
            assert slope * share + intercept == pytest.approx(shade, abs=1e-6)
    tab.press("r")
    assert (float(value(tab, "level")), float(value(tab, "width"))) == (400, 800)


@needs_browser
def test_in_the_browser_scan_and_outline_are_seen(tab, tmp_path):
    from PIL import Image

    tab.press("l")
    tab.run("Promise.all([...document.images].map((one) => one.decode()))")
    tab.screenshot(tmp_path / "page.png")
    box = tab.run('(({x, y, width, height}) => [x, y, width, height])(document.getElementById("screen").getBoundingClientRect())')
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    x, y, width, height = (round(part) for part in box)
    screen = pixels[y : y + height, x : x + width]
    orange = (abs(screen - (255, 94, 58)).sum(axis=-1) < 60).mean()
    assert 0.001 < orange < 0.1
    assert ((screen.max(axis=-1) - screen.min(axis=-1) < 10) & (screen.mean(axis=-1) > 60)).mean() > 0.2
