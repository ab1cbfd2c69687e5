"""BIDS: a data set is walked as a BIDS App walks it, and the masks are a derivative that others can read."""

import json
import shutil
import subprocess

import nibabel
import numpy as np
import pytest
from fuzz.build import head, nifti
from typer.testing import CliRunner

from monet_edge import bids
from monet_edge.cli import app
from monet_edge.volume.labels import COLOURS

FILES = {
    "sub-01/anat/sub-01_FLAIR.nii.gz": "01",
    "sub-01/anat/sub-01_T1w.nii.gz": "01",
    "sub-02/ses-a/anat/sub-02_ses-a_acq-hi_run-1_T1w.nii": "02",
    "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz": "02",
    "sub-03/anat/sub-03_T1w.nii.gz": "03",
}


@pytest.fixture
def raw(tmp_path):
    """A data set of three participants."""
    folder = tmp_path / "raw"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(nifti(head((32, 32, 4))))
    (folder / "sub-01/anat/sub-01_T1w.json").write_text("{}")
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "raw", "BIDSVersion": "1.11.1", "DatasetType": "raw"}))
    return folder


@pytest.fixture
def run(weights_file):
    return lambda *arguments: CliRunner().invoke(app, [*map(str, arguments), "-m", str(weights_file), "--threads", "1"])


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_data_set_is_walked_and_its_masks_are_a_derivative(run, raw, tmp_path):
    out = tmp_path / "out"
    done = run("bids", raw, out, "participant", "--suffix", "T1w", "--probabilities", "--preview")
    assert done.exit_code == 0, done.stderr
    assert "4 of 4 scans segmented" in done.stdout
    stems = [
        "sub-01/anat/sub-01_desc-tinyT1w",
        "sub-02/ses-a/anat/sub-02_ses-a_acq-hi_run-1_desc-tinyT1w",
        "sub-02/ses-b/anat/sub-02_ses-b_desc-tinyT1w",
        "sub-03/anat/sub-03_desc-tinyT1w",
    ]
    kinds = ("dseg.json", "dseg.nii.gz", "preview.png", "probseg.json", "probseg.nii.gz")
    top = [".bidsignore", "README.md", "dataset_description.json", "desc-tinyT1w_dseg.tsv"]
    assert files(out) == [*top, *(f"{stem}_{kind}" for stem in stems for kind in kinds)]
    about = json.loads((out / "dataset_description.json").read_text())
    assert (about["DatasetType"], about["GeneratedBy"][0]["Name"], about["DatasetLinks"]) == ("derivative", "monet-edge", {"raw": "../raw"})
    sidecar = json.loads((out / f"{stems[1]}_dseg.json").read_text())
    assert sidecar["Sources"] == ["bids:raw:sub-02/ses-a/anat/sub-02_ses-a_acq-hi_run-1_T1w.nii"]
    assert sidecar["Manual"] is False
    assert "not a medical device" in sidecar["Description"]
    assert (out / top[3]).read_text() == "index\tname\tabbreviation\tcolor\n1\tblob\tBLO\t#{:02X}{:02X}{:02X}\n".format(*COLOURS[0])
    mask = nibabel.load(out / f"{stems[1]}_dseg.nii.gz")
    np.testing.assert_array_equal(mask.affine, nibabel.load(raw / list(FILES)[2]).affine)
    assert str(tmp_path) not in "".join(path.read_text() for path in out.rglob("*.json"))


@pytest.mark.parametrize("labels", [("--participant-label", "02", "03"), ("--participant_label", "sub-02", "--participant_label", "03")])
def test_participants_are_chosen(run, raw, tmp_path, labels):
    done = run("bids", raw, tmp_path / "out", "participant", "--suffix", "T1w", *labels)
    assert done.exit_code == 0, done.stderr
    assert {path.split("/")[0] for path in files(tmp_path / "out") if "/" in path} == {"sub-02", "sub-03"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("group",), "the level of analysis is 'group'; expected participant"),
        (("participant", "--suffix", "T2w"), "no scan called T2w; found FLAIR, T1w. Choose with --suffix"),
        (("participant", "--suffix", "T1w", "--participant-label", "9"), "has no participant 9; it has 3, such as 01"),
        (("participant",), "is for synthetic: say which scans, such as --suffix T1w"),
        (("participant", "01", "--suffix", "T1w"), "found 01 besides"),
        (("participant", "--suffix", "T1w", "--format", "nrrd"), "BIDS has no masks in nrrd"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, raw, tmp_path, arguments, message):
    done = run("bids", raw, tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_data_set_or_another_s_is_refused(run, raw, tmp_path):
    assert f"{tmp_path}: no dataset_description.json" in run("bids", tmp_path, tmp_path / "out", "participant", "--suffix", "T1w").stderr
    before = files(raw)
    done = run("bids", raw, raw, "participant", "--suffix", "T1w")
    assert "holds a data set that monet-edge has not made" in done.stderr
    assert files(raw) == before


def test_a_second_run_adds_and_replaces_only_what_it_may(run, raw, tmp_path):
    out = tmp_path / "raw" / "derivatives" / "masks"
    assert run("bids", raw, out, "participant", "--suffix", "T1w", "--participant-label", "01").exit_code == 0
    (out / "README.md").write_text("mine")
    done = run("bids", raw, out, "participant", "--suffix", "T1w", "--suffix", "FLAIR")
    assert done.exit_code == 1
    assert "sub-01_desc-tinyT1w_dseg.nii.gz exists already" in done.stderr
    assert "4 of 5 scans segmented" in done.stdout
    assert (out / "README.md").read_text() == "mine"
    assert json.loads((out / "dataset_description.json").read_text())["DatasetLinks"] == {"raw": "../.."}
    assert run("bids", raw, out, "participant", "--suffix", "T1w", "--overwrite").exit_code == 0


def test_segment_makes_a_derivative_of_scans_with_names_of_bids(run, raw, tmp_path):
    scan = raw / "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz"
    assert run("segment", scan, "--bids", "-o", tmp_path / "out").exit_code == 0
    assert "sub-02/ses-b/anat/sub-02_ses-b_desc-tinyT1w_dseg.nii.gz" in files(tmp_path / "out")
    assert "needs a folder of its own. Give it as --output." in run("segment", scan, "--bids").stderr
    shutil.copy(scan, tmp_path / "scan.nii.gz")
    done = run("segment", tmp_path / "scan.nii.gz", "--bids", "-o", tmp_path / "other")
    assert "its name is not one of BIDS, such as sub-01_T1w.nii.gz" in done.stderr


def test_the_suffix_comes_from_the_modality():
    assert [bids.suffixes(word) for word in ("FLAIR", "T1 MRI", "T2 SPIR MRI", "CT", "MRI")] == [
        ("FLAIR",),
        ("T1w",),
        ("T2w",),
        ("ct",),
        (),
    ]


def test_the_table_of_labels_has_abbreviations_of_their_own():
    rows = [row.split("\t") for row in bids.table(("left kidney", "liver", "large knee", "tumour\tcore")).splitlines()]
    assert [row[1:3] for row in rows[1:]] == [["left kidney", "LK"], ["liver", "LIV"], ["large knee", "LK3"], ["tumour?core", "TC"]]


@pytest.mark.skipif(shutil.which("bids-validator-deno") is None, reason="bids-validator is not installed")
def test_bids_validator_finds_no_error(run, raw, tmp_path):
    assert run("bids", raw, tmp_path / "out", "participant", "--suffix", "T1w", "--probabilities", "--preview").exit_code == 0
    done = subprocess.run(["bids-validator-deno", str(tmp_path / "out"), "--format", "json"], capture_output=True, text=True)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
