#!/usr/bin/env bash
# Question: which mask criterion finds tickets in LeNet-300-100 on MNIST? (arXiv:1905.01067, figure 3)
# Cost: a training is 50,380 steps. Two criteria, two seeds, 12 levels are 50 trainings.
# Expect (test %, mean of five seeds, 41 % of weights remaining, then 7.0 %): large_final 98.22, 98.23;
# random 97.89, 96.83; dense 97.92.
# Usage: launch/deconstructing_fc.sh [more words, such as seed=range(5) schedule.levels=24]
set -euo pipefail
python -m lt_sweeps dataset=mnist recipe=deconstructing_fc schedule.levels=12 \
  mask_criterion=large_final,random seed=0,1 "$@"
