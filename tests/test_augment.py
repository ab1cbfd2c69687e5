"""Every augmentation alone, with the draws that a test gives, against the same in NumPy; directions and ranges: test_train_paper."""

import math

import numpy as np
import pytest
import torch

from monet_train.augment import _intensity_curve, augment
from monet_train.config import DEPTHS, Augmentation

SIZE = 8


@pytest.fixture
def draw(monkeypatch):
    """Let the next random numbers be these, a row of the batch or all at once; every one must be asked for, and none besides."""
    queues = {"rand": [], "randn": [], "randint": []}

    def give(name, shape):
        return torch.tensor(np.asarray(queues[name].pop(0), np.float32)).reshape(shape)

    monkeypatch.setattr(torch, "rand", lambda *shape, device=None: give("rand", shape))
    monkeypatch.setattr(torch, "randn", lambda *shape, device=None: give("randn", shape))
    monkeypatch.setattr(torch, "randn_like", lambda like: give("randn", like.shape))
    monkeypatch.setattr(torch, "randint", lambda low, high, shape, device=None: low + give("randint", shape).long() % (high - low))

    def fix(**given):
        for name, values in given.items():
            queues[name] = list(values)

    yield fix
    assert not any(queues.values()), "drawn less often than expected"


@pytest.fixture
def images(rng):
    """Two slices of one channel, whose left half is background."""
    found = rng.random((2, 1, SIZE, SIZE), np.float32) * 0.6 + 0.2
    found[..., : SIZE // 2] = 0
    return found


def changed(images, **settings):
    """The images after one augmentation; their labels must be as they were."""
    labels = torch.from_numpy((images[:, :1] > 0.5).astype(np.float32))
    nothing = torch.zeros(len(images), SIZE, SIZE)
    found, moved = augment(
        torch.from_numpy(images), labels, nothing, torch.zeros(len(images), 1, DEPTHS, 2), Augmentation(**settings), [(-2, 4)]
    )
    assert torch.equal(moved, labels)
    return found.numpy()


def kept(ref, images):
    """What every change of intensities ends with: 0 to 1, and the background is 0."""
    return np.where(images > 0, np.clip(ref, 0, 1), 0)


def test_nothing_set_changes_and_draws_nothing(draw, images):
    draw()
    assert np.array_equal(changed(images), images)


def test_gamma_is_an_exponent_whose_logarithm_is_drawn(draw, images):
    draw(randn=[[1.0, -2.0]])
    ref = np.stack([images[0] ** math.exp(0.3), images[1] ** math.exp(-0.6)])
    found = changed(images, gamma=0.3)
    np.testing.assert_allclose(found, kept(ref, images), atol=1e-6)
    assert (found[0] <= images[0]).all()  # a positive draw darkens


def test_contrast_scales_around_the_foregrounds_mean_which_it_scales_too(draw, images):
    draw(randn=[[1.0, -1.0], [0.5, 2.0]])  # around the mean, and the mean
    ref = np.zeros_like(images)
    for k, (around, of_mean) in enumerate([(0.2, 0.1), (-0.2, 0.4)]):
        mean = images[k][images[k] > 0].mean()
        ref[k] = (images[k] - mean) * math.exp(around) + mean * math.exp(of_mean)
    np.testing.assert_allclose(changed(images, contrast=0.2), kept(ref, images), atol=1e-6)


def test_contrast_of_an_empty_slice_is_nothing(draw):
    draw(randn=[[1.0], [1.0]])
    assert not changed(np.zeros((1, 1, SIZE, SIZE), np.float32), contrast=0.2).any()


def cubic(coarse, size):
    """Bicubic interpolation (Keys 1981, a = -0.75) between pixels' centres, the border repeated."""

    def weights(n):
        matrix = np.zeros((size, n))
        for i in range(size):
            at = (i + 0.5) * n / size - 0.5
            for k in range(math.floor(at) - 1, math.floor(at) + 3):
                x = abs(at - k)
                near, far = 1.25 * x**3 - 2.25 * x**2 + 1, -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
                matrix[i, min(max(k, 0), n - 1)] += near if x <= 1 else far
        return matrix

    rows, columns = (weights(n) for n in coarse.shape)
    return rows @ coarse @ columns.T


def test_the_bias_field_is_the_exponential_of_4x4_control_points(draw, images, rng):
    control = rng.normal(size=(2, 4, 4))
    draw(randn=[control])
    ref = np.stack([image * np.exp(cubic(0.2 * points, SIZE)) for image, points in zip(images, control, strict=True)])
    np.testing.assert_allclose(changed(images, bias_field=0.2), kept(ref, images), atol=1e-5)


def test_a_positive_bias_field_brightens(draw, images):
    draw(randn=[np.full((2, 4, 4), 1.0)])
    np.testing.assert_allclose(changed(images, bias_field=0.1), kept(images * math.exp(0.1), images), atol=1e-6)


def test_noise_is_white_of_an_sd_drawn_up_to_the_largest(draw, images, rng):
    white = rng.normal(size=images.shape)
    draw(rand=[[0.25, 1.0]], randn=[white])
    ref = images + np.array([0.05, 0.2])[:, None, None, None] * white
    np.testing.assert_allclose(changed(images, noise=0.2), kept(ref, images), atol=1e-6)


def test_blur_is_the_mean_of_3x3_pixels_of_the_image_by_chance(draw, images):
    draw(rand=[[0.39, 0.41]])
    ref = images.copy()
    for y, x in np.ndindex(SIZE, SIZE):
        ref[0, 0, y, x] = images[0, 0, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].mean()
    np.testing.assert_allclose(changed(images, blur=0.4), kept(ref, images), atol=1e-6)


def bent(x, slopes):
    """Piecewise linear through (0, 0) and (1, 1), with such slopes in equal parts."""
    ends = np.concatenate([[0], np.cumsum(slopes) / sum(slopes)])
    return np.interp(x, np.linspace(0, 1, len(slopes) + 1), ends)


def test_the_curve_is_mixed_in_by_a_drawn_share(draw, images, rng):
    slopes, share = rng.random((2, 5)), np.array([0.5, 1.0])
    draw(rand=[share, slopes])
    ref = [image + 0.6 * s * (bent(image, row + 0.1) - image) for image, s, row in zip(images, share, slopes, strict=True)]
    np.testing.assert_allclose(changed(images, intensity_curve=0.6), kept(np.stack(ref), images), atol=1e-6)


def test_the_curve_keeps_both_ends_and_never_falls(draw):
    draw(rand=[[0.0, 1.0, 0.0, 0.0, 0.3]])
    found = _intensity_curve(torch.linspace(0, 1, 101).view(1, 1, 1, 101)).ravel().numpy()
    assert found[[0, -1]] == pytest.approx([0, 1], abs=1e-6)
    assert (np.diff(found) > 0).all()


def test_alone_repeats_the_slice_in_place_of_its_neighbours_by_chance(draw, rng):
    images = rng.random((2, 5, SIZE, SIZE), np.float32)
    draw(rand=[[0.29, 0.31]])
    found = changed(images, drop_context=0.3)
    assert np.array_equal(found[0], np.repeat(images[0, 2:3], 5, axis=0))
    assert np.array_equal(found[1], images[1])


def test_intensities_change_one_after_the_other(draw, images):
    """Contrast, then gamma, then noise: what contrast drives above 1 is cut off before the exponent is taken and noise added."""
    draw(randn=[[3.0, 3.0], [0.0, 0.0], [1.0, 1.0], np.full(images.shape, -1.0)], rand=[[1.0, 1.0]])
    mean = np.array([image[image > 0].mean() for image in images])[:, None, None, None]
    contrasted = np.clip((images - mean) * math.exp(1.5) + mean, 1e-4, 1)
    assert (contrasted == 1).any()
    ref = contrasted ** math.exp(0.5) - 0.1
    np.testing.assert_allclose(changed(images, contrast=0.5, gamma=0.5, noise=0.1), kept(ref, images), atol=1e-5)


@pytest.mark.parametrize("classes", [1, 3])
def test_a_stripped_rim_is_background_in_image_and_truth(draw, rng, classes):
    """Slice 0 loses 2 pixels, slice 1 3 pixels, slice 2 is left out by chance; a hole in the head stays one."""
    images = rng.random((3, 2, SIZE, SIZE), np.float32) * 0.9 + 0.05
    images[:, :, 4, 4] = 0
    ring = np.minimum.outer(*2 * [np.minimum(np.arange(SIZE), np.arange(SIZE)[::-1])]) + 1  # 1 at the border
    depths = np.stack([ring] * 3).astype(np.uint8)
    rims = np.stack([np.linspace(0.3, 0.6, 3)[:, None] + np.zeros(DEPTHS), 0.4 + 0.01 * np.arange(DEPTHS) + np.zeros((3, 1))], -1)
    truth = rng.integers(1, 3, (3, SIZE, SIZE))
    labels = np.stack([truth == value for value in range(classes)] if classes > 1 else [truth > 0], 1).astype(np.float32)
    draw(randint=[[0, 1, 0]], rand=[[0.49, 0.0, 0.51]])
    settings = Augmentation(skull_strip=0.5, skull_strip_depth=(2, 3))
    given = (torch.from_numpy(array) for array in (images, labels, depths, rims[:, None].astype(np.float32)))
    found, moved = (tensor.numpy() for tensor in augment(*given, settings, [(-2.0, 4.0)]))
    for k, depth in enumerate((2, 3)):
        mean, sd = rims[k, depth]
        inside = ring >= depth
        ref = np.clip(((images[k] - mean) / sd + 2) / 6, 0, 1)
        np.testing.assert_allclose(found[k], np.where(inside & (images[k] > 0), ref, 0), atol=1e-5)
        assert np.array_equal(moved[k][:, inside], labels[k][:, inside])
        nothing = [0.0] if classes == 1 else [1.0, 0.0, 0.0]
        assert (nothing == moved[k][:, ~inside].T).all()
    assert np.array_equal(found[2], images[2])
    assert np.array_equal(moved[2], labels[2])


def sampled(image, angle, zoom, shift, mirror):
    """Turned by ``angle`` (radians), grown by ``zoom``, shifted by a share of its sides and mirrored: bilinear, 0 outside."""
    found = np.zeros_like(image)
    for y, x in np.ndindex(image.shape):
        u, v = (2 * x + 1) / SIZE - 1, (2 * y + 1) / SIZE - 1  # centre 0, sides at -1 and 1
        u *= -1 if mirror else 1
        s = (math.cos(angle) * u - math.sin(angle) * v) / zoom + 2 * shift[0]
        t = (math.sin(angle) * u + math.cos(angle) * v) / zoom + 2 * shift[1]
        column, row = ((place + 1) * SIZE / 2 - 0.5 for place in (s, t))
        for i, j in np.ndindex(2, 2):
            a, b = math.floor(row) + i, math.floor(column) + j
            if 0 <= a < SIZE and 0 <= b < SIZE:
                found[y, x] += image[a, b] * (1 - abs(row - a)) * (1 - abs(column - b))
    return found


# uniform draws of two slices: angle and zoom, shift to the right and down, mirrored below the chance
MOVES = {
    "rotate": ([[0.75, 0.5], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]], [1.0, 1.0]),
    "zoom": ([[0.5, 0.5], [1.0, 0.25]], [[0.5, 0.5], [0.5, 0.5]], [1.0, 1.0]),
    "shift": ([[0.5, 0.5], [0.5, 0.5]], [[0.8, 0.5], [0.5, 0.1]], [1.0, 1.0]),
    "flip": ([[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]], [0.29, 0.31]),
    "all": ([[0.1, 0.8], [0.9, 0.3]], [[0.6, 0.3], [0.4, 0.9]], [0.0, 1.0]),
}
LIMITS = {"rotate": 30, "zoom": 0.25, "shift": 0.2, "flip": 0.3}


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("name", MOVES)
def test_slices_are_moved_as_drawn_and_what_comes_from_outside_is_background(draw, rng, name, classes):
    images = rng.random((2, 3, SIZE, SIZE), np.float32)
    truth = rng.integers(1, 3, (2, SIZE, SIZE))  # no background: what is some comes from outside
    labels = np.stack([truth == value for value in range(classes)] if classes > 1 else [truth == 1], 1).astype(np.float32)
    turns, shifts, flips = MOVES[name]
    draw(rand=[turns, shifts, flips])
    settings = Augmentation(**({name: LIMITS[name]} if name in LIMITS else LIMITS))
    given = (torch.from_numpy(images), torch.from_numpy(labels), torch.zeros(2, SIZE, SIZE), torch.zeros(2, 1, DEPTHS, 2))
    found, moved = (tensor.numpy() for tensor in augment(*given, settings, [(-2, 4)]))
    for k in (0, 1):
        angle = math.radians(settings.rotate) * (2 * turns[0][k] - 1)
        zoom = 1 + settings.zoom * (2 * turns[1][k] - 1)
        shift = [settings.shift * (2 * share - 1) for share in shifts[k]]
        mirror = flips[k] < settings.flip
        ref = [sampled(channel, angle, zoom, shift, mirror) for channel in images[k]]
        np.testing.assert_allclose(found[k], ref, atol=2e-5)
        covers = np.stack([sampled(channel, angle, zoom, shift, mirror) for channel in labels[k]])
        if classes == 1:
            clear = abs(covers - 0.5) > 1e-3
            assert np.array_equal(moved[k][clear], (covers > 0.5)[clear])
            continue
        covers[0] = 1 - covers[1:].sum(0)
        first, second = np.sort(covers, axis=0)[:-3:-1]
        clear = first - second > 1e-3
        assert np.array_equal(moved[k].argmax(0)[clear], covers.argmax(0)[clear])
        assert (moved[k].sum(0) == 1).all()


def test_behind_a_shifted_slice_of_the_last_label_lies_background(draw):
    """Two of eight columns come from outside."""
    draw(rand=[[0.5, 0.5], [1.0, 0.5], [1.0]])
    labels = torch.zeros(1, 3, SIZE, SIZE)
    labels[:, 2] = 1
    images = torch.ones(1, 1, SIZE, SIZE)
    found, moved = augment(images, labels, images[:, 0], torch.zeros(1, 1, DEPTHS, 2), Augmentation(shift=0.25), [(-2, 4)])
    assert moved[0].argmax(0).tolist() == [[2] * 6 + [0] * 2] * SIZE
    assert found[0, 0].tolist() == [[1.0] * 6 + [0.0] * 2] * SIZE
