#!/usr/bin/env bash
# Question: what does each hyper-parameter of Continuous Sparsification do? (the response: a discussion of
#           their role; one at a time around s0 = 0, lambda = 1e-8, a final beta of 200, one round)
# Usage: launch/continuous_sparsification_hyperparameters.sh [more words, such as seed=range(5) or hydra/launcher=slurm]
#           The paper's study is on Conv-6: model=conv6 recipe=deconstructing_conv6.
# Cost:     3 runs of 34 points: a search of 85 epochs for each, and 85 for what it kept.
# Expect:   sparsity falls as s0 rises (Spearman -0.9 or stronger), and lambda between 0 and 1e-8 moves it
#           less than one step of s0; a larger final beta freezes masks earlier; more rounds prune more;
#           the two resets between rounds part from the second round on.
set -euo pipefail
python -m lt_sweeps experiment=continuous_sparsification/hyperparameters "$@"
