#!/usr/bin/env bash
# Question: does the released script's run of Continuous Sparsification give a ticket better than dense?
#           (arXiv:1912.04427: three rounds at s0 = 0, the ticket rewound to epoch 2), with the paper's
#           reset of the masks between rounds and with the one that the script has
# Usage: launch/continuous_sparsification_released.sh [more words]
# Cost:     3 runs of 2 resets x (3 rounds + 3 tickets), the first round shared, and dense: 36 trainings
#           of 85 epochs.
# Expect:   tickets at 91.5 to 92.0 %, dense at 90 to 91 %.
set -euo pipefail
python -m lt_sweeps method=continuous_sparsification model=resnet20 dataset=cifar10 dataset.stratified=true \
  dataset.normalize=true recipe=continuous_sparsification method.rounds=3 method.protocol=ticket method.to=2ep \
  method.restart=true method.round_reset=paper,released mask_criterion=large_final seed=0,1,2 "$@"
