"""A synthetic FLAIR-like head with a lesion whose extent is known: for `monet-edge demo`, the tests and the tutorial.

The scalp is as bright as the lesion and a bias field shades the brain, so no single intensity threshold finds the lesion.
Everything is drawn in canonical order (Z, H, W) = (superior, posterior, left), see `preprocess.SLICINGS`.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np

from .errors import OutputError
from .files import atomic_write
from .preprocess import resize

SHAPE = (24, 256, 256)
SPACING = (5.0, 0.9, 0.9)  # mm along Z, H, W: as clinical FLAIR is taken
MOST_CASES = 100  # that `monet-edge phantom` makes; seeds count in steps of so many, so that no patient is in two data sets


def make(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Draw a head and the mask of its lesion.

    Parameters
    ----------
    seed : int
        Another seed is another patient.
    shape : (Z, H, W)

    Returns
    -------
    volume : (Z, H, W) int16
        Intensities of 0 to about 1200, arbitrary units as in MRI.
    mask : (Z, H, W) uint8
        1 in the lesion.
    """
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    squeeze = np.sqrt(1 - 0.55 * np.square(np.clip(z, -0.6, 1)))  # the head narrows towards the vertex
    wobble = 1 + 0.03 * _smooth(rng, shape, 4)
    head = np.hypot(x / 0.68, y / 0.86) / squeeze * wobble

    folds = _smooth(rng, shape, 34)
    cortex = head > 0.74 + 0.06 * _smooth(rng, shape, 24)
    image = np.where(cortex, 0.38, 0.32) + 0.02 * _smooth(rng, shape, 16)
    image[(head > 0.70) & (np.abs(folds) < 0.10)] = 0.15  # sulci
    midline = (np.abs(x + 0.01 * folds) < 0.012) & (y < 0.35) & (head > 0.45)
    image[np.broadcast_to(midline, shape)] = 0.15
    for side in (-1, 1):  # ventricles: dark, FLAIR suppresses their fluid
        horn = np.hypot((x - side * (0.09 + 0.10 * np.square(y))) / 0.07, (y - 0.02) / 0.33) + np.abs(z) * 0.8 + 0.15 * folds
        image[horn < 1] = 0.08

    mask = _lesion(rng, (z, y, x), shape) & (head < 0.8)
    soft = _blur(mask.astype(np.float32))
    image += soft * (0.66 + 0.06 * _smooth(rng, shape, 12) - image)

    image[head > 0.86] = 0.12  # fluid around the brain
    image[head > 0.90] = 0.05  # skull
    scalp = (head > 0.96) & (head < 1.04)
    image[scalp] = (0.60 + 0.15 * _smooth(rng, shape, 8))[scalp]
    image[head >= 1.04] = 0
    image = _blur(image) * (1 + 0.10 * _smooth(rng, shape, 2))
    real, imaginary = rng.normal(0, 0.012, (2, *shape)).astype(np.float32)  # magnitude images: Rician noise
    volume = 1000 * np.hypot(image + real, imaginary)
    return np.rint(volume).astype(np.int16), mask.astype(np.uint8)


def to_image(volume: np.ndarray) -> nibabel.Nifti1Image:
    """A NIfTI image of a canonical volume (Z, H, W), spacing `SPACING`, in axial order."""
    affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
    affine[:3, 3] = [SPACING[2] * volume.shape[2] / 2, SPACING[1] * volume.shape[1] / 2, -SPACING[0] * volume.shape[0] / 2]
    image = nibabel.Nifti1Image(volume.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    return image


def save(volume: np.ndarray, path: Path, *, overwrite: bool = False) -> None:
    """Write a canonical volume (Z, H, W) as .nii.gz, whole or not at all."""
    with atomic_write(path, overwrite=overwrite) as file:
        file.write(gzip.compress(to_image(volume).to_bytes(), 1, mtime=0))


def write_dataset(folder: Path, cases: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> None:
    """Write so many heads with their lesions as a training data set: dataset.json, imagesTr, labelsTr.

    Raises
    ------
    OutputError
        If the folder holds a data set already, or any part of one.
    """
    try:
        if any((folder / part).exists() for part in ("dataset.json", "imagesTr", "labelsTr")):
            raise FileExistsError
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)
        for case in range(cases):
            volume, mask = make(MOST_CASES * seed + case, shape)
            save(volume, folder / "imagesTr" / f"phantom_{case:02d}.nii.gz")
            save(mask, folder / "labelsTr" / f"phantom_{case:02d}.nii.gz")
        labels = {"background": 0, "lesion": 1}
        about = {"name": "phantom", "licence": "CC0", "labels": labels, "numTraining": cases, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(about, indent=2) + "\n", "utf-8")
    except FileExistsError:
        raise OutputError(f"{folder}: this folder holds a data set already. Choose another.") from None
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _lesion(rng: np.random.Generator, grid: tuple[np.ndarray, ...], shape: tuple[int, int, int]) -> np.ndarray:
    z, y, x = grid
    side = rng.choice([-1, 1])
    centre = np.array([rng.uniform(-0.3, 0.3), rng.uniform(-0.4, 0.4), side * rng.uniform(0.22, 0.36)])
    radius = rng.uniform(0.75, 1.25) * np.array([0.40, 0.24, 0.20])
    distance = np.sqrt(sum(np.square((axis - c) / r) for axis, c, r in zip((z, y, x), centre, radius, strict=True)))
    return distance + 0.28 * _smooth(rng, shape, 7) < 1


def _smooth(rng: np.random.Generator, shape: tuple[int, int, int], cells: int) -> np.ndarray:
    """Noise of SD about 1 that varies over ``1 / cells`` of the image."""
    grid = rng.normal(0, 1.4, (max(2, cells // 4), cells, cells)).astype(np.float32)
    planes = resize(grid, *shape[1:])
    return np.ascontiguousarray(np.moveaxis(resize(np.moveaxis(planes, 0, -1), shape[2], shape[0]), -1, 0))


def _blur(image: np.ndarray) -> np.ndarray:
    """Smooth within slices over three pixels: the partial volume of a real scan."""
    for axis in (1, 2):
        before, after = np.roll(image, 1, axis), np.roll(image, -1, axis)
        image = (before + 2 * image + after) / 4
    return image
