"""`torch.compile` of converted layers and cells of Norse: no graph break, the eager numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import norse.torch as nt
import pytest
import torch

import plugin_accel


@pytest.mark.one_graph
@pytest.mark.slow
@pytest.mark.parametrize("make", [nt.LIFRefracCell, nt.LIFAdExRefracCell])
def test_refractory_cells_compiled(make: Callable[[], Any]) -> None:
    layer = plugin_accel.convert(make(), strict=True)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)) * 80
    with torch.no_grad():
        _, state = layer(x)
    want, after = layer(x, state)
    got, ours = torch.compile(layer, backend="aot_eager", fullgraph=True)(x, state)
    assert torch.equal(got, want) and torch.equal(ours.rho, after.rho) and torch.equal(ours[0].v, after[0].v)


@pytest.mark.one_graph
@pytest.mark.slow
def test_compiled_with_explicit_states() -> None:
    layer = plugin_accel.convert(nt.LIF(), strict=True)
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)) * 8
    state = nt.LIFFeedForwardState(torch.zeros(2, 3), torch.zeros(2, 3))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    xa, xb = x.clone().requires_grad_(), x.clone().requires_grad_()
    want, got = layer(xa, state), compiled(xb, state)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1].v, want[1].v)
    want[0].sum().backward()
    got[0].sum().backward()
    torch.testing.assert_close(xb.grad, xa.grad)
