"""What Flower starts at the server: the whole training, from the first round to the exported file."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from monet_edge import weights
from monet_edge.errors import MonetError
from monet_edge.files import atomic_write
from monet_edge.spec import fold_batchnorm

from ..config import Settings, training_spec
from ..fold import fold_tensors
from ..provenance import Provenance, Source
from .rounds import federate
from .settings import Federation, from_run_config
from .state import ERROR, MODEL, Run
from .wire import UNTOLD

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train and export. A MonetError is also written to `error.txt`, which the command that started the run reads."""
    federation, settings, output, resume = from_run_config(context.run_config)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (ERROR, MODEL):
        (folder / name).unlink(missing_ok=True)
    try:
        run = federate(grid, federation, settings, folder, resume)
        export(folder / MODEL, federation, settings, run)
    except MonetError as error:
        with atomic_write(folder / ERROR, overwrite=True) as file:
            file.write(f"{error}\n".encode())
        raise


def export(path: Path, federation: Federation, settings: Settings, run: Run) -> None:
    """Write the network like any other; its provenance names sites and rounds."""
    spec = training_spec(settings)
    weights.save(path, fold_batchnorm(spec), fold_tensors(spec, run.tensors), settings.preprocess, provenance(federation, settings, run))


def provenance(federation: Federation, settings: Settings, run: Run) -> dict[str, Any]:
    """Where a federated network comes from: JSON-able."""
    sites: dict[str, list[dict[str, Any]]] = defaultdict(list)
    kept = [row for row in run.history if row["kept"]]
    for row in kept:
        for site in row["sites"]:
            if "refused" not in site:
                sites[site["name"]].append(site)
    told = {name: Source(**rows[-1].get("source", asdict(UNTOLD))) for name, rows in sorted(sites.items())}
    about = {
        "rounds": len(kept),
        "sites": [
            {"name": name, "rounds": len(sites[name]), "examples": sites[name][-1]["examples"], "data": asdict(source)}
            for name, source in told.items()
        ],
        "scores": run.scores,
    }
    facts = {"federation": asdict(federation)}
    return Provenance(tuple(told.values()), settings, len(kept) * federation.epochs, facts, about, ("torch", "flwr")).to_record()
