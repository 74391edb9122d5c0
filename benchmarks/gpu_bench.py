"""Benchmarks of the `cuda` backend: neuron layers on their own, against their hosts and SpikingJelly; EGRU.

    python benchmarks/gpu_bench.py --out results.json [--quick]

Times are medians of CUDA events around calls with a fresh graph, after a warm-up, in interleaved rounds; the copy
bandwidth is measured in the same run, and outputs are compared with the host's before anything is timed. TF32 is off.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel.backends.cuda import BACKEND
from plugin_accel.layers import EGRU
from plugin_accel.neurons import SINABS_LIF, Incoming, Saved, SinabsConfig, Wanted, run_unchecked
from plugin_accel.surrogates import Surrogate

Call = Callable[[], object]


def elapsed(call: Call, calls: int) -> float:
    """Milliseconds of one of `calls` calls."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls


def medians(calls: dict[str, Call], rounds: int, target_ms: float = 20.0) -> dict[str, float]:
    """Milliseconds of each, in interleaved rounds."""
    repeats = {}
    for name, call in calls.items():
        for _ in range(3):
            call()
        torch.cuda.synchronize()
        repeats[name] = max(1, min(50, int(target_ms / max(elapsed(call, 1), 1e-3))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(elapsed(call, repeats[name]))
    return {name: statistics.median(found) for name, found in times.items()}


def copy_bandwidth(rounds: int) -> float:
    """GB/s of a copy, reads and writes together."""
    a, b = (torch.empty(1 << 28, device="cuda") for _ in range(2))
    ms = medians({"copy": lambda: b.copy_(a)}, rounds)["copy"]
    return 2 * a.numel() * 4 / ms / 1e6


def training(layer: nn.Module, x: Tensor, reset: Call | None = None) -> Call:
    """Forward and backward of a layer with a fresh graph, without accumulation into x."""
    gradient = torch.randn(x.shape, device=x.device)

    def run() -> None:
        if reset is not None:
            reset()
        out = layer(x)
        torch.autograd.grad(out, x, gradient.to(out.dtype))

    return run


def inference(layer: nn.Module, x: Tensor, reset: Call | None = None) -> Call:
    def run() -> None:
        if reset is not None:
            reset()
        with torch.no_grad():
            layer(x)

    return run


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


def bulk(rounds: int, columns: int) -> list[dict[str, Any]]:
    """T = 32 over as many neurons as memory traffic counts alone; bytes by what must be read and written."""
    rows = []
    for dtype, forward_bytes, both_bytes in ((torch.float32, 8, 24), (torch.float16, 6, 22)):
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


def host_us(call: Call, prepare: Callable[[], Any] | None = None) -> float:
    """Microseconds for which a call keeps the host, the GPU idle; `prepare` runs before each, and is not timed."""
    times = []
    for _ in range(300):
        if prepare is not None:
            prepare()
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times)


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
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                calls["plugin_accel"]()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            calls["plugin_accel"]()
        calls["plugin_accel, CUDA graph"] = graph.replay
        if compiled:
            plain = copy.deepcopy(ours)
            plain.backend = "reference"
            calls["reference"] = train(plain)
        ms = medians(calls, max(3, rounds // 5), target_ms=1.0)
        workload = f"EGRU T={steps} B={batch} I={features} H={hidden}"
        rows.append({"workload": workload, "ms": ms, "speedup": ms["nn.GRU"] / ms["plugin_accel"]})
    return rows


def sinabs_layer(rounds: int, compiled: bool) -> dict[str, Any]:
    """sinabs's LIF over (16, 500, 512): as it is, under torch.compile, converted."""
    import sinabs.layers as sl

    host = sl.LIF(tau_mem=10.0).cuda()
    ours = plugin_accel.convert(copy.deepcopy(host))
    x = torch.randn(16, 500, 512, device="cuda", requires_grad=True)
    if not torch.equal(host(x), ours(x)):
        raise SystemExit("sinabs LIF: expected the same spikes from the converted layer, got others")
    layers = {"host": host, "plugin_accel": ours}
    if compiled:
        layers["host, torch.compile"] = torch.compile(copy.deepcopy(host))
    calls = {}
    for name, layer in layers.items():
        own = ours if name == "plugin_accel" else host
        calls[name] = training(layer, x, own.reset_states)
        calls[f"{name} forward"] = inference(layer, x, own.reset_states)
    ms = medians(calls, max(3, rounds // 3), target_ms=1.0)
    return {"workload": "sinabs LIF (16, 500, 512)", "ms": ms, "speedup": ms["host"] / ms["plugin_accel"]}


def linear_and_lif(rounds: int) -> list[dict[str, Any]]:
    """Linear then LIF, B=16 T=500, as the Open Neuromorphic benchmark has it, with every call waited for."""
    import sinabs.layers as sl

    rows = []
    for n in (512, 1024, 4096):
        host = nn.Sequential(nn.Linear(n, n), sl.LIF(tau_mem=10.0)).cuda()
        ours = plugin_accel.convert(copy.deepcopy(host))
        x = torch.randn(16, 500, n, device="cuda", requires_grad=True)
        calls = {
            "host": training(host, x, host[1].reset_states),
            "plugin_accel": training(ours, x, ours[1].reset_states),
            "linear alone": training(host[0], x),
        }
        ms = medians(calls, max(3, rounds // 5), target_ms=1.0)
        rows.append({"workload": f"Linear + sinabs LIF, N={n}", "ms": ms, "speedup": ms["host"] / ms["plugin_accel"]})
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the JSON goes; else to the standard output")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--columns", type=int, default=1 << 22, help="neurons of the bulk workload")
    parser.add_argument("--quick", action="store_true", help="few rounds, no torch.compile")
    options = parser.parse_args()
    why = BACKEND.unavailable()
    if why is not None:
        sys.exit(f"benchmarks of the cuda backend: expected one that can be used here, got none ({why})")
    torch.backends.cuda.matmul.allow_tf32 = False
    rounds = 5 if options.quick else options.rounds
    found: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "backend": BACKEND.details(),
        "copy_gb_per_s": copy_bandwidth(rounds),
        "bulk": bulk(rounds, options.columns),
        "small": small(rounds),
        "host_side": host_side(),
        "egru": egru(rounds, not options.quick),
    }
    if importlib.util.find_spec("sinabs") is not None:
        found["sinabs"] = sinabs_layer(rounds, not options.quick)
        found["linear_and_lif"] = linear_and_lif(rounds)
    text = json.dumps(found, indent=2)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
