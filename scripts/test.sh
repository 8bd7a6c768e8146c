#!/usr/bin/env bash
# Makes the environment as quickstart.sh does, then checks style, types and behaviour.
#
# Arguments go to pytest, for example `bash scripts/test.sh tests/scheduling -k partition`.
# EWSJF_TEST_JOBS sets how many processes run the tests (default: 2; 0: none but this one).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=$(bash scripts/setup_env.sh dev)
step() {
    local started=$SECONDS
    printf '[test] %s\n' "$1"
    shift
    "$python" -m "$@"
    printf '[test] done in %d s\n' $((SECONDS - started))
}

# Two numeric threads in each of two test processes only fight for the cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONHASHSEED=0
step "ruff check" ruff check .
step "ruff format" ruff format --check .
step "mypy" mypy
step "pytest" pytest -n "${EWSJF_TEST_JOBS:-2}" --dist worksteal "$@"
