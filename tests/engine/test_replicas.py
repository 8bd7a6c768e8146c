"""Several servers as one: changes that all take or none, records and counters of all, load."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.real.link import Told, Unreachable
from ewsjf_env.engine.real.policy_control import PolicyControl
from ewsjf_env.engine.real.replicas import ReplicaLink
from ewsjf_env.engine.real.server_log import ServerLog
from ewsjf_env.engine.simulated.vllm_config import build_scheduler
from ewsjf_env.policy.policy import Policy, parse_policy
from ewsjf_env.serving import plugin
from tests.serving.vllm_traffic import finish_step, make_request, make_setup, run_step

START = parse_policy("ewsjf")
K = dict(START.parameters)["k"]


class InProcess:
    """A replica that is a real scheduler with our utilities, and no HTTP in between."""

    def __init__(self, number: int) -> None:
        self.url = f"http://replica{number}"
        self.model = "llama2-13b"
        self.setup = make_setup(kv_blocks=64, asynchronous=False)
        from ewsjf_env.serving.scheduler import SyncEWSJFScheduler  # vLLM is loaded by now

        self.scheduler = build_scheduler(self.setup, SyncEWSJFScheduler)
        self.scheduler.ewsjf.install(START)
        self.now_s = 100.0 * number
        self.scheduler.ewsjf.read_clock = lambda: self.now_s
        self.scheduler.ewsjf._now_s = self.now_s
        self.down = False
        self.refuses: object = ""
        self.loses_answers: object = ""
        self.sent = 0

    @property
    def values(self) -> dict[str, Any]:
        return dict(self._state()["policy"]["parameters"])

    @property
    def k(self) -> Any:
        return self.values["k"]

    def serve(self, prompt: int, output: int) -> None:
        """One request, from its arrival to its end."""
        self.sent += 1
        name = f"r{self.sent}"
        self.scheduler.add_request(make_request(self.setup, name, prompt, output, 0.0))
        in_flight: list[Any] = []
        while self.scheduler.has_requests():
            run_step(self.scheduler, in_flight, 2)
            while in_flight:
                finish_step(self.scheduler, in_flight.pop(0))

    async def open(self) -> int:
        self._reach()
        return 1000 + len(self.url)

    async def policy(self) -> Mapping[str, Any]:
        self._reach()
        state = self._state()
        return {**state, "ranks": [state]}

    async def configure(self, change: Mapping[str, Any]) -> Mapping[str, Any]:
        self._reach()
        if self.refuses:
            raise ConfigError(f"{self.url}: {self.refuses}")
        answer = plugin.ewsjf_configure(self._core, dict(change))
        if not answer["applied"]:
            raise ConfigError(answer["error"])
        if self.loses_answers:
            raise Unreachable(f"{self.url}: does not answer")
        return {**answer, "ranks": [answer]}

    async def leave(self, change: Mapping[str, Any]) -> None:
        await self.configure(change)

    async def window(self, since: str, open_requests: bool) -> Mapping[str, Any]:
        self._reach()
        answer = plugin.ewsjf_window(self._core, int(since), open_requests)
        return {"next": str(answer["next"]), "ranks": [answer]}

    async def generate(self, name: str, token_ids: list[int], max_tokens: int, told: Told) -> None:
        self.sent += 1
        await asyncio.sleep(0)
        await self.done.wait()

    async def close(self) -> None:
        pass

    @property
    def done(self) -> asyncio.Event:
        if not hasattr(self, "_done"):
            self._done = asyncio.Event()
        return self._done

    @property
    def _core(self) -> Any:
        return SimpleNamespace(scheduler=self.scheduler)

    def _state(self) -> dict[str, Any]:
        return plugin.ewsjf_state(self._core)

    def _reach(self) -> None:
        if self.down:
            raise Unreachable(f"{self.url}: does not answer")


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


@pytest.fixture
def replicas() -> list[InProcess]:
    return [InProcess(0), InProcess(1), InProcess(2)]


@pytest.fixture
def link(replicas: list[InProcess]) -> ReplicaLink:
    return ReplicaLink(replicas)


def control_of(link: ReplicaLink, lease_s: float = 60.0, keep: bool = False) -> PolicyControl:
    control = PolicyControl(lease_s, keep_partition=keep)
    control.connect(link, run)
    return control


def test_a_change_reaches_all(link: ReplicaLink, replicas: list[InProcess]) -> None:
    before = run(link.policy())
    answer = run(link.configure({"parameters": {"k": 7.0}}))
    assert [one.k for one in replicas] == [7.0, 7.0, 7.0]
    assert [rank["policy"]["parameters"]["k"] for rank in answer["ranks"]] == [7.0, 7.0, 7.0]
    assert answer["instance"] == before["instance"] and answer["instance"].count(",") == 2
    assert run(link.open()) == 1000 + len("http://replica0")


@pytest.mark.parametrize("trouble", ["refuses", "loses_answers"])
@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"k": 7.0, "w_cached": 0.5}},
        {"parameters": {"k": 7.0}, "lease_s": 30.0},
        parse_policy("hrrn").to_dict(),
    ],
)
def test_one_that_fails_leaves_all_as_they_were(
    link: ReplicaLink, replicas: list[InProcess], change: dict[str, Any], trouble: str
) -> None:
    before = [Policy.from_dict(one._state()["policy"]) for one in replicas]
    setattr(replicas[1], trouble, "not now")
    with pytest.raises(EngineError, match=r"replica1: .*; the others were put back"):
        run(link.configure(change))
    after = [Policy.from_dict(one._state()["policy"]) for one in replicas]
    for old, new in zip(before, after, strict=True):
        assert (new.name, new.order, new.parameters) == (old.name, old.order, old.parameters)
    for one in replicas:
        one.now_s += 1e6  # and for good
        assert one.k == K


def test_nobody_is_changed_while_one_cannot_be_reached(
    link: ReplicaLink, replicas: list[InProcess]
) -> None:
    replicas[2].down = True
    versions = [one._state()["policy_version"] for one in replicas]
    with pytest.raises(Unreachable, match="replica2"):
        run(link.configure({"parameters": {"k": 7.0}}))
    assert [one._state()["policy_version"] for one in replicas] == versions


def test_what_all_refuse_is_bad_input(link: ReplicaLink, replicas: list[InProcess]) -> None:
    with pytest.raises(ConfigError, match="nothing to change"):
        run(link.configure({"parameters": {}}))


def test_who_cannot_be_put_back_is_named(link: ReplicaLink, replicas: list[InProcess]) -> None:
    class GoesAway(InProcess):
        async def configure(self, change: Mapping[str, Any]) -> Mapping[str, Any]:
            answer = await super().configure(change)
            self.down = True
            return answer

    replicas[0] = GoesAway(0)
    replicas[1].refuses = "not now"
    with pytest.raises(EngineError, match="could not be put back: http://replica0"):
        run(ReplicaLink(replicas).configure({"parameters": {"k": 7.0}}))


def test_a_trial_that_is_taken_back_is_on_trial_again(
    link: ReplicaLink, replicas: list[InProcess]
) -> None:
    run(link.configure({"parameters": {"k": 4.0}}))
    run(link.configure({"parameters": {"k": 5.0}, "lease_s": 30.0}))
    replicas[2].refuses = "not now"
    for change in (
        {"parameters": {"k": 6.0}, "lease_s": 30.0},
        {"parameters": {"k": 7.0}},
        parse_policy("hrrn").to_dict(),
    ):
        with pytest.raises(EngineError, match="put back"):
            run(link.configure(change))
        assert [one.k for one in replicas] == [5.0, 5.0, 5.0]
    for one in replicas:
        one.now_s += 31.0
    assert [one.k for one in replicas] == [4.0, 4.0, 4.0]


def test_the_last_change_reaches_whoever_is_there(
    link: ReplicaLink, replicas: list[InProcess]
) -> None:
    run(link.configure({"parameters": {"k": 5.0}, "lease_s": 30.0}))
    replicas[0].down = True
    with pytest.raises(Unreachable):
        run(link.leave({"parameters": {"k": 4.0}}))
    replicas[0].down = False
    assert [one.k for one in replicas] == [5.0, 4.0, 4.0]
    replicas[0].now_s += 31.0
    assert replicas[0].k == K  # the lease


def test_replicas_of_different_models_or_the_same_server_are_refused(
    link: ReplicaLink, replicas: list[InProcess]
) -> None:
    replicas[1].model = "other"
    with pytest.raises(ConfigError, match=r"http://replica0 serves 'llama2-13b' and .* 'other'"):
        run(link.open())
    replicas[2].scheduler = replicas[0].scheduler
    with pytest.raises(ConfigError, match="replica0 and http://replica2 are the same server"):
        run(link.policy())


def test_a_replica_that_differs_is_brought_into_line(
    link: ReplicaLink, replicas: list[InProcess]
) -> None:
    plugin.ewsjf_configure(replicas[1]._core, {"parameters": {"k": 11.0}})
    control = control_of(link)
    control.install(START)
    assert [one.k for one in replicas] == [K, K, K]
    plugin.ewsjf_configure(replicas[1]._core, {"parameters": {"k": 11.0}})
    control.apply({"k": K})  # the first replica serves that already
    assert [one.k for one in replicas] == [K, K, K]
    plugin.ewsjf_configure(replicas[2]._core, parse_policy("hrrn").to_dict())
    with pytest.raises(EngineError, match="made the server serve 'hrrn'"):
        control.apply({"k": 3.0})
    control.put_again()
    assert control.apply({"k": 3.0})["k"] == 3.0
    assert [one.k for one in replicas] == [3.0, 3.0, 3.0]


def test_queues_that_replicas_have_learnt_stay_their_own(
    link: ReplicaLink, replicas: list[InProcess]
) -> None:
    control = control_of(link, keep=True)
    cuts = [one.scheduler.waiting.policy.partition for one in replicas]
    control.install(START.with_parameters({"k": 2.0}))
    assert [one.k for one in replicas] == [2.0, 2.0, 2.0]
    assert [one.scheduler.waiting.policy.partition for one in replicas] == cuts


def test_windows_of_all_are_one(link: ReplicaLink, replicas: list[InProcess]) -> None:
    log = ServerLog(keep_records=True)
    before = log.take(run(link.window("0", True)), 0.0, 0.0)
    lengths = [(20, 3), (40, 5), (60, 7)]
    for replica, (prompt, output) in zip(replicas, lengths, strict=True):
        replica.serve(prompt, output)
        replica.now_s += 4.0
    after = log.take(run(link.window(log.cursor, True)), 4.0, 4.0)
    found = after.since(before, 4.0)
    assert (found.output_tokens, found.prefill_tokens) == (3 + 5 + 7, 20 + 40 + 60)
    records = log.records(5.0)
    assert sorted((r.prompt_tokens, r.generated_tokens) for r in records) == lengths
    # Clocks that stand 100 s apart; an arrival is dated back by a second at most.
    assert all(-1.0 <= r.arrival_s <= 4.0 for r in records)
    assert log.cursor == "1,1,1"
    replicas[1].serve(80, 2)
    log.take(run(link.window(log.cursor, True)), 4.0, 4.0)
    assert len(log.records(5.0)) == 4 and log.cursor == "1,2,1"


def test_a_change_by_somebody_else_is_seen_on_any_replica(
    link: ReplicaLink, replicas: list[InProcess]
) -> None:
    control = control_of(link)
    log = ServerLog(keep_records=False)
    assert log.take(run(link.window("0", False)), 0.0, 0.0).versions == control.versions
    plugin.ewsjf_configure(replicas[2]._core, {"parameters": {"k": 11.0}})
    assert log.take(run(link.window(log.cursor, False)), 1.0, 1.0).versions != control.versions


def test_the_restart_of_one_is_noticed(link: ReplicaLink, replicas: list[InProcess]) -> None:
    log = ServerLog(keep_records=False)
    log.take(run(link.window("0", False)), 0.0, 0.0)
    replicas[1] = InProcess(1)
    with pytest.raises(EngineError, match="restarted"):
        log.take(run(ReplicaLink(replicas).window(log.cursor, False)), 1.0, 1.0)


def test_requests_go_where_the_fewest_are_under_way(
    link: ReplicaLink, replicas: list[InProcess]
) -> None:
    async def send() -> list[Counter[int]]:
        seen, tasks = [], []

        async def more(count: int) -> None:
            for _ in range(count):
                tasks.append(asyncio.create_task(link.generate("r", [1], 1, lambda _: None)))
                await asyncio.sleep(0)
            seen.append(Counter({i: one.sent for i, one in enumerate(replicas)}))

        await more(6)
        replicas[1].done.set()  # this one is quicker: it gets all until it is level again
        await asyncio.sleep(0.01)
        replicas[1].done.clear()
        await more(2)
        await more(1)
        for one in replicas:
            one.done.set()
        await asyncio.gather(*tasks)
        return seen

    assert run(send()) == [
        Counter({0: 2, 1: 2, 2: 2}),
        Counter({0: 2, 1: 4, 2: 2}),
        Counter({0: 2, 1: 4, 2: 3}),
    ]
