"""The Engine: equal to PyTorch value by value, equal to itself on any number of threads; errors, interruption, caches, guard pages."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import needs_cache, random_tensors, tiny_nnunet
from processes import run

from monet_edge.architectures import attention_unet, monet, unet
from monet_edge.engine import FAMILIES, Engine
from monet_edge.engine.codegen import cache, jit
from monet_edge.errors import SpecError
from monet_edge.spec import fold_batchnorm
from monet_train.network import Network

ROOT = Path(__file__).parents[1]
needs_guard = pytest.mark.skipif(sys.platform != "linux", reason="guard pages are set by Linux's mprotect")
NETWORKS = {
    "monet": (monet(), 64, 48),
    "monet, a whole slice": (monet(), 256, 256),
    "monet of 5 filters and 3 classes": (monet(2, 3, filters=5), 20, 52),
    "u-net-16": (unet(16), 48, 32),
    "u-net of 20 filters": (unet(20, in_channels=5, depth=2), 20, 12),
    "nnU-Net, plain": (tiny_nnunet(residual=False, features=(16, 32, 40)), 64, 50),
    "nnU-Net, residual": (tiny_nnunet(residual=True, channels=2, classes=2), 32, 48),
    "attention u-net": (attention_unet(8, classes=5), 32, 48),
}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    """A network, its tensors, an image and PyTorch's values in float64."""
    spec, height, width = NETWORKS[request.param]
    spec = fold_batchnorm(spec)
    tensors = random_tensors(spec)
    image = np.random.default_rng(1).standard_normal((spec.in_channels, height, width)).astype(np.float32)
    network = Network(spec).double().eval()
    network.load_state_dict({name: torch.from_numpy(tensor).double() for name, tensor in tensors.items()})
    with torch.no_grad():
        values = {name: value[0].numpy() for name, value in network.values(torch.from_numpy(image)[None].double())}
    return spec, tensors, image, values


@pytest.mark.parametrize("fused", [False, True])
def test_every_value_equals_pytorch(case, fused):
    spec, tensors, image, reference = case
    values = Engine(spec, tensors).values(image, fused)
    assert spec.output in values
    assert fused or values.keys() == {op.name for op in spec.ops}
    for name, comp in values.items():
        assert np.abs(comp - reference[name]).max() <= 1e-4 * max(1, np.abs(reference[name]).max()), name
    assert np.abs(values[spec.output] - reference[spec.output]).max() <= 5e-5


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_any_number_of_threads_gives_the_same_bits(case, threads):
    spec, tensors, image, _ = case
    images = np.stack([image, image[:, ::-1], -image, image[:, :, ::-1], image * 2])
    one = Engine(spec, tensors).run(images)
    engine = Engine(spec, tensors, threads)
    for count in (1, 2, 5):
        for _ in range(3):
            assert np.array_equal(engine.run(images[:count]), one[:count])


def tiny(threads=1):
    spec = fold_batchnorm(monet(filters=4, depth=1))
    return Engine(spec, random_tensors(spec), threads)


def test_more_threads_than_bands_give_the_same_bits():
    image = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
    assert np.array_equal(tiny(64).run(image), tiny().run(image))


def test_sizes_may_change_from_run_to_run():
    engine, fresh = tiny(), tiny()
    rng = np.random.default_rng(0)
    for height, width in ((8, 8), (2, 30), (8, 8), (64, 2)):
        images = rng.standard_normal((2, 1, height, width)).astype(np.float32)
        assert np.array_equal(engine.run(images), fresh.run(images))
    assert engine.run(np.zeros((0, 1, 8, 8), np.float32)).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("extra", [1 << 40, -(1 << 40)], ids=["that is large enough", "unless that is too small"])
@pytest.mark.parametrize("network", [monet(filters=4, depth=1), tiny_nnunet(residual=True)], ids=lambda spec: spec.name)
def test_the_last_slice_is_shared_in_memory_of_a_thread_that_is_done(network, extra, monkeypatch):
    monkeypatch.setattr("monet_edge.engine.pool.EXTRA", extra)
    spec = fold_batchnorm(network)
    tensors, images = random_tensors(spec), np.random.default_rng(0).standard_normal((7, 1, 16, 24)).astype(np.float32)
    expected, engine = Engine(spec, tensors, 1).run(images), Engine(spec, tensors, 3)
    for count in (7, 2, 7, 5):  # two are shared one after the other
        assert np.array_equal(engine.run(images[:count]), expected[:count])
    arenas = [arena.nbytes for kept in engine.pool.arenas.values() for arena in kept]
    programs = [program for kept in engine.pool.programs.values() for program in kept]
    assert len(arenas) <= 3
    assert all(program.memory.arena is None for program in programs)
    planes = sum(array.nbytes for program in programs for array in (*program.memory.images, *program.memory.outputs))
    assert sum(arenas) + planes <= engine.workspace_bytes(16, 24)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_was_prepared_runs_a_volume_and_nothing_is_made_for_it(threads, monkeypatch):
    engine, images = tiny(threads), np.random.default_rng(0).standard_normal((70, 1, 8, 8)).astype(np.float32)
    expected = engine.run(images)
    engine = tiny(threads)
    engine.prepare(8, 8)
    monkeypatch.setattr("monet_edge.engine.engine.Program", None)
    assert np.array_equal(engine.run(images), expected)


def test_slices_taken_together_are_those_that_were_loaded():
    """Small ones come to a thread sixteen at a time, fewer towards the end."""
    engine, images = tiny(2), np.random.default_rng(1).standard_normal((70, 1, 8, 8)).astype(np.float32)
    alone = np.concatenate([engine.run(image[None]) for image in images])
    assert np.array_equal(engine.run(images), alone)


@pytest.mark.parametrize("threads", [1, 3])
def test_map_loads_and_stores_every_slice_once_and_counts_in_the_caller(threads):
    engine, stored, counted = tiny(threads), [], []

    def progress(done):
        assert threading.current_thread() is threading.main_thread()
        counted.append(done)

    engine.map(7, (8, 8), lambda i, image: image.fill(i), lambda i, probability: stored.append((i, probability.shape)), progress)
    assert sorted(stored) == [(i, (1, 8, 8)) for i in range(7)]
    assert counted == sorted(set(counted))
    assert counted[-1] == 7


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("where", ["load", "store"])
def test_errors_reach_the_caller_and_the_engine_lives_on(threads, where):
    engine = tiny(threads)

    def fail(*_):
        raise OSError("the disk is full")

    image = np.ones((1, 8, 8), np.float32)
    with pytest.raises(OSError, match="full"):
        engine.map(6, (8, 8), fail if where == "load" else lambda i, image: None, fail if where == "store" else lambda i, p: None)
    assert np.array_equal(engine.run(image[None]), tiny().run(image[None]))


def test_threads_are_kept_from_slice_to_slice_and_end_with_the_engine():
    engine, image = tiny(3), np.ones((1, 1, 8, 8), np.float32)
    before = set(threading.enumerate())
    for _ in range(5):
        engine.run(image)
        engine.run(np.repeat(image, 7, axis=0))
    started = set(threading.enumerate()) - before
    assert 1 <= len(started) <= 3
    del engine
    for thread in started:
        thread.join()


def test_a_slice_does_not_wait_for_another_callers_volume():
    engine, image = tiny(2), np.ones((1, 8, 8), np.float32)
    begun, go_on, went_on = threading.Semaphore(0), threading.Event(), []

    def load(i, _):
        if i < 5:  # in one of the engine's two threads
            begun.release()
            go_on.wait()
            went_on.append(i)

    volume = threading.Thread(target=engine.map, args=(6, (8, 8), load, lambda i, p: None))
    volume.start()
    begun.acquire()
    begun.acquire()
    try:
        assert np.array_equal(engine.run(image[None]), tiny().run(image[None]))
        assert not went_on
    finally:
        go_on.set()
        volume.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_starts_threads_of_its_own():
    engine, images = tiny(2), np.ones((4, 1, 8, 8), np.float32)
    expected = engine.run(images)
    answer = multiprocessing.get_context("fork").Process(
        target=lambda: sys.exit(not np.array_equal(engine.run(images), expected)), daemon=True
    )
    answer.start()
    answer.join()
    assert answer.exitcode == 0


@pytest.mark.parametrize(("shape", "words"), [((1, 7, 8), "divide by 2"), ((2, 8, 8), "1 channels"), ((8, 8), "shape")])
def test_a_slice_of_the_wrong_shape_is_refused(shape, words):
    with pytest.raises(SpecError, match=words):
        tiny().run(np.zeros((1, *shape), np.float32))


def test_an_unfolded_network_is_refused():
    with pytest.raises(SpecError, match="BatchNorm"):
        Engine(monet(), {})


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send to a process of its own")
def test_ctrl_c_stops_within_a_few_slices(threads):
    """Of a million, interrupted at the sixth, from a thread of its own: the signal finds the main one in a kernel or waiting.

    Counted from there on: until the main thread gets a core again others may do many.
    """
    code = f"""if True:
        import os, signal, threading
        import numpy as np
        from conftest import random_tensors
        from monet_edge.architectures import monet
        from monet_edge.engine import Engine
        from monet_edge.spec import fold_batchnorm
        spec = fold_batchnorm(monet())
        engine = Engine(spec, random_tensors(spec), {threads})
        begun, interrupted = [], []
        def interrupt(*_):
            interrupted.append(len(begun))
            raise KeyboardInterrupt
        signal.signal(signal.SIGINT, interrupt)
        def load(i, image):
            begun.append(i)
            if i == 5:
                threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
        try:
            engine.map(10**6, (256, 256), load, lambda i, p: None)
        except KeyboardInterrupt:
            print(interrupted[0], len(begun))
    """
    at, begun = map(int, run(code, PYTHONPATH=str(ROOT / "tests")).split())
    assert 6 <= at < 5000  # a minute of work
    assert begun - at < 40


LOAD = """if True:
    import sys
    from monet_edge.engine import compile_all, is_cached
    before = is_cached()
    compile_all()
    print(before, is_cached(), "numba" in sys.modules)
"""


@pytest.mark.slow
@needs_cache
def test_kernels_are_compiled_once_and_then_loaded_without_numba(tmp_path):
    assert run(LOAD, XDG_CACHE_HOME=str(tmp_path)).split() == ["False", "True", "True"]
    assert run(LOAD, XDG_CACHE_HOME=str(tmp_path)).split() == ["True", "True", "False"]
    files = sorted((tmp_path / "monet-edge").iterdir())
    assert [file.name.split("-")[0] for file in files] == sorted(FAMILIES)
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert files[0].parent.stat().st_mode & 0o777 == 0o700
    files[1].write_bytes(files[1].read_bytes()[:-1])  # truncated: compiled anew, never run
    assert run("from monet_edge.engine import is_cached; print(is_cached())", XDG_CACHE_HOME=str(tmp_path)).split() == ["False"]
    assert "+" in jit.target().features


@pytest.mark.slow
@needs_cache
@pytest.mark.parametrize(("classes", "families"), [(1, {"monet"}), (3, {"monet", "others"})])
def test_a_network_compiles_what_it_needs(tmp_path, classes, families):
    code = f"""if True:
        from conftest import random_tensors
        from monet_edge.architectures import monet
        from monet_edge.engine import Engine
        from monet_edge.spec import fold_batchnorm
        spec = fold_batchnorm(monet(filters=4, depth=1, classes={classes}))
        Engine(spec, random_tensors(spec))
    """
    run(code, XDG_CACHE_HOME=str(tmp_path), PYTHONPATH=str(ROOT / "tests"))
    assert {file.name.split("-")[0] for file in (tmp_path / "monet-edge").iterdir()} == families


@needs_cache
def test_a_folder_that_others_may_write_to_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "monet-edge"
    (tmp_path / "monet-edge").chmod(0o777)
    assert cache.folder() is None


@pytest.mark.slow
def test_without_a_place_to_write_everything_works(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert run(LOAD, XDG_CACHE_HOME=str(tmp_path / "file")).split() == ["False", "True", "True"]


@pytest.mark.slow
@needs_guard
@pytest.mark.parametrize("side", ["behind", "before"])
def test_no_kernel_leaves_its_buffers(side):
    result = subprocess.run([sys.executable, str(ROOT / "tests" / "guarded.py"), side], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "no overrun\n"), result.stderr


@pytest.mark.slow
@needs_guard
@pytest.mark.parametrize("area", ["source", "target", "weights", "parameters", "V", "M", "tile", "output", "voxels", "labels"])
@pytest.mark.parametrize("side", ["behind", "before"])
def test_an_overrun_of_one_vector_or_row_is_caught(side, area):
    result = subprocess.run([sys.executable, str(ROOT / "tests" / "guarded.py"), side, area], capture_output=True)
    assert result.returncode == -signal.SIGSEGV
