#!/bin/bash
# Each fold is a task of an array, on a GPU of its own: docs/scaling.md. Not run on Slurm yet.
# What was killed goes on from its last saved state when the task is requeued.
#SBATCH --array=0-5 --requeue
#SBATCH --gres=gpu:1 --cpus-per-task=8 --mem=16G --time=04:00:00
set -eu
. .venv/bin/activate
exec dvc --wait-for-lock repro --single-item "w2v_finetune@$SLURM_ARRAY_TASK_ID"
