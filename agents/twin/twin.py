"""The digital twin: what it knows, and what it does between two windows.

The twin keeps the newest windows (`memory`), replays them under candidate policies
(`replay`) and gives each candidate's objective and margins, with errors (`table`).
`add` takes a window in; `think` spends one budget: the speed of the machine is fitted, so that
replays of what really ran take as long as it did, and then candidates race (`race`).

What it knows is a function of its seed and the windows: all choices are made by what was
replayed, and the budget counts simulated seconds where time is virtual (`budget`).

Between two windows the twin is in one of two states.  `add` makes it `State.DUE`: a window came
in that it has not thought about.  `think` makes it `State.RESTED`, and does nothing then.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agents.bayes.phases import known_points
from agents.bayes.surrogate import Surrogate
from agents.core.encoding import Encoding
from agents.core.requests import RecordedTraffic
from agents.theory.start import start_values
from agents.twin.blocks import Block
from agents.twin.budget import Budget
from agents.twin.candidates import Candidates, Judgement, Table, scores, window_id
from agents.twin.config import TwinConfig
from agents.twin.memory import Memory, Past
from agents.twin.race import Race
from agents.twin.replay import Replay, Replayer, Served, Values
from agents.twin.speed import SpeedFit, compare, fit_speed, perturbed, refit, scaled
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.env.registration import REAL_TIME
from ewsjf_env.env.task import Task
from ewsjf_env.measure.constraints import margins
from ewsjf_env.measure.objective import Outcome
from ewsjf_env.parameters import Value
from ewsjf_env.policy.policy import Policy

SEEN_POINTS = 8  # of the points known or tried, first and last ones, that are looked at again


class State(enum.Enum):
    """Whether the twin has thought about the windows that it knows."""

    RESTED = "it has, or there is none"
    DUE = "a window came in since"


class Twin:
    """See the module.

    Args:
        task: what is tuned; on a real engine its `simulated` describes the machine.
        encoding: of the search space.
        config: settings.
        seed: of everything drawn, >= 0.
        folder: results are kept there; None: in memory.
        kept: another folder with results of an earlier process, to read only.

    Attributes:
        speed: of the machine over its latency model, as fitted last.
        state: see the module.
        budget: what the last `think` has spent.
        table: candidates by the newest windows; None before the first.
        model: the twin's own model of them, without context.
        thoughts: how many models there have been.
        known: numbers of the candidates that are known to do well elsewhere, the start first.
    """

    def __init__(
        self,
        task: Task,
        encoding: Encoding,
        config: TwinConfig,
        seed: int = 0,
        folder: Path | None = None,
        kept: Path | None = None,
    ) -> None:
        self._real = task.engine in REAL_TIME
        self._task, self._config = task.twin(), config
        self._encoding, self._seed = encoding, seed
        self._space = self._task.space()
        self.replayer = Replayer(self._task, config.jobs, folder, kept)
        self._latency: LatencyModel | None = None
        if self._task.has_model:
            self._latency = LatencyModel.load(self._task.simulated.latency)
            if config.latency_error:
                self._latency = perturbed(self._latency, config.latency_error, seed)
        self.speed = SpeedFit(1.0, 0.0, math.nan)
        self.table: Table | None = None
        self.model: Surrogate | None = None
        self.thoughts = 0
        self.state, self.budget = State.RESTED, Budget(config, self._real)
        self._memory = Memory(self._task, config, seed)
        self._logged_steps = 0  # of the server, that the latency model was fitted to
        self._candidates = Candidates(encoding, self._space.defaults)
        known = known_points(self._task)
        self.known = [self._candidates.number(v) for v in known]
        self._first = list(self.known)
        # Far points are mostly bad; near those that others found good ones are more likely.
        centers = known[1:] or known
        share = -(-config.candidates // len(centers))
        for k, center in enumerate(centers if share else ()):
            at = encoding.to_point(center)
            for point in encoding.start_points(share, at, config.radius, seed + k):
                self._candidates.number(self._space.validate(encoding.to_values(point)))

    def add(
        self,
        number: int,
        recorded: RecordedTraffic,
        values: Values,
        *,
        counts: bool = True,
        shifted: bool = False,
        ended: bool = False,
    ) -> Judgement | None:
        """Take a window in; what the twin says it was like, with what it had inherited.

        Args:
            number: of the window in the run.
            recorded: its requests.
            values: in force.
            counts: policies can be judged by it.
            shifted: the traffic has changed: older windows say nothing of the next ones.
            ended: the next window begins another trace.

        Returns:
            None where the twin cannot say.
        """
        # As it was done before this window was served.  On a real engine only what is known is
        # taken up again: there a run that is resumed is another run, and users are waiting.
        self.think(known_only=self._real)
        segment = self._memory.add(
            number, recorded, values, counts=counts, shifted=shifted, ended=ended
        )
        tried = self._candidates.number(values)
        if tried not in self._first:
            self._first.append(tried)
        self.state = State.DUE
        if not segment.counts:
            return None
        relived = self._relive(self._memory.history(), self.speed.speed)
        return None if relived is None else relived[0][-1]

    def think(self, known_only: bool = False) -> None:
        """Spend one budget on replays of the windows so far; nothing to do without a new one.

        Args:
            known_only: nothing is replayed that an earlier process has not replayed.
        """
        if self.state is State.RESTED:
            return
        self.state = State.RESTED
        self.budget.begin()
        self._refit()
        self._fit_speed(known_only)
        blocks = self._affordable(self._memory.blocks())
        if not blocks:
            return
        self._candidates.keep([window_id(b, w) for b in blocks for w in b.windows])
        race = Race(
            self._candidates,
            blocks,
            self._encoding,
            self._space,
            self._config,
            (self._seed, 3, self._memory.newest.number),
            self.known,
        )
        judge = functools.partial(self._judge_all, known_only)
        judged = race.run(self._to_look_at(), judge)
        if judged is not None:
            self.table, self.model = judged
            self.thoughts += 1

    def values_of(self, number: int) -> dict[str, Value]:
        """Of a candidate, by its number in the table."""
        return dict(self._candidates.values[number])

    def close(self) -> None:
        """End the processes; may be called more than once."""
        self.replayer.close()

    # -- what is replayed ----------------------------------------------------------------------

    def _to_look_at(self) -> list[int]:
        """Candidates for the first block: at first all, then the best so far and those tried."""
        if self.table is None or self.model is None:
            for values in _theory_points(self._task) if self._config.theory else ():
                self._first.append(self._candidates.number(values))
            return list(range(len(self._candidates.values)))
        best = np.argsort(-scores(self.model, self.table.points), kind="stable")
        kept = [self.table.numbers[i] for i in best[: 2 * self._config.finalists]]
        return list(dict.fromkeys([*kept, *self._first[:SEEN_POINTS], *self._first[-SEEN_POINTS:]]))

    def _affordable(self, blocks: Sequence[Block]) -> list[Block]:
        """The first blocks, so many that known and best candidates can be served all of them."""
        most_s = self.budget.share_s(len(self.known) + self._config.finalists)
        total_s, kept = 0.0, list(blocks[:1])
        for block in blocks[1:]:
            total_s += block.seconds
            if total_s + blocks[0].seconds > most_s:
                break
            kept.append(block)
        return kept

    # -- the machine ---------------------------------------------------------------------------

    def _refit(self) -> None:
        """Take the latency model from the server's own steps, where they are logged."""
        log = self._config.step_log
        if not (log and self._real and self._latency is not None):
            return
        self._latency, steps = refit(self._latency, log, self._logged_steps)
        if steps != self._logged_steps:
            self._logged_steps, self.speed = steps, SpeedFit(1.0, 0.0, math.nan)
            self._candidates.keep([])

    def _fit_speed(self, known_only: bool) -> None:
        if not self._config.fit_speed or self._latency is None:
            return
        history = self._memory.history()

        def replay(speed: float) -> SpeedFit | None:
            relived = self._relive(history, speed, known_only) if self.budget.left else None
            return None if relived is None else relived[1]

        here = replay(self.speed.speed)
        if here is None or math.isnan(here.error):
            return
        before = self.speed.speed
        self.speed = here
        if abs(here.bias) > self._config.fit_error:
            self.speed = fit_speed(replay, here)
        if self.speed.speed != before:
            self._candidates.keep([])

    def _relive(
        self, history: Past, speed: float, known_only: bool = False
    ) -> tuple[list[Judgement], SpeedFit] | None:
        """Serve windows again under the values that were in force."""
        segments = [s for s, _ in history]
        if not any(len(s.recorded) for s in segments):
            return None
        block, values = self._memory.block(segments), tuple(v for _, v in history)
        served = self._serve([self._replay(block, values, speed)], known_only)[0]
        judged = self._judge(block, served, speed, known_only)
        if judged is None or served is None:
            return None
        return judged, compare([w.fit for w in served], [s.fit for s in segments], speed)

    def _at(self, speed: float) -> LatencyModel | None:
        if self._latency is None or speed == 1.0:
            return self._latency
        return scaled(self._latency, speed)

    # -- replays -------------------------------------------------------------------------------

    def _judge_all(self, known_only: bool, wanted: Sequence[tuple[int, Block]]) -> bool:
        """Serve candidates in groups of as many as run at once, while the budget lasts."""
        size, speed = self.replayer.at_once, self.speed.speed
        for i in range(0, len(wanted), size):
            if not self.budget.left:
                return False
            group = wanted[i : i + size]
            replays = []
            for number, block in group:
                values = (self._candidates.values[number],) * len(block.windows)
                replays.append(self._replay(block, values, speed))
            for (number, block), served in zip(
                group, self._serve(replays, known_only), strict=True
            ):
                judged = self._judge(block, served, speed, known_only)
                if judged is not None:
                    self._candidates.note(number, block, judged)
        return self.budget.left

    def _replay(
        self, block: Block, values: tuple[Values, ...], speed: float, policy: Policy | None = None
    ) -> Replay:
        return Replay(block, policy or self._task.start_policy(), values, self._at(speed))

    def _serve(
        self, replays: Sequence[Replay], known_only: bool
    ) -> list[tuple[Served, ...] | None]:
        done = self.replayer.results(replays, new=not known_only)
        for replay, result in zip(replays, done, strict=True):
            self.budget.pay(replay, result)
        return [None if result is None else result.windows for result in done]

    def _judge(
        self, block: Block, served: tuple[Served, ...] | None, speed: float, known_only: bool
    ) -> list[Judgement] | None:
        """Objective and margins of served windows, beside the reference on the same traffic."""
        if served is None:
            return None
        compared: Sequence[Served | None] = (None,) * len(served)
        policy = self._task.reference_policy()
        if policy is not None:
            empty: tuple[Values, ...] = ({},) * len(block.windows)
            reference = self._serve([self._replay(block, empty, speed, policy)], known_only)[0]
            if reference is None:
                return None
            compared = reference
        judged = []
        for ours, theirs in zip(served, compared, strict=True):
            other = None if theirs is None else theirs.metrics
            reward = self._task.objective.reward(Outcome(ours.metrics, other, ours.queues))
            limits = margins(self._task.constraints, ours.metrics, other)
            judged.append(Judgement(reward.total, limits))
        return judged


def _theory_points(task: Task) -> list[dict[str, Value]]:
    """What queueing theory would try first, which takes it seconds; none where it has no say."""
    if not task.has_model:
        return []
    try:
        values = start_values(task)
    except ConfigError:
        return []
    return [] if values is None else [values]
