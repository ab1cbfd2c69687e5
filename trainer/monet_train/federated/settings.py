"""Everything that decides a federated training: declared once, changed by `--set federated.NAME=VALUE`, handed on by Flower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from monet_edge import spec
from monet_edge.errors import MonetError

from ..config import Settings, training_spec
from ..config_text import changed, from_json, override, to_json

COMPRESSIONS = ("none", "float16", "int8")
PREFIX = "federated."  # of these settings in `--set`, where all others are the recipe's
# Of the recipe at a site. The server averages networks already; a site's own average, over its last 1000 steps, would be of the
# round before
AT_SITES: dict[str, Any] = {"patience": 0, "ema_decay": 0.0, "keep": "last"}


@dataclass(frozen=True)
class Federation:
    """How sites train together.

    Attributes
    ----------
    rounds : int
        How often the sites' networks are averaged. 100 rounds of one epoch are as many epochs as recipe `strong` has.
    epochs : int
        How many every site trains in a round.
    sites : int
        How many must be connected before the first round. Commands count the data sets, or have it from ``--sites``.
    minimum : int
        A round with fewer valid replies keeps the old network. Where a command sets no other number: all sites.
    wait : float
        Longest wait for sites to connect, in seconds.
    timeout : float
        Longest wait for the replies of a round, in seconds.
    compression : {"none", "float16", "int8"}
        Of the arrays that travel; int8 of the sites' updates only, the network then goes to them in float16.
    momentum : float
        Share of its last step that the server adds to the sites' average (FedAvgM); 0 is the average alone (FedAvg).
    noise : float
        Noise multiplier of differential privacy; 0 is without. Every site must then answer.
    clip : float
        With noise, longer updates are shortened to this L2 norm.
    most_examples : int
        A site that says that it trained on more slices is refused.
    delta : float
        Of differential privacy: epsilon is computed for it.
    """

    rounds: int = 100
    epochs: int = 1
    sites: int = 2
    minimum: int = 2
    wait: float = 600.0
    timeout: float = 3600.0
    compression: str = "none"
    momentum: float = 0.6
    noise: float = 0.0
    clip: float = 1.0
    most_examples: int = 100_000
    delta: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("rounds", "epochs", "sites", "minimum", "wait", "timeout", "clip", "most_examples"):
            if not 0 < getattr(self, name) < float("inf"):
                raise MonetError(f"{name} must be more than 0 and finite, found {getattr(self, name)}")
        if self.minimum > self.sites:
            raise MonetError(f"at least {self.minimum} replies a round cannot come from {self.sites} sites")
        if self.compression not in COMPRESSIONS:
            raise MonetError(f"compression {self.compression}: expected one of {', '.join(COMPRESSIONS)}")
        if not 0 <= self.momentum < 1:
            raise MonetError(f"momentum must be at least 0 and below 1, found {self.momentum}")
        if not (0 <= self.noise < float("inf") and 0 < self.delta < 1):
            raise MonetError(f"noise must be at least 0 and delta between 0 and 1, found {self.noise} and {self.delta}")
        if self.noise and self.minimum != self.sites:
            raise MonetError(f"with noise every site must answer: minimum must be {self.sites} (sites), found {self.minimum}")


def make_federation(sites: int, changes: Sequence[str]) -> Federation:
    """The defaults for so many sites, of which every one must answer, with changes.

    Parameters
    ----------
    sites : int
    changes : sequence of str
        ``federated.NAME=VALUE`` each.

    Raises
    ------
    MonetError
        If there is no such setting, a value is of another kind, or the number of sites is another.
    """
    chosen = override(Federation(sites=sites, minimum=sites), changes, PREFIX)
    if chosen.sites != sites:
        raise MonetError(f"federated.sites={chosen.sites}: there are {sites} sites")
    return chosen


def for_sites(settings: Settings, federation: Federation) -> Settings:
    """The settings of a pooled training as the sites use them: the schedule spans all rounds, no site averages its weights.

    Raises
    ------
    MonetError
        If the recipe lowers its rate by the validation loss of all patients, which no site has, or there is no such network.
    """
    training_spec(settings)
    if settings.recipe.schedule != "one-cycle":
        raise MonetError(f"recipe {settings.recipe.name} waits for a plateau of a validation loss that no site knows; use strong")
    recipe = replace(settings.recipe, epochs=federation.rounds * federation.epochs, **AT_SITES)
    return replace(settings, recipe=recipe)


def to_run_config(federation: Federation, settings: Settings, output: str, resume: bool) -> dict[str, Any]:
    """What `flwr run` hands to the ServerApp."""
    return {**asdict(federation), "settings": to_json(settings), "output": output, "resume": resume}


def from_run_config(config: Mapping[str, Any]) -> tuple[Federation, Settings, str, bool]:
    """The inverse of `to_run_config`.

    Raises
    ------
    MonetError
        Naming what is missing or of another kind.
    """
    missing = sorted({*(field.name for field in fields(Federation)), "settings", "output", "resume"} - config.keys())
    if missing:
        raise MonetError(f"the run configuration lacks {', '.join(missing)}; start from what monet-train federated writes")
    federation = changed(Federation(), {field.name: config[field.name] for field in fields(Federation)})
    return federation, from_json(str(config["settings"])), str(config["output"]), bool(config["resume"])


def tensor_shapes(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all that travels: the network with its BatchNorm statistics.

    PyTorch's `num_batches_tracked` is not among them: our BatchNorm has no such counter.
    """
    return dict(spec.tensor_shapes(training_spec(settings)))
