#!/bin/bash
# Each fold is a task of an array, on a GPU of its own: docs/scaling.md. Not run on SLURM yet.
#SBATCH --job-name=folds
#SBATCH --array=0-5
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
set -eu
cd "${SLURM_SUBMIT_DIR:-.}"
. .venv/bin/activate
# What was killed goes on from its last saved state when the task is requeued.
exec dvc --wait-for-lock repro --single-item "w2v_finetune@$SLURM_ARRAY_TASK_ID"
