"""Federated against pooled training on `brain-flair`: three institutions, the very ServerApp and ClientApp in one process.

    python -m benchmarks.federated run PREPARED --splits weights/brain-flair.splits.json -o part-1.json --only pooled,sites,fedavg
    python -m benchmarks.federated run PREPARED ... --after part-1.json --only fedbn,float16,int8 -o part-2.json
    python -m benchmarks.federated page part-1.json part-2.json

`page` merges the parts into `results/federated.json` and writes `FEDERATED.md` from it. Nothing is scored twice: every part
holds the Dice of every validation patient, at the network's size, which is the scans' own.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from monet_edge.architectures import ARCHITECTURES
from monet_edge.preprocess import Preprocess
from trainer import checkpoint
from trainer.config import STRONG, Settings
from trainer.config_text import override, to_json
from trainer.data import Slices, build
from trainer.dataset import institution, read_splits
from trainer.federated import wire
from trainer.federated.compress import encode, layout
from trainer.federated.local import run_here
from trainer.federated.rounds import ROUNDS, Run, round_content
from trainer.federated.settings import COMPRESSIONS, Federation, for_sites, tensor_shapes, to_run_config
from trainer.federated.site import Memory
from trainer.prepare import Prepared, open_prepared
from trainer.state import new_state
from trainer.validate import validate

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "federated.json", HERE / "FEDERATED.md"
SITES = ("CS", "DU", "HT")  # EZ has one patient
NOISES = (0.001, 0.01, 0.1, 1.0)  # a network of 403,556 numbers drowns in noise of 0.005 times the longest update
VARIANTS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedbn": {"batch_norm": "local"},
    "float16": {"compression": "float16"},
    "int8": {"compression": "int8"},
    **{f"noise-{noise:g}": {"noise": noise} for noise in NOISES},
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Bench:
    """The institutions' scans, split once, and what a network is worth on every validation patient."""

    def __init__(self, prepared: Prepared, splits: Path, settings: Settings, federation: Federation, work: Path, device: str) -> None:
        self.prepared, self.settings, self.federation, self.work, self.device = prepared, settings, federation, work, device
        split = read_splits(splits)[0]
        self.parts = {site: {part: [n for n in names if institution(n) == site] for part, names in split.items()} for site in SITES}
        self.parts["pooled"] = {part: sorted(n for site in SITES for n in self.parts[site][part]) for part in ("train", "val")}
        for name, part in self.parts.items():
            (work / f"{name}.json").write_text(json.dumps([part]))
        self.patients: dict[str, Slices] = {}

    def train(self, name: str, sites: tuple[str, ...], **changes: Any) -> dict[str, Any]:
        """One training, scored: everybody's patients with the server's network, with FedBN each site's own with its own."""
        started = time.perf_counter()
        federation = replace(self.federation, sites=len(sites), minimum=len(sites), **changes)
        if len(sites) == 1:  # the same epochs without any averaging
            federation = replace(federation, rounds=1, epochs=federation.rounds * federation.epochs)
        folder = self.work / name
        nodes = [self._node(site, folder) for site in sites]
        np.random.seed(0)  # Flower's noise; outside an experiment it must never be known  # noqa: NPY002
        run_here(nodes, to_run_config(federation, self.settings, str(folder), False))
        found = checkpoint.newest(folder)
        assert found is not None
        tensors = {key: tensor.numpy() for key, tensor in found[0].items()}
        result = {"dice": self._score(tensors, self.parts["pooled"]["val"]), **json.loads((folder / ROUNDS).read_text())}
        if federation.batch_norm == "local":
            result["own"] = {}
            for node in nodes:
                own = Memory.read(Path(node["memory"]), to_json(self.settings), fresh=False).own
                result["own"] |= self._score({**tensors, **own}, self.parts[node["name"]]["val"])
        return {**result, "seconds": time.perf_counter() - started}

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


def traffic(settings: Settings) -> dict[str, dict[str, dict[str, int]]]:
    """Bytes of a round's messages for every network and compression: real weights down, a real update's encoding up."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for net in ARCHITECTURES:
        these = replace(settings, net=net)
        shapes = tensor_shapes(these)
        state = new_state(these, torch.device("cpu")).network.state_dict()
        tensors = {name: tensor.contiguous().numpy() for name, tensor in state.items()}
        for compression in COMPRESSIONS:
            content = round_content(Federation(compression=compression), these, Run(tensors, [], []), 1)
            up = layout(shapes, compression, down=False)
            sizes = {"down": sum(r.count_bytes() for r in content.values()), "up": wire.pack(encode(tensors, up), up).count_bytes()}
            found.setdefault(net, {})[compression] = sizes
    return found


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(metavar="PREPARED", help="`brain-flair` as monet-train prepare writes it.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A JSON file, written anew after every training.")],
    splits: Annotated[Path, typer.Option(help="The committed split.")],
    rounds: int = 30,
    epochs: int = 1,
    only: Annotated[str, typer.Option(help="pooled, sites, traffic, noise, and the names of the page's rows.")] = "",
    after: Annotated[Path | None, typer.Option(help="An earlier part: the longest update with noise is its median.")] = None,
    size: int = 256,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Of the recipe.")] = None,
) -> None:
    """Train and score; each training is written as soon as it is done."""
    federation = Federation(rounds=rounds, epochs=epochs)
    prepared = open_prepared(folder)
    record = Preprocess(size, "axial", 0, "zscore", -3.0, 6.0, 0.5, prepared.labels)
    pooled = Settings(prepared.name, "monet", record, False, override(STRONG, changes or []), 0, False)
    wanted = set(only.split(",")) if only else {"pooled", "sites", "traffic", "noise", *VARIANTS}
    found: dict[str, Any] = {"rounds": rounds, "epochs": epochs, "device": _device(device), "settings": to_json(pooled), "runs": {}}
    done = json.loads(after.read_text())["runs"] if after else {}
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(prepared, splits, for_sites(pooled, federation), federation, Path(work), device)
        trainings = [(name, (name,), {}) for name in ("pooled", *SITES) if name in wanted or ("sites" in wanted and name != "pooled")]
        trainings += [(n, SITES, more) for n, more in VARIANTS.items() if n in wanted or ("noise" in more and "noise" in wanted)]
        if "traffic" in wanted:
            found["traffic"] = traffic(pooled)
        for name, sites, more in trainings:
            clip = {"clip": _median_norm({**done, **found["runs"]}["fedavg"])} if "noise" in more else {}
            found["runs"][name] = bench.train(name, sites, **more, **clip)
            print(
                f"{name}: Dice {statistics.mean(found['runs'][name]['dice'].values()):.4f}, {found['runs'][name]['seconds']:.0f} s",
                flush=True,
            )
            output.write_text(json.dumps(found))


def _median_norm(training: dict[str, Any]) -> float:
    """So that half of all updates are clipped (McMahan et al. 2018)."""
    return statistics.median(site["norm"] for row in training["rounds"] for site in row["sites"])


def _device(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"


def interval(differences: np.ndarray, resamples: int = 10_000) -> tuple[float, float, float]:
    """Mean of paired differences and its 95 % interval: percentile bootstrap over patients."""
    rng = np.random.default_rng(0)
    means = rng.choice(differences, (resamples, len(differences))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


@app.command()
def page(parts: Annotated[list[Path] | None, typer.Argument(help="What `run` wrote. Default: the merged results.")] = None) -> None:
    """Merge the parts and write the page."""
    found: dict[str, Any] = {}
    for part in parts or [RESULTS]:
        data = json.loads(part.read_text())
        found = {**found, **data, "runs": {**found.get("runs", {}), **data["runs"]}}
    RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(write_page(found))


def write_page(found: dict[str, Any]) -> str:
    """The page of merged results; a row for every training that there is."""
    runs = found["runs"]
    names = sorted(runs["pooled"]["dice"])
    rounds, epochs = found["rounds"], found["epochs"]

    def dice(training: dict[str, Any], key: str = "dice") -> np.ndarray:
        return np.array([training[key][name] for name in names])

    pooled = dice(runs["pooled"])
    rows = []
    for name in (*SITES, *VARIANTS):
        for key, label in (("dice", name), ("own", f"{name}, each site's own BatchNorm")):
            if name in runs and key in runs[name]:
                mean, low, high = interval(dice(runs[name], key) - pooled)
                rows.append(f"| {label} | {dice(runs[name], key).mean():.3f} | {mean:+.3f} ({low:+.3f} to {high:+.3f}) |")
    lines = [
        "# Federated against pooled",
        "",
        "Written by `python -m benchmarks.federated page`; do not edit. Research use only, not a medical device.",
        "",
        f"`brain-flair`, institutions {', '.join(SITES)}, the committed split, MoNet, {found['device']}. Federated: {rounds} rounds of "
        f"{epochs} epoch(s); pooled and single sites: {rounds * epochs} epochs of the same recipe, without its weight average. "
        f"Mean Dice over all {len(names)} validation patients; differences are paired, with a 95 % bootstrap interval.",
        "",
        "| training | Dice | minus pooled |",
        "|---|---|---|",
        f"| pooled | {pooled.mean():.3f} | |",
        *rows,
    ]
    singles = [dice(runs[site]).mean() for site in SITES if site in runs]
    if singles:
        lines += ["", f"Mean of the single sites: {statistics.mean(singles):.3f}."]
    if "float16" in runs and "fedavg" in runs:
        mean, low, high = interval(dice(runs["float16"]) - dice(runs["fedavg"]))
        lines += ["", f"float16 minus float32: {mean:+.4f} ({low:+.4f} to {high:+.4f})."]
    if any("noise" in VARIANTS.get(name, {}) for name in runs):
        lines += ["", "## Differential privacy of whole sites", "", "| noise multiplier | epsilon | delta | Dice |", "|---|---|---|---|"]
        noisy = [runs[name] for name, more in VARIANTS.items() if "noise" in more and name in runs]
        for training in noisy:
            about, epsilon = training["federation"], training["rounds"][-1]["epsilon"]
            lines.append(f"| {about['noise']:g} | {epsilon:.3g} | {about['delta']:g} | {dice(training).mean():.3f} |")
        best = max((dice(training).mean() for training in noisy if training["rounds"][-1]["epsilon"] <= 10), default=None)
        lines += ["", "Epsilon says how well one can tell whether a whole site took part; above 10 it promises next to nothing."]
        lines += [
            f"With {len(SITES)} sites, "
            + (f"{best:.3f} is the best Dice below that." if best is not None else "no multiplier here comes below that.")
        ]
    if "traffic" in found:
        lines += ["", "## Bytes per site and round", "", "| network | compression | to the site | from it |", "|---|---|---|---|"]
        for net, sizes in found["traffic"].items():
            lines += [f"| {net} | {compression} | {both['down']:,} | {both['up']:,} |" for compression, both in sizes.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app()
