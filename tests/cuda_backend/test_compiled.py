"""What torch.compile makes of converted layers on a GPU, by fake tensors: our ops, and nothing of the CPU.

Inference is traced with fake tensors on "cuda". For those torch's autograd wants a torch that has CUDA, so that
training is traced on "meta".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import plugin_accel

from .fake import FakeDevice
from .test_hosts import device, norse, sl, snn

__all__ = ["device"]

pytestmark = pytest.mark.one_graph

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
SEQUENCE, STEP = (2, 5, 3), (2, 3)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "sinabs_lif": (lambda: sl.LIF(tau_mem=20.0, tau_syn=4.0, min_v_mem=-1.0), SEQUENCE),
    "sinabs_lif, IAF": (sl.IAF, SEQUENCE),
    "sinabs_alif": (lambda: sl.ALIF(tau_mem=20.0, tau_adapt=10.0), SEQUENCE),
    "snntorch_leaky": (lambda: snn.Leaky(beta=0.9, init_hidden=True), STEP),
    "norse_lif": (norse.LIFCell, STEP),
}


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """snnTorch keeps every layer, and `utils.reset` would make tensors where theirs are."""
    yield
    snn.SpikingNeuron.instances.clear()


def compiled(name: str, layer: nn.Module, x: Tensor, train: bool) -> tuple[Tensor, list[tuple[str, Any]]]:
    """The output of a converted layer with tensors where `x` is, and the graphs that were made of it."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    graphs: list[tuple[str, Any]] = []

    def kept(kind: str) -> Callable[[Any, Any], Any]:
        def compiler(graph: Any, inputs: Any) -> Any:
            graphs.append((kind, graph))
            return make_boxed_func(graph.forward)

        return compiler

    torch._dynamo.reset()
    for p_name, p in layer._parameters.items():
        if p is not None:
            made = torch.empty(p.shape, dtype=p.dtype, device=x.device)
            layer._parameters[p_name] = nn.Parameter(made, requires_grad=train and p.requires_grad)
    for b_name, b in layer._buffers.items():
        if b is not None:
            layer._buffers[b_name] = torch.empty(b.shape, dtype=b.dtype, device=x.device)
    run = torch.compile(
        layer,
        fullgraph=True,
        backend=aot_autograd(
            fw_compiler=kept("forward"), bw_compiler=kept("backward"), inference_compiler=kept("alone")
        ),
    )
    state = ()
    if name.startswith("norse"):  # which Norse's own start, made in forward, is not to be traced
        zeros = torch.zeros(STEP, device=x.device)
        state = (norse.functional.lif.LIFFeedForwardState(zeros, zeros.clone()),)
    with torch.set_grad_enabled(train):
        out = run(x, *state)
    return out[0] if isinstance(out, tuple) else out, graphs


def ops_of(graph: Any) -> list[Any]:
    return [n for n in graph.graph.nodes if n.op == "call_function" and "plugin_accel" in str(n.target)]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [F32, F16, BF16])
@pytest.mark.parametrize("name", LAYERS)
def test_inference(name: str, dtype: torch.dtype, autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if autocast and dtype is not F16:
        pytest.skip("once is enough")
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    layer = plugin_accel.convert(LAYERS[name][0]())
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(LAYERS[name][1], dtype=dtype, device="cuda")
        with torch.autocast("cuda", dtype=F16) if autocast else nullcontext():
            out, ((kind, graph),) = compiled(name, layer, x, False)
    assert kind == "alone"
    assert (out.shape, out.stride(), out.dtype, out.device) == (x.shape, x.stride(), F32, x.device)
    (op,) = ops_of(graph)
    assert op.target.name() == f"plugin_accel::{name.split(',', maxsplit=1)[0]}"
    spikes = op.meta["val"][0]
    assert (spikes.shape, spikes.stride(), spikes.dtype, spikes.device) == (x.shape, x.stride(), F32, x.device)
    if name not in ("norse_lif", "sinabs_alif"):  # which have numbers on the CPU by their hosts
        values = [n.meta["val"] for n in graph.graph.nodes if isinstance(n.meta.get("val"), Tensor)]
        assert {v.device.type for v in values} == {"cuda"}


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("name", LAYERS)
def test_training(name: str, dtype: torch.dtype, device: FakeDevice) -> None:
    x = torch.empty(LAYERS[name][1], dtype=dtype, device="meta", requires_grad=True)
    out, _ = made = compiled(name, plugin_accel.convert(LAYERS[name][0]()), x, True)
    out.sum().backward()
    graphs = dict(made[1])
    assert (out.shape, out.stride(), out.dtype) == (x.shape, x.stride(), F32)
    assert x.grad is not None
    assert (x.grad.stride(), x.grad.dtype) == (x.stride(), dtype)
    (forward,), (backward,) = ops_of(graphs["forward"]), ops_of(graphs["backward"])
    own = name.split(",", maxsplit=1)[0]
    assert forward.target.name() == f"plugin_accel::{own}"
    assert backward.target.name() == f"plugin_accel::{own}_backward"


def test_what_a_mode_makes_is_not_kept(device: FakeDevice) -> None:
    """Numbers made for a layer that is called with fake tensors are fake themselves."""
    layers = [plugin_accel.convert(sl.LIF(tau_mem=20.5)), plugin_accel.convert(sl.IAF())]
    cell = plugin_accel.convert(norse.LIFCell())
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for made in layers:
            made(torch.empty(SEQUENCE))
        cell(torch.empty(STEP))
    layer = plugin_accel.convert(sl.LIF(tau_mem=20.5))
    x = torch.rand(SEQUENCE)
    assert torch.equal(layer(x), sl.LIF(tau_mem=20.5)(x))
    assert torch.equal(cell(x[0, :2])[0], norse.LIFCell()(x[0, :2])[0])
    x = torch.empty(SEQUENCE, device="meta")
    assert type(plugin_accel.convert(sl.IAF()).to("meta")(x)) is Tensor
