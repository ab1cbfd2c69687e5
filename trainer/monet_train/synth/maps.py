"""Label maps of whole heads: read once, packed into one small file, kept on a device as a byte a voxel."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from monet_edge import formats, volume
from monet_edge.errors import DatasetError
from monet_edge.files import atomic_write
from monet_edge.preprocess import SLICINGS

from .labels import BRAIN_OF_ID, DEPTHS, HIPPOCAMPUS, NUMBERS, RINGS, SIDES, STRUCTURES, is_brain, label_names, label_table

VERSION = 1
SPACING = 1.0  # mm
LOPSIDED = 2.5  # of 20 heads one has a hippocampus 3.4 times as large as the other, which is cut off; no other pair differs by 1.9
REACH = int(RINGS[-1]) + 1  # voxels


@dataclass(frozen=True)
class LabelMaps:
    """Heads in one canonical order (Z, H, W), each in the middle of a box that holds all of them.

    Attributes
    ----------
    ids : (M, Z, H, W) uint8 tensor
        See `labels.NUMBERS`; 0 is background.
    starts, ends : (M, 3) int64 tensor
        Where in the box a head's own map begins and ends.
    brains, hippocampi : (M, 2) int64 tensor
        The first plane with brain, or with hippocampus, in it, and the one after the last.
    names : tuple of str
    data, licence, key : str
        The folder's name, what its LICENSE calls itself, and a hash of all files: which data a network has seen.
    """

    ids: Tensor
    starts: Tensor
    ends: Tensor
    brains: Tensor
    hippocampi: Tensor
    names: tuple[str, ...]
    data: str
    licence: str
    key: str

    def to(self, device: torch.device) -> LabelMaps:
        """The same on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def choose(self, names: Sequence[str]) -> LabelMaps:
        """Only these heads.

        Raises
        ------
        DatasetError
            If there is no such head.
        """
        unknown = set(names) - set(self.names)
        if unknown:
            raise DatasetError(f"there is no label map {min(unknown)} among the {len(self.names)}")
        index = torch.tensor([self.names.index(name) for name in names], device=self.ids.device)
        return replace(self._each(lambda tensor: tensor[index]), names=tuple(names))

    def sizes(self, sides: bool) -> dict[str, list[float]]:
        """How large every label is, ml: the least and the most among the heads, as `monet_edge.anatomy` wants it."""
        table, names = torch.from_numpy(label_table(sides)[0]), label_names(sides)
        found = torch.stack([torch.bincount(table[head.cpu().int()].ravel(), minlength=len(names) + 1)[1:] for head in self.ids])
        ml = (found.double() * SPACING**3 / 1000).round(decimals=3)
        return {name: [least, most] for name, least, most in zip(names, ml.amin(0).tolist(), ml.amax(0).tolist(), strict=True)}

    def lopsided(self) -> dict[str, str]:
        """Heads of which a structure is labelled on one side only, or nearly so, and which one: such a map is wrong, not a head.

        Lateral ventricles may differ: in one of the 20 maps by 2.2, and it is no fault.
        """
        found = {}
        for name in self.names:
            ml = {label: most for label, (_, most) in self.choose([name]).sizes(True).items()}
            for structure in STRUCTURES:
                sides = [ml[side + structure] for side in SIDES if side + structure in ml]
                if structure != "lateral ventricle" and sides and max(sides) > LOPSIDED * min(sides):
                    found[name] = structure
        return found

    def _each(self, change: Callable[[Tensor], Tensor]) -> LabelMaps:
        ids, starts, ends = change(self.ids), change(self.starts), change(self.ends)
        return replace(self, ids=ids, starts=starts, ends=ends, brains=change(self.brains), hippocampi=change(self.hippocampi))


def read_folder(folder: Path, progress: Callable[[int, int], None] = lambda done, count: None) -> LabelMaps:
    """Read all label maps (.nii, .nii.gz) of a folder, cut coronally.

    Parameters
    ----------
    folder : Path
    progress : callable
        Called with how many maps are read, and how many there are.

    Raises
    ------
    ScanError
        If a file cannot be read.
    DatasetError
        If there are fewer than two, or one has voxels that are not 1 mm wide, or labels that are not in the table.
    """
    paths = sorted(path for path in folder.glob("*.nii*") if path.name[0] != "." and path.name.endswith((".nii", ".nii.gz")))
    if len(paths) < 2:
        raise DatasetError(f"{folder}: expected at least two label maps (.nii.gz), one to train on and one to validate; found {len(paths)}")
    maps, digest = [], hashlib.sha256()
    for done, path in enumerate(paths, start=1):
        maps.append(_read(path))
        digest.update(path.read_bytes())
        progress(done, len(paths))
    licence = next((_title(path) for path in sorted(folder.glob("LICENSE*"))), "")
    names = tuple(path.name.split(".")[0] for path in paths)
    return boxed(maps, names, folder.resolve().name, licence, digest.hexdigest())


def _read(path: Path) -> np.ndarray:
    scan = formats.read(path)
    if not np.allclose(scan.spacing, SPACING, atol=0.05):
        found = " x ".join(f"{side:.3g}" for side in scan.spacing)
        raise DatasetError(f"{path}: expected a label map with voxels of 1 mm, found {found} mm; resample it (nearest neighbour)")
    numbers = volume.to_canonical(scan.voxels, scan.affine, SLICINGS["coronal"])
    unknown = np.setdiff1d(numbers, NUMBERS)
    if len(unknown) or scan.slope != 1 or scan.inter != 0:
        raise DatasetError(f"{path}: labels {unknown[:8].tolist()} are none of FreeSurfer's that are known here; is it a label map?")
    return encode(numbers)


def encode(numbers: np.ndarray) -> np.ndarray:
    """FreeSurfer numbers to ids: uint8 of the same shape, which hold also how far from the brain a voxel lies."""
    brain = is_brain(numbers)
    rings = np.zeros(numbers.shape, np.uint8)
    for found in ndimage.find_objects(brain.astype(np.uint8)):  # one box, or none; beyond its reach nothing is near the brain
        box = tuple(slice(max(0, axis.start - REACH), axis.stop + REACH) for axis in found)
        distance = ndimage.distance_transform_edt(~brain[box])
        rings[box] = np.where(brain[box] | (distance > RINGS[-1]), 0, 1 + np.searchsorted(RINGS, distance))
    return (np.searchsorted(NUMBERS, numbers) * DEPTHS + rings).astype(np.uint8)


def boxed(maps: Sequence[np.ndarray], names: tuple[str, ...], data: str, licence: str, key: str) -> LabelMaps:
    """Ids (Z, H, W) of several heads in one box; the other arguments as `LabelMaps` has them."""
    shapes = np.array([one.shape for one in maps])
    box = shapes.max(axis=0)
    starts = (box - shapes) // 2
    ids = np.zeros((len(maps), *box), np.uint8)
    for target, one, (z, y, x) in zip(ids, maps, starts, strict=True):
        target[z : z + one.shape[0], y : y + one.shape[1], x : x + one.shape[2]] = one
    spans = [
        np.array([_span(of_id[one].any(axis=(1, 2)), len(one)) for one in maps]) + starts[:, :1] for of_id in (BRAIN_OF_ID, HIPPOCAMPUS)
    ]
    tensors = [torch.from_numpy(array) for array in (ids, starts, starts + shapes, *spans)]
    return LabelMaps(tensors[0], tensors[1], tensors[2], tensors[3], tensors[4], names, data, licence, key)


def _span(holds: np.ndarray, count: int) -> tuple[int, int]:
    """The first plane of those that hold something, and the one after the last; all of them where none does."""
    found = np.flatnonzero(holds)
    return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, count)


def _title(path: Path) -> str:
    """What a licence calls itself: "Apache-2.0" for that one, else the text's first line."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if "Apache License" in text and "Version 2.0" in text:
        return "Apache-2.0"
    return next((line.strip()[:100] for line in text.splitlines() if line.strip()), "")


def pack(maps: LabelMaps, path: Path) -> None:
    """Write label maps as one compressed file."""
    about = {"version": VERSION, "names": maps.names, "data": maps.data, "licence": maps.licence, "key": maps.key}
    with atomic_write(path, overwrite=True) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("maps.json", json.dumps(about))
        for i, name in enumerate(maps.names):
            (z, y, x), (a, b, c) = maps.starts[i].tolist(), maps.ends[i].tolist()
            buffer = io.BytesIO()
            np.save(buffer, maps.ids[i, z:a, y:b, x:c].cpu().numpy())
            archive.writestr(f"{name}.npy", buffer.getvalue())


def open_packed(path: Path) -> LabelMaps:
    """Read what `pack` wrote.

    Raises
    ------
    DatasetError
        If it is not such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(archive.read("maps.json"))
            if about["version"] != VERSION:
                raise ValueError(f"version {about['version']}, expected {VERSION}")
            maps = [np.load(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False) for name in about["names"]]
            return boxed(maps, tuple(about["names"]), about["data"], about["licence"], about["key"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: not intact label maps as monet-train synth --pack writes them ({error})") from None


def open_maps(path: Path, progress: Callable[[int, int], None] = lambda done, count: None) -> LabelMaps:
    """Label maps of a folder, or of a packed file; errors as `read_folder` and `open_packed`."""
    return read_folder(path, progress) if path.is_dir() else open_packed(path)
