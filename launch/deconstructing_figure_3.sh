#!/usr/bin/env bash
# Question: which mask criterion finds winning tickets? (figure 3, and early stopping beside it)
# Usage:    launch/deconstructing_figure_3.sh [more words, such as hydra/launcher=slurm]
# Cost:     per net 9 criteria x 24 rounds x 5 runs and 5 dense: 1,085 trainings, of 50,380 steps for fc
#           (`plan` before the words says the hours here).
# Expect:   large_final and magnitude_increase best and above dense at 40 to 10 % remaining (fc: 98.2 to
#           98.4 against 97.9 %), movement just below, random and large_init in the middle, the inverse
#           criteria worst: small_final at chance from 7 % on. Pruned nets stop earlier than dense.
set -euo pipefail
python -m lt_sweeps experiment=deconstructing/criteria model=fc,conv2,conv4,conv6 "$@"
