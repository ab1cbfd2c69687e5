"""A head without its skull: the brain's mask from the structures that a model tells apart, and the scan with 0 around them."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import formats, limits, postprocess
from .errors import ModelError, OutputError
from .files import atomic_write
from .job import check_path
from .model import Model, Progress
from .options import Options
from .sides import side
from .volume import Scan

ENDINGS = (".nii.gz", ".nii")
BRAIN = ("brain", "cerebrum", "white matter")  # labels by which a model is one of the whole brain


@dataclass(frozen=True)
class Stripped:
    """What became of a head.

    Attributes
    ----------
    scan, mask : Path
        The files that were written.
    ml : float
        Of the brain.
    warnings : tuple of str
    """

    scan: Path
    mask: Path
    ml: float
    warnings: tuple[str, ...]


def strip(head: Path, output: Path | None, model: Model, options: Options = Options(), *, progress: Progress | None = None) -> Stripped:
    """Write the brain's mask and the stripped scan, both on the scan's own grid; the scan as NIfTI, its intensities float32.

    Parameters
    ----------
    head : Path
        In any of `formats.FORMATS`.
    output : Path, optional
        The stripped scan's file, the mask's is called after it. Default: ``<stem>_brain.nii.gz`` and ``<stem>_brain_mask.nii.gz``.
    model : Model
        All of its labels together are the brain: their largest connected piece, its holes filled. One of them is in `BRAIN`.
    options : Options
        Of which ``volume``, ``spacing`` and ``overwrite`` count here.
    progress : callable, optional
        Called with the number of slices done, and of all.

    Raises
    ------
    MonetError
        Saying what was expected, what was found and what to do; then nothing is written.
    """
    labels = model.weights.preprocess.labels
    if not any(side(label)[1].lower() in BRAIN for label in labels):
        found = f"{model.weights.name} finds {', '.join(model.weights.structures)}, and that is no brain"
        raise ModelError(f"{found}; expected a model with a label {' or '.join(BRAIN)}", "Leave {model} out.")
    if head.name in ("", ".."):  # "." of whoever stands in the folder
        head = head.resolve()
    stripped = output or head.with_name(f"{formats.stem(head)}_brain.nii.gz")
    if not stripped.name.endswith(ENDINGS):
        raise OutputError(f"{stripped}: a stripped scan is written as {' or '.join(ENDINGS)}", "Choose such a name for {output}.")
    beside = stripped.with_name(f"{formats.stem(stripped)}_mask.nii.gz")
    postprocess.library()
    header = formats.peek(head)
    for path in (stripped, beside):
        check_path(path, [head, *header.files], overwrite=options.overwrite)
    scan = model.read_scan(header, options)
    result = model.segment_scan(scan, options, progress=progress)
    mask = postprocess.solid(result.mask > 0)
    limits.demand(3 * 4 * mask.size, f"{head}: writing its brain")  # float32, in nibabel's hands, and compressed
    formats.write(
        beside, mask.view(np.uint8), like=scan, labels=["brain"], key=options.key(model.weights.sha256), overwrite=options.overwrite
    )
    _write(stripped, _only(scan, mask), scan, overwrite=options.overwrite)
    return Stripped(stripped, beside, int(mask.sum()) * scan.voxel_ml, result.warnings)


def _only(scan: Scan, mask: np.ndarray) -> np.ndarray:
    """The scan's intensities (X, Y, Z) float32 where the mask is, else 0."""
    kept = np.zeros(scan.shape, np.float32, order="F")
    kept[mask] = scan.voxels[mask] * scan.slope + scan.inter
    return kept


def _write(path: Path, voxels: np.ndarray, like: Scan, *, overwrite: bool) -> None:
    image = formats.to_image(voxels, like)
    image.header["descrip"] = b""  # a scan, for whoever walks a folder of them, and no result
    raw = image.to_bytes()
    with atomic_write(path, overwrite=overwrite) as file:
        file.write(gzip.compress(raw, 1, mtime=0) if path.name.endswith(".gz") else raw)
