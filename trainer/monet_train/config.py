"""Every setting of a training in frozen dataclasses, and the network that they mean; no torch.

Saved in the run's config.json and in the exported file's provenance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from monet_edge.architectures import ARCHITECTURES
from monet_edge.errors import MonetError
from monet_edge.preprocess import Channel, Preprocess
from monet_edge.spec import Op, Spec, multiple_of

from .defaults import SLICES

OPTIMISERS, SCHEDULES, KEPT = ("nadam", "adamw"), ("plateau", "one-cycle"), ("best", "last")
DEPTHS = 64  # a rim that skull stripping removes is less than so many pixels deep


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What happens to a batch before the network sees it; every value 0 leaves that step out.

    Attributes
    ----------
    rotate : float
        Rotation, up to so many degrees either way.
    zoom : float
        Zoom by 1 - zoom to 1 + zoom.
    shift : float
        Shift by up to this share of height and width.
    flip : float
        Probability of a left-right flip.
    skull_strip : float
        Probability of a poor man's skull stripping: a rim of the head, `skull_strip_depth` pixels deep, becomes background and
        the z-score is taken anew. Only where the preprocessing of every image is a z-score.
    skull_strip_depth : tuple of int
        Least and most, pixels; of a model with a spacing mm, see `in_pixels`.
    contrast, gamma : float
        SD of the logarithm of a factor around the slice's mean, and of an exponent.
    bias_field : float
        SD of the logarithm of a bias field of 4x4 control points.
    intensity_curve : float
        Share of a random monotonic intensity curve that is mixed in.
    noise : float
        Largest SD of white noise.
    blur : float
        Probability of losing resolution: averaging over 3x3 pixels.
    drop_context : float
        Probability that the neighbouring slices are replaced by the slice itself, where the model has context.
    """

    rotate: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    flip: float = 0.0
    skull_strip: float = 0.0
    skull_strip_depth: tuple[int, int] = (6, 20)
    contrast: float = 0.0
    gamma: float = 0.0
    bias_field: float = 0.0
    intensity_curve: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    drop_context: float = 0.0

    def __post_init__(self) -> None:
        depth = self.skull_strip_depth
        if len(depth) != 2 or not all(type(pixels) is int for pixels in depth) or not 0 <= depth[0] <= depth[1] < DEPTHS:
            raise MonetError(
                f"skull_strip_depth must be two whole numbers of pixels, 0 to {DEPTHS - 1}, the smaller one first, found {depth}"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "skull_strip_depth" and not 0 <= value < float("inf"):
                raise MonetError(f"{field.name} must be at least 0, found {value}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    optimiser : {"nadam", "adamw"}
    learning_rate : float
        The highest one of a one-cycle schedule.
    weight_decay : float
        Of AdamW; NAdam has none.
    schedule : {"plateau", "one-cycle"}
        Divide by 10 after 2 validations without a better loss; or up over the first fifth and down along a cosine.
    epochs : int
        At most so many.
    patience : int
        Stop after so many validations without a better loss; 0 never stops early.
    batch : int
        Slices a batch (and a GPU).
    epoch_steps : int
        Steps an epoch has, over shuffled rounds of the slices; 0: once over all slices. Validation, patience and the plateau count
        such epochs, so a small data set needs it: the authors crop each of 176 volumes to 48 slices, 8,448 in all, which is 264 steps
        of 32 (their data loader). With once over the 299 slices of `pancreas-ct`, 10 steps, the plateau lowers the rate before
        BatchNorm's statistics have settled (0.99^264 = 0.07, 0.99^10 = 0.90), and nothing is learnt.
    cross_entropy : float
        Weight of the cross-entropy that is added to the Dice loss.
    ema_decay : float
        Of the exponential average of all weights that is validated and kept; 0 keeps the weights themselves.
    dropout : float
        Factor on the architecture's own dropout.
    momentum : float
        Of the BatchNorms' running statistics (PyTorch's way: the share of the newest batch).
    prior : bool
        Start with the head's bias at the classes' frequencies.
    validate_every : int
        Validate after every so many epochs, and after the last one.
    keep : {"best", "last"}
        Which epoch's weights the run ends with: those of the best validation loss, or the last ones.
    """

    name: str
    optimiser: str
    learning_rate: float
    weight_decay: float
    schedule: str
    epochs: int
    patience: int
    batch: int
    epoch_steps: int
    cross_entropy: float
    ema_decay: float
    dropout: float
    momentum: float
    prior: bool
    validate_every: int
    keep: str
    augmentation: Augmentation

    def __post_init__(self) -> None:
        for name, known in (("optimiser", OPTIMISERS), ("schedule", SCHEDULES), ("keep", KEPT)):
            if getattr(self, name) not in known:
                raise MonetError(f"{name} must be {' or '.join(known)}, found {getattr(self, name)!r:.40}")
        at_least = {"epochs": 1, "batch": 1, "validate_every": 1, "epoch_steps": 0, "patience": 0, "weight_decay": 0, "cross_entropy": 0}
        for name, least in at_least.items():
            if not least <= getattr(self, name) < float("inf"):
                raise MonetError(f"{name} must be at least {least}, found {getattr(self, name)}")
        for name in ("ema_decay", "momentum", "dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise MonetError(f"{name} must lie between 0 and 1, found {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise MonetError(f"learning_rate must be more than 0, found {self.learning_rate}")


# Knolle et al. 2021, "Training, validation and independent testing datasets"
PAPER = Recipe(
    name="paper",
    optimiser="nadam",
    learning_rate=5e-4,
    weight_decay=0.0,
    schedule="plateau",
    epochs=1000,
    patience=20,
    batch=32,
    epoch_steps=264,  # as long as the authors' epochs, see `Recipe`
    cross_entropy=0.0,
    ema_decay=0.0,
    dropout=1.0,
    momentum=0.01,
    prior=False,
    validate_every=1,
    keep="best",
    augmentation=Augmentation(rotate=10, zoom=0.25, shift=0.2),
)

STRONG = Recipe(
    name="strong",
    optimiser="adamw",
    learning_rate=3e-3,
    weight_decay=0.01,
    schedule="one-cycle",
    epochs=100,
    patience=0,
    batch=32,
    epoch_steps=0,
    cross_entropy=1.0,
    ema_decay=0.999,
    dropout=0.25,
    momentum=0.1,
    prior=True,
    validate_every=5,
    keep="last",
    augmentation=Augmentation(
        rotate=15,
        zoom=0.25,
        shift=0.1,
        flip=0.5,
        skull_strip=0.5,
        contrast=0.15,
        gamma=0.15,
        bias_field=0.15,
        intensity_curve=0.0,
        noise=0.03,
        blur=0.1,
        drop_context=0.1,
    ),
)

RECIPES = {recipe.name: recipe for recipe in (PAPER, STRONG)}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run.

    Attributes
    ----------
    dataset : str
        Name of the data set.
    net : str
        A key of `monet_edge.architectures.ARCHITECTURES`.
    preprocess : Preprocess
    recipe : Recipe
    merged : bool
        All foreground labels count as one.
    seed : int
    deterministic : bool
        Only algorithms that give the same bits twice.
    """

    dataset: str
    net: str
    preprocess: Preprocess
    recipe: Recipe
    merged: bool = False
    seed: int = 0
    deterministic: bool = False


def make_preprocess(labels: tuple[str, ...], images: Sequence[str] = ("",), **changes: Any) -> Preprocess:
    """How slices are made where nothing else is said, see `defaults.SLICES`, with changes by field.

    ``images`` are the names of a case's images; a change of ``intensity``, ``low`` or ``high`` may be a list with a value for each.

    Raises
    ------
    MonetError
        If such a list has another length.
    """
    given = {**SLICES._asdict(), **changes}
    each = {}
    for name in ("intensity", "low", "high"):
        values = given[name] if isinstance(given[name], list) else [given[name]] * len(images)
        if len(values) != len(images):
            raise MonetError(f"{name}: expected one value, or one for each of the {len(images)} images, found {len(values)}")
        each[name] = values
    first, *others = (dict(zip(each, values, strict=True)) for values in zip(*each.values(), strict=True))
    channels = tuple(Channel(name=name, **other) for name, other in zip(images[1:], others, strict=True))
    return Preprocess(**{**given, **first}, labels=labels, image=images[0], others=channels)


def effective_settings(settings: Settings) -> Settings:
    """The settings without what has no effect in this run, which its record must not claim.

    Skull stripping needs a z-score, `drop_context` needs neighbours, dropout a network that has some, weight decay AdamW.
    """
    record, recipe = settings.preprocess, settings.recipe
    images = [record.of(number) for number in range(record.images)]
    augmentation = replace(
        recipe.augmentation,
        skull_strip=recipe.augmentation.skull_strip if {image.intensity for image in images} == {"zscore"} else 0.0,
        drop_context=recipe.augmentation.drop_context if record.context else 0.0,
    )
    network = ARCHITECTURES[settings.net](record.inputs, record.classes)
    drops = any(op.attrs.get("dropout") for op in network.ops)
    weight_decay = recipe.weight_decay if recipe.optimiser == "adamw" else 0.0
    recipe = replace(recipe, augmentation=augmentation, dropout=recipe.dropout if drops else 0.0, weight_decay=weight_decay)
    return replace(settings, recipe=recipe)


def in_pixels(augmentation: Augmentation, spacing: float) -> Augmentation:
    """An augmentation whose lengths are mm, with those lengths in pixels of so many mm; as it is for 0.

    Everything else is a share of the network's input, or of intensities, and means the same with any pixel.
    """
    if not spacing:
        return augmentation
    least, most = (min(round(depth / spacing), DEPTHS - 1) for depth in augmentation.skull_strip_depth)
    return replace(augmentation, skull_strip_depth=(least, most))


def training_spec(settings: Settings) -> Spec:
    """The Spec that a run trains: the architecture for its channels and classes, with the recipe's dropout.

    Raises
    ------
    MonetError
        If the network cannot take slices of that size.
    """
    record = settings.preprocess
    spec = ARCHITECTURES[settings.net](record.inputs, record.classes)
    multiple = multiple_of(spec)
    if record.size % multiple:
        raise MonetError(f"{settings.net} takes slices whose size divides by {multiple}, found {record.size}. Choose another --size.")

    def adjusted(op: Op) -> Op:
        return replace(op, attrs={**op.attrs, "dropout": op["dropout"] * settings.recipe.dropout}) if "dropout" in op.attrs else op

    return replace(spec, ops=tuple(adjusted(op) for op in spec.ops))
