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

# What train proposes to do next is done below.
next='/ export .* --out policy\.json$/d; /tensorboard --logdir /d'
if [[ -e $run/config.yaml ]]; then
    echo "[quickstart] tuning, continued" >&2
    "$python" scripts/train.py --resume "$run" --windows "$windows" | sed "$next"
else
    echo "[quickstart] tuning: $windows windows in virtual time" >&2
    "$python" scripts/train.py --agent bayes --config configs/env/quickstart.yaml \
        --windows "$windows" --out "$run" | sed "$next"
fi

echo "[quickstart] export: is it better than where it started, on unseen traffic?" >&2
arms=fcfs,random,hrrn,linear_aging,ewsjf
status=0
said=$("$python" scripts/export_policy.py "$run" --out "$policy" --seeds 8 --jobs 2) || status=$?
echo "$said"
case $status in
    0) arms+=,$policy ;;
    3) echo "[quickstart] not exported; the table has the default policy instead" >&2 ;;
    *) exit "$status" ;;
esac

echo "[quickstart] comparison on unseen traffic" >&2
"$python" scripts/evaluate.py --workload configs/workloads/mixed.yaml \
    --engine configs/env/machine.yaml --policies "$arms" --load 0.8,1.3 --seeds 5 \
    --duration 120 --jobs 2 --out "$out/evaluation" "$@"

ewsjf=${python%/*}/ewsjf
echo
[[ $status != 0 ]] || echo "\`bayes tuning\` in the tables is $policy."
case $status:$said in
    0:*$'\n'"serve it: "*)
        echo "$policy is better than its start (95 % confidence, unseen traffic), and breaks no"
        echo "constraint more often.  Serve it:"
        echo "serve:     $ewsjf serve --policy $policy -- MODEL   (any argument of vllm serve)"
        ;;
    0:*)
        echo "$policy is better than its start (95 % confidence, unseen traffic), but breaks"
        echo "constraints more often: see the warning above.  Keep the policy that ships:"
        echo "serve:     $ewsjf serve --policy ewsjf -- MODEL   (any argument of vllm serve)"
        ;;
    *)
        echo "Nothing was found that is better than the start with 95 % confidence."
        echo "Keep the policy that ships:"
        echo "serve:     $ewsjf serve --policy ewsjf -- MODEL   (any argument of vllm serve)"
        ;;
esac
echo "curves:    ${python%/*}/tensorboard --logdir $out"
