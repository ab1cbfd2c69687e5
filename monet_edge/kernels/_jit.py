"""Turns the kernels into machine code, once for a CPU, and keeps it. The only module that knows about Numba and targets.

Numba translates the loops (plain Python functions of one `STEP` record), llvmlite the micro-kernels they call; both are
linked into one object file a family. Later processes load it through llvmlite and never import Numba, which would cost more
time and memory than a slice.

The file's name holds the version of the package and a hash of everything the code depends on: the sources of this package,
Numba, the CPU. Without a folder that can be written everything works, and compiles in every process.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np

from . import _cache, gemm, planes, pointwise, winograd
from .simd import Isa, Micro, choose_isa, emit_module
from .step import STEP, offset

Kernel = Callable[[Any], None]
# Each family is compiled into a file of its own when one of its kernels is first asked for: a MoNet with one label needs the
# first only.
FAMILIES: dict[str, tuple[Kernel, ...]] = {
    "monet": (winograd.conv_winograd, planes.conv_planes, planes.conv_dot),
    "others": (
        gemm.conv_gemm,
        pointwise.maxpool,
        pointwise.pointwise,
        pointwise.product,
        pointwise.concat,
        pointwise.softmax_pixels,
        planes.from_planes,
        planes.to_planes,
    ),
}


def micros_of(kernels: Iterable[Kernel]) -> tuple[Micro, ...]:
    """The micro-kernels that ``kernels`` call."""
    called = [kernel.__globals__.get(name) for kernel in kernels for name in kernel.__code__.co_names]
    return tuple({value.name: value for value in called if isinstance(value, Micro)}.values())


# The interpreter of a program. A kernel is called as Numba compiles it, (result, exception, step) -> status. A step that threads
# share has a claim, a number: 0 while it is to be done, 1 when a thread has taken it, 2 when it is done; who finds another than 0
# passes it by. Before it is taken, the steps that it needs must be done. `run` looks a while whether they are, and then gives up
# rather than keep a core busy whose other thread may not be running: it returns the index of the step, which is `end` when all
# steps are behind it. The caller yields and goes on from there.
_RUN = f"""
define i64 @run(i64 %first, i64 %begin, i64 %end) {{
entry:
  %result = alloca ptr
  %exception = alloca ptr
  br label %head
head:
  %i = phi i64 [%begin, %entry], [%j, %next]
  %more = icmp slt i64 %i, %end
  br i1 %more, label %body, label %stop
body:
  %offset = mul i64 %i, {STEP.itemsize}
  %address = add i64 %first, %offset
  %step = inttoptr i64 %address to ptr
  %claim_at = getelementptr i8, ptr %step, i64 {offset("claim")}
  %claim = load ptr, ptr %claim_at
  %shared = icmp ne ptr %claim, null
  br i1 %shared, label %read, label %take
read:
  %needs_at = getelementptr i8, ptr %step, i64 {offset("needs")}
  %need_count_at = getelementptr i8, ptr %step, i64 {offset("need_count")}
  %needs = load ptr, ptr %needs_at
  %need_count = load i64, ptr %need_count_at
  br label %look
look:
  %looks = phi i64 [0, %read], [%looked, %again]
  %seen = load atomic i64, ptr %claim acquire, align 8
  %open = icmp eq i64 %seen, 0
  br i1 %open, label %need, label %next
need:
  %n = phi i64 [0, %look], [%met, %made]
  %all = icmp eq i64 %n, %need_count
  br i1 %all, label %exchange, label %ask
ask:
  %need_at = getelementptr i64, ptr %needs, i64 %n
  %state = load atomic i64, ptr %need_at acquire, align 8
  %ready = icmp eq i64 %state, 2
  br i1 %ready, label %made, label %again
made:
  %met = add i64 %n, 1
  br label %need
again:
  %looked = add i64 %looks, 1
  %patient = icmp slt i64 %looked, 200000
  br i1 %patient, label %look, label %stop
exchange:
  %found = cmpxchg ptr %claim, i64 0, i64 1 seq_cst monotonic
  %free = extractvalue {{ i64, i1 }} %found, 1
  br i1 %free, label %take, label %next
take:
  %kernel = load ptr, ptr %step
  %status = call i32 %kernel(ptr %result, ptr %exception, ptr %step)
  br i1 %shared, label %tell, label %next
tell:
  store atomic i64 2, ptr %claim release, align 8
  br label %next
next:
  %j = add i64 %i, 1
  br label %head
stop:
  ret i64 %i
}}
"""

Progress = Callable[[int, int, str], None]  # done, total, what
Report = Callable[[int, str], None]  # done, what


@dataclass(frozen=True)
class Target:
    """What code is compiled for. Numba's own settings of the CPU are honoured, so that an older CPU can be tried."""

    triple: str
    cpu: str
    features: str

    @property
    def isa(self) -> Isa:
        return choose_isa(self.triple, self.features)


@cache
def target() -> Target:
    """The target that Numba compiles for in this process."""
    cpu, features = os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = "" if cpu == "generic" else llvm.get_host_cpu_features().flatten()
    return Target(llvm.get_process_triple(), cpu or llvm.get_host_cpu_name(), features)


@dataclass(frozen=True)
class Kernels:
    """Machine code, ready to run: the addresses of kernels, and the interpreter."""

    isa: Isa
    addresses: dict[str, int]
    run: Callable[[int, int, int], int]  # (steps, begin, end) -> where it stopped; releases the GIL
    engines: tuple[Any, ...]  # own the memory of the code


_lock = threading.Lock()
_engines: dict[str, Any] = {}  # of the families that this process has loaded


def load(names: Iterable[str] | None = None, progress: Progress | None = None) -> Kernels:
    """The kernels of this process, from the cache or compiled now.

    Parameters
    ----------
    names : iterable of str, optional
        Kernels that are needed; all if not given.
    progress : callable, optional
        Called as ``progress(done, total, name)`` while compiling; never when the cache has them.
    """
    wanted = None if names is None else set(names)
    with _lock:
        needed = [family for family, kernels in FAMILIES.items() if wanted is None or wanted & _names(kernels)]
        total = sum(len(FAMILIES[family]) + 1 for family in needed)
        done = 0
        for family in needed:
            if family not in _engines:
                _engines[family] = _load(family, progress and partial(_tell, progress, done, total))
            done += len(FAMILIES[family]) + 1
        engines = [_engines[family] for family in needed]
        addresses = {name: _engines[family].get_function_address(name) for family in needed for name in _names(FAMILIES[family])}
    run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(engines[0].get_function_address("run"))
    return Kernels(target().isa, addresses, run, tuple(engines))


def is_cached() -> bool:
    """Whether `load` of everything is quick: all kernels are compiled for this CPU already."""
    return all(family in _engines or _cache.read(_cache_file(family)) is not None for family in FAMILIES)


def is_kept() -> bool:
    """Whether the cache folder holds all kernels."""
    return all(_cache.read(_cache_file(family)) is not None for family in FAMILIES)


def _tell(progress: Progress, before: int, total: int, done: int, name: str) -> None:
    progress(before + done, total, name)


def _names(kernels: Iterable[Kernel]) -> set[str]:
    return {kernel.__name__ for kernel in kernels}


@cache
def _cache_file(family: str) -> Path | None:
    return _cache.locate(family, (target(), version("numba"), llvmlite.__version__, np.__version__, sys.version))


def _load(family: str, report: Report | None) -> Any:
    """LLVM's engine with the code of a family."""
    for initialize in (llvm.initialize_native_target, llvm.initialize_native_asmprinter, llvm.initialize_native_asmparser):
        initialize()
    file = _cache_file(family)
    code = _cache.read(file)
    if code is None:
        code = compile_object(FAMILIES[family], target(), report)
        _cache.write(file, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine_for(target()))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def machine_for(target: Target) -> Any:
    """LLVM's code generator, with the same relocation and code model as Numba's just-in-time compiler."""
    reloc = "static" if target.triple.startswith("x86_64") else "default"
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc=reloc, codemodel="jitdefault", jit=True
    )


# -- compiling


def compile_object(kernels: tuple[Kernel, ...], target: Target, report: Report | None = None) -> bytes:
    """Compile kernels and what they call, each exactly once, into one object file."""
    report = report or (lambda done, name: None)
    module = llvm.parse_assembly(emit_module(micros_of(kernels), target.triple, target.isa))
    module.link_in(llvm.parse_assembly(_RUN))
    for done, kernel in enumerate(kernels):
        report(done, kernel.__name__)
        module.link_in(_translate(kernel))
    report(len(kernels), "machine code")
    machine = machine_for(target)
    public = {"run"} | _names(kernels)
    for function in module.functions:
        if not function.is_declaration and function.name not in public:
            function.linkage = "internal"
    optimise(module, machine)
    code = machine.emit_object(module)
    report(len(kernels) + 1, "done")
    return code


def optimise(module: Any, machine: Any) -> None:
    """LLVM's passes over the linked module, but unrolling and vectorising: the loops had it by Numba, the micro-kernels by hand."""
    tuning = llvm.PipelineTuningOptions(speed_level=2)
    tuning.loop_unrolling = tuning.loop_vectorization = tuning.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)


def _translate(kernel: Callable[[Any], None]) -> Any:
    """Numba's LLVM module of one loop, its micro-kernels left as external symbols, no wrappers for Python."""
    import numba
    from numba.core import compiler, registry, types

    externals = {
        name: types.ExternalFunction(value.name, types.int64(*[types.int64] * value.arguments))
        for name, value in kernel.__globals__.items()
        if isinstance(value, Micro)
    }
    function = FunctionType(kernel.__code__, {**kernel.__globals__, **externals}, kernel.__name__)
    flags: Any = compiler.Flags()
    flags.no_compile = True  # to IR only
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    flags.nrt = False  # nothing is allocated
    flags.error_model = "numpy"  # a division does not check for zero
    flags.no_rewrites = True  # of array expressions: there are none
    flags.enable_ssa = False  # a variable keeps one type anyway; with the line above, a quarter less time to translate
    cpu = registry.cpu_target
    result = compiler.compile_extra(cpu.typing_context, cpu.target_context, function, (numba.from_dtype(STEP),), types.none, flags, {})
    module = llvm.parse_assembly(result.library.get_llvm_str())
    module.get_function(result.fndesc.llvm_func_name).name = kernel.__name__
    return module
