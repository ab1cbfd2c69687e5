"""Which FreeSurfer number is which structure and which tissue: one table, from which everything else follows. NumPy only.

The contrasts are rough orders of brightness, 0 to 1, as a radiologist knows them, and no measurements: images are drawn around
them, widely, half of the time, and quite at random else (see `draw`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CSF = "cerebrospinal fluid"
# In the order of the data set brain-t1, so that its labels are these models' first ones.
STRUCTURES = (
    *("white matter", "cortex", "lateral ventricle", "cerebellum", "thalamus", "caudate", "putamen", "pallidum", "brainstem"),
    *("hippocampus", "amygdala", "ventral diencephalon", "accumbens", CSF),
)
SIDES = ("left ", "right ")
CONTRASTS = ("T1", "T2", "FLAIR", "PD")
RINGS = (1.5, 3.0, 6.0)  # mm from the brain: how much a skull stripping may leave around it
DEPTHS = len(RINGS) + 1
EXTRACEREBRAL = 500  # numbers above are of the outer head


@dataclass(frozen=True)
class Tissue:
    """What looks alike: one FreeSurfer number, or the two of both sides.

    Attributes
    ----------
    left, right : int
        FreeSurfer's numbers, the same one for what has no side.
    structure : str
        What the network calls it; empty for background.
    contrasts : tuple of float
        Brightness in each of `CONTRASTS`.
    """

    left: int
    right: int
    structure: str
    contrasts: tuple[float, float, float, float]


TISSUES = (
    Tissue(0, 0, "", (0.0, 0.0, 0.0, 0.0)),
    Tissue(2, 41, "white matter", (0.80, 0.35, 0.42, 0.50)),
    Tissue(3, 42, "cortex", (0.55, 0.55, 0.58, 0.70)),
    Tissue(4, 43, "lateral ventricle", (0.15, 0.95, 0.08, 0.75)),
    Tissue(5, 44, "lateral ventricle", (0.17, 0.90, 0.10, 0.75)),
    Tissue(7, 46, "cerebellum", (0.78, 0.36, 0.42, 0.50)),
    Tissue(8, 47, "cerebellum", (0.56, 0.52, 0.55, 0.68)),
    Tissue(10, 49, "thalamus", (0.66, 0.45, 0.52, 0.62)),
    Tissue(11, 50, "caudate", (0.58, 0.48, 0.55, 0.68)),
    Tissue(12, 51, "putamen", (0.60, 0.44, 0.53, 0.66)),
    Tissue(13, 52, "pallidum", (0.72, 0.30, 0.42, 0.55)),
    Tissue(14, 14, CSF, (0.14, 0.95, 0.08, 0.76)),  # third ventricle
    Tissue(15, 15, CSF, (0.14, 0.95, 0.10, 0.76)),  # fourth ventricle
    Tissue(16, 16, "brainstem", (0.74, 0.40, 0.45, 0.55)),
    Tissue(17, 53, "hippocampus", (0.54, 0.56, 0.62, 0.70)),
    Tissue(18, 54, "amygdala", (0.54, 0.55, 0.62, 0.70)),
    Tissue(24, 24, CSF, (0.13, 0.97, 0.08, 0.78)),
    Tissue(25, 57, "white matter", (0.55, 0.75, 0.85, 0.75)),  # lesions
    Tissue(26, 58, "accumbens", (0.57, 0.50, 0.57, 0.68)),
    Tissue(28, 60, "ventral diencephalon", (0.70, 0.40, 0.47, 0.57)),
    Tissue(30, 62, "white matter", (0.30, 0.30, 0.30, 0.40)),  # vessels inside the brain
    Tissue(72, 72, CSF, (0.14, 0.95, 0.08, 0.76)),  # fifth ventricle
    Tissue(85, 85, "", (0.70, 0.42, 0.47, 0.55)),  # optic chiasm
    # what hangs in the lateral ventricles in these maps, at FreeSurfer's 31 and 63: choroid plexus, of their body and lower horn
    Tissue(136, 163, "lateral ventricle", (0.35, 0.75, 0.45, 0.70)),
    Tissue(137, 164, "lateral ventricle", (0.35, 0.75, 0.45, 0.70)),
    # the outer head, named by where it lies in the maps
    Tissue(502, 502, "", (0.45, 0.25, 0.30, 0.40)),  # vessels and dura
    Tissue(506, 506, "", (0.15, 0.95, 0.20, 0.75)),  # eyes
    Tissue(507, 507, "", (0.42, 0.25, 0.30, 0.40)),  # muscle and other soft tissue
    Tissue(508, 508, "", (0.85, 0.65, 0.60, 0.70)),  # behind the eyes: fat
    Tissue(509, 509, "", (0.30, 0.40, 0.35, 0.40)),  # nose
    Tissue(511, 511, "", (0.85, 0.60, 0.55, 0.70)),  # scalp
    Tissue(512, 512, "", (0.70, 0.40, 0.45, 0.55)),  # spinal cord
    Tissue(514, 514, "", (0.50, 0.30, 0.35, 0.45)),  # sinuses
    Tissue(515, 515, "", (0.10, 0.10, 0.10, 0.12)),  # bone
    Tissue(516, 516, "", (0.60, 0.45, 0.40, 0.50)),  # marrow
    Tissue(530, 530, "", (0.50, 0.40, 0.40, 0.50)),  # optic nerves
)
WHITE_MATTER = next(i for i, tissue in enumerate(TISSUES) if tissue.left == 2)
LESION = next(i for i, tissue in enumerate(TISSUES) if tissue.left == 25)
# What holds myelin towards its edges: nuclei and stem. Cortex does so too, but is as thin as a voxel or two.
_NUCLEI = ("thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "ventral diencephalon", "accumbens")
DEEP = np.array([tissue.structure in (*_NUCLEI, "brainstem") for tissue in TISSUES])
CORTEX = next(i for i, tissue in enumerate(TISSUES) if tissue.left == 3)
GREY = np.array([tissue.left in (3, 11, 17, 18, 26) for tissue in TISSUES])  # cortex, caudate, hippocampus, amygdala, accumbens
# all fluid, and what hangs in it; and the tissues that it gives way to in younger heads: no vessels, lesions or nerves
FLUIDS = [number for tissue in TISSUES if tissue.structure in (CSF, "lateral ventricle") for number in (tissue.left, tissue.right)]
SOLID = [
    number for tissue in TISSUES if tissue.structure not in ("", CSF, "lateral ventricle") and tissue.left not in (25, 30)
    for number in (tissue.left, tissue.right)
]  # fmt: skip
LOWER_HORNS = (5, 44, 137, 164)  # of the lateral ventricles, with what hangs in them
HIPPOCAMPI = (17, 53)
AIR = np.array([tissue.left == 0 for tissue in TISSUES])
OUTER = np.array([tissue.left > EXTRACEREBRAL for tissue in TISSUES])
MEANS = np.array([tissue.contrasts for tissue in TISSUES], np.float32).T.copy()  # (contrasts, tissues)

# Structures that the maps have thinner and rougher than anybody would trace them, and what is labelled there instead, see `traced`.
TRACED = ("hippocampus", "amygdala")
BESIDE = ("white matter", "lateral ventricle", "cortex")

# A voxel is one byte: the number's place in NUMBERS, times DEPTHS, plus how far it lies from the brain (0: in it, or beyond RINGS).
# What is traced lies in it everywhere: of its voxels 1, 2 and 3 say which of BESIDE they are labelled.
NUMBERS = np.unique([number for tissue in TISSUES for number in (tissue.left, tissue.right)])
IDS = len(NUMBERS) * DEPTHS
_TISSUE = {number: i for i, tissue in enumerate(TISSUES) for number in (tissue.left, tissue.right)}
TISSUE_OF_ID = np.repeat([_TISSUE[int(number)] for number in NUMBERS], DEPTHS)
RING_OF_ID = np.tile(np.arange(DEPTHS), len(NUMBERS))
FLUID_AROUND = 24  # what a stripping may leave or take


def is_brain(numbers: np.ndarray) -> np.ndarray:
    """Which FreeSurfer numbers no skull stripping takes away: all but background, the outer head and the fluid around the brain."""
    return (numbers > 0) & (numbers < EXTRACEREBRAL) & (numbers != FLUID_AROUND)


WHITE_PLACES = tuple(int(np.flatnonzero(number == NUMBERS)[0]) for number in (2, 41))  # in NUMBERS
BRAIN_OF_ID = np.repeat(is_brain(NUMBERS), DEPTHS)
HIPPOCAMPUS = np.repeat(np.isin(NUMBERS, HIPPOCAMPI), DEPTHS)
FLUID_OF_ID = np.repeat(NUMBERS == FLUID_AROUND, DEPTHS)


def label_names(sides: bool) -> tuple[str, ...]:
    """Names of the labels 1, 2, ...: the structures, or those that have sides twice, as "left cortex" and "right cortex"."""
    if not sides:
        return STRUCTURES
    paired = {tissue.structure for tissue in TISSUES if tissue.left != tissue.right}
    return tuple(side + name if side else name for name in STRUCTURES for side in (SIDES if name in paired else ("",)))


def label_table(sides: bool) -> np.ndarray:
    """Which label every id has: (2, IDS) uint8, as it is and in a mirrored head, where the sides are exchanged."""
    place = {name: label for label, name in enumerate(label_names(sides), start=1)}
    table = np.zeros((2, len(NUMBERS), DEPTHS), np.uint8)
    for mirrored in (0, 1):
        for i, number in enumerate(NUMBERS):
            tissue = TISSUES[_TISSUE[int(number)]]
            side = SIDES[(number == tissue.right) ^ mirrored] if sides and tissue.left != tissue.right else ""
            table[mirrored, i] = place[side + tissue.structure] if tissue.structure else 0
            if tissue.structure in TRACED:
                table[mirrored, i, 1:] = [place[side + name] for name in BESIDE]
    return table.reshape(2, IDS)
