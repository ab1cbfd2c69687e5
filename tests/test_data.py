"""From prepared scans to batches: the runtime's own input, and an augmentation that keeps images and labels together."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import RECORD

from monet_edge import formats
from monet_edge.inputs import network_input
from monet_edge.intensities import measure
from monet_edge.preprocess import SLICINGS
from monet_train.augment import augment
from monet_train.config import DEPTHS, PAPER, STRONG, Augmentation
from monet_train.data import build
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


def test_stripping_takes_the_zscore_anew(small):
    slices = build(small[1], ["case_000"], RECORD, False, "cpu", True)
    assert slices.rims.shape == (1, DEPTHS, 2)
    inside = slices.images[(slices.depths >= 5) & (slices.images > 0)]
    np.testing.assert_allclose(slices.rims[0, 5], [inside.mean(), inside.std(correction=0)], rtol=1e-4)
    index, labels = torch.arange(8), one_hot(slices.labels, 1)
    torch.manual_seed(0)
    only = Augmentation(skull_strip=1.0, skull_strip_depth=(5, 5))
    images, truth = augment(slices.inputs(index), labels, slices.depths, slices.rims[slices.cases], only, (-2.0, 4.0))
    before, kept = slices.images[:, None], (slices.depths >= 5)[:, None] & (slices.images > 0)[:, None]
    mean, sd = slices.rims[0, 5]
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
    moved, truth = augment(images, one_hot(labels, classes), labels, torch.zeros(6, DEPTHS, 2), settings, (-2.0, 4.0))
    assert truth.shape == (6, classes, 32, 32)
    assert not torch.equal(moved, images)
    foreground = truth[:, 0] if classes == 1 else truth[:, 1:].sum(1)
    assert torch.equal(foreground > 0, (moved[:, 1] > 0.25) & (foreground > 0))
    assert float((foreground > 0).float().sum() / ((moved[:, 1] > 0.25).float().sum())) > 0.9


def test_intensities_leave_the_background_alone(small):
    torch.manual_seed(0)
    images = build(small[1], ["case_000"], RECORD, False, "cpu", False).images[:, None]
    strong = replace(STRONG.augmentation, rotate=0.0, zoom=0.0, shift=0.0, flip=0.0, skull_strip=0.0, intensity_curve=0.5)
    changed, _ = augment(images, images, images[:, 0], images, strong, (-2.0, 4.0))
    assert not changed[images == 0].any()
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    assert float((changed - images).abs().mean()) > 0.01
