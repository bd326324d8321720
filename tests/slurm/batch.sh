#!/bin/bash

# Parameters
#SBATCH --account=root
#SBATCH --array=0-1%2
#SBATCH --chdir=CWD
#SBATCH --cpus-per-task=1
#SBATCH --dependency=afterok:ID
#SBATCH --gpus-per-node=1
#SBATCH --hold
#SBATCH --job-name=NAME.1
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mail-type=FAIL
#SBATCH --mail-user=me@there.org
#SBATCH --mem=512M
#SBATCH --nice=7
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=SWEEP/slurm/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
#SBATCH --time=1-00:00:00
#SBATCH --wckey=submitit

# setup
source CODE/lt_sweeps/execution/slurm/job.sh 20 SWEEP/jobs/requeues-1."$SLURM_ARRAY_TASK_ID" 90
export A='a b'
set -e
module() { :; }
module load cuda
set +e

# command
export SUBMITIT_EXECUTOR=slurm
lt_main env B=1 python3 CODE/job.py SWEEP 1 "$SLURM_ARRAY_TASK_ID"
