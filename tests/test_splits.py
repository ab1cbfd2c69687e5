"""Visits of one patient stay together by a rule that is told; where no rule can tell, it is said that cases were split."""

import json
import re

import pytest

from monet_edge import registry, weights
from monet_edge.errors import DatasetError
from monet_train.splits import BY_CASE, GIVEN, look_alikes, patients, read_rule, read_splits, rule_of, split
from monet_train.synth.train import FOLDS

BIDS = [f"sub-{i:02d}_ses-{j}_T1w" for i in range(10) for j in (1, 2, 3)]
SESSIONS = [f"pat{i:02d}_ses{j}" for i in range(10) for j in (1, 2, 3)]
FRAMES = [f"patient{i:03d}_frame{j:02d}" for i in range(10) for j in (1, 12)]


def whole(names, parts, patient):
    """That no patient is in both parts of any split, and that no case is lost."""
    for part in parts:
        assert sorted(part["train"] + part["val"]) == sorted(names)
        assert not {patient(name) for name in part["train"]} & {patient(name) for name in part["val"]}


@pytest.mark.parametrize("folds", [0, 5])
@pytest.mark.parametrize(
    ("names", "pattern", "rule"),
    [
        (BIDS, "", "by patient: BIDS sub- in the names"),
        ([f"site1_{name}" for name in BIDS], "", "by patient: BIDS sub- in the names"),
        (SESSIONS, r"(pat\d+)_", r"by patient: what `(pat\d+)_` finds in the names"),
        (SESSIONS, r"pat\d+", r"by patient: what `pat\d+` finds in the names"),
        (FRAMES, "(.*)_frame", "by patient: what `(.*)_frame` finds in the names"),
        ([f"TCGA_CS_{i:04d}_{day}" for i in range(10) for day in (1, 2)], "", "by patient: TCGA barcodes in the names"),
    ],
)
def test_no_patient_is_in_both_parts(names, pattern, rule, folds):
    told = patients(names, pattern)
    assert told.rule == rule
    whole(names, split(names, folds=folds, pattern=pattern), told.of.__getitem__)
    if not folds:
        assert len(split(names, pattern=pattern)[0]["val"]) == pytest.approx(0.3 * len(names))


@pytest.mark.parametrize(
    "names",
    [SESSIONS, FRAMES, [f"p{i}t{j}" for i in range(4) for j in (1, 2)], [f"{i:03d}{j}" for i in range(4) for j in "ab"],
     [f"ses{j}_pat{i}" for i in range(4) for j in (1, 2)], [f"site1_pat{i}-v{j}" for i in range(4) for j in (1, 2)]],
    ids=lambda names: names[0],
)  # fmt: skip
def test_names_that_look_like_one_patients_are_pointed_out(names):
    assert patients(names).rule == BY_CASE
    first, second = look_alikes(names)
    assert first != second
    assert {first, second} <= {*names}


@pytest.mark.parametrize("stem", ["case", "hippocampus", "BraTS20_Training", "brats_2013_pat", "phantom", "sub"])
def test_numbered_cases_do_not_look_like_one_patient(stem):
    names = [f"{stem}_{i:03d}" for i in range(30)]
    assert look_alikes(names) is None
    assert patients(names).rule == BY_CASE


def test_a_name_in_bids_beside_others_is_no_rule_for_all():
    names = ["sub-01_a", "sub-01_b", "x", "y"]
    assert patients(names).rule == BY_CASE
    assert patients(names).of["sub-01_a"] == patients(names).of["sub-01_b"]


@pytest.mark.parametrize(("pattern", "words"), [("(", "no regular expression"), ("(z+)", "no patient in 2 of 2"), ("(z*)", "no patient")])
def test_a_pattern_that_tells_nothing_is_refused(pattern, words):
    with pytest.raises(DatasetError, match=words):
        split(["a1", "a2"], pattern=pattern)


def test_what_dataset_json_lists_validates_unless_another_split_is_asked_for():
    names = ["a", "b", "c", "d"]
    assert split(names, listed=("b",)) == [{"train": ["a", "c", "d"], "val": ["b"]}]
    assert len(split(names, listed=("b",), folds=2)) == 2
    assert split(names, listed=("b",), pattern="(.)") == split(names)


def test_a_split_from_elsewhere_may_not_part_a_patient():
    apart = {"train": ["sub-01_ses-1"], "val": ["sub-01_ses-2"]}
    with pytest.raises(DatasetError, match="scans of sub-01 in both parts"):
        rule_of(apart)
    with pytest.raises(DatasetError, match="scans of pat1 in both parts"):
        rule_of({"train": ["pat1_a"], "val": ["pat1_b"]}, "(pat.)_")
    assert rule_of({"train": ["pat1_a"], "val": ["pat1_b"]}) == GIVEN
    assert rule_of({"train": ["sub-01_ses-1"], "val": ["sub-02_ses-2"]}).startswith("by patient")


LEFT_OUT = {"brain": ("head_07",)}  # half of a hippocampus is missing in its map: who validates stays who did


@pytest.mark.parametrize("name", registry.shipped())
def test_the_committed_splits_mean_what_they_did(name):
    path = registry.find(name).with_suffix(".splits.json")
    (part,) = read_splits(path)
    left_out = LEFT_OUT.get(name, ())
    names, rule = [*part["train"], *part["val"], *left_out], read_rule(path)
    pattern = found[1] if (found := re.search("what `(.*)` finds in the names", rule)) else ""
    folds = FOLDS if "generated" in weights.load(name).provenance else 0
    whole = split(names, folds=folds, pattern=pattern)[0]
    assert {use: [one for one in ones if one not in left_out] for use, ones in whole.items()} == part
    assert rule in (GIVEN, patients(names, pattern).rule)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_splits_file_may_have_a_byte_order_mark_and_a_rule(tmp_path, encoding):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps([{"train": ["a"], "val": ["b"], "rule": "by case"}]), encoding=encoding)
    assert read_splits(path) == [{"train": ["a"], "val": ["b"]}]
    assert read_rule(path) == BY_CASE


def test_the_split_is_by_patient_within_each_institution():
    names = [f"TCGA_{place}_{i:04d}" for place, count in (("CS", 16), ("DU", 45), ("EZ", 1), ("HT", 34)) for i in range(count)]
    (part,) = split(names)
    assert (len(part["train"]), len(part["val"])) == (67, 29)
    assert not set(part["train"]) & set(part["val"])
    assert [sum(name[5:7] == place for name in part["train"]) for place in ("CS", "DU", "EZ", "HT")] == [11, 31, 1, 24]
    assert split(names[::-1]) == [part]
    folds = split(names, folds=5)
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(names)
