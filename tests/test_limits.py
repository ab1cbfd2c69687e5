"""How many cores a process may use, where a control group lets it have less than the machine."""

import os

import pytest

from monet_edge.limits import usable_cores

TWO = {"proc/self/cgroup": "0::/jobs/one\n", "sys/fs/cgroup/jobs/one/cpu.max": "max 100000\n"}
ONE = {"proc/self/cgroup": "12:memory:/x\n4:cpu,cpuacct:/docker/abc\n", "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n"}


@pytest.fixture
def cores(tmp_path, monkeypatch):
    """On a machine of 64 cores, with these files."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)

    def found(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return usable_cores(tmp_path)

    return found


@pytest.mark.parametrize("files", [{}, TWO, {**ONE, "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "-1\n"}])
def test_without_a_limit_all(cores, files):
    assert cores(files) == 64


@pytest.mark.parametrize(("quota", "expected"), [("200000", 2), ("250000", 3), ("1000", 1), ("9900000", 64)])
def test_a_share_of_the_time_counts_as_so_many_cores(cores, quota, expected):
    assert cores({**TWO, "sys/fs/cgroup/jobs/cpu.max": f"{quota} 100000\n"}) == expected
    assert cores({**ONE, "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": f"{quota}\n"}) == expected
