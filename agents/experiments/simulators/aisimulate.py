"""AISimulate as a process, and the file of requests that it and our engine read."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.compiled.engine import CompiledEngine
from ewsjf_env.workload import Trace

STEP_S = 1 / 32  # a power of two, so that sums of steps are exact in seconds and milliseconds
GUARD_S = 60.0
GUARD_PROMPT_TOKENS = 16
# Runs in the other environment, where nothing of ours is.
_PLAY = """
import importlib.metadata, json, platform, sys, time
from aisimulate import _runtime
versions = {"aisimulate": importlib.metadata.version("aisimulate"),
            "python": platform.python_version()}
print(json.dumps(versions), flush=True)
for line in sys.stdin:
    path, changes = json.loads(line)
    with open(path, encoding="utf-8") as file:
        payload = json.dumps({**json.load(file), **changes})
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    report = _runtime.run_replay_json(payload)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    rows = json.loads(report).get("per_request") or []
    kept = [(r["request_id"], r["first_token_ms"], r["last_token_ms"], r["readmission_count"])
            for r in rows if r["terminal_status"] == "completed"]
    print(json.dumps([cpu_s, wall_s, kept]), flush=True)
"""


def specification(engine: CompiledEngine, trace: Trace) -> dict[str, Any]:
    """The file that both read, in the form of AISimulate's ReplaySpec.

    The first request is the guard.  Its only prefill takes AISimulate no time, and ours a step:
    it arrives a step later here than `trace_of` says, so that its first token is at `STEP_S`
    in both.  Requests of the trace that arrive before are left out.
    """
    config, rows = engine.config, trace.arrival_s > STEP_S
    arrivals_ms = [1000.0 * STEP_S, *(1000.0 * trace.arrival_s[rows]).tolist()]
    prompts = [GUARD_PROMPT_TOKENS, *trace.prompt_tokens[rows].tolist()]
    outputs = [round(GUARD_S / STEP_S), *trace.output_tokens[rows].tolist()]
    rank = {
        "backend": "vllm",
        "num_gpu_blocks": engine.kv_blocks - 1,
        "block_size": config.block_tokens,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": config.max_num_batched_tokens,
        "enable_prefix_caching": False,
        "enable_chunked_prefill": True,
        "timing_model": {"type": "fixed", "prefill_ms": 0.0, "decode_ms": 1000.0 * STEP_S},
    }
    return {
        "version": 1,
        "topology": {
            "kind": "aggregated",
            "workers": {"initial_workers": 1, "startup_delay_ms": 0.0},
        },
        "engine": {
            "rank": rank,
            "dp_size": 1,
            "tensor_parallel_size": 1,
            "prefill_context_parallel_size": 1,
            "num_gpu_blocks_is_explicit": True,
        },
        "adapters": {
            "placement": {"provider": "round_robin", "config": None},
            "scaling": {"provider": "none", "config": None},
        },
        "max_sim_time_ms": None,
        "max_in_flight": None,
        "record_per_request": False,
        "sla": {},
        "requests": [
            {
                "id": str(index),
                "arrival_time_ms": arrival_ms,
                "input_tokens": prompt,
                "output_tokens": output,
                "metadata": None,
            }
            for index, (arrival_ms, prompt, output) in enumerate(
                zip(arrivals_ms, prompts, outputs, strict=True)
            )
        ],
    }


def trace_of(path: Path) -> Trace:
    """The requests of a file that `specification` made, for our engine."""
    requests = json.loads(path.read_text(encoding="utf-8"))["requests"]
    arrival_s = np.array([r["arrival_time_ms"] for r in requests]) / 1000.0
    arrival_s[0] = 0.0
    return Trace(
        path.stem,
        arrival_s,
        np.array([r["input_tokens"] for r in requests]),
        np.array([r["output_tokens"] for r in requests]),
    )


def start(python: Path) -> subprocess.Popen[str]:
    """A process of that interpreter that plays files; ConfigError where it cannot be started."""
    one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")}
    try:
        return subprocess.Popen(
            [str(python), "-c", _PLAY],
            env={**os.environ, **one_thread},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except OSError as error:
        raise ConfigError(f"python: {python} cannot be started: {error.strerror}") from None


def ask(
    player: subprocess.Popen[str], path: Path, changes: Mapping[str, Any]
) -> tuple[float, float, list[tuple[str, float, float, int]]]:
    """CPU seconds, wall seconds and rows of a call with some fields of the file changed."""
    assert player.stdin is not None
    player.stdin.write(json.dumps([str(path.resolve()), dict(changes)]) + "\n")
    player.stdin.flush()
    cpu_s, wall_s, rows = answer(player)
    return cpu_s, wall_s, rows


def answer(player: subprocess.Popen[str]) -> Any:
    """The next line that it says; ConfigError with its last words where it has ended."""
    assert player.stdout is not None
    assert player.stderr is not None
    line = player.stdout.readline()
    if not line:
        said = player.stderr.read().strip().splitlines() or ["it ended without a word"]
        raise ConfigError(f"python: AISimulate cannot play there: {said[-1]}")
    return json.loads(line)
