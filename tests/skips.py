"""In CI no test is left out unless the machine truly lacks what it needs: any other skip is a failure, printed with its reason.

Every skip of a test gives one of these reasons: `test_skips.py` compares.
"""

import os

import pytest

# A reason as the tests give it, and why a machine of CI need not have that
ALLOWED = {
    "the real scans are not on this machine": "scans of patients, never part of a checkout: the same paths are tested on phantoms",
    "the extra bench is not installed": "other people's runtimes, which only benchmarks compare with; no part of README's test command",
    "dicom-validator is not installed": "another program that looks at our segmentations: .ci/run installs it, .ci/pythons does not",
    "PyTorch is not installed": "users have none: .ci/pythons tries the runtime without, .ci/run installs it",
    "the extra cluster is not installed": "few users have it: .ci/pythons tries the runtime without, .ci/run installs it",
    "SciPy is not installed": "users have none; nibabel writes SPM's .mat files with it",
    "bids-validator is not installed": "another program that knows BIDS; names and records are tested without it, too",
    "no Chromium on this machine": "the page of a report and the local page's server are also tested without a browser",
    "the extra app is not installed": "the command works without; README's test command installs it",
    "a shell script installs it for all users": "on Windows every user has an own",
    "ssh-keygen is not on this machine": "only who releases signs",
    "dcm2niix is not installed": "an independent reading of DICOM, whose affines are tested against highdicom's too",
    "dicom3tools is not installed": "another program that looks at our segmentations, which highdicom and pydicom read back too",
    "Connectome Workbench is not installed": "another program that reads our label tables, which are tested without it too",
    "strace is not installed": "that nothing is sent is also held by Python's own audit hooks",
    "isal has no wheels for this machine": "zlib serves there, and is tested beside it everywhere",
    "no fork on this system": "Windows has none",
    "Windows has no SIGINT to send to a process of its own": "Linux and macOS have",
    "the folder of other systems is not set by XDG_CACHE_HOME": "the cache is tried on Linux; the others' folders are the user's own",
    "memory in use is read from /proc": "the kernels are the same on every system",
    "guard pages are set by Linux's mprotect": "the kernels are the same on every system",
    "this file system does not tell capitals from small letters": "that of Windows and macOS; there are no such two files there",
}
# Reasons that an own environment may have, and CI never
NOT_IN_CI = (
    *(f"the extra {extra} is not installed" for extra in ("components", "dicom", "federated", "onnx")),
    "openssl is not installed",
    "processes are found by /proc",
    "this is no checkout of git",
    "uv is not installed",
)


def _judge(report):
    """The report, as a failure where it is a skip for a reason that is not allowed."""
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        _, _, said = report.longrepr
        if (reason := said.removeprefix("Skipped: ")) not in ALLOWED:
            report.outcome, report.longrepr = "failed", f"skipped in CI: {reason} (tests/skips.py lists what may be skipped)"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return _judge((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return _judge((yield))
