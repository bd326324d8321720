#!/usr/bin/env bash
# Question, cost and what to expect: conf/experiment/deconstructing/criteria.yaml
set -euo pipefail
python -m lt_sweeps experiment=deconstructing/criteria model=fc,conv2,conv4,conv6 "$@"
