import numpy as np
import pytest

from agents.rl.actor import ActorNetwork, DenseLayer
from ewsjf_env.config import ConfigError


def layer(outputs: int, inputs: int, activation: str = "identity") -> DenseLayer:
    weight = np.arange(outputs * inputs, dtype=np.float32).reshape(outputs, inputs) - 1.0
    return DenseLayer(weight, np.ones(outputs, dtype=np.float32), activation)  # type: ignore[arg-type]


def test_layers_follow_each_other():
    network = ActorNetwork((layer(2, 2, "relu"), layer(1, 2)), "clip")
    # [[-1, 0], [1, 2]] @ (3, 0.5) + 1 = (-2, 5) -> (0, 5); [-1, 0] @ (0, 5) + 1 = 1
    assert network((3.0, 0.5)).tolist() == [1.0]
    assert network((-3.0, 0.5)).tolist() == [-1.0]  # (4, 0) -> -3, clipped
    assert network((0.0, 0.0)).dtype == np.float32
    assert ActorNetwork(network.layers, "tanh")((-3.0, 0.5)) == pytest.approx([np.tanh(-3.0)])
    hidden = ActorNetwork((layer(1, 1, "tanh"), layer(1, 1)), "clip")
    assert hidden((0.5,)) == pytest.approx([1.0 - np.tanh(0.5)])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="2 outputs meet 3 inputs"):
        ActorNetwork((layer(2, 2), layer(1, 3)), "clip")
    with pytest.raises(ConfigError, match="at least one"):
        ActorNetwork((), "clip")
    with pytest.raises(ConfigError, match="squash: 'relu' is not one of"):
        ActorNetwork((layer(1, 1),), "relu")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="activation: 'gelu'"):
        layer(1, 1, "gelu")
    with pytest.raises(ConfigError, match="a bias of"):
        DenseLayer(np.ones((2, 2), np.float32), np.ones(3, np.float32), "relu")
    with pytest.raises(ConfigError, match=r"view: shape \(3,\), expected \(2,\)"):
        ActorNetwork((layer(1, 2),), "clip")((0.0, 0.0, 0.0))
