#!/usr/bin/env bash
# Question: what must a kept weight restart from? (figure 4: mask-1 actions, with and without the sign)
# Usage:    launch/deconstructing_figure_4.sh [more words, such as hydra/launcher=slurm]
# Cost:     per net 8 arms x 24 rounds x 5 runs and 5 dense: 965 trainings.
# Expect:   reinit, reshuffle and constant far below rewind; each recovers when the initial signs stay,
#           constant_init_sign without a significant difference to rewind at any percentage. Of the three
#           signed ones reinit is the lowest: it alone is not bimodal (the response's item 6). A random
#           mask with reinit is the floor.
set -euo pipefail
python -m lt_sweeps experiment=deconstructing/mask_1 model=fc,conv2,conv4,conv6 "$@"
