#!/usr/bin/env bash
# Question: what does a sweep on Slurm look like? A small one, on a real Slurm that this starts on one machine.
# Cost: Debian or Ubuntu, root, two cores; 3 minutes, one of them for installing packages. No GPU is needed:
# the nodes' GPUs are fake, and the sweep trains on the CPU.
# Expect: a prompt within some seconds, a table that fills, a job that is preempted and continues, and a report.
# Usage: launch/slurm/try.sh [more overrides]; afterwards launch/slurm/cluster.sh down (or wipe)
set -euo pipefail
cluster=$(dirname "$0")/cluster.sh
command -v slurmctld >/dev/null || "$cluster" install
"$cluster" up
python -m lt_sweeps name=try-slurm hydra/launcher=slurm device=cpu hydra.launcher.cpus=1 \
  hydra.launcher.memory=1 hydra.launcher.jobs=3 schedule.levels=4 "$@"
sbatch --partition=prio --nodelist=ltn1 --exclusive --mem=100 --output=/dev/null \
  --begin=now+20 --wrap 'sleep 3' # a job that may preempt ours
python -m lt_sweeps status try-slurm --watch
python -m lt_sweeps report try-slurm
