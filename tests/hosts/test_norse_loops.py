"""Norse's recurrent layers as one loop: shapes, options, densities, carried states, threads."""

from __future__ import annotations

from typing import Any

import norse.torch as nt
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import plugin_accel
from plugin_accel.hosts import norse as host


def leaves(state: Any) -> list[Tensor]:
    return [t for v in state for t in (leaves(v) if isinstance(v, tuple) else [v])]


@st.composite
def layers(draw: st.DrawFn) -> tuple[str, dict[str, Any], tuple[int, ...], int, float, int]:
    """(family, options, batch, units, mean drive, steps) of a recurrent layer in fp32."""
    family = draw(st.sampled_from(["LIF", "LIFEx", "LIFAdEx", "LSNN", "LIFRefrac"]))
    options: dict[str, Any] = {
        "autapses": draw(st.booleans()),
        "record_states": draw(st.booleans()),
        "dt": draw(st.sampled_from([0.001, 0.002])),
    }
    batch = draw(st.sampled_from([(1,), (2,), (9,), (2, 3)]))
    units = draw(st.sampled_from([1, 7, 48, 65, 130]))
    return family, options, batch, units, draw(st.sampled_from([-2.0, 0.0, 1.0, 20.0])), draw(st.integers(1, 30))


@settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, max_examples=50)
@given(layers(), st.booleans(), st.integers(1, 3))
def test_shapes_options_and_densities(drawn: Any, learned: bool, threads: int) -> None:
    family, options, batch, units, mean, steps = drawn
    a = _build(family, units, options, learned)
    b = plugin_accel.convert(_build(family, units, options, learned), strict=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = []
        for layer in (a, b):
            generator = torch.Generator().manual_seed(steps)
            x = (torch.randn(2, steps, *batch, 5, generator=generator) + mean).requires_grad_()
            out, state = layer(x[0])
            first, every = (None if options["record_states"] else state), [out, *leaves(state)]
            out, state = layer(x[1], first)  # carried, with its graph
            every += [out, *leaves(state)]
            loss = sum((t * torch.randn(t.shape, generator=generator)).sum() for t in every)
            weights = [x, layer.input_weights, layer.recurrent_weights, *_parameters(layer.p)]
            found.append((every, torch.autograd.grad(loss, weights, allow_unused=True)))
    finally:
        torch.set_num_threads(before)
    assert host.last_fallback(b) is None
    (wanted, theirs), (got, ours) = found
    for mine, other in zip(got, wanted, strict=True):
        assert (mine - other).abs().max() <= 1e-5 * max(other.abs().max().item(), 1.0)
    for g, h in zip(ours, theirs, strict=True):
        assert (g is None) == (h is None)
        if g is not None and torch.isfinite(h).all():  # LIFEx's exponential overflows on both sides
            tolerance = 1e-5 if g.numel() > units else 1e-4  # sums over samples and steps
            assert (g - h).abs().max() <= tolerance * max(h.abs().max().item(), 1e-2)


def _parameters(p: Any) -> list[Tensor]:
    return [v for v in p if isinstance(v, nn.Parameter)]


def _build(family: str, units: int, options: dict[str, Any], learned: bool) -> Any:
    torch.manual_seed(units)
    p: dict[str, Any] = {}
    if learned and family == "LIF":
        leaky = {"tau_mem_inv": nn.Parameter(torch.full((units,), 90.0)), "v_th": nn.Parameter(torch.tensor(0.7))}
        p = {"p": nt.LIFParameters(**leaky)}
    return getattr(nt, family + "Recurrent")(5, units, **p, **options)


def test_a_sequence_is_one_loop(loops: list[Any]) -> None:
    layer = plugin_accel.convert(nt.LIFRecurrent(6, 20), strict=True)
    layer(torch.rand(15, 3, 6) * 3)[0].sum().backward()
    assert len(loops) == 1
    with plugin_accel.use_backend("reference"):
        layer(torch.rand(15, 3, 6))
    layer.double()(torch.rand(15, 3, 6).double())
    assert len(loops) == 1
