"""The page as a person sees it, in a real browser: from a dropped scan to a saved mask, by mouse and by keyboard, in any light."""

import time

import browser
import nibabel
import numpy as np
import pytest
from conftest import random_tensors
from fuzz.build import gz
from PIL import Image
from processes import HANGS
from records import make_record

pytest.importorskip("starlette", reason="the extra app is not installed")
import served
from scans import blob

from monet_edge import formats, load, phantom, weights
from monet_edge.architectures import monet
from monet_edge.report.statistics import measure
from monet_edge.spec import fold_batchnorm
from monet_edge.text import digits
from monet_edge.volume.labels import colours

pytestmark = pytest.mark.skipif(browser.FOUND is None, reason="no Chromium on this machine")
EVIL = "<img src=x onerror=window.evil=1>\"'&"
TAB, ENTER = {"key": "Tab", "windowsVirtualKeyCode": 9}, {"key": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}


def tiny(path, *labels):
    """A model of random weights."""
    spec = fold_batchnorm(monet(classes=len(labels) + 1 if len(labels) > 1 else 1, filters=4, depth=1))
    provenance = {"modality": EVIL, "licence": EVIL, "dice": EVIL}
    weights.save(path, spec, random_tensors(spec), make_record(*labels), provenance)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    sided = tiny(folder / "sided.safetensors", "right part", "left part", "stem")
    return [tiny(folder / "tiny.safetensors", "blob"), tiny(folder / "evil.safetensors", EVIL), sided]


@pytest.fixture(scope="module")
def client(tmp_path_factory, models):
    with served.running(tmp_path_factory.mktemp("cases"), models) as client:
        yield client


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.Browser(tmp_path_factory.mktemp("browser"), webgl=True) as opened:
        yield opened


@pytest.fixture
def saved(chromium, tmp_path):
    """The folder that downloads go to."""
    chromium.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "saved"))
    return tmp_path / "saved"


@pytest.fixture
def page(chromium, client, saved):
    chromium.messages.clear()
    look(chromium, 1280, 860, "light")
    chromium.open(f"http://{client.guard.host}/{client.guard.token}/")
    chromium.until("document.body.dataset.usable")
    yield chromium
    assert chromium.complaints() == []
    assert {address.split("/")[2] for address in chromium.requests() if address.startswith("http")} == {client.guard.host}
    assert chromium.run("window.evil === undefined && !document.querySelector('[src=x]')")


def look(page, width, height, scheme):
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A head, its name and its header's text as somebody may have chosen them."""
    image = phantom.to_image(phantom.make(1, (16, 64, 60))[0])
    image.header["descrip"] = EVIL[:79].encode()
    image.header["intent_name"] = b"<b>x</b>"
    path = tmp_path_factory.mktemp("scan") / "a <b>head <img src=x onerror=window.evil=1> & 'more': é.nii.gz"
    path.write_bytes(gz(image.to_bytes()))
    return path


def text(page, name):
    return page.run(f"document.getElementById('{name}').textContent")


def arrive(page, *paths):
    page.drop(*paths, at=(150, 300))
    page.until("document.body.dataset.state == 'ready' && document.getElementById('canvas').dataset.shown == 'scan'")


def finish(page):
    page.until("document.body.dataset.state == 'done' && document.getElementById('canvas').dataset.shown == 'scan mask'")


def arrived(path):
    """A download, once it is whole: Chromium puts an empty file there first, and moves the whole one over it."""
    end = time.monotonic() + HANGS
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < end, list(path.parent.iterdir()) if path.parent.exists() else path
        time.sleep(0.02)
    return path


def plain(scan, folder):
    """The same scan under a name that every system takes."""
    path = folder / "head.nii.gz"
    path.write_bytes(scan.read_bytes())
    return path


def test_from_a_dropped_scan_to_a_saved_mask_in_two_clicks(page, saved, scan, models, tmp_path):
    arrive(page, plain(scan, tmp_path))
    page.click("#run")
    finish(page)
    page.click("#save-mask")
    mask = formats.read(arrived(saved / "head_seg.nii.gz"))
    assert np.array_equal(mask.voxels, load(models[0]).segment_scan(formats.read(scan)).mask)
    assert "ml" in text(page, "legend")
    page.click("#save-table")
    page.click("#save-page")
    assert "blob" in arrived(saved / "head_table.csv").read_text()
    assert "Research use only" in arrived(saved / "head_report.html").read_text()


def seen(page, path):
    """The picture on the screen as it is: (H, W, 3)."""
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.screenshot(path)
    box = "(({x, y, width, height}) => [x, y, width, height])(document.getElementById('canvas').getBoundingClientRect())"
    x, y, width, height = map(int, page.run(box))
    return np.asarray(Image.open(path).convert("RGB")).astype(int)[y : y + height, x : x + width]


def reddish(pixels):
    return ((pixels[..., 0] > 120) & (pixels[..., 0] - pixels[..., 2] > 60)).mean()


def test_scan_mask_and_surface_are_drawn(page, scan, tmp_path):
    arrive(page, plain(scan, tmp_path))
    pixels = seen(page, tmp_path / "scan.png")
    assert ((np.ptp(pixels, axis=-1) < 12) & (pixels.mean(axis=-1) > 50)).mean() > 0.05
    assert reddish(pixels) < 0.001
    page.click("#run")
    finish(page)
    halves = np.array_split(seen(page, tmp_path / "mask.png"), 2)
    for tile in (tile for half in halves for tile in np.array_split(half, 2, axis=1)):  # coronal, sagittal, axial, surface
        assert 0.002 < reddish(tile) < 0.9
    page.press("m")  # hides the mask
    assert page.run("document.getElementById('opacity').value") == "0"
    assert reddish(seen(page, tmp_path / "hidden.png")) < 0.001


def test_of_several_series_one_is_chosen(page, tmp_path, rng):
    import dicoms  # of the extra of that name

    for modality, slices in (("MR", 6), ("CT", 7)):
        dicoms.write(tmp_path / "study" / modality, blob(rng, (40, 36, slices)), modality=modality, SeriesDescription=EVIL[:60])
    page.drop(tmp_path / "study", at=(150, 300))
    page.until("!document.getElementById('series-choice').hidden")
    choice = "document.getElementById('series')"
    page.run(f"{choice}.value = [...{choice}.options].find((one) => one.text.includes('CT')).value")
    page.run(f"{choice}.dispatchEvent(new Event('change'))")
    page.until("document.body.dataset.state == 'ready' && document.getElementById('canvas').dataset.shown == 'scan'")
    assert text(page, "scan-facts").startswith("40 × 36 × 7 voxels")
    assert page.run("document.getElementById('series-choice').hidden")


def test_another_threshold_is_shown_and_saved(page, saved, scan, tmp_path):
    arrive(page, plain(scan, tmp_path))
    page.click("#run")
    finish(page)
    before = text(page, "legend")
    page.run("{ const t = document.getElementById('threshold'); t.value = Math.log(9); t.dispatchEvent(new Event('input')); }")
    page.until(f"document.getElementById('legend').textContent != {before!r}")
    assert text(page, "threshold-text") == "0.90"
    page.run("document.getElementById('threshold').focus()")
    for end, key, code in (("min", "ArrowRight", 39), ("max", "ArrowLeft", 37)):  # nowhere is a key too little
        page.run(f"{{ const t = document.activeElement; t.value = t.{end}; t.dispatchEvent(new Event('input')); }}")
        there = text(page, "threshold-text")
        page.press(key, code=key, windowsVirtualKeyCode=code)
        page.until(f"document.getElementById('threshold-text').textContent != {there!r}")
    page.click("#own")
    page.until(f"document.getElementById('legend').textContent == {before!r}")
    assert text(page, "threshold-text") == "0.50"


def test_the_next_scan_may_be_dropped_on_the_first(page, client, scan, tmp_path):
    arrive(page, plain(scan, tmp_path))
    page.click("#run")
    finish(page)
    arrive(page, scan)
    assert text(page, "scan-name") == scan.name
    assert len(list(client.folder.iterdir())) == 1  # the first is gone


def test_by_keyboard_alone(page, saved):
    def walk(name):
        for _ in range(40):
            if page.run("document.activeElement.id") == name:
                return
            page.press(**TAB)
        pytest.fail(f"Tab does not lead to {name}")

    walk("phantom")
    page.press(**ENTER)
    page.until("document.body.dataset.state == 'ready' && document.getElementById('canvas').dataset.shown == 'scan'")
    assert page.run("document.activeElement.id") == "run"  # where one goes on
    page.press(**ENTER)
    finish(page)
    walk("save-mask")
    page.press(**ENTER)
    arrived(saved / "phantom_seg.nii.gz")
    page.run("document.getElementById('canvas').focus()")
    page.press("ArrowUp")
    places = {text(page, "where")}
    for key in ("ArrowLeft", "ArrowUp", "PageUp"):
        page.press(key)
        places.add(text(page, "where"))
    assert len(places) == 4
    for key, view in zip("12345", ("all", "axial", "coronal", "sagittal", "solid"), strict=True):
        page.press(key)
        assert page.run("document.querySelector('[name=view]:checked').value") == view


def test_what_a_file_or_a_model_is_named_is_text(page, saved, scan):
    arrive(page, scan)
    assert text(page, "scan-name") == scan.name
    assert EVIL in text(page, "models")
    page.click("#run")
    finish(page)
    page.click("#save-mask")
    end = time.monotonic() + HANGS
    while not list(saved.glob("a*_seg.nii.gz")):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_labels_named_by_others_are_text(page, scan, tmp_path):
    arrive(page, plain(scan, tmp_path))
    page.click("input[value=evil]")
    page.click("#run")
    finish(page)
    assert EVIL in text(page, "legend")
    assert EVIL in text(page, "table")


def test_both_sides_of_a_structure_share_a_row(page, scan, models, tmp_path):
    arrive(page, plain(scan, tmp_path))
    page.click("input[value=sided]")
    page.click("#run")
    finish(page)
    rows = page.run("[...document.querySelectorAll('#legend tr')].map((row) => [...row.cells].map((cell) => cell.textContent))")
    read, names = formats.read(scan), ("right part", "left part", "stem")
    ml = [digits(label.ml) for label in measure(read, load(models[2]).segment_scan(read).mask, names)]
    assert rows == [["", "ml", "left", "right"], ["", "part", ml[1], ml[0]], ["", "stem", f"{ml[2]} ml"]]
    shades = page.run("[...document.querySelectorAll('#legend tr:nth-child(2) rect')].map((box) => box.getAttribute('fill'))")
    assert shades == [f"rgb({','.join(map(str, shade))})" for shade in colours(["right part", "left part"])]


def test_a_broken_file_is_told_and_the_next_one_is_taken(page, scan, tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(scan.read_bytes()[:300])
    page.drop(broken)
    page.until("document.getElementById('error').textContent")
    assert "truncated" in text(page, "error")
    assert page.run("document.body.dataset.state") == "empty"
    page.messages[:] = [m for m in page.messages if "422" not in str(m.get("params"))]  # which the browser logs
    arrive(page, plain(scan, tmp_path))
    assert text(page, "error") == ""


def test_two_tabs_have_a_scan_each(page, client, scan, tmp_path):
    arrive(page, plain(scan, tmp_path))
    with page.another_tab():
        page.open(f"http://{client.guard.host}/{client.guard.token}/")
        page.until("document.body.dataset.usable")
        page.click("#phantom")
        page.until("document.body.dataset.state == 'ready'")
        page.click("#run")
        page.until("document.body.dataset.state == 'done'")
    page.click("#run")
    finish(page)
    assert len(list(client.folder.iterdir())) == 1  # the other tab is closed, and so is its scan


@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (800, "light"), (360, "dark"), (360, "light")])
def test_it_fits_and_can_be_read(page, scan, tmp_path, scheme, width):
    look(page, width, 800, scheme)
    arrive(page, plain(scan, tmp_path))
    page.click("#run")
    finish(page)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    ratios = page.run("""(() => {
      const light = (colour) => colour.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const parse = (text) => text.match(/[\\d.]+/g).map(Number);
      const behind = (element) => { const c = parse(getComputedStyle(element).backgroundColor);
        return c.length === 4 && c[3] < 1 ? behind(element.parentElement) : c.slice(0, 3); };
      return [...document.querySelectorAll("h1, h2, p, button, .button, label, small, summary, strong, output")]
        .filter((e) => e.offsetParent && e.textContent.trim() && !e.closest(".screen"))
        .map((e) => { const [a, b] = [light(parse(getComputedStyle(e).color).slice(0, 3)), light(behind(e))];
          return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 80)]; });
    })()""")
    assert min(ratios)[0] > 4.5, min(ratios)  # WCAG AA


@pytest.mark.slow
def test_a_scan_of_512x512x300(page, tmp_path):
    part = phantom.make(2, (10, 512, 512))[0]
    image = phantom.to_image(np.tile(part, (30, 1, 1)))
    nibabel.save(nibabel.Nifti1Image(image.dataobj, np.diag([-0.7, -0.7, 1, 1])), tmp_path / "large.nii")
    arrive(page, tmp_path / "large.nii")
    page.click("#run")
    finish(page)
    assert text(page, "scan-facts") == "512 × 512 × 300 voxels of 0.7 × 0.7 × 1 mm"
