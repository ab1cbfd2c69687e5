"""Commands to begin with: the demo, synthetic heads, the kernels compiled, the page in the browser."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ..about import DEFAULT, DISCLAIMER
from ..errors import MonetError
from ..options import Options
from ..terminal import failing_clearly, progress_bar
from .shared import DebugOption, ModelOption, OverwriteOption, ThreadsOption, app, collect_again, compile_kernels, load_model, tell


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("-o", "--output", help="Folder for the phantom, its lesion and the mask.")] = Path("demo"),
    model: ModelOption = DEFAULT,
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> None:
    """Segment a synthetic head whose lesion is known, and say how well it went."""
    with failing_clearly(debug):
        import numpy as np

        from .. import phantom, weights
        from ..formats import read
        from ..job import check_path, make_folder, make_job
        from ..pipeline import run

        found = weights.load(model)
        make_folder(folder)
        options = Options(overwrite=overwrite)
        job = make_job(folder / "phantom.nii.gz", None, options)
        lesion = folder / "phantom_lesion.nii.gz"
        for path in (job.scan, lesion, job.mask):
            check_path(path, [], overwrite=overwrite)
        ready = load_model(found, threads, False)
        volume, truth = phantom.make()
        phantom.save(volume, job.scan, overwrite=overwrite)
        phantom.save(truth, lesion, overwrite=overwrite)
        with progress_bar(f"segmenting {job.scan.name}", False) as progress:
            outcome = run(job, ready, options, progress=progress)
        tell(outcome, False)
        mask = read(job.mask).voxels.T
        dice = 2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth))
        print(f"Dice {dice:.2f} against the lesion as drawn")
        print(DISCLAIMER)
        if dice < 0.7:
            raise MonetError(
                f"the demo scored Dice {dice:.2f}, expected at least 0.7: this installation is not sound, "
                "or the model is not one for tumours in FLAIR images"
            )


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="The data set to write: imagesTr, labelsTr, dataset.json.")],
    cases: Annotated[int, typer.Option(min=1, max=100, help="How many heads.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other patients.")] = 0,
    debug: DebugOption = False,
) -> None:
    """Write synthetic heads with known lesions, to train on and to try things with."""
    with failing_clearly(debug):
        from ..phantom import write_dataset

        write_dataset(folder, cases, seed)
        print(f"{cases} heads with their lesions → {folder}")


@app.command()
def warmup(debug: DebugOption = False) -> None:
    """Compile the kernels for this CPU now, rather than at the first scan."""
    with failing_clearly(debug):
        start = time.perf_counter()
        compile_kernels(quiet=False)
        print(f"ready ({time.perf_counter() - start:.1f} s)")


@app.command("app")
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0 takes one that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    model: Annotated[list[Path] | None, typer.Option("-m", "--model", help="Offer this .safetensors file, too; may be repeated.")] = None,
    threads: ThreadsOption = None,
    debug: DebugOption = False,
) -> None:
    """Open a page in the browser: drop a scan, see its mask, save it. On this computer alone, offline."""
    with failing_clearly(debug):
        from ..app.server import serve

        collect_again()

        def tell(address: str) -> None:
            print(f"{address}\nCtrl-C ends it and removes what was dropped. {DISCLAIMER}", flush=True)

        serve(port=port, browser=browser, models=map(str, model or ()), threads=threads, started=tell)
