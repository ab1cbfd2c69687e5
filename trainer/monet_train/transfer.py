"""A training that starts from a weights file: its layers taken over, a new head where the labels differ, frozen where asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from monet_edge.errors import ModelError, MonetError, OutputError
from monet_edge.sides import side
from monet_edge.spec import fold_batchnorm, tensor_shapes
from monet_edge.weights import Weights

from .config import Settings, training_spec
from .network import BatchNorm, Network
from .provenance import Source

FILE = "transfer.json"  # in the run folder: what it was started from
HEAD = "head."  # how the names of the last layer's tensors begin
SAMPLE = 32  # slices that show what BatchNorm will see


@dataclass(frozen=True)
class Transfer:
    """What a run starts from.

    Attributes
    ----------
    weights : Weights
    frozen : bool
        All but the head stays as it is.
    mix : float
        How much of these weights is in those that the run ends with, see `mix.mixed`.
    """

    weights: Weights
    frozen: bool = False
    mix: float = 0.0

    def record(self) -> dict[str, Any]:
        """What the run folder and the exported file say of it."""
        weights = self.weights
        known = {
            "name": weights.name,
            "sha256": weights.sha256,
            "licence": weights.provenance.stated("licence"),
            "modality": weights.provenance.stated("modality"),
        }
        return {**known, "frozen": self.frozen, "mix": float(self.mix)}

    def head_rows(self, settings: Settings) -> list[int] | None:
        """Which of the file's classes each of the run's starts from: of its name, or of both sides; None: a new head, a name is new."""
        known, labels = self.weights.preprocess.labels, settings.preprocess.labels
        if (len(known) == 1) != (len(labels) == 1):  # one label is told by a sigmoid, several with their background by a softmax
            return None
        names = [name if name in known else side(name)[1] for name in labels]
        if not {*names} <= {*known}:
            return None
        return [0] if len(labels) == 1 else [0, *(1 + known.index(name) for name in names)]

    def tensors(self, settings: Settings) -> dict[str, np.ndarray]:
        """The file's tensors as the run has them: of the head its classes, or nothing where it is new."""
        rows, given = self.head_rows(settings), self.weights.tensors
        head = {} if rows is None else {name: tensor[rows] for name, tensor in given.items() if name.startswith(HEAD)}
        return {name: tensor for name, tensor in given.items() if not name.startswith(HEAD)} | head

    def new_head(self, settings: Settings) -> bool:
        """True if the run has labels that the file does not know."""
        return self.head_rows(settings) is None

    def describe(self, settings: Settings) -> str:
        """One line: what is taken over, what is learnt, how fast."""
        labels = settings.preprocess.labels
        same = "head included" if labels == self.weights.preprocess.labels else f"its head rearranged for {', '.join(labels)}"
        head = f"a new head for {', '.join(labels)}" if self.new_head(settings) else same
        rest = "all but the head frozen" if self.frozen else "all layers learn"
        rest += f", {self.mix:.0%} of the start in the end" if self.mix else ""
        rate = f"learning rate {settings.recipe.learning_rate:g} at most (--set learning_rate)"
        return f"starting from {self.weights.name}, {head}; {rest}, {rate}"


def check(transfer: Transfer | None, settings: Settings, folder: Path) -> None:
    """Refuse a start from another network, and to go on with a run that was started from something else; nothing is written.

    Raises
    ------
    ModelError
        Naming the first layer that does not match.
    OutputError
        If ``folder`` holds a run that was started otherwise.
    """
    now = transfer and transfer.record()
    then = read(folder) if (folder / "config.json").exists() else now
    if then != now:
        what = f"from {then['name']}{', frozen' * then['frozen']}, mix {then['mix']:g}" if then else "from nothing"
        raise OutputError(f"{folder} was started {what}. Say the same with --from, --freeze and --mix, or choose another --output.")
    if transfer is None:
        return
    if transfer.mix and transfer.new_head(settings):
        raise ModelError(
            f"--mix {transfer.mix:g}: {transfer.weights.name} does not know all labels, there is no head to mix with the new one"
        )
    weights = transfer.weights
    wanted = {name: shape for name, shape in tensor_shapes(fold_batchnorm(training_spec(settings))).items() if not name.startswith(HEAD)}
    found = {name: tensor.shape for name, tensor in weights.tensors.items() if not name.startswith(HEAD)}
    other = next((name for name in (*wanted, *found) if wanted.get(name) != found.get(name)), None)
    if other is not None:
        there, here = (str(shapes[other]) if other in shapes else "absent" for shapes in (found, wanted))
        raise ModelError(
            f"{weights.name} ({weights.spec.name}) is another network than this run's {settings.net}: {other} is {there} there, {here} here"
        )


@torch.no_grad()
def take_over(transfer: Transfer, settings: Settings, network: Network, images: Tensor) -> None:
    """Give an untrained network the file's layers: it then says what the file's says, a new head apart.

    A file has no BatchNorm any more, it was merged into the layers. It is made anew with the mean and spread of what the layers give for
    ``images`` (N, C, H, W) of the training, so that normalising by a batch's own changes next to nothing.
    """
    put(transfer.tensors(settings), network)
    _calibrate(network, images)


@torch.no_grad()
def put(tensors: Mapping[str, np.ndarray], network: Network) -> None:
    """Give a network folded tensors; every BatchNorm does no more than they ask for, and what they lack stays."""
    for op in network.spec.ops:
        names = {name.rpartition(".")[2]: name for name in tensors if name.rpartition(".")[0] == op.name}
        if not names:
            continue
        module, given = network.get_submodule(op.name), {key: torch.tensor(tensors[name]) for key, name in names.items()}
        if "bn" not in op.attrs:
            module.load_state_dict(given)
            continue
        norm = module.get_submodule("bn")
        norm.running_mean.zero_(), norm.running_var.fill_(1 - op["bn"]["eps"])  # type: ignore[operator]
        norm.weight.copy_(given.get("scale", torch.ones(())))  # type: ignore[operator]
        norm.bias.copy_(given["shift" if op.kind == "affine" else "bias"])  # type: ignore[operator]
        if op.kind != "affine":
            module.weight.copy_(given["weight"])  # type: ignore[operator]
            if module.bias is not None:
                module.bias.zero_()  # type: ignore[operator]


def _calibrate(network: Network, images: Tensor) -> None:
    """Let every BatchNorm know the mean and variance of what it gets, and change its weight and bias so that it gives the same."""

    def learn(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, BatchNorm)
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        norm.running_mean.copy_(mean), norm.running_var.copy_(variance)
        norm.weight.copy_(scale * (variance + norm.eps).sqrt()), norm.bias.copy_(shift + mean * scale)

    hooks = [module.register_forward_pre_hook(learn) for module in network.modules() if isinstance(module, BatchNorm)]
    training = network.training
    network.eval()(images)
    network.train(training)
    for hook in hooks:
        hook.remove()


def freeze(network: Network) -> None:
    """Let only the head learn: the other layers keep their weights, and their BatchNorms the statistics that they have."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(HEAD))
    for name, module in network.named_modules():
        if isinstance(module, BatchNorm) and not name.startswith(HEAD):
            module.frozen = True


def sources(run: Path) -> tuple[Source, ...]:
    """What a run folder says it was started from, as one more thing that its weights are made of: their licence counts, too."""
    found = read(run)
    if found is None:
        return ()
    return (Source.told(f"weights {found['name']}", f"sha256 {found['sha256']}", found["licence"], found["modality"]),)


def to_json(transfer: Transfer) -> str:
    """The text of a transfer.json."""
    return json.dumps(transfer.record(), indent=1)


def read(run: Path) -> dict[str, Any] | None:
    """What a run folder records; None where it was started from nothing.

    Raises
    ------
    MonetError
        If its transfer.json is damaged.
    """
    try:
        found = json.loads((run / FILE).read_bytes())
        kinds = {"name": str, "sha256": str, "licence": str, "modality": str, "frozen": bool, "mix": float}
        found = {"mix": 0.0, **found}  # runs of before did not mix
        if {key: type(value) for key, value in found.items()} != kinds:
            raise ValueError(f"expected {', '.join(kinds)}")
        return dict(found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise MonetError(f"{run / FILE}: cannot be read ({error}); expected what monet-train fit wrote") from None
