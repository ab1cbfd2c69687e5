"""Left and right in the names of labels: which labels a mirror exchanges, and what shares a row of a legend."""

import nibabel
import numpy as np
import pytest
from conftest import random_tensors
from records import make_record

from monet_edge import formats, sides, weights
from monet_edge.architectures import monet
from monet_edge.report import page
from monet_edge.report.slices import Finding, legend
from monet_edge.report.statistics import measure
from monet_edge.spec import fold_batchnorm

NAMES = ("left thalamus", "Right_thalamus", "brainstem", "right tumour", "leftover")


def test_a_mirror_exchanges_what_has_both_sides_and_nothing_else():
    assert sides.mirrored(NAMES) == [0, 2, 1, 3, 4, 5]


def test_both_sides_share_a_row_of_the_legend_where_one_follows_the_other():
    assert sides.rows(NAMES) == [("thalamus", [1, 2]), ("brainstem", [3]), ("right tumour", [4]), ("leftover", [5])]
    assert sides.rows(("right ventricle", "myocardium", "left ventricle")) == [
        ("right ventricle", [1]),
        ("myocardium", [2]),
        ("left ventricle", [3]),
    ]
    assert sides.rows(("left kidney", "right kidney", "kidney")) == [("kidney", [1, 2]), ("kidney", [3])]


def test_a_line_of_text_names_a_structure_once_with_its_sides_in_the_order_of_the_labels():
    assert [name for name, _ in sides.structures(("right kidney", "left kidney", "spleen"))] == ["right/left kidney", "spleen"]


@pytest.mark.parametrize(
    ("labels", "title"),
    [
        (("right kidney", "left kidney", "spleen"), "CT, right/left kidney, spleen"),
        ([f"{side} {part}" for part in "abcdef" for side in ("left", "right")], "CT, 6 structures"),
    ],
)
def test_a_title_names_few_structures_and_counts_many(labels, title):
    spec = fold_batchnorm(monet(1, len(labels) + 1, 4))
    raw = weights.pack("tiny", spec, random_tensors(spec), make_record(*labels), {"modality": "CT"})
    assert weights.parse("tiny", raw).kind == title


def make_finding(names):
    mask = np.arange(60, dtype=np.uint8).reshape((5, 4, 3), order="F") % (len(names) + 1)
    scan = formats.from_image(nibabel.Nifti1Image(mask.astype(np.int16), np.eye(4)))
    return Finding(scan, mask, measure(scan, mask, names), (0.0, 9.0), "axial", "two sides")


def test_the_legend_tells_every_label_once_with_its_side():
    found = legend(make_finding(NAMES).labels)
    assert [(name, [(entry.side, entry.label.label) for entry in entries]) for name, entries in found] == [
        ("thalamus", [("left", 1), ("right", 2)]),
        ("brainstem", [("", 3)]),
        ("right tumour", [("", 4)]),
        ("leftover", [("", 5)]),
    ]


def test_the_page_has_a_row_for_every_label_of_many_and_both_volumes_of_a_structure():
    finding = make_finding(NAMES)
    text = page.build(finding, "", {}, "")
    for label in finding.labels:
        assert f"<tr><td>{label.name}</td><td>{label.voxels}</td>" in text
    left, right = (f"{label.ml:#.3g} ml" for label in finding.labels[:2])
    assert f"<td>thalamus</td><td>left <strong>{left}</strong></td><td>right <strong>{right}</strong></td>" in text
