"""Tables and networks: what they compute by hand, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.parameters import Parameter, ParameterSpace
from ewsjf_env.policy.rules import MAX_CENTRES, MAX_WIDTH, RULES, Layer, Network, Table
from tests.policy.adaptive_policies import network

SPACE = ParameterSpace((Parameter("x", 0.5), Parameter("n", 3, 1, 6, "integer")))


def test_the_nearest_centre_decides() -> None:
    rule = Table(((-1.0, 0.0), (0.5, 0.5)), ({"x": 0.1, "n": 1}, {"x": 0.9, "n": 6}))
    assert rule.propose(np.array([-0.8, 0.4]), SPACE) == {"x": 0.1, "n": 1}
    assert rule.propose(np.array([0.4, 0.4]), SPACE) == {"x": 0.9, "n": 6}
    assert rule.nearest(np.array([-0.25, 0.25])) == 0  # as far from both: the first


def test_a_network_by_hand() -> None:
    hidden = Layer(((1.0, -1.0), (0.0, 2.0)), (0.0, -1.0), "relu")
    last = Layer(((1.0, 1.0), (-1.0, 0.5)), (0.25, 0.0))
    x = np.array([0.5, 0.75])  # hidden: relu(-0.25) = 0, relu(0.5) = 0.5
    assert Network((hidden, last), "clip").action(x) == pytest.approx([0.75, 0.25])
    action = Network((hidden, last), "tanh").action(x)
    assert action == pytest.approx([math.tanh(0.75), math.tanh(0.25)])
    values = Network((hidden, last), "clip").propose(x, SPACE)
    assert values == {"x": pytest.approx(0.875), "n": 4}  # 1 + floor(0.625 * 6)
    assert Network((hidden, last), "clip").action(np.array([9.0, 0.0]))[0] == 1.0


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("squash", ["tanh", "clip"])
def test_a_network_acts_as_torch_does(activation: str, squash: str) -> None:
    torch = pytest.importorskip("torch")
    rule = network((7, 16, 16, 2), activation, squash)
    modules: list[Any] = []
    for layer in rule.layers:
        linear = torch.nn.Linear(len(layer.weights[0]), len(layer.weights))
        linear.weight.data = torch.tensor(layer.weights)
        linear.bias.data = torch.tensor(layer.bias)
        modules.append(linear)
        kinds = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "none": torch.nn.Identity}
        modules.append(kinds[layer.activation]())
    actor = torch.nn.Sequential(*modules)
    observations = np.random.default_rng(1).uniform(-1, 1, (1000, 7)).astype(np.float32)
    with torch.no_grad():
        expected = actor(torch.from_numpy(observations))
        expected = torch.tanh(expected) if squash == "tanh" else expected.clip(-1.0, 1.0)
    ours = np.array([rule.action(x.astype(np.float64)) for x in observations])
    np.testing.assert_allclose(ours, expected.numpy(), atol=2e-6)


def test_rules_survive_plain_values() -> None:
    rules = (
        Table(((0.1, -0.2),), ({"x": 0.3, "n": 2},)),
        network((2, 3, 2), "relu", "clip"),
    )
    for rule in rules:
        again = RULES[rule.kind].from_dict(rule.to_dict(), SPACE, rule.kind)
        again.check(2, SPACE, rule.kind)
        assert again == rule


GOOD = {"x": 0.5, "n": 2}
ROW = {"weights": [[0.0, 0.0], [0.0, 0.0]], "bias": [0.0, 0.0]}


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("table", {"centres": [], "values": []}, "centres: 0 of them, expected 1 to 64"),
        ("table", {"centres": [[0.0, 0.0]] * 65, "values": [GOOD] * 65}, "centres: 65 of them"),
        ("table", {"centres": [[0.0, 0.0]], "values": []}, "values: 0 for 1 centres"),
        ("table", {"centres": [[0.0]], "values": [GOOD]}, "centres[0]: 1 features, expected 2"),
        ("table", {"centres": [[0.0, 1.5]], "values": [GOOD]}, "1.5 is outside [-1, 1]"),
        ("table", {"centres": [[0.0, math.nan]], "values": [GOOD]}, "nan is not a finite number"),
        ("table", {"centres": [[0.0, "1"]], "values": [GOOD]}, "'1' is not a finite number"),
        ("table", {"centres": [[0.0, True]], "values": [GOOD]}, "True is not a finite number"),
        ("table", {"centres": 3, "values": [GOOD]}, "centres: expected a list, got int"),
        ("table", {"centres": ["ab"], "values": [GOOD]}, "expected a list of numbers, got 'ab'"),
        ("table", {"values": [GOOD]}, "centres: expected a list, got NoneType"),
        (
            "table",
            {"centres": [[0.0, 0.0]], "values": [{"x": 0.5}]},
            "values[0]: no value of the tuned parameter 'n'",
        ),
        ("table", {"centres": [[0.0, 0.0]], "values": [{"x": 2.0, "n": 2}]}, "outside [0, 1]"),
        ("table", {"centres": [[0.0, 0.0]], "values": [{**GOOD, "y": 1}]}, "unknown parameter 'y'"),
        ("table", {"centres": [[0.0, 0.0]], "values": [7]}, "values[0]: expected a mapping, got 7"),
        ("table", {"centre": []}, "unknown key 'centre'; nearest valid name: 'centres'"),
        ("mlp", {"layers": []}, "0 layers, expected 1 to 4"),
        ("mlp", {"layers": [ROW] * 5}, "5 layers, expected 1 to 4"),
        ("mlp", {"layers": [3]}, "layers[0]: expected a mapping, got int"),
        ("mlp", {"layers": [{**ROW, "bias": [0.0]}]}, "bias: 1 numbers for 2 outputs"),
        ("mlp", {"layers": [{**ROW, "weights": [[0.0], [0.0]]}]}, "a row of 1 for 2 inputs"),
        ("mlp", {"layers": [{**ROW, "weights": [[0.0, 0.0], [0.0]]}]}, "a row of 1 for 2 inputs"),
        ("mlp", {"layers": [{**ROW, "weights": []}]}, "0 outputs, expected 1 to 256"),
        ("mlp", {"layers": [{**ROW, "activation": "rely"}]}, "unknown 'rely'; nearest"),
        ("mlp", {"layers": [{**ROW, "activation": ["relu"]}]}, "activation: unknown"),
        ("mlp", {"layers": [{**ROW, "kernel": 1}]}, "unknown key 'kernel'"),
        ("mlp", {"layers": [{**ROW, "bias": [0.0, 1e7]}]}, "10000000.0 is outside"),
        ("mlp", {"layers": [{**ROW, "bias": [0.0, math.inf]}]}, "inf is not a finite number"),
        ("mlp", {"layers": [ROW], "squash": "sigmoid"}, "squash: 'sigmoid' is not one of"),
        (
            "mlp",
            {"layers": [{"weights": [[0.0, 0.0]], "bias": [0.0]}]},
            "the last layer has 1 outputs for 2 parameters",
        ),
        (
            "mlp",
            {"layers": [{"weights": [[0.0, 0.0]] * 257, "bias": [0.0] * 257}, ROW]},
            "257 outputs, expected 1 to 256",
        ),
    ],
)
def test_bad_rules_are_refused_by_field(kind: str, data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RULES[kind].from_dict(data, SPACE, kind).check(2, SPACE, kind)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_largest_rules_are_accepted() -> None:
    centres = Table(((0.0,) * 30,) * MAX_CENTRES, (GOOD,) * MAX_CENTRES)
    centres.check(30, SPACE, "table")
    wide = network((30, MAX_WIDTH, MAX_WIDTH, MAX_WIDTH, 2))
    wide.check(30, SPACE, "mlp")
