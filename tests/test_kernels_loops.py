"""The translator of kernels: what it compiles gives what Python gives, and what it does not know it refuses."""

import ctypes
import itertools
import types

import llvmlite.binding as llvm
import numpy as np
import pytest

from monet_edge.kernels import _jit
from monet_edge.kernels.loops import translate
from monet_edge.kernels.memory import least, most, peek, poke
from monet_edge.kernels.simd import emit_module
from monet_edge.kernels.step import STEP

SCALE = 7  # a constant of the module


def arithmetic(s):
    """Every operator; results one after the other at ``target``."""
    a, b, d = s.y0, s.y1, s.strip
    poke(s.target, a + b)
    poke(s.target + 8, a - b)
    poke(s.target + 16, a * b * SCALE)
    poke(s.target + 24, a // d)
    poke(s.target + 32, a % d)
    poke(s.target + 40, -a)
    poke(s.target + 48, least(a, b))
    poke(s.target + 56, most(a, b))
    poke(s.target + 64, a if a < b else b)
    a, b = b, a
    poke(s.target + 72, a)
    poke(s.target + 80, peek(s.target + 72) + b)


def conditions(s):
    a, b = s.y0, s.y1
    count = 0
    if a < b:
        count += 1
    if a <= b and b:
        count += 2
    if a > b or b >= a:
        count += 4
    if a == b:
        count += 8
    else:
        count += 16
    if a != b:
        count += 32
    elif a:
        count += 64
    poke(s.target, count)


def loops(s):
    total = 0
    for i in range(s.strip):
        for j in range(s.y0, s.y1):
            total += i * j
    for k in range(s.y0, s.y1, s.strip):
        total += k
        limit = k
        while limit > 3:
            limit //= 2
            total += limit
    poke(s.target, total)


def compiled(kernel):
    """``kernel`` as machine code, from a step's address to 0."""
    _jit.load()  # initialises LLVM
    module = emit_module([peek, poke, least, most], _jit.target().triple, _jit.target().isa)
    translate(kernel, module)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), _jit.machine_for(_jit.target()))
    engine.finalize_object()
    function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(engine.get_function_address(kernel.__name__))
    function.engine = engine
    return function


def interpreted(kernel, step, results):
    """The same source run by Python, with micro-kernels in Python."""
    base = int(step["target"])
    names = {"least": min, "most": max, "SCALE": SCALE, "peek": lambda address: int(results[(address - base) // 8]),
             "poke": lambda address, value: results.__setitem__((address - base) // 8, value)}  # fmt: skip
    fields = types.SimpleNamespace(**{name: int(step[name]) for name in STEP.names})
    types.FunctionType(kernel.__code__, names | {"range": range, "__builtins__": __builtins__})(fields)


@pytest.mark.parametrize("kernel", [arithmetic, conditions, loops], ids=lambda kernel: kernel.__name__)
def test_machine_code_gives_what_python_gives(kernel):
    function = compiled(kernel)
    for y0, y1, strip in itertools.product((-13, -6, -1, 0, 1, 5, 12), (-7, 0, 3, 12, 40), (1, 3, 6)):
        comp, ref = np.zeros(16, np.int64), np.zeros(16, np.int64)
        step = np.zeros(1, STEP)[0]
        step["y0"], step["y1"], step["strip"], step["target"] = y0, y1, strip, comp.ctypes.data
        memory = np.array([step], STEP)
        assert function(memory.ctypes.data) == 0
        interpreted(kernel, step, ref)
        assert np.array_equal(comp, ref), (y0, y1, strip)


@pytest.mark.parametrize(
    "line", ["x = s.y0 / 2", "x = [1]", "x = 1.5", "print(1)", "return 1", "x = unknown", "s.y0 = 1", "x: int = 1", "x = 1 < 2 < 3"]
)
def test_what_is_not_known_is_refused_by_name(line, tmp_path, monkeypatch):
    (tmp_path / "odd.py").write_text(f"def odd(s):\n    {line}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import odd

    monkeypatch.delitem(__import__("sys").modules, "odd")
    with pytest.raises(SyntaxError, match="odd"):
        translate(odd.odd, emit_module([], _jit.target().triple, _jit.target().isa))
