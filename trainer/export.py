"""From a trained network to the portable weights file: BatchNorm folded in float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from monet_edge.spec import Spec


def fold_tensors(spec: Spec, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Merge every BatchNorm into the tensors of `monet_edge.spec.fold(spec)`.

    Parameters
    ----------
    spec : Spec
        For training, with its ``bn`` attributes.
    tensors : mapping of str to float array
        Named as `monet_edge.spec.tensor_shapes(spec)`.

    Returns
    -------
    dict of str to float32 array
        Computed in float64. A convolution gains a bias; where a BatchNorm follows an activation it becomes a scale and a
        shift, since folding it forward into the next convolution is wrong at zero-padded borders.
    """
    folded = {}
    for op in spec.ops:
        weight, bias = (tensors[key].astype(np.float64) if (key := f"{op.name}.{part}") in tensors else None for part in ("weight", "bias"))
        if "bn" in op.attrs:
            gamma, beta, mean, variance = (
                tensors[f"{op.name}.bn.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
            )
            scale = gamma / np.sqrt(variance + op["bn"]["eps"])
            if op.kind == "affine":
                folded[f"{op.name}.scale"], folded[f"{op.name}.shift"] = scale, beta - mean * scale
                continue
            assert weight is not None
            # output channels are axis 0 of a convolution's weights and axis 1 of a transposed one's
            weight = weight * scale.reshape((-1, 1, 1, 1) if op.kind == "conv" else (1, -1, 1, 1))
            bias = beta + ((0 if bias is None else bias) - mean) * scale
        if weight is not None:
            folded[f"{op.name}.weight"] = weight
        if bias is not None:
            folded[f"{op.name}.bias"] = bias
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in folded.items()}
