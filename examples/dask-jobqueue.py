"""Workers that a batch system starts, worked on as one cluster; more are started where some are lost.

    pip install 'monet-edge[cluster]' dask-jobqueue
    python examples/dask-jobqueue.py SLURM 20 SCANS -o MASKS -m MODEL --records MASKS/records

The first argument is the batch system's name (SLURM, PBS, SGE, LSF, ...; Local tries it without one), the second how many jobs it starts,
the rest is for `monet-edge segment`. The scheduler, in this process, listens where the jobs can reach it: docs/archive.md.
"""

import subprocess
import sys
from importlib import import_module

import dask

SYSTEM, JOBS, *ARGUMENTS = sys.argv[1:]
PER_JOB = {"cores": 4, "processes": 4, "memory": "8GB"}  # four workers of one thread: each has a scan

if __name__ == "__main__":
    dask.config.set({f"jobqueue.{SYSTEM.lower()}.walltime": "12:00:00"})
    kind = getattr(import_module(f"dask_jobqueue.{SYSTEM.lower()}"), f"{SYSTEM}Cluster")
    with kind(**PER_JOB) as cluster:
        cluster.adapt(minimum_jobs=1, maximum_jobs=int(JOBS))
        command = ["monet-edge", "segment", *ARGUMENTS, "--skip-existing", "--cluster", cluster.scheduler_address]
        status = subprocess.run(command).returncode
    sys.exit(status)
