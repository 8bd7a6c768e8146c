#!/usr/bin/env bash
# One command from a fresh clone to a first result: makes the environment, then compares the default
# policy with FCFS and rivals on a mixed synthetic workload, replayed through vLLM's own scheduler.
#
# Started again it reuses the environment and the finished runs.  Further arguments go to
# scripts/evaluate.py and override the ones below.  The variables are listed in setup_env.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=$(bash scripts/setup_env.sh)
exec "$python" scripts/evaluate.py \
    --workload configs/workloads/mixed.yaml \
    --engine configs/env/simulated.yaml \
    --policies fcfs,random,hrrn,linear_aging,boost,ewsjf \
    --load 0.8,1.3 \
    --seeds 2 \
    --duration 120 \
    --jobs 2 \
    --out runs/quickstart \
    "$@"
