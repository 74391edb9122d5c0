"""snnTorch's recurrent layers as one loop: which connections are one, and the numbers of larger layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import snntorch as snn
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import plugin_accel
from plugin_accel.hosts import snntorch as host
from plugin_accel.hosts import snntorch_step


def make(name: str, units: int, **options: Any) -> Any:
    torch.manual_seed(units)
    own = {"alpha": 0.8} if name == "RSynaptic" else {}
    return getattr(snn, name)(beta=0.9, linear_features=units, **own, **options)


def by_step(layer: Any, x: Tensor, states: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Every output of the user's loop, and the states after it."""
    every = []
    for x_t in x.unbind(0):
        states = layer(x_t, *states)
        every.append(states)
    return [torch.stack(r) for r in zip(*every, strict=True)], list(states)


def at_once(layer: Any, x: Tensor, states: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
    made = host.sequence(layer, x, states, record=(True,) * (len(states) - 1))
    return [t for t in made.outputs if t is not None], list(made.last)


def play(run: Any, layer: Any, x: Tensor, zero: bool) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    x = x.detach().clone().requires_grad_()
    count = 3 if isinstance(layer, snn.RSynaptic) else 2
    first = [torch.randn(x.shape[1:], generator=generator) * 0.3 for _ in range(count)]
    first[0] = (first[0] > 0.2).float()
    states = [(torch.zeros_like(s) if zero else s).requires_grad_() for s in first]
    outputs, last = run(layer, x, tuple(states))
    more, last = run(layer, x, tuple(last))
    seen = [*outputs, *more, *last, layer.spk, layer.mem]
    loss = sum((t * torch.randn(t.shape, generator=generator)).sum() for t in seen)
    leaves = [x, *states, *(p for p in layer.parameters() if p.requires_grad)]
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return seen, [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)]


@settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, max_examples=40)
@given(
    st.sampled_from(["RLeaky", "RSynaptic"]),
    st.sampled_from([(1,), (9,), (2, 3)]),
    st.integers(1, 20),
    st.sampled_from([1, 17, 48, 130]),
    st.sampled_from([-2.0, 0.0, 0.5, 5.0]),
    st.sampled_from(["subtract", "zero", "none"]),
    st.booleans(),
    st.booleans(),
)
def test_shapes_and_densities(
    name: str, batch: tuple[int, ...], steps: int, units: int, mean: float, reset: str, learn: bool, zero: bool
) -> None:
    a = make(name, units, reset_mechanism=reset, learn_beta=learn, learn_threshold=learn)
    b = plugin_accel.convert(copy.deepcopy(a), strict=True)
    x = torch.randn(steps, *batch, units) * 0.5 + mean
    (wanted, theirs), (got, ours) = play(by_step, a, x, zero), play(at_once, b, x, zero)
    for mine, other in zip(got, wanted, strict=True):
        assert mine.shape == other.shape
        assert (mine - other).abs().max() <= 1e-5 * max(other.abs().max().item(), 1.0)
    for mine, other in zip(ours, theirs, strict=True):
        # sums over samples and steps show the rounding of their own order
        tolerance = 1e-5 if mine.numel() >= x[0].numel() else 1e-4
        assert (mine - other).abs().max() <= tolerance * max(other.abs().max().item(), 1e-2)


def test_no_flips_over_a_hundred_steps(loops: list[Any]) -> None:
    a = make("RLeaky", 128)
    b = plugin_accel.convert(copy.deepcopy(a), strict=True)
    x = torch.randn(100, 8, 128) * 0.5
    zeros = (torch.zeros(8, 128), torch.zeros(8, 128))
    with torch.no_grad():
        wanted, got = by_step(a, x, zeros)[0][0], at_once(b, x, zeros)[0][0]
    assert len(loops) == 1 and wanted.mean() > 0.01
    assert int((got != wanted).sum()) == 0


def test_an_input_that_is_the_same_at_every_step(loops: list[Any]) -> None:
    a = make("RLeaky", 20)
    b = plugin_accel.convert(copy.deepcopy(a), strict=True)
    zeros = (torch.zeros(3, 20), torch.zeros(3, 20))
    grads = []
    for run, layer in ((by_step, a), (at_once, b)):
        x = (torch.arange(60.0).view(3, 20) / 60).requires_grad_()
        out = run(layer, x.expand(9, 3, 20), zeros)[0][0]
        grads.append(torch.autograd.grad(out.sum(), x)[0])
    assert len(loops) == 1
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-6)


def _convolution() -> Any:
    return snn.RLeaky(beta=0.9, conv2d_channels=2, kernel_size=3)


def _hooked() -> Any:
    layer = make("RLeaky", 4)
    layer.recurrent.register_forward_hook(lambda *_: None)
    return layer


@pytest.mark.parametrize(
    ("build", "shape"),
    [(_convolution, (2, 2, 4, 4)), (_hooked, (2, 4)), (lambda: make("RLeaky", 4, inhibition=True), (2, 4))],
    ids=["convolution", "hook", "inhibition"],
)
@pytest.mark.filterwarnings("ignore:Inhibition:UserWarning")
def test_other_connections_run_step_by_step(build: Any, shape: tuple[int, ...], loops: list[Any]) -> None:
    torch.manual_seed(0)
    a = build()
    torch.manual_seed(0)
    b = plugin_accel.convert(build(), strict=True)
    zeros = (torch.zeros(shape), torch.zeros(shape))
    x = torch.randn(6, *shape)
    assert torch.equal(by_step(a, x, zeros)[0][0], at_once(b, x, zeros)[0][0])
    assert not loops


def test_run_takes_a_recurrent_net_in_one_loop(loops: list[Any]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 20), snn.RLeaky(beta=0.9, linear_features=20, init_hidden=True))
    x = torch.randn(12, 3, 6) * 2
    plain = copy.deepcopy(net)
    with torch.no_grad():
        wanted = torch.stack([plain(x_t) for x_t in x])
        fast = plugin_accel.convert(net, strict=True)
        for _ in range(3):  # the third call is the fused one
            for module in fast.modules():
                if isinstance(module, snn.RLeaky):
                    module.reset_mem()
            got = plugin_accel.run(fast, x).outputs
    assert loops
    assert torch.equal(got, wanted)


def test_the_first_step_does_not_decide_how_the_others_hear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its spikes are empty yet, so that V is multiplied by torch; from then on one plan serves all steps."""
    made: list[int] = []
    plan = snntorch_step._Plan

    def counted(*arguments: Any) -> Any:
        made.append(1)
        return plan(*arguments)

    monkeypatch.setattr(snntorch_step, "_Plan", counted)
    layer = plugin_accel.convert(snn.RLeaky(0.9, all_to_all=False, V=0.5, init_hidden=True))
    for _ in range(6):
        layer(torch.rand(4, 3, requires_grad=True))
    assert len(made) <= 2
