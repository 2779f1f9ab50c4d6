#!/bin/bash
# A Dask cluster of four Slurm jobs for as long as one command runs, for instance
#     docs/slurm/dask.sh dvc repro evaluate@svm
# Needs `pip install dask-jobqueue`, and the folder in which it is called on all nodes:
# docs/scaling.md. Not run on Slurm yet.
set -eu
. .venv/bin/activate
exec python -c '
import os, subprocess, sys
from dask_jobqueue import SLURMCluster

with SLURMCluster(cores=8, processes=8, memory="16 GB", walltime="02:00:00") as cluster:
    cluster.scale(jobs=4)
    cluster.wait_for_workers(1)  # however long they queue
    env = {**os.environ, "DASK_SCHEDULER_ADDRESS": cluster.scheduler_address}
    sys.exit(subprocess.run(sys.argv[1:], env=env).returncode)
' "$@"
