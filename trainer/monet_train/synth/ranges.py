"""How far the random goes that `draw` draws: every number of the generator in one record; no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ranges:
    """How far the random goes; a pair is the least and the most, a single number the most unless something else is said.

    Attributes
    ----------
    anywhere : float
        Probability of a slice from anywhere in the head instead of where brain is.
    hippocampus : float
        Probability of a slice from where the hippocampus is, when it is not from anywhere.
    young : float
        Half of the heads have fluid that is narrower by so much wherever it touches tissue, mm.
    horns, fissure : float
        How much narrower it is, mm, in the lower horns of the ventricles, and around a hippocampus.
    traced : float
        SD of the Gaussian that makes hippocampi and amygdalae as even as a hand traces them, mm; 0: as in the maps.
    rotate : float
        Degrees, about each of the three axes, either way.
    scale : (float, float)
        Along each axis.
    shear : float
        Off the diagonal, either way.
    shift : float
        mm in the plane, either way.
    bend : float
        SD of a smooth displacement of 10x10 control points, mm.
    mirror : float
        Probability of a left-right flip; sides are exchanged with it.
    contrast : float
        Probability of brightness near a real contrast instead of quite random.
    t1 : float
        Probability that a real contrast is T1 and no mixture.
    jitter : (float, float)
        SD of the brightness of tissues around a real contrast.
    alike, apart : float
        Probability that all grey matter looks nearly alike; and how much is left then of what tells one from another.
    texture : float
        SD of brightness within a tissue.
    shaded, shade : float
        Probability of tissues that are darker here and brighter there; and by how much, as the SD of a smooth field.
    myelinated, myelin : float
        Probability of deep structures that resemble white matter where they touch it; and how much they do, 1 as if they were it.
    reach : (float, float)
        How far that goes, as the SD of a Gaussian, mm.
    dark_air, noisy_air : float
        Probability of air of exactly 0, and of air as bright as anything (MP2RAGE).
    clusters : float
        SD between the clusters of an outer tissue.
    lesions : float
        Probability of lesions in the white matter.
    strip : float
        Probability that everything outside of the brain is 0.
    crop, crop_depth : float
        Probability that the scan ends early, and by how many mm on each side.
    native : float
        Probability of voxels of exactly 1 mm.
    slice_thickness, pixel : (float, float)
        Of other scans, mm: in the direction of their slices, and across it.
    blur : (float, float)
        SD of an additional blur in all directions, mm: a voxel of 1 mm, too, holds what lies on both sides of a border.
    bias : float
        SD of the logarithm of a bias field of 4x4 control points.
    gamma : float
        SD of the logarithm of an exponent.
    noise : float
        SD of white noise.
    """

    anywhere: float = 0.15
    hippocampus: float = 0.25
    young: float = 1.0
    horns: float = 3.0
    fissure: float = 2.0
    traced: float = 2.0
    rotate: float = 20.0
    scale: tuple[float, float] = (0.8, 1.25)
    shear: float = 0.1
    shift: float = 25.0
    bend: float = 4.0
    mirror: float = 0.5
    contrast: float = 0.5
    t1: float = 0.3
    jitter: tuple[float, float] = (0.02, 0.12)
    alike: float = 0.4
    apart: float = 0.15
    texture: float = 0.1
    shaded: float = 0.5
    shade: float = 0.08
    myelinated: float = 0.5
    myelin: float = 0.9
    reach: tuple[float, float] = (1.5, 4.0)
    dark_air: float = 0.5
    noisy_air: float = 0.05
    clusters: float = 0.15
    lesions: float = 0.3
    strip: float = 0.5
    crop: float = 0.2
    crop_depth: float = 45.0
    native: float = 0.35
    slice_thickness: tuple[float, float] = (1.0, 6.0)
    pixel: tuple[float, float] = (1.0, 1.8)
    blur: tuple[float, float] = (0.25, 0.8)
    bias: float = 0.4
    gamma: float = 0.3
    noise: float = 0.06
