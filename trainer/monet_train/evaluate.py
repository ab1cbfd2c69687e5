"""How good a model is on labelled scans: per patient and label, nothing dropped.

Predictions come the way a user gets them, through `monet_edge.model`; the PyTorch engine takes only the place of the kernels.
Distances by SciPy's exact Euclidean distance transform.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import sqrt
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from monet_edge import volume
from monet_edge.errors import DatasetError
from monet_edge.model import Model
from monet_edge.spec import Spec
from monet_edge.weights import Weights

from .dataset import Case, Dataset, axial_affine, load
from .network import Network
from .splits import institution

Report = Callable[[int], None] | None


@dataclass(frozen=True)
class Score:
    """One label of one case.

    Attributes
    ----------
    case, institution, label : str
    status : str
        "found"; "missed" (labelled, nothing predicted); "invented" (the reverse); "empty" (neither).
    dice : float
        1 where empty, 0 where missed or invented.
    hausdorff, hausdorff95 : float
        Largest, and 95th percentile, of the distances between the two surfaces, both ways. In mm over the volume; where the
        spacing is unknown in pixels, the mean over the slices that hold truth or prediction. A missed or invented structure
        counts as the image's diagonal, an empty case as 0.
    unit : {"mm", "px"}
    truth, predicted : int
        Voxels.
    truth_ml, predicted_ml : float or None
        Where the spacing is known.
    """

    case: str
    institution: str
    label: str
    status: str
    dice: float
    hausdorff: float
    hausdorff95: float
    unit: str
    truth: int
    predicted: int
    truth_ml: float | None
    predicted_ml: float | None


class TorchEngine:
    """PyTorch in the place of the runtime's engine."""

    def __init__(self, spec: Spec, tensors: Mapping[str, np.ndarray], device: str) -> None:
        self.device = device
        self.network = Network(spec).to(device).eval()
        self.network.load_state_dict({name: torch.tensor(tensor) for name, tensor in tensors.items()})

    @torch.no_grad()
    def run(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (N, classes, H, W) of images (N, C, H, W)."""
        return self.network(torch.from_numpy(images).to(self.device)).cpu().numpy()

    def map(self, count: int, load: Callable[[int], np.ndarray], store: Callable[[int, np.ndarray], None], report: Report = None) -> None:
        """Load, predict and store so many slices, one after the other."""
        for i in range(count):
            store(i, self.run(load(i)[None])[0])
            if report is not None:
                report(i + 1)


def make_model(weights: Weights, engine: str = "runtime", threads: int | None = None) -> Model:
    """A model of a weights file, whose probabilities come from one of two engines.

    Parameters
    ----------
    weights : Weights
    engine : {"runtime", "torch"}
        The runtime's kernels, or PyTorch on a GPU if there is one.
    threads : int, optional
        Of the runtime. Default: the cores this process may use.
    """
    model = Model(weights, threads)
    if engine == "torch":
        model.engine = TorchEngine(weights.spec, weights.tensors, "cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[assignment]
    return model


def evaluate(model: Model, dataset: Dataset, names: Sequence[str], *, flip: bool = False, channel: int = 0) -> Iterator[Score]:
    """Segment cases and compare with their labels.

    Parameters
    ----------
    model : Model
        With one label, all of the data set's labels are merged; else it must have as many.
    dataset : Dataset
    names : sequence of str
        The cases.
    flip : bool
        Average with the mirrored slice.
    channel : int
        Which volume of a scan with several.

    Yields
    ------
    Score
        Case by case, label by label.

    Raises
    ------
    DatasetError
        If there is no such case, the labels do not fit, or a case is not fit for use.
    """
    for name in names:
        yield from score(model, load(dataset, name, channel), dataset.labels, dataset.spacing_known, flip=flip)


def score(model: Model, case: Case, labels: Sequence[str], spacing_known: bool, *, flip: bool = False) -> Iterator[Score]:
    """Segment one case, read from a data set or prepared, and compare it with its labels on its own grid.

    Parameters
    ----------
    model : Model
    case : Case
    labels : sequence of str
        Of the data set, see `evaluate`.
    spacing_known : bool
        Whether distances are in mm over the volume, or in pixels within slices.
    flip : bool

    Raises
    ------
    DatasetError
        If the labels do not fit the model's.
    """
    known = model.weights.preprocess.labels
    merged = len(known) == 1
    if not merged and len(known) != len(labels):
        raise DatasetError(f"the model knows {', '.join(known)}, the data set {', '.join(labels)}")
    mask = model.segment_scan(_as_scan(case), flip=flip).mask.T
    for number, label in enumerate(known, 1):
        truth = case.label > 0 if merged else case.label == number
        yield compare(case.name, label, truth, mask == number, case.spacing if spacing_known else None)


def _as_scan(case: Case) -> volume.Scan:
    """The case as a scan whose (X, Y, Z) are the case's (W, H, Z): the runtime sees the very voxels of the file."""
    return volume.Scan(None, case.image.T, case.slope, case.inter, axial_affine(case.spacing), None, ())


def compare(name: str, label: str, truth: np.ndarray, predicted: np.ndarray, spacing: Sequence[float] | None) -> Score:
    """Score one label: ``truth`` and ``predicted`` (Z, H, W) bool, ``spacing`` in mm or None where it is unknown."""
    counts = int(truth.sum()), int(predicted.sum())
    status = ("empty", "invented", "missed", "found")[2 * (counts[0] > 0) + (counts[1] > 0)]
    dice = 2 * int((truth & predicted).sum()) / sum(counts) if any(counts) else 1.0
    if spacing is None:
        slices = [surface_distances(t, p, (1.0, 1.0)) for t, p in zip(truth, predicted, strict=True) if t.any() or p.any()]
        hausdorff, hausdorff95 = np.mean(slices, axis=0) if slices else (0.0, 0.0)
        ml: tuple[float | None, ...] = (None, None)
    else:
        hausdorff, hausdorff95 = surface_distances(truth, predicted, spacing)
        ml = tuple(count * float(np.prod(spacing)) / 1000 for count in counts)
    unit = "px" if spacing is None else "mm"
    return Score(name, institution(name), label, status, dice, float(hausdorff), float(hausdorff95), unit, *counts, *ml)


def surface_distances(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> tuple[float, float]:
    """Hausdorff distance and its 95 % variant (the larger of the two directions' percentiles) of two masks of any dimension.

    The diagonal of the array if one is empty, 0 if both are.
    """
    if not a.any() or not b.any():
        diagonal = sqrt(sum((n * step) ** 2 for n, step in zip(a.shape, spacing, strict=True)))
        return (diagonal, diagonal) if a.any() or b.any() else (0.0, 0.0)
    box = tuple(slice(max(0, int(where.min()) - 1), int(where.max()) + 2) for where in np.nonzero(a | b))
    edges = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (a, b)]
    away = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    distances = away[1][edges[0]], away[0][edges[1]]
    return max(float(d.max()) for d in distances), max(float(np.percentile(d, 95)) for d in distances)


def summarise(scores: Sequence[Score], named: bool = True) -> dict[str, Any]:
    """Per label: mean, SD, standard error, median and range of the Dice coefficient and the distances; how many of each status.

    Also the mean Dice and its standard error per institution, and the worst cases, with their names or without.
    """
    summary: dict[str, Any] = {}
    for label in dict.fromkeys(score.label for score in scores):
        rows = [score for score in scores if score.label == label]
        dice = [row.dice for row in rows]
        places = {place: [row.dice for row in rows if row.institution == place] for place in sorted({row.institution for row in rows})}
        worst = sorted(rows, key=lambda row: row.dice)[:3]
        summary[label] = {
            "cases": len(rows),
            "dice": describe(dice),
            "hausdorff": describe([row.hausdorff for row in rows]),
            "hausdorff95": describe([row.hausdorff95 for row in rows]),
            "unit": rows[0].unit,
            "status": {status: sum(row.status == status for row in rows) for status in ("found", "missed", "invented", "empty")},
            "institutions": {place: describe(values) for place, values in places.items() if place},
            "worst": [{"case": row.case, "dice": row.dice} if named else {"dice": row.dice} for row in worst],
        }
    return summary


def describe(values: Sequence[float]) -> dict[str, float]:
    """Number, mean, SD (of the sample), standard error of the mean, median, least and most."""
    array = np.asarray(values, np.float64)
    sd = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return {
        "n": len(array),
        "mean": float(array.mean()),
        "sd": sd,
        "se": sd / sqrt(len(array)),
        "median": float(np.median(array)),
        "min": float(array.min()),
        "max": float(array.max()),
    }


def to_csv(scores: Sequence[Score]) -> str:
    """One line a case and label."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Score)], lineterminator="\n")
    writer.writeheader()
    for score in scores:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in asdict(score).items()})
    return text.getvalue()
