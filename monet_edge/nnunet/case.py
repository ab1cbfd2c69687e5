"""The images of a case as nnU-Net sees them before its network: cropped to what is not empty, normalised, resampled; a slice at a time.

Slices are (Z, H, W) views of the scans as stored. An intensity is float32; NaN and infinities count as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..volume import Voxels
from .record import Channel
from .resample import Change

Box = tuple[slice, slice, slice]
_TINY = 1e-8  # the least that is divided by


def intensities(raw: Voxels) -> np.ndarray:
    """A slice in float32."""
    values = raw.scaled().astype(np.float32)
    return values if np.isfinite(values).all() else np.nan_to_num(values, copy=False, nan=0, posinf=0, neginf=0)


def seen(images: Sequence[Voxels], z: int) -> np.ndarray:
    """Where any image of a slice is not 0: (H, W) bool."""
    return np.logical_or.reduce([intensities(image[z]) != 0 for image in images])


def bounding_box(images: Sequence[Voxels]) -> Box:
    """The smallest box with all that is not 0 in any of the images (Z, H, W); the whole of them if all is."""
    shape = images[0].stored.shape
    found = [np.zeros(side, bool) for side in shape]
    for z in range(shape[0]):
        inside = seen(images, z)
        found[0][z] = inside.any()
        found[1] |= inside.any(axis=1)
        found[2] |= inside.any(axis=0)
    if not found[0].any():
        return tuple(slice(0, side) for side in shape)  # type: ignore[return-value]
    ends = [np.flatnonzero(each)[[0, -1]] for each in found]
    return tuple(slice(int(first), int(last) + 1) for first, last in ends)  # type: ignore[return-value]


def filled(images: Sequence[Voxels]) -> np.ndarray:
    """What is not 0 in any of the images (Z, H, W), and the holes in it that faces of voxels do not lead out of: (Z, H, W) bool.

    Emptiness spreads from the border along every axis, forwards and back, until nothing changes: a handful of rounds for a head.
    """
    inside = np.stack([seen(images, z) for z in range(len(images[0]))])
    outside = np.zeros_like(inside)
    for axis in range(3):
        for end in (0, -1):
            np.moveaxis(outside, axis, 0)[end] = ~np.moveaxis(inside, axis, 0)[end]
    before = -1
    while (reached := int(np.count_nonzero(outside))) != before:
        before = reached
        for axis in range(3):
            for way in (1, -1):
                spread, solid = (np.moveaxis(each, axis, 0)[::way] for each in (outside, inside))
                for i in range(1, len(spread)):
                    spread[i] |= spread[i - 1] & ~solid[i]
    return ~outside


@dataclass(frozen=True)
class Scale:
    """Intensities held to a range, and then by an offset and a divisor: every one of nnU-Net's schemes is that, in float32."""

    offset: float
    divisor: float
    low: float = -np.inf
    high: float = np.inf

    def __call__(self, values: np.ndarray) -> np.ndarray:
        held = np.clip(values, np.float32(self.low), np.float32(self.high)) if self.low > -np.inf else values
        return (held - np.float32(self.offset)) / np.float32(self.divisor)


def scale_of(channel: Channel, slices: Callable[[int], np.ndarray], count: int) -> Scale:
    """How a channel is normalised, by its slices where the scheme asks for that.

    Parameters
    ----------
    channel : Channel
    slices : callable
        ``slices(z)``: the intensities that count, of any shape.
    count : int
        Of slices.
    """
    if channel.scheme == "ct":
        return Scale(channel.mean, max(channel.sd, _TINY), channel.low, channel.high)
    if channel.scheme == "none":
        return Scale(0.0, 1.0)
    if channel.scheme == "rgb":
        return Scale(0.0, 255.0)
    if channel.scheme == "rescale":
        ends = [(values.min(), values.max()) for values in map(slices, range(count)) if values.size]
        low, high = (np.float32(f(each)) for f, each in zip((min, max), zip(*ends, strict=True), strict=True))
        return Scale(float(low), max(float(high - low), _TINY))
    mean, sd = _moments(slices, count)
    return Scale(mean, max(sd, _TINY))


def _moments(slices: Callable[[int], np.ndarray], count: int) -> tuple[float, float]:
    """Mean and standard deviation over all slices, in float64: nnU-Net's own are sums in float32, within 5e-7 of these."""
    size, mean, squares = 0, 0.0, 0.0
    for z in range(count):
        values = slices(z).astype(np.float64)
        if not values.size:
            continue
        away = float(values.mean()) - mean
        total = size + values.size
        squares += float(np.square(values - values.mean()).sum()) + away * away * size * values.size / total
        mean += away * values.size / total
        size = total
    return mean, float(np.sqrt(squares / max(size, 1)))


class Images:
    """The images of a case, slice by slice: ``images(z)`` is (C, H, W) float32 on the network's grid.

    Parameters
    ----------
    channels : sequence of Channel
    images : sequence of Voxels
        (Z, H, W), cropped; one for each channel.
    change : Change
        From their grid to the network's.
    """

    def __init__(self, channels: Sequence[Channel], images: Sequence[Voxels], change: Change) -> None:
        self._images, self._change = images, change
        masked = [channel.masked for channel in channels]
        self._inside = filled(images) if any(masked) else None
        self._masked = masked
        self._scales = [scale_of(channel, self._counting(c), len(images[c])) for c, channel in enumerate(channels)]
        self._range = self._extremes() if change.clips and change.axis != 0 else None

    def _counting(self, c: int) -> Callable[[int], np.ndarray]:
        def slices(z: int) -> np.ndarray:
            values = intensities(self._images[c][z])
            return values[self._inside[z]] if self._masked[c] and self._inside is not None else values

        return slices

    def _normalised(self, z: int) -> np.ndarray:
        """(C, H, W) on the images' own grid."""
        values = np.stack([intensities(image[z]) for image in self._images])
        for c, scale in enumerate(self._scales):
            if self._masked[c] and self._inside is not None:
                np.copyto(values[c], scale(values[c]), where=self._inside[z])
            else:
                values[c] = scale(values[c])
        return values

    def _extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """What splines of a whole volume are held to: least and greatest value of every channel, (C, 1, 1).

        Where rows, or columns, are resampled on their own, every one of them is a volume for that.
        """
        axes = tuple(axis for axis in (1, 2) if axis != self._change.axis)
        each = [(values.min(axes, keepdims=True), values.max(axes, keepdims=True)) for values in map(self._normalised, range(len(self)))]
        low, high = zip(*each, strict=True)
        return np.minimum.reduce(low), np.maximum.reduce(high)

    def __len__(self) -> int:
        return len(self._images[0])

    def __call__(self, z: int) -> np.ndarray:
        values = self._normalised(z)
        if not self._change.clips:
            return self._change(values)
        low, high = self._range or (values.min((1, 2), keepdims=True), values.max((1, 2), keepdims=True))
        return self._change(values, low, high)
