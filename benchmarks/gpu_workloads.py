"""Workloads on a GPU that need no host; see gpu_bench.py."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import torch
from gpu_timing import Call, captured, host_us, medians, training
from torch import Tensor, nn

import plugin_accel
from plugin_accel.backends.cuda import BACKEND
from plugin_accel.layers import EGRU
from plugin_accel.neurons import (
    SINABS_LIF,
    SNNTORCH_LEAKY,
    Incoming,
    Saved,
    SinabsConfig,
    SnnTorchConfig,
    Wanted,
    run_unchecked,
)
from plugin_accel.neurons.layout import STEP
from plugin_accel.surrogates import Surrogate


def spikingjelly(dtype: torch.dtype) -> nn.Module | None:
    """Its LIF over [T, N] with its quickest kernels; None where it is not installed."""
    if importlib.util.find_spec("spikingjelly") is None:
        return None
    from spikingjelly.activation_based import neuron, surrogate

    options: dict[str, Any] = {"tau": 5.0, "surrogate_function": surrogate.ATan(), "step_mode": "m"}
    for backend in ("triton", "cupy", None):
        try:
            node = neuron.LIFNode(**options, **({"backend": backend} if backend else {})).cuda()
            node(torch.randn(4, 64, device="cuda", dtype=dtype, requires_grad=True)).sum().backward()
        except Exception:
            continue
        return node
    return None


def kernels_alone(time_steps: int, columns: int, dtype: torch.dtype) -> dict[str, Call]:
    """The LIF over [T, N] without a host's layer around it."""
    config = SinabsConfig(spike="single", surrogate=Surrogate("atan", (2.0,)), time_dim=0)
    params = [torch.tensor(v, device="cuda") for v in (0.9, 1.0, 1.0)]
    x = (torch.randn(time_steps, columns, device="cuda") * 0.5).to(dtype).requires_grad_()
    first = [torch.zeros(columns, device="cuda")]
    gradient = torch.randn(time_steps, columns, device="cuda")

    def both() -> None:
        out = run_unchecked(SINABS_LIF, BACKEND, config, x, first, params).out
        torch.autograd.grad(out, x, gradient)

    def forward() -> None:
        with torch.no_grad():
            run_unchecked(SINABS_LIF, BACKEND, config, x, first, params)

    return {"plugin_accel forward": forward, "plugin_accel": both}


def eager(time_steps: int, columns: int) -> Call:
    """The same LIF in plain torch, step by step: what there is to compare with where no host is installed."""
    reference = plugin_accel.backends.get("reference")
    config = SinabsConfig(spike="single", surrogate=Surrogate("atan", (2.0,)), time_dim=0)
    params = [torch.tensor(v, device="cuda") for v in (0.9, 1.0, 1.0)]
    x = (torch.randn(time_steps, columns, device="cuda") * 0.5).requires_grad_()
    first, gradient = [torch.zeros(columns, device="cuda")], torch.randn(time_steps, columns, device="cuda")

    def both() -> None:
        out = run_unchecked(SINABS_LIF, reference, config, x, first, params).out
        torch.autograd.grad(out, x, gradient)

    return both


def bulk(rounds: int, columns: int) -> list[dict[str, Any]]:
    """T = 32 over as many neurons as memory traffic counts alone; bytes by what the kernels read and write."""
    rows = []
    for dtype, forward_bytes, both_bytes in ((torch.float32, 8, 20), (torch.float16, 6, 14)):
        calls = kernels_alone(32, columns, dtype)
        node = spikingjelly(dtype)
        if node is not None:
            from spikingjelly.activation_based import functional

            x = (torch.randn(32, columns, device="cuda") * 0.5).to(dtype).requires_grad_()
            calls["spikingjelly"] = training(node, x, lambda node=node: functional.reset_net(node))
        ms = medians(calls, rounds)
        row: dict[str, Any] = {"workload": f"LIF T=32 N={columns} {dtype}", "ms": ms}
        elements = 32 * columns
        row["forward_gb_per_s"] = elements * forward_bytes / ms["plugin_accel forward"] / 1e6
        row["gb_per_s"] = elements * both_bytes / ms["plugin_accel"] / 1e6
        rows.append(row)
    return rows


def small(rounds: int) -> dict[str, Any]:
    """T = 500, B = 16, N = 512: time per step beyond launch, and how long a call keeps the host."""
    ms = medians(kernels_alone(500, 16 * 512, torch.float32), rounds)
    one = medians(kernels_alone(1, 16 * 512, torch.float32), rounds)
    beyond = {name: (ms[name] - one[name]) / 499 * 1e6 for name in ms}
    return {"workload": "LIF T=500 B=16 N=512", "ms": ms, "ns_per_step": beyond}


def sweep(rounds: int, elements: int) -> list[dict[str, Any]]:
    """The same number of elements in more and more steps."""
    rows = []
    for time_steps in (25, 100, 400, 1600):
        ms = medians(kernels_alone(time_steps, elements // time_steps, torch.float32), rounds)
        rows.append({"workload": f"LIF T={time_steps}, {elements} elements", "ms": ms})
    return rows


def latency(rounds: int, most: int) -> list[dict[str, Any]]:
    """B = 10, T = 1000 for layers of 1 to `most` neurons; also from a CUDA graph, and in plain torch."""
    rows = []
    for neurons in [10**k for k in range(5) if 10**k <= most]:
        calls = kernels_alone(1000, 10 * neurons, torch.float32)
        calls["plugin_accel, CUDA graph"] = captured(calls["plugin_accel"])
        ms = medians(calls, rounds)
        ms |= medians({"plain torch": eager(1000, 10 * neurons)}, 3, target_ms=1.0)
        rows.append({"workload": f"LIF T=1000 B=10 N={neurons}", "ms": ms})
    return rows


def host_side() -> dict[str, Any]:
    """How long a call keeps the host until its kernels are launched: the kernels' own, through autograd, a layer's."""
    config = SinabsConfig(spike="single", surrogate=Surrogate("atan", (2.0,)), time_dim=0)
    params = [torch.tensor(v, device="cuda") for v in (0.9, 1.0, 1.0)]
    x, first = torch.randn(1, 64, device="cuda"), [torch.zeros(64, device="cuda")]
    result = BACKEND.forward(SINABS_LIF, config, x, first, params, keep=True, record=False)
    assert result.kept is not None
    saved, gradient = Saved(None, result.kept, (None,), tuple(params)), torch.randn(1, 64, device="cuda")
    incoming = Incoming(gradient, None, (None,), None, ())
    wanted = Wanted(True, (False,), (False, False, False))
    leaf = x.clone().requires_grad_()
    made: list[Tensor] = []

    def record() -> None:
        made.append(run_unchecked(SINABS_LIF, BACKEND, config, leaf, first, params).out)

    us = {
        "forward": host_us(lambda: BACKEND.forward(SINABS_LIF, config, x, first, params, keep=True, record=False)),
        "backward": host_us(lambda: BACKEND.backward(SINABS_LIF, config, saved, incoming, wanted, None)),
        "forward, recorded": host_us(lambda: run_unchecked(SINABS_LIF, BACKEND, config, leaf, first, params)),
        "backward by autograd": host_us(lambda: torch.autograd.grad(made.pop(), leaf, gradient), record),
    }
    return {"workload": "host side of a call, LIF T=1 N=64", "us": us}


def streaming() -> dict[str, Any]:
    """Single steps, B = 1: how long a call keeps the host."""
    config = SnnTorchConfig(surrogate=Surrogate("atan", (2.0,)), time_dim=STEP)
    us = {}
    for neurons in (128, 4096):
        x, mem = (torch.randn(1, neurons, device="cuda") for _ in range(2))
        params = [torch.tensor(v, device="cuda") for v in (0.9, 1.0, 1.0)]
        step = BACKEND.prepare(SNNTORCH_LEAKY, config, x, params)
        assert step is not None
        leaf = x.clone().requires_grad_()
        us[f"prepared step, N={neurons}"] = host_us(lambda s=step, x=x, m=mem, p=params: s.forward(x, [m], p, False))
        us[f"recorded, N={neurons}"] = host_us(lambda s=step, x=leaf, m=mem, p=params: s.run(x, [m], p, (), True))
    if importlib.util.find_spec("snntorch") is not None:
        import snntorch as snn

        host = snn.Leaky(beta=0.9).cuda()
        ours = plugin_accel.convert(copy.deepcopy(host))
        for name, layer in (("snnTorch Leaky", host), ("converted", ours)):
            us[f"{name}, recorded"] = host_us(lambda f=layer, m=mem, x=leaf: f(x, m))
            with torch.no_grad():
                us[name] = host_us(lambda f=layer, m=mem, x=x: f(x, m))
    if importlib.util.find_spec("sinabs") is not None:
        import sinabs.layers as sl

        host = sl.LIF(tau_mem=20.0).cuda()
        ours = plugin_accel.convert(copy.deepcopy(host))
        one = torch.randn(1, 1, 128, device="cuda")
        with torch.no_grad():
            us |= {
                name: host_us(lambda f=f: f(one)) for name, f in (("sinabs LIF", host), ("sinabs LIF, converted", ours))
            }
    return {"workload": "streaming, T=1", "us": us}


def egru(rounds: int, compiled: bool) -> list[dict[str, Any]]:
    """EGRU beside torch's GRU (cuDNN), forward and backward; also from a CUDA graph, and in plain torch."""
    rows = []
    for steps, batch, features, hidden in ((100, 32, 128, 256), (784, 64, 1, 256)):
        x = torch.randn(steps, batch, features, device="cuda", requires_grad=True)
        gru, ours = nn.GRU(features, hidden).cuda(), EGRU(features, hidden, return_state_sequence=False).cuda()
        gradient = torch.randn(steps, batch, hidden, device="cuda")

        def train(layer: nn.Module, x: Tensor = x, gradient: Tensor = gradient) -> Call:
            return lambda: torch.autograd.grad(layer(x)[0], [x, *layer.parameters()], gradient)

        calls = {"nn.GRU": train(gru), "plugin_accel": train(ours)}
        calls["plugin_accel, CUDA graph"] = captured(calls["plugin_accel"])
        if compiled:
            plain = copy.deepcopy(ours)
            plain.backend = "reference"
            calls["reference"] = train(plain)
        ms = medians(calls, max(3, rounds // 5), target_ms=1.0)
        workload = f"EGRU T={steps} B={batch} I={features} H={hidden}"
        rows.append({"workload": workload, "ms": ms, "speedup": ms["nn.GRU"] / ms["plugin_accel"]})
    return rows
