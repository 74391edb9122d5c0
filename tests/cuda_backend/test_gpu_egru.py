"""On a GPU: EGRU's kernels against the reference, in a CUDA graph, without waiting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from plugin_accel.backends.cuda import BACKEND
from plugin_accel.layers import EGRU
from plugin_accel.layers.egru_call import Inputs, Options
from plugin_accel.layers.egru_ops import choose, run

from .egru_shared import CASES, RESULTS, case, upstream

MISSING = BACKEND.unavailable()

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]


def on_gpu(inputs: Inputs, options: Options) -> tuple[Inputs, Options]:
    """But for the lengths, which stay on the CPU."""
    moved = Inputs(*(t.detach().cuda().requires_grad_() for t in inputs))
    mask = None if options.mask is None else options.mask.cuda()
    return moved, options._replace(dampening=options.dampening.cuda(), support=options.support.cuda(), mask=mask)


def both_ways(inputs: Inputs, options: Options, backend: str) -> tuple[Any, tuple[Tensor, ...]]:
    result = run(inputs, options, record=True, backend=backend)
    return result, torch.autograd.grad(result[:7], inputs, [g.to(inputs.x.device) for g in upstream(result)])


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("shape", [(9, 5, 4, 7), (9, 5, 19, 50), (30, 5, 33, 513)], ids=str)
def test_double_equals_the_reference(shape: tuple[int, int, int, int], options: dict[str, Any]) -> None:
    cpu = case(*shape, **options)
    want, want_grads = both_ways(*cpu, "reference")
    got, grads = both_ways(*on_gpu(*cpu), "cuda")
    assert got.o.cpu().equal(want.o)
    assert got.counts.tolist() == want.counts.tolist()
    for name in RESULTS:
        torch.testing.assert_close(getattr(got, name).cpu(), getattr(want, name), rtol=1e-11, atol=1e-12)
    for name, g, w in zip(Inputs._fields, grads, want_grads, strict=True):
        assert float((g.cpu() - w).abs().max() / w.abs().max()) < 1e-10, name


def test_data_on_a_gpu_takes_the_kernels() -> None:
    assert choose(torch.device("cuda", 0), torch.float32)[0] == "cuda"


def test_the_same_bits_again() -> None:
    inputs, options = on_gpu(*case(40, 33, 16, 200, dtype=torch.float32, zoneout=0.1))
    (once, g_once), (again, g_again) = (both_ways(inputs, options, "cuda") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip((*once, *g_once), (*again, *g_again), strict=True))


@pytest.mark.parametrize("lengths", [None, [12, 3, 7, 1]])
def test_nothing_waits_for_the_gpu(lengths: list[int] | None) -> None:
    layer = EGRU(6, 32, zoneout=0.1, dropout=0.1, grad_clip=1.0, num_layers=2).cuda()
    x = torch.randn(12, 4, 6, device="cuda")
    given = None if lengths is None else torch.tensor(lengths)
    for mode in ("default", "error"):
        torch.cuda.set_sync_debug_mode(mode)
        try:
            layer(x, lengths=given)[0].sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_graph_of_a_training_step() -> None:
    torch.manual_seed(0)
    layer = EGRU(6, 32).cuda()
    x = torch.randn(20, 4, 6, device="cuda", requires_grad=True)

    def step() -> tuple[Tensor, ...]:
        y, (_, _, trace) = layer(x)
        return y, *torch.autograd.grad(y.sum() + trace.sum(), [x, *layer.parameters()])

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
        with torch.no_grad():
            x.copy_(torch.randn_like(x))
        graph.replay()
        replayed = [t.clone() for t in captured]
        assert replayed[0].any()
        for a, b in zip(replayed, step(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
