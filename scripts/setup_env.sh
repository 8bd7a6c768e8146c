#!/usr/bin/env bash
# Makes the project's Python environment, or updates or reuses the one that is there.
#
#   python=$(bash scripts/setup_env.sh)        what running needs
#   python=$(bash scripts/setup_env.sh dev)    also the test tools, linters and type stubs
#
# Prints the environment's interpreter on standard output, progress and errors on standard error.
# Installs the versions in scripts/pins, which scripts/renew_pins.sh renews.
#
#   EWSJF_VENV          folder of the environment (default: .venv in the project)
#   EWSJF_PYTHON        interpreter that the environment is made from (default: the first supported)
#   EWSJF_VLLM_VERSION  vLLM release (default: the pinned one)
#   EWSJF_TORCH_INDEX   package index for torch alone, for example one that holds CPU builds
#   EWSJF_DEVICE        cpu or cuda (default: cuda where an NVIDIA GPU answers, else cpu)
#   EWSJF_INSTALLER     uv or pip (default: uv where it can be had)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { printf '[setup] %s\n' "$*" >&2; }
fail() { say "error: $*" && exit 1; }

describe() { # version and home of an interpreter that vLLM supports and that can make environments
    "$1" -c 'import ensurepip, sys, venv
if (3, 11) <= sys.version_info < (3, 15):
    print("%d.%d.%d" % sys.version_info[:3], sys._base_executable)' 2>/dev/null
}

make_venv() { # makes, keeps or replaces the folder; only one that this script made is ever replaced
    local name version="" base names=("$python" python3 python3.12 python3.13 python3.11 python3.14)
    if [[ ! -f $state/ours && -n $(ls -A "$venv" 2>/dev/null) ]]; then # somebody else's: add to it
        [[ -n $(describe "$python") ]] ||
            fail "$venv is not an environment of Python 3.11 to 3.14; choose another EWSJF_VENV."
        "$python" -m pip --version &>/dev/null || "$python" -m ensurepip >&2
        mkdir -p "$state" && return
    fi
    [[ -z ${EWSJF_PYTHON:-} ]] || names=("$EWSJF_PYTHON")
    for name in "${names[@]}"; do ! read -r version base < <(describe "$name") || break; done
    [[ -n $version ]] || fail "no supported Python found (tried ${names[*]}); install Python 3.11" \
        "to 3.14 with its venv module (Debian: python3-venv) or set EWSJF_PYTHON."
    ours="$version $device"
    [[ $(cat "$state/ours" 2>/dev/null) == "$ours" && -x $python ]] && return
    say "making $venv from Python $version"
    { mkdir -p "$state" && mark unfinished; } 2>/dev/null ||
        fail "cannot write $venv; choose another EWSJF_VENV."
    rm -f "$state/finished"
    find "$venv" -mindepth 1 -maxdepth 1 ! -path "$state" -exec rm -rf {} +
    "$base" -m venv "$venv" >&2 || fail "Python could not make an environment in $venv."
    echo '*' >"$venv/.gitignore"
}

# While an installer is at work our environment counts as unfinished.  A start that finds it so
# makes it anew from the installer's cache: a half-installed package passes for an installed one.
mark() { [[ -z $ours ]] || echo "$1" >"$state/ours"; }

install() { # as `pip install`; `index=ADDRESS install ...` for another index
    local by=("${uv[@]}" pip install ${index:+--default-index "$index"})
    [[ $installer != pip ]] ||
        by=("$python" -m pip install --no-input ${index:+--index-url "$index"})
    "${by[@]}" --constraint "$state/constraints.txt" "$@"
}

# The wheel of vLLM needs CUDA.  The pure-Python build has the scheduler, the engine loop and the
# server, and no kernels; without the second variable it calls itself VERSION+empty.  It comes
# alone, since uv would go by the requirements of the wheel.
install_base() {
    [[ $installer != pip ]] || install pip || return # an old one does not know groups
    install --group "$root/pyproject.toml:build" && index=${EWSJF_TORCH_INDEX:-} install torch &&
        "$python" -W ignore -c 'import torch' || return
    [[ $device == cuda ]] || VLLM_TARGET_DEVICE=empty VLLM_VERSION_OVERRIDE=$vllm \
        install --no-deps --no-build-isolation --no-binary vllm vllm
}

attempt() { # TITLE COMMAND...: on failure says in one sentence why
    local log=$state/log show='(Resolved|Downloading|Building|Prepared|Install).{0,70}'
    local unreachable='error sending request|ConnectionError|ConnectTimeout|ReadTimeout|ProxyError'
    say "installing $1 ..."
    ! "${@:2}" </dev/null 2>&1 | tee "$log" | sed -unE "s/^ *($show).*/[setup]     \1/p" >&2 ||
        return 0
    ! grep -q 'No space left on device' "$log" ||
        fail "the disk is full while installing $1; free some space and start again."
    mark "$ours" # an installer that gives up by itself leaves nothing half installed
    ! grep -qE "$unreachable" "$log" || fail "the package index cannot be reached while" \
        "installing $1; check the network and start again (what is there is kept)."
    tail -n 15 "$log" >&2
    ! grep -qE 'No matching distribution|No solution found' "$log" || fail "no release of $1 fits" \
        "Python ${ours% *}; try another EWSJF_PYTHON or EWSJF_VLLM_VERSION."
    fail "installing $1 failed; the lines above end its log, $log."
}

tools=${1:-} ours=""
[[ -z $tools || $tools == dev ]] || fail "unknown argument '$tools'; the only one is dev."
device=${EWSJF_DEVICE:-cpu} needed=6
[[ -n ${EWSJF_DEVICE:-} || $(nvidia-smi -L 2>/dev/null) != *"GPU "* ]] || device=cuda
case $device in cpu) ;; cuda) needed=18 ;; *)
    fail "EWSJF_DEVICE=$device is not known; choose cpu or cuda." ;;
esac
pins=$(<"$root/scripts/pins/$device.txt")
pinned=$(sed -n 's/^vllm==//p' <<<"$pins")
vllm=${EWSJF_VLLM_VERSION:-$pinned}
case $vllm in # another release than the pinned one has other requirements
    "$pinned") ;;
    0.26.*) pins="torch==2.11.0"$'\n'"vllm==$vllm" ;;
    0.2[7-9].* | 0.3[0-2].*) pins="torch==2.13.0"$'\n'"vllm==$vllm" ;;
    0.33.*) pins="torch==2.14.0"$'\n'"vllm==$vllm" ;;
    *) fail "EWSJF_VLLM_VERSION=$vllm is not supported; choose a release from 0.26.0 to 0.33.0." ;;
esac

venv=${EWSJF_VENV:-$root/.venv}
parent=$(dirname "$venv")
mkdir -p "$parent" 2>/dev/null || fail "cannot make $parent; choose another EWSJF_VENV."
venv=$(cd "$parent" && pwd)/$(basename "$venv")
python=$venv/bin/python state=$venv/ewsjf-setup uv=(bash "$root/scripts/uv.sh" "$venv/bin/python")
if command -v flock >/dev/null; then # two starts at once take turns; the folder may be replaced
    exec 9<"$parent"
    flock -n 9 || { say "waiting for another set-up of $venv" && flock 9; }
fi
free=$(df -Pk "$parent" | awk 'NR == 2 { print int($4 / 1024 / 1024) }')
[[ -f $state/finished ]] || ((free >= needed)) || fail "not enough disk: $parent has $free GiB" \
    "free and the environment needs $needed GiB; free some or choose another EWSJF_VENV."
make_venv
key=$(cat - "$root"/{pyproject.toml,scripts/setup_env.sh} <<<"$root $device $pins" | sha256sum)
if [[ $(cat "$state/finished" 2>/dev/null) != "$key"*"$tools" ]]; then
    mark unfinished
    echo "$pins" >"$state/constraints.txt"
    installer=${EWSJF_INSTALLER:-uv}
    [[ $installer == pip ]] || "${uv[@]}" --version &>"$state/log" || {
        say "uv cannot be had; pip takes its place and longer"
        installer=pip
    }
    attempt "torch and vLLM $vllm" install_base
    attempt "the project and its libraries" install --no-build-isolation --editable "$root" \
        ${tools:+--group "$root/pyproject.toml:dev"}
    echo "$key $tools" >"$state/finished"
    mark "$ours"
    [[ $device == cuda ]] || "$python" -c 'import torch, sys; sys.exit(bool(torch.version.cuda))' ||
        say "note: torch came as its build for CUDA, which works without a GPU and takes several" \
            "GB; to avoid it, delete $venv and set EWSJF_TORCH_INDEX to an index of CPU builds."
fi
say "ready: $venv"
echo "$python"
