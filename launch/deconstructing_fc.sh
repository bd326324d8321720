#!/usr/bin/env bash
# Question, cost and what to expect: conf/experiment/deconstructing/criteria.yaml
set -euo pipefail
python -m lt_sweeps experiment=deconstructing/criteria mask_criterion=large_final,random seed=0,1 \
  schedule.levels=12 "$@"
