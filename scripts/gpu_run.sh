#!/usr/bin/env bash
# Measures a machine with a GPU in one run and leaves one JSON file; see --help.
#
#   bash scripts/gpu_run.sh --out runs/gpu                     on a GPU
#   bash scripts/gpu_run.sh --out runs/gpu --simulate --short  without one: does it all work?
#
# Nothing is downloaded where vLLM is there already.  Else scripts/setup_env.sh makes an
# environment, which needs a package index.
#
#   EWSJF_GPU_PYTHON  interpreter that has vLLM (default: python3)
#   EWSJF_GPU_SETUP   script that is sourced first, for example one that unpacks vLLM and sets PYTHONPATH
#   EWSJF_WHEELS      folder of wheels of further packages that are missing there (default: .wheels)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

say() { printf '[gpu_run] %s\n' "$*" >&2; }

if [[ -n ${EWSJF_GPU_SETUP:-} ]]; then
    set +u # not our script
    # shellcheck disable=SC1090
    . "$EWSJF_GPU_SETUP"
    set -u
fi
python=${EWSJF_GPU_PYTHON:-python3}
wheels=${EWSJF_WHEELS:-.wheels}
if compgen -G "$wheels/*.whl" >/dev/null; then
    site=${TMPDIR:-/tmp}/ewsjf_site.$(id -u)
    "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$site" \
        "$wheels"/*.whl >&2
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
if ! "$python" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("vllm"))'; then
    say "$python has no vLLM; making an environment"
    python=$(bash scripts/setup_env.sh)
fi

# vLLM finds our plug-ins by their entry points.  Where the project is not installed, the metadata
# that an installation would have left is all it needs.
plugins=$(mktemp -d)
trap 'rm -rf "$plugins"' EXIT
"$python" - "$plugins" <<'PYTHON'
import sys, tomllib
from importlib.metadata import entry_points
from pathlib import Path

if not any(point.name == "ewsjf" for point in entry_points(group="vllm.general_plugins")):
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = Path(sys.argv[1]) / "ewsjf_env-0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
PYTHON
export PYTHONPATH=$PYTHONPATH:$plugins
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
"$python" scripts/gpu_run.py "$@"
