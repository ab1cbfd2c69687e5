"""A mask of a scan with nibabel, SciPy and OpenVINO, as a user would write it who has the network as an ONNX file.

    python disk_peer.py SCAN MASK ONNX THREADS RECORD

A script: nothing of monet-edge is imported. RECORD is a model's preprocessing record, JSON; an axial, z-scored, binary model.
"""

import json
import sys
from typing import Any

import nibabel
import numpy as np
import openvino
from scipy import ndimage


def main(scan: str, mask: str, onnx: str, threads: int, record: dict[str, Any]) -> None:
    """One stream of one thread for each of ``threads``, which is OpenVINO's fastest way through many slices."""
    stored: Any = nibabel.load(scan)
    image = nibabel.as_closest_canonical(stored)
    voxels = image.get_fdata(dtype=np.float32)[::-1, ::-1].transpose(2, 1, 0)  # from RAS to what a radiologist sees, slices first
    foreground = voxels[voxels > 0.03 * np.percentile(voxels, 99.5)]
    low, high = (foreground.mean() + sds * foreground.std() for sds in (record["low"], record["high"]))
    normalised = np.clip((voxels - low) / (high - low), 0, 1)
    normalised[voxels < foreground.min()] = 0
    size, context = record["size"], record["context"]
    factors = (size / voxels.shape[1], size / voxels.shape[2])
    small = np.stack([ndimage.zoom(one, factors, order=1, grid_mode=True, mode="nearest") for one in normalised])
    core = openvino.Core()
    settings = {"NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    queue = openvino.AsyncInferQueue(core.compile_model(core.read_model(onnx), "CPU", settings), threads)
    labels = np.zeros(voxels.shape, np.uint8)

    def finish(request, z):  # type: ignore[no-untyped-def]
        probability = request.get_output_tensor().data[0, 0]
        whole = ndimage.zoom(probability, (1 / factors[0], 1 / factors[1]), order=1, grid_mode=True, mode="nearest")
        labels[z] = whole > record["threshold"]

    queue.set_callback(finish)
    last = len(small) - 1
    for z in range(len(small)):
        around = [min(max(i, 0), last) for i in range(z - context, z + context + 1)]
        queue.start_async(small[around][None], z)
    queue.wait_all()
    turned = nibabel.Nifti1Image(labels.transpose(2, 1, 0)[::-1, ::-1], image.affine)
    there = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(image.affine), nibabel.orientations.io_orientation(stored.affine)
    )
    nibabel.save(turned.as_reoriented(there), mask)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), json.loads(sys.argv[5]))
