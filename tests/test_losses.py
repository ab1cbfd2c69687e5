"""Losses and validation scores against the same formulas in NumPy, for one label and for several."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monet_train.data import Slices
from monet_train.losses import cross_entropy, dice_loss, loss, one_hot
from monet_train.validate import validate


def batch(rng, classes):
    """Probabilities and one-hot truth (3, classes, 4, 5), of several classes as a softmax gives them."""
    raw = rng.random((3, classes, 4, 5)) * 0.9 + 0.05
    if classes == 1:
        return raw, (rng.random(raw.shape) > 0.5).astype(float)
    truth = rng.integers(0, classes, (3, 4, 5))
    return raw / raw.sum(1, keepdims=True), np.stack([truth == value for value in range(classes)], 1).astype(float)


def test_one_hot_has_a_channel_for_every_label_and_the_background():
    labels = torch.tensor([[[0, 1], [2, 3]]], dtype=torch.uint8)
    assert one_hot(labels, 1).tolist() == [[[[0, 1], [1, 1]]]]  # all labels are the foreground of one class
    assert one_hot(labels, 4).tolist() == [[[[1, 0], [0, 0]], [[0, 1], [0, 0]], [[0, 0], [1, 0]], [[0, 0], [0, 1]]]]


def test_cross_entropy_of_several_labels_is_minus_the_log_of_the_true_ones_probability(rng):
    p, t = batch(rng, 4)
    ref = np.mean([-np.log(p[n, t[n, :, y, x].argmax(), y, x]) for n, y, x in np.ndindex(3, 4, 5)])
    assert ref > 0
    assert float(cross_entropy(torch.tensor(p), torch.tensor(t))) == pytest.approx(ref)


def test_cross_entropy_of_one_label_counts_both_sides(rng):
    p, t = batch(rng, 1)
    ref = np.mean([-np.log(q if true else 1 - q) for q, true in zip(p.ravel(), t.ravel(), strict=True)])
    assert float(cross_entropy(torch.tensor(p), torch.tensor(t))) == pytest.approx(ref)


def test_cross_entropy_of_a_label_held_impossible_is_finite():
    p, t = torch.tensor([0.0, 1.0])[None, :, None, None], torch.tensor([1.0, 0.0])[None, :, None, None]
    assert float(cross_entropy(p, t)) == pytest.approx(-np.log(1e-7))


@pytest.mark.parametrize("classes", [1, 3, 4])
def test_dice_loss_is_the_mean_over_labels_of_the_whole_batch_without_the_background(rng, classes):
    p, t = batch(rng, classes)
    counted = range(1, classes) if classes > 1 else [0]
    ref = np.mean([1 - (2 * (p[:, k] * t[:, k]).sum() + 1) / (p[:, k].sum() + t[:, k].sum() + 1) for k in counted])
    assert float(dice_loss(torch.tensor(p), torch.tensor(t))) == pytest.approx(ref)


def test_the_background_changes_the_entropy_and_not_the_dice_loss(rng):
    p, t = (torch.tensor(array) for array in batch(rng, 3))
    other = p.clone()
    other[:, 0] /= 2
    assert dice_loss(other, t) == dice_loss(p, t)
    assert cross_entropy(other, t) > cross_entropy(p, t)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_loss_is_dice_plus_weighted_cross_entropy(rng, weight):
    p, t = (torch.tensor(array) for array in batch(rng, 3))
    assert float(loss(p, t, weight)) == pytest.approx(float(dice_loss(p, t)) + weight * float(cross_entropy(p, t)))


def test_nothing_found_where_nothing_is_has_no_loss():
    nothing = torch.zeros(2, 1, 4, 4)
    assert float(dice_loss(nothing, nothing)) == 0


class Told(torch.nn.Module):
    """Stands for a network that answers slice n, an image of the number n, with ``probability[n]``."""

    def __init__(self, probability):
        super().__init__()
        self.probability, self.spec = torch.from_numpy(probability).float(), SimpleNamespace(classes=probability.shape[1])

    def forward(self, images):
        return self.probability[images[:, 0, 0, 0].long()]


def told(probability, labels, cases):
    """What `validate` says of probabilities (N, K, S, S), labels (N, S, S) and the slices' cases, fed two at a time."""
    number = torch.arange(len(labels))
    images = number.float()[:, None, None, None].expand(-1, 1, *labels.shape[1:])
    labels = torch.from_numpy(labels.astype(np.uint8))
    names = tuple(map(str, sorted(set(cases))))
    return validate(Told(probability), Slices(images, labels, labels, number[:, None], torch.tensor(cases), torch.zeros(1), names), batch=2)


def test_validation_by_its_formulas(rng):
    """Per patient over all its slices, the mean over patients; the loss over all slices at once."""
    cases = [0, 0, 1, 1, 1]
    p = rng.random((5, 3, 4, 4))
    p /= p.sum(1, keepdims=True)
    truth = rng.integers(0, 3, (5, 4, 4))
    found = p.argmax(1)
    scores = told(p, truth, cases)
    patient, losses = np.array(cases), []
    for label in (1, 2):
        dice = []
        for case in (0, 1):
            a, b = found[patient == case] == label, truth[patient == case] == label
            dice.append(2 * (a & b).sum() / (a.sum() + b.sum()))
        assert scores[f"val_dice_{label}"] == pytest.approx(np.mean(dice))
        t = truth == label
        losses.append(1 - (2 * (p[:, label] * t).sum() + 1) / (p[:, label].sum() + t.sum() + 1))
    assert scores["val_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert scores.keys() == {"val_loss", "val_dice_1", "val_dice_2"}


def test_a_label_that_neither_has_counts_as_1_and_one_missed_or_invented_as_0():
    """Patient 0: neither; 1: missed; 2: invented; 3: found."""
    there, none = np.full((2, 2), 0.9), np.full((2, 2), 0.1)
    labels = np.array([np.zeros((2, 2)), np.ones((2, 2)), np.zeros((2, 2)), np.ones((2, 2))])
    probability = np.stack([none, none, there, there])
    for chosen, mean in (([0], 1), ([1], 0), ([2], 0), ([3], 1), ([0, 1, 2, 3], 0.5)):
        one = told(probability[chosen, None], labels[chosen], list(range(len(chosen))))
        several = told(np.stack([1 - probability, probability], 1)[chosen], labels[chosen], list(range(len(chosen))))
        assert one["val_dice_1"] == several["val_dice_1"] == mean


def test_one_label_is_found_above_one_half_and_not_at_it():
    labels = np.ones((1, 2, 2))
    assert told(np.full((1, 1, 2, 2), 0.5), labels, [0])["val_dice_1"] == 0
    assert told(np.full((1, 1, 2, 2), 0.5001), labels, [0])["val_dice_1"] == 1
