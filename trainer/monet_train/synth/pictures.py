"""A page of generated slices: the image, and its labels in colours over it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from monet_edge.files import atomic_write

from .generator import Generator

TINT = 0.55  # share of a label's colour
SIDE = 160  # pixels of a picture on the page


def draw_page(generator: Generator, count: int, path: Path, seed: int = 0, columns: int = 8) -> None:
    """Write a picture of the first batch of a seed: rows of images, each above a row of the same with their labels."""
    images, labels = next(generator.batches([seed], 1, count))
    middle = images[:, images.shape[1] // 2].cpu().numpy()
    page = _page(_shrunk(middle), _shrunk(labels.cpu().numpy()), len(generator.record.labels), min(columns, count))
    with atomic_write(path, overwrite=True) as file:
        Image.fromarray(page).save(file, "PNG", optimize=True)


def _shrunk(images: np.ndarray) -> np.ndarray:
    """Brightness (float32) or labels (uint8), small enough for a page: the nearest pixel, so that both stay what they are."""
    places = np.linspace(0, images.shape[1] - 1, min(SIDE, images.shape[1])).round().astype(int)
    return images[:, places][:, :, places]


def _page(images: np.ndarray, labels: np.ndarray, classes: int, columns: int) -> np.ndarray:
    grey = np.repeat((255 * images[..., None]).round(), 3, axis=-1)
    tinted = np.where(labels[..., None] > 0, (1 - TINT) * grey + TINT * _colours(classes)[labels], grey)
    rows = []
    for start in range(0, len(images), columns):
        rows += [_row(part[start : start + columns], columns) for part in (grey, tinted)]
    return np.concatenate(rows).astype(np.uint8)


def _row(images: np.ndarray, columns: int) -> np.ndarray:
    missing = np.zeros((columns - len(images), *images.shape[1:]), images.dtype)
    return np.concatenate([*images, *missing], axis=1)


def _colours(classes: int) -> np.ndarray:
    # every hue once around the circle, neighbouring labels far apart on it
    stride = next(step for step in range(max(1, round(0.38 * classes)), 0, -1) if math.gcd(step, classes) == 1)
    hues = [256 * (label * stride % classes) // classes for label in range(classes + 1)]
    strip = np.array([[(hue, 220, 255) for hue in hues]], np.uint8)
    return np.asarray(Image.fromarray(strip, "HSV").convert("RGB"))[0].astype(np.float32)
