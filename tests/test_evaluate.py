"""Scores by their definitions, nothing left out of a mean; and the whole way from a training to a measured file."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import RECORD, settings, write_dataset

from monet_train.config import STRONG, Augmentation
from monet_train.dataset import read
from monet_train.evaluate import evaluate, make_model
from monet_train.export import export
from monet_train.prepare import prepare
from monet_train.scores import compare, summarise, surface_distances
from monet_train.splits import split
from monet_train.train import fit


def test_surface_distances_against_every_pair_of_surface_points():
    rng = np.random.default_rng(0)
    a, b = (np.pad(rng.random((5, 6, 7)) > 0.7, 1) for _ in range(2))
    spacing = (3.0, 1.0, 0.5)

    def surface(mask):
        inside = np.ones_like(mask)
        for axis in range(3):
            for step in (-1, 1):
                inside &= np.roll(mask, step, axis)
        return np.argwhere(mask & ~inside) * spacing

    pairs = np.linalg.norm(surface(a)[:, None] - surface(b)[None], axis=-1)
    directed = pairs.min(1), pairs.min(0)
    ref = max(d.max() for d in directed), max(np.percentile(d, 95) for d in directed)
    assert surface_distances(a, b, spacing) == pytest.approx(ref)
    assert surface_distances(a, np.zeros_like(a), (1, 1, 1))[0] == pytest.approx(np.linalg.norm(a.shape))
    assert surface_distances(np.zeros_like(a), np.zeros_like(a), (1, 1, 1)) == (0.0, 0.0)


def test_missed_and_invented_structures_stay_in_the_mean():
    some, none = np.zeros((3, 4, 4), bool), np.zeros((3, 4, 4), bool)
    some[1, 1:3, 1:3] = True
    scores = [compare("a", "x", t, p, None) for t, p in ((some, some), (some, none), (none, some), (none, none))]
    assert [score.status for score in scores] == ["found", "missed", "invented", "empty"]
    assert [score.dice for score in scores] == [1, 0, 0, 1]
    assert [score.hausdorff for score in scores] == pytest.approx([0, 32**0.5, 32**0.5, 0])
    row = summarise(scores)["x"]
    assert (row["cases"], row["dice"]["mean"], row["unit"]) == (4, 0.5, "px")


@pytest.mark.slow
def test_a_small_training_learns_exports_and_runs(tmp_path):
    """The whole way on the phantom: fit, fold, measure through the runtime, on patients it has not seen."""
    dataset = read(write_dataset(tmp_path / "data", 10, shape=(10, 64, 64)))
    prepared = prepare(dataset, tmp_path / "prepared")
    (part,) = split(list(prepared.keys))
    calm = Augmentation(rotate=5, zoom=0.1, shift=0.05, flip=0.5, contrast=0.1)
    recipe = replace(STRONG, batch=8, epochs=14, ema_decay=0.9, dropout=0.0, augmentation=calm)
    quick = replace(settings(), recipe=recipe, deterministic=False, preprocess=replace(RECORD, size=48))
    fit(quick, prepared, part, tmp_path / "run", device="cpu")
    weights = export(tmp_path / "run", dataset, tmp_path / "phantom.safetensors")
    scores = {engine: list(evaluate(make_model(weights, engine, 1), dataset, part["val"])) for engine in ("runtime", "torch")}
    row = summarise(scores["runtime"])["lesion"]
    assert row["status"]["found"] == 3
    assert row["dice"]["mean"] >= 0.9
    for ref, comp in zip(scores["torch"], scores["runtime"], strict=True):
        assert abs(ref.predicted - comp.predicted) <= 2  # probabilities that differ by 1e-4 at the threshold
