"""The micro-kernels compiled for CPUs that are not here, and what their assembly must look like."""

import re

import llvmlite.binding as llvm
import pytest

from monet_edge.engine import FAMILIES
from monet_edge.engine.codegen import gemm, jit
from monet_edge.engine.codegen.simd import AMX, AVX2, AVX512, NEON, SSE, choose_isa, emit_module

TARGETS = {
    "avx512": (jit.Target("x86_64-unknown-linux-gnu", "skylake-avx512", "+avx512f,+avx512vl,+avx512dq,+avx512bw,+avx2,+fma"), AVX512),
    "amx": (
        jit.Target("x86_64-unknown-linux-gnu", "sapphirerapids", "+avx512f,+avx512vl,+avx512dq,+avx512bw,+avx2,+fma,+amx-tile,+amx-bf16"),
        AMX,
    ),
    "avx2": (jit.Target("x86_64-unknown-linux-gnu", "haswell", "+sse4.2,+avx,+avx2,+fma"), AVX2),
    "sse": (jit.Target("x86_64-unknown-linux-gnu", "nehalem", "+sse4.2"), SSE),
    "neon": (jit.Target("aarch64-unknown-linux-gnu", "cortex-a72", "+neon"), NEON),
}
FOREIGN = {  # mnemonics and registers that this CPU does not have
    "avx512": r"fmla|\bxmm\d+, %xmm\d+, %xmm\d+, %xmm|tmm|tile",
    "amx": r"fmla|\bxmm\d+, %xmm\d+, %xmm\d+, %xmm",
    "avx2": r"%zmm|%k[0-7]|%[xy]mm(1[6-9]|2\d|3[01])",
    "sse": r"%ymm|%zmm|^\s+v[a-z]+",
    "neon": r"%[xyz]mm|\bfmaf?\b\s*$|bl\s+fmaf",
}
PRODUCT = {"avx512": r"vfmadd\d+ps", "amx": r"vfmadd\d+ps", "avx2": r"vfmadd\d+ps", "sse": r"\bmulps", "neon": r"\bfmla\b"}
SPILL = {"neon": r"\b(str|ldr|stp|ldp)\s+q\d+.*\[(sp|x29)"}  # vectors through the stack

MICROS = jit.micros_of(kernel for kernels in FAMILIES.values() for kernel in kernels)


@pytest.fixture(scope="module", params=TARGETS)
def assembly(request):
    """Name of a target and the instructions of every micro-kernel on it."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.initialize_native_asmparser()
    target, isa = TARGETS[request.param]
    module = llvm.parse_assembly(emit_module(MICROS, target.triple, isa))
    machine = jit.machine_for(target)
    jit.optimise(module, machine)
    functions, name = {}, None
    for line in machine.emit_assembly(module).splitlines():
        label = re.match(r"(\w+):", line)
        if label:
            name = label[1]
            functions[name] = []
        elif name and re.match(r"\s+[a-z]", line):
            functions[name].append(line)
    return request.param, functions


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_told_by_triple_and_features(name):
    target, isa = TARGETS[name]
    assert choose_isa(target.triple, target.features) == isa


@pytest.mark.slow
def test_all_are_there_and_nothing_is_foreign(assembly):
    name, functions = assembly
    assert {micro.name for micro in MICROS if not micro.inline} <= functions.keys()
    lines = [line for code in functions.values() for line in code]
    assert not [line for line in lines if re.search(FOREIGN[name], line)]


@pytest.mark.parametrize("micro", ["gemm", "gemm_tiles"])
def test_the_matrix_product_has_its_products_and_no_spills(assembly, micro):
    name, functions = assembly
    isa = TARGETS[name][1]
    code = functions[micro]
    tiles = [isa.wide] if isa.wide == isa.narrow else [isa.wide, isa.narrow]
    rows = [(height, width) for height, width in tiles] + [(isa.tail, width) for height, width in tiles if height != isa.tail]
    expected = sum(height * width // isa.lanes for height, width in rows) * gemm.STEPS
    assert len([line for line in code if re.search(PRODUCT[name], line)]) == expected
    spill = SPILL.get(name, r"mov[au]ps.*\(%rsp\)")
    assert not [line for line in code if re.search(spill, line)]


def test_amx_has_six_products_of_a_tile_and_no_spills(assembly):
    name, functions = assembly
    code = functions.get("amx_product", [])
    tiles = 1 + 2 + 3 + 4 if name == "amx" else 0
    assert len([line for line in code if "tdpbf16ps" in line]) == 6 * tiles
    assert not [line for line in code if re.search(r"zmm.*\(%rsp\)", line)]


def test_winograd_does_not_spill_where_there_are_32_registers(assembly):
    name, functions = assembly
    if TARGETS[name][1].lanes == 16 or name == "neon":
        spill = SPILL.get(name, r"mov[au]ps.*\(%rsp\)")
        assert len([line for line in functions["winograd_input"] if re.search(spill, line)]) <= 12  # callee-saved ones on ARM


def test_nothing_outside_is_called(assembly):
    """The object file must stand alone: LLVM likes to make memset and memcpy of loops."""
    _, functions = assembly
    assert not [line for code in functions.values() for line in code if re.search(r"\b(mem(set|cpy|move)|fmaf|expf)\b", line)]
