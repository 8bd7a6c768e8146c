"""The candidates of the twin: by which windows each was judged, and what follows from that.

Every candidate is compared with the start values window by window, so that what the traffic does
to both cancels.  How much such a difference varies from window to window is learnt from all
candidates together; until much is known it is believed to be `GAP_SD`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.bayes.surrogate import Observations, Surrogate, fit_surrogate
from agents.core.encoding import POINT_TOLERANCE, Encoding, Points
from agents.twin.blocks import Block, BlockWindow
from ewsjf_env.parameters import Value

GAP_SD = 0.15  # objective: of a candidate's difference to the start in a window, beforehand
GAP_SD_WINDOWS = 6.0  # that this belief is worth
START = 0  # number of the candidate that holds the start values
MODEL_CANDIDATES = 120  # in the model: the best ones
Vector = NDArray[np.float64]
WindowId = tuple[str, int]


@dataclass(frozen=True)
class Judgement:
    """What the twin says of one window: the objective, and margins by constraint."""

    reward: float
    margins: Mapping[str, float]


@dataclass(frozen=True)
class Table:
    """Candidates that were replayed on some of the windows asked for, t of them.

    Attributes:
        numbers: (t,) of the candidates.
        points: (t, d) of the unit cube.
        rewards: (t,) objective that the twin expects.
        standard_errors: (t,) of their differences to the start values.
        margins: by constraint, (t,) means.
        windows: (t,) how many windows each was judged by.
    """

    numbers: tuple[int, ...]
    points: Points
    rewards: Vector
    standard_errors: Vector
    margins: Mapping[str, Vector]
    windows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)


def window_id(block: Block, window: BlockWindow) -> WindowId:
    """A recorded window is the same whatever comes after it in its block; a drawn one is not."""
    return ("", window.number) if window.number >= 0 else (block.key, window.number)


class Candidates:
    """Points and what came of them; numbers are given in order of first use.

    Args:
        encoding: of the search space.
        start: values that all others are compared with; candidate number 0.
    """

    def __init__(self, encoding: Encoding, start: Mapping[str, Value]) -> None:
        self._encoding = encoding
        self.values: list[dict[str, Value]] = []
        self._points: list[Vector] = []
        self._judged: dict[WindowId, dict[int, Judgement]] = {}
        self.number(start)

    def number(self, values: Mapping[str, Value]) -> int:
        """Of the candidate with these values, a new one where there is none."""
        point = self._encoding.to_point(values)
        if self._points:
            apart = np.abs(np.array(self._points) - point).max(axis=1)
            nearest = int(np.argmin(apart))
            if apart[nearest] < POINT_TOLERANCE:
                return nearest
        self.values.append(dict(values))
        self._points.append(point)
        return len(self.values) - 1

    def note(self, number: int, block: Block, judged: Sequence[Judgement]) -> None:
        """Keep what came of a replay, a judgement a window."""
        for window, judgement in zip(block.windows, judged, strict=True):
            self._judged.setdefault(window_id(block, window), {})[number] = judgement

    def lacks(self, number: int, block: Block) -> bool:
        """The candidate was not served all of this block yet."""
        return any(number not in self._judged.get(window_id(block, w), {}) for w in block.windows)

    def keep(self, windows: Sequence[WindowId]) -> None:
        """Forget all other windows."""
        self._judged = {w: self._judged[w] for w in windows if w in self._judged}

    def table(self, windows: Sequence[WindowId]) -> Table:
        """What is known by some windows."""
        starts = {w: self._judged[w][START] for w in windows if START in self._judged.get(w, {})}
        level = float(np.mean([j.reward for j in starts.values()])) if starts else 0.0
        gaps: dict[int, list[float]] = {}
        limits: dict[int, list[Judgement]] = {}
        for window, start in starts.items():
            for number, judgement in self._judged[window].items():
                gaps.setdefault(number, []).append(judgement.reward - start.reward)
                limits.setdefault(number, []).append(judgement)
        numbers = sorted(gaps)
        squares, freedom = GAP_SD_WINDOWS * GAP_SD**2, GAP_SD_WINDOWS
        for number in numbers:
            differences = np.array(gaps[number])
            if number != START and len(differences) > 1:
                # One that is far off varies in its own way, and which one does not matter.
                if abs(float(differences.mean())) > 3.0 * GAP_SD * math.sqrt(2.0) + 0.5:
                    continue
                squares += float(((differences - differences.mean()) ** 2).sum())
                freedom += len(differences) - 1
        deviation = math.sqrt(squares / freedom)
        names = sorted({name for row in limits.values() for j in row for name in j.margins})
        return Table(
            numbers=tuple(numbers),
            points=np.array([self._points[n] for n in numbers]).reshape(
                len(numbers), self._encoding.dimensions
            ),
            rewards=np.array([level + float(np.mean(gaps[n])) for n in numbers]),
            standard_errors=np.array(
                [0.01 if n == START else deviation / math.sqrt(len(gaps[n])) for n in numbers]
            ),
            margins={
                name: np.array(
                    [
                        float(np.mean([j.margins[name] for j in limits[n] if name in j.margins]))
                        for n in numbers
                    ]
                )
                for name in names
            },
            windows=tuple(len(gaps[n]) for n in numbers),
        )


def fit_table(table: Table, encoding: Encoding, like: Surrogate | None = None) -> Surrogate:
    """The twin's own model, without context; the worst of too many candidates are left out.

    `like` is a model whose hyperparameters are taken, which saves most of the time.
    """
    kept = np.sort(np.argsort(-table.rewards, kind="stable")[:MODEL_CANDIDATES])
    n = len(kept)
    return fit_surrogate(
        Observations(
            points=table.points[kept],
            contexts=np.zeros((n, 0)),
            rewards=table.rewards[kept],
            standard_errors=table.standard_errors[kept],
            margins={name: values[kept] for name, values in table.margins.items()},
            halvings=np.zeros(n),
        ),
        encoding,
        None if like is None else like.hyperparameters,
    )


def scores(model: Surrogate, points: Points) -> Vector:
    """Expected objective; what probably breaks a constraint stands behind all that does not."""
    mean, _ = model.predict(points, ())
    likely = model.feasibility(points, (), by_window=False) >= 0.5
    return np.asarray(np.where(likely, mean, mean - 100.0), dtype=float)
