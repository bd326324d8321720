#!/usr/bin/env bash
# Question: is a ticket of CIFAR-10 one of CIFAR-100? (arXiv:1912.04427's response)
# Cost: ResNet-20, 210 trainings of 85 epochs. What to expect is said in
# conf/experiment/continuous_sparsification/transfer.yaml.
# Usage: launch/continuous_sparsification_transfer.sh [more words, such as hydra/launcher=slurm model=vgg16]
set -euo pipefail
python -m lt_sweeps experiment=continuous_sparsification/transfer "$@"
