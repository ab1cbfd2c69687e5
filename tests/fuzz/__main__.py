"""Feed hostile files to monet-edge: `python -m tests.fuzz --count 10000`, or `--forever`."""

import faulthandler
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does, so that both find the same modules

from conftest import random_tensors

from fuzz import judge, mutate
from monet_edge import weights
from monet_edge.model import load


def main(
    count: Annotated[int, typer.Option(help="Files of each kind.")] = 1000,
    seed: Annotated[int, typer.Option(help="The first file's seed; file i has seed + i.")] = 0,
    kind: Annotated[list[str] | None, typer.Option(help=f"{' or '.join(sorted(judge.KINDS))}. Default: all.")] = None,
    forever: Annotated[bool, typer.Option("--forever", help="Until interrupted.")] = False,
    keep: Annotated[Path | None, typer.Option(help="Folder for the files that fail.")] = None,
    memory: Annotated[int, typer.Option(help="MB of address space.")] = 2048,
):
    """Feed hostile files to monet-edge, a line a kind; exit status 1 if anything was neither right nor refused."""
    kinds = kind or sorted(judge.KINDS)
    if not set(kinds) <= judge.KINDS.keys():
        raise typer.BadParameter(f"expected some of {', '.join(judge.KINDS)}, found {', '.join(kinds)}", param_hint="--kind")
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.safetensors"
        weights.save(path, mutate.NETWORKS[0], random_tensors(mutate.NETWORKS[0]), mutate.RECORD, {})
        model = load(path, 1)
        path.unlink()
        judge.limit_memory(memory << 20)
        failed = 0
        for batch in itertools.count() if forever else [0]:
            for one in kinds:
                first = seed + batch * count

                def report(at, raw, text, kind=one):
                    print(f"{kind}, seed {at}:\n{text}", flush=True)
                    if keep:
                        keep.mkdir(parents=True, exist_ok=True)
                        (keep / f"{kind}-{at}").write_bytes(raw)

                tally = judge.run(one, range(first, first + count), Path(folder), model, report)
                failed += len(tally.failures)
                print(f"{count:,} {one} from seed {first}: {tally}", flush=True)
    if failed:
        raise typer.Exit(1)


typer.run(main)
