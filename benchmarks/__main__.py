"""`python -m benchmarks`: measure, record the JSON, write the pages."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from monet_edge.model import Model
from monet_edge.weights import load as load_weights

from . import chart, disk, int8, machine, measure, network, paper, paper_page, peers, readme_page, tables
from .readme_page import ARCHIVE
from .records import HERE, OTHER, RESULTS, SHORT, load, merged, pictures, record

SECONDS = 30
ROUNDS = 300  # of one thread against two: four minutes, as a shared machine has moods of a minute (60 rounds: 1.84 to 2.06 times)
HELD_ROUNDS = 60  # the same under an older instruction set: two minutes
PARTS = ("network", "layers", "cores", "startup")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _known_isa(isa: str) -> str:
    if isa not in machine.ISAS:
        raise typer.BadParameter(f"expected one of {', '.join(machine.ISAS)}, found {isa}")
    return isa


IsaOption = Annotated[str, typer.Option(callback=_known_isa, help=f"Instruction set for both sides: {', '.join(machine.ISAS)}.")]


@app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    isa: IsaOption = "native",
    quick: Annotated[bool, typer.Option("--quick", help="A few rounds only; not for publication.")] = False,
    part: Annotated[list[str] | None, typer.Option(help=f"Measure only this part, repeatable: {', '.join(PARTS)}.")] = None,
    seconds: Annotated[int, typer.Option(min=2, help="Of taking turns, for all runners of a network together.")] = SECONDS,
    write_only: Annotated[bool, typer.Option("--write-only", help="Measure nothing: write README.md from what is recorded.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of the recorded JSON; the pages are written from its default only.")] = RESULTS,
) -> None:
    """Measure us and the peers, interleaved, and write README.md."""
    if context.invoked_subcommand:
        return
    steps = {
        "network": lambda: _networks(isa, 2 if quick else seconds),
        "layers": lambda: _layers(isa, quick),
        "cores": lambda: _cores(isa, 3 if quick else ROUNDS if isa == "native" else HELD_ROUNDS),
        "startup": lambda: measure.in_process("startup", "native", 2, rounds=2 if quick else 7),
    }
    parts = PARTS if isa == "native" else PARTS[:3]  # how a process starts depends on no instruction set
    if unknown := set(part or ()) - set(parts):
        raise typer.BadParameter(f"expected {', '.join(parts)}, found {', '.join(sorted(unknown))}", param_hint="--part")
    for name in () if write_only else part or parts:
        typer.echo(f"measuring {name}, {isa} ...")
        found = machine.describe()
        record(results / f"{name}-{isa}.json", found, steps[name](), isa=isa)
    if results == RESULTS:
        _write_readme()
        chart.draw(load(results), HERE / "speed.svg")


@app.command("disk")
def disk_command(
    rounds: Annotated[int, typer.Option(min=1, help="Of turns, after one that fills the caches.")] = 5,
    part: Annotated[list[str] | None, typer.Option(help=f"Measure only this part, repeatable: {', '.join(disk.PARTS)}.")] = None,
    threads: Annotated[list[int] | None, typer.Option(min=1, help="Repeatable. Default: 2 and 1.")] = None,
    isa: IsaOption = "native",
    quick: Annotated[bool, typer.Option("--quick", help="Small scans; not for publication.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of the recorded JSON; the page is written from its default only.")] = RESULTS,
) -> None:
    """Measure the whole command from disk to disk beside its slices and a peer, and write README.md; at most three minutes a part.

    What another call has recorded on this machine, of this revision, is kept.
    """
    if unknown := set(part or ()) - set(disk.PARTS):
        raise typer.BadParameter(f"expected {', '.join(disk.PARTS)}, found {', '.join(sorted(unknown))}", param_hint="--part")
    sizes: dict[str, Any] = {"ct": (6, 96, 96), "deep": (8, 96, 96), "head": (8, 96, 96), "smalls": 2} if quick else {}
    path = results / f"disk-{isa}.json"
    for count in threads or (2, 1):
        for name in part or disk.PARTS:
            typer.echo(f"measuring {name}, {count} thread(s), {isa} ...")
            found = machine.describe()
            row = measure.in_process("disk", isa, count, rounds=rounds, parts=[name], **sizes)
            record(path, found, merged(path, found, row), isa=isa, rounds=rounds)
    if results == RESULTS:
        _write_readme()


@app.command("int8")
def int8_command(
    scans: Annotated[list[Path], typer.Argument(help=f"Real scans for {int8.SEGMENTER}: half to calibrate, half to compare.")],
    seconds: Annotated[int, typer.Option(min=2, help="Of taking turns, under each instruction set.")] = SECONDS,
    limit: Annotated[list[str] | None, typer.Option(help="Measure only under this one, repeatable, as oneDNN names it.")] = None,
    results: Annotated[Path, typer.Option(help="Folder of the recorded JSON; the page is written from its default only.")] = RESULTS,
) -> None:
    """Measure OpenVINO in int8 under the instruction sets that CPUs have for it, and write README.md."""
    path = results / "int8.json"
    for title, isa, onednn in int8.LIMITS:
        if limit and onednn not in limit:
            continue
        typer.echo(f"measuring {title} ...")
        found = machine.describe()
        rows = measure.in_process("int8", isa, 1, onednn=onednn, scans=[str(scan.absolute()) for scan in scans], seconds=seconds)
        before = json.loads(path.read_text())["rows"] if path.exists() else {}
        kept = {name: before[name] for name, _, _ in int8.LIMITS if name in before}
        record(path, found, kept | {title: rows}, scans=len(scans), seconds=seconds)
    if results == RESULTS:
        _write_readme()


def _write_readme() -> None:
    (HERE / "README.md").write_text(readme_page.page(load(RESULTS), load(RESULTS / OTHER)), encoding="utf-8")


@app.command("resolutions")
def resolutions_command(
    head: Annotated[Path, typer.Argument(metavar="SCAN", help="A head with voxels of 1 mm.")],
    data: Annotated[Path, typer.Argument(metavar="DATASET", help="Scans with slices of 256x256 for the mosaics of brain-flair.")],
    model: Annotated[str, typer.Option(help="Of the head: a shipped model's name or a .safetensors file.")] = "brain-flair",
    spacing: Annotated[float, typer.Option(help="mm a pixel, for a model that squeezes: BRATS squeezed has such pixels.")] = 240 / 256,
    mosaics: Annotated[int, typer.Option(min=1, help="Of four scans each.")] = 8,
    results: Annotated[Path, typer.Option(help="Folder of the recorded JSON; the page is written from its default only.")] = RESULTS,
) -> None:
    """Measure what a scan's resolution and a network's tiles change in a mask, and write README.md."""
    from . import resolutions  # SciPy

    found, weights = machine.describe(), resolutions.in_millimetres(model, spacing)
    rows = {"heads": resolutions.heads(Model(weights), head), "tiles": resolutions.tiles(load_weights("brain-flair"), data, mosaics)}
    record(
        results / "resolutions.json", found, rows, model=weights.name, spacing=weights.preprocess.spacing, head=head.name, data=data.name
    )
    if results == RESULTS:
        _write_readme()


@app.command("spacing")
def spacing_command(
    data: Annotated[Path, typer.Argument(metavar="DATASET", help="Whole heads without skull, with labels.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the runs; the same one to go on.")],
    results: Annotated[Path, typer.Option(help="Folder of the recorded JSON.")] = RESULTS,
) -> None:
    """Train two small networks, squeezed and in millimetres, and score them on other scanners' scans: 10 minutes on one core.

    Its table is in docs/tutorial.md: python docs/generate.py tutorial.md.
    """
    from . import spacing  # torch

    found, rows = machine.describe(), spacing.measured(data, output)
    given = {"size": spacing.SIZE, "mm": spacing.MM, "steps": spacing.EPOCHS * spacing.STEPS, "batch": spacing.BATCH}
    record(results / "spacing.json", found, rows, data=data.name, **given)


@app.command("archive")
def archive_command(
    part: Annotated[list[str] | None, typer.Option(help=f"Only this part, repeatable: {', '.join(ARCHIVE)}.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Of turns, after one that fills the caches.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Few scans; not for publication.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of the recorded JSON; the page is written from its default only.")] = RESULTS,
) -> None:
    """Runs over many scans: bookkeeping, small volumes, workers, what is left after kills; and write README.md."""
    if unknown := set(part or ()) - set(ARCHIVE):
        raise typer.BadParameter(f"expected {', '.join(ARCHIVE)}, found {', '.join(sorted(unknown))}", param_hint="--part")
    for name in part or ARCHIVE:
        typer.echo(f"measuring {name} ...")
        found = machine.describe()
        record(results / f"archive-{name}.json", found, measure.in_process("archive", "native", 2, part=name, quick=quick, rounds=rounds))
    if results == RESULTS:
        _write_readme()


@app.command("nnunet")
def nnunet_command(
    patch: Annotated[list[int] | None, typer.Option(help="Pixels a side of a tile, repeatable. Default: 256 and 512.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few rounds only; not for publication.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of the recorded JSON; the page is written from its default only.")] = RESULTS,
) -> None:
    """Measure an imported network of nnU-Net's default size beside nnU-Net's own predictor, which must be installed (nnunetv2)."""
    found, rows = machine.describe(), []
    for side in patch or (256, 512):
        for threads in (1, 2):
            typer.echo(f"measuring {side}x{side}, {threads} thread(s) ...")
            given = {"rounds": 1, "seconds": 4, "slices": 4} if quick else {"rounds": 3, "seconds": 20}
            rows.append(measure.in_process("nnunet", "native", threads, patch=side, **given))
    record(results / "nnunet-native.json", found, rows)
    if results == RESULTS:
        _write_readme()


@app.command("paper")
def paper_command(
    slices: Annotated[int, typer.Option(min=1, help="Slices that Table 2 times; fewer are scaled to the paper's 150.")] = paper.VOLUME,
    write_only: Annotated[bool, typer.Option("--write-only", help="Measure nothing: write PAPER.md from what is recorded.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of the recorded JSON; the pages are written from its default only.")] = RESULTS,
) -> None:
    """Measure what needs no training, read what was recorded elsewhere, and write PAPER.md."""
    if not write_only:
        found = machine.describe()
        threads, rows = found["cores"], []
        for name in tables.TITLES:
            typer.echo(f"timing {name} ...")
            rows += measure.in_process("paper", "native", threads, network=name, slices=slices)
        record(results / "paper-table2.json", found, rows, threads=threads, slices=slices)
    paper.draw(load(results), load(results / SHORT), results)
    if results == RESULTS:
        (HERE / "PAPER.md").write_text(paper_page.page(load(results), pictures(results), load(results / SHORT)), encoding="utf-8")


PreparedArgument = Annotated[Path, typer.Argument(metavar="PREPARED", help="A data set as `monet-train prepare` writes it.")]
NetOption = Annotated[str, typer.Option(help="Networks, with commas.")]
SplitsOption = Annotated[Path, typer.Option(help="The committed split.")]
SizeOption = Annotated[int, typer.Option(help="Of the network's input, pixels.")]
ChangesOption = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Of the recipe, for trials.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu or cuda. Default: a GPU if there is one.")]
EVERY_NET = ",".join(tables.TITLES)


@app.command("training")
def training_command(
    prepared: PreparedArgument,
    splits: SplitsOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of runs, weights, pictures and JSON; the same one to go on.")],
    net: NetOption = EVERY_NET,
    external: Annotated[Path | None, typer.Option(metavar="PREPARED", help="Data from elsewhere, to score too.")] = None,
    minutes: Annotated[float, typer.Option(help="Stop training after so many; the same command goes on. Default: no limit.")] = math.inf,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Epochs from one checkpoint to the next.")] = 1,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Score also what has not converged yet, recorded as such.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and augmentation; others than 0 end the files' names.")] = 0,
    size: SizeOption = paper.SIZE,
    changes: ChangesOption = None,
    device: DeviceOption = None,
) -> None:
    """Train by the paper's recipe to convergence, export, hold to PyTorch, score; one JSON a network."""
    from monet_train.prepare import open_prepared

    from . import training  # torch

    deadline = time.monotonic() + 60 * minutes
    other = open_prepared(external) if external else None
    for name in _nets(net):
        task = training.make_task(name, open_prepared(prepared), splits, output, size, changes or (), other, seed)
        if time.monotonic() < deadline:
            training.train(task, deadline, checkpoint_every, device)
        if training.is_done(task) or (unfinished and training.has_begun(task)):
            typer.echo(training.summary(training.finish(task, training.command_line())))


@app.command("step")
def step_command(
    prepared: PreparedArgument,
    splits: SplitsOption,
    net: NetOption = EVERY_NET,
    steps: Annotated[int, typer.Option(min=1, help="Steps to time, after a third as many to warm up.")] = 60,
    size: SizeOption = paper.SIZE,
    changes: ChangesOption = None,
    device: DeviceOption = None,
    results: Annotated[Path, typer.Option(help="Folder of the recorded JSON.")] = RESULTS,
) -> None:
    """Seconds of a training step of the paper's recipe: Table 2's GPU column. Nothing else should run on that GPU."""
    from monet_train.prepare import open_prepared

    from . import step, training  # torch

    found, data, rows = training.describe(), open_prepared(prepared), []
    for name in _nets(net):
        task = training.make_task(name, data, splits, results, size, changes or ())
        rows.append(step.seconds(task.settings, data, task.split["train"], steps, device))
        typer.echo(f"{name}: {1e3 * rows[-1]['seconds']:.2f} ms")
        record(results / "paper-gpu.json", found, rows, command=training.command_line(), data=data.name)  # at once: the call may be stopped


def _nets(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - tables.TITLES.keys():
        raise typer.BadParameter(f"expected some of {EVERY_NET}, found {', '.join(sorted(unknown))}", param_hint="--net")
    return names


def _networks(isa: str, seconds: int) -> list[dict[str, Any]]:
    """Every network and mode; held to an older instruction set only what is promised there, one slice of the small ones."""
    native = isa == "native"
    runners = list(peers.RUNNERS if native else peers.RESTRICTABLE)
    rows = []
    for name in network.NETWORKS if native else network.NETWORKS[:2]:
        for mode, threads in (("slice", 1), ("slice", 2), ("volume", 2)):
            if mode == "volume" and (name == "unet-64" or not native):
                continue  # minutes, and nothing that one slice does not say
            rows += measure.in_process("network", isa, threads, network=name, mode=mode, runners=runners, seconds=seconds)
    for name in network.SHIPPED if native else network.SHIPPED[:1]:
        rows += measure.in_process(
            "network", isa, 1, network=name, mode="slice", runners=list(peers.RESTRICTABLE[:3]), seconds=seconds // 2
        )
    return rows


def _cores(isa: str, rounds: int) -> list[dict[str, Any]]:
    """Two threads, four, and so on up to the machine's cores; less often where a round takes longer."""
    counts = [2**i for i in range(1, 8) if 2**i <= max(2, machine.describe()["cores"])]
    return [measure.in_process("cores", isa, threads, rounds=max(3, 2 * rounds // threads)) for threads in counts]


def _layers(isa: str, quick: bool) -> dict[str, Any]:
    rows = [row for name in network.NETWORKS[: 1 if quick else None] for row in
            measure.in_process("layers", isa, 1, network=name, rounds=3 if quick else 15, rival=True)]  # fmt: skip
    return {"layers": rows, "proof": measure.in_process("proof", isa, 1, held_to=isa)}


if __name__ == "__main__":
    app()
