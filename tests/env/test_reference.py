import pytest

from ewsjf_env.engine.base import Engine
from ewsjf_env.engine.fake import FakeConfig, FakeEngine
from ewsjf_env.env.reference import Reference
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.workload.trace import Trace
from tests.engine.engine_contract import small_trace

TRACE = small_trace(count=200, duration_s=60.0)


class Builder:
    """Counts the engines that were built, and keeps the last one."""

    def __init__(self) -> None:
        self.built = 0
        self.resets = 0

    def __call__(self) -> Engine:
        self.built += 1
        builder = self

        class Counted(FakeEngine):
            def reset(self, trace: Trace) -> None:
                builder.resets += 1
                super().reset(trace)

        return Counted(FakeConfig())


@pytest.fixture
def builder() -> Builder:
    return Builder()


@pytest.fixture
def reference(builder: Builder) -> Reference:
    reference = Reference(parse_policy("ewsjf"), builder)
    reference.reset(TRACE)
    return reference


def by_hand(start_s: float, end_s: float) -> object:
    engine = FakeEngine(FakeConfig())
    engine.install(parse_policy("ewsjf"))
    engine.reset(TRACE)
    engine.run_window(start_s)
    return engine.run_window(end_s - start_s)


def test_the_same_window_as_an_engine_of_its_own(reference: Reference) -> None:
    assert reference.window(10.0, 25.0).metrics == by_hand(10.0, 25.0)
    assert reference.window(30.0, 40.0).metrics == by_hand(30.0, 40.0)


def test_windows_are_kept(reference: Reference, builder: Builder) -> None:
    first = reference.window(10.0, 25.0)
    reference.window(30.0, 40.0)
    assert reference.window(10.0, 25.0) is first
    reference.reset(small_trace(seed=9))
    reference.window(0.0, 10.0)
    reference.reset(TRACE)
    assert reference.window(10.0, 25.0) is first
    assert (builder.built, builder.resets) == (1, 2)


def test_going_back_serves_the_trace_again(reference: Reference, builder: Builder) -> None:
    reference.window(30.0, 40.0)
    assert reference.window(10.0, 20.0).metrics == by_hand(10.0, 20.0)
    assert builder.resets == 2


def test_beginnings_are_the_window_so_far(reference: Reference) -> None:
    plain = reference.window(10.0, 15.5)
    assert plain.after(2.0) == plain.metrics
    window = reference.window(10.0, 15.5, beginnings=True)
    assert window.metrics == plain.metrics
    assert [m.window_s for m in window.beginnings] == pytest.approx([1, 2, 3, 4, 5, 5.5])
    assert window.after(3.0) == by_hand(10.0, 13.0)
    assert window.after(3.9) == window.after(3.0)
    assert window.after(0.2) == window.after(1.0)
    assert window.after(99.0) == window.metrics
    assert reference.window(10.0, 15.5, beginnings=True) is window


def test_an_engine_is_built_when_needed_and_again_after_close(
    reference: Reference, builder: Builder
) -> None:
    assert builder.built == 0
    kept = reference.window(10.0, 20.0)
    reference.close()
    reference.close()
    assert reference.window(10.0, 20.0) is kept
    assert builder.built == 1
    assert reference.window(20.0, 30.0).metrics == by_hand(20.0, 30.0)
    assert builder.built == 2


def test_a_trace_is_needed(builder: Builder) -> None:
    with pytest.raises(ValueError, match="reset"):
        Reference(parse_policy("ewsjf"), builder).window(0.0, 1.0)
