#!/usr/bin/env bash
# Question, cost and what to expect: conf/experiment/deconstructing/mask_1.yaml
set -euo pipefail
python -m lt_sweeps experiment=deconstructing/mask_1 model=fc,conv2,conv4,conv6 "$@"
