"""Sequences of Norse's layers by the quick way: Norse's numbers, whatever changes between the calls."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel.hosts import norse_step

norse = pytest.importorskip("norse.torch")

LAYERS: dict[str, Callable[[], Any]] = {
    "LIF": norse.LIF,
    "LI": norse.LI,
    "LIFEx": norse.LIFEx,
    "LIFAdEx": norse.LIFAdEx,
    "LSNN": norse.LSNN,
    "LIF, learned": lambda: norse.LIF(norse.LIFParameters(v_th=nn.Parameter(torch.tensor(0.4)))),
    **({"LIFBox": norse.LIFBox} if hasattr(norse, "LIFBox") else {}),
}


def _edit(layer: Any) -> None:
    for p in layer.p:
        if isinstance(p, Tensor) and not p.requires_grad:
            p.copy_(p * 0.5)


def _replace(layer: Any) -> None:
    layer.p = layer.p._replace(tau_mem_inv=torch.tensor(30.0))


def _started(layer: Any) -> None:
    own = layer.state_fallback
    layer.state_fallback = lambda x: type(own(x))(*[s + 0.25 for s in own(x)])


CHANGES: dict[str, Callable[[Any], None]] = {
    "nothing": lambda layer: None,
    "parameters in place": _edit,
    "parameters replaced": _replace,
    "step": lambda layer: setattr(layer, "dt", 0.002),
    "recorded": lambda layer: setattr(layer, "record_states", True),
    "another start": _started,
}


def _used(layer: Any, change: Callable[[Any], None]) -> list[Tensor]:
    found: list[Tensor] = []
    # Norse's default parameters are shared by all layers
    layer.p = type(layer.p)(*[v.clone() if type(v) is Tensor else v for v in layer.p])
    torch.manual_seed(1)
    for call in range(6):
        if call == 3:
            change(layer)
        x = torch.randn(7, 2 + call % 2, 5).mul_(3)
        with torch.no_grad():
            out, state = layer(x)
            found += [out, *state]
            if not layer.record_states:
                out, state = layer(x, state)
                found += [out, *state]
        x.requires_grad_(call % 3 > 0)
        out, state = layer(x)
        found += [out, *state, torch.tensor(out.requires_grad)]
        weighted = (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() + state[0].sum()
        weighted.backward()
        found += [t.grad for t in (x, *[p for p in layer.p if isinstance(p, nn.Parameter)]) if t.grad is not None]
    return found


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", LAYERS)
def test_calls_equal_norse(name: str, change: str) -> None:
    want = _used(LAYERS[name](), CHANGES[change])
    got = _used(plugin_accel.convert(LAYERS[name](), strict=True), CHANGES[change])
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-5, atol=1e-6)


def test_the_quick_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests above would say nothing of it."""
    taken = []

    def watched(layer: Any, x: Tensor, state: Any) -> Any:
        result = norse_step.quick_sequence(layer, x, state)
        taken.append(result is not None)
        return result

    monkeypatch.setattr("plugin_accel.hosts.norse.quick_sequence", watched)
    layer, x = plugin_accel.convert(norse.LIF()), torch.rand(7, 2, 5)
    _, state = layer(x)
    layer(x, state)
    with torch.no_grad():
        layer(x)
    layer(x.requires_grad_())
    layer(x.double())
    layer(x[:, :1])  # others than before, and not dense
    layer(x)
    layer.record_states = True
    layer(x)
    assert taken == [True, True, True, True, False, False, True, False]


def test_what_norse_starts_from_is_not_written_to() -> None:
    """Its numbers are kept between calls: nothing that comes out shares their memory, and no gradient is left there."""
    layer, x = plugin_accel.convert(norse.LIF()), torch.rand(7, 2, 5)
    for _ in range(3):
        out, state = layer(x)
        assert out.requires_grad  # as Norse's own start asks for it
        out.sum().backward()
        with torch.no_grad():
            state.v.fill_(9.0)
    (plan,) = norse_step._sequences[layer].values()
    assert [bool(s.any()) for s in plan.resting] == [False, False]
    assert all(s.grad is None and not s.requires_grad for s in plan.resting)


def test_a_layer_that_was_called_can_die() -> None:
    layer = plugin_accel.convert(norse.LIF())
    layer(torch.rand(7, 2, 5))[0].sum().backward()
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None
