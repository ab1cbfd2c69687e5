"""From a network to what runs: ops fused to layers, an algorithm chosen for each, its weights packed. Independent of the image's size."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import prod

import numpy as np

from ..errors import SpecError
from ..spec import INPUT, Shape, Spec, infer_channels, infer_shapes
from . import paging
from .algorithms import ALGORITHMS, Algorithm, Network, Packed, convert
from .codegen.simd import Isa
from .fuse import MOMENTS, STATISTICS, Layer, fuse

WEIGHTS = 1 << 20  # bytes of a stage that are worth reading once for several slices


class Plan:
    """What depends on the network alone: its layers, their algorithms and packed weights.

    Parameters
    ----------
    spec : Spec
        A folded, valid network.
    tensors : mapping of str to float32 arrays
        Exactly those of `spec.tensor_shapes`.
    isa : Isa
        The instruction set that the kernels are compiled for.
    fused : bool
        False makes every op, and every conversion, a step of its own, for tests.
    exclude : collection of str
        Names of algorithms to do without, to compare others with them.
    sides : (height, width), optional
        Of most images that will come: algorithms are chosen for that size. Any other gives the same but for the last digits, slower.
    paged : bool
        Map large weights from a file, see `paging`.

    Attributes
    ----------
    layers : list of Layer
        The network's.
    stages : list of Layer
        All that runs, in turn: the layers, before them the conversion of the image and behind them that of the output where they
        are needed.
    suitable : dict of str to list of Algorithm
        By a stage's name, all that can run it, best first: the first one does.
    in_place : set of str
        The values that may be written over the first of what they are made from.
    packed : dict of str to Packed
        By a stage's name.
    planes : set of str
        The values that exist as planes only: the image, the output.
    border : int
        Width of the zeros around the image.
    deep : range
        The stages, by their place among all, that several slices gain from going through together: see `_deep`.

    Raises
    ------
    SpecError
        If too much is excluded: naming the layer that nothing can run.
    """

    def __init__(
        self,
        spec: Spec,
        tensors: Mapping[str, np.ndarray],
        isa: Isa,
        fused: bool = True,
        exclude: Collection[str] = (),
        sides: tuple[int, int] | None = None,
        paged: bool = False,
    ) -> None:
        unknown = set(exclude) - {algorithm.name for algorithm in ALGORITHMS}
        if unknown:
            known = ", ".join(algorithm.name for algorithm in ALGORITHMS)
            raise SpecError(f"no algorithm is called {', '.join(sorted(unknown))}; known are {known}")
        self.spec = spec
        self.layers = fuse(spec, fused)
        channels = infer_channels(spec)
        channels |= {layer.name: channels[layer.op.name] for layer in self.layers if layer.name not in channels}
        network = Network(spec, self.layers, channels, tensors, isa, fused, infer_shapes(spec, *sides) if sides else None)
        choice = [algorithm for algorithm in ALGORITHMS if algorithm.name not in exclude]
        self.suitable = {layer.name: _suitable(layer, network, choice) for layer in self.layers}
        way_in = [] if all(self.algorithm(layer).reads_planes for layer in self.layers if INPUT in layer.reads) else [convert.way_in()]
        way_out = [] if self.suitable[spec.output][0].writes_planes else [convert.way_out(spec.output)]
        self.suitable |= {stage.name: _suitable(stage, network, choice) for stage in way_in + way_out}
        self.stages = way_in + self.layers + way_out
        self.planes = {stage.name for stage in self.stages if self.algorithm(stage).writes_planes} | ({INPUT} if not way_in else set())
        self.in_place = {stage.name for stage in self.stages if self.algorithm(stage).in_place}
        self.packed = {stage.name: self._pack(stage, network, paged) for stage in self.stages}
        self.border = max(packed.border for packed in self.packed.values())
        self.deep = self._deep(*sides) if sides else range(0)

    def shapes(self, height: int, width: int) -> dict[str, Shape]:
        """Shape of every value that the stages make or read, for an image of ``height`` x ``width``."""
        shapes = infer_shapes(self.spec, height, width)
        shapes[convert.OUTPUT] = shapes[self.spec.output]
        for stage in self.layers:
            if stage.name not in shapes:
                channels, rows, columns = shapes[stage.op.name]
                shapes[stage.name] = (channels, rows, MOMENTS if stage.op.kind == STATISTICS else columns)
        return shapes

    def algorithm(self, stage: Layer) -> Algorithm:
        """The one that runs a stage."""
        return self.suitable[stage.name][0]

    def _pack(self, stage: Layer, network: Network, paged: bool) -> Packed:
        packed = self.algorithm(stage).pack(stage, network)
        return replace(packed, fields=paging.on_disk(packed.fields)) if paged else packed

    def _deep(self, height: int, width: int) -> range:
        """From the first stage to the last that reads more weights than it writes, and more than stay in a second cache."""
        shapes = self.shapes(height, width)
        found = [number for number, stage in enumerate(self.stages) if self.algorithm(stage).several and self.heavy(stage, shapes)]
        return range(found[0], found[-1] + 1) if found else range(0)

    def heavy(self, stage: Layer, shapes: Mapping[str, Shape]) -> bool:
        """Whether a stage reads more weights than it writes, and more than stay in a second cache."""
        weights = sum(each.nbytes for each in self.packed[stage.name].fields.values() if isinstance(each, np.ndarray))
        return weights > max(4 * prod(shapes[stage.name]), WEIGHTS)

    @property
    def mapped(self) -> int:
        """Bytes of mapped weights that a thread reads at a time, at most."""
        each = [[value.nbytes for value in packed.fields.values() if isinstance(value, paging.Mapped)] for packed in self.packed.values()]
        return max(map(sum, each))

    @property
    def algorithms(self) -> set[str]:
        """Names of all that run."""
        return {self.algorithm(stage).name for stage in self.stages}


def _suitable(layer: Layer, network: Network, choice: Collection[Algorithm]) -> list[Algorithm]:
    found = [algorithm for algorithm in choice if algorithm.suits(layer, network)]
    if not found:
        raise SpecError(f"layer {layer.name!r} ({layer.op.kind}) is left without an algorithm: exclude fewer")
    return found
