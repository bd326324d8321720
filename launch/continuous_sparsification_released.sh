#!/usr/bin/env bash
# Question, cost and what to expect: conf/experiment/continuous_sparsification/tickets.yaml
set -euo pipefail
python -m lt_sweeps method=continuous_sparsification model=resnet20 dataset=cifar10 dataset.stratified=true \
  dataset.normalize=true recipe=continuous_sparsification method.rounds=3 method.protocol=ticket method.to=2ep \
  method.restart=true method.round_reset=paper,released report_at=end seed=0,1,2 "$@"
