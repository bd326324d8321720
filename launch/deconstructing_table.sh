#!/usr/bin/env bash
# Question, cost and what to expect: conf/experiment/deconstructing/learned_supermasks.yaml
set -euo pipefail
python -m lt_sweeps experiment=deconstructing/learned_supermasks model=fc,conv2,conv4,conv6 "$@"
