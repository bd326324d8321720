#!/usr/bin/env bash
# Question: how far can one-shot pruning go within 2 % of the dense network? (the response's table and
#           plot: L0, magnitude, GMP, Network Slimming, Continuous Sparsification)
# Usage: launch/continuous_sparsification_one_shot.sh [more words, such as seed=range(5) or hydra/launcher=slurm]
# Cost:     per net 79 points x 3 runs, 372 trainings; all but magnitude's train for 85 + 40 epochs (43,800 steps),
#           magnitude's 40 from one dense training of 85.
# Expect:   highest sparsity within 2 % (relative) of dense. ResNet: L0 31.8 %, magnitude 75.5, GMP 86.0,
#           Continuous Sparsification 89.3; VGG: 32.0, 97.5, 98.0, 99.6. Levels move with the length of
#           fine-tuning, which the response does not tell; the order is what is robust.
set -euo pipefail
python -m lt_sweeps experiment=continuous_sparsification/one_shot model=resnet20,vgg16 "$@"
