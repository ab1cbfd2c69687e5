"""What `evaluate` says of scores: mean, SD, standard error, ml, counts of every kind, places and worst cases, against NumPy."""

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest

from monet_train.scores import compare, describe, summarise, surface_distances, to_csv


def masks(rng, shape=(4, 6, 5)):
    return rng.random(shape) > 0.5, rng.random(shape) > 0.5


def cases(*dice, label="lesion", place=""):
    """A score for every Dice coefficient; the cases are called a, b, c, ..."""
    one = compare("case", label, *2 * [np.ones((1, 1, 1), bool)], (1.0, 1.0, 1.0))
    return [replace(one, case="abcdefghij"[k], dice=value, institution=place, hausdorff=10 * value) for k, value in enumerate(dice)]


def test_figures_describe_a_sample():
    values = [0.2, 0.9, 0.4, 0.7]
    found = describe(values)
    mean = sum(values) / 4
    sd = math.sqrt(sum((value - mean) ** 2 for value in values) / 3)  # of the sample: n - 1
    assert found == pytest.approx({"n": 4, "mean": 0.55, "sd": sd, "se": sd / 2, "median": 0.55, "min": 0.2, "max": 0.9})


def test_the_median_is_not_the_mean_and_of_one_value_there_is_no_spread():
    assert describe([0.0, 0.1, 1.0])["median"] == 0.1
    assert describe([0.25]) == {"n": 1, "mean": 0.25, "sd": 0, "se": 0, "median": 0.25, "min": 0.25, "max": 0.25}


def test_dice_is_twice_what_both_have_over_the_sum_of_what_each_has(rng):
    truth, predicted = masks(rng)
    found = compare("x", "lesion", truth, predicted, (1.0, 1.0, 1.0))
    both = sum(t and p for t, p in zip(truth.flat, predicted.flat, strict=True))
    assert found.dice == pytest.approx(2 * both / (np.count_nonzero(truth) + np.count_nonzero(predicted)))
    assert (found.truth, found.predicted) == (np.count_nonzero(truth), np.count_nonzero(predicted))


def test_a_volume_is_voxels_times_their_size_in_thousandths_of_a_mm3(rng):
    truth, predicted = masks(rng)
    found = compare("x", "lesion", truth, predicted, (2.5, 0.5, 0.8))
    assert found.truth_ml == pytest.approx(truth.sum() * 2.5 * 0.5 * 0.8 / 1000)
    assert found.predicted_ml == pytest.approx(predicted.sum() * 2.5 * 0.5 * 0.8 / 1000)
    assert found.unit == "mm"


def test_without_a_spacing_there_are_no_ml_and_distances_are_means_over_slices_that_hold_something(rng):
    truth, predicted = masks(rng)
    truth[3], predicted[3] = False, False  # a slice of nothing
    truth[2] = False  # invented there
    found = compare("x", "lesion", truth, predicted, None)
    slices = [surface_distances(truth[z], predicted[z], (1, 1)) for z in range(3)]
    assert slices[2] == (math.hypot(6, 5),) * 2
    assert (found.hausdorff, found.hausdorff95) == pytest.approx(np.mean(slices, axis=0))
    assert (found.truth_ml, found.predicted_ml, found.unit) == (None, None, "px")


def test_hausdorff_is_the_farther_way_of_two(rng):
    """From the dot the square is near, but the square's far corner is far from the dot."""
    dot, square = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    dot[1, 1], square[1:8, 1:8] = True, True
    far = math.hypot(2 * 6, 3 * 6)
    assert surface_distances(dot, square, (2, 3))[0] == pytest.approx(far)
    assert surface_distances(square, dot, (2, 3))[0] == pytest.approx(far)
    assert surface_distances(square, dot, (2, 3))[1] < far


def test_a_label_is_summed_up_over_all_its_cases_and_no_others():
    found = summarise([*cases(0.0, 0.5, 1.0, label="core"), *cases(0.9, label="rim")])
    assert list(found) == ["core", "rim"]
    assert found["core"]["cases"] == 3
    assert found["core"]["dice"] == describe([0.0, 0.5, 1.0])
    assert found["core"]["hausdorff"] == describe([0.0, 5.0, 10.0])
    assert found["rim"]["dice"]["mean"] == 0.9


def test_the_worst_cases_are_the_three_of_lowest_dice_lowest_first():
    scores = cases(0.5, 0.1, 0.9, 0.0, 0.3)
    assert summarise(scores)["lesion"]["worst"] == [{"case": "d", "dice": 0.0}, {"case": "b", "dice": 0.1}, {"case": "e", "dice": 0.3}]
    assert summarise(scores, named=False)["lesion"]["worst"] == [{"dice": 0.0}, {"dice": 0.1}, {"dice": 0.3}]


def test_every_institution_has_its_own_mean_and_no_institution_is_none():
    scores = [*cases(0.2, 0.4, place="north"), *cases(0.9, place="south"), *cases(0.1)]
    found = summarise(scores)["lesion"]["institutions"]
    assert found == {"north": describe([0.2, 0.4]), "south": describe([0.9])}


def test_every_kind_of_case_is_counted():
    some, none = np.ones((1, 2, 2), bool), np.zeros((1, 2, 2), bool)
    pairs = [(some, some)] * 4 + [(some, none)] * 3 + [(none, some)] * 2 + [(none, none)]
    scores = [compare("x", "lesion", truth, predicted, (1.0, 1.0, 1.0)) for truth, predicted in pairs]
    row = summarise(scores)["lesion"]
    assert row["status"] == {"found": 4, "missed": 3, "invented": 2, "empty": 1}
    assert row["dice"]["mean"] == pytest.approx((4 * 1 + 3 * 0 + 2 * 0 + 1 * 1) / 10)
    assert row["dice"]["n"] == 10


def test_the_table_has_a_row_for_every_score_with_all_that_it_says(rng):
    scores = [compare(name, "lesion", *masks(rng), (1.5, 1.0, 1.0)) for name in ("x", "y")]
    rows = list(csv.DictReader(io.StringIO(to_csv(scores))))
    assert [row["case"] for row in rows] == ["x", "y"]
    for row, score in zip(rows, scores, strict=True):
        assert float(row["dice"]) == pytest.approx(score.dice, rel=1e-5)
        assert float(row["hausdorff95"]) == pytest.approx(score.hausdorff95, rel=1e-5)
        assert float(row["predicted_ml"]) == pytest.approx(score.predicted_ml, rel=1e-5)
        assert (int(row["truth"]), row["status"], row["unit"]) == (score.truth, "found", "mm")
