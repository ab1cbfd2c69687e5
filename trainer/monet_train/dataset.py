"""Labelled scans in the layouts of the Medical Segmentation Decathlon and of nnU-Net, read as they are.

Both have `dataset.json`, `imagesTr` and `labelsTr`. The decathlon lists its cases, names labels by number ("1": "tumour")
and keeps several channels in one 4-D file; nnU-Net lists nothing, names numbers ("tumour": 1) and has one file a channel,
`<case>_0000.nii.gz`. Mixtures of the two exist and are read too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from monet_edge import formats, volume
from monet_edge.errors import DatasetError, MonetError
from monet_edge.formats.beside import UNKNOWN
from monet_edge.intensities import Statistics, measure
from monet_edge.preprocess import SLICINGS
from monet_edge.volume import geometry

from .dataset_json import IGNORE, read_json, read_labels, read_pairs

ROUNDING = 1e-3  # a label's distance from a whole number, once scaled: float32 slopes of 1/255 are off by less
AXES = SLICINGS["axial"]  # the order in which cases are kept; `oriented` turns it for other slicings


@dataclass(frozen=True)
class Dataset:
    """A folder of labelled scans.

    Attributes
    ----------
    folder : Path
    name, licence, reference : str
        From dataset.json.
    channels : tuple of int
        Which volumes of a scan with several are a case's images, in their order.
    modalities : tuple of str
        What dataset.json calls each of them; empty where it does not say.
    labels : tuple of str
        Names of the labels 1, 2, ...
    ignore : int or None
        The number that says that nobody labelled a voxel.
    spacing_known : bool
        False where dataset.json says ``"spacing": "unknown"`` and nobody states one: distances are then in pixels.
    stated : tuple of float or None
        What a voxel measures in mm along X, Y, Z as stored, in place of what the files say.
    pairs : dict of str to (Path, Path)
        Scan and labels of every case, by name, sorted.
    separate : dict of str to tuple of Path
        Cases whose channels are a file each: ``pairs`` has that of the first of ``channels``, this those of the others.
    validation : tuple of str
        Cases that dataset.json lists to validate on.
    warnings : tuple of str
        What is in the folder and not read.
    """

    folder: Path
    name: str
    channels: tuple[int, ...]
    modalities: tuple[str, ...]
    licence: str
    reference: str
    labels: tuple[str, ...]
    ignore: int | None
    spacing_known: bool
    stated: tuple[float, ...] | None
    pairs: dict[str, tuple[Path, Path]]
    separate: dict[str, tuple[Path, ...]]
    validation: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def modality(self) -> str:
        """Of all its images, in words."""
        return ", ".join(filter(None, self.modalities))

    def volumes(self, name: str) -> list[tuple[Path, int | None]]:
        """The file of every image of a case, and which volume of it; None where the file holds one only.

        Raises
        ------
        DatasetError
            If there is no such volume.
        """
        files = (self.pairs[name][0], *self.separate.get(name, ()))
        files = files if len(files) > 1 else files * len(self.channels)
        return [(file, self._volume(name, file, channel)) for file, channel in zip(files, self.channels, strict=True)]

    def _volume(self, name: str, file: Path, channel: int) -> int | None:
        volumes = formats.peek(file).volumes
        if name in self.separate and channel and volumes > 1:
            raise DatasetError(f"{name}: expected one volume in every file, found {volumes} in {file.name}")
        if name in self.separate or (volumes == 1 and channel == 0):
            return 0
        if channel >= volumes:
            raise DatasetError(f"{name}: the scan has no volume {channel}; it has {volumes}, counted from 0")
        return channel


@dataclass(frozen=True)
class Case:
    """One labelled scan in canonical axial order.

    Attributes
    ----------
    name : str
    images : tuple of Voxels
        (Z, H, W) each, in the scans' own dtypes.
    label : (Z, H, W) uint8
    steps : (3, 3) float64
        A column each for Z, H, W: the way in mm that one voxel along that axis takes, see `monet_edge.volume.geometry`.
    statistics : tuple of Statistics
        Of every image's whole volume.
    """

    name: str
    images: tuple[volume.Voxels, ...]
    label: np.ndarray
    steps: np.ndarray
    statistics: tuple[Statistics, ...]

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size in mm along Z, H, W."""
        return geometry.spacing(self.steps)


def read(folder: Path, channels: Sequence[int] = (0,), spacing: tuple[float, ...] | None = None) -> Dataset:
    """Read `dataset.json` and find the cases; no scan is opened.

    Parameters
    ----------
    folder : Path
    channels : sequence of int
        Which volumes of a scan with several are a case's images: of a 4-D file, or of nnU-Net's files.
    spacing : (float, float, float), optional
        What a voxel measures in mm along X, Y, Z as stored, in place of what the files say.

    Raises
    ------
    DatasetError
        If the folder is not such a data set, or a file of a case is missing.
    """
    data = read_json(folder)
    pairs, warnings = read_pairs(folder, data, channels)
    labels, ignore = read_labels(folder, data.get("labels"))
    names = _channel_names(data)
    return Dataset(
        folder,
        str(data.get("name", folder.name)),
        tuple(channels),
        tuple(names.get(str(channel), "") for channel in channels),
        str(data.get("licence", data.get("license", ""))),
        str(data.get("reference", "")),
        labels,
        ignore,
        spacing is not None or data.get("spacing") != UNKNOWN,
        spacing,
        {pair.name: (pair.image, pair.label) for pair in pairs},
        {pair.name: pair.others for pair in pairs if pair.separate},
        tuple(pair.name for pair in pairs if pair.validation),
        tuple(warnings),
    )


def all_channels(folder: Path) -> tuple[int, ...]:
    """The numbers of all volumes of a scan that a data set's dataset.json names.

    Raises
    ------
    DatasetError
        If there is no dataset.json, or it names none.
    """
    names = _channel_names(read_json(folder))
    if not names or {*names} != {*map(str, range(len(names)))}:
        raise DatasetError(
            f"{folder}: its dataset.json does not number the volumes of a scan from 0 in channel_names or modality: name them"
        )
    return tuple(range(len(names)))


def _channel_names(data: Mapping[str, Any]) -> dict[str, str]:
    names = data.get("channel_names", data.get("modality"))
    return {number: str(name) for number, name in names.items()} if isinstance(names, dict) else {}


def image_names(data: Any) -> tuple[str, ...]:
    """What the images of a case are called in a `Dataset`, or in what was prepared of one; the only one need not be called anything."""
    if len(data.channels) == 1:
        return ("",)
    return tuple(name or f"volume {channel}" for channel, name in zip(data.channels, data.modalities, strict=True))


def load(dataset: Dataset, name: str) -> Case:
    """Read and check one case.

    Raises
    ------
    ScanError
        If a file cannot be read.
    DatasetError
        If there is no such case, or its scans and labels do not belong together.
    """
    if name not in dataset.pairs:
        raise DatasetError(f"{dataset.folder}: there is no case {name} among its {len(dataset.pairs)}; is it another data set?")
    scans = [formats.read(file, number) for file, number in dataset.volumes(name)]
    mask = formats.read(dataset.pairs[name][1])
    first, *others = scans
    for other, channel in zip(others, dataset.channels[1:], strict=True):
        _check_place(name, first, other, f"its volume {channel}", f"volumes {dataset.channels[0]} and {channel}", "register them first")
    _check_place(name, first, mask, "its labels", "scan and labels", "resample or correct the labels")
    label = volume.to_canonical(_numbers(dataset, name, mask), mask.affine, AXES)
    images = tuple(scan.canonical(AXES) for scan in scans)
    orientation = volume.orient(first.affine, AXES)
    steps = geometry.canonical_steps(first.affine, orientation)
    if dataset.stated is not None:
        steps = steps / geometry.spacing(steps) * [dataset.stated[axis] for axis in orientation.axes]
    return Case(name, images, label, steps, tuple(map(measure, images)))


def _check_place(name: str, scan: volume.Scan, other: volume.Scan, what: str, both: str, advice: str) -> None:
    """Refuse what does not lie where a scan does."""
    if scan.shape != other.shape:
        raise DatasetError(f"{name}: the scan has shape {scan.shape}, {what} {other.shape}")
    voxels = geometry.displacement(scan.affine, other.affine, scan.shape)
    if not voxels <= geometry.APART:
        raise DatasetError(
            f"{name}: {both} have different affines: a corner of the volume lies {voxels:.3g} voxels away"
            f" (at most {geometry.APART} are taken for rounding); {advice}"
        )


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
    images = tuple(volume.Voxels(orientation.turn(image.stored.T), image.slope, image.inter) for image in case.images)
    return replace(
        case, images=images, label=orientation.turn(case.label.T), steps=geometry.canonical_steps(case.steps[:, ::-1], orientation)
    )


def orientation_of(spacing: Sequence[float], slicing: str) -> volume.Orientation:
    """How a case (W, H, Z), its axes the other way round, is cut another way; ``spacing`` in mm along Z, H, W."""
    return volume.orient(axial_affine(spacing), SLICINGS[slicing])


def axial_affine(spacing: Sequence[float]) -> np.ndarray:
    """Voxel (W, H, Z) to world (right, anterior, superior) of a volume (Z, H, W) in the order `AXES`, without its origin: (4, 4)."""
    return np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])


def check(dataset: Dataset) -> Iterator[tuple[str, str, str]]:
    """Open every case and say what is wrong with it, and at last which labels no case has.

    Yields
    ------
    name, severity, message : str
        The severity is "error", "warning" or "ok"; the name is a case's, or the data set's.
    """
    unseen = dict(enumerate(dataset.labels, 1))
    for name in dataset.pairs:
        try:
            case = load(dataset, name)
        except MonetError as error:
            yield name, "error", str(error).removeprefix(f"{name}: ")
            continue
        unseen = {label: words for label, words in unseen.items() if not (case.label == label).any()}
        nonfinite = sum(found.nonfinite for found in case.statistics)
        if any(found.constant for found in case.statistics):
            yield name, "error", "the scan holds one intensity only"
        elif nonfinite:
            yield name, "error", f"{nonfinite} voxels of the scan are NaN or infinite"
        elif not case.label.any():
            yield name, "warning", "no voxel is labelled"
        else:
            yield name, "ok", f"{case.label.shape} {', '.join(str(image.stored.dtype) for image in case.images)}"
    if unseen:
        yield dataset.name, "warning", f"no case has {', '.join(unseen.values())}"
