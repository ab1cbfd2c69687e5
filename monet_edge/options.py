"""How scans are segmented and what is made of each: declared here once, for `segment`'s keywords and for the command line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from math import inf
from numbers import Real
from pathlib import Path
from typing import Any

from .errors import ModelError, MonetError

FORMATS = (
    "nifti",
    "seg-nrrd",
    "nrrd",
    "dicom-seg",
    "dicom-labelmap",
)  # of results: the names of `formats.WRITERS`, which the command line need not import
# They decide what is written, not what a mask says; an option that is added decides, unless it is named here
_BESIDE = ("format", "probabilities", "preview", "report", "with_identifiers", "overwrite")


def _option(default: Any, help: str, **typer: Any) -> Any:
    """A field with the command line's help for it, and what else Typer's Option takes."""
    return field(default=default, metadata={"help": help, **typer})


def _lengths(text: str) -> float | tuple[float, ...]:
    """One number, or several with commas."""
    numbers = tuple(map(float, str(text).split(",")))
    return numbers if len(numbers) > 1 else numbers[0]


def _checked_lengths(spacing: Any) -> float | tuple[float, ...]:
    """One length in mm, or three of a sequence, as Python's own numbers."""
    try:
        found = float(spacing) if isinstance(spacing, Real) else tuple(map(float, () if isinstance(spacing, str) else spacing))
    except (TypeError, ValueError):
        found = ()
    lengths = (found,) * 3 if isinstance(found, float) else found
    if not (len(lengths) == 3 and all(0 < mm < inf for mm in lengths)):
        raise MonetError(f"spacing: expected one length in mm, or three, all above 0, found {spacing!r:.80}")
    return found


@dataclass(frozen=True)
class Options:
    """How scans are segmented, and what is made of each besides its mask; results are named after the mask, without its ``_seg``.

    Attributes
    ----------
    threshold : float, optional
        For a binary model, instead of the model's own.
    volume : int, optional
        Which volume of a scan that has several, from 0.
    series : str, optional
        Which series of a folder or archive of DICOM: its number in the list of `monet-edge series`, or its UID.
    format : str, optional
        What masks are written as, one of `FORMATS`. Default: as the output's name ends, else NIfTI.
    probabilities : bool
        Also keep the probabilities, and write ``<stem>_prob.nii.gz``: 4 bytes a voxel and class.
    flip : bool
        Average with the prediction of the mirrored slice: twice the work, and for models trained with flips only.
    spacing : float or (float, float, float), optional
        What a voxel measures, mm, along X, Y, Z as stored or in all three directions, instead of what the scan says: for a model in
        millimetres and a scan whose spacing is false or unknown. The results' files keep the scan's grid as it is.
    keep_largest : bool
        Keep only the largest connected piece of every label.
    min_volume : float
        Remove connected pieces smaller than this, ml.
    preview : bool
        Also draw ``<stem>_preview.png``.
    report : Path or str, optional
        Also write this page (.html), or ``<stem>_report.html`` into this folder.
    with_identifiers : bool
        Show the scan's file name in pictures, pages and tables.
    overwrite : bool
        Replace results that exist.
    """

    threshold: float | None = _option(None, "Probability above which a pixel counts, for a binary model.")
    volume: int | None = _option(None, "Which volume of a 4-D scan, counted from 0.", min=0)
    series: str | None = _option(
        None, "Which DICOM series of a folder: its number, as `monet-edge series` has it, or its UID.", metavar="NUMBER"
    )
    format: str | None = _option(
        None, f"What masks are written as: {', '.join(FORMATS)}. Default: as the output's name ends.", metavar="NAME"
    )
    probabilities: bool = _option(False, "Also write <stem>_prob.nii.gz.")
    flip: bool = _option(False, "Average with the mirrored slice: slower, and for models trained with flips only.")
    spacing: float | tuple[float, float, float] | None = _option(
        None, "What a voxel measures in mm, one number or three as in 0.9,0.9,5, where the scan is wrong or does not know.",
        metavar="MM", parser=_lengths,
    )  # fmt: skip
    keep_largest: bool = _option(False, "Keep only the largest connected piece of every label.")
    min_volume: float = _option(0.0, "Remove connected pieces smaller than this, in ml.", metavar="ML", min=0)
    preview: bool = _option(False, "Also draw <stem>_preview.png: outlines over the largest slices.")
    report: Path | None = _option(None, "Also write this web page (.html); a folder for several scans.")  # noqa: RUF009  (a field, as the others)
    with_identifiers: bool = _option(False, "Let file names into pictures, pages and tables: they may hold a patient's name.")
    overwrite: bool = _option(False, "Replace results that exist.")

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise MonetError(f"format: expected {' or '.join(FORMATS)}, found {self.format!r}")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ModelError(f"threshold: expected a probability between 0 and 1, found {self.threshold}")
        if self.spacing is not None:
            object.__setattr__(self, "spacing", _checked_lengths(self.spacing))  # a header's own zooms are NumPy's numbers
        if not 0 <= self.min_volume < inf:
            raise MonetError(f"min_volume: expected a number of ml, 0 or more, found {self.min_volume}")

    def key(self, model: str) -> str:
        """What tells the results of a model and options from those of others: they carry it, in 16 digits.

        Parameters
        ----------
        model : str
            The sha256 of its weights file.
        """
        deciding = {name: value for name, value in asdict(self).items() if name not in _BESIDE}
        return hashlib.sha256(json.dumps([model, deciding], sort_keys=True).encode()).hexdigest()[:16]

    @property
    def voxel_mm(self) -> tuple[float, ...] | None:
        """The spacing along X, Y, Z."""
        return self.spacing if self.spacing is None or isinstance(self.spacing, tuple) else (self.spacing,) * 3

    @property
    def cleaning(self) -> bool:
        """True if stray pieces are removed from the mask."""
        return self.keep_largest or self.min_volume > 0


@dataclass(frozen=True)
class RunOptions:
    """How a run over scans goes, and what it leaves besides their results.

    Attributes
    ----------
    stats, run_record : Path, optional
        The table of all scans, and the record of the run.
    records : Path, optional
        A .jsonl file, or a folder of them, that a line is appended to as a scan ends.
    list : Path, optional
        A list of the scans.
    skip_existing : bool
        Pass over scans whose results are there.
    part : str, optional
        ``I/N`` or ``slurm``: the part of the scans to do.
    jobs : int
        Scans at a time in this process.
    cluster : str, optional
        The address of a Dask scheduler, or ``local:N``.
    """

    stats: Path | None = _option(None, "Write one table of all scans: .json or .csv.")  # noqa: RUF009  (a field, as the others)
    run_record: Path | None = _option(None, "Write versions, machine, options, times, warnings to this .json.")  # noqa: RUF009
    records: Path | None = _option(None, "Append a line a scan to this .jsonl, or to one in this folder, as it ends: holds paths.")  # noqa: RUF009
    list: Path | None = _option(  # noqa: RUF009
        None, "The scans: a path a line, or of a .csv its column path or its first; - is standard input.", metavar="FILE"
    )
    skip_existing: bool = _option(False, "Pass over scans whose results are there, whole, of this model and these options.")
    part: str | None = _option(None, "Do this part of the scans only, such as 3/7; slurm: as its array counts.", metavar="I/N")
    jobs: int = _option(1, "Scans at a time, sharing the threads: for small ones.", metavar="N", min=1, max=1024)
    cluster: str | None = _option(None, "Work on Dask: a scheduler's tcp://HOST:PORT, or local:N for N processes here.", metavar="ADDRESS")
