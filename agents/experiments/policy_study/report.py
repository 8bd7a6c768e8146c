"""The report of a study of policies, study.md: made of `study.json` alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agents.analysis.tables import (
    WORSE,
    best,
    bold,
    doubts,
    interval,
    supports_claims,
    table,
    token_range,
    value_of,
)
from agents.experiments.policy_study.families import CONTROL, MAIN, RIVAL
from agents.experiments.policy_study.study import SUBJECT

WORSE_SHARE = 0.01
SHOWN_LOADS = (0.95, 1.3)
"""Where tables and pictures cannot show all loads, the judged ones nearest to these."""
J = ".2f"
MORE = "+.2f"
Summary = Mapping[str, Any]


def markdown(found: Summary) -> str:
    """The whole report."""
    config = found["config"]
    lines = [
        "# The study of policies",
        "",
        "J is the objective of one window relative to first come first served on the same trace "
        "(0: as good; `ewsjf_env/objective.py`).  Brackets are 95 % intervals, bootstrapped over "
        f"{config['seeds']} seeds and paired: all arms meet the same traces.  Load is the asked "
        "rate over FCFS capacity.  `X`: defaults; `X tuned`: the best fixed parameters for the "
        "workload's training traffic, one policy for all loads; `X per load`: the best at the "
        "nearest training load.  What judges was not seen in tuning: the rest of a recording "
        f"(tuned on its first {config['split']:.0%}), or other seeds.  (oracle) reads true output "
        "lengths; a (control) is another order with something of ours, and counts as no rival.  "
        f"Engine: {config['engine']}.",
        *doubts(config["seeds"]),
        "",
        *_section("Who wins over everything", _comparisons(found)),
        *_section("J by workload, mean over loads", _overall_table(found)),
        *_section("Who wins where", _duels(found)),
        *_section("Is it dominated?", _dominated(found)),
        *_section("Requests by prompt length", _lengths(found)),
        *_section("Where nothing helps", _nothing(found)),
        *_section("Settings of the engine instead of an order", _controls(found)),
        *_section("Controls by policy", _policy_controls(found)),
        *_section("What tuning chose", _tuned(found)),
        "## J by load",
    ]
    for name in config["workloads"]:
        lines += ["", f"**{_title(found, name)}** (`{name}`)", "", *_load_table(found, name)]
    return "\n".join(lines) + "\n"


def shown_loads(config: Mapping[str, Any]) -> list[float]:
    """The judged loads nearest to `SHOWN_LOADS`, without repeats."""
    near = [min(config["loads"], key=lambda x: (abs(x - wanted), x)) for wanted in SHOWN_LOADS]
    return list(dict.fromkeys(near))


def _section(title: str, lines: Iterable[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""]


def _title(found: Summary, name: str) -> str:
    return str(found["config"]["workloads"][name]["title"] or name)


def _label(found: Summary, label: str) -> str:
    arm = _arm(found, label)
    marks = {"control": arm["role"] == CONTROL, "oracle": arm["oracle"]}
    return label + "".join(f" ({mark})" for mark, held in marks.items() if held)


def _arm(found: Summary, label: str) -> Mapping[str, Any]:
    arm: Mapping[str, Any] = next(a for a in found["arms"] if a["arm"] == label)
    return arm


def _comparisons(found: Summary) -> list[str]:
    aim = found["config"]["aim"]
    rows = [["arm", "against", "what this is", "J more by", "that is"]]
    for row in found["comparisons"]:
        rows.append([str(row[key]) for key in ("ours", "theirs", "why")] + _gain(row))
    return [
        f"The best single rival, by its mean J over everything judged, is "
        f"**{found['single_rival']}**; training traffic would have chosen "
        f"**{found['rival_chosen_in_training']}**.  The aim was {aim:+.0%} of J for `{SUBJECT}`.",
        "",
        *table(rows),
    ]


def _overall_table(found: Summary) -> list[str]:
    names = list(found["by_workload"])
    order = sorted(found["overall"], key=lambda x: -found["overall"][x][0])
    fair = [label for label in order if not _arm(found, label)["oracle"]]
    means = _means(found)
    first = {
        place: best({x: means[place][x] for x in fair}, larger=True, form=J) for place in means
    }
    rows = [["arm", "all", *names]]
    for label in order:
        cells = [_label(found, label)]
        for place in ("", *names):
            value = found["by_workload"][place][label] if place else found["overall"][label]
            text = interval(value, J)
            cells.append(bold(text) if first[place] == label else text)
        rows.append(cells)
    return table(rows)


def _means(found: Summary) -> dict[str, dict[str, float]]:
    means = {"": {x: value_of(v) for x, v in found["overall"].items()}}
    return means | {
        n: {x: value_of(v) for x, v in w.items()} for n, w in found["by_workload"].items()
    }


def _load_table(found: Summary, name: str) -> list[str]:
    cells = {c["load"]: c["arms"] for c in found["cells"] if c["workload"] == name}
    means = found["by_workload"][name]
    head = [
        f"{c['load']:g} ({c['requests_a_window']:.0f} requests)"
        for c in found["cells"]
        if c["workload"] == name
    ]
    rows = [["arm", *head, "mean"]]
    for label in sorted(means, key=lambda x: -means[x][0]):
        values = [interval(arms[label][0], J) for arms in cells.values()]
        rows.append([_label(found, label), *values, interval(means[label], J)])
    return table(rows)


def _duels(found: Summary) -> list[str]:
    rows = [["workload", "load", "seeds", "J more by", "verdict", "best rival here", "over it"]]
    for row in found["against_single_rival"]:
        rows.append(
            [
                row["workload"],
                f"{row['load']:g}",
                str(row["seeds"]),
                interval(row["gain"], MORE),
                row["verdict"],
                row["best_rival_here"],
                interval(row["gain_over_it"], MORE),
            ]
        )
    counts: dict[str, int] = {}
    for row in found["against_single_rival"]:
        counts[row["verdict"]] = counts.get(row["verdict"], 0) + 1
    told = ", ".join(f"{n} x {verdict}" for verdict, n in sorted(counts.items()))
    return [
        f"`{SUBJECT}` against the best single rival, {found['single_rival']}: {told}.  *Better by "
        "the aim*: the whole interval is; *less*: the interval ends below it; *undecided*: "
        "it holds 0 and the aim, with the extra seeds; *no difference that matters*: within 0.02.  "
        "The best rival here was picked in hindsight out of all rival arms, one policy a "
        "load included.",
        "",
        *table(rows),
    ]


def _dominated(found: Summary) -> list[str]:
    places = len(found["cells"])
    lines = [
        "An arm of another order dominates where it is at least as good in mean TTFT, p99, the "
        "longest wait and long p95, by the means, and surely better in one of them; **surely**: "
        "with the whole interval of each difference.",
        "",
    ]
    sure = supports_claims(found["config"]["seeds"])
    roles = [a["role"] for a in found["arms"]]
    for arm in (a["arm"] for a in found["arms"] if a["order"] == MAIN and a["ours"]):
        for role in (x for x in (RIVAL, CONTROL) if x in roles):
            rows = [r for r in found["dominated"] if r["arm"] == arm and r["by_role"] == role]
            where = {(r["workload"], r["load"]) for r in rows}
            surely = {(r["workload"], r["load"]) for r in rows if sure and r["surely"]}
            lines.append(
                f"* `{arm}` is dominated by a {role} in {len(where)} of {places} places, surely "
                f"in {len(surely)}."
            )
    rows = [["workload", "load", "arm", "by"]]
    by_place: dict[tuple[str, float, str], list[str]] = {}
    for r in found["dominated"]:
        name = bold(r["by"]) if sure and r["surely"] else str(r["by"])
        by_place.setdefault((r["workload"], r["load"], r["arm"]), []).append(name)
    rows += [[w, f"{x:g}", arm, ", ".join(by)] for (w, x, arm), by in by_place.items()]
    return [*lines, "", *table(rows)] if by_place else lines


def _lengths(found: Summary) -> list[str]:
    loads = shown_loads(found["config"])
    sure = supports_claims(found["config"]["seeds"])
    chosen = [row for row in found["lengths"] if row["load"] in loads]
    limits = sorted({(r["above"], r["up_to"] or float("inf")) for r in chosen})
    rows = [["workload", "load", "arm", *(token_range(*limit) for limit in limits)]]
    cells: dict[tuple[str, float, str], dict[tuple[int, float], str]] = {}
    for r in chosen:
        key = (r["workload"], r["load"], r["arm"])
        limit = (r["above"], r["up_to"] or float("inf"))
        value, low, _ = r["ratio"]
        worse = sure and low is not None and low > 1.0 and value >= 1.0 + WORSE_SHARE
        cells.setdefault(key, {})[limit] = interval(r["ratio"], J) + (f" {WORSE}" if worse else "")
    for (name, load, arm), row in sorted(cells.items(), key=lambda item: item[0][:2]):
        rows.append([name, f"{load:g}", arm, *(row.get(limit, "-") for limit in limits)])
    return [
        f"Mean TTFT over that of FCFS by prompt tokens; {WORSE} is worse with its whole interval. "
        "Who has not been served when the window ends counts with the age.  Other loads: "
        "`study.json`.",
        "",
        *table(rows),
    ]


def _nothing(found: Summary) -> list[str]:
    rows = [["workload", "load", "best arm", "its J"]]
    rows += [
        [r["workload"], f"{r['load']:g}", r["best"], interval(r["objective"], J)]
        for r in found["nothing_helps"]
    ]
    if len(rows) == 1:
        return ["Somebody gains somewhere at every load and workload judged."]
    return ["The best arm of all gains little or nothing here:", "", *table(rows)]


def _controls(found: Summary) -> list[str]:
    if not found["controls"]:
        return ["No controls were run."]
    head = ["workload", "load", "engine", "FCFS there", f"{SUBJECT} there", "over FCFS there"]
    rows = [[*head, f"{SUBJECT} as it is"]]
    keys = ("fcfs_over_fcfs", "ewsjf_over_fcfs", "ewsjf_over_fcfs_there", "ewsjf_without_it")
    for r in found["controls"]:
        values = [interval(r[key], J) for key in keys]
        rows.append([r["workload"], f"{r['load']:g}", r["engine"], *values])
    return [
        "J over FCFS on the engine as it is, but for the last but one column: over FCFS on the "
        "changed engine.  A setting that alone reaches the last column would make the order "
        "superfluous; one at which the last but one column is 0 leaves it nothing to do.",
        "",
        *table(rows),
    ]


def _policy_controls(found: Summary) -> list[str]:
    if not found["policy_controls"]:
        return ["No family is a control."]
    head = ["control", "plain arm", "J plain", "J control", "control more by"]
    rows = [[*head, f"{SUBJECT} over control", "that is"]]
    for r in found["policy_controls"]:
        values = [interval(r["plain_objective"], J), interval(r["control_objective"], J)]
        values += [interval(r["gain"], MORE), *_gain(r["subject_over_control"])]
        rows.append([r["control"], r["plain"], *values])
    return [
        "A control is another order with something that ours has, tuned alike: what that is "
        "worth without our order (`control more by`), and what our order is worth beside it.  "
        "Mean J over everything judged.",
        "",
        *table(rows),
    ]


def _tuned(found: Summary) -> list[str]:
    rows = [["workload", "family", "points", "J in training", "its defaults'", "values", "by load"]]
    for name, families in found["tuned"].items():
        for label, row in families.items():
            if "static" not in row:
                continue
            by_load = "; ".join(f"{x}: {_values(v)}" for x, v in row["by_load"].items())
            rows.append(
                [
                    name,
                    label,
                    str(row["points"]),
                    f"{row['training_objective']:.3f}",
                    f"{row['of_the_defaults']:.3f}",
                    _values(row["static"]),
                    by_load,
                ]
            )
    return table(rows) if len(rows) > 1 else ["Nothing was tuned."]


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{n}={v:.3g}" if isinstance(v, float) else f"{n}={v}" for n, v in values.items()
    )


def _gain(row: Mapping[str, Any]) -> list[str]:
    share = "-" if row["share"] is None else f"{row['share']:+.0%}"
    return [interval(row["gain"], MORE), share]
