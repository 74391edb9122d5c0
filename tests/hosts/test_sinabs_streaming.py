"""Short calls without gradients, as in streaming: sinabs's numbers by the quick way, whatever changes between calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sinabs.activation as sa
import sinabs.layers as sl
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel.hosts import sinabs_quick

Change = Callable[[Any], object]


def _set(name: str, value: Any) -> Change:
    return lambda layer: setattr(layer, name, value)


def _fill(name: str, value: float) -> Change:
    return lambda layer: getattr(layer, name).data.fill_(value)


CHANGES: dict[str, Change] = {
    "nothing": lambda layer: None,
    "tau": _fill("tau_mem", 3.0),
    "another tau": _set("tau_mem", nn.Parameter(torch.tensor(4.0))),
    "threshold": _fill("spike_threshold", 0.3),
    "threshold per neuron": _set("spike_threshold", nn.Parameter(torch.linspace(0.2, 1.0, 7))),
    "threshold with more dimensions": _set("spike_threshold", nn.Parameter(torch.full((1, 1, 1, 1), 0.4))),
    "spike function": _set("spike_fn", sa.SingleSpike),
    "bounded spikes": _set("spike_fn", sa.MaxSpike(1)),
    "reset": _set("reset_fn", sa.MembraneReset()),
    "reset by a value": _set("reset_fn", sa.MembraneSubtract(0.5)),
    "norm": _set("norm_input", False),
    "bound": _set("min_v_mem", nn.Parameter(torch.tensor(-0.1), requires_grad=False)),
    "recordings": _set("record_states", True),
    "states": lambda layer: layer.reset_states(),
    "random states": lambda layer: layer.v_mem.copy_(torch.linspace(0, 1, layer.v_mem.numel()).view_as(layer.v_mem)),
    "double": lambda layer: layer.double(),
}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "lif": lambda: sl.LIF(tau_mem=20.0, spike_threshold=torch.tensor(0.5)),
    "lif with synapse": lambda: sl.LIF(tau_mem=20.0, tau_syn=torch.tensor(5.0), spike_threshold=torch.tensor(0.5)),
    "iaf": lambda: sl.IAF(spike_threshold=torch.tensor(0.5)),
    "expleak": lambda: sl.ExpLeak(tau_mem=20.0),
}


# What a layer has not: of the leak, sinabs's own forward fails with spikes.
ABSENT = {
    "iaf": {"tau", "another tau", "norm"},
    "expleak": {
        *("threshold", "threshold per neuron", "threshold with more dimensions"),
        *("spike function", "bounded spikes", "reset", "reset by a value"),
    },
}


def _observed(layer: Any, x: Tensor) -> dict[str, Tensor]:
    out = layer(x)
    recordings = {f"recording {name}": value for name, value in layer.recordings.items()}
    return {"out": out, "rate": layer.firing_rate, **dict(layer.named_buffers()), **recordings}


@pytest.mark.parametrize(("make", "change"), [(m, c) for m in LAYERS for c in CHANGES if c not in ABSENT.get(m, ())])
def test_streams_equal_sinabs(make: str, change: str) -> None:
    torch.manual_seed(0)
    host, ours = LAYERS[make](), plugin_accel.convert(LAYERS[make](), strict=True)
    with torch.no_grad():
        for call in range(6):
            if call == 3:
                for layer in (host, ours):
                    CHANGES[change](layer)
            dtype = torch.float64 if change == "double" and call >= 3 else torch.float32
            x = torch.rand(2, 1 + call % 2, 7, dtype=dtype)
            expected, got = _observed(host, x), _observed(ours, x)
            assert expected.keys() == got.keys()
            for name, value in expected.items():
                assert got[name].dtype is value.dtype, name
                if name == "rate":
                    torch.testing.assert_close(got[name], value)
                else:
                    assert torch.equal(got[name], value), (call, name)


def test_the_quick_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests above would say nothing of it."""
    taken = []

    def watched(layer: Any, x: Tensor) -> Any:
        result = sinabs_quick.quick_call(layer, x)
        taken.append(result is not None)
        return result

    monkeypatch.setattr("plugin_accel.hosts.sinabs.quick_call", watched)
    layer = plugin_accel.convert(sl.LIF(tau_mem=20.0))
    x = torch.rand(1, 1, 5)
    with torch.no_grad():
        layer(x)  # makes the states
        layer(x)
        layer(x.expand(2, 1, 5))
        layer(x)
        layer(x)
    layer(x)
    layer(x).sum().backward()
    layer.record_states = True
    layer(x)
    assert taken == [False, True, False, False, True, True, True, False]


def test_backend_named_between_calls() -> None:
    layer, x = plugin_accel.convert(sl.LIF(tau_mem=20.0)), torch.rand(1, 1, 5)
    with torch.no_grad():
        layer(x), layer(x)
        before = layer.v_mem.clone()
        expected = layer(x)
        after = layer.v_mem.clone()
        layer.v_mem.copy_(before)
        with plugin_accel.use_backend("reference"):
            assert torch.equal(layer(x), expected)
        assert torch.equal(layer.v_mem, after)
