#!/usr/bin/env bash
# Question: how good is a network that was never trained, under the mask of one that was? (figures 6, 7)
# Usage:    launch/deconstructing_figures_6_7.sh [more words, such as hydra/launcher=slurm]
# Cost:     per net 5 dense trainings; 13 criteria x 25 points x 2 initialisations x 5 runs are scored only.
#           The first point has no mask; `random` is figure 6's random mask.
# Expect:   the score is each run's best point, averaged over runs. On fc large_final 36 to 40 %,
#           large_final_same_sign 79.3 % (86.3 % with signed constants), without a mask or with a random
#           one chance; the curve is an inverted U with its peak at 30 to 40 % remaining. Signed constants
#           beat the initial values on every net.
set -euo pipefail
python -m lt_sweeps experiment=deconstructing/supermasks model=fc,conv2,conv4,conv6 "$@"
