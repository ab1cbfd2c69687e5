"""A weights file as ONNX, for those who need another runtime: the graph from the Spec op by op, held to our runtime before it is written.

Only the network travels. What must happen before and after it (orientation, intensities, size, the label of a number) stands in the
file's metadata as in the weights file: ``monet_edge.preprocess``, ``monet_edge.labels``, beside licence, provenance and sha256.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monet_edge import DISCLAIMER, preprocess
from monet_edge.engine import Engine
from monet_edge.errors import ModelError, OutputError
from monet_edge.files import atomic_write, check_folder, refuse_special
from monet_edge.spec import INPUT, Op, pair
from monet_edge.weights import Weights

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPSET = 17  # of 2022: every runtime of today has it, and nothing of a later one is needed
IR_VERSION = 8  # the file format of that opset
OUTPUT = "probabilities"
TOLERANCE = 1e-4  # as between our runtime and PyTorch


def check_onnx(output: Path) -> None:
    """Refuse before the work what could not be written after it.

    Raises
    ------
    OutputError
        If ``output`` cannot be such a file.
    ModuleNotFoundError
        If ONNX or ONNX Runtime is not installed.
    """
    if output.suffix != ".onnx" or not output.parent.is_dir():
        raise OutputError(f"{output}: expected a file that ends in .onnx, in a folder that exists")
    check_folder(output.parent)
    refuse_special(output)
    for package in ("onnx", "onnxruntime"):
        import_module(package)  # or the command line says how to install it


def write_onnx(output: Path, weights: Weights) -> None:
    """Write `onnx_bytes`, whole or not at all."""
    with atomic_write(output, overwrite=True) as file:
        file.write(onnx_bytes(weights))


def onnx_bytes(weights: Weights) -> bytes:
    """The bytes of an ONNX file: input ``image`` (N, C, H, W) float32, output ``probabilities`` (N, classes, H, W) float32.

    N is free; H and W are the record's size.

    Raises
    ------
    ModelError
        If ONNX Runtime's output for random images differs from our runtime's by more than 1e-4.
    """
    raw = _model(weights).SerializeToString()
    _compare(weights, raw)
    return raw


def _model(weights: Weights) -> ModelProto:
    from onnx import TensorProto, checker, helper, numpy_helper

    spec, size = weights.spec, weights.sliced.size
    nodes = [node for op in spec.ops for node in _nodes(op, weights)]
    nodes.append(helper.make_node("Identity", [spec.output], [OUTPUT]))
    tensors = {**weights.tensors, **_channelwise(weights)}
    graph = helper.make_graph(
        nodes,
        weights.name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", spec.in_channels, size, size])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", spec.classes, size, size])],
        [numpy_helper.from_array(np.ascontiguousarray(tensor), name) for name, tensor in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="monet-edge")
    model.doc_string = DISCLAIMER
    facts = {
        "preprocess": preprocess.to_json(weights.sliced),
        "labels": json.dumps(weights.preprocess.labels),
        "provenance": json.dumps(weights.provenance),
        "licence": weights.provenance.stated("licence"),
        "sha256": weights.sha256,
    }
    helper.set_model_props(model, {f"monet_edge.{name}": value for name, value in facts.items()})
    checker.check_model(model, full_check=True)
    return model


def _channelwise(weights: Weights) -> dict[str, np.ndarray]:
    """Scales and shifts in the shape that ONNX multiplies them in, (C, 1, 1)."""
    return {name: tensor[:, None, None] for name, tensor in weights.tensors.items() if name.endswith((".scale", ".shift"))}


def _nodes(op: Op, weights: Weights) -> list[NodeProto]:
    """The nodes of an op: the last one's output is the op's value."""
    from onnx import helper

    activation = op.attrs.get("activation", "none")
    value = op.name if activation == "none" else f"{op.name}/linear"
    parameters = [name for part in ("weight", "bias") if (name := f"{op.name}.{part}") in weights.tensors]
    inputs = [*op.inputs]
    if op.kind == "affine":
        nodes = [
            helper.make_node("Mul", [*inputs, f"{op.name}.scale"], [f"{op.name}/scaled"]),
            helper.make_node("Add", [f"{op.name}/scaled", f"{op.name}.shift"], [value]),
        ]
    else:
        kind, attributes = _CONVERTED[op.kind](op)
        nodes = [helper.make_node(kind, [*inputs, *parameters], [value], **attributes)]
    if activation != "none":
        kind, attributes = _ACTIVATIONS[activation](op)
        nodes.append(helper.make_node(kind, [value], [op.name], **attributes))
    return nodes


def _window(op: Op) -> dict[str, Any]:
    """Kernel, stride and padding of a convolution; a pool's windows do not overlap."""
    kernel = pair(op["kernel"])
    padding = pair(op.attrs.get("padding", 0))
    return {"kernel_shape": kernel, "strides": pair(op.attrs.get("stride", kernel)), "pads": padding * 2}


_CONVERTED = {
    "conv": lambda op: ("Conv", {**_window(op), "dilations": pair(op["dilation"])}),
    "deconv": lambda op: ("ConvTranspose", _window(op)),
    "maxpool": lambda op: ("MaxPool", _window(op)),
    "avgpool": lambda op: ("AveragePool", _window(op)),
    "add": lambda op: ("Add", {}),
    "mul": lambda op: ("Mul", {}),
    "concat": lambda op: ("Concat", {"axis": 1}),
    "instance_norm": lambda op: ("InstanceNormalization", {"epsilon": op["eps"]}),
    "softmax": lambda op: ("Softmax", {"axis": 1}),
}
_ACTIVATIONS = {
    "elu": lambda op: ("Elu", {"alpha": 1.0}),
    "relu": lambda op: ("Relu", {}),
    "sigmoid": lambda op: ("Sigmoid", {}),
    "leaky_relu": lambda op: ("LeakyRelu", {"alpha": op["slope"]}),
}


def _compare(weights: Weights, raw: bytes) -> None:
    import onnxruntime

    size = weights.sliced.size
    images = np.random.default_rng(0).random((2, weights.spec.in_channels, size, size), np.float32)
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    (found,) = session.run([OUTPUT], {INPUT: images})
    difference = float(np.abs(found - Engine(weights.spec, weights.tensors).run(images)).max())
    if not difference <= TOLERANCE:
        raise ModelError(f"ONNX Runtime's probabilities differ from ours by {difference:.2g}, more than {TOLERANCE:g}")
