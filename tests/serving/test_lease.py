import dataclasses

import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.scheduling.partition.partition import Partition
from ewsjf_env.serving.change import PolicyChange
from ewsjf_env.serving.lease import Lease

GOOD = parse_policy("ewsjf")
TRIAL = GOOD.with_parameters({"k": 3.0}, name="trial")


def test_a_trial_ends_in_what_was_there_for_good() -> None:
    lease = Lease()
    assert lease.expired(GOOD, 1e9) is None
    lease.grant(GOOD, 10.0)
    lease.grant(TRIAL, 20.0)  # a second trial, or a renewal, has the same way back
    assert lease.expired(TRIAL, 19.9) is None
    assert lease.expired(TRIAL, 20.0) == GOOD
    lease.confirm()
    assert lease.expired(TRIAL, 1e9) is None


def test_queues_that_were_learnt_meanwhile_stay() -> None:
    lease = Lease()
    lease.grant(GOOD, 10.0)
    learnt = Partition(cuts=(100,), means=(50.0, 500.0), masses=(0.5, 0.5))
    found = lease.expired(dataclasses.replace(TRIAL, partition=learnt), 11.0)
    assert found is not None
    assert (found.parameters, found.partition) == (GOOD.parameters, learnt)
    hrrn = parse_policy("hrrn")
    lease.confirm()
    lease.grant(hrrn, 10.0)
    assert lease.expired(TRIAL, 11.0) == hrrn


def test_a_change_may_bring_a_lease() -> None:
    change = PolicyChange.from_dict({"parameters": {"k": 2.0}, "lease_s": 30})
    assert change.lease_s == 30
    assert PolicyChange.from_dict({"parameters": {"k": 2.0}}).lease_s is None


@pytest.mark.parametrize("lease_s", [0, -1.0, 1e9, "10", True, [1]])
def test_a_bad_lease_is_refused(lease_s: object) -> None:
    with pytest.raises(ConfigError, match="lease_s"):
        PolicyChange.from_dict({"parameters": {"k": 2.0}, "lease_s": lease_s})


def test_a_whole_policy_is_no_trial() -> None:
    with pytest.raises(ConfigError, match="lease_s"):
        PolicyChange.from_dict({**GOOD.to_dict(), "lease_s": 10.0})
