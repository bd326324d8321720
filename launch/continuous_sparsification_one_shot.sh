#!/usr/bin/env bash
# Question, cost and what to expect: conf/experiment/continuous_sparsification/one_shot.yaml
set -euo pipefail
python -m lt_sweeps experiment=continuous_sparsification/one_shot model=resnet20,vgg16 "$@"
