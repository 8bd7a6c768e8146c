#!/usr/bin/env bash
# Makes the project's Python environment, or finishes or reuses the one that is there.
#
#   python=$(bash scripts/setup_env.sh)        what running needs
#   python=$(bash scripts/setup_env.sh dev)    also the test tools, linters and type stubs
#
# Prints the environment's interpreter on standard output, progress and errors on standard error.
#
# The work is split into stages; each leaves a stamp with a hash of all that decides its result, so
# a finished stage is never repeated and an interrupted one is repaired at the next start.
#
#   EWSJF_VENV          folder of the environment (default: .venv in the project)
#   EWSJF_PYTHON        interpreter that the environment is made from (default: the first supported)
#   EWSJF_VLLM_VERSION  vLLM release (default: 0.32.0)
#   EWSJF_TORCH_INDEX   package index for torch alone, for example one that holds CPU builds
#   EWSJF_DEVICE        cpu or cuda (default: cuda where an NVIDIA GPU answers, else cpu)
set -euo pipefail

readonly oldest_python=11 newest_python=14 # 3.x, as vLLM's own metadata has it
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
vllm_version=${EWSJF_VLLM_VERSION:-0.32.0}

say() { printf '[setup] %s\n' "$*" >&2; }
fail() {
    printf '[setup] error: %s\n' "$*" >&2
    exit 1
}

# --- what the machine has ------------------------------------------------------------------------

torch_version_for() { # the release of torch that a release of vLLM is pinned to
    case $1 in
        0.26.*) echo 2.11.0 ;;
        0.27.* | 0.28.* | 0.29.* | 0.30.* | 0.31.* | 0.32.*) echo 2.13.0 ;;
        0.33.*) echo 2.14.0 ;;
        *) fail "EWSJF_VLLM_VERSION=$1 is not supported; choose a release from 0.26.0 to 0.33.0." ;;
    esac
}

detect_device() {
    case ${EWSJF_DEVICE:-} in
        cpu | cuda) echo "$EWSJF_DEVICE" ;;
        "") if [[ $(nvidia-smi -L 2>/dev/null) == *"GPU "* ]]; then echo cuda; else echo cpu; fi ;;
        *) fail "EWSJF_DEVICE=$EWSJF_DEVICE is not known; choose cpu or cuda." ;;
    esac
}

python_version() { # prints 3.x.y, or fails if the interpreter does not run
    "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
}

is_supported() { # of a version 3.x.y
    local minor=${1#3.}
    minor=${minor%%.*}
    [[ $1 == 3.* ]] && ((minor >= oldest_python && minor <= newest_python))
}

choose_python() {
    local wanted="Python 3.$oldest_python to 3.$newest_python" name version seen=""
    if [[ -n ${EWSJF_PYTHON:-} ]]; then
        version=$(python_version "$EWSJF_PYTHON") ||
            fail "EWSJF_PYTHON=$EWSJF_PYTHON is not a Python interpreter that runs;" \
                "$wanted is needed."
        is_supported "$version" ||
            fail "EWSJF_PYTHON=$EWSJF_PYTHON is Python $version; $wanted is needed."
        echo "$EWSJF_PYTHON"
        return
    fi
    for name in python3 python3.12 python3.13 python3.11 python3.14; do
        version=$(python_version "$name") || continue
        if is_supported "$version"; then
            echo "$name"
            return
        fi
        seen="$seen$name is $version, "
    done
    fail "no supported Python found (${seen:-none is on PATH, }$wanted is needed);" \
        "install one or set EWSJF_PYTHON."
}

require_disk() { # folder, GiB
    local free_kib
    free_kib=$(df -Pk "$1" | awk 'NR == 2 { print $4 }')
    ((free_kib >= $2 * 1024 * 1024)) ||
        fail "not enough disk: $1 has $((free_kib / 1024 / 1024)) GiB free and the environment" \
            "needs $2 GiB; free some or choose another place by EWSJF_VENV."
}

# --- running pip ---------------------------------------------------------------------------------

follow() { # copies standard input to the log; every 15 s shows on one line where it is
    local log=$1 line="" last="" status started=$SECONDS shown=$SECONDS
    while true; do
        if IFS= read -r -t 5 line; then
            printf '%s\n' "$line" >>"$log"
            last=${line:-$last}
        else
            status=$?
            ((status > 128)) || break # above 128: nothing to read yet
        fi
        if ((SECONDS - shown >= 15)); then
            say "    $((SECONDS - started)) s  ${last:0:80}"
            shown=$SECONDS
        fi
    done
    printf '%s' "$line" >>"$log"
}

readonly unreachable='NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|Connection refused'\
'|Temporary failure in name|Name or service not known|Network is unreachable'

explain() { # stage, log: one sentence on why it failed
    local name=$1 log=$2 end
    end=$(tail -n 40 "$log")
    if grep -q 'No space left on device' "$log"; then
        fail "the disk is full while installing $name; free some space and start again."
    elif grep -qE "$unreachable" <<<"$end"; then
        fail "the package index cannot be reached while installing $name; check the network and" \
            "start again (finished stages are kept)."
    elif grep -q 'No matching distribution found' "$log"; then
        fail "$(grep -m1 'No matching distribution found' "$log" | sed 's/^ERROR: //') with" \
            "Python $(python_version "$python"); try another EWSJF_PYTHON or EWSJF_VLLM_VERSION."
    fi
    tail -n 15 "$log" >&2
    fail "installing $name failed; the lines above end its log, $log."
}

pip_install() { "$python" -m pip install --no-input --disable-pip-version-check "$@"; }

# pip writes INSTALLER when a package is complete: one without it passes for installed but is not.
remove_half_installed() {
    "$python" - <<'PYTHON'
import pathlib, shutil, sysconfig

site = pathlib.Path(sysconfig.get_path("purelib"))
half = [info for info in site.glob("*.dist-info") if not (info / "INSTALLER").exists()]
for folder in [*half, *site.glob("~*")]:
    shutil.rmtree(folder, ignore_errors=True)
PYTHON
}

# --- stages --------------------------------------------------------------------------------------

hash_of() { printf '%s\n' "$@" | "$python" -c 'import hashlib, sys
print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'; }

# stage NAME TITLE INPUT...: runs install_NAME unless its stamp holds the hash of the commands and
# inputs of this stage and all before it; `ran` tells which it was.
chain="" ran=""
stage() {
    local name=$1 title=$2 log started=$SECONDS status=0
    shift 2
    chain=$(hash_of "$chain" "$(declare -f "install_$name")" "$@")
    ran=no
    [[ -f $state/$name.stamp && $(<"$state/$name.stamp") == "$chain" ]] && return
    ran=yes
    rm -f "$state/$name.stamp"
    log=$state/$name.log
    : >"$log"
    say "$title ..."
    [[ ! -f $state/ours ]] || remove_half_installed
    ("install_$name") </dev/null 2>&1 | follow "$log" || status=$?
    ((status == 0)) || explain "$title" "$log"
    printf '%s\n' "$chain" >"$state/$name.stamp"
    say "$title: done in $((SECONDS - started)) s"
}

install_base() { pip_install --upgrade 'pip>=25.1' 'setuptools>=77.0.3,<81' wheel; }

install_torch() {
    pip_install ${EWSJF_TORCH_INDEX:+--index-url "$EWSJF_TORCH_INDEX"} "torch==$torch_version" ||
        return
    "$python" -W ignore -c 'import torch'
}

# The ordinary wheel needs CUDA; the pure-Python build has the scheduler, the engine loop and the
# server, and no kernels.  Build isolation would fetch another torch; without the override the
# build calls itself VERSION+empty, which pip refuses.
install_vllm() {
    pip_install setuptools-scm setuptools-rust packaging ninja cmake jinja2 || return
    VLLM_TARGET_DEVICE=empty VLLM_VERSION_OVERRIDE=$vllm_version \
        pip_install --no-build-isolation --no-binary vllm \
        "torch==$torch_version" "vllm==$vllm_version"
}

install_project() { # and whatever further is named
    pip_install --no-build-isolation --constraint "$state/constraints.txt" --editable "$root" "$@"
}

# Together with the project: alone, the tools may bring a numpy that vLLM's requirements rule out.
install_dev() { install_project --group "$root/pyproject.toml:dev" && "$python" -m pip check; }

# --- the environment itself ----------------------------------------------------------------------

make_venv() { # makes, keeps or replaces the folder; only one that this script made is ever replaced
    local base wanted have=""
    if [[ -x $python ]] && have=$(python_version "$python") && [[ -z ${EWSJF_PYTHON:-} ]]; then
        wanted=$have
    else
        base=$(choose_python)
        wanted=$(python_version "$base")
    fi
    wanted="$wanted $device"
    if [[ -n $have && ! -f $state/ours ]]; then
        is_supported "$have" ||
            fail "EWSJF_VENV=$venv holds Python $have; choose another folder."
        mkdir -p "$state"
        return # somebody else's environment: add to it, never replace it
    fi
    [[ -n $have && $(<"$state/ours") == "$wanted" && -f $state/base.stamp ]] && return
    if [[ -e $venv && ! -f $state/ours && -n $(ls -A "$venv" 2>/dev/null) ]]; then
        fail "EWSJF_VENV=$venv exists and is not a Python environment; choose another folder."
    fi
    base=${base:-$(choose_python)}
    wanted="$(python_version "$base") $device"
    "$base" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$base has no venv module; install it (Debian: apt-get install python3-venv)."
    say "making $venv from Python $(python_version "$base")"
    mkdir -p "$state" 2>/dev/null || fail "cannot write $venv; choose another place by EWSJF_VENV."
    echo unfinished >"$state/ours"
    rm -f "$state"/*.stamp
    find "$venv" -mindepth 1 -maxdepth 1 ! -name "$(basename "$state")" -exec rm -rf {} +
    "$base" -m venv "$venv" >&2 || fail "Python could not make an environment in $venv."
    echo '*' >"$venv/.gitignore"
    echo "$wanted" >"$state/ours"
}

warn_about_cuda_torch() {
    local build show='import torch; print(torch.__version__ if torch.version.cuda else "")'
    build=$("$python" -W ignore -c "$show")
    [[ -z $build ]] ||
        say "note: pip brought a CUDA build of torch ($build) to a machine without an NVIDIA GPU;" \
            "it works but takes several GB: to avoid it, delete $venv and set EWSJF_TORCH_INDEX" \
            "to an index of CPU builds, for example PyTorch's own."
}

main() {
    local tools=${1:-} parent
    ((BASH_VERSINFO[0] >= 4)) || fail "bash $BASH_VERSION is too old; bash 4 or newer is needed."
    [[ -z $tools || $tools == dev ]] || fail "unknown argument '$tools'; the only one is dev."
    torch_version=$(torch_version_for "$vllm_version")
    device=$(detect_device)
    venv=${EWSJF_VENV:-$root/.venv}
    parent=$(dirname "$venv")
    mkdir -p "$parent" 2>/dev/null ||
        fail "cannot make $parent; choose another place by EWSJF_VENV."
    parent=$(cd "$parent" && pwd)
    venv=$parent/$(basename "$venv")
    python=$venv/bin/python
    state=$venv/ewsjf-setup

    # Two starts at once take turns.  The lock is on the parent: the folder itself may be replaced.
    if command -v flock >/dev/null; then
        exec 9<"$parent"
        flock -n 9 || { say "waiting for another set-up of $venv"; flock 9; }
    fi
    if [[ $device == cpu ]]; then
        [[ -f $state/vllm.stamp ]] || require_disk "$parent" 6
    else
        [[ -f $state/project.stamp ]] || require_disk "$parent" 18
    fi
    make_venv
    {
        echo "vllm==$vllm_version"
        echo "torch==$torch_version"
    } >"$state/constraints.txt"

    stage base "pip and setuptools" "$(python_version "$python")" "$device"
    if [[ $device == cpu ]]; then
        stage torch "torch $torch_version" "$torch_version"
        [[ $ran == no ]] || warn_about_cuda_torch
        stage vllm "vLLM $vllm_version, pure Python" "$vllm_version"
    fi
    stage project "the project and its libraries" "$root" "$(<"$root/pyproject.toml")" \
        "$(<"$state/constraints.txt")"
    [[ $tools != dev ]] || stage dev "test and lint tools"
    say "ready: $venv"
    echo "$python"
}

main "$@"
