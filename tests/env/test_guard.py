import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from stable_baselines3.common.env_checker import check_env as check_sb3

from ewsjf_env.config import ConfigError, from_dict, to_dict
from ewsjf_env.env.guard import GuardState, SafetyGuard, make_env

TASK: dict[str, Any] = {
    "engine": "fake",
    # mild enough for all that a bad window delays to be over when the next settle time is
    "fake": {"active": 1, "sensitivity": 1.0, "cliff": 0.1, "cliff_factor": 3.0},
    "tuned": ["lambda"],
    "windows": 30,
    "window_s": 20.0,
    "settle_s": 4.0,
    "warmup_s": 4.0,
    "rates_per_s": [6.0],
    "constraints": [
        {"metric": "ttft_short_p95_s", "limit": 1.2},
        {"metric": "slowdown_long_p95", "limit": 1.2},
    ],
}


def guarded(**settings: Any) -> SafetyGuard:
    env = make_env({**TASK, "safety": {"enabled": True, "control_every": 0, **settings}})
    assert isinstance(env, SafetyGuard)
    env.reset(seed=0)
    return env


def best_action(env: SafetyGuard) -> np.ndarray:
    engine = env.get_wrapper_attr("_engine")
    return env.unwrapped.parameter_space.to_box({"lambda": engine.optimum()["lambda"]})


def guard_of(step: tuple[Any, ...]) -> dict[str, Any]:
    return step[-1]["guard"]


def action(value: float) -> np.ndarray:
    return np.array([value], dtype=np.float32)


CLIFF = action(1.0)  # far beyond the cliff, wherever the trust region ends
WIDE = {"radius": 2.0, "abort_margin": 100.0}


def test_the_configuration_switches_it_on() -> None:
    assert not isinstance(make_env(TASK), SafetyGuard)
    env = make_env({**TASK, "safety": {"enabled": True, "radius": 0.3}})
    assert isinstance(env, SafetyGuard)
    assert env.settings.radius == 0.3


def test_a_candidate_stays_in_the_trust_region() -> None:
    env = guarded(radius=0.25)
    start = env.incumbent
    low, high = env.trust_region
    assert (low, high) == (pytest.approx([-1.0]), pytest.approx(start + 0.25))
    step = env.step(CLIFF)
    assert step[-1]["executed_action"] == pytest.approx(high, abs=1e-6)
    assert step[-1]["proposed_action"] == pytest.approx([1.0])
    assert guard_of(step)["mode"] == "candidate"
    assert guard_of(step)["projected"] is True
    assert guard_of(env.step(start))["projected"] is False


def test_the_region_moves_with_the_incumbent() -> None:
    env = guarded(radius=0.25)
    env.set_incumbent([0.5])
    assert env.trust_region == (pytest.approx([0.25]), pytest.approx([0.75]))
    assert guard_of(env.step(action(-1.0)))["incumbent"] == pytest.approx([0.5])
    with pytest.raises(ConfigError, match="expected 1 finite numbers"):
        env.set_incumbent([0.5, 0.5])


def test_every_kth_window_is_a_control_window() -> None:
    env = guarded(control_every=3, **WIDE)
    safe = best_action(env)
    steps = [env.step(safe) for _ in range(7)]
    modes = [guard_of(step)["mode"] for step in steps]
    assert modes == ["candidate", "candidate", "control"] * 2 + ["candidate"]
    assert steps[2][-1]["executed_action"] == pytest.approx(env.incumbent, abs=1e-6)
    assert steps[2][-1]["guard"]["projected"] is True


def test_a_breach_is_rolled_back_and_shrinks_the_region() -> None:
    env = guarded(**WIDE, shrink=0.5, grow=1.5)
    bad = env.step(CLIFF)
    assert guard_of(bad)["breach"] is True
    assert max(bad[-1]["constraints"].values()) > 0
    assert (guard_of(bad)["breaches"], guard_of(bad)["budget_left"]) == (1, 2)
    assert guard_of(bad)["radius"] == 1.0
    back = env.step(CLIFF)
    assert guard_of(back)["mode"] == "rollback"
    assert guard_of(back)["breach"] is False
    assert back[-1]["executed_action"] == pytest.approx(env.incumbent, abs=1e-6)
    good = env.step(best_action(env))
    assert guard_of(good)["mode"] == "candidate"
    assert guard_of(good)["radius"] == 1.5


def test_patience_waits_for_breaches_in_a_row() -> None:
    env = guarded(**WIDE, patience=2, shrink=1.0)
    safe = best_action(env)
    modes = [guard_of(env.step(a))["mode"] for a in (CLIFF, safe, CLIFF, CLIFF, safe)]
    assert modes == ["candidate"] * 4 + ["rollback"]


def test_a_window_far_over_the_limit_is_broken_off() -> None:
    env = guarded(radius=2.0, abort_margin=0.2, abort_after_s=6.0)
    step = env.step(CLIFF)
    info = step[-1]
    assert info["aborted"] is True
    assert 6.0 <= info["metrics"]["window_s"] < 20.0
    assert guard_of(step)["breach"] is True
    # the incumbent served the rest at once, and the next window starts at its own moment
    back = env.step(CLIFF)[-1]
    assert back["start_s"] == pytest.approx(4.0 + 24.0 + 4.0)
    assert back["guard"]["mode"] == "rollback"
    assert max(back["constraints"].values()) <= 0


def test_it_hurts_for_a_shorter_time_than_without() -> None:
    def seconds_beyond_the_cliff(env: gymnasium.Env[Any, Any]) -> float:
        env.reset(seed=0)
        hurt_s = 0.0
        for _ in range(10):
            info = env.step(CLIFF)[-1]
            if any(margin > 0 for margin in info["constraints"].values()):
                hurt_s += info["metrics"]["window_s"]
        return hurt_s

    alone = seconds_beyond_the_cliff(make_env(TASK))
    safety = {"enabled": True, "radius": 2.0, "abort_margin": 0.2, "abort_after_s": 5.0}
    assert alone == pytest.approx(200.0)
    assert seconds_beyond_the_cliff(make_env({**TASK, "safety": safety})) < 0.2 * alone


def test_a_used_up_budget_holds_candidates_back_for_a_while() -> None:
    env = guarded(**WIDE, shrink=1.0, budget=2, budget_windows=5)
    modes = [guard_of(env.step(CLIFF))["mode"] for _ in range(8)]
    # breaches in windows 1 and 3; the first leaves the last five windows after window 6
    first = ["candidate", "rollback", "candidate", "rollback"]
    assert modes == [*first, "held", "held", "candidate", "rollback"]


def test_no_budget_no_exploration() -> None:
    env = guarded(**WIDE, budget=0)
    assert [guard_of(env.step(CLIFF))["mode"] for _ in range(3)] == ["held"] * 3


def test_too_many_breaches_fire_the_kill_switch() -> None:
    env = guarded(**WIDE, shrink=1.0, kill_after=2, budget=9)
    env.set_incumbent(best_action(env))
    steps = [env.step(CLIFF) for _ in range(3)]
    assert [step[2] for step in steps] == [False, False, True]
    assert guard_of(steps[-1])["killed"] == "2 windows breached a constraint"
    for seed in (None, 0):  # outlives every reset, and holds the policy's own values
        env.reset(seed=seed)
        step = env.step(CLIFF)
        assert guard_of(step)["mode"] == "killed"
        assert step[2] is True
        assert step[-1]["executed_action"] == pytest.approx(env.unwrapped.start_action, abs=1e-6)
    env.rearm()
    assert guard_of(env.step(CLIFF))["mode"] == "candidate"


def test_a_file_or_a_hand_fires_the_kill_switch(tmp_path: Path) -> None:
    path = tmp_path / "stop"
    env = guarded(kill_file=str(path), **WIDE)
    assert env.step(best_action(env))[2] is False
    path.touch()
    step = env.step(best_action(env))
    assert step[2] is True
    assert "stop exists" in guard_of(step)["killed"]
    env = guarded(**WIDE)
    env.kill()
    assert guard_of(env.step(CLIFF))["killed"] == "by hand"


def test_promotion_needs_a_measured_incumbent_and_a_margin() -> None:
    env = guarded(control_every=2, promote_margin=0.05, **WIDE)
    start, best = env.incumbent, best_action(env)
    env.step(best)
    assert env.incumbent == pytest.approx(start)  # nothing to compare with yet
    env.step(best)  # control
    env.step(best)
    assert env.incumbent == pytest.approx(best)
    env.step(best)
    env.step(start)
    assert env.incumbent == pytest.approx(best)
    manual = guarded(control_every=2, **WIDE)
    for _ in range(4):
        manual.step(best)
    assert manual.incumbent == pytest.approx(start)


def test_a_seeded_reset_starts_anew_and_another_one_does_not() -> None:
    def run(env: SafetyGuard) -> list[Any]:
        steps: list[Any] = [env.reset(seed=5)]
        steps += [env.step(a) for a in (CLIFF, CLIFF, action(0.0))]
        return steps

    env = guarded(radius=2.0)
    first = run(env)
    env.reset()
    assert guard_of(env.step(action(0.0)))["breaches"] == guard_of(first[-1])["breaches"] == 1
    assert data_equivalence(first, run(env), exact=True)


def test_its_state_restores_exactly() -> None:
    settings = {**WIDE, "control_every": 4, "budget": 2, "budget_windows": 6, "promote_margin": 0.0}
    actions = np.random.default_rng(3).uniform(-1.0, 1.0, (24, 1)).astype(np.float32)
    whole = guarded(**settings)
    modes, states = [], []
    for proposed in actions:
        states.append(
            from_dict(GuardState, json.loads(json.dumps(to_dict(whole.state()))), "state")
        )
        modes.append(guard_of(whole.step(proposed)))
    assert {"candidate", "control", "rollback", "held"} <= {guard["mode"] for guard in modes}
    for cut in (1, 5, 11, 17):
        torn = guarded(**settings)
        for state, proposed in zip(states[:cut], actions[:cut], strict=True):
            torn.restore(state)  # as a resumed run serves its episode again
            torn.step(proposed)
        assert torn.state() == states[cut]
        resumed = guarded(**settings)
        resumed.restore(states[cut])
        assert resumed.state() == states[cut]
        assert resumed.incumbent.dtype == np.float32
        for expected, proposed in zip(modes[cut:], actions[cut:], strict=True):
            assert data_equivalence(guard_of(torn.step(proposed)), expected)


def test_a_restored_guard_stays_killed() -> None:
    env = guarded()
    env.kill("by hand")
    again = guarded()
    again.restore(env.state())
    step = again.step(action(0.0))
    assert (guard_of(step)["mode"], guard_of(step)["killed"]) == ("killed", "by hand")
    assert step[2]


def test_a_failed_window_is_no_breach() -> None:
    task = {**TASK, "fake": {"fail_at_s": 30.0}, "safety": {"enabled": True}}
    env = make_env(task)
    env.reset(seed=0)
    env.step(action(0.0))
    *_, terminated, _, info = env.step(action(0.0))
    assert terminated is True
    assert info["guard"]["breach"] is False
    assert "died" in info["error"]


def test_sb3_accepts_the_guarded_environment() -> None:
    check_sb3(make_env({**TASK, "safety": {"enabled": True}}))


def test_other_environments_and_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected a SchedulerTuningEnv, got CartPoleEnv"):
        SafetyGuard(gymnasium.make("CartPole-v1"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="safety: unknown key 'radus'"):
        SafetyGuard(make_env(TASK), {"radus": 0.1})
