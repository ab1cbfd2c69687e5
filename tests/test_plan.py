"""Fusion, the choice of algorithms, the places of buffers, and the estimate of memory."""

import numpy as np
import pytest
from conftest import random_tensors, tiny_nnunet

from monet_edge.architectures import attention_unet, monet, unet
from monet_edge.engine.algorithms import ALGORITHMS, families
from monet_edge.engine.arena import place
from monet_edge.engine.codegen import epilogue, jit
from monet_edge.engine.codegen.simd import AVX2, AVX512, NEON, SSE
from monet_edge.engine.codegen.step import HEAD, SOURCES, STEP, TARGET, step
from monet_edge.engine.fuse import fuse
from monet_edge.engine.plan import Plan
from monet_edge.engine.program import Program, lay_out
from monet_edge.errors import SpecError
from monet_edge.spec import INPUT, Op, Spec, fold_batchnorm, validate


def test_monet_becomes_a_layer_a_convolution():
    spec = fold_batchnorm(monet())
    layers = fuse(spec)
    assert len(layers) == sum(op.kind in ("conv", "deconv") for op in spec.ops) == 30
    by_name = {layer.name: layer for layer in layers}
    assert by_name["enc0.s1"].op.name == "enc0.f1"
    assert (by_name["enc0.s1"].mode, by_name["enc0.s1"].other) == (epilogue.RESIDUAL, "enc0.conv")
    assert by_name["dec0.conv"].inputs == ("enc0.f4", "dec0.up")


def test_unet_keeps_only_pooling_beside_convolutions():
    assert {layer.op.kind for layer in fuse(fold_batchnorm(unet(16)))} == {"conv", "deconv", "maxpool"}


def test_attention_adds_its_gates_inside_a_convolution():
    layers = {layer.name: layer for layer in fuse(fold_batchnorm(attention_unet(16)))}
    gate = layers["dec0.attention.sum"]
    assert (gate.op.name, gate.other, gate.mode) == ("dec0.attention.gate", "dec0.attention.skip", epilogue.SUM)


def test_a_residual_block_is_two_convolutions_and_what_they_are_normalised_by():
    layers = [layer for layer in fuse(tiny_nnunet(residual=True)) if layer.name.startswith("encoder.stages.1.blocks.0")]
    kinds = ["avgpool", "conv", "statistics", "instance_norm", "conv", "statistics", "instance_norm", "conv", "statistics", "instance_norm"]
    assert [layer.op.kind for layer in layers] == kinds
    last = layers[-1]
    assert (last.name, last.other, last.activation, last.slope) == (
        "encoder.stages.1.blocks.0", "encoder.stages.1.blocks.0.skip.1.norm", "leaky_relu", 0.01)  # fmt: skip


@pytest.mark.parametrize("network", [monet(), unet(16), attention_unet(16, classes=4)], ids=lambda spec: spec.name)
def test_unfused_every_op_is_a_layer(network):
    spec = fold_batchnorm(network)
    assert [layer.name for layer in fuse(spec, fused=False)] == [op.name for op in spec.ops]


@pytest.mark.parametrize("network", [monet(), unet(16), attention_unet(16), tiny_nnunet(residual=True)], ids=lambda spec: spec.name)
def test_every_value_is_made_before_it_is_read(network):
    known = {INPUT}
    for layer in fuse(fold_batchnorm(network)):
        assert set(layer.reads) <= known
        known.add(layer.name)


def conv(name, source, activation="none"):
    about = {"filters": 4, "kernel": 3, "stride": 1, "dilation": 1, "padding": 1, "bias": True}
    return Op(name, "conv", (source,), {**about, "activation": activation})


def add(first, second, activation="none"):
    return Op("sum", "add", (first, second), {"activation": activation})


BOTH = Op("c", "concat", ("a", INPUT), {})


@pytest.mark.parametrize(
    ("ops", "layers"),
    [
        ((conv("a", INPUT), conv("b", INPUT), add("b", "a")), ["a", "sum"]),  # into the later one, whichever is named first
        ((conv("a", INPUT), conv("b", "a"), add("a", "b")), ["a", "sum"]),
        ((conv("a", INPUT), add("a", INPUT), conv("b", "a"), Op("both", "concat", ("sum", "b"), {})), ["a", "sum", "b", "both"]),
        ((conv("a", INPUT, "relu"), add("a", INPUT, "relu")), ["a", "sum"]),  # two activations
        ((conv("a", INPUT, "relu"), add("a", INPUT)), ["sum"]),
        ((conv("a", INPUT), add("a", INPUT, "relu")), ["sum"]),
        ((conv("a", INPUT), BOTH, conv("b", "c")), ["a", "b"]),
        ((conv("a", INPUT), BOTH, conv("b", "c"), Op("p", "maxpool", ("c",), {"kernel": 2})), ["a", "c", "b", "p"]),
    ],
)
def test_ops_join_only_where_nothing_else_needs_what_they_make(ops, layers):
    assert [layer.name for layer in fuse(Spec("joined", 4, ops))] == layers


def test_monet_runs_on_its_fast_algorithms():
    spec = fold_batchnorm(monet())
    plan = Plan(spec, random_tensors(spec), AVX512)
    chosen = {stage.name: plan.algorithm(stage).name for stage in plan.stages}
    assert chosen.pop("enc0.conv") == "direct"
    assert chosen.pop("head") == "head1x1"
    assert set(chosen.values()) == {"winograd"}


def test_what_is_excluded_does_not_run():
    spec = fold_batchnorm(monet())
    tensors = random_tensors(spec)
    plan = Plan(spec, tensors, AVX2, exclude=("winograd", "head1x1"))
    assert plan.algorithms == {"direct", "im2col", "to_planes"}
    assert [stage.op.kind for stage in plan.stages if stage not in plan.layers] == ["to_planes"]
    assert Plan(spec, tensors, AVX2, exclude=("direct",)).stages[0].op.kind == "from_planes"
    with pytest.raises(SpecError, match=r"'enc0.conv' .conv. is left without an algorithm"):
        Plan(spec, tensors, AVX2, exclude=("direct", "winograd", "im2col"))
    with pytest.raises(SpecError, match=r"no algorithm is called gemm; known are direct, head1x1, winograd"):
        Plan(spec, tensors, AVX2, exclude=("gemm",))


def test_a_field_that_two_algorithms_have_means_the_same_in_both():
    """There are no others than these."""
    assert len({algorithm.name for algorithm in ALGORITHMS}) == len(ALGORITHMS)
    assert {algorithm.kernel.step.itemsize for algorithm in ALGORITHMS} == {STEP.itemsize}
    users = {}
    for algorithm in ALGORITHMS:
        for name in algorithm.kernel.step.names:
            users.setdefault(name, set()).add(algorithm.name)
    shared = {name for name, names in users.items() if len(names) > 1}
    general = {*HEAD, *TARGET, *SOURCES, *epilogue.EPILOGUE, "V", "M", "weights", "channels", "in_stride", "out_stride", "width"}
    assert shared - general <= {"image", "image_row", "output", "output_row", "output_plane", "strip", "places", "tiles", "tile", "parts"}


def test_a_step_of_too_many_fields_is_refused():
    with pytest.raises(ValueError, match="room for 35 fields, found 36"):
        step(*map(str, range(30)))


def test_buffers_that_live_together_do_not_touch(rng):
    for _ in range(200):
        lives = []
        for _ in range(rng.integers(1, 30)):
            first = int(rng.integers(0, 20))
            lives.append((int(rng.integers(1, 9)) * 64, first, first + int(rng.integers(0, 8))))
        offsets, size = place(lives)
        for i, (bytes_i, first_i, last_i) in enumerate(lives):
            assert 0 <= offsets[i] <= size - bytes_i
            for j in range(i):
                bytes_j, first_j, last_j = lives[j]
                if first_i <= last_j and first_j <= last_i:
                    assert offsets[i] + bytes_i <= offsets[j] or offsets[j] + bytes_j <= offsets[i]


def test_memory_is_reused():
    """MoNet makes 30 values of up to 4 MB; no more than the skips and a few others exist at a time."""
    spec = fold_batchnorm(monet())
    program = Program(Plan(spec, random_tensors(spec), jit.target().isa), jit.load(families()).addresses, 256, 256)
    program.settle()
    assert program.memory.arena.nbytes <= 20 << 20


@pytest.mark.parametrize("read_later", [False, True])
def test_a_normalisation_is_written_over_what_it_is_made_from_unless_that_is_read_later(read_later):
    about = {"filters": 8, "kernel": 5, "stride": 1, "dilation": 1, "padding": 2, "bias": True, "activation": "none"}
    norm = {"eps": 1e-5, "activation": "none"}
    ops = [Op("a", "conv", (INPUT,), about), Op("n", "instance_norm", ("a",), norm), Op("m", "instance_norm", ("n",), norm),
           Op("b", "conv", ("m",), about), Op("s", "add", ("b", "a" if read_later else "m"), {"activation": "none"})]  # fmt: skip
    spec = validate(Spec("net", 3, tuple(ops)))
    plan = Plan(spec, random_tensors(spec), AVX2)
    offsets = {value: buffer.offset for value, buffer in lay_out(plan, 9, 9).buffers.items()}
    assert offsets["n"] == offsets["m"] != offsets["s"]  # m is the residual
    assert (offsets["n"] == offsets["a"]) == (not read_later)
    kept = lay_out(plan, 9, 9, keep=True).buffers
    assert len({buffer.offset for buffer in kept.values()}) == len(kept)


@pytest.mark.parametrize(
    "network", [monet(), unet(16, in_channels=50), attention_unet(16, classes=3), tiny_nnunet(True)], ids=lambda spec: spec.name
)
@pytest.mark.parametrize(("threads", "slices"), [(1, 1), (1, 2), (3, 1)])
def test_the_memory_estimate_is_what_a_program_takes(network, threads, slices):
    spec = fold_batchnorm(network)
    plan = Plan(spec, random_tensors(spec), jit.target().isa, sides=(64, 48))
    program = Program(plan, jit.load(families()).addresses, 64, 48, threads, slices=slices)
    program.settle()
    memory = program.memory
    real = memory.arena.nbytes + sum(image.base.nbytes for image in memory.images) + sum(output.nbytes for output in memory.outputs)
    assert abs(lay_out(plan, 64, 48, threads, slices=slices).nbytes - real) <= 4096


@pytest.mark.parametrize("isa", [AVX512, AVX2, SSE, NEON], ids=lambda isa: isa.name)
def test_no_weight_is_lost_in_packing(isa):
    """Packing only re-orders and pads: the sum over a layer's packed weights is that of the plain ones."""
    about = {"stride": 2, "padding": 0, "bias": True, "activation": "none"}
    down = Op("down", "conv", (INPUT,), {"filters": 20, "kernel": 4, "dilation": 1, **about})  # sixteen taps
    up = Op("up", "deconv", ("down",), {"filters": 12, "kernel": 2, **about})  # four phases in one
    odd = Op("odd", "deconv", ("up",), {"filters": 12, "kernel": 3, **about})  # four phases of 4, 2, 2 and 1 taps
    spec = Spec("packed", 12, (down, up, odd))
    tensors = random_tensors(spec)
    plan = Plan(spec, tensors, isa)
    for layer in ("down", "up", "odd"):
        fields, weight = plan.packed[layer].fields, tensors[f"{layer}.weight"]
        weights = fields["weights"]
        assert plan.suitable[layer][0].name == "im2col"
        np.testing.assert_allclose(weights.sum(dtype=np.float64), weight.sum(dtype=np.float64), atol=1e-3)
        assert np.count_nonzero(weights) == np.count_nonzero(weight)
        assert all(fields[name].ctypes.data % 64 == 0 for name in ("weights", "parameters"))
        assert not (fields["phases"]["weights"] % 64).any()


@pytest.mark.parametrize(("threads", "slices"), [(1, 2), (2, 1)])
def test_a_program_runs_in_any_arena(threads, slices):
    spec = fold_batchnorm(tiny_nnunet(residual=True))
    plan, code = Plan(spec, random_tensors(spec), jit.target().isa, sides=(64, 48)), jit.load(families())
    program, found = Program(plan, code.addresses, 64, 48, threads, slices=slices), []
    for turn in range(3):
        program.settle(np.full(program.layout.arena + 64 * turn, 255, np.uint8))  # of NaN
        program.begin()
        for image in program.memory.images:
            image[...] = np.random.default_rng(0).standard_normal(image.shape)
        for steps in program.steps[-1:] if slices > 1 else program.steps:
            code.run(steps.ctypes.data, 0, len(steps))
        found.append(np.stack(program.memory.outputs))
        program.memory.arena[:] = 255
    assert np.isfinite(found).all()
    assert (found == found[0]).all()
