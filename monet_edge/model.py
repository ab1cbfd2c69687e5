"""A model ready to use: weights, preprocessing and engine together; from a scan in memory to its mask in memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import formats, limits, preprocess
from .about import DEFAULT
from .doubts import doubts
from .engine import Engine
from .errors import ModelError, ScanError, kind
from .inputs import Inputs
from .intensities import Statistics, measure
from .options import Options
from .passes import Progress, grid_of, room, run_slices
from .spec import multiple_of
from .volume import Scan, Voxels, orient
from .weights import Weights
from .weights import load as load_weights

if TYPE_CHECKING:
    import nibabel

    Image = nibabel.spatialimages.SpatialImage | str | os.PathLike[str]


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
    statistics: Statistics
    warnings: tuple[str, ...]


class Model:
    """A network with its preprocessing, ready to run on the CPU: from `load`.

    Attributes
    ----------
    weights : Weights
        The file it came from: Spec, tensors, preprocessing, provenance.
    threads : int
        How many slices run at a time.

    Examples
    --------
    >>> import monet_edge
    >>> model = monet_edge.load("brain-flair", threads=1)
    >>> model.threads, model.weights.preprocess.labels
    (1, ('tumour',))
    """

    def __init__(self, weights: Weights, threads: int | None = None) -> None:
        self.weights = weights
        self.threads = threads or limits.usable_cores()
        self.engine = Engine(weights.spec, weights.tensors, self.threads)

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[Weights, int]]:
        """Copied, or sent to another process, it goes as its weights: the engine is made anew for the CPU that it comes to."""
        return Model, (self.weights, self.threads)

    def predict(self, slices: np.ndarray) -> np.ndarray:
        """Probabilities of preprocessed slices; nothing is normalised or resized.

        Parameters
        ----------
        slices : (N, H, W) or (N, C, H, W) float32
            As `slices` makes them of a scan; H and W divide by the network's `spec.multiple_of` (4 for MoNet).

        Returns
        -------
        (N, classes, H, W) float32
            One channel for a binary network.

        Raises
        ------
        ModelError
            If the array does not fit the network.

        Examples
        --------
        >>> import monet_edge
        >>> model = monet_edge.load("brain-flair")
        >>> model.predict(model.slices("scan.nii.gz")[10:12]).shape
        (2, 1, 256, 256)
        """
        if not isinstance(slices, np.ndarray):
            raise ModelError(f"predict expects a NumPy array, as `slices` makes it of a scan, found {kind(slices)}")
        images = slices[:, None] if slices.ndim == 3 else slices
        spec, multiple = self.weights.spec, multiple_of(self.weights.spec)
        if images.ndim != 4 or images.shape[1] != spec.in_channels or images.dtype != np.float32:
            expected = f"float32 (N, {spec.in_channels}, H, W)" + (" or (N, H, W)" if spec.in_channels == 1 else "")
            raise ModelError(f"predict expects {expected}, found {slices.dtype} {slices.shape}")
        if images.shape[2] % multiple or images.shape[3] % multiple or 0 in images.shape[2:]:
            raise ModelError(f"predict expects sides that divide by {multiple}, found {images.shape[2]}x{images.shape[3]}")
        return self.engine.run(images)

    def slices(
        self, image: Image | Scan, *, volume: int | None = None, spacing: float | tuple[float, float, float] | None = None
    ) -> np.ndarray:
        """What `predict` wants of a scan: all its slices as this model sees them, cut, normalised, resized.

        Parameters
        ----------
        image : nibabel image, str, Path or Scan
        volume : int, optional
            Which volume of a file that has several, from 0.
        spacing :
            As in `Options`.

        Returns
        -------
        (N, C, H, W) float32
            Intensities from 0 to 1, in the order of the model's slicing; the channels are a slice and its neighbours. Of a model
            with a spacing every slice's tiles, one after the other, see `inputs.Inputs`.

        Raises
        ------
        ScanError
            If the scan cannot be read or is not a 3-D volume of numbers, or the model needs its spacing, which is unknown.
        ResourceError
            If they would take more memory than there is.

        Examples
        --------
        >>> import monet_edge
        >>> monet_edge.load("brain-flair").slices("scan.nii.gz").shape
        (24, 3, 256, 256)
        """
        record, options = self.weights.preprocess, Options(volume=volume, spacing=spacing)
        scan = image if isinstance(image, Scan) else self._scan(image, options)
        voxels = scan.canonical(preprocess.SLICINGS[record.slicing])
        inputs = Inputs(voxels, record, measure(voxels, self.threads), grid_of(record, scan, options))
        shape = (len(inputs), self.weights.spec.in_channels, record.size, record.size)
        limits.demand(4 * prod(shape), "the scan's slices, all together,")
        slices = np.empty(shape, np.float32)
        for i in range(len(inputs)):
            slices[i] = inputs(i)
        return slices

    def segment(
        self,
        image: Image,
        *,
        volume: int | None = None,
        threshold: float | None = None,
        flip: bool = False,
        spacing: float | tuple[float, float, float] | None = None,
    ) -> nibabel.Nifti1Image:
        """The mask of a scan, given as a nibabel image or a path, as a nibabel image on the same grid.

        Parameters
        ----------
        image : nibabel image, str or Path
        volume, threshold, flip, spacing :
            As in `Options`.

        Raises
        ------
        ScanError
            If the scan cannot be read or is not a 3-D volume of numbers, or the model needs its spacing, which is unknown.
        ResourceError
            If segmenting it would take more memory than there is.

        Warns
        -----
        UserWarning
            Of what `segment_scan` finds doubtful: an empty mask, a scan unlike those of the training.

        Examples
        --------
        >>> import monet_edge
        >>> mask = monet_edge.load("brain-flair").segment("scan.nii.gz")
        >>> mask.shape, mask.get_data_dtype().name
        ((256, 256, 24), 'uint8')
        """
        options = Options(threshold=threshold, volume=volume, flip=flip, spacing=spacing)
        scan = self._scan(image, options)
        result = self.segment_scan(scan, options)
        for warning in result.warnings:
            warnings.warn(warning, stacklevel=2)
        return formats.to_image(result.mask, like=scan, labels=self.weights.preprocess.labels)

    def _scan(self, image: Image, options: Options) -> Scan:
        """A scan from a file or from memory, having seen that there is memory to segment it."""
        if isinstance(image, (str, os.PathLike)):
            return self.read_scan(formats.peek(Path(image)), options)
        if options.volume is not None:
            raise ScanError("volume chooses one of a file's; of an image in memory give one volume: image.slicer[..., volume]")
        scan = formats.from_image(image)
        self._demand_memory(scan, "segmenting the image", options, held=scan.voxels.nbytes)
        return scan

    def read_scan(self, header: formats.Header, options: Options = Options()) -> Scan:
        """Read a scan, having seen by its header that there is memory to segment it.

        Parameters
        ----------
        header : Header
            From `formats.peek`.
        options : Options
            Of which ``volume`` chooses one of several; others take memory, see `limits.peak`.

        Raises
        ------
        ScanError
            Naming the file and what is wrong with it.
        ResourceError
            Naming the file, what is needed and what there is.
        """
        work = f"{header.path}: segmenting it"
        if header.begun is None:
            self._demand_memory(header, work, options)
        scan = formats.read(header, options.volume)
        if header.begun is not None:  # its volume has found its memory already
            self._demand_memory(scan, work, options, held=scan.voxels.nbytes)
        return scan

    def _demand_memory(self, scan: formats.Header | Scan, work: str, options: Options, held: int = 0) -> None:
        """Refuse a volume of which ``held`` bytes are in memory already, if the rest of the work would not fit."""
        needed = self.peak(scan, options)
        limits.demand(needed - held, f"{work} with {self.threads} thread{'s' if self.threads > 1 else ''}")

    def peak(self, scan: formats.Header | Scan, options: Options = Options()) -> int:
        """Bytes that segmenting a scan takes at its worst moment, see `limits.peak`.

        Parameters
        ----------
        scan : Header or Scan
        options : Options
            Of which ``probabilities``, ``spacing`` and those that clean take memory.
        """
        record, classes = self.weights.preprocess, self.weights.spec.classes
        slices = room(grid_of(record, scan, options), classes, self.threads)
        return limits.peak(
            tuple(scan.shape[axis] for axis in orient(scan.affine, preprocess.SLICINGS[record.slicing]).axes),
            scan.dtype,
            classes=classes,
            workspace=self.engine.workspace_bytes(record.size, record.size) + slices,
            threads=self.threads,
            probabilities=options.probabilities,
            cleaning=options.cleaning,
        )

    def segment_scan(self, scan: Scan, options: Options = Options(), *, progress: Progress | None = None) -> Segmentation:
        """Segment a scan slice by slice; only the volume, the mask and the workspaces are in memory.

        Parameters
        ----------
        scan : Scan
        options : Options
            Of which ``threshold``, ``flip`` and ``probabilities`` count here.
        progress : callable, optional
            Called with the number of slices done, and of all.
        """
        if not isinstance(scan, Scan):
            raise ScanError(f"segment_scan expects a Scan, as monet_edge.formats.read gives it, found {kind(scan)}; segment takes images")
        record, classes = self.weights.preprocess, self.weights.spec.classes
        threshold = record.threshold if options.threshold is None else options.threshold
        orientation = orient(scan.affine, preprocess.SLICINGS[record.slicing])
        voxels = Voxels(orientation.turn(scan.voxels), scan.slope, scan.inter)
        statistics = measure(voxels, self.threads)
        mask = np.zeros(scan.shape, np.uint8, order="F")
        kept = np.zeros((*scan.shape, classes), np.float32, order="F") if options.probabilities else None
        mask_slices, kept_slices = orientation.turn(mask), None if kept is None else orientation.turn(kept)

        inputs = Inputs(voxels, record, statistics, grid_of(record, scan, options), self.threads)

        def store(z: int, probability: np.ndarray) -> None:
            kept = () if kept_slices is None else tuple(np.moveaxis(kept_slices[z], -1, 0))
            preprocess.to_mask(probability, threshold, mask_slices[z], kept)

        if not preprocess.blank(record, statistics):  # else there is nothing to see: the mask stays empty
            run_slices(self.engine, inputs, store, options.flip, progress)
        if kept is not None and classes == 1:
            kept = kept[..., 0]
        doubtful = doubts(self.weights, voxels, statistics, mask, options)
        return Segmentation(mask, kept, statistics, (*scan.warnings, *doubtful))


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

    Examples
    --------
    >>> import monet_edge
    >>> monet_edge.load("brain-flair").weights.kind
    'FLAIR, tumour'
    """
    return Model(load_weights(model), threads)
