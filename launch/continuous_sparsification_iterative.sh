#!/usr/bin/env bash
# Question: which iterative pruner keeps most at equal total epochs? (arXiv:1912.04427's response; section 4)
# Cost: ResNet-20 on CIFAR-10, 228 trainings of 85 epochs. What to expect is said in
# conf/experiment/continuous_sparsification/iterative.yaml.
# Usage: launch/continuous_sparsification_iterative.sh [more words, such as hydra/launcher=slurm model=vgg16]
set -euo pipefail
python -m lt_sweeps experiment=continuous_sparsification/iterative "$@"
