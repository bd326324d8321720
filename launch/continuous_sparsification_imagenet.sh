#!/usr/bin/env bash
# Question: what is left of ResNet-50's accuracy on ImageNet at high sparsity? (table 2)
# Usage: launch/continuous_sparsification_imagenet.sh [more words, such as dataset.path=DIR hydra/launcher=slurm]
# Cost: 57 trainings of 90 to 500 epochs for one seed. What to expect is said in
# conf/experiment/continuous_sparsification/imagenet.yaml.
set -euo pipefail
python -m lt_sweeps experiment=continuous_sparsification/imagenet "$@"
