"""In CI no test is left out unless the machine truly lacks what it needs: any other skip is a failure, printed with its reason."""

import os

import pytest

# A reason as the tests give it, and why a machine of CI need not have that
ALLOWED = {
    "the real scans are not on this machine": "scans of patients, never part of a checkout: the same paths are tested on phantoms",
    "the extra bench is not installed": "other people's runtimes, which only benchmarks compare with; no part of README's test command",
    "PyTorch is not installed": "users have none: .ci/pythons tries the runtime without, .ci/run installs it",
    "the extra cluster is not installed": "few users have it: .ci/pythons tries the runtime without, .ci/run installs it",
    "SciPy is not installed": "users have none; nibabel writes SPM's .mat files with it",
    "bids-validator is not installed": "another program that knows BIDS; names and records are tested without it, too",
    "no Chromium on this machine": "the page of a report and the local page's server are also tested without a browser",
    "the extra app is not installed": "the command works without; README's test command installs it",
    "uv is not installed": "the extra test brings it; README's users need it not",
    "a shell script installs it for all users": "on Windows every user has an own",
    "ssh-keygen is not on this machine": "only who releases signs",
    "dcm2niix is not installed": "an independent reading of DICOM, whose affines are tested against highdicom's too",
    "dicom3tools is not installed": "another program that looks at our segmentations, which highdicom and pydicom read back too",
    "Connectome Workbench is not installed": "another program that reads our label tables, which are tested without it too",
}


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
