#!/usr/bin/env bash
# Question, cost and what to expect: conf/experiment/continuous_sparsification/tickets.yaml
set -euo pipefail
python -m lt_sweeps experiment=continuous_sparsification/tickets model=resnet20,vgg16 "$@"
