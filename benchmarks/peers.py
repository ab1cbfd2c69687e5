"""We and our peers behind one signature: ``prepare(case, threads)`` gives ``run(images) -> probabilities``.

Every peer gets the folded network, which is its best case, through PyTorch or the ONNX file that PyTorch exports.
Libraries are imported where they are used: a process that measures one must not load the others.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from monet_edge import phantom, weights
from monet_edge.architectures import ARCHITECTURES
from monet_edge.inputs import Inputs
from monet_edge.intensities import measure
from monet_edge.spec import Spec, fold_batchnorm, tensor_shapes
from monet_edge.volume import Voxels

Run = Callable[[np.ndarray], np.ndarray]  # (N, C, H, W) float32 -> (N, classes, H, W) float32


SIZE = 256  # pixels a side, as the paper's
SLICES = 8


def noise() -> np.ndarray:
    """Slices for a network that nobody trained, (SLICES, 1, SIZE, SIZE) float32."""
    return np.random.default_rng(1).standard_normal((SLICES, 1, SIZE, SIZE)).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A folded network with its weights, a folder for the files that peers read, and slices (N, C, H, W) float32 to run it on."""

    spec: Spec
    tensors: Mapping[str, np.ndarray]
    folder: Path
    slices: np.ndarray = field(default_factory=noise)

    def volume(self, count: int) -> np.ndarray:
        """So many slices, from the first one again where there are fewer."""
        return np.resize(self.slices, (count, *self.slices.shape[1:]))


def make_case(name: str, folder: Path) -> Case:
    """A network of `architectures.ARCHITECTURES` with random weights, or a shipped model."""
    return random_case(name, folder) if name in ARCHITECTURES else shipped_case(name, folder)


def random_case(name: str, folder: Path) -> Case:
    """One of `architectures.ARCHITECTURES` with random weights that keep the size of what passes through.

    Variances by He for the convolutions, biases and shifts away from zero, so that a lost bias shows.
    """
    spec = fold_batchnorm(ARCHITECTURES[name]())
    rng = np.random.default_rng(0)
    tensors = {}
    for tensor, shape in tensor_shapes(spec).items():
        spread = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        tensors[tensor] = (rng.normal(0, spread, shape) + tensor.endswith(".scale")).astype(np.float32)
    return Case(spec, tensors, folder)


def shipped_case(name: str, folder: Path) -> Case:
    """A model of the package, on slices through the middle of the phantom as that model would see them."""
    model = weights.load(name)
    volume = Voxels(phantom.make()[0])
    inputs, first = Inputs([volume], model.sliced, [measure(volume)]), (len(volume) - SLICES) // 2
    seen = [inputs(z) for z in range(first, first + SLICES)]
    tensors = {key: tensor.copy() for key, tensor in model.tensors.items()}  # PyTorch does not like read-only memory
    return Case(model.spec, tensors, folder, np.stack(seen))


def ours(case: Case, threads: int) -> Run:
    """monet-edge."""
    from monet_edge.engine import Engine

    return Engine(case.spec, case.tensors, threads).run


def torch_module(case: Case):  # type: ignore[no-untyped-def]
    """The network as a PyTorch module with its weights, not training."""
    import torch

    from monet_train.network import Network

    module = Network(case.spec)
    module.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in case.tensors.items()})
    return module.eval().requires_grad_(False)


def reference(case: Case, images: np.ndarray, double: bool) -> np.ndarray:
    """PyTorch's probabilities in float32 or float64."""
    import torch

    module, x = torch_module(case), torch.from_numpy(images)
    with torch.no_grad():
        return (module.double()(x.double()) if double else module(x)).numpy()


def pytorch(case: Case, threads: int, compiled: bool = False) -> Run:
    """PyTorch, eager or through torch.compile with frozen weights."""
    import torch

    torch.set_num_threads(threads)
    module = torch_module(case)
    if compiled:
        module = torch.compile(module, options={"freezing": True})

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    return run


def pytorch_compiled(case: Case, threads: int) -> Run:
    """PyTorch through torch.compile."""
    return pytorch(case, threads, compiled=True)


def onnx_file(case: Case) -> Path:
    """The network as an ONNX file for one slice of the case's size, which peers optimise best; made once."""
    path = case.folder / f"{case.spec.name}.onnx"
    if not path.exists():
        import torch

        logging.disable(logging.WARNING)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            image = torch.from_numpy(case.slices[:1])
            torch.onnx.export(torch_module(case), (image,), str(path), input_names=["image"], output_names=["probability"], dynamo=True)
        logging.disable(logging.NOTSET)
    return path


def openvino(case: Case, threads: int, precision: str = "f32") -> Run:
    """OpenVINO's CPU plugin."""
    request = openvino_model(case, threads, precision).create_infer_request()
    return lambda images: np.concatenate([next(iter(request.infer([image[None]]).values())).copy() for image in images])


def openvino_model(case: Case, threads: int, precision: str = "f32", profile: bool = False):  # type: ignore[no-untyped-def]
    """The compiled model; with ``profile`` its requests know the time of every layer."""
    import openvino

    core = openvino.Core()
    return core.compile_model(core.read_model(onnx_file(case)), "CPU", openvino_settings(threads, precision, profile))


def openvino_settings(threads: int, precision: str = "f32", profile: bool = False) -> dict[str, object]:
    """For one slice at a time."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "ENABLE_CPU_PINNING": False,  # or two models of one thread each, a volume's way, would share a core
        "PERF_COUNT": profile,
    }


def openvino_bf16(case: Case, threads: int) -> Run:
    """OpenVINO with bfloat16 arithmetic: half the bytes, 8 bits of mantissa."""
    return openvino(case, threads, "bf16")


def onnxruntime(case: Case, threads: int) -> Run:
    """ONNX Runtime's CPU provider."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(str(onnx_file(case)), options, providers=["CPUExecutionProvider"])
    return lambda images: np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])


def ncnn(case: Case, threads: int) -> Run:
    """ncnn in float32."""
    import ncnn as library

    from . import ncnn_model

    param, model = ncnn_model.write(case.spec, case.tensors)
    path = case.folder / f"{case.spec.name}.bin"
    path.write_bytes(model)
    net = library.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_fp16_packed = net.opt.use_bf16_storage = False
    if net.load_param_mem(param) or net.load_model(str(path)):
        raise RuntimeError(f"ncnn does not read the model of {case.spec.name}")

    def one(image: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("image", library.Mat(image))
        return np.array(extractor.extract(case.spec.output)[1])

    return lambda images: np.stack([one(image) for image in images])


RUNNERS: dict[str, Callable[[Case, int], Run]] = {
    "monet-edge": ours,
    "OpenVINO fp32": openvino,
    "OpenVINO bf16": openvino_bf16,
    "ONNX Runtime": onnxruntime,
    "PyTorch": pytorch,
    "PyTorch compiled": pytorch_compiled,
    "ncnn": ncnn,
}
RESTRICTABLE = ("monet-edge", "OpenVINO fp32", "PyTorch", "PyTorch compiled")  # those that a variable holds to an older CPU


def over_slices(prepare: Callable[[Case, int], Run], case: Case, threads: int) -> Run:
    """A peer's best way with a volume: one single-threaded run a thread, each with its own slices."""
    runs = [prepare(case, 1) for _ in range(threads)]
    pool = ThreadPoolExecutor(threads)

    def run(images: np.ndarray) -> np.ndarray:
        parts = pool.map(lambda i: runs[i](images[i::threads]), range(threads))
        results = np.empty((len(images), case.spec.classes, *images.shape[2:]), np.float32)
        for i, part in enumerate(parts):
            results[i::threads] = part
        return results

    return run
