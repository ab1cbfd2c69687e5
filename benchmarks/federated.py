"""Federated against pooled training on `brain-flair`: three institutions, the very ServerApp and ClientApp in one process.

    python -m benchmarks.federated run PREPARED --splits weights/brain-flair.splits.json -o f100.json --minutes 8
    python -m benchmarks.federated page f100.json

The first command goes on where it was stopped when it is given again; every length (`--rounds`, `--epochs`) has a file of its own.
`page` adds such files to `results/federated.json` and writes `FEDERATED.md` from that. Every training holds the Dice of every
validation patient, at the network's size, which is the scans' own.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from flwr.app import MetricRecord, RecordDict

from monet_edge.architectures import ARCHITECTURES
from monet_edge.files import atomic_write
from monet_train.config import STRONG, Settings, make_preprocess
from monet_train.config_text import from_json, override, to_json
from monet_train.data import Slices, build
from monet_train.federated import wire
from monet_train.federated.compress import encode, layout
from monet_train.federated.local import run_here
from monet_train.federated.rounds import round_content
from monet_train.federated.settings import COMPRESSIONS, Federation, for_sites, tensor_shapes, to_run_config
from monet_train.federated.state import ROUNDS, Run, stored
from monet_train.prepare import Prepared, open_prepared
from monet_train.provenance import Source
from monet_train.splits import institution, read_splits
from monet_train.state import new_state
from monet_train.validate import validate

from . import federated_page, training
from .federated_page import SITES, VARIANTS

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "federated.json", HERE / "FEDERATED.md"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Bench:
    """The institutions' scans, split once, and what a network is worth on every validation patient."""

    def __init__(self, prepared: Prepared, splits: Path, settings: Settings, federation: Federation, work: Path, device: str) -> None:
        self.prepared, self.settings, self.federation, self.work, self.device = prepared, settings, federation, work, device
        split = read_splits(splits)[0]
        self.parts = {site: {part: [n for n in names if institution(n) == site] for part, names in split.items()} for site in SITES}
        self.parts["pooled"] = {part: sorted(n for site in SITES for n in self.parts[site][part]) for part in ("train", "val")}
        for name, part in self.parts.items():
            (work / f"{name}.json").write_text(json.dumps([part]), encoding="utf-8")
        self.patients: dict[str, Slices] = {}

    def train(self, name: str, sites: tuple[str, ...], **changes: Any) -> dict[str, Any]:
        """One training, and the Dice of every validation patient of all sites with the server's network."""
        started = time.perf_counter()
        federation = replace(self.federation, sites=len(sites), minimum=len(sites), **changes)
        if len(sites) == 1:  # the same epochs without any averaging
            federation = replace(federation, rounds=1, epochs=federation.rounds * federation.epochs)
        folder = self.work / name
        nodes = [self._node(site, folder) for site in sites]
        run_here(nodes, to_run_config(federation, self.settings, str(folder), False))
        found = stored(folder)
        assert found is not None
        dice = self._score(found[0].tensors, self.parts["pooled"]["val"])
        return {"dice": dice, **json.loads((folder / ROUNDS).read_text(encoding="utf-8")), "seconds": time.perf_counter() - started}

    def _node(self, site: str, folder: Path) -> dict[str, str]:
        splits = str(self.work / f"{site}.json")
        return {"name": site, "prepared": str(self.prepared.folder), "splits": splits, "memory": f"{folder}-{site}", "device": self.device}

    def _score(self, tensors: dict[str, np.ndarray], names: list[str]) -> dict[str, float]:
        place = torch.device(self.device)
        network = new_state(self.settings, place).network
        network.load_state_dict({key: torch.from_numpy(tensor.copy()) for key, tensor in tensors.items()})
        for name in set(names) - self.patients.keys():
            self.patients[name] = build(self.prepared, [name], self.settings.preprocess, self.settings.merged, place, False)
        return {name: validate(network, self.patients[name])["val_dice_1"] for name in names}


def traffic(settings: Settings, source: Source) -> dict[str, dict[str, dict[str, int]]]:
    """Bytes of a round's messages for every network and compression, as a site gets them and answers; no value changes them."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for net in ARCHITECTURES:
        these = replace(settings, net=net)
        shapes = tensor_shapes(these)
        state = new_state(these, torch.device("cpu")).network.state_dict()
        tensors = {name: tensor.contiguous().numpy() for name, tensor in state.items()}
        for compression in COMPRESSIONS:
            content = round_content(Federation(compression=compression), these, Run("0" * 16, tensors, {}, [], []), 1)
            up = layout(shapes, compression, down=False)
            about: dict[str, Any] = {"metrics": MetricRecord({"num-examples": 1, "loss": 0.1}), "site": wire.pack_site(SITES[0], source)}
            reply = RecordDict({"arrays": wire.pack(encode(tensors, up), up), **about})
            sizes = {way: sum(r.count_bytes() for r in records.values()) for way, records in (("down", content), ("up", reply))}
            found.setdefault(net, {})[compression] = sizes
    return found


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(metavar="PREPARED", help="`brain-flair` as monet-train prepare writes it.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A JSON file, written after every training; one that exists goes on.")],
    splits: Annotated[Path, typer.Option(help="The committed split.")],
    rounds: int = Federation.rounds,
    epochs: int = Federation.epochs,
    only: Annotated[str, typer.Option(help="pooled, sites, traffic, noise, and the names of the page's rows.")] = "",
    minutes: Annotated[float, typer.Option(help="Begin no training after so many; the same command goes on.")] = math.inf,
    size: int = 256,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Of the recipe.")] = None,
) -> None:
    """Train and score; each training is written as soon as it is done, and not done again."""
    deadline = time.monotonic() + 60 * minutes
    federation = Federation(rounds=rounds, epochs=epochs)
    prepared = open_prepared(folder)
    record = make_preprocess(prepared.labels, size=size)
    pooled = Settings(dataset=prepared.name, net="monet", preprocess=record, recipe=override(STRONG, changes or []))
    wanted = only.split(",") if only else ["traffic", "pooled", "sites", *VARIANTS]
    found: dict[str, Any] = {"rounds": rounds, "epochs": epochs, "settings": to_json(pooled), "runs": {}, "machines": {}}
    if output.exists():
        known = json.loads(output.read_text(encoding="utf-8"))
        if _alike(known) != _alike(found):
            raise typer.BadParameter("that file holds trainings with other settings; choose another", param_hint="--output")
        found = known
    if "traffic" in wanted:
        found["traffic"] = traffic(pooled, Source.of(prepared))
        _write(output, found, "traffic")
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(prepared, splits, for_sites(pooled, federation), federation, Path(work), device)
        for name, sites, more in trainings(wanted):
            if name in found["runs"] or time.monotonic() > deadline:
                continue
            clip = {"clip": _median_norm(found["runs"]["fedavgm"])} if "noise" in more else {}
            found["runs"][name] = result = bench.train(name, sites, **more, **clip)
            print(f"{name}: Dice {statistics.mean(result['dice'].values()):.4f}, {result['seconds']:.0f} s", flush=True)
            _write(output, found, name)


def trainings(wanted: Collection[str]) -> Iterator[tuple[str, tuple[str, ...], dict[str, Any]]]:
    """Name, sites and settings of the trainings asked for, in an order in which FedAvg tells the noise how much to clip."""
    for name in ("pooled", *SITES):
        if name in wanted or ("sites" in wanted and name in SITES):
            yield name, (name,), {}
    for name, more in VARIANTS.items():
        if name in wanted or ("noise" in more and "noise" in wanted):
            yield name, SITES, more


def _alike(record: dict[str, Any]) -> tuple[int, int, Settings]:
    """What trainings must share to be compared; not the text of the settings, which had other names once."""
    return record["rounds"], record["epochs"], from_json(record["settings"])


def _write(output: Path, found: dict[str, Any], name: str) -> None:
    """The file with one more entry, whole or not at all: a killed call must not cost the trainings before it."""
    found["machines"][name] = training.describe()
    with atomic_write(output, overwrite=True) as file:
        file.write(json.dumps(found).encode())


def _median_norm(training: dict[str, Any]) -> float:
    """So that half of all updates are clipped (McMahan et al. 2018)."""
    return statistics.median(site["norm"] for row in training["rounds"] for site in row["sites"])


@app.command()
def page(parts: Annotated[list[Path] | None, typer.Argument(exists=True, help="What `run` wrote, a file a length.")] = None) -> None:
    """Merge what `run` wrote into the results and write the page."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for path in parts or []:
        part = json.loads(path.read_text(encoding="utf-8"))
        if found and from_json(found["settings"]) != from_json(part["settings"]):
            raise typer.BadParameter(f"{path} holds trainings with other settings than {RESULTS.name}; move that away to begin anew")
        found = merge(found, part)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(federated_page.page(found), encoding="utf-8")


def merge(found: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Recorded results with a file of `run`: traffic once, trainings by length (rounds x epochs); of what both hold the file's counts."""
    machines, length = part["machines"], f"{part['rounds']}x{part['epochs']}"
    merged = {"experiments": {}, **found, "settings": part["settings"]}
    if "traffic" in part:
        merged["traffic"] = {"machine": machines["traffic"], "bytes": part["traffic"]}
    if part["runs"]:
        runs = {name: {"machine": machines[name], **training} for name, training in part["runs"].items()}
        merged["experiments"] = {**merged["experiments"], length: {**merged["experiments"].get(length, {}), **runs}}
    return merged


if __name__ == "__main__":
    app()
