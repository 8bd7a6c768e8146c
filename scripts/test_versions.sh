#!/usr/bin/env bash
# Tests the scheduler and the simulated engine with other releases of vLLM.
#
#   bash scripts/test_versions.sh                  0.26.0, 0.28.0 to 0.33.0
#   bash scripts/test_versions.sh 0.28.0 0.33.0
#
# A release's pure-Python build (11 MB, no dependencies) is put before the installed vLLM on the
# path; torch and everything else stay those of the project's environment.  A release that was
# tested with this very code is not tested again, so an interrupted start goes on where it stopped.
#
#   EWSJF_VERSIONS  folder of the builds and logs (default: vllm-versions in the environment)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly known="0.26.0 0.28.0 0.29.0 0.30.0 0.31.0 0.32.0 0.33.0"
say() { printf '[versions] %s\n' "$*"; }
for version in "$@"; do
    [[ " $known " == *" $version "* ]] || {
        say "error: release $version is not supported; choose from $known" >&2
        exit 2
    }
done

python=$(bash scripts/setup_env.sh dev)
folder=${EWSJF_VERSIONS:-$(dirname "$(dirname "$python")")/vllm-versions}
mkdir -p "$folder"
code=$(find ewsjf_env tests \( -name '*.py' -o -name '*.json' \) -print0 | sort -z |
    xargs -0 cat pyproject.toml | sha256sum)
export OMP_NUM_THREADS=1 PYTHONHASHSEED=0

install() { # as scripts/setup_env.sh installs it; moved into place only when complete
    rm -rf "$folder/$1.part" "${folder:?}/$1"
    VLLM_TARGET_DEVICE=empty VLLM_VERSION_OVERRIDE=$1 "$python" -m pip install --no-input \
        --disable-pip-version-check --no-deps --no-build-isolation --no-binary vllm \
        --target "$folder/$1.part" "vllm==$1" >"$folder/$1.log" 2>&1 &&
        mv "$folder/$1.part" "$folder/$1"
}

check() { # the tests, after making sure that they meet the release they are meant for
    PYTHONPATH=$folder/$1:$PWD "$python" -W ignore -c \
        "import vllm, sys; sys.exit(vllm.__version__ != '$1')" >"$folder/$1.log" 2>&1 &&
        PYTHONPATH=$folder/$1:$PWD "$python" -m pytest -q -p no:cacheprovider \
            -n "${EWSJF_TEST_JOBS:-2}" tests/serving tests/engine >"$folder/$1.log" 2>&1
}

failed=""
for version in ${*:-$known}; do
    started=$SECONDS
    if [[ -f $folder/$version.passed && $(<"$folder/$version.passed") == "$code" ]]; then
        say "$version: passed before"
        continue
    fi
    rm -f "$folder/$version.passed"
    say "$version: installing and testing ..."
    if { [[ -d $folder/$version ]] || install "$version"; } && check "$version"; then
        echo "$code" >"$folder/$version.passed"
        say "$version: $(tail -n 1 "$folder/$version.log") ($((SECONDS - started)) s)"
    else
        tail -n 15 "$folder/$version.log"
        say "$version: FAILED, see $folder/$version.log"
        failed="$failed $version"
    fi
done
[[ -z $failed ]] || { say "failed:$failed" >&2; exit 1; }
