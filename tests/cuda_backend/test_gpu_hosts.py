"""On a GPU: converted layers against their hosts there; nothing waits, torch.compile meets no break."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel.backends.cuda import BACKEND

sl = pytest.importorskip("sinabs.layers")
snn = pytest.importorskip("snntorch")

MISSING = BACKEND.unavailable()

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]

HOSTS = {
    "LIF": (lambda: sl.LIF(tau_mem=20.0, tau_syn=5.0, min_v_mem=-1.0), (4, 50, 7)),
    "IAF": (sl.IAF, (4, 50, 7)),
    "ALIF": (lambda: sl.ALIF(tau_mem=20.0, tau_adapt=10.0), (4, 50, 7)),
    "ExpLeak": (lambda: sl.ExpLeak(tau_mem=20.0), (4, 50, 7)),
    "Leaky": (lambda: snn.Leaky(beta=0.9, init_hidden=True), (4, 7)),
    "Synaptic": (lambda: snn.Synaptic(alpha=0.9, beta=0.8, init_hidden=True), (4, 7)),
    "Alpha": (lambda: snn.Alpha(alpha=0.9, beta=0.8, init_hidden=True), (4, 7)),
}


@pytest.mark.parametrize("low", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", HOSTS)
def test_layers_as_their_hosts_on_the_gpu(name: str, low: torch.dtype) -> None:
    make, shape = HOSTS[name]
    host = make().cuda()
    ours = plugin_accel.convert(copy.deepcopy(host))
    torch.manual_seed(0)
    given = (torch.randn(shape, device="cuda") * (2 if name in ("IAF", "Leaky", "Synaptic") else 20)).to(low)
    weight = torch.randn(shape, device="cuda")
    found = []
    for layer in (host, ours):
        x = given.clone().requires_grad_()
        out = torch.stack([layer(x) for _ in range(3)])
        (out * weight).sum().backward()
        found.append((out, x.grad))
    (expected, g_expected), (out, g) = found
    assert expected.any()
    assert torch.equal(out, expected) or name == "ExpLeak"
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    rtol = 1e-5 if low is torch.float32 else 2e-2
    torch.testing.assert_close(g, g_expected, rtol=rtol, atol=rtol)


def test_autocast() -> None:
    host = nn.Sequential(nn.Linear(16, 16), sl.LIF(tau_mem=20.0)).cuda()
    ours = plugin_accel.convert(copy.deepcopy(host))
    x = torch.randn(4, 50, 16, device="cuda") * 30
    with torch.autocast("cuda", torch.float16):
        expected, out = host(x), ours(x)
    assert expected.any()
    assert torch.equal(out, expected)
    assert out.dtype is torch.float32


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return plugin_accel.convert(
        nn.Sequential(nn.Linear(32, 64), sl.IAF(), nn.Linear(64, 10), sl.LIF(tau_mem=20.0, norm_input=False))
    ).cuda()


def train_step(model: nn.Module, x: Tensor) -> Tensor:
    for layer in model.modules():
        if isinstance(layer, sl.StatefulLayer):
            for state in layer._buffers.values():
                state.detach_()
    loss = (model(x).mean(1) ** 2).sum()
    loss.backward()
    return loss


def test_nothing_waits_for_the_gpu() -> None:
    model, x = network(), torch.randn(8, 40, 32, device="cuda")
    train_step(model, x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(model, x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_graph_of_a_training_step() -> None:
    """Of a whole net, replayed on inputs that it was not captured with: what the step itself gives."""
    model, x = network(), torch.randn(8, 40, 32, device="cuda")
    stateful = [layer for layer in model if isinstance(layer, sl.StatefulLayer)]
    learned = [p for p in model.parameters() if p.requires_grad]

    def step() -> tuple[Tensor, ...]:
        for layer in stateful:  # anew: memory from before the capture may be another's when the graph is replayed
            for name, state in layer._buffers.items():
                layer._buffers[name] = torch.zeros_like(state)
        out = model(x)
        return out, *torch.autograd.grad((out.mean(1) ** 2).sum(), learned)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for _ in range(3):
        x.copy_(torch.randn_like(x))
        graph.replay()
        replayed = [t.clone() for t in captured]
        assert replayed[0].any()
        for a, b in zip(replayed, step(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_the_device_of_the_data_is_taken() -> None:
    compare_on = torch.device("cuda", 1)
    model = network().to(compare_on)
    loss = train_step(model, torch.randn(8, 40, 32, device=compare_on))
    assert loss.device == compare_on


@pytest.mark.one_graph
def test_compiled_without_a_break() -> None:
    model, x = network(), torch.randn(8, 20, 32, device="cuda")
    expected = model(x)
    assert expected.any()
    for layer in model.modules():
        if isinstance(layer, sl.StatefulLayer):
            layer.reset_states()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected)
