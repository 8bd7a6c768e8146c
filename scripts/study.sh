#!/usr/bin/env bash
# The comparison in the README: every policy on four recorded traffics and the paper's mix.
#
#     bash scripts/study.sh TRACES OUT [JOBS]
#
# TRACES is a folder with azure2023_conv_a.csv.gz, azure2023_code_a.csv.gz,
# servegen_mlarge_a.csv.gz and mooncake_conversation_a_hashes.jsonl.gz; OUT gets one folder an
# evaluation.  Takes about two hours on two cores; started again it goes on from what is finished.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: bash scripts/study.sh TRACES OUT [JOBS]" >&2; exit 2; }
traces=$(realpath "$1") out=$(realpath -m "$2") jobs=${3:-2}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(bash scripts/setup_env.sh)

rivals="fcfs,random,sjf,spf,sjf_total,linear_aging,hrrn,hrrn(exponent=2)"
rivals+=",boost,boost_ada,residual_sjf,srf,sigmoid"
all="$rivals,ewsjf_authors,ewsjf_paper,ewsjf_normalised,ewsjf"
sweep="fcfs,random,sjf,residual_sjf,srf,sigmoid,boost_ada,ewsjf_authors,ewsjf_paper"
sweep+=",linear_aging(r=10),linear_aging(r=20),linear_aging(r=50),linear_aging(r=100)"
sweep+=",linear_aging(r=200),hrrn,hrrn(exponent=1.5),hrrn(exponent=2),hrrn(exponent=3)"
sweep+=",boost(gamma=0.01),boost(gamma=0.02),boost(gamma=0.03),boost(gamma=0.05)"
sweep+=",ewsjf_normalised,ewsjf_normalised(gamma=1),ewsjf_normalised(gamma=2)"
sweep+=",ewsjf(k=0.7),ewsjf(k=1),ewsjf(k=1.5),ewsjf(k=2),ewsjf(k=3),ewsjf,ewsjf(k=7),ewsjf(k=20)"
sweep+=",ewsjf(lambda=1,mu=0,k=150),ewsjf(lambda=1,mu=0,k=200),ewsjf(lambda=1,mu=0,k=260)"

evaluate() { # NAME and evaluate.py's arguments
    local name=$1
    shift
    echo "== $name"
    "$python" scripts/evaluate.py --seeds 5 --jobs "$jobs" --out "$out/$name" "$@"
}

evaluate paper_overload --workload paper_mix --load 1.85 --duration 200 --policies "$sweep"
evaluate paper_mix --workload paper_mix --load 0.7,0.95,1.3 --duration 150 --policies "$all"
for trace in azure2023_conv_a azure2023_code_a servegen_mlarge_a; do
    evaluate "$trace" --trace "$traces/$trace.csv.gz" --load 0.7,0.95,1.3 --duration 100 \
        --policies "$all"
done
for engine in long_context long_context_cached; do
    evaluate "mooncake_$engine" --trace "$traces/mooncake_conversation_a_hashes.jsonl.gz" \
        --jitter 3 --engine "configs/env/$engine.yaml" --load 0.7,0.95,1.3 --duration 100 \
        --policies "$all"
done
