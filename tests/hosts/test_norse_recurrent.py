"""Accelerated recurrent layers of Norse against Norse: spikes, states, gradients of everything."""

from __future__ import annotations

import copy
from typing import Any

import norse.torch as nt
import pytest
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel.hosts import norse as host

B, IN, N, T = 3, 6, 20, 15
BEHAVIOUR = nt.functional.izhikevich.tonic_spiking


def make(name: str, **kwargs: Any) -> Any:
    torch.manual_seed(3)
    if name.startswith("Izhikevich"):
        return getattr(nt, name)(IN, N, BEHAVIOUR, **kwargs)
    return getattr(nt, name)(IN, N, **kwargs)


def leaves(state: Any) -> list[Tensor]:
    return [t for v in state for t in (leaves(v) if isinstance(v, tuple) else [v])]


def given(layer: Any, like: Any) -> tuple[Any, list[Tensor]]:
    generator = torch.Generator().manual_seed(5)
    made: list[Tensor] = []

    def build(state: Any) -> Any:
        values = []
        for name in state._fields:
            field = getattr(state, name)
            if isinstance(field, tuple):
                values.append(build(field))
                continue
            value = torch.randn(B, N, generator=generator) * 0.3 + (-60.0 if type(state).__name__[:2] == "Iz" else 0.3)
            value = (value > 0.3).float() if name == "z" else value
            made.append(value.requires_grad_())
            values.append(made[-1])
        return type(state)(*values)

    return build(like), made


def play(layer: Any, carried: bool, steps: int) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(7)
    x = (torch.rand(steps, B, IN, generator=generator) * 3).requires_grad_()
    if type(layer).__name__.startswith("Izhikevich"):
        x = (x.detach() * 60).requires_grad_()
    leaf, state = [x, *layer.parameters()], None
    leaf += [v for v in layer.p if isinstance(v, nn.Parameter)]
    cell = not hasattr(layer, "record_states")
    if carried:
        state, states = given(layer, layer.state_fallback(x[0] if cell else x))
        leaf += states
    if cell:
        outs = []
        for x_t in x.unbind(0):
            z, state = layer(x_t, state)
            outs.append(z)
        out = torch.stack(outs)
    else:
        out, state = layer(x, state)
    every = [out, *leaves(state)]
    loss = sum((t * torch.randn(t.shape, generator=generator)).sum() for t in every)
    grads = torch.autograd.grad(loss, leaf, allow_unused=True)
    found = [torch.zeros_like(p) if g is None else g for p, g in zip(leaf, grads, strict=True)]
    return {"values": every, "grads": found}


def assert_same(a: Any, b: Any, carried: bool, steps: int = T) -> None:
    want, got = play(a, carried, steps), play(b, carried, steps)
    assert host.last_fallback(b) is None
    assert steps == 1 or want["values"][0].sum() > 0
    assert torch.equal(got["values"][0], want["values"][0])
    for kind in ("values", "grads"):
        for mine, theirs in zip(got[kind], want[kind], strict=True):
            assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
            assert (mine - theirs).abs().max() <= 2e-5 * max(theirs.abs().max().item(), 1.0)


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("suffix", ["Recurrent", "RecurrentCell"])
@pytest.mark.parametrize("family", ["LIF", "LIFEx", "LIFAdEx", "LSNN", "Izhikevich", "LIFRefrac", "LIFAdExRefrac"])
def test_recurrent_layers_equal_norse(family: str, suffix: str, carried: bool) -> None:
    a = make(family + suffix)
    b = plugin_accel.convert(make(family + suffix), strict=True)
    assert_same(a, b, carried)


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("method", ["super", "tanh"])
def test_options_of_recurrent_layers(record: bool, method: str) -> None:
    def build(name: str = "LIFRecurrent", **options: Any) -> Any:
        p = nt.LIFParameters(
            tau_mem_inv=nn.Parameter(torch.full((N,), 90.0)),
            v_th=nn.Parameter(torch.tensor(0.7)),
            method=method,
            alpha=torch.tensor(1.5),
        )
        return make(name, p=p, autapses=True, dt=0.002, **options)

    for given in ({"record_states": record}, {"name": "LIFRecurrentCell"}):
        assert_same(build(**given), plugin_accel.convert(build(**given), strict=True), carried=True)


def test_learned_parameters_of_a_cell_that_hears() -> None:
    def build() -> Any:
        torch.manual_seed(3)
        p = BEHAVIOUR.p._replace(tau_inv=nn.Parameter(torch.tensor(250.0)), bias=nn.Parameter(torch.full((N,), 140.0)))
        return nt.IzhikevichRecurrentCell(IN, N, BEHAVIOUR._replace(p=p))

    assert_same(build(), plugin_accel.convert(build(), strict=True), carried=True)


def test_one_step_and_no_gradients() -> None:
    a = make("LIFRecurrent")
    b = plugin_accel.convert(copy.deepcopy(a), strict=True)
    assert_same(a, b, False, steps=1)
    with torch.no_grad():
        x = torch.rand(T, B, IN) * 3
        assert torch.equal(a(x)[0], b(x)[0])


def test_no_flips_over_a_hundred_steps() -> None:
    torch.manual_seed(0)
    a = nt.LIFRecurrent(64, 128)
    b = plugin_accel.convert(copy.deepcopy(a), strict=True)
    x = (torch.rand(100, 8, 64) < 0.2).float()
    with torch.no_grad():
        assert int((a(x)[0] != b(x)[0]).sum()) == 0
    assert host.last_fallback(b) is None


def test_gradient_of_autapses_stays_zero() -> None:
    layer = plugin_accel.convert(make("LIFRecurrent"), strict=True)
    layer(torch.rand(T, B, IN) * 3)[0].sum().backward()
    assert layer.recurrent_weights.grad.diag().abs().max() == 0
    assert layer.recurrent_weights.grad.abs().max() > 0


@pytest.mark.parametrize(
    "name", ["LIFRecurrent", "LSNNRecurrent", "LSNNRecurrentCell", "LIFRefracRecurrent", "LIFAdExRefracRecurrent"]
)
def test_reference_backend(name: str) -> None:
    with plugin_accel.use_backend("reference"):
        assert_same(make(name), plugin_accel.convert(make(name), strict=True), carried=True)


@pytest.mark.parametrize("name", ["LIFRecurrent", "LSNNRecurrent"])
def test_double(name: str) -> None:
    a = make(name).double()
    b = plugin_accel.convert(copy.deepcopy(a), strict=True)
    x = (torch.rand(T, B, IN) * 3).double()
    xa, xb = x.clone().requires_grad_(), x.clone().requires_grad_()
    want, got = a(xa), b(xb)
    assert host.last_fallback(b) is None
    assert got[0].dtype is torch.float64
    torch.testing.assert_close(got[1].v, want[1].v, rtol=1e-12, atol=1e-12)
    want[1].v.sum().backward()
    got[1].v.sum().backward()
    torch.testing.assert_close(xb.grad, xa.grad, rtol=1e-10, atol=1e-12)


def test_sixteen_bits_are_left_to_norse() -> None:
    layer = plugin_accel.convert(make("LSNNRecurrent").bfloat16(), strict=True)
    layer(torch.rand(3, B, IN).bfloat16())
    assert "bfloat16" in str(host.last_fallback(layer))
