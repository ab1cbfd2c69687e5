"""Labelled scans in the layouts of the Medical Segmentation Decathlon and of nnU-Net, read as they are.

Both have `dataset.json`, `imagesTr` and `labelsTr`. The decathlon lists its cases, names labels by number ("1": "tumour")
and keeps several channels in one 4-D file; nnU-Net lists nothing, names numbers ("tumour": 1) and has one file a channel,
`<case>_0000.nii.gz`. Mixtures of the two exist and are read too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from monet_edge import formats, volume
from monet_edge.errors import DatasetError, MonetError
from monet_edge.formats.beside import UNKNOWN
from monet_edge.intensities import Statistics, measure
from monet_edge.preprocess import SLICINGS
from monet_edge.volume import geometry

from .dataset_json import IGNORE, read_json, read_labels, read_pairs

APART = 0.02  # voxels; an origin off by 0.002 mm is an exporter's rounding, a rotation that moves a corner by 0.055 voxels is not
ROUNDING = 1e-3  # a label's distance from a whole number, once scaled: float32 slopes of 1/255 are off by less
AXES = SLICINGS["axial"]  # the order in which cases are kept; `oriented` turns it for other slicings


@dataclass(frozen=True)
class Dataset:
    """A folder of labelled scans.

    Attributes
    ----------
    folder : Path
    name, modality, licence, reference : str
        From dataset.json.
    labels : tuple of str
        Names of the labels 1, 2, ...
    ignore : int or None
        The number that says that nobody labelled a voxel.
    spacing_known : bool
        False where dataset.json says ``"spacing": "unknown"``: distances are then in pixels.
    pairs : dict of str to (Path, Path)
        Scan and labels of every case, by name, sorted.
    separate : frozenset of str
        Cases whose channels are a file each, of which ``pairs`` has the wanted one.
    validation : tuple of str
        Cases that dataset.json lists to validate on.
    warnings : tuple of str
        What is in the folder and not read.
    """

    folder: Path
    name: str
    modality: str
    licence: str
    reference: str
    labels: tuple[str, ...]
    ignore: int | None
    spacing_known: bool
    pairs: dict[str, tuple[Path, Path]]
    separate: frozenset[str]
    validation: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One labelled scan in canonical axial order.

    Attributes
    ----------
    name : str
    image : (Z, H, W) array
        In the scan's own dtype; intensities are ``image * slope + inter``.
    label : (Z, H, W) uint8
    slope, inter : float
    steps : (3, 3) float64
        A column each for Z, H, W: the way in mm that one voxel along that axis takes, see `monet_edge.volume.geometry`.
    statistics : Statistics
        Of the whole volume.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    slope: float
    inter: float
    steps: np.ndarray
    statistics: Statistics

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size in mm along Z, H, W."""
        return geometry.spacing(self.steps)

    @property
    def voxels(self) -> volume.Voxels:
        """The image with what scales it."""
        return volume.Voxels(self.image, self.slope, self.inter)


def read(folder: Path, channel: int = 0) -> Dataset:
    """Read `dataset.json` and find the cases; no scan is opened.

    Parameters
    ----------
    folder : Path
    channel : int
        Which file of a case in nnU-Net's layout. (In a 4-D file it is chosen by `load`.)

    Raises
    ------
    DatasetError
        If the folder is not such a data set, or a file of a case is missing.
    """
    data = read_json(folder)
    pairs, warnings = read_pairs(folder, data, channel)
    labels, ignore = read_labels(folder, data.get("labels"))
    names = data.get("channel_names", data.get("modality"))
    return Dataset(
        folder,
        str(data.get("name", folder.name)),
        str(names.get(str(channel), "")) if isinstance(names, dict) else "",
        str(data.get("licence", data.get("license", ""))),
        str(data.get("reference", "")),
        labels,
        ignore,
        data.get("spacing") != UNKNOWN,
        {pair.name: (pair.image, pair.label) for pair in pairs},
        frozenset(pair.name for pair in pairs if pair.separate),
        tuple(pair.name for pair in pairs if pair.validation),
        tuple(warnings),
    )


def load(dataset: Dataset, name: str, channel: int = 0) -> Case:
    """Read and check one case.

    Parameters
    ----------
    dataset : Dataset
    name : str
    channel : int
        Which volume of a scan with several.

    Raises
    ------
    ScanError
        If a file cannot be read.
    DatasetError
        If there is no such case, or its scan and labels do not belong together.
    """
    if name not in dataset.pairs:
        raise DatasetError(f"{dataset.folder}: there is no case {name} among its {len(dataset.pairs)}; is it another data set?")
    image_path, label_path = dataset.pairs[name]
    scan = formats.read(image_path, volume_of(dataset, name, channel))
    mask = formats.read(label_path)
    if scan.shape != mask.shape:
        raise DatasetError(f"{name}: the scan has shape {scan.shape}, its labels {mask.shape}")
    voxels = displacement(scan.affine, mask.affine, scan.shape)
    if not voxels <= APART:
        raise DatasetError(
            f"{name}: scan and labels have different affines: a corner of the volume lies {voxels:.3g} voxels away"
            f" (at most {APART} are taken for rounding); resample or correct the labels"
        )
    label = volume.to_canonical(_numbers(dataset, name, mask), mask.affine, AXES)
    image = scan.canonical(AXES)
    steps = geometry.canonical_steps(scan.affine, volume.orient(scan.affine, AXES))
    return Case(name, image.stored, label, scan.slope, scan.inter, steps, measure(image))


def volume_of(dataset: Dataset, name: str, channel: int) -> int | None:
    """Which volume of a case's file is a channel; None where the file holds one only."""
    volumes = formats.peek(dataset.pairs[name][0]).volumes
    if name in dataset.separate and channel and volumes > 1:
        raise DatasetError(f"{name}: expected one volume in every file, found {volumes} in {dataset.pairs[name][0].name}")
    if name in dataset.separate or (volumes == 1 and channel == 0):
        return 0
    if channel >= volumes:
        raise DatasetError(f"{name}: the scan has no volume {channel}; it has {volumes}, counted from 0")
    return channel


def displacement(scan: np.ndarray, label: np.ndarray, shape: Sequence[int]) -> float:
    """How far two affines (4, 4) put a corner of one volume (X, Y, Z) apart: the largest distance, in voxels of the scan."""
    corners = np.array([[*corner, 1] for corner in product(*((-0.5, side - 0.5) for side in shape))])
    apart = (corners @ (label - scan).T)[:, :3] @ np.linalg.inv(scan[:3, :3]).T
    return float(np.linalg.norm(apart, axis=1).max())


def _numbers(dataset: Dataset, name: str, mask: volume.Scan) -> np.ndarray:
    """Labels (X, Y, Z) uint8 as numbers of dataset.json, of a file that may hold them scaled or as floats."""
    stored, counts = np.unique(mask.voxels, return_counts=True)
    values = stored.astype(np.float64) * mask.slope + mask.inter
    whole = np.abs(values - np.rint(values)) <= ROUNDING
    if dataset.ignore is not None and (unlabelled := whole & (np.rint(values) == dataset.ignore)).any():
        raise DatasetError(
            f"{name}: {counts[unlabelled].sum()} voxels are labelled {dataset.ignore}, dataset.json's {IGNORE!r}, which is not supported:"
            " every voxel would have to be one of the labels"
        )
    strange = values[~(whole & (np.rint(values) >= 0) & (np.rint(values) <= len(dataset.labels)))]
    if strange.size:
        found = ", ".join(f"{value:.6g}" for value in strange[:8])
        raise DatasetError(f"{name}: labels must be 0 to {len(dataset.labels)} as in dataset.json, found {found}")
    label = np.empty(mask.shape, np.uint8, order="F")
    for z in range(mask.shape[2]):  # slice by slice: no second volume in float64
        np.rint(mask.voxels[:, :, z] * mask.slope + mask.inter, out=label[:, :, z], casting="unsafe")
    return label


def oriented(case: Case, slicing: str) -> Case:
    """A case cut another way: a view, nothing is interpolated.

    Parameters
    ----------
    case : Case
    slicing : {"axial", "coronal", "sagittal"}
    """
    orientation = orientation_of(case.spacing, slicing)
    image, label = orientation.turn(case.image.T), orientation.turn(case.label.T)
    return replace(case, image=image, label=label, steps=geometry.canonical_steps(case.steps[:, ::-1], orientation))


def orientation_of(spacing: Sequence[float], slicing: str) -> volume.Orientation:
    """How a case (W, H, Z), its axes the other way round, is cut another way; ``spacing`` in mm along Z, H, W."""
    return volume.orient(axial_affine(spacing), SLICINGS[slicing])


def axial_affine(spacing: Sequence[float]) -> np.ndarray:
    """Voxel (W, H, Z) to world (right, anterior, superior) of a volume (Z, H, W) in the order `AXES`, without its origin: (4, 4)."""
    return np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])


def check(dataset: Dataset, channel: int = 0) -> Iterator[tuple[str, str, str]]:
    """Open every case and say what is wrong with it.

    Yields
    ------
    name, severity, message : str
        The severity is "error", "warning" or "ok".
    """
    for name in dataset.pairs:
        try:
            case = load(dataset, name, channel)
        except MonetError as error:
            yield name, "error", str(error)
            continue
        if case.statistics.constant:
            yield name, "error", "the scan holds one intensity only"
        elif case.statistics.nonfinite:
            yield name, "error", f"{case.statistics.nonfinite} voxels of the scan are NaN or infinite"
        elif not case.label.any():
            yield name, "warning", "no voxel is labelled"
        else:
            yield name, "ok", f"{case.image.shape} {case.image.dtype}"
