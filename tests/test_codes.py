"""SNOMED codes of labels: from a table into a weights file, and none that DICOM has no room for."""

import json
from pathlib import Path

import pytest
from conftest import random_tensors
from records import make_record

from monet_edge import codes, registry, weights
from monet_edge.architectures import monet
from monet_edge.errors import ModelError
from monet_edge.spec import fold_batchnorm

TABLE = json.loads((Path(__file__).parents[1] / "weights" / "codes.json").read_text())


def test_a_models_codes_are_picked_from_a_table_of_many():
    assert codes.pick(TABLE, ("pancreas",)) == {"pancreas": TABLE["pancreas"]}
    for table in ({}, [], None):
        with pytest.raises(ModelError, match="there are none for pancreas"):
            codes.pick(table, ("pancreas",))


def test_a_side_is_a_modifier_of_the_structures_codes_unless_they_have_one():
    found = codes.pick(TABLE, ("left thalamus", "right kidney", "right ventricle"))
    assert found["left thalamus"] == {**TABLE["thalamus"], "modifier": ["7771000", "SCT", "Left"]}
    assert found["right kidney"] == {**TABLE["kidney"], "modifier": ["24028007", "SCT", "Right"]}
    assert found["right ventricle"] == TABLE["right ventricle"]  # of the heart, and none of a brain's two
    with pytest.raises(ModelError, match="there are none for left anterior"):
        codes.pick(TABLE, ("left anterior",))


BAD = {
    "no object": [],
    "another label": {"liver": TABLE["pancreas"]},
    "no type": {"pancreas": {"category": ["1", "SCT", "a"]}},
    "another part": {"pancreas": {**TABLE["pancreas"], "colour": ["1", "SCT", "a"]}},
    "too long": {"pancreas": {**TABLE["pancreas"], "type": ["1" * 17, "SCT", "a"]}},
    "two parts": {"pancreas": {**TABLE["pancreas"], "type": ["1", "SCT"]}},
    "a number": {"pancreas": {**TABLE["pancreas"], "type": [15776009, "SCT", "Pancreas"]}},
    "a backslash": {"pancreas": {**TABLE["pancreas"], "type": ["1", "SCT", "a\\b"]}},
    "a line break": {"pancreas": {**TABLE["pancreas"], "type": ["1", "SCT", "a\nb"]}},
}


@pytest.mark.parametrize("name", BAD)
def test_what_dicom_has_no_room_for_is_no_code(name):
    with pytest.raises(ModelError, match="codes"):
        codes.check(BAD[name], ("pancreas",))


def test_codes_travel_in_the_weights_file_and_bad_ones_are_refused(tmp_path):
    spec = fold_batchnorm(monet(filters=4, depth=1))
    given = spec, random_tensors(spec), make_record("pancreas")
    weights.save(tmp_path / "a.safetensors", *given, {"codes": {"pancreas": TABLE["pancreas"]}})
    assert weights.load(tmp_path / "a.safetensors").provenance.codes == {"pancreas": TABLE["pancreas"]}
    with pytest.raises(ModelError, match="codes"):
        weights.save(tmp_path / "b.safetensors", *given, {"codes": BAD["too long"]})
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("name", sorted(registry.shipped()))
def test_every_shipped_label_has_its_code(name):
    found = weights.load(name)
    assert found.provenance.codes == codes.pick(TABLE, found.preprocess.labels)
