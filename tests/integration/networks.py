"""Small networks with every kind of sinabs layer, converted or not, and what of them is compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sinabs.activation as sa
import sinabs.layers as sl
import torch
from sinabs.layers.alif import ALIFSqueeze
from torch import Tensor, nn

import plugin_accel
from plugin_accel.hosts.sinabs import last_fallback

Factory = Callable[[], nn.Module]


class Ramp:
    """A surrogate of the user's own: no kernel knows it."""

    def __call__(self, v_mem: Tensor, spike_threshold: Tensor) -> Tensor:
        return torch.clamp(1 - (v_mem - spike_threshold).abs(), min=0)


def _dense(*layers: Factory) -> Factory:
    def make() -> nn.Module:
        parts: list[nn.Module] = []
        for size, layer in zip((6, 7, 7), layers, strict=False):
            parts += [nn.Linear(size, 7), layer()]
        return nn.Sequential(*parts)

    return make


def _convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        sl.IAFSqueeze(batch_size=2, min_v_mem=-1.0),
        nn.Conv2d(3, 4, 3),
        sl.LIFSqueeze(tau_mem=10.0, batch_size=2),
        nn.Flatten(),
        nn.Linear(16, 5),
        sl.ExpLeakSqueeze(tau_mem=7.0, batch_size=2),
        ALIFSqueeze(tau_mem=7.0, tau_adapt=20.0, batch_size=2),
    )


NETWORKS: dict[str, Factory] = {
    "LIF-IAF-ExpLeak": _dense(lambda: sl.LIF(tau_mem=20.0), sl.IAF, lambda: sl.ExpLeak(tau_mem=10.0)),
    "synapse": _dense(
        lambda: sl.LIF(
            tau_mem=torch.linspace(5, 20, 7), tau_syn=5.0, min_v_mem=-0.3, record_states=True, norm_input=False
        ),
        lambda: sl.IAF(tau_syn=4.0, spike_fn=sa.MaxSpike(2), surrogate_grad_fn=sa.Gaussian(0.1, 0.4, 2.0)),
    ),
    "ALIF": _dense(
        lambda: sl.ALIF(tau_mem=20.0, tau_adapt=10.0, record_states=True, norm_input=False),
        lambda: sl.ALIF(tau_mem=20.0, tau_adapt=9.0, tau_syn=4.0, train_alphas=True, min_v_mem=-1.0),
    ),
    "resets": _dense(
        lambda: sl.LIF(tau_mem=5.0, train_alphas=True, reset_fn=sa.MembraneReset(0.1), spike_fn=sa.SingleSpike),
        lambda: sl.LIF(tau_mem=5.0, reset_fn=sa.MembraneSubtract(0.7), surrogate_grad_fn=sa.Heaviside()),
    ),
    "Squeeze": _convolutional,
    "recurrent": _dense(
        lambda: sl.LIFRecurrent(tau_mem=20.0, rec_connect=nn.Linear(7, 7), record_states=True),
        lambda: sl.ALIFRecurrent(tau_mem=9.0, tau_adapt=10.0, rec_connect=nn.Linear(7, 7)),
    ),
}


def drive(model: nn.Module, seed: int = 0, batch: int = 2, time: int = 4) -> Tensor:
    """An input for a network of `NETWORKS` that makes it spike."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch * time, 2, 6, 6) if isinstance(model[0], nn.Conv2d) else (batch, time, 6)  # type: ignore[index]
    return torch.randn(shape, generator=generator) * 6


def layers(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, sl.StatefulLayer)]


def reset(model: nn.Module) -> None:
    for layer in layers(model):
        layer.reset_states()


def states(model: nn.Module) -> list[Tensor]:
    """States and recordings: what a layer leaves behind."""
    return [t for layer in layers(model) for t in (*layer._buffers.values(), *layer.recordings.values())]


def train_step(
    model: nn.Module, call: Callable[[Tensor], Tensor] | None = None, calls: int = 2
) -> dict[str, list[Tensor]]:
    """Calls with carried state, one loss over all that they leave behind: outputs, states and all gradients."""
    reset(model)
    model.zero_grad()
    inputs = [drive(model, seed).requires_grad_() for seed in range(calls)]
    outputs = [(call or model)(x) for x in inputs]
    left = states(model)
    rates = [layer.firing_rate for layer in layers(model)]
    loss = torch.stack([(t * t.detach().cos()).sum() for t in (*outputs, *left, *rates)]).sum()
    loss.backward()
    grads = [p.grad for p in (*inputs, *model.parameters()) if p.grad is not None]
    return {
        "outputs": [o.detach().clone() for o in outputs],
        "states": [s.detach().clone() for s in left],
        "gradients": grads,
    }


def assert_equal(got: dict[str, list[Tensor]], want: dict[str, list[Tensor]], rtol: float = 0.0) -> None:
    """Outputs and states bit-equal, gradients within `rtol` of their largest entry."""
    assert got.keys() == want.keys()
    for kind, expected in want.items():
        assert len(got[kind]) == len(expected)
        for a, b in zip(got[kind], expected, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            if kind == "gradients" and rtol:
                assert torch.equal(a.isfinite(), b.isfinite())
                scale = b.nan_to_num(0, 0, 0).abs().max().item()
                assert (a - b).nan_to_num().abs().max().item() <= rtol * scale + 1e-7, kind
            else:
                assert torch.equal(a, b), kind


def assert_accelerated(model: nn.Module) -> None:
    assert all(last_fallback(layer) is None for layer in layers(model))
    assert all(r.status == "accelerated" for r in plugin_accel.report(model).rows)
