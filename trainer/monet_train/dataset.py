"""Labelled scans in the layouts of the Medical Segmentation Decathlon and of nnU-Net, read as they are.

Both have `dataset.json`, `imagesTr` and `labelsTr`. The decathlon lists its cases, names labels by number ("1": "tumour")
and keeps several channels in one 4-D file; nnU-Net lists nothing, names numbers ("tumour": 1) and has one file a channel,
`<case>_0000.nii.gz`. Mixtures of the two exist and are read too.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from monet_edge import volume
from monet_edge.errors import DatasetError, MonetError
from monet_edge.preprocess import SLICINGS, Statistics, check_labels, measure
from monet_edge.volume import geometry

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
    spacing_known : bool
        False where dataset.json says ``"spacing": "unknown"``: distances are then in pixels.
    pairs : dict of str to (Path, Path)
        Scan and labels of every case, by name, sorted.
    """

    folder: Path
    name: str
    modality: str
    licence: str
    reference: str
    labels: tuple[str, ...]
    spacing_known: bool
    pairs: dict[str, tuple[Path, Path]]


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
    try:
        data = json.loads((folder / "dataset.json").read_text("utf-8"))
    except OSError as error:
        raise DatasetError(
            f"{folder}: no readable dataset.json ({error.strerror}); expected a data set with imagesTr and labelsTr"
        ) from None
    except ValueError as error:
        raise DatasetError(f"{folder / 'dataset.json'}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise DatasetError(f"{folder / 'dataset.json'}: expected a JSON object")
    ending = str(data.get("file_ending", ".nii.gz"))
    labels = {_stem(path, ending): path for path in (folder / "labelsTr").glob(f"*{ending}") if not path.name.startswith(".")}
    images = {_stem(path, ending): path for path in (folder / "imagesTr").glob(f"*{ending}") if not path.name.startswith(".")}
    names = _listed(folder, data.get("training"), ending) or _case_names(images)
    pairs, problems = {}, []
    for name in sorted(names):
        image = images.get(f"{name}_{channel:04d}") or images.get(name)
        if image is None:
            problems.append(f"{name} has no scan in imagesTr")
        elif name not in labels:
            problems.append(f"{name} has no labels in labelsTr")
        else:
            pairs[name] = (image, labels[name])
    problems += [f"labels of {name} belong to no scan" for name in sorted(labels.keys() - names)]
    if problems or not pairs:
        raise DatasetError(f"{folder}: {'; '.join(problems[:5]) or 'no cases found in imagesTr'}{' ...' if len(problems) > 5 else ''}")
    licence = data.get("licence", data.get("license", ""))
    return Dataset(
        folder,
        str(data.get("name", folder.name)),
        _modality(data.get("channel_names", data.get("modality")), channel),
        str(licence),
        str(data.get("reference", "")),
        _labels(folder, data.get("labels")),
        data.get("spacing") != "unknown",
        pairs,
    )


def _modality(names: Any, channel: int) -> str:
    return str(names.get(str(channel), "")) if isinstance(names, dict) else ""


def _listed(folder: Path, training: Any, ending: str) -> set[str]:
    """Names of the cases that the decathlon's dialect lists; nnU-Net's lists none, or only how many there are."""
    try:
        return {_stem(Path(item["image"]), ending) for item in training if isinstance(item, dict)} if isinstance(training, list) else set()
    except (KeyError, TypeError):
        raise DatasetError(f'{folder / "dataset.json"}: training must list every case as {{"image": FILE, "label": FILE}}') from None


def _case_names(images: dict[str, Path]) -> set[str]:
    """Names without nnU-Net's channel number; where no file has one, as they are."""
    numbered = {name[:-5] for name in images if re.search(r"_\d{4}$", name)}
    return numbered if numbered and all(re.search(r"_\d{4}$", name) for name in images) else set(images)


def _stem(path: Path, ending: str) -> str:
    return path.name.removesuffix(ending)


def _labels(folder: Path, labels: Any) -> tuple[str, ...]:
    """Names of labels 1, 2, ... from either dialect."""
    try:
        if all(key.isdigit() for key in labels):
            named = {int(key): str(name) for key, name in labels.items()}
        else:
            named = {int(number): name for name, number in labels.items() if name != "ignore"}
    except (AttributeError, TypeError, ValueError):
        raise DatasetError(f"{folder / 'dataset.json'}: labels must map numbers to names or names to numbers, found {labels!r}") from None
    if len(named) < 2 or sorted(named) != list(range(len(named))):
        raise DatasetError(f"{folder / 'dataset.json'}: labels must be numbered 0 (background), 1, 2, ... without gaps, found {labels!r}")
    names = tuple(named[number] for number in range(1, len(named)))
    try:
        check_labels(names)  # what no weights file could hold is said before hours of training
    except MonetError as error:
        raise DatasetError(f"{folder / 'dataset.json'}: {error}") from None
    return names


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
    scan = volume.read(image_path, channel if volume.peek(image_path).volumes > 1 else None)
    mask = volume.read(label_path)
    if scan.shape != mask.shape:
        raise DatasetError(f"{name}: the scan has shape {scan.shape}, its labels {mask.shape}")
    # a thousandth of a voxel: exporters round affines
    if not np.allclose(scan.affine, mask.affine, atol=1e-3 * float(np.abs(scan.affine[:3, :3]).max())):
        raise DatasetError(f"{name}: scan and labels have different affines, so they may lie apart; resample or correct the labels")
    label, _ = volume.to_canonical(mask.voxels, mask.affine, AXES)
    values = np.unique(label)
    if mask.slope != 1 or mask.inter != 0 or not np.isin(values, range(len(dataset.labels) + 1)).all():
        raise DatasetError(f"{name}: labels must be 0 to {len(dataset.labels)} as in dataset.json, found {values[:8].tolist()}")
    image, orientation = volume.to_canonical(scan.voxels, scan.affine, AXES)
    steps = geometry.canonical_steps(scan.affine, orientation)
    return Case(name, image, label.astype(np.uint8), scan.slope, scan.inter, steps, measure(image, scan.slope, scan.inter))


def oriented(case: Case, slicing: str) -> Case:
    """A case cut another way: a view, nothing is interpolated.

    Parameters
    ----------
    case : Case
    slicing : {"axial", "coronal", "sagittal"}
    """
    turn = axial_affine(case.spacing), SLICINGS[slicing]
    image, orientation = volume.to_canonical(case.image.T, *turn)
    label, _ = volume.to_canonical(case.label.T, *turn)
    return replace(case, image=image, label=label, steps=geometry.canonical_steps(case.steps[:, ::-1], orientation))


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


def institution(name: str) -> str:
    """The hospital a case comes from: the letters after ``TCGA_``; other names say nothing."""
    found = re.match(r"TCGA_([A-Z]+)_", name)
    return found[1] if found else ""


def split(names: Sequence[str], seed: int = 0, folds: int = 0) -> list[dict[str, list[str]]]:
    """Split by patient, within each institution.

    Parameters
    ----------
    names : sequence of str
    seed : int
        Of the permutation; the project's own tables all use 0.
    folds : int
        0: one split, the first 70 % (rounded) of every institution train. Else so many cross-validation splits.

    Returns
    -------
    list of {"train": [...], "val": [...]}
        Sorted names; the layout of nnU-Net's splits file.
    """
    groups = defaultdict(list)
    for name in sorted(names):
        groups[institution(name)].append(name)
    rng = np.random.default_rng(seed)
    shuffled = {group: [str(name) for name in rng.permutation(groups[group])] for group in sorted(groups)}
    validation = []
    if folds == 0:
        validation.append([name for group in shuffled.values() for name in group[round(0.7 * len(group)) :]])
    for fold in range(folds):
        validation.append([name for group in shuffled.values() for name in group[fold::folds]])
    return [{"train": sorted(set(names) - set(held)), "val": sorted(held)} for held in validation]


def read_splits(path: Path) -> list[dict[str, list[str]]]:
    """Read a splits.json, of ours or of nnU-Net's.

    Raises
    ------
    DatasetError
        If it is none.
    """
    try:
        splits = [{"train": list(part["train"]), "val": list(part["val"])} for part in json.loads(path.read_text("utf-8"))]
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); expected a splits.json") from None
    except (ValueError, KeyError, TypeError):
        splits = []
    if not splits or not all(isinstance(name, str) for part in splits for names in part.values() for name in names):
        raise DatasetError(f'{path}: expected a list of splits, each {{"train": [names of cases], "val": [names of cases]}}')
    return splits
