"""A model ready to use: weights, preprocessing and engine together; from a scan in memory to its mask in memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import formats, limits, preprocess
from .about import DEFAULT
from .channels import case_files, case_images
from .engine import Engine
from .errors import ModelError, ScanError, kind
from .inputs import Inputs
from .intensities import count, measure
from .options import Options
from .passes import Progress, grid_of
from .spec import multiple_of
from .volume import Scan
from .ways import Grid, Segmentation, Turn, check_case, way_of
from .weights import Weights
from .weights import load as load_weights

if TYPE_CHECKING:
    import nibabel

    Image = nibabel.spatialimages.SpatialImage | str | os.PathLike[str]


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
        self.engine = Engine(weights.spec, weights.tensors, self.threads, weights.preprocess.sides)
        self._way = way_of(weights.preprocess)

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
        self,
        image: Image | Scan | Sequence[Image | Scan],
        *,
        volume: int | None = None,
        spacing: float | tuple[float, float, float] | None = None,
    ) -> np.ndarray:
        """What `predict` wants of a scan: all its slices as this model sees them, cut, normalised, resized.

        Parameters
        ----------
        image : nibabel image, str, Path or Scan, or a sequence of them
            As for `segment`.
        volume : int, optional
            Which volume of a file that has several, from 0.
        spacing :
            As in `Options`.

        Returns
        -------
        (N, C, H, W) float32
            Intensities from 0 to 1, in the order of the model's slicing; the channels are a slice and its neighbours, image after
            image. Of a model with a spacing every slice's tiles, one after the other, see `inputs.Inputs`.

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
        record, options = self.weights.sliced, Options(volume=volume, spacing=spacing)
        given = tuple(image) if isinstance(image, (list, tuple)) else (image,)
        scans = given if all(isinstance(one, Scan) for one in given) else self._scans(image, options)  # type: ignore[arg-type]
        check_case(scans, self.images)
        images = [scan.canonical(preprocess.SLICINGS[record.slicing]) for scan in scans]
        inputs = Inputs(images, record, [measure(each, self.threads) for each in images], grid_of(record, scans[0], options))
        shape = (len(inputs), self.weights.spec.in_channels, record.size, record.size)
        limits.demand(4 * prod(shape), "the scan's slices, all together,")
        slices = np.empty(shape, np.float32)
        for i in range(len(inputs)):
            slices[i] = inputs(i)
        return slices

    def segment(
        self,
        image: Image | Sequence[Image],
        *,
        volume: int | None = None,
        threshold: float | None = None,
        flip: bool = False,
        spacing: float | tuple[float, float, float] | None = None,
    ) -> nibabel.Nifti1Image:
        """The mask of a scan, given as a nibabel image or a path, as a nibabel image on the same grid.

        Parameters
        ----------
        image : nibabel image, str or Path, or a sequence of them
            Of a model that takes several images of a case: all in their order, the path of one of them, see `channels`, or one image
            or file whose volumes they are.
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
        scans = self._scans(image, options)
        result = self.segment_scan(scans, options)
        for warning in result.warnings:
            warnings.warn(warning, stacklevel=2)
        return formats.to_image(result.mask, like=scans[0], labels=self.weights.preprocess.labels)

    def _scans(self, image: Image | Sequence[Image], options: Options) -> tuple[Scan, ...]:
        """The scans of a case from files or from memory, having seen that there is memory to segment it."""
        if isinstance(image, (str, os.PathLike)):
            files, modality = case_files(Path(image), self.images), self.weights.provenance.stated("modality")
            return self.read_case([formats.peek(file, modality=modality) for file in files], options)
        images = tuple(image) if isinstance(image, (list, tuple)) and self.images > 1 else (image,)
        if all(isinstance(one, (str, os.PathLike)) for one in images):
            return self.read_case([formats.peek(Path(file)) for file in images], options)
        if options.volume is not None:
            raise ScanError("volume chooses one of a file's; of an image in memory give one volume: image.slicer[..., volume]")
        if len(images) == 1 < self.images and len(getattr(images[0], "shape", ())) == 4:
            scans = self._volumes(images[0])
        else:
            scans = tuple(map(formats.from_image, images))
        self._demand_memory(scans, "segmenting the image", options, held=sum(scan.voxels.nbytes for scan in scans))
        return scans

    def _volumes(self, image: nibabel.spatialimages.SpatialImage) -> tuple[Scan, ...]:
        """The images of a case that are the volumes of one in memory."""
        if image.shape[3] != self.images:
            found = f"the model takes {self.images} images of a case, found {image.shape[3]} in an image of shape {image.shape}"
            raise ScanError(found, f"Give a list of {self.images} images, or one of shape (X, Y, Z, {self.images}).")
        return tuple(formats.from_image(image, number) for number in range(self.images))

    @property
    def images(self) -> int:
        """How many images of a case it takes."""
        return self.weights.preprocess.images

    def read_scan(self, header: formats.Header, options: Options = Options()) -> Scan:
        """Read the scan of a model that takes one image, see `read_case`."""
        return self.read_case([header], options)[0]

    def read_case(self, headers: Sequence[formats.Header], options: Options = Options()) -> tuple[Scan, ...]:
        """Read the scans of a case, having seen by their headers that there is memory to segment it.

        Parameters
        ----------
        headers : sequence of Header
            From `formats.peek`, one for each of the model's `images`, or one of a file that holds them all.
        options : Options
            Of which ``volume`` chooses one of several; others take memory, see `limits.peak`.

        Raises
        ------
        ScanError
            Naming the file and what is wrong with it.
        ResourceError
            Naming the file, what is needed and what there is.
        """
        work, begun = f"{headers[0].path}: segmenting it", headers[0].begun
        images = case_images(headers, self.images, options.volume)
        if begun is not None:
            self.engine.prepare(*self.weights.preprocess.sides)
            counts = count(begun.pieces(), self.threads)
        else:
            self._demand_memory(images, work, options)
        if len(images) > len(headers):
            scans = formats.read_all(headers[0])
        else:
            scans = tuple(formats.read(header, options.volume) for header in headers)
        if begun is not None:  # the first volume has found its memory already
            if counts is not None and counts.sum() == scans[0].voxels.size:  # not where the rest did not come by
                scans = (replace(scans[0], counts=counts), *scans[1:])
            self._demand_memory(scans, work, options, held=sum(scan.voxels.nbytes for scan in scans))
        return scans

    def _demand_memory(self, scans: Sequence[Grid], work: str, options: Options, held: int = 0) -> None:
        """Refuse scans that do not belong together, and those of which ``held`` bytes are in memory already, if the rest would not fit."""
        check_case(scans, self.images)
        needed = self._way.memory(self.weights, self.engine, scans, options)
        limits.demand(needed - held, f"{work} with {self.threads} thread{'s' if self.threads > 1 else ''}")

    def peak(self, scan: Grid, options: Options = Options()) -> int:
        """Bytes that segmenting a case takes at its worst moment, see `limits.peak`.

        Parameters
        ----------
        scan : Header or Scan
            Its first; others of the case count as large.
        options : Options
            Of which ``probabilities``, ``spacing`` and those that clean take memory.
        """
        return self._way.memory(self.weights, self.engine, [scan] * self.images, options)

    def segment_scan(
        self, scan: Scan | Sequence[Scan], options: Options = Options(), *, progress: Progress | None = None, turn: Turn = nullcontext()
    ) -> Segmentation:
        """Segment a scan slice by slice; only the volume, the mask and the workspaces are in memory.

        Parameters
        ----------
        scan : Scan, or a sequence of them
            Of a model that takes several images of a case all of them, in their order.
        options : Options
            Of which ``threshold``, ``flip`` and ``probabilities`` count here.
        progress : callable, optional
            Called with the number of slices done, and of all.
        turn : context manager, optional
            Entered while the network runs.
        """
        scans = tuple(scan) if isinstance(scan, (list, tuple)) else (scan,)
        if not all(isinstance(one, Scan) for one in scans):
            raise ScanError(f"segment_scan expects a Scan, as monet_edge.formats.read gives it, found {kind(scan)}; segment takes images")
        check_case(scans, self.images)
        return self._way.segment(self.weights, self.engine, scans, options, progress, turn)


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
