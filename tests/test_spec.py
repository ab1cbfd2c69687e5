"""The language of networks: the paper's counts hold, and nothing invalid gets through."""

import json
from dataclasses import replace

import pytest

from monet_edge.architectures import ARCHITECTURES, attention_unet, monet, unet
from monet_edge.errors import SpecError
from monet_edge.spec import (
    MAX_SIDE,
    Op,
    Spec,
    count_floats,
    count_macs,
    fold_batchnorm,
    from_json,
    infer_shapes,
    multiple_of,
    multiples,
    tensor_shapes,
    to_json,
    validate,
)

COUNTS = {  # Keras's count (paper, Table 3), PyTorch's parameters(), floats folded, GMAC a slice of 256x256
    "monet": (403_556, 401_666, 400_721, 4.758),
    "unet-16": (1_946_705, 1_943_761, 1_943_761, 3.014),
    "unet-64": (31_054_145, 31_042_369, 31_042_369, 48.09),
    "attention-unet": (31_753_349, 31_741_573, 31_741_573, 50.25),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_counts_are_those_of_the_paper(name):
    spec = ARCHITECTURES[name]()
    keras, pytorch, folded, gmac = COUNTS[name]
    running = sum(shape[0] for tensor, shape in tensor_shapes(spec).items() if ".running_" in tensor)
    assert count_floats(spec) == keras
    assert count_floats(spec) - running == pytorch
    assert count_floats(fold_batchnorm(spec)) == folded
    assert sum(count_macs(spec, 256, 256).values()) / 1e9 == pytest.approx(gmac, rel=1e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("folded", [False, True])
def test_json_and_back_is_the_same_network(name, folded):
    spec = ARCHITECTURES[name](in_channels=3, classes=4)
    spec = fold_batchnorm(spec) if folded else spec
    assert from_json(to_json(spec)) == spec
    assert spec.folded == folded


def test_monet_is_the_network_of_the_paper():
    spec = monet()
    kinds = {op.name: (op.kind, op.inputs) for op in spec.ops}
    assert kinds["enc0.s1"] == ("add", ("enc0.conv", "enc0.f1"))  # c2 = f2(x + c1)
    assert kinds["enc0.s2"] == ("add", ("enc0.f2", "enc0.f3"))  # out = f4(c2 + c3)
    assert kinds["dec0.concat"] == ("concat", ("enc0.f4", "dec0.up"))  # [skip, upsampled]
    assert [op["dilation"] for op in spec.ops if op.name.startswith("mid.f")] == [4, 3, 2, 1]
    shapes = infer_shapes(spec, 256, 256)
    assert shapes["mid.f4"] == (64, 64, 64)
    assert shapes["dec0.up"] == (32, 256, 256)
    assert shapes[spec.output] == (1, 256, 256)
    assert multiple_of(spec) == 4


def test_attention_gates_the_skip_and_comes_second():
    spec = attention_unet()
    kinds = {op.name: (op.kind, op.inputs) for op in spec.ops}
    assert kinds["dec3.attention.gated"] == ("mul", ("enc3.conv2.norm", "dec3.attention.map"))
    assert kinds["dec3.concat"] == ("concat", ("dec3.up", "dec3.attention.gated"))
    names = [op.name for op in spec.ops]
    assert names.index("dec3.attention.skip") < names.index("dec3.attention.gate")


@pytest.mark.parametrize(("build", "divides"), [(lambda: monet(depth=3), 8), (lambda: unet(16), 16), (lambda: monet(depth=1), 2)])
def test_depth_decides_what_sides_must_divide_by(build, divides):
    spec = build()
    assert multiple_of(spec) == divides
    infer_shapes(spec, divides, 3 * divides)
    with pytest.raises(SpecError, match=f"divide by {divides}"):
        infer_shapes(spec, divides + 1, divides)


CONV = {"filters": 2, "kernel": 3, "stride": 1, "dilation": 1, "padding": 1, "bias": True, "activation": "none"}


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (Op("a", "conv3d", ("image",), CONV), "unknown kind"),
        (Op("a", "conv", ("image",), {**CONV, "groups": 2}), "unknown .*groups"),
        (Op("a", "conv", ("image",), {k: v for k, v in CONV.items() if k != "stride"}), "lacks .*stride"),
        (Op("a", "conv", ("image",), {**CONV, "padding": "same"}), "padding must be int"),
        (Op("a", "conv", ("image",), {**CONV, "filters": True}), "filters must be int"),
        (Op("a", "conv", ("image",), {**CONV, "filters": 10**9}), "filters must be 1 to"),
        (Op("a", "conv", ("image",), {**CONV, "activation": "gelu"}), "unknown activation"),
        (Op("a", "conv", ("b",), CONV), "no earlier op"),
        (Op("a", "conv", ("a",), CONV), "no earlier op"),
        (Op("a", "conv", ("image", "image"), CONV), "2 inputs"),
        (Op("image", "conv", ("image",), CONV), "two ops"),
        (Op("", "softmax", ("image",), {}), "name must be"),
        (Op("a", "conv", ("image",), {**CONV, "bn": 1}), "bn must have"),
        (Op("a", "conv", ("image",), {**CONV, "kernel": (3, 3)}), "kernel must be a whole number, or two that differ"),
        (Op("a", "conv", ("image",), {**CONV, "kernel": (1, 2, 3)}), "kernel must be a whole number, or two that differ"),
        (Op("a", "conv", ("image",), {**CONV, "stride": (1, 2.0)}), "stride must be a whole number, or two that differ"),
        (Op("a", "conv", ("image",), {**CONV, "stride": (0, 2)}), "stride must be 1 to"),
        (Op("a", "conv", ("image",), {**CONV, "dilation": (1, 2)}), "dilation must be int"),
        (Op("a", "conv", ("image",), {**CONV, "activation": "leaky_relu"}), "lacks .*slope"),
        (Op("a", "conv", ("image",), {**CONV, "slope": 0.1}), "unknown .*slope"),
        (Op("a", "conv", ("image",), {**CONV, "activation": "leaky_relu", "slope": -0.1}), "slope must be 0 to 1"),
        (Op("a", "instance_norm", ("image",), {"eps": 0.0, "activation": "none"}), "eps must be 1e-12 to 1"),
        (Op("a", "instance_norm", ("image",), {"eps": float("nan"), "activation": "none"}), "eps must be 1e-12 to 1"),
        (Op("a", "instance_norm", ("image",), {"eps": 1, "activation": "none"}), "eps must be float"),
        (Op("a", "avgpool", ("image",), {"kernel": (2, 0)}), "kernel must be 1 to"),
        (Op("a", "maxpool", ("image",), {"kernel": (2, 1)}), "kernel must be int"),
    ],
)
def test_an_invalid_op_is_refused(op, message):
    with pytest.raises(SpecError, match=message):
        validate(Spec("net", 1, (op,)))


@pytest.mark.parametrize(
    ("kind", "attrs", "message"),
    [("add", {"activation": "none"}, "adds 2 channels to 3"), ("mul", {}, "multiplies 2 channels by 3; expected 1 or as many")],
)
def test_values_of_unlike_channels_do_not_meet(kind, attrs, message):
    two, three = (Op(f"of{count}", "conv", ("image",), {**CONV, "filters": count}) for count in (2, 3))
    with pytest.raises(SpecError, match=message):
        validate(Spec("net", 1, (two, three, Op("both", kind, ("of2", "of3"), attrs))))


def test_an_input_smaller_than_the_kernel_is_refused():
    net = validate(Spec("net", 1, (Op("a", "conv", ("image",), {**CONV, "padding": 0}),)))
    assert infer_shapes(net, 3, 4)["a"] == (2, 1, 2)
    with pytest.raises(SpecError, match="op 'a' leaves nothing of an input of 2x4"):
        infer_shapes(net, 2, 4)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(version=2),
        lambda d: d.update(extra=1),
        lambda d: d.update(ops=[]),
        lambda d: d.update(ops=d["ops"] * 50),
        lambda d: d.update(in_channels=0),
        lambda d: d.update(in_channels=1.0),
        lambda d: d["ops"][0].update(inputs="image"),
        lambda d: d["ops"][0].update(kind=["conv"]),
        lambda d: d["ops"].append(3),
    ],
)
def test_an_invalid_file_is_refused(change):
    data = json.loads(to_json(monet()))
    change(data)
    with pytest.raises(SpecError):
        from_json(json.dumps(data))


def test_sides_that_differ_have_their_own_sizes_strides_and_counts():
    down = Op("down", "conv", ("image",), {**CONV, "kernel": (3, 1), "stride": (2, 1), "padding": (1, 0)})
    pool = Op("pool", "avgpool", ("down",), {"kernel": (1, 3)})
    up = Op(
        "up",
        "deconv",
        ("pool",),
        {"filters": 5, "kernel": (4, 3), "stride": (2, 3), "padding": (1, 0), "bias": False, "activation": "none"},
    )
    spec = validate(Spec("net", 4, (down, pool, up)))
    assert from_json(to_json(spec)) == spec
    assert infer_shapes(spec, 10, 13) == {"image": (4, 10, 13), "down": (2, 5, 13), "pool": (2, 5, 4), "up": (5, 10, 12)}
    assert tensor_shapes(spec) == {"down.weight": (2, 4, 3, 1), "down.bias": (2,), "up.weight": (2, 5, 4, 3)}
    assert count_macs(spec, 10, 13) == {"down": 5 * 13 * 24, "up": 5 * 4 * 120}
    assert (multiples(spec), multiple_of(spec)) == ((2, 3), 6)


def test_channels_cannot_explode():
    ops = [Op("c0", "concat", ("image", "image"), {})]
    ops += [Op(f"c{i}", "concat", (f"c{i - 1}",) * 2, {}) for i in range(1, 40)]
    with pytest.raises(SpecError, match="channels, at most"):
        validate(Spec("bomb", 1, tuple(ops)))


def test_strides_cannot_leave_what_a_number_can_hold():
    ops = [Op(f"c{i}", "conv", (f"c{i - 1}" if i else "image",), {**CONV, "kernel": 1, "stride": 64, "padding": 0}) for i in range(1000)]
    assert multiple_of(Spec("bomb", 1, tuple(ops))) == MAX_SIDE


def test_folding_adds_a_bias_and_keeps_the_affine():
    folded = {op.name: op for op in fold_batchnorm(unet(16)).ops}
    assert dict(folded["enc0.conv1.norm"].attrs) == {}
    assert all(op["bias"] for op in fold_batchnorm(monet()).ops if op.kind == "conv")
    assert validate(replace(fold_batchnorm(monet()), name="again"))
