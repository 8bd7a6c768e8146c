#!/usr/bin/env bash
# uv with the settings of an interpreter's pip.  By itself it reads none of them, and may find other
# packages.
#
#   bash scripts/uv.sh PYTHON pip install ...
#
# Takes uv from PATH, or else has pip install it beside the interpreter.  Fails if neither works.
set -euo pipefail
export UV_PYTHON=$1
python=$1
shift

uv=uv # one that is too old to know dependency groups does not count
[[ $(uv pip install --help 2>/dev/null) == *--group* ]] || uv=$(dirname "$python")/uv
[[ $uv == uv || -x $uv ]] || "$python" -m pip install --quiet --retries 1 \
    --constraint "$(dirname "${BASH_SOURCE[0]}")/pins/cpu.txt" uv >&2

declare -A names=(
    [index-url]=UV_DEFAULT_INDEX [extra-index-url]=UV_INDEX [no-index]=UV_NO_INDEX
    [find-links]=UV_FIND_LINKS [constraint]=UV_CONSTRAINT [trusted-host]=UV_INSECURE_HOST
    [cert]=SSL_CERT_FILE [client-cert]=SSL_CLIENT_CERT [proxy]=ALL_PROXY
    [timeout]=UV_HTTP_TIMEOUT [default-timeout]=UV_HTTP_TIMEOUT
)
listed=$("$python" -m pip config list) # lines such as global.index-url='address'
declare -A told=()
while IFS='=' read -r key value; do
    [[ $key == *.* ]] || continue
    name=${names[${key##*.}]:-}
    [[ -z $name ]] || told[$name]=$(printf '%b' "${value:1:-1}" | tr -s '[:space:]' ' ')
done < <(grep -v '^:env:' <<<"$listed" || true; grep '^:env:' <<<"$listed") # the last one counts
[[ -z ${told[UV_FIND_LINKS]:-} ]] || told[UV_FIND_LINKS]=${told[UV_FIND_LINKS]// /,}
for name in "${!told[@]}"; do # what uv was told itself comes first
    [[ -n ${!name:-} ]] || export "$name=${told[$name]}"
done
export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match} # all indexes alike, as for pip
if [[ ${2:-} == @(install|compile) ]]; then # beside an option the variable does not count
    for file in ${UV_CONSTRAINT:-}; do set -- "$@" --constraint "$file"; done
fi
exec "$uv" "$@"
