"""How good a model is on labelled scans: per patient and label, nothing dropped.

Predictions come the way a user gets them, through `monet_edge.model`; the PyTorch engine takes only the place of the kernels.
A label is compared with that of the same name, see `scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from monet_edge import volume
from monet_edge.engine.engine import Load, Sides, Store
from monet_edge.errors import DatasetError, MonetError
from monet_edge.model import Model
from monet_edge.options import Options
from monet_edge.spec import Spec
from monet_edge.weights import Weights

from .dataset import Case, Dataset, axial_affine, load
from .labels import Match, match
from .network import Network
from .scores import Score, compare


class TorchEngine:
    """PyTorch in the place of the runtime's engine."""

    threads = 1  # one slice after the other

    def __init__(self, spec: Spec, tensors: Mapping[str, np.ndarray], device: str) -> None:
        self.device = device
        self.network = Network(spec).to(device).eval()
        self.network.load_state_dict({name: torch.tensor(tensor) for name, tensor in tensors.items()})

    @torch.no_grad()
    def run(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (N, classes, H, W) of images (N, C, H, W)."""
        return self.network(torch.from_numpy(images).to(self.device)).cpu().numpy()

    def map(
        self,
        count: int,
        sides: Sides,
        load: Load,
        store: Store,
        progress: Callable[[int], None] | None = None,
        dealt: Callable[[], None] | None = None,
    ) -> None:
        """Load, predict and store so many slices, one after the other; see `monet_edge.engine.Engine.map`.

        Without threads nobody waits for the last slices: ``dealt`` is not called.
        """
        image = np.empty((1, self.network.spec.in_channels, *sides), np.float32)
        for i in range(count):
            load(i, image[0])
            store(i, self.run(image)[0])
            if progress is not None:
                progress(i + 1)


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


def evaluate(
    model: Model,
    dataset: Dataset,
    names: Sequence[str],
    *,
    flip: bool = False,
    sides_as_one: bool = False,
    progress: Callable[[str], None] = lambda _: None,
    failures: dict[str, str] | None = None,
) -> Iterator[Score]:
    """Segment cases and compare with their labels.

    Parameters
    ----------
    model : Model
    dataset : Dataset
        Its labels are those of the same names as the model's, see `labels.match`; its channels are the model's images.
    names : sequence of str
        The cases.
    flip : bool
        Average with the mirrored slice.
    sides_as_one : bool
        "left X" and "right X" count as X.
    progress : callable
        Called with the name of every case when it is done.
    failures : dict, optional
        Gets every case that cannot be scored, and why; without it that is raised.

    Yields
    ------
    Score
        Case by case, label by label.

    Raises
    ------
    DatasetError
        If there is no such case, no label in common, another number of images, or a case is not fit for use.
    """
    found = match(model.weights.preprocess.labels, dataset.labels, model.weights.merged, sides_as_one)
    check_names(dataset, names)
    images = model.weights.preprocess.images
    if len(dataset.channels) != images:
        raise DatasetError(f"{dataset.folder}: {len(dataset.channels)} images of a case are read, {model.weights.name} takes {images}")
    if model.weights.preprocess.in_mm and not dataset.spacing_known:
        raise DatasetError(
            f"{dataset.folder}: its dataset.json says that the spacing is unknown, and {model.weights.name} works in millimetres;"
            " state it with --spacing"
        )
    for name in names:
        try:
            scores = list(score(model, load(dataset, name), found, dataset.spacing_known, flip=flip))
        except Exception as error:
            if failures is None:
                raise
            # words only: the exception would keep the case in memory
            words = str(error).removeprefix(f"{name}: ")
            failures[name] = words if isinstance(error, MonetError) else f"unexpected {type(error).__name__}: {error}"
            scores = []
        yield from scores
        progress(name)


def check_names(dataset: Dataset, names: Sequence[str]) -> None:
    """Raise a DatasetError unless a data set has all these cases, before hours of work on the first ones."""
    unknown = sorted(set(names) - set(dataset.pairs))
    if unknown:
        raise DatasetError(f"{dataset.folder}: there is no case {unknown[0]} among its {len(dataset.pairs)}; is it another data set?")


def score(model: Model, case: Case, found: Match, spacing_known: bool, *, flip: bool = False) -> Iterator[Score]:
    """Segment one case, read from a data set or prepared, and compare it with its labels on its own grid.

    Parameters
    ----------
    model : Model
    case : Case
    found : Match
        Of the model's labels and the data set's.
    spacing_known : bool
        Whether distances are in mm over the volume, or in pixels within slices.
    flip : bool
    """
    result = model.segment_scan(as_scans(case, spacing_known), Options(flip=flip))
    labels = model.weights.preprocess.labels
    truth, mask = found.masks(case.label, result.mask.T)
    for number, pair in enumerate(found.pairs, 1):
        compared = compare(case.name, pair.name, truth == number, mask == number, case.steps if spacing_known else None)
        yield replace(compared, agreement={labels[one - 1]: result.agreement[one - 1] for one in pair.predicted if result.agreement})


def as_scans(case: Case, spacing_known: bool) -> list[volume.Scan]:
    """The images of a case as scans whose (X, Y, Z) are the case's (W, H, Z): the runtime sees the very voxels of the files."""
    affine = axial_affine(case.spacing)
    return [
        volume.Scan(None, image.stored.T, image.slope, image.inter, affine, None, (), spacing_known=spacing_known) for image in case.images
    ]
