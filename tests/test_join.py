"""Several data sets as one: all cases, none copied, nothing hidden of where they come from."""

import json

import pytest
import synthetic

from monet_edge.errors import DatasetError, OutputError
from monet_train.dataset import all_channels, read
from monet_train.join import join
from monet_train.prepare import VERSION, key


@pytest.fixture
def two(tmp_path):
    """A data set in either dialect, of the same labels, with licences of their own."""
    folders = [synthetic.write_dataset(tmp_path / dialect, cases=2, dialect=dialect) for dialect in ("decathlon", "nnunet")]
    for folder, words in zip(folders, ({"licence": "CC BY 4.0", "spacing": "unknown"}, {"licence": "", "name": "healthy"}), strict=True):
        path = folder / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **words}))
    return [read(folder) for folder in folders]


def test_a_joined_data_set_has_the_cases_of_both_as_they_were(two, tmp_path):
    join(two, tmp_path / "both")
    both = read(tmp_path / "both")
    assert len(both.pairs) == 4
    assert both.warnings == ()
    files = {path.resolve() for pair in both.pairs.values() for path in pair}
    assert files == {path.resolve() for part in two for pair in part.pairs.values() for path in pair}
    keys = {key(both, name, VERSION) for name in both.pairs}  # a run on prepared cases of both is one on the joined data set
    assert keys == {key(part, name, VERSION) for part in two for name in part.pairs}


def test_what_one_of_them_does_not_say_is_not_hidden_by_the_other(two, tmp_path):
    join(two, tmp_path / "both", "patients")
    both = read(tmp_path / "both")
    assert both.name == "patients"
    assert both.licence == "CC BY 4.0; not stated"
    assert not both.spacing_known


def test_other_labels_are_refused(two, tmp_path):
    path = two[1].folder / "dataset.json"
    path.write_text(path.read_text().replace("lesion", "tumour"))
    with pytest.raises(DatasetError, match=r"its labels are tumour, those of .*decathlon lesion"):
        join([two[0], read(two[1].folder)], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_a_folder_that_holds_something_is_left_alone(two, tmp_path):
    with pytest.raises(OutputError, match="not empty"):
        join(two, two[0].folder)
    with pytest.raises(DatasetError, match="nothing to join"):
        join(two[:1], tmp_path / "both")


def test_all_channels_of_both_are_joined(two, tmp_path):
    two = [read(found.folder, (0, 1)) for found in two]
    join(two, tmp_path / "both")
    both = read(tmp_path / "both", all_channels(tmp_path / "both"))
    assert (both.modalities, len(both.pairs), both.warnings) == (("FLAIR", "mirrored"), 4, ())
    assert {key(both, name, VERSION) for name in both.pairs} == {key(part, name, VERSION) for part in two for name in part.pairs}


def test_channels_in_another_order_are_not_joined(tmp_path):
    one, other = (synthetic.write_dataset(tmp_path / name, 1) for name in ("one", "other"))
    about = other / "dataset.json"
    about.write_text(about.read_text().replace('"FLAIR"', '"x"').replace('"mirrored"', '"FLAIR"').replace('"x"', '"mirrored"'))
    with pytest.raises(DatasetError, match=r"expected data sets of the same channels .* found FLAIR, mirrored .* and mirrored, FLAIR"):
        join([read(one, (0, 1)), read(other, (0, 1))], tmp_path / "both")
    with pytest.raises(DatasetError, match=r"from 0 on, in one order, found mirrored \(volumes 1\) and FLAIR \(volumes 1\)"):
        join([read(one, (1,)), read(other, (1,))], tmp_path / "both")
