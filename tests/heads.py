"""Small label maps of two round heads with what a head has, in FreeSurfer's numbers, to generate images from."""

import nibabel
import numpy as np

from monet_train.synth.labels import IDS
from monet_train.synth.maps import boxed, encode
from monet_train.synth.ranges import Ranges

SHAPE = (36, 40, 34)  # right, anterior, superior
# Outside in: (share of the head's radius, number on the left, on the right)
SHELLS = ((1.0, 511, 511), (0.9, 515, 515), (0.8, 24, 24), (0.7, 3, 42), (0.55, 2, 41), (0.3, 10, 49), (0.15, 4, 43))
# A head as it is, tissue without texture, air of 0
STILL = Ranges(
    anywhere=0.0,
    hippocampus=0.0,
    young=0.0,
    horns=0.0,
    fissure=0.0,
    traced=0.0,
    rotate=0.0,
    scale=(1.0, 1.0),
    shear=0.0,
    shift=0.0,
    bend=0.0,
    mirror=0.0,
    contrast=1.0,
    jitter=(0.0, 0.0),
    alike=0.0,
    texture=0.0,
    shaded=0.0,
    myelinated=0.0,
    dark_air=1.0,
    noisy_air=0.0,
    clusters=0.0,
    lesions=0.0,
    strip=0.0,
    crop=0.0,
    crop_depth=0.0,
    native=1.0,
    blur=(0.0, 0.0),
    bias=0.0,
    gamma=0.0,
    noise=0.0,
)


def head(seed=0, shape=SHAPE):
    """FreeSurfer numbers of one head (right, anterior, superior), an ellipsoid of nested shells."""
    rng = np.random.default_rng(seed)
    radii = np.array(shape) / 2 * rng.uniform(0.85, 0.95, 3)
    away = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"))
    radius = np.sqrt(((away / radii[:, None, None, None]) ** 2).sum(0))
    numbers = np.zeros(shape, np.int16)
    for share, left, right in SHELLS:
        numbers = np.where(radius < share, np.where(away[0] < 0, left, right), numbers)
    return numbers


def write_folder(folder, count=2, shape=SHAPE):
    """A folder of label maps, 1 mm, with a licence."""
    folder.mkdir()
    (folder / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004\n", encoding="utf-8")
    for seed in range(count):
        nibabel.save(nibabel.Nifti1Image(head(seed, shape).astype(np.int16), np.eye(4)), folder / f"head_{seed}.nii.gz")
    return folder


def label_maps(count=2):
    """The same as `maps.read_folder` gives of such a folder."""
    turned = [head(seed)[::-1, ::-1, ::-1].transpose(1, 2, 0) for seed in range(count)]  # to posterior, inferior, left
    return boxed([encode(one) for one in turned], tuple(f"head_{seed}" for seed in range(count)), "heads", "Apache-2.0", "key")


assert IDS <= 256
