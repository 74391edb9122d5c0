"""On a GPU: the kernels against the `cpu` backend bit for bit, the layers against their hosts on the GPU.

And the rest that only a GPU shows: streams, graphs, no waiting, sizes beyond 32 bits.
"""

from __future__ import annotations

import copy
import dataclasses

import pytest
import sinabs.layers as sl
import snntorch as snn
import torch
from torch import Tensor, nn

import plugin_accel
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
]

WIDE = 1 << 20  # columns that fill any GPU, four to a thread


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
    given = (torch.randn(shape, device="cuda") * 2).to(low)
    weight = torch.randn(shape, device="cuda")
    found = []
    for layer in (host, ours):
        x = given.clone().requires_grad_()
        out = torch.stack([layer(x) for _ in range(3)])
        (out * weight).sum().backward()
        found.append((out, x.grad))
    (expected, g_expected), (out, g) = found
    assert torch.equal(out, expected) or name == "ExpLeak"
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    rtol = 1e-5 if low is torch.float32 else 2e-2
    torch.testing.assert_close(g, g_expected, rtol=rtol, atol=rtol)


def test_autocast() -> None:
    host = nn.Sequential(nn.Linear(16, 16), sl.LIF(tau_mem=20.0)).cuda()
    ours = plugin_accel.convert(copy.deepcopy(host))
    x = torch.randn(4, 50, 16, device="cuda") * 3
    with torch.autocast("cuda", torch.float16):
        expected, out = host(x), ours(x)
    assert torch.equal(out, expected)
    assert out.dtype is torch.float32


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return plugin_accel.convert(
        nn.Sequential(nn.Linear(32, 64), sl.IAF(), nn.Linear(64, 10), sl.LIF(tau_mem=20.0))
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
    config = SinabsConfig(surrogate=EXPONENTIAL)
    params = [torch.tensor(v, device="cuda", requires_grad=True) for v in (0.9, 1.0, 1.0)]
    first = [torch.zeros(8, 300, device="cuda")]
    x = torch.randn(8, 40, 300, device="cuda", requires_grad=True)

    def step() -> tuple[Tensor, ...]:
        result = run_unchecked(SINABS_LIF, BACKEND, config, x, first, params)
        return result.out, *torch.autograd.grad(result.out.sum() + result.mean, [x, *params])

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


def test_the_current_stream_is_taken() -> None:
    """Behind two hundred milliseconds of other work on the same stream, the input is not read too early."""
    config = SinabsConfig(surrogate=EXPONENTIAL)
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


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_the_device_of_the_data_is_taken() -> None:
    compare_on = torch.device("cuda", 1)
    model = network().to(compare_on)
    loss = train_step(model, torch.randn(8, 40, 32, device=compare_on))
    assert loss.device == compare_on


def test_compiled_without_a_break() -> None:
    model, x = network(), torch.randn(8, 20, 32, device="cuda")
    expected = model(x)
    for layer in model.modules():
        if isinstance(layer, sl.StatefulLayer):
            layer.reset_states()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected)


def test_more_elements_than_32_bits_count() -> None:
    columns, time = (1 << 26) + 4, 33
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.skip("needs 40 GiB of GPU memory")
    config = dataclasses.replace(LIF.config, time_dim=0, surrogate=EXPONENTIAL)  # type: ignore[type-var]
    x = torch.full((time, columns), 0.3, device="cuda", dtype=torch.float16)
    params = [torch.tensor(v, device="cuda") for v in (1.0, 1.0, 1.0)]
    x[:, -1] = 0.6
    result = run_unchecked(SINABS_LIF, BACKEND, config, x, [torch.zeros(columns, device="cuda")], params)
    few = run_unchecked(SINABS_LIF, BACKEND, config, x[:, -8:], [torch.zeros(8, device="cuda")], params)
    assert torch.equal(result.out[:, -8:], few.out)
    assert torch.equal(result.out[:, :4], few.out[:, :4])
