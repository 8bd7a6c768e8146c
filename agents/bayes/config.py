"""Settings of the agents on a study.

One frozen dataclass for each kind; `configs/agents/<name>.yaml` shows the defaults of each
registered agent, and a test keeps the two equal.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from agents.bayes.storage import check_storage
from ewsjf_env.config import (
    ConfigError,
    Count,
    Natural,
    NotNegative,
    Positive,
    PositiveShare,
    Range,
    Share,
    settings,
)

Start = Literal["known", "sobol"]
SamplerName = Literal["contextual_gp", "tpe", "gp", "cmaes", "random"]


@settings
class SurrogateConfig:
    """The model of reward and constraints."""

    half_life_windows: Positive | None = 100.0
    """A window this old counts with twice its noise variance; null: windows do not age."""
    change_half_lives: Annotated[float, Range(0.0, 30.0)] = 4.0
    """A detected change makes all windows before it this many half-lives older."""
    max_windows: Count = 300
    """The newest windows the model is fitted to; time grows with its cube."""
    refit_every: Count = 4
    """Lengthscales and noise are fitted anew after so many windows; in between the model learns
    from new windows without. Early on they are fitted always.
    """


@settings
class SearchConfig:
    """How hard the most promising point is searched."""

    candidates: Annotated[int, Range(2)] = 1024
    """Quasi-random points scored."""
    refinements: Count = 4
    """Best candidates that are refined locally."""
    radius: PositiveShare = 0.3
    """The search goes so far from the recommended point, in every coordinate of the unit cube;
    1: everywhere. Far points are mostly bad, and users would feel them; step by step everything
    can be reached.
    """


@settings
class DriftConfig:
    """Detection of changes by the model's own standardised errors (a two-sided CUSUM)."""

    enabled: bool = True
    """Whether changes are detected."""
    slack: NotNegative = 0.5
    """Errors up to this many standard deviations are chance."""
    threshold: Positive = 6.0
    """Sum of the excess at which a change is declared, standard deviations."""


@settings
class StudyConfig:
    """An agent on an Optuna study."""

    sampler: SamplerName = "contextual_gp"
    """Who proposes: `contextual_gp` is ours, the others are Optuna's."""
    startup_points: Natural = 4
    """Windows after the incumbent's first and before the sampler proposes. Those that `start`
    leaves are Sobol points that differ from the incumbent in the parameters that are not minor.
    """
    start: Start = "known"
    """What comes first among the startup points: `known`: points that did well on other traffic,
    see `known_points`; `sobol`: nothing.
    """
    startup_radius: PositiveShare = 0.3
    """Startup points lie so near the incumbent, in every coordinate of the unit cube; 1:
    everywhere.
    """
    control_every: Natural = 5
    """Every so many windows measure the incumbent again; 0: never."""
    recover: bool = True
    """Whether the incumbent is measured again after a proposal that broke a constraint, which
    leaves a queue.
    """
    feasibility: Share = 0.95
    """Least probability that a window under a recommendation meets all constraints; about as
    likely as under the start is enough, too.
    """
    caution: NotNegative = 1.0
    """Standard deviations of the posterior that a recommendation is judged below its mean."""
    confirm: Count = 2
    """Windows that a point needs before it is recommended: what looks best after fewer is tried
    again at once. One lucky window, of light traffic, says little.
    """
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    """The model behind the recommendation, and behind `contextual_gp`."""
    search: SearchConfig = field(default_factory=SearchConfig)
    """How `contextual_gp` searches."""
    drift: DriftConfig = field(default_factory=DriftConfig)
    """Detection of changes."""
    storage: str = ""
    """Where the study is that the windows of several runs go to, and from which each learns: the
    path of a journal file, or `postgresql://USER@HOST/DATABASE`; "": the run is alone.
    """
    study: str = ""
    """Name of the study in the storage; "": `<environment>/<workload>`."""

    def __post_init__(self) -> None:
        check_storage(self.storage)
        if self.control_every == 1:
            raise ConfigError("control_every: 1 would measure nothing but the incumbent")
