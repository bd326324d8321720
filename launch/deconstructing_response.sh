#!/usr/bin/env bash
# Question, cost and what to expect: conf/experiment/deconstructing/bimodal_init.yaml and the three beside it
set -euo pipefail
python -m lt_sweeps "$@" \
  experiment=deconstructing/bimodal_init,deconstructing/random_signs,deconstructing/from_criterion,deconstructing/snapshots
