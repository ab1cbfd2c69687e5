"""From prepared scans to batches: the runtime's own input, and an augmentation that keeps images and labels together."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from records import network_input
from synthetic import RECORD

from monet_edge import formats
from monet_edge.inputs import Inputs, make_grid
from monet_edge.intensities import measure
from monet_edge.preprocess import SLICINGS, resize
from monet_train.augment import augment
from monet_train.config import DEPTHS, PAPER, STRONG, Augmentation, in_pixels
from monet_train.data import build, memory_of
from monet_train.losses import one_hot


@pytest.mark.parametrize("slicing", SLICINGS)
@pytest.mark.parametrize("context", [0, 2])
def test_the_trainer_feeds_what_the_runtime_feeds(small, slicing, context):
    dataset, prepared = small
    record = replace(RECORD, slicing=slicing, context=context, size=48)
    slices = build(prepared, ["case_000", "case_001"], record, False, "cpu", True)
    start = 0
    for name in slices.names:
        scan = formats.read(dataset.pairs[name][0], 0)
        voxels = scan.canonical(SLICINGS[slicing])
        statistics = measure(voxels)
        for z in range(len(voxels)):
            ref = network_input(voxels, z, record, statistics)
            assert slices.inputs(torch.tensor([start + z]))[0].numpy().tobytes() == ref.tobytes()
        start += len(voxels)
    assert start == len(slices.images)


@pytest.mark.parametrize("slicing", SLICINGS)
@pytest.mark.parametrize(("spacing", "thickness", "neighbours"), [(0.5, 0, "nearest"), (2.0, 8.0, "nearest"), (1.1, 7.0, "linear")])
def test_the_trainer_feeds_what_the_runtime_feeds_in_millimetres(small, slicing, spacing, thickness, neighbours):
    """Every tile of every slice, its labels beside it; the phantoms measure 0.9 x 0.9 x 5 mm."""
    dataset, prepared = small
    record = replace(RECORD, slicing=slicing, context=1, size=48, spacing=spacing, thickness=thickness, neighbours=neighbours)
    slices = build(prepared, ["case_000", "case_001"], record, False, "cpu", True)
    start = 0
    for name in slices.names:
        scan, truth = (formats.read(path, 0) for path in dataset.pairs[name])
        voxels, label = scan.canonical(SLICINGS[slicing]), truth.canonical(SLICINGS[slicing])
        lengths = {"axial": (5.0, 0.9, 0.9), "coronal": (0.9, 5.0, 0.9), "sagittal": (0.9, 5.0, 0.9)}[slicing]
        grid = make_grid(record, voxels.stored.shape[1:], lengths)
        inputs, tiles = Inputs([voxels], record, [measure(voxels)], grid), grid.tiling.windows
        for i in range(len(inputs)):
            assert slices.inputs(torch.tensor([start + i]))[0].numpy().tobytes() == inputs(i).tobytes()
            covers = np.zeros(grid.tiling.padded, np.float32)
            covers[grid.tiling.inside] = resize(label.stored[i // len(tiles)].astype(np.float32), *grid.tiling.shape)
            assert np.array_equal(slices.labels[start + i].numpy(), covers[tiles[i % len(tiles)]] > 0.5)
        start += len(inputs)
    assert start == len(slices.images)
    assert start == memory_of(prepared, slices.names, (), record)[0]
    assert slices.labels.any()


def test_a_rim_ends_at_the_head_and_not_at_a_tile(small):
    whole, tiled = (
        build(small[1], ["case_000"], replace(RECORD, size=size, spacing=0.9), False, "cpu", True) for size in (64, 32)
    )  # 64 pixels of 0.9 mm: one tile, or three by three
    assert len(tiled.depths) == 9 * len(whole.depths)
    assert torch.equal(tiled.depths[4::9], whole.depths[:, 16:48, 16:48])
    assert torch.equal(tiled.rims, whole.rims)


def test_a_rim_is_as_deep_in_millimetres_whatever_a_pixel_measures():
    given = Augmentation(skull_strip=0.5, skull_strip_depth=(6, 20), rotate=10)
    assert in_pixels(given, 0) == given
    assert in_pixels(given, 2.0) == replace(given, skull_strip_depth=(3, 10))
    assert in_pixels(given, 0.25) == replace(given, skull_strip_depth=(24, DEPTHS - 1))


def test_stripping_takes_the_zscore_anew(small):
    slices = build(small[1], ["case_000"], RECORD, False, "cpu", True)
    assert slices.rims.shape == (1, 1, DEPTHS, 2)
    inside = slices.images[:, 0][(slices.depths >= 5) & (slices.images[:, 0] > 0)]
    np.testing.assert_allclose(slices.rims[0, 0, 5], [inside.mean(), inside.std(correction=0)], rtol=1e-4)
    index, labels = torch.arange(8), one_hot(slices.labels, 1)
    torch.manual_seed(0)
    only = Augmentation(skull_strip=1.0, skull_strip_depth=(5, 5))
    images, truth = augment(slices.inputs(index), labels, slices.depths, slices.rims[slices.cases], only, [(-2.0, 4.0)])
    before, kept = slices.images, (slices.depths >= 5)[:, None] & (slices.images > 0)
    mean, sd = slices.rims[0, 0, 5]
    np.testing.assert_allclose(images[kept], (((before[kept] - mean) / sd + 2) / 6).clamp(0, 1), atol=1e-6)
    assert not images[~kept].any()
    assert not truth[(slices.depths < 5)[:, None]].any()
    assert truth.any()


@pytest.mark.parametrize("classes", [1, 3])
def test_augmentation_moves_images_and_labels_together(classes):
    torch.manual_seed(0)
    labels = torch.zeros(6, 32, 32, dtype=torch.uint8)
    labels[:, 10:20, 6:14] = 1
    labels[:, 20:26, 6:14] = 2
    images = torch.stack([labels / 2.0] * 3, 1)
    settings = replace(PAPER.augmentation, flip=0.5)
    moved, truth = augment(images, one_hot(labels, classes), labels, torch.zeros(6, 1, DEPTHS, 2), settings, [(-2.0, 4.0)])
    assert truth.shape == (6, classes, 32, 32)
    assert not torch.equal(moved, images)
    foreground = truth[:, 0] if classes == 1 else truth[:, 1:].sum(1)
    assert torch.equal(foreground > 0, (moved[:, 1] > 0.25) & (foreground > 0))
    assert float((foreground > 0).float().sum() / ((moved[:, 1] > 0.25).float().sum())) > 0.9


def test_intensities_leave_the_background_alone(small):
    torch.manual_seed(0)
    images = build(small[1], ["case_000"], RECORD, False, "cpu", False).images
    strong = replace(STRONG.augmentation, rotate=0.0, zoom=0.0, shift=0.0, flip=0.0, skull_strip=0.0, intensity_curve=0.5)
    changed, _ = augment(images, images, images[:, 0], images, strong, [(-2.0, 4.0)])
    assert not changed[images == 0].any()
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    assert float((changed - images).abs().mean()) > 0.01
