"""A model ready to use: weights, preprocessing and engine together; from a scan in memory to its mask in memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from . import DEFAULT, fingerprint, memory, preprocess
from . import volume as _volume
from .engine import Engine
from .errors import ModelError, ScanError, kind
from .flip import mirrored
from .limits import usable_cores
from .spec import multiple_of
from .weights import Weights
from .weights import load as load_weights

Progress = Callable[[int, int], None]  # called with the number of slices done, and of all


@dataclass(frozen=True)
class Segmentation:
    """What a model says of one scan, on the scan's own grid.

    Attributes
    ----------
    mask : (X, Y, Z) uint8
        Labels, 0 is background.
    probability : (X, Y, Z) or (X, Y, Z, classes) float32, or None
        If asked for.
    statistics : Statistics
        Of the scan's intensities.
    warnings : tuple of str
        What to tell the user.
    """

    mask: np.ndarray
    probability: np.ndarray | None
    statistics: preprocess.Statistics
    warnings: tuple[str, ...]


class Model:
    """A network with its preprocessing, ready to run on the CPU.

    Attributes
    ----------
    weights : Weights
        The file it came from: Spec, tensors, preprocessing, provenance.
    threads : int
        How many slices run at a time.
    """

    def __init__(self, weights: Weights, threads: int | None = None) -> None:
        self.weights = weights
        self.threads = threads or usable_cores()
        self.engine = Engine(weights.spec, weights.tensors, self.threads)

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[Weights, int]]:
        """Copied, or sent to another process, it goes as its weights: the engine is made anew for the CPU that it comes to."""
        return Model, (self.weights, self.threads)

    def predict(self, slices: np.ndarray) -> np.ndarray:
        """Probabilities of preprocessed slices; nothing is normalised or resized.

        Parameters
        ----------
        slices : (N, H, W) or (N, C, H, W) float32
            H and W divide by the network's `spec.multiple_of` (4 for MoNet).

        Returns
        -------
        (N, classes, H, W) float32
            One channel for a binary network.

        Raises
        ------
        ModelError
            If the array does not fit the network.
        """
        if not isinstance(slices, np.ndarray):
            raise ModelError(f"predict expects a NumPy array, found {kind(slices)}")
        images = slices[:, None] if slices.ndim == 3 else slices
        spec, multiple = self.weights.spec, multiple_of(self.weights.spec)
        if images.ndim != 4 or images.shape[1] != spec.in_channels or images.dtype != np.float32:
            expected = f"float32 (N, {spec.in_channels}, H, W)" + (" or (N, H, W)" if spec.in_channels == 1 else "")
            raise ModelError(f"predict expects {expected}, found {slices.dtype} {slices.shape}")
        if images.shape[2] % multiple or images.shape[3] % multiple or 0 in images.shape[2:]:
            raise ModelError(f"predict expects sides that divide by {multiple}, found {images.shape[2]}x{images.shape[3]}")
        return self.engine.run(images)

    def segment(
        self,
        image: nibabel.spatialimages.SpatialImage | str | os.PathLike[str],
        *,
        volume: int | None = None,
        threshold: float | None = None,
        flip: bool = False,
    ) -> nibabel.Nifti1Image:
        """The mask of a scan, given as a nibabel image or a path, as a nibabel image on the same grid.

        Parameters
        ----------
        image : nibabel image, str or Path
        volume : int, optional
            Which volume of a file that has several, from 0.
        threshold, flip :
            As for `segment_scan`.

        Raises
        ------
        ScanError
            If the scan cannot be read or is not a 3-D volume of numbers.
        ResourceError
            If segmenting it would take more memory than there is.

        Warns
        -----
        UserWarning
            Of what `segment_scan` finds doubtful: an empty mask, a scan unlike those of the training.
        """
        if isinstance(image, (str, os.PathLike)):
            scan = self.read_scan(Path(image), volume)
        elif volume is not None:
            raise ScanError("volume chooses one of a file's; of an image in memory give one volume: image.slicer[..., volume]")
        else:
            scan = _volume.from_image(image)
            self._demand_memory(scan.shape, scan.affine, scan.voxels.dtype, "segmenting the image", held=scan.voxels.nbytes)
        result = self.segment_scan(scan, threshold=threshold, flip=flip)
        for warning in result.warnings:
            warnings.warn(warning, stacklevel=2)
        return _volume.to_image(result.mask, like=scan, labels=self.weights.preprocess.labels)

    def read_scan(self, path: Path, index: int | None = None, *, probabilities: bool = False, cleaning: bool = False) -> _volume.Scan:
        """Read a scan, having seen by its header that there is memory to segment it.

        Parameters
        ----------
        path : Path
        index : int, optional
            Which volume of a scan that has several, from 0.
        probabilities, cleaning : bool
            What else will be wanted, see `memory.peak`.

        Raises
        ------
        ScanError
            Naming the file and what is wrong with it.
        ResourceError
            Naming the file, what is needed and what there is.
        """
        layout = _volume.peek(path)
        what = f"{path}: segmenting it"
        self._demand_memory(layout.shape, layout.affine, layout.dtype, what, probabilities=probabilities, cleaning=cleaning)
        return _volume.read(path, index)

    def _demand_memory(
        self,
        shape: tuple[int, ...],
        affine: np.ndarray,
        dtype: np.dtype,
        what: str,
        *,
        held: int = 0,
        probabilities: bool = False,
        cleaning: bool = False,
    ) -> None:
        """Refuse a volume (X, Y, Z) of which ``held`` bytes are in memory already, if the rest of the work would not fit."""
        record = self.weights.preprocess
        cut, _ = _volume.to_canonical(np.broadcast_to(np.uint8(0), shape), affine, preprocess.SLICINGS[record.slicing])
        seen = 4 * record.size**2 * preprocess.Inputs.room(record, self.threads)
        needed = memory.peak(
            cut.shape,
            dtype,
            classes=self.weights.spec.classes,
            workspace=self.engine.workspace_bytes(record.size, record.size) + seen,
            threads=self.threads,
            probabilities=probabilities,
            cleaning=cleaning,
        )
        memory.demand(needed - held, f"{what} with {self.threads} thread{'s' if self.threads > 1 else ''}")

    def segment_scan(
        self,
        scan: _volume.Scan,
        *,
        threshold: float | None = None,
        probabilities: bool = False,
        flip: bool = False,
        progress: Progress | None = None,
    ) -> Segmentation:
        """Segment a scan slice by slice; only the volume, the mask and the workspaces are in memory.

        Parameters
        ----------
        scan : Scan
        threshold : float, optional
            For a binary model, instead of the model's own.
        probabilities : bool
            Also keep the probabilities: 4 bytes a voxel and class.
        flip : bool
            Average with the prediction of the mirrored slice: twice the work, and for models trained with flips only.
        progress : callable, optional
            Called with the number of slices done, and of all.

        Raises
        ------
        ModelError
            If the threshold is no probability.
        """
        if not isinstance(scan, _volume.Scan):
            raise ScanError(f"segment_scan expects a Scan, as monet_edge.volume.read gives it, found {kind(scan)}; segment takes images")
        preprocess.check_threshold(threshold)
        record, classes = self.weights.preprocess, self.weights.spec.classes
        axes = preprocess.SLICINGS[record.slicing]
        voxels, _ = _volume.to_canonical(scan.voxels, scan.affine, axes)
        statistics = preprocess.measure(voxels, scan.slope, scan.inter, self.threads)
        mask = np.zeros(scan.shape, np.uint8, order="F")
        mask_slices, _ = _volume.to_canonical(mask, scan.affine, axes)
        kept, kept_slices = None, []
        if probabilities:
            kept = np.zeros((*scan.shape, classes), np.float32, order="F")
            kept_slices = [_volume.to_canonical(kept[..., c], scan.affine, axes)[0] for c in range(classes)]
        limit = record.threshold if threshold is None else threshold

        load = preprocess.Inputs(voxels, record, statistics, scan.slope, scan.inter, self.threads)

        def store(z: int, probability: np.ndarray) -> None:
            preprocess.to_mask(probability, limit, mask_slices[z], [slices[z] for slices in kept_slices])

        count = len(voxels)

        def report(done: int) -> None:
            if progress is not None:
                progress(done, count)

        if preprocess.blank(record, statistics):
            pass  # nothing to see: the mask stays empty
        elif flip:
            self.engine.map(2 * count, *mirrored(load, store), lambda done: report(done // 2))
        else:
            self.engine.map(count, load, store, report)
        if kept is not None and classes == 1:
            kept = kept[..., 0]
        doubts = scan.warnings + _warnings(record, statistics, mask)
        if threshold is not None and classes > 1:
            doubts += (f"the threshold is ignored: {self.weights.name} has several labels, and the likeliest counts",)
        if flip and not self.weights.saw_flips:
            doubts += (f"{self.weights.name} was trained without mirrored slices: averaging with them (flip) may do harm",)
        if self._is_foreign(voxels, statistics, scan):
            doubts += (f"this scan does not look like those that {self.weights.name} was trained on; do not trust the mask",)
        return Segmentation(mask, kept, statistics, doubts)

    def _is_foreign(self, voxels: np.ndarray, statistics: preprocess.Statistics, scan: _volume.Scan) -> bool:
        usual = self.weights.fingerprint
        if usual is None or preprocess.blank(self.weights.preprocess, statistics):
            return False
        slices = fingerprint.look(voxels, self.weights.preprocess, statistics, scan.slope, scan.inter)
        return usual.is_foreign(fingerprint.features(slices))


def load(model: str | Path = DEFAULT, threads: int | None = None) -> Model:
    """Load a shipped model by name, or any by the path of its .safetensors file.

    Parameters
    ----------
    model : str or Path
    threads : int, optional
        Default: the cores this process may use.

    Raises
    ------
    ModelError
        If there is no such model, or its file is not intact.
    """
    return Model(load_weights(model), threads)


def _warnings(record: preprocess.Preprocess, statistics: preprocess.Statistics, mask: np.ndarray) -> tuple[str, ...]:
    found = []
    if statistics.nonfinite:
        found.append(f"{statistics.nonfinite:,} voxels are NaN or infinite; they count as background")
    if statistics.nonfinite == mask.size:
        found.append("no voxel holds a number; the mask is empty")
    elif preprocess.blank(record, statistics):
        what = "all that is no background" if statistics.foreground else "the scan"
        found.append(f"{what} holds one intensity only; the mask is empty")
    elif not mask.any():
        found.append("the mask is empty: the model found nothing in this scan")
    return tuple(found)
