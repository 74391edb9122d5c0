"""sinabs's recurrent layers as one loop: which connections are one, and the numbers of larger layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import sinabs.layers as sl
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import plugin_accel
from plugin_accel.hosts import sinabs as host

MAKERS: dict[str, Callable[..., Any]] = {
    "LIF": lambda **k: sl.LIFRecurrent(tau_mem=12.0, **k),
    "LIF-synapse": lambda **k: sl.LIFRecurrent(tau_mem=12.0, tau_syn=5.0, norm_input=False, min_v_mem=-0.5, **k),
    "IAF": sl.IAFRecurrent,
    "ALIF": lambda **k: sl.ALIFRecurrent(tau_mem=12.0, tau_adapt=20.0, tau_syn=5.0, norm_input=False, **k),
}


def twins(name: str, connection: nn.Module, **options: Any) -> tuple[Any, Any]:
    """A layer of sinabs and its converted twin."""
    a, b = (MAKERS[name](rec_connect=copy.deepcopy(connection), **options) for _ in range(2))
    return a, plugin_accel.convert(b, strict=True)


def play(layer: Any, x: Tensor, seed: int, calls: int = 2) -> tuple[list[Tensor], list[Tensor]]:
    """What a user can see of some calls in a row, and the gradients of all of it."""
    generator = torch.Generator().manual_seed(seed)
    x = x.detach().clone().requires_grad_()
    seen = [layer(x) for _ in range(calls)]
    seen += [*layer.recordings.values(), *layer._buffers.values(), layer.firing_rate]
    used = [t for t in seen if t.requires_grad]
    loss = sum((t * torch.randn(t.shape, generator=generator)).sum() for t in used)
    leaves = [x, *(p for p in layer.parameters() if p.requires_grad)]
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return seen, [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)]


def assert_same(a: Any, b: Any, x: Tensor) -> None:
    (wanted, theirs), (got, ours) = play(a, x, 1), play(b, x, 1)
    assert host.last_fallback(b) is None
    most = max(1.0, *[t.abs().max().item() for t in wanted])  # a membrane is what many spikes left of it
    for mine, other in zip(got, wanted, strict=True):
        assert mine.shape == other.shape and mine.requires_grad == other.requires_grad
        assert (mine - other).abs().max() <= 1e-5 * most
    for mine, other in zip(ours, theirs, strict=True):
        # sums over samples and steps show the rounding of their own order
        tolerance = 1e-5 if mine.numel() >= x[:, 0].numel() else 1e-4
        assert (mine - other).abs().max() <= tolerance * max(other.abs().max().item(), 1e-2)


@settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, max_examples=40)
@given(
    st.sampled_from(sorted(MAKERS)),
    st.sampled_from([1, 2, 9]),
    st.integers(1, 20),
    st.sampled_from([1, 17, 48, 130]),
    st.sampled_from([-2.0, 0.0, 1.0, 5.0]),
    st.booleans(),
    st.booleans(),
)
def test_shapes_and_densities(
    name: str, batch: int, steps: int, units: int, mean: float, bias: bool, record: bool
) -> None:
    torch.manual_seed(units + steps)
    a, b = twins(name, nn.Linear(units, units, bias=bias), record_states=record)
    assert_same(a, b, torch.randn(batch, steps, units) + mean)


def test_no_flips_over_a_hundred_steps(loops: list[Any]) -> None:
    torch.manual_seed(0)
    a, b = twins("LIF-synapse", nn.Linear(128, 128))
    x = torch.randn(8, 100, 128)
    with torch.no_grad():
        wanted, got = a(x), b(x)
    assert len(loops) == 1 and wanted.mean() > 0.01
    assert int((got != wanted).sum()) == 0


def _reshaped() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.Unflatten(1, (3, 4)))


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_matrix_between_reshapes_is_one_loop(name: str, record: bool, loops: list[Any]) -> None:
    a, b = twins(name, _reshaped(), record_states=record)
    assert_same(a, b, torch.randn(2, 6, 3, 4))
    assert len(loops) == 2
    b.reset_states()  # detaches in place, which views refuse


def _hooked() -> nn.Module:
    module = nn.Linear(4, 4)
    module.register_forward_hook(lambda *_: None)
    return module


ELSE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "a nonlinearity": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()), (4,)),
    "two matrices": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 4)), (4,)),
    "a convolution": (lambda: nn.Conv2d(2, 2, 3, padding=1), (2, 4, 4)),
    "the last of several dimensions": (lambda: nn.Linear(4, 4), (3, 4)),
    "a hook": (_hooked, (4,)),
    "a parametrisation": (lambda: parametrizations.weight_norm(nn.Linear(4, 4)), (4,)),
    "nothing": (nn.Identity, (4,)),
}


@pytest.mark.parametrize("what", ELSE)
def test_other_connections_run_step_by_step(what: str, loops: list[Any]) -> None:
    make, shape = ELSE[what]
    torch.manual_seed(0)
    a, b = (sl.LIFRecurrent(tau_mem=12.0, rec_connect=make()) for _ in range(2))
    b.load_state_dict(a.state_dict())
    assert_same(a, plugin_accel.convert(b, strict=True), torch.randn(2, 5, *shape))
    assert not loops


def test_what_the_loop_does_not_take(loops: list[Any]) -> None:
    a, b = twins("LIF", nn.Linear(6, 6))
    x = torch.randn(2, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(a(x), b(x))
    with plugin_accel.use_backend("reference"):
        b(x)
    a, b = twins("LIF", nn.Linear(6, 6), surrogate_grad_fn=lambda v_mem, spike_threshold: torch.ones_like(v_mem))
    assert_same(a, b, x)
    assert not loops
