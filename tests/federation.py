"""Phantom patients, settings and faulty sites for the tests of federated training."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from monet_edge import phantom
from monet_train.config import STRONG, Augmentation, Settings, make_preprocess
from monet_train.dataset import read
from monet_train.federated import state, wire
from monet_train.federated.compress import encode, layout
from monet_train.federated.local import run_here
from monet_train.federated.settings import Federation, for_sites, tensor_shapes, to_run_config
from monet_train.prepare import prepare

torch.set_num_threads(1)  # as synthetic.py does

SHAPE = (8, 64, 64)
TWO = Federation(rounds=2, sites=2, minimum=2, wait=0.2)
NODES = [{"name": "a"}, {"name": "b"}, {"name": "c"}]

RECIPE = replace(STRONG, batch=8, augmentation=Augmentation(rotate=10))


def make_sites(folder: Path, names=("north", "south")) -> list[dict]:
    """Prepared sites; what their SuperNodes would be told."""
    nodes = []
    for seed, name in enumerate(names):
        phantom.write_dataset(folder / name, 3, seed, SHAPE)
        prepare(read(folder / name), folder / f"{name}-prepared")
        memory = str(folder / f"{name}-memory")
        nodes.append({"name": name, "prepared": str(folder / f"{name}-prepared"), "memory": memory, "device": "cpu"})
    return nodes


def make_settings(federation: Federation, net: str) -> Settings:
    """Slices of 32x32, one label."""
    record = make_preprocess(("lesion",), size=32)
    return for_sites(Settings(dataset="phantom", net=net, preprocess=record, recipe=RECIPE, deterministic=True), federation)


def make_config(folder: Path, federation: Federation, net: str, resume: bool = False) -> dict:
    return to_run_config(federation, make_settings(federation, net), str(folder), resume)


def reply(message: Message, settings: Settings, compression="none", value=0.5, examples=100, loss=0.1, name="a", arrays=None) -> Message:
    """What a site answers whose update is ``value`` everywhere; any part can be made wrong."""
    expected = layout(tensor_shapes(settings), compression, down=False)
    change = {key: np.full(shape, value, np.float32) for key, shape in tensor_shapes(settings).items()}
    if arrays is None:
        arrays = wire.pack(encode(change, expected), expected)
    metrics = MetricRecord({"num-examples": examples, "loss": loss})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics, "site": ConfigRecord({"name": name})}), reply_to=message)


def raw_record(arrays: dict[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def result(folder: Path) -> dict:
    return json.loads((folder / state.ROUNDS).read_text(encoding="utf-8"))


def tensors(folder: Path) -> dict[str, np.ndarray]:
    found = state.stored(folder)
    assert found is not None
    return found[0].tensors


def scored(message: Message) -> Message:
    return Message(RecordDict({"metrics": MetricRecord({"val_loss": 0.5})}), reply_to=message)


def train(folder, federation, net, first_site, alike):
    """A run whose first site answers as told and whose others add 0.5 to everything."""

    def client(message, context):
        if message.metadata.message_type == "evaluate":
            return scored(message)
        return first_site(message, context) if context.node_id == 1 else reply(message, alike)

    nodes = NODES[: federation.sites]
    run_here(nodes, make_config(folder, federation, net), client)
    return result(folder)


def bad_arrays(alike, change):
    expected = layout(tensor_shapes(alike), "none", down=False)
    record = wire.pack({name: np.zeros(shape, np.float32) for name, (shape, _) in expected.items()}, expected)
    (name, array), *_ = record.items()
    return change(name, array.numpy())
