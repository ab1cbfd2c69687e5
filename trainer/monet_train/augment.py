"""Random changes to a batch of slices, drawn and applied on its device all at once. Depends on torch only.

Every step follows the same pattern: draw one number per slice, apply it with plain tensor operations, so that the whole
augmentation compiles into a few kernels. Intensities stay in [0, 1] and the background stays exactly 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Augmentation

Clips = Sequence[tuple[float, float]]


def augment(images: Tensor, labels: Tensor, depths: Tensor, rims: Tensor, settings: Augmentation, clips: Clips) -> tuple[Tensor, Tensor]:
    """Change a batch at random.

    Parameters
    ----------
    images : (N, C, H, W) float32 in [0, 1]
        Slices with their neighbours as channels, image after image of a case: each image's intensities change on their own, all move
        together.
    labels : (N, K, H, W) float32
        One-hot; the label of a moved pixel is what covers most of it.
    depths : (N, H, W) uint8
        How deep a pixel lies inside the head.
    rims : (N, M, DEPTHS, 2) float32
        Mean and SD of every image's foreground without a rim of every depth.
    settings : Augmentation
    clips : M times (float, float)
        What 0 and 1 of every image are in standard deviations, for the new z-score of a stripped head.

    Returns
    -------
    images, labels : as given, new tensors
    """
    if settings.drop_context:
        stacks = images.unflatten(1, (len(clips), -1))
        centre = stacks[:, :, stacks.shape[2] // 2, None].expand_as(stacks).flatten(1, 2)
        images = torch.where(_chance(images, settings.drop_context), centre, images)
    if settings.skull_strip:
        images, labels = _strip_skull(images, labels, depths, rims, settings, clips)
    images = _intensities(images.unflatten(1, (len(clips), -1)).flatten(0, 1), settings).reshape(images.shape)
    return _move(images, labels, settings)


def _uniform(like: Tensor, low: float, high: float) -> Tensor:
    return torch.rand(len(like), 1, 1, 1, device=like.device) * (high - low) + low


def _normal(like: Tensor, sd: float) -> Tensor:
    return torch.randn(len(like), 1, 1, 1, device=like.device) * sd


def _chance(like: Tensor, probability: float) -> Tensor:
    return torch.rand(len(like), 1, 1, 1, device=like.device) < probability


def standardise(images: Any, mean: Any, sd: Any, clip: tuple[float, float]) -> Any:
    """Take the z-score of normalised images anew and bring it back to [0, 1]; of tensors and NumPy arrays alike.

    Parameters
    ----------
    images : (N, ...) tensor or array
    mean, sd : tensor, array or float
        Of the foreground that is left; they broadcast.
    clip : (float, float)
        What 0 and 1 are in standard deviations.
    """
    return (((images - mean) / sd - clip[0]) / (clip[1] - clip[0])).clip(0, 1)


def _strip_skull(
    images: Tensor, labels: Tensor, depths: Tensor, rims: Tensor, settings: Augmentation, clips: Clips
) -> tuple[Tensor, Tensor]:
    low, high = settings.skull_strip_depth
    depth = torch.randint(low, high + 1, (len(images),), device=images.device)
    left = rims[torch.arange(len(images), device=images.device), :, depth][..., None, None, None]  # (N, M, 2, 1, 1, 1)
    stacks = images.split(images.shape[1] // len(clips), 1)
    anew = torch.cat([standardise(stack, left[:, k, 0], left[:, k, 1], clips[k]) for k, stack in enumerate(stacks)], 1)
    chosen, kept = _chance(images, settings.skull_strip), (depths >= depth[:, None, None])[:, None]
    images = torch.where(chosen, torch.where(kept & (images > 0), anew, 0.0), images)
    # what is cut away is background in the truth too, or the network would learn to see structures in nothing
    background = torch.zeros_like(labels)
    if labels.shape[1] > 1:
        background[:, 0] = 1
    return images, torch.where(chosen & ~kept, background, labels)


def _intensities(images: Tensor, settings: Augmentation) -> Tensor:
    inside = images > 0
    changed = images
    if settings.blur:
        changed = torch.where(_chance(images, settings.blur), F.avg_pool2d(changed, 3, 1, 1, count_include_pad=False), changed)
    if settings.bias_field:
        coarse = torch.randn(len(images), 1, 4, 4, device=images.device) * settings.bias_field
        changed = changed * F.interpolate(coarse, images.shape[2:], mode="bicubic", align_corners=False).exp()
    if settings.contrast:
        mean = (changed * inside).sum((1, 2, 3), keepdim=True) / inside.sum((1, 2, 3), keepdim=True).clamp_min(1)
        changed = (changed - mean) * _normal(images, settings.contrast).exp() + mean * _normal(images, settings.contrast).exp()
    if settings.gamma:
        changed = changed.clamp(1e-4, 1) ** _normal(images, settings.gamma).exp()
    if settings.intensity_curve:
        changed = changed + _uniform(images, 0, settings.intensity_curve) * (_intensity_curve(changed.clamp(0, 1)) - changed)
    if settings.noise:
        changed = changed + _uniform(images, 0, settings.noise) * torch.randn_like(images)
    return torch.where(inside, changed.clamp(0, 1), 0.0) if changed is not images else images


def _intensity_curve(x: Tensor) -> Tensor:
    """A random monotonic curve through (0, 0) and (1, 1), one per slice: five straight pieces with slopes of random size."""
    slopes = torch.rand(len(x), 5, 1, 1, 1, device=x.device) + 0.1
    slopes = slopes / slopes.sum(1, keepdim=True)
    return sum((slopes[:, piece] * (x * 5 - piece).clamp(0, 1) for piece in range(5)), torch.zeros_like(x))


def _move(images: Tensor, labels: Tensor, settings: Augmentation) -> tuple[Tensor, Tensor]:
    """Rotate, zoom, shift and flip; what comes from outside the image is background."""
    if not (settings.rotate or settings.zoom or settings.shift or settings.flip):
        return images, labels
    count, device = len(images), images.device
    angle, zoom = (torch.rand(2, count, device=device) * 2 - 1) * torch.tensor(
        [[math.radians(settings.rotate)], [settings.zoom]], device=device
    )
    shift = (torch.rand(count, 2, device=device) * 4 - 2) * settings.shift  # the image is 2 wide
    mirror = torch.where(torch.rand(count, device=device) < settings.flip, -1.0, 1.0)
    cosine, sine = angle.cos() / (1 + zoom), angle.sin() / (1 + zoom)
    rows = torch.stack([torch.stack([cosine * mirror, -sine], 1), torch.stack([sine * mirror, cosine], 1)], 1)
    grid = F.affine_grid(torch.cat([rows, shift[:, :, None]], 2), [count, 1, *images.shape[2:]], align_corners=False)
    moved = F.grid_sample(torch.cat([images, labels], 1), grid, "bilinear", "zeros", align_corners=False)
    images, covers = moved.split([images.shape[1], labels.shape[1]], 1)
    if labels.shape[1] == 1:
        return images, (covers > 0.5).float()
    covers = torch.cat([1 - covers[:, 1:].sum(1, keepdim=True), covers[:, 1:]], 1)  # outside is background
    return images, F.one_hot(covers.argmax(1), covers.shape[1]).movedim(-1, 1).float()
