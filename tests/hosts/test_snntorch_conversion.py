"""Conversion of snnTorch networks: what changes, what is offered, and what is left to the host with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import snntorch as snn
import torch
from snntorch import surrogate, utils
from snntorch.functional import quant
from torch import Tensor, nn

import plugin_accel
from plugin_accel.hosts import snntorch as host
from plugin_accel.hosts.snntorch_probe import differs

L = snn.Leaky


def test_conversion_changes_the_class_and_nothing_else() -> None:
    net = nn.Sequential(nn.Linear(4, 5), L(0.9, learn_beta=True), snn.RLeaky(0.8, linear_features=5))
    before = net.state_dict()
    registered, parameters = list(snn.SpikingNeuron.instances), list(net.parameters())
    plugin_accel.convert(net)
    assert type(net[1]) is host.Leaky and isinstance(net[1], L) and repr(net[1]) == "Leaky()"
    assert net.state_dict().keys() == before.keys()
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert all(a is b for a, b in zip(snn.SpikingNeuron.instances, registered, strict=True))
    assert [row.status for row in plugin_accel.report(net).rows] == ["accelerated"] * 2
    assert utils._final_layer_check(net) == 2
    plugin_accel.restore(net)
    assert type(net[1]) is L and type(net[2]) is snn.RLeaky


def custom(z: Tensor, grad: Tensor, spikes: Tensor) -> Tensor:
    return grad * torch.clamp(1 - z.abs(), min=0)


FALLBACKS: dict[str, tuple[Callable[[], Any], str]] = {
    "forward": (lambda: L(0.9, spike_grad=torch.sigmoid), "does not give 1"),
    "quantised": (lambda: L(0.9, state_quant=quant.state_quant(num_bits=4)), "state_quant"),
    "no effect": (lambda: snn.RSynaptic(0.9, 0.8, all_to_all=False, reset_delay=False), "no effect"),
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_what_has_no_kernel_runs_the_hosts_own_forward(name: str) -> None:
    make, why = FALLBACKS[name]
    plain, fast = make(), plugin_accel.convert(make())
    (row,) = plugin_accel.report(fast).rows
    assert row.status == "host" and why in row.reasons[0]
    seen = []
    for layer in (plain, fast):
        torch.manual_seed(0)
        x = torch.rand(5, 2, 3, requires_grad=True)
        states: Any = tuple(torch.zeros(2, 3) for _ in range(3)) if name == "no effect" else ()
        out = []
        for x_t in x.unbind(0):
            made = layer(x_t, *states)
            states = made if name == "no effect" else made[1:]
            out += made
        out_sum = torch.stack(list(out)).sum()
        seen.append((torch.stack(list(out)), *torch.autograd.grad(out_sum, x)))
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    with pytest.raises(plugin_accel.errors.ConversionError):
        plugin_accel.convert(make(), strict=True)


def test_classes_are_offered_after_they_were_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    before, state = len(snn.SpikingNeuron.instances), torch.random.get_rng_state()
    assert all(differs(cls, ours) is None for cls, ours in host._CLASSES.items())
    own = L.forward
    monkeypatch.setattr(L, "forward", lambda layer, x, mem=None: [t * 2 for t in own(layer, x, mem)])
    assert "otherwise" in (differs(L, host.Leaky) or "")
    monkeypatch.setattr(L, "__init__", lambda layer: None)
    assert "cannot be used" in (differs(L, host.Leaky) or "")
    assert len(snn.SpikingNeuron.instances) == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_layers_without_a_kernel_say_why() -> None:
    rows = plugin_accel.report(nn.Sequential(snn.AssociativeLeaky(2, 2, 2, 4))).rows
    assert [row.status for row in rows] == ["host"] and "matrix products" in rows[0].reasons[0]


def test_changed_options_are_noticed() -> None:
    layer = plugin_accel.convert(L(0.5))
    x = torch.full((2, 3), 0.8)
    layer(x)
    layer.spike_grad = torch.sigmoid
    assert torch.equal(layer(x, x)[0], L(0.5, spike_grad=torch.sigmoid)(x, x)[0])
    layer.spike_grad = surrogate.atan()
    layer.threshold = torch.tensor([0.5, 1.0, 2.0])
    assert layer(x, torch.zeros(2, 3))[0][0].tolist() == [1, 0, 0]
    layer.beta.data = torch.tensor([0.0, 0.5, 1.0])
    assert layer(torch.zeros(2, 3), torch.ones(2, 3) * 0.4)[1][0].tolist() == pytest.approx([0, 0.2, 0.4])
    layer.double()
    assert layer(x.double())[1].dtype is torch.float64


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # nirtorch's own
def test_nir_export_after_restore() -> None:
    """snnTorch 1.0.0 needs nir >= 1.0.6, sinabs 3.1.3 nir <= 1.0.4: beside sinabs snnTorch's own export fails."""
    pytest.importorskip("nirtorch")
    export = pytest.importorskip("snntorch.export_nir").export_to_nir
    x = torch.rand(3, 4)

    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), L(torch.full((5,), 0.9), init_hidden=True))

    try:
        want = export(build(), x)
    except Exception as error:
        pytest.skip(f"snnTorch's own export fails here: {type(error).__name__}: {error}")
    net = plugin_accel.convert(build())
    net(x)
    got = export(plugin_accel.restore(net), x)
    assert got.nodes.keys() == want.nodes.keys() and got.edges == want.edges
