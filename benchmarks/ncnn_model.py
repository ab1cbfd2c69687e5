"""A folded Spec as ncnn's own model files: ncnn has no reader of ONNX any more, and its layers match the Spec's one to one.

File formats: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from monet_edge.spec import INPUT, Op, Spec, infer_channels

_MAGIC = "7767517"
_ACTIVATIONS = {"elu": "ELU", "relu": "ReLU", "sigmoid": "Sigmoid"}
_FUSED = {"none": 0, "relu": 1, "sigmoid": 4}  # what a convolution can do itself: ELU is not among them


def write(spec: Spec, tensors: Mapping[str, np.ndarray]) -> tuple[str, bytes]:
    """The .param text and the .bin bytes of a network.

    Parameters
    ----------
    spec : Spec
        Folded; without softmax over anything but channels.
    tensors : mapping of str to float32 arrays

    Returns
    -------
    param : str
        Input blob ``image``, output blob the Spec's output name.
    model : bytes
    """
    channels = infer_channels(spec)
    readers = Counter(value for op in spec.ops for value in op.inputs)
    lines: list[str] = []
    model: list[bytes] = []
    used: Counter[str] = Counter()

    def layer(kind: str, name: str, inputs: list[str], outputs: list[str], fields: Mapping[int, float]) -> None:
        values = " ".join(f"{key}={value}" for key, value in fields.items())
        lines.append(f"{kind} {name} {len(inputs)} {len(outputs)} {' '.join(inputs + outputs)} {values}".rstrip())

    def made(value: str) -> None:
        """A blob may be read once only: more readers need a Split."""
        if readers[value] > 1:
            layer("Split", f"{value}/split", [value], [f"{value}/{i}" for i in range(readers[value])], {})

    def read(value: str) -> str:
        if readers[value] == 1:
            return value
        used[value] += 1
        return f"{value}/{used[value] - 1}"

    layer("Input", INPUT, [], [INPUT], {})
    made(INPUT)
    for op in spec.ops:
        inputs = [read(value) for value in op.inputs]
        activation = op.attrs.get("activation", "none")
        fused = op.kind in ("conv", "deconv") and activation in _FUSED
        target = op.name if fused or activation == "none" else f"{op.name}/sums"
        if op.kind in ("conv", "deconv"):
            layer(*_convolution(op, tensors, model), inputs, [target], _fields(op, tensors, _FUSED.get(activation, 0)))
        elif op.kind in ("add", "mul"):
            layer("BinaryOp", op.name, inputs, [target], {0: 0 if op.kind == "add" else 2})
        elif op.kind == "concat":
            layer("Concat", op.name, inputs, [target], {0: 0})
        elif op.kind == "maxpool":
            layer("Pooling", op.name, inputs, [target], {0: 0, 1: op["kernel"], 2: op["kernel"], 5: 1})
        elif op.kind == "affine":
            layer("Scale", op.name, inputs, [target], {0: channels[op.name], 1: 1})
            model += [tensors[f"{op.name}.scale"].tobytes(), tensors[f"{op.name}.shift"].tobytes()]
        else:
            layer("Softmax", op.name, inputs, [target], {0: 0, 1: 1})
        if target != op.name:
            # field 0 is ELU's alpha, 0.1 unless told, and ReLU's slope, 0
            layer(_ACTIVATIONS[activation], f"{op.name}/activation", [target], [op.name], {0: float(activation == "elu")})
        made(op.name)
    blobs = sum(int(line.split()[3]) for line in lines)
    return "\n".join([_MAGIC, f"{len(lines)} {blobs}", *lines]) + "\n", b"".join(model)


def _convolution(op: Op, tensors: Mapping[str, np.ndarray], model: list[bytes]) -> tuple[str, str]:
    """Append a convolution's tensors; its kind and name."""
    weight = tensors[f"{op.name}.weight"]
    if op.kind == "deconv":
        weight = weight.transpose(1, 0, 2, 3)  # (out, in, k, k) for both
    model += [np.uint32(0).tobytes(), np.ascontiguousarray(weight).tobytes()]  # 0: float32 follows
    if op["bias"]:
        model.append(tensors[f"{op.name}.bias"].tobytes())
    return ("Convolution" if op.kind == "conv" else "Deconvolution"), op.name


def _fields(op: Op, tensors: Mapping[str, np.ndarray], activation: int) -> dict[int, float]:
    size = tensors[f"{op.name}.weight"].size
    geometry = {0: op["filters"], 1: op["kernel"], 2: op.attrs.get("dilation", 1), 3: op["stride"], 4: op["padding"]}
    return geometry | {5: int(op["bias"]), 6: size, 9: activation}
