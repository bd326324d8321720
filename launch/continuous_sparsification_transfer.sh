#!/usr/bin/env bash
# Question, cost and what to expect: conf/experiment/continuous_sparsification/transfer.yaml
set -euo pipefail
python -m lt_sweeps experiment=continuous_sparsification/transfer "$@"
