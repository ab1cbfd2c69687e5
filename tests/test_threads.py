"""Threads are kept while idle and never make anybody wait: not a caller, not a call inside a call, not the interpreter's exit."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import random_tensors
from processes import HANGS

from monet_edge.architectures import monet
from monet_edge.engine import Engine
from monet_edge.engine.threads import Task, Threads
from monet_edge.spec import fold_batchnorm

ROOT = Path(__file__).parents[1]
IMAGES = np.random.default_rng(0).standard_normal((6, 1, 8, 8)).astype(np.float32)


def tiny(threads):
    spec = fold_batchnorm(monet(filters=4, depth=1))
    return Engine(spec, random_tensors(spec), threads)


def ends(work, *arguments):
    """Run ``work`` in a thread of its own and give what it returns; fail if it hangs."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work(*arguments)), daemon=True)
    thread.start()
    thread.join(HANGS)
    assert found, "it hangs, or has failed"
    return found[0]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("inner", [1, 5])
@pytest.mark.parametrize("where", ["load", "store"])
def test_an_engine_may_be_run_from_what_it_calls(threads, inner, where):
    engine, expected, found = tiny(threads), tiny(1).run(IMAGES), {}

    def again(i, image):
        if where == "load":
            found[i] = engine.run(IMAGES[:inner])

    def keep(i, probability):
        if where == "store":
            found[i] = engine.run(IMAGES[:inner])

    ends(lambda: engine.map(len(IMAGES), IMAGES.shape[2:], again, keep) or True)
    assert sorted(found) == list(range(len(IMAGES)))
    assert all(np.array_equal(each, expected[:inner]) for each in found.values())


def test_a_volume_does_not_wait_for_another_callers_volume():
    engine, expected, go_on = tiny(2), tiny(1).run(IMAGES), threading.Event()
    begun = threading.Barrier(3)

    def load(i, image):
        if i < 2:  # one in each of two threads, the first time
            begun.wait(HANGS)
            go_on.wait(HANGS)

    first = threading.Thread(target=engine.map, args=(len(IMAGES), IMAGES.shape[2:], load, lambda i, p: None), daemon=True)
    first.start()
    begun.wait(HANGS)
    try:
        assert np.array_equal(ends(engine.run, IMAGES), expected)
        assert not go_on.is_set()
        assert first.is_alive()
    finally:
        go_on.set()
        first.join(HANGS)


def test_whoever_follows_is_called_while_another_thread_still_has_slices():
    engine, expected, found, caller = tiny(2), tiny(1).run(IMAGES), {}, threading.current_thread()
    following = threading.Event()

    def load(i, image):
        image[...] = IMAGES[i]

    def keep(i, probability):
        assert following.wait(HANGS)
        found[i] = probability.copy()

    def dealt():
        assert threading.current_thread() is caller
        following.set()

    engine.map(len(IMAGES), IMAGES.shape[2:], load, keep, dealt=dealt)
    assert np.array_equal(np.stack([found[i] for i in range(len(IMAGES))]), expected)


def test_where_no_thread_can_be_started_the_caller_does_the_work(monkeypatch):
    engine, expected, counted = tiny(3), tiny(1).run(IMAGES), []

    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert np.array_equal(engine.run(IMAGES, counted.append), expected)
    assert counted == [1, 2, 3, 4, 5, 6]
    assert np.array_equal(engine.run(IMAGES[:1]), expected[:1])


def test_a_thread_is_used_again():
    threads, stop, ran, names = Threads(), threading.Event(), threading.Event(), set()

    def work():
        names.add(threading.current_thread().name)
        ran.set()

    for _ in range(20):
        ran.clear()
        with threads.beside(work, [()], stop) as count:
            assert count == 1
            assert ran.wait(HANGS)
    assert len(names) == 1


def test_what_no_thread_has_begun_is_taken_back_once():
    task, ran = Task(lambda: ran.append(True), ()), []
    assert task.begin()  # by its owner, at the end of the block
    assert not task.begin()  # by the thread that wakes too late: it does nothing
    threads, stop = Threads(), threading.Event()
    for _ in range(300):  # blocks that end before most threads have woken
        with threads.beside(ran.append, [(None,), (None,)], stop):
            pass
    assert len(threads.idle) == 2  # of which all are given back, and no more were ever started
    assert len(ran) <= 600


def test_a_task_that_was_taken_back_keeps_nothing_alive():
    engine, started = tiny(3), set(threading.enumerate())
    for _ in range(100):
        engine.run(IMAGES[:1])
    started = set(threading.enumerate()) - started
    assert started
    del engine
    for thread in started:
        thread.join(HANGS)
        assert not thread.is_alive()


def test_an_error_in_the_block_stops_the_others_and_waits_for_them():
    threads, stop, begun, ended = Threads(), threading.Event(), threading.Event(), []

    def work():
        stop.wait(HANGS)
        ended.append(True)

    def fail():
        with threads.beside(lambda: (begun.set(), work()), [()], stop):
            begun.wait(HANGS)
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert ended == [True]


START = f"""if True:
    import atexit, sys, threading
    sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
    import numpy as np
    from test_threads import IMAGES, tiny
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, timeout=HANGS, cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


def test_the_interpreters_exit_does_not_wait_for_a_daemons_volume():
    code = """
    engine, begun = tiny(2), threading.Semaphore(0)
    load = lambda i, image: begun.release()
    threading.Thread(target=engine.map, args=(10**12, IMAGES.shape[2:], load, lambda i, p: None), daemon=True).start()
    for _ in range(20):
        begun.acquire()
    print("ends")
    """
    assert run(code) == (0, "ends\n", "")


@pytest.mark.parametrize("before", ["", "engine.run(IMAGES)"])
def test_an_engine_runs_while_the_interpreter_exits(before):
    code = f"""
    engine = tiny(3)
    expected = tiny(1).run(IMAGES)
    {before or "pass"}
    atexit.register(lambda: print(np.array_equal(engine.run(IMAGES), expected), np.array_equal(engine.run(IMAGES[:1]), expected[:1])))
    """
    assert run(code) == (0, "True True\n", "")
