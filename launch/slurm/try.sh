#!/usr/bin/env bash
# Question: what does a sweep on Slurm look like? A small one, on a real Slurm that this starts on one machine.
# Cost: Debian or Ubuntu, root, two cores; 3 minutes, of which the packages are one. No GPU is needed:
# the nodes' GPUs are fake, and the sweep computes on the CPU.
# Expect: a prompt within some seconds, a table that fills, a job that is preempted and goes on, and a report.
# Usage: launch/slurm/try.sh [more words]; afterwards launch/slurm/cluster.sh down (or wipe)
set -euo pipefail
cluster=$(dirname "$0")/cluster.sh
command -v slurmctld >/dev/null || "$cluster" install
"$cluster" up
python -m lt_sweeps name=try-slurm hydra/launcher=slurm device=cpu hydra.launcher.cpus=1 \
  hydra.launcher.memory=1 hydra.launcher.jobs=3 schedule.levels=4 "$@"
sbatch --partition=prio --nodelist=ltn1 --exclusive --mem=100 --output=/dev/null \
  --begin=now+20 --wrap 'sleep 3' # somebody who may preempt us
python -m lt_sweeps status try-slurm --watch
python -m lt_sweeps report try-slurm
