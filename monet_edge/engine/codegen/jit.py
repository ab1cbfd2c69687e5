"""Turns the kernels into machine code, once for a CPU, and keeps it. The only module that knows about Numba and targets.

Numba translates the loops (plain Python functions of one step), llvmlite the micro-kernels they call; both are linked into
one object file a family; one of micro-kernels only needs no Numba. Later processes load it through llvmlite and never import
Numba, which would cost more time and memory than a slice.

The file's name holds the version of the package and a hash of everything the code depends on: the sources of the engine,
Numba, the CPU. Without a folder that can be written everything works, and compiles in every process.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np

from ... import system
from . import cache as store
from . import interpreter
from .simd import Isa, Micro, choose_isa, emit_module

Progress = Callable[[int, int, str], None]  # done, total, what
Report = Callable[[int, str], None]  # done, what


@dataclass(frozen=True)
class Kernel:
    """A loop that Numba translates: a function of one step, and the record that its step is."""

    function: Callable[[Any], None]
    step: np.dtype

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def micros(self) -> dict[str, Micro]:
        """The micro-kernels that it calls, by the names it has for them."""
        called = {name: self.function.__globals__.get(name) for name in self.function.__code__.co_names}
        return {name: value for name, value in called.items() if isinstance(value, Micro)}


# What is called by its address: loops, or micro-kernels that are whole in themselves.
Kernels = tuple[Kernel | Micro, ...]
# Kernels by the object file they are compiled into, whole, when one of them is first asked for.
Families = Mapping[str, Kernels]


def micros_of(kernels: Iterable[Kernel | Micro]) -> tuple[Micro, ...]:
    """The micro-kernels among ``kernels``, and those that they call."""
    found: dict[str, Micro] = {}
    ahead = [micro for kernel in kernels for micro in ([kernel] if isinstance(kernel, Micro) else kernel.micros.values())]
    for micro in ahead:
        if micro.name not in found:
            found[micro.name] = micro
            ahead.extend(micro.calls)
    return tuple(found.values())


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
    if "+amx" in features and not system.allow_tiles():
        features = ",".join(feature for feature in features.split(",") if not feature.startswith("+amx"))
    return Target(llvm.get_process_triple(), cpu or llvm.get_host_cpu_name(), features)


@dataclass(frozen=True)
class Code:
    """Machine code, ready to run: the addresses of kernels by name, and the interpreter."""

    addresses: dict[str, int]
    run: Callable[[int, int, int], int]  # (steps, begin, end) -> where it stopped; releases the GIL
    engines: tuple[Any, ...]  # own the memory of the code


_lock = threading.Lock()
_engines: dict[str, Any] = {}  # of the families that this process has loaded


def load(families: Families, progress: Progress | None = None) -> Code:
    """The machine code of families of kernels, from the cache or compiled now.

    Parameters
    ----------
    families : mapping of str to tuple of Kernel
    progress : callable, optional
        Called as ``progress(done, total, name)`` while compiling; never when the cache has them.
    """
    with _lock:
        total = sum(len(kernels) + 1 for kernels in families.values())
        done = 0
        for family, kernels in families.items():
            if family not in _engines:
                _engines[family] = _load(family, kernels, progress and partial(_tell, progress, done, total))
            done += len(kernels) + 1
        engines = [_engines[family] for family in families]
        addresses = {kernel.name: _engines[family].get_function_address(kernel.name) for family in families for kernel in families[family]}
    run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(engines[0].get_function_address("run"))
    return Code(addresses, run, tuple(engines))


def is_loaded(families: Families) -> bool:
    """Whether this process has the code of all ``families`` already."""
    return all(family in _engines for family in families)


def is_kept(families: Families) -> bool:
    """Whether the cache folder holds the code of all ``families``."""
    return all(store.read(_cache_file(family)) is not None for family in families)


def _tell(progress: Progress, before: int, total: int, done: int, name: str) -> None:
    progress(before + done, total, name)


@cache
def _cache_file(family: str) -> Path | None:
    return store.locate(family, (target(), store.release("numba"), llvmlite.__version__, np.__version__, sys.version))


def _load(family: str, kernels: Kernels, report: Report | None) -> Any:
    """LLVM's engine with the code of a family."""
    for initialize in (llvm.initialize_native_target, llvm.initialize_native_asmprinter, llvm.initialize_native_asmparser):
        initialize()
    file = _cache_file(family)
    code = store.read(file)
    if code is None:
        code = compile_object(kernels, target(), report)
        store.write(file, code)
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


def compile_object(kernels: Kernels, target: Target, report: Report | None = None) -> bytes:
    """Compile kernels and what they call, each exactly once, into one object file."""
    report = report or (lambda done, name: None)
    module = llvm.parse_assembly(emit_module(micros_of(kernels), target.triple, target.isa))
    module.link_in(llvm.parse_assembly(interpreter.IR))
    for done, kernel in enumerate(kernels):
        report(done, kernel.name)
        if isinstance(kernel, Kernel):
            module.link_in(_translate(kernel))
    report(len(kernels), "machine code")
    machine = machine_for(target)
    public = {"run", *(kernel.name for kernel in kernels)}
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


def _translate(kernel: Kernel) -> Any:
    """Numba's LLVM module of one loop, its micro-kernels left as external symbols, no wrappers for Python."""
    import numba
    from numba.core import compiler, registry, types

    externals = {
        name: types.ExternalFunction(micro.name, types.int64(*[types.int64] * micro.arguments)) for name, micro in kernel.micros.items()
    }
    function = FunctionType(kernel.function.__code__, {**kernel.function.__globals__, **externals}, kernel.name)
    flags: Any = compiler.Flags()
    flags.no_compile = True  # to IR only
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    flags.nrt = False  # nothing is allocated
    flags.error_model = "numpy"  # a division does not check for zero
    flags.no_rewrites = True  # of array expressions: there are none
    flags.enable_ssa = False  # a variable keeps one type anyway; with the line above, a quarter less time to translate
    cpu = registry.cpu_target
    # not public, like the flags: pyproject.toml bounds Numba's version for it
    result = compiler.compile_extra(
        cpu.typing_context, cpu.target_context, function, (numba.from_dtype(kernel.step),), types.none, flags, {}
    )
    module = llvm.parse_assembly(result.library.get_llvm_str())
    module.get_function(result.fndesc.llvm_func_name).name = kernel.name
    return module
