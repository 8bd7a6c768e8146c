"""The race: which candidates are replayed on which blocks, while a budget lasts.

Everything is served the first block.  Then, in turns: points that are known to do well elsewhere
and the best ones by the twin's own model get the next block that they lack, and the model proposes
new points, near the best one and far from it (successive halving, with a model in place of rungs).
It ends with the budget, or when those have been served everything and a few rounds of proposals
found nothing better.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from agents.bayes.acquisition import maximise
from agents.bayes.config import SearchConfig
from agents.bayes.surrogate import Surrogate
from agents.core.encoding import Encoding
from agents.twin.blocks import Block
from agents.twin.candidates import Candidates, Table, fit_table, scores, window_id
from agents.twin.config import TwinConfig
from ewsjf_env.parameters import ParameterSpace

PROPOSAL_RADII = (0.1, 0.3)  # edges of the cube, round the best point
_SEARCH = SearchConfig(candidates=256, refinements=2)
Judge = Callable[[Sequence[tuple[int, Block]]], bool]
"""Serves candidates, by number, and notes the result; False when the budget is used up."""


class Race:
    """One race.

    Args:
        candidates: all of them, with what is known already.
        blocks: in the order in which they are served; at least one.
        encoding: of the search space.
        space: the same.
        config: of the twin.
        seed: of the proposals.
        known: numbers of candidates that are served everything in any case, after the start.
    """

    def __init__(
        self,
        candidates: Candidates,
        blocks: Sequence[Block],
        encoding: Encoding,
        space: ParameterSpace,
        config: TwinConfig,
        seed: Sequence[int],
        known: Sequence[int] = (),
    ) -> None:
        self._candidates, self._blocks = candidates, blocks
        self._encoding, self._space, self._config = encoding, space, config
        self._seed, self._known = list(seed), list(known)
        self._windows = [window_id(b, w) for b in blocks for w in b.windows]

    def run(self, first: Sequence[int], judge: Judge) -> tuple[Table, Surrogate] | None:
        """Race until the budget is used up or nothing is left to learn.

        Args:
            first: candidates that are served the first block in any case, the start among them.
            judge: see there.
        """
        left = all(judge([(0, block)]) for block in self._blocks)
        left = left and judge(self._lacking(first, self._blocks[0]))
        found = self._fit(None)
        for round_ in range(self._config.rounds):
            if found is None or not left:
                break
            table, model = found
            wanted = self._promotions(table, model)
            wanted += self._proposals(table, model, round_)
            if not wanted:
                break
            left = judge(wanted)
            found = self._fit(model)
        while found is not None and left and (wanted := self._promotions(*found)):
            left = judge(wanted)
            found = self._fit(found[1])
        return self._fit(None)

    def _fit(self, like: Surrogate | None) -> tuple[Table, Surrogate] | None:
        table = self._candidates.table(self._windows)
        return (table, fit_table(table, self._encoding, like)) if len(table) else None

    def _lacking(self, numbers: Sequence[int], block: Block) -> list[tuple[int, Block]]:
        return [(n, block) for n in numbers if self._candidates.lacks(n, block)]

    def _promotions(self, table: Table, model: Surrogate) -> list[tuple[int, Block]]:
        """Known and best points, each with the first block that it was not served yet."""
        order = np.argsort(-scores(model, table.points), kind="stable")
        best = [table.numbers[i] for i in order[: self._config.finalists]]
        found = []
        for number in dict.fromkeys([*self._known, *best]):
            missing = [b for b in self._blocks if self._candidates.lacks(number, b)]
            found += [(number, block) for block in missing[:1]]
        return found

    def _proposals(self, table: Table, model: Surrogate, round_: int) -> list[tuple[int, Block]]:
        """New points, by the acquisition of the twin's model."""
        best = table.points[int(np.argmax(scores(model, table.points)))]
        numbers = []
        for k, radius in enumerate(PROPOSAL_RADII):
            seed = np.random.SeedSequence([*self._seed, round_, k]).generate_state(1)[0]
            point = maximise(
                model.acquisition(()),
                self._encoding,
                model.ranking(()),
                int(seed),
                dataclasses.replace(_SEARCH, radius=radius),
                best,
            )
            values = self._space.validate(self._encoding.to_values(point))
            numbers.append(self._candidates.number(values))
        return self._lacking(list(dict.fromkeys(numbers)), self._blocks[0])
