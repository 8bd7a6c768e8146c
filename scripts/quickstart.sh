#!/usr/bin/env bash
# One command from a fresh clone to a tuned policy: makes the environment, tunes EWSJF on the
# simulated engine, exports what is better than its start, and compares it with FCFS, rivals and the
# default policy on traffic that the tuning has not seen.
#
# Started again it reuses the environment and everything that is finished.  Arguments go to
# scripts/evaluate.py and override the ones below.  The variables are listed in setup_env.sh.
#
#   EWSJF_WINDOWS   windows of the tuning run (default: 24)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=$(bash scripts/setup_env.sh)
out=runs/quickstart run=$out/tuning policy=$out/tuned.json
windows=${EWSJF_WINDOWS:-24}

if [[ -e $run/config.yaml ]]; then
    echo "[quickstart] tuning, continued" >&2
    "$python" scripts/train.py --resume "$run" --windows "$windows"
else
    echo "[quickstart] tuning: $windows windows of the simulated engine" >&2
    "$python" scripts/train.py --agent bayes --config configs/env/quickstart.yaml \
        --windows "$windows" --out "$run"
fi

echo "[quickstart] export: is it better than where it started, on unseen traffic?" >&2
arms=fcfs,random,hrrn,linear_aging,ewsjf
status=0
"$python" scripts/export_policy.py "$run" --out "$policy" --seeds 8 --jobs 2 || status=$?
case $status in
    0) arms+=,$policy ;;
    3) echo "[quickstart] not exported; the table has the default policy instead" >&2 ;;
    *) exit "$status" ;;
esac

echo "[quickstart] comparison on unseen traffic" >&2
"$python" scripts/evaluate.py --workload configs/workloads/mixed.yaml \
    --engine configs/env/machine.yaml --policies "$arms" --load 0.8,1.3 --seeds 2 \
    --duration 120 --jobs 2 --out "$out/evaluation" "$@"

[[ $status == 0 ]] || policy=ewsjf # the one that ships
cat <<TXT

curves:  ${python%/*}/tensorboard --logdir $out
serve:   ${python%/*}/ewsjf serve --policy $policy -- MODEL   (any argument of vllm serve)
TXT
