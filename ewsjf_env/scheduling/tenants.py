"""Accounts of tenants: virtual token counters, and any order inside each tenant (+).

Every tenant has a counter of the service that it got, in weighted tokens:

    on admission    += w_p (uncached prompt tokens) / weight
    on each token   += w_q / weight

The next request is that of the waiting tenant with the smallest counter; which one of its
requests, an order of the tenant's own says.  A tenant that comes back after it had nothing
waiting is lifted to the smallest counter of those that wait (of the last that did, if none
does), so that nobody saves up service by staying away.

Source: the Virtual Token Counter of Sheng et al., "Fairness in Serving Large Language Models",
OSDI 2024.  Not deficit round robin, because that has to know the cost of a request when it
admits it, and of the output it knows a limit alone; counters are charged as tokens come.

Bound (theirs, with weights): while two tenants both have requests waiting, the services W that
they get in any interval differ by

    |W_f/weight_f - W_g/weight_g| <= 2 U,   U = max(w_p L, w_q M) / smallest weight

for w_p <= w_q, as by default (else U takes their sum).  L is the largest (uncached) prompt, M the
most output tokens that admitted, unfinished requests can come to: at most the KV cache in tokens
while nothing is preempted.

What goes before the orders goes
before tenants, too: a preempted or returned request is served first and is not charged
again, and the overdue lane (off by default) serves by age.  It is charged, hence paid back, but
until then the two services may differ by what it served besides: 2 U + overdue service.  Its own
bound, a share of every step's tokens, holds as without tenants.  A bound on overtaking holds
among the requests of one tenant.

A name costs nothing to invent, so memory is bounded: of `max_tenants` unlisted names each has
an account of its own; the next one takes the place of an idle tenant whose counter would be
lifted anyway (forgetting it changes nothing), and where there is none shares the account
`OTHERS`.  Tenants that are listed with a weight always have one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from ewsjf_env.config import ConfigError, Range, settings
from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.orders.order import Order

OTHERS = "(others)"
MAX_NAME_CHARACTERS = 64
_SWEEP_SLACK = 64

Weight = Annotated[float, Range(1e-3, 1e3)]


@settings
class TenantSettings:
    """How service is shared; the operator's choice, not the tuner's."""

    by: Literal["extra_args", "lora", "priority"] = "extra_args"
    """What names the tenant: `extra_args` (`{"ewsjf": {"tenant": "a"}}` of the sampling
    parameters, or flat as `ewsjf_tenant`), `lora` (the adapter's name) or `priority`. Requests
    without one are a tenant together.
    """
    weights: Mapping[str, Weight] = field(default_factory=dict, hash=False)
    """Share of service by name; 1 for all others."""
    listed_only: bool = False
    """Names without a weight share one account."""
    max_tenants: Annotated[int, Range(1, 1024)] = 64
    """Unlisted names with accounts of their own."""
    prompt_weight: Annotated[float, Range(0.0, 1e6)] = 1.0
    """w_p, cost of a computed prompt token."""
    output_weight: Annotated[float, Range(0.0, 1e6)] = 2.0
    """w_q, cost of a generated token; not both are 0."""

    def __post_init__(self) -> None:
        for name in self.weights:
            if not is_name(name):
                raise ConfigError(
                    f"weights: {name!r}: expected a printable name of at most "
                    f"{MAX_NAME_CHARACTERS} characters"
                )
        if not self.prompt_weight and not self.output_weight:
            raise ConfigError("prompt_weight, output_weight: both are 0, nothing is counted")


class _Account:
    __slots__ = ("counter", "here", "served", "waiting", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.counter = 0.0  # weighted service, lifted on return
        self.served = 0.0  # the same without lifts
        self.waiting = 0  # requests in the order
        self.here = 0  # requests that have not left the scheduler

    def charge(self, service: float) -> None:
        self.counter += service / self.weight
        self.served += service / self.weight


class TenantAccounts:
    """The counters; they outlive policies and their orders."""

    def __init__(self, settings: TenantSettings) -> None:
        self.settings = settings
        self._accounts = {name: _Account(w) for name, w in settings.weights.items()}
        self._by_request: dict[str, str] = {}  # request id -> account, until it has left
        self._last_counter = 0.0  # of the tenant that was the last to have nothing waiting
        self._own = 0  # accounts of unlisted names

    def __contains__(self, name: object) -> bool:
        return name in self._accounts

    def __len__(self) -> int:
        return len(self._accounts)

    # -- the life of a request -------------------------------------------------------------------

    def admit(self, name: str, request_id: str) -> str:
        """Enter a request of the tenant `name`; the name of the account that it counts for."""
        known = self._by_request.get(request_id)
        if known is not None:
            return known
        account = self._account_of(name)
        self._accounts[account].here += 1
        self._by_request[request_id] = account
        return account

    def queued(self, name: str) -> None:
        """A request of the account joined the order."""
        account = self._accounts[name]
        if not account.waiting:
            account.counter = max(account.counter, self._floor())
        account.waiting += 1

    def unqueued(self, name: str) -> None:
        """A request of the account left the order, picked or aborted."""
        account = self._accounts[name]
        account.waiting -= 1
        if not account.waiting:
            self._last_counter = account.counter

    def picked(self, entry: Entry) -> None:
        """Charge the prompt of a request that is served for the first time."""
        weight = self.settings.prompt_weight
        if weight:
            self._accounts[entry.tenant].charge(weight * entry.uncached_tokens)

    def generated(self, request_id: str, tokens: int) -> None:
        """Charge output tokens; a request that is not here is left out."""
        name = self._by_request.get(request_id)
        if name is not None:
            self._accounts[name].charge(self.settings.output_weight * tokens)

    def left(self, request_ids: Iterable[str]) -> None:
        """Requests finished or were aborted; those that are not here are skipped."""
        for request_id in request_ids:
            name = self._by_request.pop(request_id, None)
            if name is not None:
                self._accounts[name].here -= 1

    def sweep(self, known: Collection[str]) -> None:
        """Drop requests that left by a way that was not reported; O(1) amortised."""
        if len(self._by_request) > 2 * len(known) + _SWEEP_SLACK:
            self.left([one for one in self._by_request if one not in known])

    # -- asked -----------------------------------------------------------------------------------

    def counter(self, name: str) -> float:
        """Weighted service of an account, with its lifts."""
        return self._accounts[name].counter

    def served(self, name: str) -> float:
        """Weighted service of an account since it was opened, without lifts."""
        return self._accounts[name].served

    def describe(self) -> list[dict[str, Any]]:
        """The accounts, as plain values."""
        return [
            {
                "tenant": name,
                "weight": account.weight,
                "counter": account.counter,
                "served": account.served,
                "waiting": account.waiting,
                "here": account.here,
            }
            for name, account in self._accounts.items()
        ]

    # -- inside ----------------------------------------------------------------------------------

    def _account_of(self, name: str) -> str:
        if name in self._accounts:
            return name
        if self.settings.listed_only:
            return self._others()
        if self._own >= self.settings.max_tenants and not self._forget_one():
            return self._others()
        self._accounts[name] = _Account(1.0)
        self._own += 1
        return name

    def _others(self) -> str:
        self._accounts.setdefault(OTHERS, _Account(1.0))
        return OTHERS

    def _forget_one(self) -> bool:
        """Close an idle account whose counter would be lifted at its return; O(tenants)."""
        floor = self._floor()
        for name, account in self._accounts.items():
            listed = name in self.settings.weights or name == OTHERS
            if not listed and not account.here and account.counter <= floor:
                del self._accounts[name]
                self._own -= 1
                return True
        return False

    def _floor(self) -> float:
        """What a tenant that joins is lifted to; O(tenants)."""
        waiting = [a.counter for a in self._accounts.values() if a.waiting]
        return min(waiting, default=self._last_counter)


class TenantOrder(Order):
    """The waiting tenant with the smallest counter is next; in it, its own order decides.

    O(tenants that wait) a pick, and one pick of an inner order.

    Args:
        make_order: a new, empty inner order.
        accounts: whose counters decide; entries carry the account's name in `tenant`.
    """

    def __init__(self, make_order: Callable[[], Order], accounts: TenantAccounts) -> None:
        self._make_order = make_order
        self._accounts = accounts
        self._orders: dict[str, Order] = {}
        self._busy: dict[str, Order] = {}  # those with entries
        self._begun: dict[str, int] = {}  # the last step that an inner order was told of
        self._spare: Order | None = make_order()
        self.may_close = self._spare.may_close
        self._entries = 0
        self._passed_over: Entry | None = None  # of a tenant that is owed more, but does not fit
        self._now_s = 0.0
        self._step = 0

    def begin_step(self, now_s: float) -> None:
        """O(1): an inner order is told when it is first asked in the step."""
        self._now_s = now_s
        self._step += 1

    def add(self, entry: Entry) -> None:
        """As the inner order."""
        order = self._order_of(entry.tenant)
        order.add(entry)
        self._busy[entry.tenant] = order
        self._entries += 1

    def observe_arrival(self, entry: Entry) -> None:
        """As the inner order."""
        self._orders[entry.tenant].observe_arrival(entry)

    def may_overtake(self, entry: Entry) -> bool:
        """As the inner order: whom it overtakes among other tenants, the counters settle."""
        return self._orders[entry.tenant].may_overtake(entry)

    def remove(self, entry: Entry, picked: bool) -> None:
        """As the inner order."""
        order = self._begin(entry.tenant)
        if picked and self._passed_over is not None:
            self._passed_over.passed += 1
        self._passed_over = None
        order.remove(entry, picked)
        self._entries -= 1
        if not len(order):
            del self._busy[entry.tenant]

    def best(self) -> Entry | None:
        """The best entry of the tenant that is owed most; of the next if its order is closed."""
        busy, counter = self._busy, self._accounts.counter
        if not self.may_close:
            return self._begin(min(busy, key=counter)).best() if busy else None
        for name in sorted(busy, key=counter):
            entry = self._begin(name).best()
            if entry is not None:
                return entry
        return None

    def best_fitting(self, lets_in: Callable[[Entry], bool]) -> Entry | None:
        """As `best`, of the entries that a gate lets in.

        That a tenant is passed over counts for the entry which would have been its next, so that
        `memory.PASS_LIMIT` bounds it as inside an order.
        """
        self._passed_over = None
        for name in sorted(self._busy, key=self._accounts.counter):
            order = self._begin(name)
            entry = order.best_fitting(lets_in)
            if entry is not None:
                return entry
            if self._passed_over is None:
                self._passed_over = order.best()
        return None

    def _begin(self, name: str) -> Order:
        order = self._orders[name]
        if self._begun[name] != self._step:
            self._begun[name] = self._step
            order.begin_step(self._now_s)
        return order

    def _order_of(self, name: str) -> Order:
        order = self._orders.get(name)
        if order is None:
            for gone in [n for n in self._orders if n not in self._accounts]:
                del self._orders[gone], self._begun[gone]
            order, self._spare = self._spare or self._make_order(), None
            self._orders[name] = order
            order.begin_step(self._now_s)
            self._begun[name] = self._step
        return order

    def __len__(self) -> int:
        return self._entries

    def __iter__(self) -> Iterator[Entry]:
        for order in self._busy.values():
            yield from order

    def describe(self) -> dict[str, Any]:
        """Queues of all tenants added up by key, as `ScoredOrder` describes them."""
        told = [order.describe() for order in self._orders.values()]
        merged: dict[int, dict[str, Any]] = {}
        for one in told:
            for row in one["queues"]:
                key = row.get("key", 0)
                merged[key] = _added(merged[key], row) if key in merged else row
        return {
            "queues": [merged[key] for key in sorted(merged)] or [{"depth": 0}],
            "score_failures": sum(one["score_failures"] for one in told),
        }


def _added(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Two queues as one: sums of counts, the longer wait, the rest of the deeper one."""
    deeper = dict(a if a["depth"] >= b["depth"] else b)
    deeper["depth"] = a["depth"] + b["depth"]
    if "picks" in a:
        deeper["picks"] = a["picks"] + b["picks"]
        deeper["head_wait_s"] = max(a["head_wait_s"], b["head_wait_s"])
    return deeper


def is_name(name: object) -> bool:
    """Whether this may name a tenant: short printable text, "" for none."""
    return isinstance(name, str) and len(name) <= MAX_NAME_CHARACTERS and name.isprintable()
