"""Settings of the agents on a study.

One frozen dataclass for each kind; `configs/agents/<name>.yaml` shows the defaults of each
registered agent, and a test keeps the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from agents.bayes.storage import check_storage
from ewsjf_env.config import ConfigError, check_range

Start = Literal["known", "sobol"]
SamplerName = Literal["contextual_gp", "tpe", "gp", "cmaes", "random"]


@dataclass(frozen=True)
class SurrogateConfig:
    """The model of reward and constraints.

    Attributes:
        half_life_windows: a window this old counts with twice its noise variance, > 0; None:
            windows do not age.
        change_half_lives: a detected change makes all windows before it this many half-lives
            older, >= 0.
        max_windows: the newest windows the model is fitted to, >= 1; time grows with its cube.
        refit_every: lengthscales and noise are fitted anew after so many windows, >= 1; in
            between the model learns from new windows without.  Early on they are fitted always.
    """

    half_life_windows: float | None = 100.0
    change_half_lives: float = 4.0
    max_windows: int = 300
    refit_every: int = 4

    def __post_init__(self) -> None:
        if self.half_life_windows is not None:
            check_range("half_life_windows", self.half_life_windows, 0.0, low_open=True)
        check_range("change_half_lives", self.change_half_lives, 0.0, 30.0)
        check_range("max_windows", self.max_windows, 1)
        check_range("refit_every", self.refit_every, 1)


@dataclass(frozen=True)
class SearchConfig:
    """How hard the most promising point is searched.

    Attributes:
        candidates: quasi-random points scored, >= 2.
        refinements: best candidates that are refined locally, >= 1.
        radius: the search goes so far from the recommended point, in every coordinate of the unit
            cube, (0, 1]; 1: everywhere.  Far points are mostly bad, and users would feel them;
            step by step everything can be reached.
    """

    candidates: int = 1024
    refinements: int = 4
    radius: float = 0.3

    def __post_init__(self) -> None:
        check_range("candidates", self.candidates, 2)
        check_range("refinements", self.refinements, 1)
        check_range("radius", self.radius, 0.0, 1.0, low_open=True)


@dataclass(frozen=True)
class DriftConfig:
    """Detection of changes by the model's own standardised errors (a two-sided CUSUM).

    Attributes:
        enabled: False: no change is ever detected.
        slack: errors up to this many standard deviations are chance, >= 0.
        threshold: sum of the excess at which a change is declared, > 0, standard deviations.
    """

    enabled: bool = True
    slack: float = 0.5
    threshold: float = 6.0

    def __post_init__(self) -> None:
        check_range("slack", self.slack, 0.0)
        check_range("threshold", self.threshold, 0.0, low_open=True)


@dataclass(frozen=True)
class StudyConfig:
    """An agent on an Optuna study.

    Attributes:
        sampler: who proposes: `contextual_gp` is ours, the others are Optuna's.
        startup_points: after the incumbent, before the sampler proposes, >= 0.  Those that `start`
            leaves are Sobol points that differ from it in the parameters that are not minor.
        start: what comes first among them: `known`: points that did well on other traffic, see
            `known_points`; `sobol`: nothing.
        startup_radius: they lie so near the incumbent, in every coordinate of the unit cube,
            (0, 1]; 1: everywhere.
        control_every: every so many windows measure the incumbent again; 0: never.
        recover: so does the window after a proposal that broke a constraint, which leaves a queue.
        feasibility: least probability that a window under a recommendation meets all constraints,
            [0, 1]; about as likely as under the start is enough, too.
        caution: standard deviations of the posterior that a recommendation is judged below its
            mean, >= 0.
        confirm: windows that a point needs before it is recommended, >= 1: what looks best after
            fewer is tried again at once.  One lucky window, of light traffic, says little.
        surrogate: the model behind the recommendation, and behind `contextual_gp`.
        search: of `contextual_gp`.
        drift: detection of changes.
        storage: where the study is that the windows of several runs go to, and from which each
            learns: the path of a journal file, or `postgresql://USER@HOST/DATABASE`; "": the run
            is alone.
        study: its name there; "": `<environment>/<workload>`.
    """

    sampler: SamplerName = "contextual_gp"
    startup_points: int = 4
    start: Start = "known"
    startup_radius: float = 0.3
    control_every: int = 5
    recover: bool = True
    feasibility: float = 0.95
    caution: float = 1.0
    confirm: int = 2
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    storage: str = ""
    study: str = ""

    def __post_init__(self) -> None:
        check_storage(self.storage)
        check_range("startup_points", self.startup_points, 0)
        check_range("startup_radius", self.startup_radius, 0.0, 1.0, low_open=True)
        check_range("control_every", self.control_every, 0)
        check_range("feasibility", self.feasibility, 0.0, 1.0)
        check_range("caution", self.caution, 0.0)
        check_range("confirm", self.confirm, 1)
        if self.control_every == 1:
            raise ConfigError("control_every: 1 would measure nothing but the incumbent")
