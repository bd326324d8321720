#!/usr/bin/env bash
# Question: do the masks that make the best untrained networks make the best tickets? (S5, response item 3)
# Usage:    launch/deconstructing_figure_s5.sh [more words, such as hydra/launcher=slurm]
# Cost:     per net 3 criteria x 24 rounds x 5 runs and 5 dense: 365 trainings.
# Expect:   large_final_same_sign within 0.3 points of large_final (the authors: slightly below it; on fc
#           even, and above it below 3 % remaining); large_final_diff_sign like random.
set -euo pipefail
python -m lt_sweeps experiment=deconstructing/same_sign model=fc,conv2,conv4,conv6 "$@"
