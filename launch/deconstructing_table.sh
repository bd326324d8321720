#!/usr/bin/env bash
# Question: how good can a mask alone make a network? (the table of supermasks, and the learned points of
#           figure 7: the lower method.bias, the sparser the mask)
# Usage:    launch/deconstructing_table.sh [more words, such as hydra/launcher=slurm]
# Cost:     per net 4 arms x 3 biases x 5 runs: 60 trainings, of 440,000 steps of 250 images for fc.
# Expect:   fc: 95.3 % on the initial weights, 96.4 on signed constants, with rescaling 97.8 and 98.0
#           (trained weights 97.7). Rescaling gives nothing on conv2, 6 points on conv4, 11 on conv6.
#           The number is the mean accuracy of ten networks drawn by the mask, at the last step.
set -euo pipefail
python -m lt_sweeps experiment=deconstructing/learned_supermasks model=fc,conv2,conv4,conv6 "$@"
