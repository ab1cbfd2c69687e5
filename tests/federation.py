"""Phantom patients, settings and faulty sites for the tests of federated training."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from monet_edge import phantom
from monet_edge.architectures import ARCHITECTURES, monet
from monet_edge.preprocess import Preprocess
from trainer.config import STRONG, Augmentation, Settings
from trainer.dataset import read
from trainer.federated import wire
from trainer.federated.compress import encode, layout
from trainer.federated.settings import Federation, for_sites, tensor_shapes, to_run_config
from trainer.prepare import prepare

RECIPE = replace(STRONG, batch=8, augmentation=Augmentation(rotate=10))


def write_dataset(folder: Path, patients: int, seed: int) -> Path:
    """A data set of phantom heads, in nnU-Net's layout."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    about = {"name": folder.name, "labels": {"background": 0, "lesion": 1}, "channel_names": {"0": "FLAIR"}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(about))
    for i in range(patients):
        image, mask = phantom.make(100 * seed + i, (8, 64, 64))
        nibabel.save(nibabel.Nifti1Image(image.T, np.eye(4)), folder / "imagesTr" / f"p{i}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask.T, np.eye(4)), folder / "labelsTr" / f"p{i}.nii.gz")
    return folder


def make_sites(folder: Path, names=("north", "south")) -> list[dict]:
    """Prepared sites; what their SuperNodes would be told."""
    nodes = []
    for seed, name in enumerate(names):
        prepare(read(write_dataset(folder / name, 3, seed)), folder / f"{name}-prepared")
        memory = str(folder / f"{name}.safetensors")
        nodes.append({"name": name, "prepared": str(folder / f"{name}-prepared"), "memory": memory, "device": "cpu"})
    return nodes


def make_settings(federation: Federation, net: str) -> Settings:
    """Slices of 32x32, one label."""
    record = Preprocess(32, "axial", 0, "zscore", -3.0, 6.0, 0.5, ("lesion",))
    return for_sites(Settings("phantom", net, record, False, RECIPE, 0, True), federation)


def tiny_network(monkeypatch) -> str:
    """A MoNet of 4 filters among the architectures: its name."""
    monkeypatch.setitem(ARCHITECTURES, "tiny", lambda channels=1, classes=1: monet(channels, classes, filters=4, depth=1))
    return "tiny"


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
