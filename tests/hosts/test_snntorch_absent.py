"""Where snnTorch's graph leads to no gradient there is none, rather than zeros that a weight decay would act on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel.hosts import snntorch as host

LAYERS: dict[str, tuple[int, Callable[..., Any]]] = {
    "Leaky": (1, lambda **k: snn.Leaky(0.9, learn_beta=True, learn_graded_spikes_factor=True, **k)),
    "undelayed": (1, lambda **k: snn.Leaky(0.9, learn_graded_spikes_factor=True, reset_delay=False, **k)),
    "Lapicque": (1, lambda **k: snn.Lapicque(R=1.0, C=2.0, **k)),
    "Synaptic": (2, lambda **k: snn.Synaptic(0.8, 0.9, learn_alpha=True, learn_beta=True, **k)),
    "Alpha": (3, lambda **k: snn.Alpha(0.9, 0.8, learn_beta=True, **k)),
    "RLeaky": (2, lambda **k: snn.RLeaky(0.9, linear_features=3, learn_beta=True, **k)),
    "one to one": (2, lambda **k: snn.RLeaky(0.9, all_to_all=False, V=0.5, learn_beta=True, **k)),
    "RSynaptic": (3, lambda **k: snn.RSynaptic(0.8, 0.9, linear_features=3, learn_beta=True, **k)),
}


def absent(name: str, wanted: int, steps: int, options: dict[str, Any], use: str) -> list[bool]:
    """Which leaves got no gradient from the result at `wanted` of all steps."""
    count, make = LAYERS[name]
    torch.manual_seed(1)
    layer = make(learn_threshold=True, **options)
    if use != "host":
        plugin_accel.convert(layer)
    x = (torch.rand(steps, 4, 3) * 1.5).requires_grad_()
    first = [torch.rand(4, 3).requires_grad_() for _ in range(count)]
    results: list[Tensor]
    if use == "sequence":
        results = [r for r in host.sequence(layer, x, first, record=(True,) * count).outputs if r is not None]
    else:
        states, each = list(first), []
        for x_t in x.unbind(0):
            each.append(layer(x_t, *states))
            states = list(each[-1][-count:])
        results = [torch.stack(r) for r in zip(*each, strict=True)]
    if results[wanted].requires_grad:
        results[wanted].sum().backward()
    if use != "host":
        assert host.last_fallback(layer) is None
    return [leaf.grad is None for leaf in (x, *first, *layer.parameters())]


@pytest.mark.parametrize("disabled", [False, True])
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_same_gradients_are_absent(name: str, reset: str, disabled: bool) -> None:
    options = {"reset_mechanism": reset, "surrogate_disable": disabled}
    for wanted in range(LAYERS[name][0] + (name[0] != "R" and name != "one to one")):
        for steps in (1, 3):
            expected = absent(name, wanted, steps, options, "host")
            for use in ("step", "sequence"):
                assert absent(name, wanted, steps, options, use) == expected, (wanted, steps, use)


def test_alphas_threshold_does_not_decay_for_a_loss_on_the_membrane() -> None:
    """One step reaches the membrane by the currents before it, which no threshold has touched."""
    for convert in (False, True):
        layer = snn.Alpha(0.9, 0.8, learn_threshold=True, reset_mechanism="subtract")
        if convert:
            plugin_accel.convert(layer)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.5)
        layer(torch.rand(2, 3, requires_grad=True))[3].sum().backward()
        optimizer.step()
        assert layer.threshold.item() == 1.0


def test_what_lies_before_a_fused_layer_gets_none_either() -> None:
    """The spikes of the second layer, without a surrogate, depend on its factor alone."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 5)
            self.first = snn.Leaky(0.9, init_hidden=True)
            self.second = snn.Leaky(
                0.8, init_hidden=True, surrogate_disable=True, learn_graded_spikes_factor=True, graded_spikes_factor=0.9
            )

        def forward(self, x: Tensor) -> Tensor:
            self.first.reset_mem(), self.second.reset_mem()
            return torch.stack([self.second(self.b(self.first(self.a(x_t)))) for x_t in x])

    torch.manual_seed(0)
    plain, x = Net(), torch.randn(3, 2, 4)
    fused = plugin_accel.convert(Net(), fuse_time=True)
    fused.load_state_dict(plain.state_dict())
    for _ in range(4):
        found = []
        for net in (plain, fused):
            net.zero_grad()
            net(x).sum().backward()
            found.append({name for name, p in net.named_parameters() if p.grad is None})
        assert found[0] == found[1] == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert plugin_accel.report(fused).loops[0].status == "fused"
