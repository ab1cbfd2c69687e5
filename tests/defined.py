"""Ops, and networks of a few of them run by the kernels and compared with their definition."""

import naive
import numpy as np
from conftest import random_tensors

from monet_edge.engine.algorithms import families
from monet_edge.engine.codegen import jit
from monet_edge.engine.fuse import BEFORE
from monet_edge.engine.plan import Plan
from monet_edge.engine.program import Program
from monet_edge.spec import INPUT, Op, Spec, validate

TOLERANCE = 2e-5  # of the largest value; measured: 4e-6 for Winograd, 1e-6 for GEMM


def conv(name, x, filters, kernel=3, stride=1, dilation=1, padding=None, bias=True, activation="none"):
    padding = dilation * (kernel - 1) // 2 if padding is None else padding
    return Op(name, "conv", (x,), {"filters": filters, "kernel": kernel, "stride": stride, "dilation": dilation,
                                   "padding": padding, "bias": bias, "activation": activation})  # fmt: skip


def conv_transpose(name, x, filters, kernel, stride, padding, bias=True, activation="none"):
    return Op(name, "deconv", (x,), {"filters": filters, "kernel": kernel, "stride": stride, "padding": padding,
                                     "bias": bias, "activation": activation})  # fmt: skip


def norm(name, x, activation="none", eps=1e-5):
    return op(name, "instance_norm", x, eps=eps, activation=activation, **({"slope": 0.01} if activation == "leaky_relu" else {}))


def op(name, kind, *inputs, **attrs):
    return Op(name, kind, inputs, attrs)


def uncommon():
    """What nnU-Net's plans may ask for and its default ones do not: transposed convolutions and averages of any sides, LeakyReLU alone."""
    leaky = {"activation": "leaky_relu", "slope": 0.1}
    first = conv("a", INPUT, 20)
    ops = [
        Op("a", "conv", first.inputs, {**first.attrs, **leaky}),
        conv_transpose("b", "a", 18, (3, 4), (2, 3), (1, 0)),
        norm("c", "b", "leaky_relu"),
        op("d", "avgpool", "c", kernel=(1, 3)),
        conv("e", "d", 40, 3, 2, padding=1),
        norm("f", "e"),
        conv_transpose("g", "f", 20, 5, 1, 2),
        op("h", "avgpool", "g", kernel=2),
        norm("i", "h", "elu"),
        conv_transpose("j", "i", 5, (2, 4), (2, 4), 0),
    ]
    return validate(Spec("uncommon", 2, tuple(ops)))


def run(program):
    code = jit.load(families())
    assert code.run(program.steps[0].ctypes.data, 0, len(program.steps[0])) == len(program.steps[0])


def assert_as_defined(ops, channels, height, width, algorithm=None, image=None, fused=True, sides=None):
    """Run ops three times, compare every value of the last run with the definition; ``algorithm`` must be among those used."""
    spec = validate(Spec("test", channels, tuple(ops)))
    tensors = random_tensors(spec, seed=height * 1000 + width)
    if image is None:
        image = np.random.default_rng(width).standard_normal((channels, height, width)).astype(np.float32)
    plan = Plan(spec, tensors, jit.target().isa, fused, sides=sides)
    if algorithm:
        assert algorithm in plan.algorithms
    program = Program(plan, jit.load(families()).addresses, height, width, keep=True)
    program.settle()
    for _ in range(3):  # buffers that hold the last run must not show in the next
        program.begin()[...] = image
        run(program)
    reference = naive.values(spec, tensors, image)
    for layer in plan.layers:
        if layer.name.endswith(BEFORE):  # no value of the Spec
            continue
        ref, comp = reference[layer.name], program.memory.value(layer.name)
        assert comp.shape == ref.shape
        assert np.abs(comp - ref).max() <= TOLERANCE * max(1, np.abs(ref).max()), layer.name
    return plan, program
