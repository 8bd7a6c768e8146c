"""The parameters of EWSJF in its score modes, a table a family.

The order of the rows is the order of the unit cube, and part of a space's content hash.

The defaults of `ewsjf` are the shipped policy, `policy/default.json`, so that the name means one
thing in a policy file, in a change over HTTP and on a command line.  They were learnt by
`ewsjf fit-default-policy`; whoever ships another policy changes both (a test compares them).
"""

from __future__ import annotations

from ewsjf_env.parameters import ParameterSpace, choice, integer, linear, log

# fmt: off
_PARTITION = (
    log("alpha", 1.5, low=0.75, high=4.0, minor=True,
        description="gap threshold of Refine-and-Prune"),
    log("homogeneity", 1.5, low=1.2, high=8.0, minor=True,
        description="most a queue's longest prompt exceeds its shortest before it is split"),
    choice("q_max", 16, of=(4, 8, 16, 32), minor=True, description="most queues"),
    choice("prune", "delay", of=("delay", "ward", "paper_low", "paper_high"), tunable=False,
           description="which neighbouring queues are merged first"),
)
_OVERDUE = (
    linear("overdue_share", 0.0, low=0.0, high=0.5, minor=True,
           description="phi: share of the token budget for overdue requests; 0 is off"),
    log("overdue_floor_s", 10.0, low=1.0, high=300.0, unit="s", tunable=False,
        description="no wait below this is overdue"),
    log("overdue_kappa", 60.0, low=1.0, high=10_000.0, tunable=False,
        description="overdue beyond this many times the own prefill cost"),
)
_PICKING = (
    linear("overtake_window_s", 0.0, low=0.0, high=3600.0, unit="s", tunable=False,
           description="A: never passed by a request this much younger; 0 is off"),
    choice("backfill", "score", of=("score", "adjacent", "none"), tunable=False,
           description="who fills the step after its first pick"),
    choice("routing", "cuts", of=("cuts", "bubble"), tunable=False,
           description="contiguous cuts, or the paper's temporary bubble queues"),
)
_REPARTITION = (
    choice("repartition", "on", of=("on", "off"), tunable=False,
           description="off freezes the policy's own partition"),
    log("repartition_s", 600.0, low=5.0, high=86_400.0, unit="s", tunable=False,
        description="least time between two partitions"),
)
_WORK = (
    linear("w_cached", 0.0, low=0.0, high=1.0, named=True, generation=2,
           description="share of the cached prefix that is no work; 0 counts the whole prompt"),
    linear("w_output", 0.0, low=0.0, high=16.0, unit="tokens/token", named=True, generation=2,
           description="prompt tokens that an expected output token counts as; 0 is off"),
    linear("output_quantile", 0.5, low=0.05, high=0.95, named=True, generation=2,
           description="of what similar requests generated, where the caller gives no hint"),
    choice("output_from", "both", of=("both", "hint", "learned"), tunable=False, generation=2,
           description="where the expected output comes from; `both` prefers the caller's hint"),
    choice("route_by", "work", of=("prompt", "work"), tunable=False, generation=2,
           description="what chooses the queue: the request's work on arrival or the prompt alone"),
)
# Of every score mode with a partition; ALGORITHM sections 3 to 5.
_STRUCTURE = (*_PARTITION, *_OVERDUE, *_PICKING, *_REPARTITION, *_WORK)

POWER = ParameterSpace((
    linear("lambda", 0.1330239214003086, low=0.0, high=2.0,
           description="power of the wait (Box-Cox)"),
    linear("mu", -0.6928837914019823, low=-1.0, high=1.0,
           description="power of the cost (Box-Cox)"),
    log("k", 4.945304496720503, low=0.05, high=500.0, description="weight of the cost"),
    linear("w_fair", 0.0, low=-1.0, high=1.0, minor=True, description="weight of ln(1 + b/b0)"),
    linear("delta", 0.0, low=-0.5, high=0.5, minor=True,
           description="weight of the queue's density"),
    *_STRUCTURE,
))
NORMALISED = ParameterSpace((
    log("b_u", 1.0, low=0.2, high=5.0, description="urgency at length 0"),
    linear("a_u", 0.0, low=-1.0, high=1.0, description="urgency's slope in length"),
    linear("b_f", 0.3, low=0.0, high=2.0, description="fairness at length 0"),
    linear("a_f", 0.0, low=-0.5, high=0.5, description="fairness's slope in length"),
    linear("gamma", 0.5, low=0.0, high=3.0, description="power of the length discount"),
    linear("delta", 0.0, low=0.0, high=0.5, minor=True,
           description="power of the queue's density"),
    *_STRUCTURE,
))
PAPER = ParameterSpace((
    linear("a_u", 1e-4, low=-1e-3, high=1e-3, description="urgency's slope in tokens"),
    linear("b_u", 1.0, low=0.0, high=5.0, description="urgency at length 0"),
    linear("a_f", -5e-5, low=-1e-3, high=1e-3, description="fairness's slope in tokens"),
    linear("b_f", 0.5, low=0.0, high=5.0, description="fairness at length 0"),
    *_STRUCTURE,
))
AUTHORS = ParameterSpace((
    integer("step_tokens", 200, low=16, high=8192, unit="tokens", description="S"),
    integer("width_tokens", 100, low=16, high=8192, unit="tokens", description="width"),
    linear("length_weight", 0.5, low=0.0, high=2.0, description="weight of ln(b + 1)"),
    choice("backfill", "score", of=("score", "none"), tunable=False,
           description="`none` drains one queue a step, as published"),
))
HRRN_QUEUES = ParameterSpace((
    log("exponent", 1.0, low=0.25, high=4.0, description="W / C^exponent"),
    *_STRUCTURE,
))
