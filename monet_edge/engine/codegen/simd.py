"""Vector code in LLVM IR: the small language that the micro-kernels are written in.

A micro-kernel is one LLVM function of 64-bit integers: addresses, sizes in bytes, counts. Python builds its IR here,
through llvmlite; `jit` compiles it together with the loops that call it. Nothing here knows about networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from llvmlite import ir

T = TypeVar("T")
BLOCK = 16  # channels are stored in blocks of 16 floats on every CPU: one AVX-512 vector, two of AVX2, four of SSE or NEON
BYTES = 4 * BLOCK

FLOAT, I1, I8, I32, I64, VOID = ir.FloatType(), ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.VoidType()
POINTER = ir.PointerType()


@dataclass(frozen=True)
class Isa:
    """What the micro-kernels must know about an instruction set.

    Attributes
    ----------
    lanes : int
        Floats in a vector register.
    pin : str
        Inline-assembly constraint for a vector register.
    narrow, wide : (int, int)
        GEMM tile, rows x columns, for 16 output channels and for 32 or more.
    tail : int
        Rows of the tile that finishes a strip.
    pairs : bool
        Whether the narrow tile takes two numbers of a row with one load, and has sums of its own for the second ones.
    tiles : bool
        Whether there is AMX for products of bfloat16, see `amx`.
    """

    name: str
    lanes: int
    pin: str
    narrow: tuple[int, int]
    wide: tuple[int, int]
    tail: int
    pairs: bool = False
    tiles: bool = False


AVX512 = Isa("avx512", 16, "v", (12, 16), (12, 32), 8, pairs=True)  # 32 registers: 24 accumulators, 2 of weights
AMX = replace(AVX512, name="amx", tiles=True)
AVX2 = Isa("avx2", 8, "x", (6, 16), (6, 16), 6)  # 16 registers: 12 accumulators, 2 of weights, 1 broadcast
SSE = Isa("sse", 4, "x", (4, 8), (4, 8), 4)  # 16 registers: 8 accumulators; 6x8 spills, as there is no fused product, and is no faster
NEON = Isa("neon", 4, "w", (6, 16), (6, 16), 6)  # 32 registers: 24 accumulators, 4 of weights, 2 of inputs


def choose_isa(triple: str, features: str) -> Isa:
    """The instruction set of a compilation target, by its triple first and its features second."""
    if not triple.startswith(("x86_64", "i686", "amd64")):
        return NEON
    enabled = set(features.split(","))
    if "+avx512f" in enabled:
        return AMX if {"+amx-tile", "+amx-bf16"} <= enabled else AVX512
    return AVX2 if {"+avx2", "+fma"} <= enabled else SSE


@dataclass(frozen=True)
class Micro:
    """A micro-kernel: its symbol, how many integers it takes, who writes its body, which may give an integer back, and whom it calls."""

    name: str
    arguments: int
    emit: Callable[..., Any]
    inline: bool = False
    calls: tuple[Micro, ...] = ()

    def __call__(self, *arguments: int) -> int:
        raise TypeError(f"{self.name} is machine code: only a compiled kernel can call it")


class Vectors:
    """Writes the body of one micro-kernel; values are LLVM values, offsets are bytes."""

    def __init__(self, builder: ir.IRBuilder, isa: Isa) -> None:
        self.builder = builder
        self.isa = isa
        self.type = ir.VectorType(FLOAT, isa.lanes)
        self.integers = ir.VectorType(I32, isa.lanes)
        self.parts = BLOCK // isa.lanes  # vectors in a channel block

    # -- scalars and addresses
    def integer(self, value: int) -> ir.Constant:
        return ir.Constant(I64, value)

    def pointer(self, address: Any) -> Any:
        return self.builder.inttoptr(address, POINTER)

    def at(self, pointer: Any, offset: Any) -> Any:
        """``pointer`` moved by ``offset`` bytes, a Python or an LLVM integer."""
        if isinstance(offset, int):
            if offset == 0:
                return pointer
            offset = self.integer(offset)
        return self.builder.gep(pointer, [offset], source_etype=I8)

    def times(self, value: Any, factor: int) -> Any:
        if isinstance(value, int):
            return value * factor
        return self.builder.mul(value, self.integer(factor))

    def load_integer(self, pointer: Any, offset: Any = 0) -> Any:
        return self.builder.load(self.at(pointer, offset), typ=I64, align=8)

    # -- vectors
    def constant(self, value: float) -> ir.Constant:
        return ir.Constant(self.type, [value] * self.isa.lanes)

    def load(self, pointer: Any, offset: Any = 0) -> Any:
        return self.builder.load(self.at(pointer, offset), typ=self.type, align=4)

    def store(self, value: Any, pointer: Any, offset: Any = 0) -> None:
        self.builder.store(value, self.at(pointer, offset), align=4)

    def splat(self, scalar: Any) -> Any:
        """A vector with ``scalar`` (float or 32-bit integer) in every lane."""
        kind = ir.VectorType(scalar.type, self.isa.lanes)
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(self.integers, [0] * self.isa.lanes))

    def load_splat(self, pointer: Any, offset: Any = 0) -> Any:
        return self.splat(self.builder.load(self.at(pointer, offset), typ=FLOAT, align=4))

    def load_pair(self, pointer: Any, offset: Any = 0) -> Any:
        """Two neighbouring numbers, in turn in all lanes."""
        pair = ir.VectorType(FLOAT, 2)
        both = self.builder.load(self.at(pointer, offset), typ=pair, align=4)
        lanes = ir.Constant(self.integers, [0, 1] * (self.isa.lanes // 2))
        return self.builder.shuffle_vector(both, ir.Constant(pair, ir.Undefined), lanes)

    def intrinsic(self, name: str, result: ir.Type, arguments: Sequence[Any]) -> Any:
        module = self.builder.module
        function = module.globals.get(name)
        if function is None:
            function = ir.Function(module, ir.FunctionType(result, [a.type for a in arguments]), name)
        return self.builder.call(function, arguments)

    def call(self, micro: Micro, *arguments: Any) -> Any:
        return self.builder.call(_declare(self.builder.module, micro), arguments)

    def prefetch(self, pointer: Any, offset: int, cache: int = 1) -> None:
        """Ask for the cache line at an address that will be read, into this cache and those behind it; harmless where there is none."""
        numbers = [ir.Constant(I32, number) for number in (0, 4 - cache, 1)]  # for reading, how near, data
        self.intrinsic("llvm.prefetch.p0", VOID, [self.at(pointer, offset), *numbers])

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """``a * b + c``; not llvm.fma, which is a call into libm for every lane where the CPU has no such instruction."""
        return self.intrinsic(f"llvm.fmuladd.v{self.isa.lanes}f32", self.type, [a, b, c])

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b)

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b)

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b)

    def add_neighbours(self, a: Any, b: Any) -> Any:
        """Sums of lanes 0 and 1, 2 and 3, ... of ``a``, then of ``b``."""
        even, odd = (ir.Constant(self.integers, list(range(first, 2 * self.isa.lanes, 2))) for first in (0, 1))
        return self.add(self.builder.shuffle_vector(a, b, even), self.builder.shuffle_vector(a, b, odd))

    def maximum(self, a: Any, b: Any) -> Any:
        """The greater of both; ``a`` where it is not a number."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), b, a)

    # -- control
    def loop(self, stop: Any, step: int, carried: Sequence[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """``for i in range(0, stop, step)`` with values carried from round to round; returns the last ones."""
        builder, before = self.builder, self.builder.block
        head, inside, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(I64)
        index.add_incoming(self.integer(0), before)
        values = [builder.phi(value.type) for value in carried]
        for phi, value in zip(values, carried, strict=True):
            phi.add_incoming(value, before)
        builder.cbranch(builder.icmp_signed("<", index, stop), inside, after)
        builder.position_at_end(inside)
        results = body(index, values)
        index.add_incoming(builder.add(index, self.integer(step)), builder.block)
        for phi, value in zip(values, results, strict=True):
            phi.add_incoming(value, builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return values

    def cases(self, number: Any, choices: Iterable[T], first: int = 0) -> Iterator[T]:
        """Every choice in turn: what is written meanwhile is done where ``number`` is that choice's, counted from ``first``."""
        done = self.builder.append_basic_block("done")
        switch = self.builder.switch(self.builder.trunc(number, I32), done)
        for index, choice in enumerate(choices, first):
            block = self.builder.append_basic_block("case")
            switch.add_case(ir.Constant(I32, index), block)
            self.builder.position_at_end(block)
            yield choice
            self.builder.branch(done)
        self.builder.position_at_end(done)

    def fence(self) -> None:
        """Keep the compiler (not the CPU) from moving loads and stores across this point: it would only spill them."""
        self.builder.fence("seq_cst", "singlethread")

    def pin(self, values: list[Any]) -> list[Any]:
        """Empty assembly that takes and gives back ``values``: what makes them must be issued before what follows.

        Without it LLVM hoists all broadcasts of a GEMM step to its start and spills the accumulators (30.0 against 22.8 ms
        for the whole of MoNet, Zen 5).
        """
        count = len(values)
        kind = ir.LiteralStructType([self.type] * count) if count > 1 else self.type
        constraints = ",".join([f"={self.isa.pin}"] * count + [str(i) for i in range(count)] + ["~{memory}"])
        assembly = ir.InlineAsm(ir.FunctionType(kind, [self.type] * count), "", constraints, side_effect=True)
        result = self.builder.call(assembly, values)
        return [self.builder.extract_value(result, i) for i in range(count)] if count > 1 else [result]


def emit_module(micros: Sequence[Micro], triple: str, isa: Isa) -> str:
    """The IR of all micro-kernels as one module's text."""
    module = ir.Module("micro")
    module.triple = triple
    for micro in micros:
        function = _declare(module, micro)
        function.attributes.add("alwaysinline" if micro.inline else "noinline")
        function.attributes.add("nounwind")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        result = micro.emit(Vectors(builder, isa), *function.args)
        builder.ret(ir.Constant(I64, 0) if result is None else result)
    return str(module)


def _declare(module: ir.Module, micro: Micro) -> ir.Function:
    """A micro-kernel's function, whether it has a body yet or not."""
    return module.globals.get(micro.name) or ir.Function(module, ir.FunctionType(I64, [I64] * micro.arguments), micro.name)
