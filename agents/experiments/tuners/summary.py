"""The summary of many judged tuning runs: plain numbers for comparison.json.

The unit that is resampled is the tuning seed: its windows share traffic and one agent's memory.
All arms of a seed met the same traffic, and all recommendations are judged on the same held-out
traces, so arms are compared seed by seed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from agents.analysis.scores import iqm, probability_of_improvement, stratified
from agents.analysis.statistics import Estimate, difference, mean

DEFAULT, RANDOM = "default", "random"
NEAR_BEST_SHARE = 0.95  # of the best gain: the best that anyone found, or the best mean of a tuner
RECOVERED_SHARE = 0.9  # of the new best, after a jump
LEAST_GAIN = 0.01  # a task whose best gain is smaller has nothing to share out
Judged = Mapping[str, Any]
Floats = NDArray[np.float64]


def summarise(judged: Sequence[Judged]) -> dict[str, Any]:
    """Everything the report shows, as plain values; NaN becomes None."""
    tasks = list(dict.fromkeys(run["task"] for run in judged))
    summary = {"tasks": {name: _task([r for r in judged if r["task"] == name]) for name in tasks}}
    overall = _overall(summary["tasks"])
    plain: dict[str, Any] = _plain({**summary, "overall": overall})
    return plain


def _task(runs: Sequence[Judged]) -> dict[str, Any]:
    arms = {name: _by_seed(runs, name) for name in dict.fromkeys(r["arm"] for r in runs)}
    # Arms are compared seed by seed: a seed that one of them lacks counts for none.
    shared = set.intersection(*(set(found) for found in arms.values()))
    missing = sorted({run["seed"] for run in runs} - shared) if shared else []
    if shared:
        arms = {n: {s: r for s, r in found.items() if s in shared} for n, found in arms.items()}
    scores = {name: _column(found, "final", "score") for name, found in arms.items()}
    base = scores.get(DEFAULT)
    best = max(float(np.nanmax(s)) for s in scores.values())
    for found in arms.values():
        points = [p["score"] for run in found.values() for p in run.get("curve", ())]
        best = max([best, *points])
    zero = float(np.nanmean(base)) if base is not None else 0.0
    best_gain = best - zero
    # A maximum over all seeds is luck in part; what a tuner reaches on average is not.
    tuners = [n for n, found in arms.items() if any(_tunes(run) for run in found.values())]
    steady_gain = max((_steady(arms[n], scores[n]) for n in tuners), default=zero) - zero
    new_best = max((p["score"] for r in runs for p in r.get("after_jump", ())), default=math.nan)
    table = {
        name: _arm(found, scores, name, zero, best_gain, new_best) for name, found in arms.items()
    }
    if steady_gain >= LEAST_GAIN:
        target = zero + NEAR_BEST_SHARE * steady_gain
        for name, row in table.items():
            if "curve" in row:
                curves = [run["curve"] for run in arms[name].values()]
                row["windows_to_steady"] = _first(curves, target)
    return {
        "seeds": len({seed for found in arms.values() for seed in found}),
        "seeds_left_out": missing,
        "default_score": zero,
        "best_gain": best_gain,
        "steady_gain": steady_gain,
        "new_best_after_jump": new_best,
        "arms": table,
    }


def _arm(
    found: Mapping[int, Judged],
    scores: Mapping[str, Floats],
    name: str,
    zero: float,
    best_gain: float,
    new_best: float,
) -> dict[str, Any]:
    gains = scores[name] - zero
    online = _column(found, "online_mean")
    windows = _column(found, "windows")
    shared = best_gain >= LEAST_GAIN
    row: dict[str, Any] = {
        "seeds": len(found),
        "windows": float(windows.mean()),
        "gain": mean(gains),
        "normalised": list(gains / best_gain) if shared else None,
        "online_mean": mean(online),
        "regret": mean((zero + best_gain - online) * windows),
        "violating": mean(_column(found, "violating")),
        "held_out_violations": mean(_column(found, "final", "violations")),
        "worst_window": float(_column(found, "worst_window").min()),
        "void": float(_column(found, "void").mean()),
        "failed": float(_column(found, "failed").sum()),
        "tuner_s_per_window": float(np.nanmean(_column(found, "tuner_s_per_window"))),
    }
    if all("metrics" in run for run in found.values()):
        names = next(iter(found.values()))["metrics"]
        row["metrics"] = {n: mean(_column(found, "metrics", n)) for n in names}
    if RANDOM in scores and name != RANDOM:
        row["over_random"] = _paired(scores[name], scores[RANDOM])
    if all("curve" in run for run in found.values()):
        row["curve"] = _mean_curve([run["curve"] for run in found.values()], zero)
        if shared:
            target = zero + NEAR_BEST_SHARE * best_gain
            row["windows_to_95"] = _first([run["curve"] for run in found.values()], target)
    if all(run.get("after_jump") for run in found.values()) and not math.isnan(new_best):
        target = new_best - (1.0 - RECOVERED_SHARE) * abs(new_best)
        row["windows_after_jump"] = _first([run["after_jump"] for run in found.values()], target)
    return row


def _paired(scores: Floats, others: Floats) -> dict[str, Any]:
    """Difference of two arms, seed by seed, with the p-value of a sign-flip test."""
    n = min(len(scores), len(others))
    gaps = (scores[:n] - others[:n])[np.isfinite(scores[:n] - others[:n])]
    p = math.nan
    if len(gaps) > 1 and np.any(gaps != 0):
        found = stats.permutation_test(
            (gaps,), np.mean, permutation_type="samples", n_resamples=9_999, rng=0
        )
        p = float(found.pvalue)
    return {
        "difference": difference(scores[:n], others[:n]),
        "p": p,
        "probability": probability_of_improvement(scores[:n, None], others[:n, None]),
    }


def _first(curves: Sequence[Sequence[Mapping[str, float]]], target: float) -> dict[str, Any]:
    """Windows until the target is reached for good enough; runs that never do count as more."""
    reached = []
    for curve in curves:
        hits = [point["windows"] for point in curve if point["score"] >= target]
        reached.append(float(hits[0]) if hits else math.inf)
    array = np.array(reached)
    drawn = np.random.default_rng(0).choice(array, (4_000, len(array)))
    medians = np.sort(np.quantile(drawn, 0.5, axis=1, method="higher"))
    return {
        "median": float(np.quantile(array, 0.5, method="higher")),
        "low": float(medians[int(0.025 * len(medians))]),
        "high": float(medians[int(0.975 * len(medians)) - 1]),
        "never": int(np.isinf(array).sum()),
        "seeds": len(array),
    }


def _tunes(run: Judged) -> bool:
    """The run is of a tuner, and not of a policy that stays as it is."""
    return bool(run.get("agent", run["arm"]) != DEFAULT)


def _steady(found: Mapping[int, Judged], scores: Floats) -> float:
    """The best mean score, over all seeds, that an arm has at its end or on the way."""
    means = [float(np.nanmean(scores))]
    if all("curve" in run for run in found.values()):
        curve = _mean_curve([run["curve"] for run in found.values()], 0.0)
        means += [point["gain"].value for point in curve]
    return max(means)


def _mean_curve(
    curves: Sequence[Sequence[Mapping[str, float]]], zero: float
) -> list[dict[str, Any]]:
    windows = sorted(set.intersection(*({p["windows"] for p in curve} for curve in curves)))
    found = []
    for window in windows:
        scores = [p["score"] - zero for curve in curves for p in curve if p["windows"] == window]
        found.append({"windows": window, "gain": mean(scores)})
    return found


def _overall(tasks: Mapping[str, Any]) -> dict[str, Any]:
    """Arms over all tasks that had something to gain, for arms that ran on each."""
    shared = [t for t in tasks.values() if t["best_gain"] >= LEAST_GAIN]
    if not shared:
        return {}
    names = [n for n in shared[0]["arms"] if all(n in task["arms"] for task in shared)]
    seeds = min(len(task["arms"][n]["normalised"]) for task in shared for n in names)
    tables = {
        n: np.array([task["arms"][n]["normalised"][:seeds] for task in shared]).T for n in names
    }
    found = {}
    for name, table in tables.items():
        row: dict[str, Any] = {"iqm": stratified(iqm, table)}
        for other in (DEFAULT, RANDOM):
            if other in tables and name != other:
                pair = stratified(probability_of_improvement, table, tables[other])
                row[f"probability_over_{other}"] = pair
        found[name] = row
    return found


def _by_seed(runs: Sequence[Judged], arm: str) -> dict[int, Judged]:
    return {r["seed"]: r for r in sorted(runs, key=lambda r: r["seed"]) if r["arm"] == arm}


def _column(found: Mapping[int, Judged], *path: str) -> Floats:
    values = []
    for run in found.values():
        value: Any = run
        for key in path:
            value = value[key]
        values.append(math.nan if value is None else float(value))
    return np.array(values)


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else "never"
    return value
