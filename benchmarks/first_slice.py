"""One process from its start to its first slice: what `startup` launches. Run as a script, so that nothing else is imported.

Prints when its first and second slice were done (time.monotonic, which all processes of a machine share) and its peak memory.
"""

import json
import sys
import time
from pathlib import Path


def load(runner: str, folder: Path):  # type: ignore[no-untyped-def]
    """``run(image)`` of a model file as a user of each library would load it."""
    if runner == "monet-edge":
        from monet_edge.engine import Engine
        from monet_edge.weights import load as load_weights

        weights = load_weights(folder / "model.safetensors")
        return Engine(weights.spec, weights.tensors, 1).run
    if runner == "OpenVINO":
        import openvino

        settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        model = openvino.Core().compile_model(folder / "model.onnx", "CPU", settings)
        return lambda image: model([image])
    if runner == "ONNX Runtime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        return lambda image: session.run(None, {"image": image})
    import torch
    from safetensors.torch import load_file

    from monet_edge.weights import load as load_weights
    from monet_train.network import Network

    torch.set_num_threads(1)
    network = Network(load_weights(folder / "model.safetensors").spec)
    network.load_state_dict(load_file(folder / "model.safetensors"))

    def run(image):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            return network(torch.from_numpy(image))

    return run


def peak_memory() -> int:
    """Largest resident size of this process in bytes; rusage would count what its parent held before the start."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    runner, folder = sys.argv[1], Path(sys.argv[2])
    import numpy as np

    image = np.zeros((1, 1, 256, 256), np.float32)
    run = load(runner, folder)
    loaded = time.monotonic()
    run(image)
    first = time.monotonic()
    peak = peak_memory()
    run(image)
    print(json.dumps({"loaded": loaded, "first": first, "second": time.monotonic(), "peak": peak}))
