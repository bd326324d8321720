#!/usr/bin/env bash
# Question: what does annealing give, when masks are cut at exact sparsities? (appendix F; the response: "we
#           also tried having a fixed beta=1 during training, which led to significantly worse results")
# Usage: launch/continuous_sparsification_exact.sh [more words, such as seed=range(5) or hydra/launcher=slurm]
# Cost:     per net 3 runs of 2 betas x 3 s0: 18 searches of 85 epochs, of which each serves all six
#           sparsities, and 108 trainings of 40.
# Expect:   sparsities as asked for to a weight; the annealed mask above the constant at every one, by more
#           than a point at the highest where it is within 2 % of dense.
set -euo pipefail
python -m lt_sweeps experiment=continuous_sparsification/exact model=resnet20,vgg16 "$@"
