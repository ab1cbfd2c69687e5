"""The examples run as they stand, as far as that goes without a cluster: what a batch system would set is set here."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.build import head, nifti

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SCANS = 5


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    for i in range(SCANS):
        (folder / f"{i}").mkdir(parents=True)
        (folder / f"{i}" / "scan.nii").write_bytes(nifti(head((32, 32, 4))))
    return folder


@pytest.fixture
def run(tmp_path):
    """A command where `monet-edge` is this checkout's."""
    programs = tmp_path / "programs"
    programs.mkdir()
    program = programs / "monet-edge"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m monet_edge "$@"\n')
    program.chmod(0o755)
    paths = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def call(*command, **environment):
        return subprocess.run([*map(str, command)], env=os.environ | paths | environment, cwd=tmp_path, capture_output=True, text=True)

    return call


def masks(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*_seg.nii.gz")}


ALL = {f"{i}/scan_seg.nii.gz" for i in range(SCANS)}


def test_the_tasks_of_a_slurm_array_do_everything(run, scans, tmp_path, weights_file):
    (scans / "4" / "scan.nii").write_bytes(b"broken")  # is no failure of its task
    for task in ("1", "2"):
        array = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "2"}
        done = run("bash", EXAMPLES / "slurm-array.sh", scans, tmp_path / "masks", weights_file, **array)
        assert done.returncode == 0, done.stderr
    assert masks(tmp_path / "masks") == ALL - {"4/scan_seg.nii.gz"}
    assert len(list((tmp_path / "masks/records").glob("part*of2-*.jsonl"))) == 2
    assert run("bash", EXAMPLES / "slurm-array.sh", scans, tmp_path / "masks", weights_file).returncode == 1  # no array


def test_the_pods_of_an_indexed_job_do_everything(run, scans, tmp_path):
    text = (EXAMPLES / "kubernetes.yaml").read_text()
    parts = re.search(r"\n  completions: (\d+)", text)[1]
    (command,) = re.findall(r">-\n((?: {14}.*\n)+)", text)
    command = " ".join(line.strip() for line in command.splitlines())
    assert f"--part $((JOB_COMPLETION_INDEX + 1))/{parts} " in command
    for pod in range(2):
        done = run("bash", "-c", command.replace(f"/{parts} ", "/2 "), JOB_COMPLETION_INDEX=str(pod), ARCHIVE=str(tmp_path))
        assert done.returncode == 0, done.stderr
    assert masks(tmp_path / "masks") == ALL


def test_the_manifest_is_one_that_kubernetes_knows():
    yaml = pytest.importorskip("yaml", reason="the extra cluster is not installed")  # brings it
    job = yaml.safe_load((EXAMPLES / "kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"], job["spec"]["completionMode"]) == ("batch/v1", "Job", "Indexed")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["/bin/bash", "-c"]
    assert container["args"][0].startswith("monet-edge segment ")
    volumes = {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_shell_line_of_the_snakemake_rule_does_a_part(run, scans, tmp_path, weights_file):
    text = (EXAMPLES / "Snakefile").read_text()
    line = "".join(re.findall(r'^        "(.*)"$', text, re.MULTILINE))
    values = {"scans": scans, "masks": tmp_path / "masks", "model": weights_file, "parts": 2}
    for name, value in values.items():
        line = line.replace(f"{{params.{name}}}", str(value))
    for part in "12":
        done = run("bash", "-c", line.replace("{wildcards.part}", part).replace("{threads}", "1"))
        assert done.returncode == 0, done.stderr
    assert masks(tmp_path / "masks") == ALL


@pytest.mark.slow
def test_workers_of_a_batch_system_are_worked_on(run, scans, tmp_path, weights_file):
    """dask-jobqueue's own stand-in for a batch system: its job's script is a process here."""
    pytest.importorskip("dask_jobqueue", reason="the extra cluster is not installed")
    arguments = ["Local", 1, scans, "-o", tmp_path / "masks", "-m", weights_file]
    done = run(sys.executable, EXAMPLES / "dask-jobqueue.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert f"{SCANS} of {SCANS} scans segmented" in done.stdout
    assert masks(tmp_path / "masks") == ALL
