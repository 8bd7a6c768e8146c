#!/usr/bin/env bash
# uv with the settings of an interpreter's pip, of which it reads none by itself and without which it
# may find other packages.
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
while IFS='=' read -r key value; do # such as global.index-url='address'; variables come first
    name=${names[${key##*.}]:-}
    [[ -n $name && -z ${!name:-} ]] || continue
    read -ra words <<<"$(printf '%b' "${value:1:-1}" | tr '\n' ' ')"
    export "$name=${words[*]}"
    [[ $name != UV_FIND_LINKS ]] || UV_FIND_LINKS=${UV_FIND_LINKS// /,}
done < <("$python" -m pip config list)
export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match} # all indexes alike, as for pip
if [[ ${2:-} == @(install|compile) ]]; then # beside an option the variable does not count
    for file in ${UV_CONSTRAINT:-}; do set -- "$@" --constraint "$file"; done
fi
exec "$uv" "$@"
