"""Workloads on a GPU of whole layers: converted ones beside their hosts, EGRU beside torch's GRU; see gpu_bench.py."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import torch
from gpu_timing import Call, Sizes, captured, host_us, inference, medians, training
from gpu_workloads import OURS, installed, numbers
from torch import Tensor, nn

import plugin_accel
from plugin_accel.backends.cuda import BACKEND
from plugin_accel.layers import EGRU
from plugin_accel.neurons import SNNTORCH_LEAKY, SnnTorchConfig
from plugin_accel.neurons.layout import STEP
from plugin_accel.surrogates import Surrogate


class LastUnbatched(nn.Module):
    """SpikingJelly's LIF, which has time first, in the place of sinabs's."""

    def __init__(self) -> None:
        super().__init__()
        from spikingjelly.activation_based import neuron, surrogate

        self.node = neuron.LIFNode(tau=10.0, surrogate_function=surrogate.ATan(), step_mode="m")

    def forward(self, x: Tensor) -> Tensor:
        return self.node(x.transpose(0, 1)).transpose(0, 1)

    def reset_states(self) -> None:
        self.node.reset()


def agree(host: nn.Module, ours: nn.Module, x: Tensor) -> bool:
    """Whether the first call's spikes are the same."""
    with torch.no_grad():
        return torch.equal(host(x), ours(x))


def sinabs_layer(rounds: int, shape: tuple[int, int, int], compiled: bool) -> dict[str, Any]:
    """sinabs's LIF over (batch, time, neurons): as it is, converted, under torch.compile (which alone, then)."""
    import sinabs.layers as sl

    host = sl.LIF(tau_mem=10.0).cuda()
    x = torch.randn(shape, device="cuda", requires_grad=True)
    ours = plugin_accel.convert(copy.deepcopy(host))
    layers = {"host, torch.compile": torch.compile(host)} if compiled else {"host": host, OURS: ours}
    same = agree(host, ours, x)
    calls = {}
    for name, layer in layers.items():
        reset = host.reset_states if compiled else layer.reset_states
        calls[name], calls[f"{name} forward"] = training(layer, x, reset), inference(layer, x, reset)
    ms = medians(calls, max(3, rounds // 10), target_ms=1.0)
    found = {"workload": f"sinabs LIF {shape}", "same": same, "ms": ms}
    return found if compiled else {**found, "speedup": ms["host"] / ms[OURS]}


def snntorch_steps(rounds: int, sizes: Sizes, compiled: bool) -> dict[str, Any]:
    """snnTorch's Leaky in a loop over T = 32, as its users write it; under torch.compile alone, then."""
    import snntorch as snn

    x = torch.randn(sizes.bulk_steps, sizes.columns // 16, device="cuda", requires_grad=True)
    host = snn.Leaky(beta=0.9).cuda()
    ours = plugin_accel.convert(copy.deepcopy(host))
    layers = {"host, torch.compile": torch.compile(host)} if compiled else {"host": host, OURS: ours}

    def loop(layer: nn.Module) -> Call:
        def run() -> None:
            mem, spikes = torch.zeros_like(x[0]), []
            for x_t in x.unbind():
                spike, mem = layer(x_t, mem)
                spikes.append(spike)
            torch.autograd.grad(torch.stack(spikes).sum(), x)

        return run

    ms = medians({name: loop(layer) for name, layer in layers.items()}, max(3, rounds // 10), target_ms=1.0)
    found = {"workload": f"snnTorch Leaky, steps of {tuple(x.shape)}", "ms": ms}
    return found if compiled else {**found, "speedup": ms["host"] / ms[OURS]}


def linear_and_lif(rounds: int, sizes: Sizes) -> list[dict[str, Any]]:
    """Linear then LIF, B=16 T=500, as the Open Neuromorphic benchmark has it."""
    import sinabs.layers as sl

    rows = []
    for n in sizes.widths:
        host = nn.Sequential(nn.Linear(n, n), sl.LIF(tau_mem=10.0)).cuda()
        nets = {"host": host, OURS: plugin_accel.convert(copy.deepcopy(host))}
        if installed("spikingjelly"):
            nets["spikingjelly"] = nn.Sequential(copy.deepcopy(host[0]), LastUnbatched()).cuda()
        x = torch.randn(sizes.batch, sizes.steps, n, device="cuda", requires_grad=True)
        calls: dict[str, Call] = {"linear alone": training(host[0], x)}
        for name, net in nets.items():
            calls[name] = training(net, x, net[1].reset_states)
            calls[f"{name} forward"] = inference(net, x, net[1].reset_states)
        ms = medians(calls, max(3, rounds // 10), target_ms=1.0)
        rows.append({"workload": f"Linear + LIF, N={n}", "ms": ms, "speedup": ms["host"] / ms[OURS]})
    return rows


def convolutions(rounds: int, sizes: Sizes) -> dict[str, Any]:
    """Synthetic events 64 x 64 x 2, four convolutions with IAF neurons, T = 300, B = 16: a training step with Adam."""
    import sinabs.layers as sl

    torch.manual_seed(0)
    batch, steps, channels = sizes.batch, sizes.event_steps, (2, 16, 32, 64, 64)
    parts: list[nn.Module] = []
    for n, m in pairwise(channels):
        parts += [nn.Conv2d(n, m, 3, stride=2, padding=1, bias=False), sl.IAFSqueeze(batch_size=batch)]
    host = nn.Sequential(*parts, nn.Flatten(), nn.Linear(64 * 16, 10)).cuda()
    ours = plugin_accel.convert(copy.deepcopy(host))
    x = (torch.rand(batch * steps, 2, 64, 64, device="cuda") < 0.03).float()
    labels = torch.randint(10, (batch,), device="cuda")

    def train(model: nn.Module) -> Call:
        optimizer = torch.optim.Adam(model.parameters(), 1e-4)

        def run() -> None:
            for layer in model.modules():
                if isinstance(layer, sl.StatefulLayer):
                    layer.reset_states()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x).view(batch, steps, 10).mean(1), labels).backward()
            optimizer.step()

        return run

    ms = medians({"host": train(host), OURS: train(ours)}, max(3, rounds // 10), target_ms=1.0)
    return {"workload": f"conv IAF T={steps} B={batch}", "ms": ms, "speedup": ms["host"] / ms[OURS]}


def streaming(sizes: Sizes) -> dict[str, Any]:
    """Single steps, B = 1: how long a call keeps the host."""
    config = SnnTorchConfig(surrogate=Surrogate("atan", (2.0,)), time_dim=STEP)
    us: dict[str, float] = {}

    def measure(name: str, call: Call) -> None:
        us[name] = host_us(call, repeats=sizes.repeats)

    for neurons in (128, 4096):
        (x, mem), params = torch.randn(2, 1, neurons, device="cuda"), numbers(0.9, 1.0, 1.0)
        step = BACKEND.prepare(SNNTORCH_LEAKY, config, x, params)
        assert step is not None
        leaf = x.clone().requires_grad_()
        measure(f"prepared step, N={neurons}", lambda s=step, x=x, m=mem, p=params: s.forward(x, [m], p, False))
        measure(f"recorded, N={neurons}", lambda s=step, x=leaf, m=mem, p=params: s.run(x, [m], p, (), True))
    if installed("snntorch"):
        import snntorch as snn

        host = snn.Leaky(beta=0.9).cuda()
        ours = plugin_accel.convert(copy.deepcopy(host))
        for name, layer in (("snnTorch Leaky", host), ("snnTorch Leaky, converted", ours)):
            measure(f"{name}, recorded", lambda f=layer, m=mem, x=leaf: f(x, m))
            with torch.no_grad():
                measure(name, lambda f=layer, m=mem, x=x: f(x, m))
    if installed("sinabs"):
        import sinabs.layers as sl

        host = sl.LIF(tau_mem=20.0).cuda()
        ours = plugin_accel.convert(copy.deepcopy(host))
        one = torch.randn(1, 1, 128, device="cuda")
        with torch.no_grad():
            for name, layer in (("sinabs LIF", host), ("sinabs LIF, converted", ours)):
                measure(name, lambda f=layer: f(one))
    return {"workload": "streaming, T=1", "us": us}


def egru(rounds: int, sizes: Sizes, compiled: bool) -> list[dict[str, Any]]:
    """EGRU beside torch's GRU (cuDNN), forward and backward; also from a CUDA graph, and in plain torch."""
    rows = []
    for steps, batch, features, hidden in sizes.egru:
        x = torch.randn(steps, batch, features, device="cuda", requires_grad=True)
        gru, ours = nn.GRU(features, hidden).cuda(), EGRU(features, hidden, return_state_sequence=False).cuda()
        gradient = torch.randn(steps, batch, hidden, device="cuda")

        def train(layer: nn.Module, x: Tensor = x, gradient: Tensor = gradient) -> Call:
            return lambda: torch.autograd.grad(layer(x)[0], [x, *layer.parameters()], gradient)

        calls = {"nn.GRU": train(gru), OURS: train(ours)}
        calls[f"{OURS}, CUDA graph"] = captured(calls[OURS])
        if compiled:
            plain = copy.deepcopy(ours)
            plain.backend = "reference"
            calls["reference"] = train(plain)
        ms = medians(calls, max(3, rounds // 5), target_ms=1.0)
        workload = f"EGRU T={steps} B={batch} I={features} H={hidden}"
        rows.append({"workload": workload, "ms": ms, "speedup": ms["nn.GRU"] / ms[OURS]})
    return rows
