"""Parameters and options of any value: NaN, infinite, zero, negative, of other shapes and dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sinabs.activation as sa
import torch
from torch import Tensor, nn

from .comparison import INF, LAYERS, NAN, X, compare

VALUES = [NAN, INF, -INF, 0.0, -0.0, -3.0, 1e-30, 1e30]
TAUS = [*VALUES, torch.tensor([NAN, 1.0, INF]), torch.rand(2, 3) + 1]
# shapes that do not fit the state of 2 samples and 3 neurons, or that enlarge it
SHAPES = [torch.ones(4, 3), torch.ones(2, 2, 3), torch.ones(5), torch.ones(7, 1, 1, 1), torch.ones(0)]
WIDE = [torch.tensor(1.0, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]
THRESHOLDS = [torch.tensor(v) for v in (0.0, -1.0, NAN, INF, -INF, 1e-40, 0, -2, True, 1 + 1j)]
RESETS = [0.0, NAN, INF, -1.0, True, 1j, "text", torch.tensor([1.0, 0.5, NAN]), torch.tensor(1j), *SHAPES[:2], *WIDE]

OPTIONS: dict[str, list[Any]] = {
    "tau_mem": [*TAUS, *SHAPES],
    "tau_syn": [*TAUS, *SHAPES[:2]],
    "spike_threshold": [*THRESHOLDS, None, torch.tensor([0.0, -1.0, NAN]), *SHAPES[:3], *WIDE],
    "min_v_mem": [1.0, 2.0, 5.0, NAN, INF, -INF, 1 + 1j, torch.tensor([0.0, NAN, 3.0]), *SHAPES[:2], *WIDE],
    "reset_fn": [*map(sa.MembraneSubtract, RESETS), *map(sa.MembraneReset, RESETS), None],
    "spike_fn": [*map(sa.MaxSpike, (0, -1, 2.5, NAN, INF, "text", None)), None, 5],
    "surrogate_grad_fn": [
        sa.SingleExponential(0.0),
        sa.SingleExponential(NAN),
        sa.SingleExponential(-1.0),
        sa.PeriodicExponential(0.0),
        sa.Heaviside(NAN),
        sa.Heaviside(-1.0),
        sa.Gaussian(0.0, 0.0),
        sa.Gaussian(torch.tensor(0.1)),
        sa.MultiGaussian(sigma=INF),
        None,
        5,
        lambda v, th: torch.ones(3),
        lambda v, th: torch.ones(5, 5, 5),
        lambda v, th: 1.0,
        lambda v, th: v > th,
        lambda v, th: v.double(),
        lambda v, th: v[10],
    ],
    "tau_adapt": [*VALUES, torch.ones(2, 2, 3)],
    "adapt_scale": [NAN, INF, -1.0, -10.0, torch.ones(3), torch.ones(2, 2, 3), "text", None],
}
LACKS = {
    "ExpLeak": {"tau_syn", "spike_threshold", "reset_fn", "spike_fn", "surrogate_grad_fn", "tau_adapt", "adapt_scale"},
    "LIF": {"tau_adapt", "adapt_scale"},
    "IAF": {"tau_mem", "tau_adapt", "adapt_scale"},
    "ALIF": {"tau_mem", "tau_syn", "spike_fn", "surrogate_grad_fn"},
}
CASES = [(name, option) for name in LACKS for option in OPTIONS if option not in LACKS[name]]


def train(layer: Any) -> tuple[Tensor, list[Tensor]]:
    """One call and all gradients."""
    leaf = X.clone().requires_grad_()
    out = layer(leaf)
    weights = torch.linspace(0.5, 2, out.numel()).view(out.shape)
    loss = (out * weights).sum() + sum(b.sum() for b in layer._buffers.values() if b.requires_grad)
    leaves = [p for p in (leaf, *layer.parameters()) if p.requires_grad]
    return out.detach(), [
        torch.zeros(()) if g is None else g for g in torch.autograd.grad(loss, leaves, allow_unused=True)
    ]


@pytest.mark.parametrize(("name", "option"), CASES)
def test_values_of_an_option(name: str, option: str) -> None:
    for value in OPTIONS[option]:

        def make(value: Any = value) -> Any:
            return LAYERS[name](**{option: value.clone() if isinstance(value, Tensor) else value})

        try:
            make()
        except Exception:
            continue  # sinabs itself takes no such layer
        compare(make, train)


@pytest.mark.parametrize("name", ["LIF", "LIF-synapse", "ALIF"])
def test_alphas_beyond_one(name: str) -> None:
    def make() -> Any:
        layer = LAYERS[name](train_alphas=True, norm_input=True)
        with torch.no_grad():
            layer.alpha_mem.fill_(1.5)
        return layer

    assert compare(make, train) is None


def test_parameters_changed_between_calls() -> None:
    def use(layer: Any) -> tuple[Tensor, list[Tensor]]:
        outs = []
        for tau, threshold in ((9.0, 1.0), (0.0, 0.5), (-0.0, 0.5), (NAN, 2.0), (3.0, 0.25)):
            layer.reset_states()
            with torch.no_grad():
                layer.tau_mem.fill_(tau)
                layer.spike_threshold.fill_(threshold)
                outs.append(layer(X))
        layer.tau_mem = nn.Parameter(torch.tensor([1.0, 2.0, 4.0]))
        layer.spike_threshold = nn.Parameter(torch.rand(2, 3), requires_grad=False)
        return layer(X), outs

    assert compare(LAYERS["LIF"], use) is None


def _gone(layer: Any) -> Callable[[Tensor], Tensor]:
    del layer.spike_threshold
    return layer  # type: ignore[no-any-return]


def test_a_parameter_that_was_deleted() -> None:
    compare(LAYERS["LIF"], lambda layer: _gone(layer)(X))
