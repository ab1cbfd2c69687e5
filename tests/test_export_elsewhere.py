"""What a finished model becomes for others: an ONNX file for another runtime, a folder for a model hub."""

import json

import numpy as np
import pytest
from conftest import random_tensors, tiny_nnunet
from records import make_record

from monet_edge import Model, phantom, preprocess, registry, weights
from monet_edge.architectures import attention_unet, monet, unet
from monet_edge.engine import Engine
from monet_edge.errors import ModelError, OutputError
from monet_edge.spec import fold_batchnorm
from monet_train import onnx_file
from monet_train.hub import check_hub, licence_id, write_hub

NETWORKS = {
    "monet": lambda: monet(3, filters=4, depth=1),
    "U-Net": lambda: unet(4, 3, 3, depth=2),
    "Attention U-Net": lambda: attention_unet(4, depth=2),
    "nnU-Net plain": lambda: tiny_nnunet(False),
    "nnU-Net residual": lambda: tiny_nnunet(True),
}


def make_weights(spec):
    """A weights file with random tensors, loaded."""
    spec = fold_batchnorm(spec)
    record = make_record(*"ab"[: max(1, spec.classes - 1)], context=spec.in_channels // 2)
    return weights.parse("random", weights.pack("random", spec, random_tensors(spec), record, {"licence": "Apache-2.0"}))


def run_onnx(raw, images):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"image": images})[0], session.get_modelmeta().custom_metadata_map


@pytest.mark.parametrize("name", registry.shipped())
def test_onnx_runtime_says_of_slices_what_we_say(name):
    model = Model(weights.load(name))
    slices = model.slices(phantom.to_image(phantom.make(shape=(12, 160, 160))[0]))[4:7]
    found, _ = run_onnx(onnx_file.onnx_bytes(model.weights), slices)
    assert np.abs(found - Engine(model.weights.spec, model.weights.tensors).run(slices)).max() <= 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_every_op_has_its_onnx(name):
    given = make_weights(NETWORKS[name]())
    images = np.random.default_rng(1).random((3, given.spec.in_channels, 32, 32), np.float32)
    found, facts = run_onnx(onnx_file.onnx_bytes(given), images)
    ref = Engine(given.spec, given.tensors).run(images)
    assert np.abs(found - ref).max() <= 1e-4 * max(1, np.abs(ref).max())
    assert json.loads(facts["monet_edge.labels"]) == list(given.preprocess.labels)
    assert preprocess.from_json(facts["monet_edge.preprocess"]) == given.preprocess
    assert facts["monet_edge.sha256"] == given.sha256


def test_an_onnx_file_that_differs_is_not_written(tmp_path, monkeypatch):
    given = make_weights(NETWORKS["monet"]())
    monkeypatch.setitem(onnx_file._ACTIVATIONS, "elu", lambda op: ("Relu", {}))
    with pytest.raises(ModelError, match="differ from ours"):
        onnx_file.write_onnx(tmp_path / "m.onnx", given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["m.bin", "nowhere/m.onnx"])
def test_where_no_onnx_file_can_be_is_said_before_the_work(tmp_path, name):
    with pytest.raises(OutputError, match=r"ends in \.onnx"):
        onnx_file.check_onnx(tmp_path / name)


@pytest.fixture
def released(tmp_path):
    """A shipped model as `export` leaves it: weights, splits, card."""
    for path in registry.find("brain-flair").parent.glob("brain-flair.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / "brain-flair.safetensors"


def test_a_hubs_folder_is_a_model(released, tmp_path):
    scan = tmp_path / "scan.nii.gz"
    phantom.save(phantom.make(shape=(12, 64, 64))[0], scan)
    write_hub(tmp_path / "hub", released, [(scan, None)])
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == [
        "README.md", "brain-flair.safetensors", "brain-flair.splits.json", "preview.png"
    ]  # fmt: skip
    assert weights.load(tmp_path / "hub").sha256 == weights.load(released).sha256
    _, header, text = (tmp_path / "hub" / "README.md").read_text().split("---\n", 2)
    told = {key: json.loads(value) for key, value in (line.split(": ", 1) for line in header.splitlines())}  # what YAML reads, too
    assert told["license"] == "cc-by-nc-sa-4.0"
    assert told["pipeline_tag"] == "image-segmentation"
    assert told["library_name"] == "monet-edge"
    measured = weights.load(released).provenance["metrics"]
    assert [result["dataset"]["name"] for result in told["model-index"][0]["results"]] == list(measured)
    assert told["model-index"][0]["results"][0]["metrics"][0]["value"] == measured["brain-flair, validation"]["tumour"]["dice"]["mean"]
    assert text.startswith("# brain-flair\n")
    assert "![" in text


def test_a_hubs_folder_of_private_data_names_no_patient_and_shows_no_scan(released, tmp_path):
    write_hub(tmp_path / "hub", released, ())
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == ["README.md", "brain-flair.safetensors"]
    assert "![" not in (tmp_path / "hub" / "README.md").read_text()


def test_a_folder_with_another_model_is_no_place_for_one(released, tmp_path):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "other.safetensors").touch()
    with pytest.raises(OutputError, match="holds other"):
        check_hub(tmp_path / "hub", "brain-flair")
    (tmp_path / "hub" / "brain-flair.safetensors").touch()
    with pytest.raises(ModelError, match="found 2; name the file"):
        weights.load(tmp_path / "hub")


@pytest.mark.parametrize(
    ("text", "known"),
    [("CC BY 3.0", "cc-by-3.0"), ("CC BY-NC-SA 4.0: research only", "cc-by-nc-sa-4.0"), ("Apache-2.0", "apache-2.0"),
     ("CC BY 3.0x", ""), ("Apache-2.0-with-more", ""), ("", ""), ("ask us", "")],
)  # fmt: skip
def test_a_licence_is_called_what_hubs_call_it(text, known):
    assert licence_id(text) == known
