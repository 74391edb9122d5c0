"""Within compiled programs of a torch whose compiler cannot read the layers: called as they are, between its graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sinabs.activation as sa
import sinabs.layers as sl
import snntorch as snn
import torch
from torch import nn

import plugin_accel
from plugin_accel import plugins
from plugin_accel.hosts.compiled import READS_LAYERS, uncompiled

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "LIF": lambda: sl.LIF(tau_mem=20.0),
    "IAF": lambda: sl.IAF(spike_fn=sa.MaxSpike(2)),
    "Leaky": lambda: snn.Leaky(0.9, init_hidden=True),
    "Synaptic": lambda: snn.Synaptic(0.8, 0.9, init_hidden=True),
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def apart(layer: nn.Module) -> nn.Module:
    """What an older torch makes of a converted layer's class; such a one has done it already."""
    if READS_LAYERS:
        cls = type(layer)
        layer.__class__ = type(cls.__name__, (cls,), {"forward": uncompiled(cls.forward)})
    return layer


@pytest.mark.filterwarnings("ignore")  # torch's own, about what it compiles
@pytest.mark.parametrize("name", LAYERS)
def test_training_with_a_break(name: str) -> None:
    """Calls that carry on: the same numbers, by the kernels, from two graphs that serve all calls."""
    eager, compiled = (nn.Sequential(nn.Linear(5, 7), plugin_accel.convert(LAYERS[name]())) for _ in range(2))
    compiled.load_state_dict(eager.state_dict())
    apart(compiled[1])
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    run = torch.compile(compiled, backend=backend)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        x = torch.randn(2, 6, 5, generator=generator) * 30
        wanted, found = eager(x), run(x)
        assert torch.equal(found, wanted)
        assert found.any()
    for a, b in zip((eager, compiled), (wanted, found), strict=True):
        a.zero_grad()
        b.sum().backward()
    assert torch.equal(compiled[0].weight.grad, eager[0].weight.grad)
    assert len(graphs) <= 2
    (host,) = [h for h in plugins.hosts().values() if h.owns(compiled[1])]
    assert host.last_fallback(compiled[1]) is None
