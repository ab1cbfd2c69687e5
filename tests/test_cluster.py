"""Runs on a cluster: what must be left when workers and drivers are killed, who listens where, and what is said when nobody answers.

Small here; `python -m benchmarks archive` has the same with hundreds of scans.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from fuzz.build import head, nifti
from processes import HANGS
from typer.testing import CliRunner

pytest.importorskip("distributed", reason="the extra cluster is not installed")

from benchmarks import faults
from monet_edge import terminal, weights
from monet_edge.cli import app
from monet_edge.errors import MonetError
from monet_edge.job import make_job
from monet_edge.options import Options
from monet_edge.pipeline import Outcome
from monet_edge.runs import cluster, make_plan
from monet_edge.runs.run import run_all
from monet_edge.runs.task import Task

ROOT = Path(__file__).parents[1]


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.nii").write_bytes(nifti(head((32, 32, 4))))
    return folder


def test_a_killed_workers_scans_are_done_by_others(tmp_path, weights_file):
    found = faults.kill_workers(tmp_path, 24, 2, weights_file)
    assert (found["status"], found["results"], found["leftovers"], found["failures"]) == (0, 24, 0, {}), found["said"]
    assert found["killed"] >= 1
    assert len(found["done"]) == 24
    assert set(found["done"].values()) == {1}


@pytest.mark.slow
def test_a_scan_that_kills_its_workers_costs_its_own_result_only(tmp_path, weights_file):
    found = faults.poison(tmp_path, 12, weights_file)
    assert (found["status"], found["results"], len(found["done"]), found["leftovers"]) == (1, 11, 11, 0), found["said"]
    assert list(found["failures"]) == ["site/scan0006.nii.gz"]
    assert "every worker that had it died" in found["failures"]["site/scan0006.nii.gz"]


@pytest.mark.parametrize("more", [(), pytest.param(("--cluster", "local:2", "--threads", 2), marks=pytest.mark.slow)])
def test_a_killed_driver_costs_nothing_that_was_whole(tmp_path, weights_file, more):
    found = faults.kill_driver(tmp_path, 12, weights_file, *more)
    assert (found["status"], found["results"], found["twice"]) == (0, 12, 0), found["said"]
    assert (found["leftovers"], found["orphans"]) == (0, 0)
    assert 0 < found["before"] < 12
    assert len(found["done"]) == 12 - found["before"]


@pytest.mark.slow
def test_parts_of_one_folder_at_once_do_everything_once(tmp_path, weights_file):
    found = faults.share(tmp_path, 9, 3, weights_file)
    assert (found["statuses"], found["files"], found["results"]) == ([0] * 3, 3, 9), found["said"]
    assert len(found["done"]) == 9
    assert set(found["done"].values()) == {1}


def test_nothing_listens_beyond_this_machine(scans, tmp_path, weights_file):
    plan = make_plan([scans], tmp_path / "masks")
    with cluster.connected("local:2", weights.load(weights_file), 2) as way:
        assert all(isinstance(became, Outcome) for _, became in run_all(plan, way))
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        open_ = []
        for process in family:
            with contextlib.suppress(psutil.Error):  # one that ends meanwhile
                open_ += [one.laddr.ip for one in process.net_connections() if one.status == psutil.CONN_LISTEN]
    assert len(open_) >= 3
    assert set(open_) == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("local:0", "0 processes cannot share 1 thread"),
        ("local:2", "2 processes cannot share 1 thread"),
        ("local:two", "expected tcp://HOST:PORT, tls://HOST:PORT or local:N, found 'local:two'"),
        ("somewhere", "expected tcp://HOST:PORT"),
        ("nonsense://somewhere:1", "no scheduler answers at nonsense://somewhere:1"),
    ],
)
def test_an_address_that_is_none_is_one_line(scans, tmp_path, weights_file, address, message):
    arguments = ["segment", scans, "-o", tmp_path / "masks", "-m", weights_file, "--threads", 1, "--cluster", address]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_it_is_said_what_is_waited_for(scans, monkeypatch, weights_file):
    import dask

    monkeypatch.setattr(terminal, "PATIENCE", 0.05)
    with socket.socket() as nobody, dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        nobody.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        result = CliRunner().invoke(app, ["segment", str(scans), "-m", str(weights_file), "--cluster", address])
    first, last = result.stderr.splitlines()
    assert first == f"monet-edge: waiting for an answer from the cluster at {address}"
    assert "no scheduler answers" in last


def test_a_scheduler_that_does_not_answer_is_one_line(monkeypatch, weights_file):
    import dask

    with socket.socket() as nobody, dask.config.set({"distributed.comm.timeouts.connect": "0.3s"}):
        nobody.bind(("127.0.0.1", 0))
        with (
            pytest.raises(MonetError, match=r"no scheduler answers at tcp://127"),
            cluster.connected(f"tcp://127.0.0.1:{nobody.getsockname()[1]}", weights.load(weights_file)),
        ):
            pass


@pytest.fixture
def worker(monkeypatch, weights_file):
    """`_do` as a worker calls it, in this process."""
    ready = cluster._Ready(weights.load(weights_file), 1)
    ready.setup(None)
    monkeypatch.setattr(cluster, "get_worker", lambda: type("Worker", (), {"plugins": {"ready": ready}}))
    return lambda task, clean: cluster._do("ready", task, clean)


def test_what_a_killed_worker_had_written_is_written_again_and_what_was_there_before_is_not(scans, tmp_path, worker):
    task = Task(0, make_job(scans / "0.nii", tmp_path / "mask.nii.gz", Options()), Options())
    assert isinstance(worker(task, True).became, Outcome)
    first = task.job.mask.stat().st_ino
    assert isinstance(worker(task, True).became, Outcome)
    assert task.job.mask.stat().st_ino != first
    assert "exists already" in str(worker(task, False).became)
    (tmp_path / "mask.nii.gz").write_bytes(b"drawn by hand")
    assert "exists already" in str(worker(task, True).became)


def test_an_error_that_cannot_be_sent_is_told_in_words(scans, tmp_path, worker, monkeypatch):
    class OddError(Exception):
        def __init__(self, one, two):
            super().__init__(one)

    def fail(*_):
        raise OddError("the library's words", 2)

    monkeypatch.setattr(cluster, "do", fail)
    ended = worker(Task(0, make_job(scans / "0.nii", tmp_path / "mask.nii.gz", Options()), Options()), True)
    assert repr(ended.became) == 'RuntimeError("OddError: the library\'s words")'


def test_another_version_in_a_worker_is_refused(monkeypatch, weights_file):
    ready = cluster._Ready(weights.load(weights_file), 1)
    monkeypatch.setattr(cluster, "__version__", "0.0.1")
    with pytest.raises(MonetError, match=r"the worker has monet-edge 0\.0\.1; expected"):
        ready.setup(None)


def test_jobs_are_of_this_process_alone(scans, tmp_path, weights_file):
    words = ["segment", str(scans), "-o", str(tmp_path / "masks"), "-m", str(weights_file), "--cluster", "local:1", "--jobs", "2"]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, "jobs: they share the threads of this process" in done.stderr) == (2, True)


def test_without_dask_one_line_says_what_to_install(scans, tmp_path, weights_file):
    hide = "import sys; sys.modules['distributed'] = None; sys.modules['dask'] = None; from monet_edge.cli import app; app()"
    command = [sys.executable, "-c", hide, "segment", str(scans), "-o", str(tmp_path / "masks"), "--cluster", "local:1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "pip install 'monet-edge[cluster]', or leave --cluster out" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_connection_that_cannot_be_closed_hides_nothing(monkeypatch, weights_file):
    """Dask's own words, once in some runs in which a scheduler was lost."""

    class Client:
        cluster, closed = None, 0

        def __init__(self, *_, **__):
            pass

        def nthreads(self):
            return {}

        def close(self):
            Client.closed += 1
            raise RuntimeError("Cannot change state of expiring Timeout")

    monkeypatch.setattr(cluster, "Client", Client)
    found = weights.load(weights_file)
    with pytest.raises(MonetError, match="the scheduler of the cluster is lost"), cluster.connected("tcp://127.0.0.1:1", found):
        raise cluster._lost()
    with cluster.connected("tcp://127.0.0.1:1", found):
        pass
    assert Client.closed == 2


class _Slow(cluster._Ready):
    """Takes a while to be there, as it does where many start at once."""

    def setup(self, worker):
        time.sleep(1)
        super().setup(worker)


@pytest.mark.slow
def test_a_worker_that_dies_as_the_run_begins_is_no_lost_scheduler(scans, tmp_path, weights_file, monkeypatch):
    monkeypatch.setattr(cluster, "_Ready", _Slow)
    with cluster.connected("local:2", weights.load(weights_file), 2) as way:
        killer = threading.Timer(0.3, lambda: faults.workers(os.getpid())[0].kill())
        killer.start()
        assert [type(became) for _, became in run_all(make_plan([scans], tmp_path / "masks"), way)] == [Outcome] * 3
        killer.join()


@pytest.mark.parametrize(("status", "calls"), [("running", cluster.DEATHS + 1), ("closed", 1)])
def test_where_no_worker_can_be_told_or_nobody_is_there_it_is_given_up(weights_file, status, calls):
    class Client:
        told = 0

        def nthreads(self):
            return {"tcp://127.0.0.1:1": 1}

        def register_plugin(self, plugin):
            self.told += 1
            raise OSError("the connection is closed")

        def unregister_worker_plugin(self, name):
            pass

    client = Client()
    client.status, client.cluster = status, None
    with pytest.raises(MonetError, match="the scheduler of the cluster is lost"):
        list(cluster.Cluster(client, weights.load(weights_file), 1).run([]))
    assert client.told == calls


def address_in(file):
    """Where a scheduler listens, once it has written it down."""
    while True:
        with contextlib.suppress(OSError, ValueError):  # not yet, or not whole
            return json.loads(file.read_text())["address"]
        time.sleep(0.05)


@pytest.mark.slow
def test_a_cluster_of_others_is_worked_on_and_its_loss_is_one_line(tmp_path, weights_file):
    """Scheduler and worker as their own processes, as `dask scheduler` and `dask worker` start them."""
    scans, file, where = faults.make_scans(tmp_path / "scans", 12), tmp_path / "run.jsonl", tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}
    host = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    scheduler = subprocess.Popen([*dask, "scheduler", *host, "--scheduler-file", str(where)], **quiet)
    place = ["--scheduler-file", str(where), "--local-directory", str(tmp_path)]
    helper = subprocess.Popen([*dask, "worker", *place, "--nthreads", "1", "--no-dashboard"], **quiet)
    try:
        arguments = faults.command(scans, tmp_path / "masks", weights_file, "--cluster", address_in(where), "--records", file)
        run = faults.start(arguments, pace=0.1, **faults.held(scans, tmp_path / "gate"))
        while run.poll() is None and len(list((tmp_path / "masks").rglob("*.nii.gz"))) < 5:
            time.sleep(0.05)
        scheduler.kill()
        said, _ = run.communicate(timeout=HANGS)
    finally:
        for process in (scheduler, helper):
            process.kill()
            process.wait()
    assert run.returncode == 2, said
    assert "the scheduler of the cluster is lost; results that were written are whole. Run again with --skip-existing" in said
    assert "Traceback" not in said
    assert all(isinstance(json.loads(line), dict) for line in file.read_text().splitlines())
    assert len(faults.results(tmp_path / "masks")) >= 5
