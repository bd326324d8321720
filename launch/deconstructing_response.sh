#!/usr/bin/env bash
# Question: what the authors' response raises and the paper has not: a bimodal initialisation (item 6), signs put in
#           another order after a mask is learned (7), learned masks from a criterion's (8), masks of other
#           moments (9); a ResNet (1) is experiment=deconstructing/resnet.
# Usage:    launch/deconstructing_response.sh [more words, such as hydra/launcher=slurm]
# Cost:     on fc 725 + 10 trainings of 50,380 steps, and 45 masks of 440,000 steps of 250 images.
# Expect:   signs in another order fall to chance, 10 %; (initial, lowest validation loss) is not as good as (initial,
#           final); the others were not run by the authors.
set -euo pipefail
python -m lt_sweeps experiment=deconstructing/bimodal_init,deconstructing/random_signs,deconstructing/from_criterion,deconstructing/snapshots "$@"
