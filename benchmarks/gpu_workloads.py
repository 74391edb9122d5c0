"""Workloads on a GPU that need no host: the kernels alone, beside SpikingJelly's and plain torch; see gpu_bench.py."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from gpu_timing import Call, Sizes, captured, host_us, inference, medians, training
from torch import Tensor, nn

import plugin_accel
from plugin_accel.backends import Backend
from plugin_accel.backends.cuda import BACKEND
from plugin_accel.neurons import SINABS_LIF, Incoming, Saved, SinabsConfig, Wanted, run_unchecked
from plugin_accel.surrogates import Surrogate

CONFIG = SinabsConfig(spike="single", surrogate=Surrogate("atan", (2.0,)), time_dim=0)
OURS = "plugin_accel"


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def installed(host: str) -> bool:
    return importlib.util.find_spec(host) is not None


def numbers(*values: float) -> list[Tensor]:
    return [torch.tensor(v, device="cuda") for v in values]


def spikingjelly(time_steps: int, columns: int, dtype: torch.dtype) -> dict[str, Call]:
    """Its LIF over [T, N] with the kernels that it takes by itself; nothing where it is not installed."""
    if not installed("spikingjelly"):
        return {}
    from spikingjelly.activation_based import functional, neuron, surrogate

    node = neuron.LIFNode(tau=5.0, surrogate_function=surrogate.ATan(), step_mode="m").cuda()
    x = (torch.randn(time_steps, columns, device="cuda") * 3).to(dtype).requires_grad_()

    def reset() -> None:
        functional.reset_net(node)

    return {"spikingjelly forward": inference(node, x, reset), "spikingjelly": training(node, x, reset)}


def spikingjelly_kernels() -> object:
    """Which kernels those are."""
    if not installed("spikingjelly"):
        return "not installed"
    from spikingjelly.activation_based import functional

    return functional.neuron_implementation("lif", torch.zeros((), device="cuda").device)


def lif(time_steps: int, columns: int, dtype: torch.dtype, backend: Backend) -> tuple[Tensor, Callable[[], Tensor]]:
    """A LIF over [T, N] without a layer around it: its input, and its call."""
    params, first = numbers(0.9, 1.0, 1.0), [torch.zeros(columns, device="cuda")]
    x = (torch.randn(time_steps, columns, device="cuda") * 0.5).to(dtype).requires_grad_()

    def run() -> Tensor:
        return run_unchecked(SINABS_LIF, backend, CONFIG, x, first, params).out

    return x, run


def both_ways(time_steps: int, columns: int, dtype: torch.dtype, backend: Backend) -> dict[str, Call]:
    """Inference, and forward with backward."""
    x, run = lif(time_steps, columns, dtype, backend)
    gradient = torch.randn(time_steps, columns, device="cuda")

    def forward() -> None:
        with torch.no_grad():
            run()

    return {f"{OURS} forward": forward, OURS: lambda: torch.autograd.grad(run(), x, gradient)}


def plain(time_steps: int, columns: int) -> Call:
    """The same LIF in plain torch, step by step."""
    return both_ways(time_steps, columns, torch.float32, plugin_accel.backends.get("reference"))[OURS]


def kept(time_steps: int, columns: int, dtype: torch.dtype, training: bool = True) -> tuple[float, bool]:
    """Bytes per element that a call leaves for backward, but for its input and its output; whether the input too."""
    held: dict[int, int] = {}
    x, run = lif(time_steps, columns, dtype, BACKEND)

    def pack(t: Tensor) -> Tensor:
        if t.numel() > 1:
            held[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.set_grad_enabled(training), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = run()
    reads_input = held.pop(x.data_ptr(), None) is not None
    held.pop(out.data_ptr(), None)
    return sum(held.values()) / x.numel(), reads_input


def saved(sizes: Sizes) -> list[dict[str, Any]]:
    """Of many steps, and of few over many neurons."""
    rows = []
    for steps, columns in ((sizes.steps, sizes.batch * sizes.neurons), (sizes.bulk_steps, sizes.columns)):
        for dtype in (torch.float32, torch.float16):
            training, reads_input = kept(steps, columns, dtype)
            row = {"steps": steps, "dtype": name_of(dtype), "training": training, "and the input": reads_input}
            rows.append({**row, "inference": kept(steps, columns, dtype, False)[0]})
    return rows


def bulk(rounds: int, sizes: Sizes) -> list[dict[str, Any]]:
    """T = 32 over as many neurons as memory traffic counts alone; bytes by what must be read and written.

    That is the input, the output and its gradient, the input's gradient; what is kept twice, or the input again.
    """
    rows = []
    for dtype in (torch.float32, torch.float16):
        calls = both_ways(sizes.bulk_steps, sizes.columns, dtype, BACKEND)
        calls |= spikingjelly(sizes.bulk_steps, sizes.columns, dtype)
        ms = medians(calls, rounds)
        elements = sizes.bulk_steps * sizes.columns
        held, reads_input = kept(sizes.bulk_steps, sizes.columns, dtype)
        forward_bytes = dtype.itemsize + 4
        both_bytes = 2 * (forward_bytes + held) + (dtype.itemsize if reads_input else 0)
        row: dict[str, Any] = {"workload": f"LIF T={sizes.bulk_steps} N={sizes.columns}", "dtype": name_of(dtype)}
        row |= {"ms": ms, "forward_gb_per_s": elements * forward_bytes / ms[f"{OURS} forward"] / 1e6}
        row |= {"bytes": both_bytes, "gb_per_s": elements * both_bytes / ms[OURS] / 1e6}
        if "spikingjelly" in ms:
            row["over_spikingjelly"] = ms["spikingjelly"] / ms[OURS]
            row["forward_over_spikingjelly"] = ms["spikingjelly forward"] / ms[f"{OURS} forward"]
        rows.append(row)
    return rows


def small(rounds: int, sizes: Sizes) -> dict[str, Any]:
    """T = 500, B = 16, N = 512: time per step beyond launch."""
    columns = sizes.batch * sizes.neurons
    ms = medians(both_ways(sizes.steps, columns, torch.float32, BACKEND), rounds)
    one = medians(both_ways(1, columns, torch.float32, BACKEND), rounds)
    beyond = {name: (ms[name] - one[name]) / (sizes.steps - 1) * 1e6 for name in ms}
    ns = {"forward": beyond[f"{OURS} forward"], "forward + backward": beyond[OURS]}
    ns["backward"] = ns["forward + backward"] - ns["forward"]
    workload = f"LIF T={sizes.steps} B={sizes.batch} N={sizes.neurons}"
    return {"workload": workload, "ms": ms, "ms_of_one_step": one, "ns_per_step": ns}


def sweep(rounds: int, sizes: Sizes) -> list[dict[str, Any]]:
    """The same number of elements in more and more steps."""
    rows, elements = [], 16 * sizes.columns
    for time_steps in sizes.swept:
        columns = elements // time_steps
        calls = both_ways(time_steps, columns, torch.float32, BACKEND)
        ms = medians(calls | spikingjelly(time_steps, columns, torch.float32), rounds)
        rows.append({"workload": f"LIF T={time_steps}, {elements} elements", "ms": ms})
    return rows


def latency(rounds: int, sizes: Sizes) -> list[dict[str, Any]]:
    """B = 10, T = 1000 for layers of 1 to 10,000 neurons; also from a CUDA graph, and in plain torch."""
    rows = []
    for neurons in sizes.latency_neurons:
        steps, columns = sizes.latency_steps, 10 * neurons
        calls = both_ways(steps, columns, torch.float32, BACKEND)
        calls[f"{OURS}, CUDA graph"] = captured(calls[OURS])
        ms = medians(calls | spikingjelly(steps, columns, torch.float32), rounds)
        ms |= medians({"plain torch": plain(steps, columns)}, 3, target_ms=1.0)
        rows.append({"workload": f"LIF T={steps} B=10 N={neurons}", "ms": ms})
    return rows


def host_side(sizes: Sizes) -> dict[str, Any]:
    """How long a call keeps the host until its kernels are launched: the kernels' own, and through autograd."""
    params = numbers(0.9, 1.0, 1.0)
    x, first = torch.randn(1, 64, device="cuda"), [torch.zeros(64, device="cuda")]
    result = BACKEND.forward(SINABS_LIF, CONFIG, x, first, params, keep=True, record=False)
    assert result.kept is not None
    gradient = torch.randn(1, 64, device="cuda")
    held, incoming = Saved(None, result.kept, (None,), tuple(params)), Incoming(gradient, None, (None,), None, ())
    wanted = Wanted(True, (False,), (False, False, False))
    leaf = x.clone().requires_grad_()
    made: list[Tensor] = []

    def forward() -> None:
        BACKEND.forward(SINABS_LIF, CONFIG, x, first, params, keep=True, record=False)

    def record() -> None:
        made.append(run_unchecked(SINABS_LIF, BACKEND, CONFIG, leaf, first, params).out)

    def recorded() -> None:
        run_unchecked(SINABS_LIF, BACKEND, CONFIG, leaf, first, params)

    def backward() -> None:
        BACKEND.backward(SINABS_LIF, CONFIG, held, incoming, wanted, None)

    def differentiate() -> None:
        torch.autograd.grad(made.pop(), leaf, gradient)

    us = {
        "forward": host_us(forward, repeats=sizes.repeats),
        "backward": host_us(backward, repeats=sizes.repeats),
        "forward, recorded": host_us(recorded, repeats=sizes.repeats),
        "backward by autograd": host_us(differentiate, record, repeats=sizes.repeats),
    }
    return {"workload": "host side of a call, LIF T=1 N=64", "us": us}


def graph(sizes: Sizes) -> dict[str, Any]:
    """A training step replayed from a CUDA graph, on inputs that it was not captured with, against the step itself."""
    layer = nn.Linear(sizes.neurons, sizes.neurons).cuda()
    x = torch.randn(sizes.batch, sizes.neurons, device="cuda")
    first, params = [torch.zeros(sizes.neurons, device="cuda")], numbers(0.9, 1.0, 1.0)
    weights = list(layer.parameters())

    def step() -> tuple[Tensor, ...]:
        out = run_unchecked(SINABS_LIF, BACKEND, CONFIG, layer(x), first, params).out
        return out, *torch.autograd.grad((out * out).sum(), weights)

    found: list[tuple[Tensor, ...]] = []
    replay = captured(lambda: found.append(step()))
    differences = []
    for _ in range(3):
        x.copy_(torch.randn_like(x))
        replay()
        pairs = zip(found[-1], step(), strict=True)
        differences.append([float((a - b).detach().abs().max()) for a, b in pairs])
    same = all(d == 0 for row in differences for d in row)
    return {"workload": "Linear and LIF, a training step", "same": same, "largest_differences": differences}
