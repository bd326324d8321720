#!/usr/bin/env bash
# Question: how far do pruners get that find no tickets? (arXiv:1912.04427's response)
# Cost: ResNet-20 on CIFAR-10, 294 trainings of 40 to 425 epochs. What to expect is said in
# conf/experiment/continuous_sparsification/pruners.yaml.
# Usage: launch/continuous_sparsification_pruners.sh [more words, such as hydra/launcher=slurm model=vgg16]
set -euo pipefail
python -m lt_sweeps experiment=continuous_sparsification/pruners "$@"
