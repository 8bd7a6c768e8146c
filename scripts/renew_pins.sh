#!/usr/bin/env bash
# Renews scripts/pins, the versions that scripts/setup_env.sh installs, from pyproject.toml.
#
#   bash scripts/renew_pins.sh                            after a change of pyproject.toml
#   bash scripts/renew_pins.sh --upgrade                  all to the newest that fit together
#   EWSJF_VLLM_VERSION=0.33.0 bash scripts/renew_pins.sh  another release of vLLM
#
# Arguments go to `uv pip compile`.  The pins hold for every supported Python (EWSJF_PYTHON, default
# python3, only runs this) and for every machine: wheels that lie on this one do not count.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/wheels"
"${EWSJF_PYTHON:-python3}" -m venv "$scratch"
uv() { bash scripts/uv.sh "$scratch/bin/python" "$@"; }
pip() { "$scratch/bin/python" -m pip "$@" --quiet --no-deps --no-build-isolation; }
vllm=${EWSJF_VLLM_VERSION:-$(sed -n 's/^vllm==//p' scripts/pins/cuda.txt)}

renew() { # FILE REQUIREMENT...: what the file held is kept where it still fits
    local file=scripts/pins/$1.txt
    printf '%s\n' "${@:2}" uv | UV_FIND_LINKS=$scratch/wheels uv pip compile --quiet --universal \
        --python-version 3.11 --no-header --no-annotate --all-extras --group build --group dev \
        --group screenshots --output-file "$file" "${options[@]}" pyproject.toml - >/dev/null
    sed -i 's/+empty$//' "$file"
    printf '[pins] %s: %d lines\n' "$file" "$(wc -l <"$file")"
}
options=("$@")

renew cuda "vllm==$vllm"
# The pure-Python build has fewer requirements than the wheel, and uv goes by those of the wheel
# unless the build has a version of its own.
torch=$(grep '^torch==' scripts/pins/cuda.txt)
uv pip install --quiet --constraint scripts/pins/cuda.txt --group build torch
export VLLM_TARGET_DEVICE=empty
VLLM_VERSION_OVERRIDE=$vllm pip download --no-binary vllm --dest "$scratch" "vllm==$vllm"
pip wheel --wheel-dir "$scratch/wheels" "$scratch"/vllm-*.tar.gz
renew cpu "vllm==$vllm+empty" "$torch"
