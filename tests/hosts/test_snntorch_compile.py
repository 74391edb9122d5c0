"""Accelerated snnTorch layers in compiled programs: one graph, the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import snntorch as snn
import torch
from torch import nn

import plugin_accel

LAYERS: dict[str, Callable[[], Any]] = {
    "Leaky": lambda: snn.Leaky(0.9),
    "Leaky, hidden": lambda: snn.Leaky(0.9, init_hidden=True),
    "Leaky, no delay": lambda: snn.Leaky(0.9, reset_delay=False, learn_beta=True, learn_threshold=True),
    "Lapicque": lambda: snn.Lapicque(beta=0.9),
    "Synaptic": lambda: snn.Synaptic(0.8, 0.9, reset_mechanism="zero"),
    "Alpha": lambda: snn.Alpha(0.9, 0.8),
    "RLeaky": lambda: snn.RLeaky(0.9, all_to_all=False),
    "RSynaptic": lambda: snn.RSynaptic(0.9, 0.8, linear_features=4),
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def outcome(run: Callable[[torch.Tensor], Any], parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).mul_(2).requires_grad_()
    out = run(x)
    loss = sum((o * (i + 1)).sum() for i, o in enumerate(out))
    return [*out, *torch.autograd.grad(loss, [x, *parameters])]


@pytest.mark.one_graph
@pytest.mark.filterwarnings("ignore")  # torch's own, about what it compiles
@pytest.mark.parametrize("name", LAYERS)
def test_a_loop_compiles_to_one_graph(name: str) -> None:
    torch.manual_seed(0)
    plain = LAYERS[name]()
    fast = LAYERS[name]()
    fast.load_state_dict(plain.state_dict())
    plugin_accel.convert(fast, strict=True)

    def loop(layer: Any) -> Callable[[torch.Tensor], list[torch.Tensor]]:
        def run(x: torch.Tensor) -> list[torch.Tensor]:
            out = []
            for _ in range(3):
                made = layer(x)
                out += made if isinstance(made, tuple) else (made,)
            return out

        return run

    want = outcome(loop(plain), list(plain.parameters()))
    got = outcome(torch.compile(loop(fast), fullgraph=True, backend="aot_eager"), list(fast.parameters()))
    count = len(want) - 1 - len(list(plain.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(got[:count], want[:count], strict=True))
    for a, b in zip(got[count:], want[count:], strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5 * b.abs().max().item())
