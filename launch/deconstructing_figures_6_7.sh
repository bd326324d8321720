#!/usr/bin/env bash
# Question, cost and what to expect: conf/experiment/deconstructing/supermasks.yaml
set -euo pipefail
python -m lt_sweeps experiment=deconstructing/supermasks model=fc,conv2,conv4,conv6 "$@"
