"""The mean of a network and of what it was started from: what training changed counts by a share only.

Fine-tuned for a new task, a network forgets some of the old one. The mean of the weights before and after keeps most of both, and is
often better than either (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
"""

from __future__ import annotations

from copy import deepcopy

from .config import Settings, training_spec
from .fold import fold_tensors
from .network import Network
from .transfer import Transfer, put


def mixed(transfer: Transfer | None, settings: Settings, network: Network) -> Network:
    """A network whose folded weights are the mean of a trained one's and of those that it was started from.

    Parameters
    ----------
    transfer : Transfer or None
        Its ``mix`` is the share of what was before; the network itself is returned where there is none.
    settings : Settings
    network : Network
        Stays as it is.
    """
    if transfer is None or not transfer.mix:
        return network
    before, share = transfer.tensors(settings), transfer.mix
    after = fold_tensors(training_spec(settings), {name: tensor.numpy(force=True) for name, tensor in network.state_dict().items()})
    found = deepcopy(network)
    put({name: share * before[name] + (1 - share) * tensor for name, tensor in after.items()}, found)
    return found
