"""Arrays of a state as compiled code sees them.

Compiled functions hand each other one record of addresses (`s`): passing some thirty arrays would
cost more than a step's scheduling.  `requests_of(s)` is the array, `clock_of(s)` the one record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, types  # type: ignore[attr-defined]
from numba.extending import intrinsic

from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.engine.compiled.kernel.state import (
    ARRAYS,
    BLOCK,
    CLOCK,
    LIMITS,
    MODEL,
    POLICY,
    QUEUE,
    REQUEST,
    SLOT,
    STEP,
    WORK,
    State,
)

View = Any  # a record of `TABLE`
_KINDS: dict[str, Any] = {}  # of each array, as compiled code takes it to be

TABLE = np.dtype(
    [(f"{name}{part}", np.int64) for name in ARRAYS for part in ("", "_rows", "_columns")]
)


_PLACES = {name: 3 * place for place, name in enumerate(ARRAYS)}


def _pointer_to(typing_context: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.intp), codegen


_pointer: Any = intrinsic(_pointer_to)  # an address as a pointer


def _array(name: str, kind: Any) -> Callable[[View], Any]:
    rows = f"{name}_rows"
    _KINDS[name] = np.dtype(kind)

    @inner
    def array_of(s: View) -> Any:
        return carray(_pointer(s[name]), (s[rows],), kind)

    return array_of


def _table(name: str, kind: Any) -> Callable[[View], Any]:
    rows, columns = f"{name}_rows", f"{name}_columns"
    _KINDS[name] = np.dtype(kind)

    @inner
    def table_of(s: View) -> Any:
        return carray(_pointer(s[name]), (s[rows], s[columns]), kind)

    return table_of


def _record(name: str, kind: Any) -> Callable[[View], Any]:
    _KINDS[name] = np.dtype(kind)

    @inner
    def record_of(s: View) -> Any:
        return carray(_pointer(s[name]), (1,), kind)[0]

    return record_of


limits_of = _record("limits", LIMITS)
policy_of = _record("policy", POLICY)
clock_of = _record("clock", CLOCK)
work_of = _record("work", WORK)
model_of = _record("model", MODEL)
requests_of = _array("requests", REQUEST)
steps_of = _array("steps", STEP)
slots_of = _table("slots", SLOT)
queues_of = _array("queues", QUEUE)
blocks_of = _array("blocks", BLOCK)
heaps_of = _table("heaps", np.int64)
keys_of = _table("keys", np.float64)
running_of = _array("running", np.int64)
skipped_of = _array("skipped", np.int64)
waiting_tokens_of = _array("waiting_tokens", np.int64)
sample_of = _table("sample", np.float64)
batch_of = _table("batch", np.float64)
fit_of = _table("fit", np.float64)
gram_of = _table("gram", np.float64)
noise_of = _array("noise", np.float64)
waits_s_of = _array("waits_s", np.float64)
cuts_of = _array("cuts", np.int64)
masses_of = _array("masses", np.float64)
reference_of = _table("reference", np.float64)
held_of = _table("held", np.int32)
free_rows_of = _array("free_rows", np.int64)
prefixes_of = _array("prefixes", np.int64)
cached_of = _table("cached", np.int64)
output_counts_of = _table("output_counts", np.int64)
output_bin_of = _array("output_bin", np.int64)
bin_tokens_of = _array("bin_tokens", np.int64)


def table_of(state: State) -> Any:
    """Where the arrays of a state are, for compiled code; the caller keeps the state alive."""
    table = np.zeros(1, TABLE)
    point_to(table, **state._asdict())
    return table


def point_to(table: Any, **arrays: Any) -> None:
    """Let a table say where these arrays of the state are from now on."""
    places = table.view(np.int64)
    for name, array in arrays.items():
        kind = _KINDS[name]
        same = array.dtype is kind or array.dtype == kind  # to compare records takes long
        if not same or not array.flags.c_contiguous:
            raise TypeError(f"{name}: an array of {array.dtype}, expected {kind}")
        columns = array.shape[1] if array.ndim > 1 else 1
        place = _PLACES[name]
        places[place : place + 3] = array.ctypes.data, array.shape[0], columns
