#!/usr/bin/env bash
# Question, cost and what to expect: conf/experiment/deconstructing/same_sign.yaml
set -euo pipefail
python -m lt_sweeps experiment=deconstructing/same_sign model=fc,conv2,conv4,conv6 "$@"
