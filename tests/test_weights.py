"""The weights file as untrusted input: what was saved is what is loaded, or one clear line says why not."""

import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from conftest import random_tensors
from records import make_record

from monet_edge import weights
from monet_edge.architectures import attention_unet, monet, unet
from monet_edge.errors import ModelError, ResourceError
from monet_edge.spec import Op, Spec, fold_batchnorm, infer_shapes, tensor_shapes

ROOT = Path(__file__).parents[1]
RECORD = make_record("blob")
PERCENTILES = replace(RECORD, intensity="percentile", low=2.0, high=99.0)
SPEC = fold_batchnorm(monet(filters=4, depth=1))
TENSORS = random_tensors(SPEC)
FIRST = next(iter(TENSORS))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "tiny.safetensors"
    weights.save(path, SPEC, TENSORS, RECORD, {"modality": "synthetic", "licence": "Apache-2.0"})
    return path


@pytest.mark.parametrize("spec", [monet(filters=4, depth=1), unet(2), attention_unet(2)], ids=lambda spec: spec.name)
def test_load_gives_what_was_saved(tmp_path, spec):
    spec = fold_batchnorm(spec)
    tensors = random_tensors(spec)
    weights.save(tmp_path / "a.safetensors", spec, tensors, RECORD, {"dice": "0.75"})
    loaded = weights.load(tmp_path / "a.safetensors")
    assert (loaded.name, loaded.spec, loaded.preprocess, loaded.provenance) == ("a", spec, RECORD, {"dice": "0.75"})
    assert loaded.sha256 == hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    assert list(loaded.tensors) == list(tensor_shapes(spec))
    for name, tensor in loaded.tensors.items():
        np.testing.assert_array_equal(tensor, tensors[name])
        assert tensor.dtype == np.float32
        assert not tensor.flags.writeable


def test_a_large_file_that_was_changed_since_is_not_read_again(saved, monkeypatch):
    monkeypatch.setattr(weights, "KEPT", 0)
    loaded = weights.load(saved)
    kept = pickle.loads(pickle.dumps(loaded))
    assert all(np.array_equal(loaded.tensors[name], tensor) for name, tensor in TENSORS.items())
    saved.write_bytes(saved.read_bytes())
    os.utime(saved, ns=(0, 0))
    with pytest.raises(ModelError, match="changed since it was loaded"):
        loaded.tensors[FIRST]
    saved.unlink()
    with pytest.raises(ModelError, match="cannot be read again"):
        loaded.tensors[FIRST]
    assert all(np.array_equal(kept.tensors[name], tensor) for name, tensor in TENSORS.items())  # a copy has its own


def test_every_bit_counts(saved):
    """A flipped bit is refused: one byte in each of 200 stretches of the file, all its bits."""
    raw = saved.read_bytes()
    blanks = len(raw[: 8 + int.from_bytes(raw[:8], "little")].rstrip())  # the header's padding may be any white space
    for at in range(0, len(raw), len(raw) // 200):
        for bit in range(8):
            damaged = bytearray(raw)
            damaged[at] ^= 1 << bit
            if not (at >= blanks and damaged[at : at + 1].isspace()):
                with pytest.raises(ModelError):
                    weights.parse("a", bytes(damaged))


VALID = {"format": "monet-edge", "spec": weights._spec.to_json(SPEC), "preprocess": weights._preprocess.to_json(RECORD)}
VALID |= {"fingerprint": "null", "provenance": "{}"}
CHANNELS = fold_batchnorm(monet(3, filters=4, depth=1))


def forged(spec=SPEC, tensors=TENSORS, texts=None, **metadata):
    """A weights file with a right checksum whatever it holds."""
    entries = {**VALID, "spec": weights._spec.to_json(spec), **(texts or {})}
    digest = "" if None in entries.values() else weights._checksum(entries, tensors)
    kept = {key: text for key, text in {**entries, "checksum": digest, **metadata}.items() if text is not None}
    return safetensors.numpy.save(dict(tensors), kept)


def edited(change, **fields):
    """The Spec's JSON after ``change(ops)`` and with other fields."""
    data = json.loads(weights._spec.to_json(SPEC))
    change(data["ops"])
    return {"spec": json.dumps({**data, **fields})}


def other(name, tensor):
    return {**TENSORS, name: tensor}


def conv(name, source, filters, stride=1, padding=0, kernel=1, kind="conv"):
    attrs = {"filters": filters, "kernel": kernel, "stride": stride, "padding": padding, "bias": False, "activation": "none"}
    return Op(name, kind, (source,), attrs if kind == "deconv" else {**attrs, "dilation": 1})


def chain(kind, source, count):
    """Convolutions that divide, or transposed ones that multiply, a side by 64, one after the other."""
    names = [source, *(f"{kind}{i}" for i in range(count))]
    return [conv(name, before, 1, 64, 0, 64, kind) for before, name in pairwise(names)]


LATER = SPEC.ops[-1].name
WHOLE = forged()
HEADER = int.from_bytes(WHOLE[:8], "little")

REFUSED = {
    "empty": (b"", "not an intact safetensors file"),
    "text": (b"Dear colleague, here are the weights. " * 50, "header is too long"),
    "truncated": (WHOLE[:-1], "not an intact safetensors file"),
    "goes on": (WHOLE + b"\0", "not an intact safetensors file"),
    "header of 100 MB": (struct.pack("<Q", 100 << 20) + WHOLE[8:], "header is too long"),
    "header beyond the end": (struct.pack("<Q", 1 << 21) + WHOLE[8:], "not an intact safetensors file"),
    "header is no JSON": (struct.pack("<Q", 4) + b"abcd", "not an intact safetensors file"),
    "a pickle": (pickle.dumps(TENSORS), "not an intact safetensors file"),
    "no metadata": (safetensors.numpy.save(TENSORS), "not one of monet-edge"),
    "another format": (forged(format="pt"), "not one of monet-edge"),
    "unknown metadata": (forged(extra="1"), "not one of monet-edge"),
    "no Spec": (forged(texts={"spec": None}), "not one of monet-edge"),
    "no checksum": (forged(checksum=None), "not one of monet-edge"),
    "wrong checksum": (forged(checksum="0" * 64), "checksum is wrong"),
    **{
        f"{key} changed": (forged(texts={key: text}, checksum=weights._checksum(VALID, TENSORS)), "checksum is wrong")
        for key, text in {
            "preprocess": weights._preprocess.to_json(replace(RECORD, threshold=0.25)),
            "provenance": '{"licence": "CC0"}',
            "spec": edited(lambda ops: None, name="another")["spec"],
        }.items()
    },
    "too many channels": (forged(CHANNELS, random_tensors(CHANNELS)), "the network takes 3 channels, its preprocessing makes 1"),
    "a Dice that is no text": (forged(texts={"provenance": '{"dice": 0.75}'}), "dice must be text"),
    "weights changed": (WHOLE[:-2] + b"\0\0", "checksum is wrong"),
    "NaN": (forged(tensors=other(FIRST, TENSORS[FIRST] * np.float32(np.nan))), "NaN or infinite"),
    "infinite": (forged(tensors=other(FIRST, TENSORS[FIRST] * np.float32(np.inf))), "NaN or infinite"),
    "float64": (forged(tensors=other(FIRST, TENSORS[FIRST].astype(np.float64))), "is F64"),
    "wrong shape": (forged(tensors=other(FIRST, TENSORS[FIRST].T.copy())), "its network needs F32"),
    "missing tensor": (forged(tensors={name: tensor for name, tensor in TENSORS.items() if name != FIRST}), f"missing .*{FIRST}"),
    "extra tensor": (forged(tensors=other("more", np.zeros(1, np.float32))), "unknown .*more"),
    "Spec is no JSON": (forged(texts={"spec": "{"}), "not JSON"),
    "Spec nested without end": (forged(texts={"spec": "[" * 100_000}), "not JSON"),
    "Spec of another version": (forged(texts=edited(lambda ops: None, version=2)), "version 2"),
    "unknown key in the Spec": (forged(texts=edited(lambda ops: None, more=1)), "exactly"),
    "unknown kind": (forged(texts=edited(lambda ops: ops[0].update(kind="lambda"))), "unknown kind 'lambda'"),
    "unknown attribute": (forged(texts=edited(lambda ops: ops[0].update(code="print()"))), "unknown .*code"),
    "missing attribute": (forged(texts=edited(lambda ops: ops[0].pop("stride"))), "lacks .*stride"),
    "attribute of another type": (forged(texts=edited(lambda ops: ops[0].update(filters=4.0))), "filters must be int"),
    "unknown input": (forged(texts=edited(lambda ops: ops[0].update(inputs=["nowhere"]))), "reads 'nowhere'"),
    "cyclic": (forged(texts=edited(lambda ops: ops[0].update(inputs=[LATER]))), f"reads '{LATER}', which no earlier op makes"),
    "two of one name": (forged(texts=edited(lambda ops: ops[1].update(name=ops[0]["name"]))), "two ops"),
    "no ops": (forged(texts=edited(lambda ops: ops.clear())), "1 to 3000 ops"),
    "100,000 ops": (forged(texts=edited(lambda ops: ops.extend([{}] * 100_000))), "at most 3000 ops"),
    "a million filters": (forged(texts=edited(lambda ops: ops[0].update(filters=10**6))), "filters must be 1 to"),
    "sizes of 64^90": (forged(replace(SPEC, ops=(*chain("deconv", "image", 90), *chain("conv", "deconv89", 90)))), "pixels a side"),
    "unprintable name": (forged(replace(SPEC, name="\x1b[2Jmonet")), "cannot be printed"),
    "unprintable name of an op": (forged(texts=edited(lambda ops: ops[0].update(name="\x1b[2J"))), "printable characters"),
    "name of another type": (forged(texts=edited(lambda ops: None, name=5)), "needs a name"),
    "record is no JSON": (forged(texts={"preprocess": "nope"}), "preprocessing record is not JSON"),
    "record with an unknown key": (forged(texts={"preprocess": '{"code": 1}'}), "exactly"),
    "record with NaN": (
        forged(texts={"preprocess": weights._preprocess.to_json(RECORD).replace("-3.0", "NaN")}),
        "the preprocessing record is not JSON",
    ),
    "record with a list for a percentile": (
        forged(texts={"preprocess": weights._preprocess.to_json(PERCENTILES).replace("2.0", "[]")}),
        "low must be below high",
    ),
    "record of another size": (forged(texts={"preprocess": weights._preprocess.to_json(RECORD).replace("32", "33")}), "33"),
    "record of more labels": (forged(texts={"preprocess": weights._preprocess.to_json(replace(RECORD, labels=("a", "b")))}), "outputs"),
    "record of more channels": (forged(texts={"preprocess": weights._preprocess.to_json(replace(RECORD, context=1))}), "channels"),
    "fingerprint is no JSON": (forged(texts={"fingerprint": "nope"}), "fingerprint is not JSON"),
    "fingerprint of another size": (
        forged(texts={"fingerprint": '{"means": [[1]], "inverses": [[1]], "limit": 1}'}),
        "fingerprint .* not valid",
    ),
    "fingerprint that is no record": (forged(texts={"fingerprint": "[1]"}), "fingerprint .* not valid"),
    "provenance is no JSON": (forged(texts={"provenance": "nope"}), "provenance is not JSON"),
    "provenance is no object": (forged(texts={"provenance": "[]"}), "JSON object"),
    "provenance with NaN": (forged(texts={"provenance": '{"dice": NaN}'}), "provenance is not JSON"),
    "provenance with control characters": (forged(texts={"provenance": '{"modality": "\\u009b2J"}'}), "cannot be printed"),
    "provenance with a number for a text": (forged(texts={"provenance": '{"modality": 5}'}), "modality must be text"),
    "a network for training": (forged(monet(filters=4, depth=1), random_tensors(monet(filters=4, depth=1))), "monet-train export"),
}


@pytest.mark.parametrize("kept", [0, weights.KEPT], ids=["large", "small"])
@pytest.mark.parametrize("row", REFUSED)
def test_refused(tmp_path, row, kept, monkeypatch):
    monkeypatch.setattr(weights, "KEPT", kept)
    raw, message = REFUSED[row]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(raw)
    with pytest.raises(ModelError, match=message) as caught:
        weights.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


def test_a_network_that_makes_another_size_is_refused():
    attrs = {"filters": 1, "kernel": 3, "stride": 1, "dilation": 1, "padding": 0, "bias": True, "activation": "sigmoid"}
    smaller = Spec("smaller", 1, (Op("a", "conv", ("image",), attrs),))
    with pytest.raises(ModelError, match="the network makes 30x30 of 32x32; it must keep the size"):
        weights.pack("a", smaller, random_tensors(smaller), RECORD, {})


def test_a_forged_file_with_nothing_wrong_loads():
    assert weights.parse("a", WHOLE).spec == SPEC


def test_bombs_are_refused_before_anything_is_allocated():
    wide = replace(SPEC, ops=(conv("a", "image", 8192), conv("b", "a", 8192), conv("c", "b", 1)))
    with pytest.raises(ModelError, match="the network is too large"):
        weights._check_fit(wide, replace(RECORD, size=512))
    huge = replace(SPEC, ops=(*chain("deconv", "image", 2), *chain("conv", "deconv1", 2)))
    assert infer_shapes(huge, 32, 32)["deconv1"] == (1, 131072, 131072)
    with pytest.raises(ModelError, match="the network is too large"):
        weights._check_fit(huge, RECORD)


def test_a_file_beyond_all_measure_is_not_even_read(tmp_path):
    with open(tmp_path / "a.safetensors", "wb") as file:
        os.truncate(file.fileno(), 1 << 40)  # a hole: takes no disk
    with pytest.raises(ModelError, match="1,099,511,627,776 bytes, a weights file at most"):
        weights.load(tmp_path / "a.safetensors")


def test_less_memory_than_the_file_needs(saved, monkeypatch):
    monkeypatch.setattr("monet_edge.limits.available", lambda: 1000)
    with pytest.raises(ResourceError, match=r"tiny\.safetensors: the weights file needs"):
        weights.load(saved)


@pytest.mark.parametrize(
    ("model", "message"),
    [("nonsense", "no such model"), ("missing.safetensors", "no such file"), (".", "expected one .safetensors"), ("", "no such model")],
)
def test_unknown_models(model, message):
    with pytest.raises(ModelError, match=message):
        weights.load(model)


def test_save_refuses_what_would_not_load(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(ModelError, match="NaN"):
        weights.save(path, SPEC, other(FIRST, TENSORS[FIRST] * np.float32(np.nan)), RECORD, {})
    with pytest.raises(ModelError, match="printed"):
        weights.save(path, SPEC, TENSORS, RECORD, {"data": "\x9b"})
    assert not path.exists()


def test_the_same_content_is_the_same_bytes_in_every_process(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_weights import RECORD, SPEC, TENSORS, Path, weights
weights.save(Path(sys.argv[1]), SPEC, TENSORS, RECORD, {{"modality": "synthetic", "data": {{"name": "é"}}}})
"""
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / f"{seed}.safetensors")], check=True, cwd=ROOT, env=environment)
    first, second = ((tmp_path / f"{seed}.safetensors").read_bytes() for seed in ("1", "2"))
    assert first == second
    assert int.from_bytes(first[:8], "little") % 8 == 0
    with safetensors.safe_open(tmp_path / "1.safetensors", "np") as file:  # as any other program reads it
        assert sorted(file.keys()) == sorted(TENSORS)
