"""Feed hostile files to monet-edge: `python -m tests.fuzz --count 10000`, or `--forever`."""

import argparse
import faulthandler
import itertools
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does, so that both find the same modules

from conftest import random_tensors

from fuzz import judge, mutate
from monet_edge import weights
from monet_edge.model import load


def main():
    """Parse, judge, print a line a kind; exit 1 if anything was neither right nor refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="files of each kind (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="the first file's seed; file i has seed + i")
    parser.add_argument("--kind", choices=sorted(judge.KINDS), action="append", help="default: all")
    parser.add_argument("--forever", action="store_true", help="until interrupted")
    parser.add_argument("--keep", type=Path, help="folder for the files that fail")
    parser.add_argument("--memory", type=int, default=2048, help="MB of address space (default 2048)")
    options = parser.parse_args()

    faulthandler.enable()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.safetensors"
        weights.save(path, mutate.NETWORKS[0], random_tensors(mutate.NETWORKS[0]), mutate.RECORD, {})
        model = load(path, 1)
        path.unlink()
        judge.limit_memory(options.memory << 20)
        failed = 0
        for batch in itertools.count() if options.forever else [0]:
            for kind in options.kind or sorted(judge.KINDS):
                first = options.seed + batch * options.count

                def report(seed, raw, text, kind=kind):
                    print(f"{kind}, seed {seed}:\n{text}", flush=True)
                    if options.keep:
                        options.keep.mkdir(parents=True, exist_ok=True)
                        (options.keep / f"{kind}-{seed}").write_bytes(raw)

                tally = judge.run(kind, range(first, first + options.count), Path(folder), model, report)
                failed += len(tally.failures)
                print(f"{options.count:,} {kind} from seed {first}: {tally}", flush=True)
    sys.exit(1 if failed else 0)


main()
