"""From the sites' updates to a network: their average (FedAvg), and noise on it where differential privacy is asked for. NumPy only.

Not Flower's strategies, which average whole networks through a Grid and records of their own, and draw noise from NumPy's global
generator, which any program may seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .compress import Tensors
from .settings import Federation
from .wire import MessageError, Update


def check_range(tensors: Tensors, change: Tensors) -> None:
    """Refuse an update that leads beyond float32.

    Raises
    ------
    MessageError
    """
    with np.errstate(over="ignore"):
        if not all(np.isfinite(tensor + change[name]).all() for name, tensor in tensors.items()):
            raise MessageError("its update leads beyond the range of float32")


def average(tensors: Tensors, updates: Sequence[Update], federation: Federation) -> Tensors:
    """The network moved by the mean of the sites' updates.

    Parameters
    ----------
    tensors : dict of str to float32 array
        The network that all sites were sent.
    updates : sequence of Update
        In an order that does not depend on who answered first: sums in floating point do. At least one.
    federation : Federation

    Returns
    -------
    dict of str to float32 array

    Notes
    -----
    Without noise a site weighs as many slices as it has. With noise all weigh the same, no update is longer than ``clip``, and the
    noise on their sum has the SD ``noise * clip`` (McMahan et al. 2018, "Learning differentially private recurrent language models").
    """
    if federation.noise:
        weights, total = [federation.clip / max(update.norm, federation.clip) for update in updates], len(updates)
    else:
        weights, total = [update.examples for update in updates], sum(update.examples for update in updates)
    generator = np.random.default_rng()  # seeded by the system: whoever knows the noise can subtract it
    averaged = {}
    for name, tensor in tensors.items():
        moved = sum(weight * update.change[name].astype(np.float64) for weight, update in zip(weights, updates, strict=True))
        if federation.noise:
            moved += generator.normal(0, federation.noise * federation.clip, tensor.shape)
        averaged[name] = (tensor + moved / total).astype(np.float32)
        if name.endswith(".running_var"):  # rounding or noise may take a variance below 0, and the network takes its root
            averaged[name] = np.maximum(averaged[name], 0)
    return averaged
