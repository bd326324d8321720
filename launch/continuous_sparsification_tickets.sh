#!/usr/bin/env bash
# Question: who finds the sparsest matching and the best performing ticket, and at what cost of search?
#           (table 1: Continuous Sparsification against iterative magnitude pruning and IMP-Continued)
# Usage: launch/continuous_sparsification_tickets.sh [more words, such as seed=range(5) or hydra/launcher=slurm]
#           The released script's own run: launch/continuous_sparsification_released.sh
# Cost:     per net 3 runs of 31 + 61 trainings of 85 epochs for IMP and IMP-Continued, and of 10 for each
#           of 17 s0: 780. Searching takes 85 epochs a round: 425 for one s0 and 7,225 for all, of which
#           none waits for another; 2,550 for IMP, one after the other.
# Expect:   the released script's ticket at 91.5 to 92.0 % and dense at 90 to 91. The sparsest matching
#           ticket of Continuous Sparsification sparser than IMP's, its best at least as good, and the
#           former within 5 rounds: at 89.3 % IMP takes 11, at 99.6 % 25.
set -euo pipefail
python -m lt_sweeps experiment=continuous_sparsification/tickets model=resnet20,vgg16 "$@"
