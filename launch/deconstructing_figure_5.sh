#!/usr/bin/env bash
# Question: does the value that pruned weights are frozen at matter? (figure 5, and its two controls)
# Usage:    launch/deconstructing_figure_5.sh [more words, such as hydra/launcher=slurm]
# Cost:     per net 6 arms x 24 rounds x 5 runs and 5 dense: 725 trainings.
# Expect:   freezing at the initial value is clearly below zero on the convolutional nets; variant 1 (zero
#           only what moved towards zero) as good as zero, and above it at high sparsity; variant 2 the
#           best. Of the controls random zeros lie below variant 1, reversed is the worst.
set -euo pipefail
python -m lt_sweeps experiment=deconstructing/mask_0 model=fc,conv2,conv4,conv6 "$@"
