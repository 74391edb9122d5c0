"""Accelerated snnTorch layers that take whole sequences or hold an LSTM, against snnTorch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor

import plugin_accel
from plugin_accel.hosts import snntorch as host

N = 6
BETAS = [0.9, torch.linspace(0.2, 0.95, N)]
PARALLEL: dict[str, Callable[[], Any]] = {
    "beta": lambda: snn.LeakyParallel(4, N, beta=0.7, threshold=0.3),
    "random": lambda: snn.LeakyParallel(4, N, threshold=torch.rand(N) * 0.5),
    "learned": lambda: snn.LeakyParallel(
        4, N, beta=0.7, learn_beta=True, threshold=0.2, learn_threshold=True, graded_spikes_factor=2.0,
        learn_graded_spikes_factor=True, spike_grad=surrogate.fast_sigmoid(5),
    ),
    "no bias": lambda: snn.LeakyParallel(4, N, beta=0.5, bias=False, threshold=0.2),
    "disabled": lambda: snn.LeakyParallel(4, N, beta=0.5, threshold=0.2, surrogate_disable=True),
}  # fmt: skip
STATE: dict[str, Callable[[], Any]] = {
    "beta": lambda: snn.StateLeaky(beta=0.9, channels=N),
    "neurons": lambda: snn.StateLeaky(beta=BETAS[1], channels=N, learn_beta=True, learn_threshold=True),
    "graded": lambda: snn.StateLeaky(beta=0.8, channels=N, graded_spikes_factor=3.0, learn_graded_spikes_factor=True),
    "silent": lambda: snn.StateLeaky(beta=0.8, channels=N, output=False, learn_beta=True),
    "linear": lambda: snn.LinearLeaky(beta=BETAS[1], in_features=4, out_features=N, learn_beta=True),
    "truncation": lambda: snn.StateLeaky(beta=0.8, channels=N, kernel_truncation_steps=100),
}


def both(make: Callable[[], Any]) -> tuple[Any, Any]:
    torch.manual_seed(0)
    plain = make()
    torch.manual_seed(0)
    return plain, plugin_accel.convert(make(), strict=True)


def outcome(layer: Any, x: Tensor, states: tuple[Any, ...] = ()) -> tuple[list[Tensor], list[Tensor]]:
    x = x.clone().requires_grad_()
    made = layer(x, *states)
    outputs = list(made) if isinstance(made, tuple) else [made]
    generator = torch.Generator().manual_seed(1)
    loss = sum((o * torch.randn(o.shape, generator=generator)).sum() for o in outputs)
    leaves = [x, *(p for p in layer.parameters() if p.requires_grad)]
    if not loss.requires_grad:
        return outputs, []
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return outputs, [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)]


def assert_close(got: tuple[list[Tensor], list[Tensor]], want: tuple[list[Tensor], list[Tensor]]) -> None:
    for a, b in zip([*got[0], *got[1]], [*want[0], *want[1]], strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and a.requires_grad == b.requires_grad
        tolerance = 1e-5 if a.dim() > 1 else 1e-4  # sums over time and samples show rounding of their own
        assert (a - b).abs().max() <= tolerance * b.abs().max() + 1e-6


@pytest.mark.parametrize("name", PARALLEL)
def test_leaky_parallel(name: str) -> None:
    plain, fast = both(PARALLEL[name])
    x = torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(0))
    want = outcome(plain, x)
    assert 0.05 < (want[0][0] > 0).float().mean() < 0.95
    assert_close(outcome(fast, x), want)
    assert host.last_fallback(fast) is None


@pytest.mark.parametrize("name", STATE)
def test_state_leaky(name: str) -> None:
    plain, fast = both(STATE[name])
    x = torch.randn(20, 3, 4 if name == "linear" else N, generator=torch.Generator().manual_seed(0))
    want = outcome(plain, x)
    assert_close(outcome(fast, x), want)
    assert host.last_fallback(fast) is None
    for attribute in ("spk", "mem"):
        assert hasattr(fast, attribute) == hasattr(plain, attribute)


@pytest.mark.parametrize(
    ("make", "shape", "why"),
    [
        (lambda: snn.LeakyParallel(4, N, beta=0.5, weight_hh_enable=True), (5, 2, 4), "not diagonal"),
        (lambda: snn.LeakyParallel(4, N, beta=0.5), (5, 4), "shape"),
        (lambda: snn.StateLeaky(beta=0.8, channels=N, kernel_truncation_steps=3), (5, 2, N), "truncated"),
        (lambda: snn.StateLeaky(beta=1.5, channels=N), (5, 2, N), "not positive"),
    ],
)
def test_what_has_no_kernel_is_left_to_the_host(make: Any, shape: tuple[int, ...], why: str) -> None:
    plain, fast = both(make)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for a, b in zip(outcome(fast, x)[0], outcome(plain, x)[0], strict=True):
        assert torch.equal(a, b)
    assert why in (host.last_fallback(fast) or "")


LSTM: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "SLSTM": (lambda **k: snn.SLSTM(5, 5, threshold=0.05, **k), (3, 5)),
    "SConv2dLSTM": (lambda **k: snn.SConv2dLSTM(2, 3, 3, max_pool=2, threshold=0.02, **k), (3, 2, 4, 4)),
}


@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
@pytest.mark.parametrize("name", LSTM)
def test_lstm(name: str, reset: str) -> None:
    make, shape = LSTM[name]
    torch.manual_seed(0)
    plain = make(reset_mechanism=reset)
    fast = make(reset_mechanism=reset)
    fast.load_state_dict(plain.state_dict())
    plugin_accel.convert(fast)
    cell = "lstm_cell" if name == "SLSTM" else "conv"
    calls = []
    getattr(fast, cell).register_forward_hook(lambda *_: calls.append(1))
    seen = []
    for layer in (plain, fast):
        x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        states: tuple[Any, ...] = ()
        out = []
        for x_t in x.unbind(0):
            spk, *states = layer(x_t, *states)
            out += [spk, *states]
        loss = sum((o * (i + 1)).sum() for i, o in enumerate(out))
        seen.append((out, list(torch.autograd.grad(loss, [x, *layer.parameters()]))))
    assert len(calls) == 4
    assert any(o.any() for o in seen[0][0][::3])
    assert_close(seen[1], seen[0])
    assert (len(plugin_accel.report(fast).accelerated) == 1) == (reset == "zero")
