"""On a GPU: the kernels against the `cpu` backend bit for bit, and what only a GPU shows.

That is streams, graphs, no waiting, several devices, sizes beyond 32 bits. No host is needed; see test_gpu_hosts.py.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from plugin_accel.backends.cuda import BACKEND
from plugin_accel.neurons import SINABS_LIF, SinabsConfig, run_unchecked

from .cases import CASES, EXPONENTIAL, LIF, SURROGATES, Case
from .comparison import BOTH, INNER, OUTER
from .test_emulated import SIZES, _with, compare

MISSING = BACKEND.unavailable()

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.usefixtures("baseline"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]

WIDE = 4 * BACKEND.runner.device.threads(0) if MISSING is None else 0  # columns that fill the GPU, four to a thread


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_kernels_as_on_the_cpu(case: Case) -> None:
    for size in SIZES:
        if size[1] or case.config.time_dim:
            compare(BACKEND, case, size)  # type: ignore[arg-type]
    compare(BACKEND, case, (1, 6, WIDE), record=False)
    compare(BACKEND, case, (4, 6, WIDE // 4), summed=True, record=False)


@pytest.mark.parametrize("per", [OUTER, INNER, BOTH])
def test_parameters_that_vary(per: str) -> None:
    for size in ((3, 11, 5), (1, 8, 1), (40, 3, 3), (700, 40, 513)):
        compare(BACKEND, CASES[1], size, per=per)


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: s.name)
def test_surrogates(surrogate: object) -> None:
    compare(BACKEND, LIF._replace(config=_with(LIF.config, surrogate)), (2, 21, 16))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", [CASES[2], CASES[5], CASES[8]], ids=lambda c: c.name)
def test_double(case: Case) -> None:
    compare(BACKEND, case, (3, 37, 31), dtype=torch.float64)


CONFIG = SinabsConfig(surrogate=EXPONENTIAL)


def training_step(x: Tensor, params: list[Tensor]) -> tuple[Tensor, ...]:
    """Output and all gradients of a LIF."""
    first = [torch.zeros(x.shape[0], *x.shape[2:], device=x.device)]
    result = run_unchecked(SINABS_LIF, BACKEND, CONFIG, x, first, params)
    assert result.mean is not None
    return result.out, *torch.autograd.grad(result.out.sum() + result.mean, [x, *params])


def leaves(device: str = "cuda") -> tuple[Tensor, list[Tensor]]:
    params = [torch.tensor(v, device=device, requires_grad=True) for v in (0.9, 1.0, 1.0)]
    return torch.randn(8, 40, 300, device=device, requires_grad=True), params


def test_nothing_waits_for_the_gpu() -> None:
    x, params = leaves()
    training_step(x, params)
    torch.cuda.set_sync_debug_mode("error")
    try:
        training_step(x, params)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_graph_of_a_training_step() -> None:
    x, params = leaves()

    def step() -> tuple[Tensor, ...]:
        return training_step(x, params)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for seed in range(3):
        torch.manual_seed(seed)
        with torch.no_grad():
            x.copy_(torch.randn_like(x))
        graph.replay()
        replayed = [t.clone() for t in captured]
        assert all(torch.equal(a, b) for a, b in zip(replayed, step(), strict=True))


def test_a_graph_takes_what_no_call_before_has_used() -> None:
    """A kernel that is compiled while a graph is captured; its plan serves calls outside afterwards."""
    x, params = leaves()
    training_step(x, params)  # torch's own first use of cuBLAS and the like
    other = torch.randn(3, 7, 129, device="cuda", requires_grad=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = training_step(other, params)
    graph.replay()
    replayed = [t.clone() for t in captured]
    del captured, graph
    assert all(torch.equal(a, b) for a, b in zip(replayed, training_step(other, params), strict=True))


def test_streams_side_by_side() -> None:
    """Two streams that are never made to wait for one another share plans and kernels, not memory."""
    given = [leaves() for _ in range(2)]
    wanted = [training_step(*g) for g in given]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in given]
    for _ in range(20):
        found = []
        for stream, g in zip(streams, given, strict=True):
            with torch.cuda.stream(stream):
                found.append(training_step(*g))
        torch.cuda.synchronize()
        for a, b in zip(found, wanted, strict=True):
            assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_the_device_of_the_data_is_taken() -> None:
    """While another is current, and with its own kernels."""
    x, params = leaves()
    there = x.detach().to("cuda:1").requires_grad_(), [p.detach().to("cuda:1").requires_grad_() for p in params]
    for a, b in zip(training_step(*there), training_step(x, params), strict=True):
        assert a.device == torch.device("cuda", 1)
        assert torch.equal(a.cpu(), b.cpu())


def test_the_current_stream_is_taken() -> None:
    """Behind two hundred milliseconds of other work on the same stream, the input is not read too early."""
    config = CONFIG
    params = [torch.tensor(v, device="cuda") for v in (0.9, 1.0, 1.0)]
    x = torch.zeros(8, 40, 300, device="cuda")
    filled = torch.randn_like(x)
    expected = run_unchecked(SINABS_LIF, BACKEND, config, filled, [x[:, 0].clone()], params).out
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(400_000_000)
        x.copy_(filled)
        out = run_unchecked(SINABS_LIF, BACKEND, config, x, [torch.zeros(8, 300, device="cuda")], params).out
    torch.cuda.synchronize()
    assert torch.equal(out, expected)


def test_more_elements_than_32_bits_count() -> None:
    columns, time = (1 << 26) + 4, 33
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.skip("needs 40 GiB of GPU memory")
    config = dataclasses.replace(LIF.config, time_dim=0, surrogate=EXPONENTIAL)  # type: ignore[type-var]
    x = torch.full((time, columns), 0.3, device="cuda", dtype=torch.float16)
    params = [torch.tensor(v, device="cuda") for v in (1.0, 1.0, 1.0)]
    x[:, -1] = 0.6
    one = torch.ones((), device="cuda")

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        first = [torch.zeros(x.shape[1], device="cuda")]
        out = run_unchecked(SINABS_LIF, BACKEND, config, x, first, params).out
        (g,) = torch.autograd.grad(out, x, one.expand(out.shape))
        return out.detach(), g

    result, few = both(x), both(x[:, -8:].contiguous())
    for t, u in zip(result, few, strict=True):
        assert u.any()
        assert torch.equal(t[:, -8:], u)
        assert torch.equal(t[:, :4], u[:, :4])
