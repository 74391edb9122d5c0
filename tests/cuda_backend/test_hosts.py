"""Converted layers on a device that is not the CPU: nothing of a call is left behind there, and nothing waits for it.

torch's "meta" device stands for the GPU: it refuses to mix with data on the CPU and to give a value back to Python.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel import backends, plugins
from plugin_accel.backends.cuda import CudaBackend

from .fake import FakeDevice, Plugin

sa = pytest.importorskip("sinabs.activation")
sl = pytest.importorskip("sinabs.layers")
snn = pytest.importorskip("snntorch")
sinabs_host = pytest.importorskip("plugin_accel.hosts.sinabs")
norse = pytest.importorskip("norse.torch")
norse_host = pytest.importorskip("plugin_accel.hosts.norse")
snntorch_host = pytest.importorskip("plugin_accel.hosts.snntorch")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDevice]:
    fake = FakeDevice()
    plugin = Plugin(CudaBackend(fake))
    plugins.manager().unregister(name="cuda")  # one backend of this name at a time
    plugins.manager().register(plugin, "cuda")
    yield fake
    plugins.manager().unregister(plugin)
    plugins.manager().register(__import__("plugin_accel.backends.cuda", fromlist=["cuda"]), "cuda")
    backends.forget_choices()


SINABS = {
    "LIF": lambda: sl.LIF(tau_mem=20.0, tau_syn=5.0, min_v_mem=-1.0, norm_input=True),
    "LIF, recorded": lambda: sl.LIF(tau_mem=20.0, record_states=True, reset_fn=sa.MembraneReset(reset_value=0.1)),
    "LIF, trained": lambda: sl.LIF(tau_mem=20.0, train_alphas=True),
    "IAF": sl.IAF,
    "ExpLeak": lambda: sl.ExpLeak(tau_mem=20.0),
    "ALIF": lambda: sl.ALIF(tau_mem=20.0, tau_adapt=10.0, tau_syn=5.0),
    "LIFRecurrent": lambda: sl.LIFRecurrent(tau_mem=20.0, rec_connect=nn.Linear(3, 3)),
}
SNNTORCH = {
    "Leaky": lambda: snn.Leaky(beta=0.9, init_hidden=True),
    "Leaky, learned": lambda: snn.Leaky(beta=0.9, init_hidden=True, learn_beta=True, learn_threshold=True),
    "Leaky, inhibition": lambda: snn.Leaky(beta=0.9, init_hidden=True, inhibition=True),
    "Lapicque": lambda: snn.Lapicque(beta=0.9, init_hidden=True),
    "Synaptic": lambda: snn.Synaptic(alpha=0.9, beta=0.8, init_hidden=True),
    "Alpha": lambda: snn.Alpha(alpha=0.9, beta=0.8, init_hidden=True),
    "RLeaky": lambda: snn.RLeaky(beta=0.9, linear_features=3, init_hidden=True),
}


def check(layer: nn.Module, x: Tensor, fake: FakeDevice, calls: int, host: object) -> None:
    layer = plugin_accel.convert(layer).to("meta")
    for _ in range(calls):
        out = layer(x)
        assert host.last_fallback(layer) is None  # type: ignore[attr-defined]
    assert out.device == x.device
    assert out.dtype is torch.float32
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.device == x.device
    assert x.grad.dtype is x.dtype
    assert fake.loads > 1


@pytest.mark.parametrize("low", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", SINABS)
def test_sinabs(name: str, low: torch.dtype, device: FakeDevice) -> None:
    check(SINABS[name](), torch.empty(2, 5, 3, device="meta", dtype=low, requires_grad=True), device, 1, sinabs_host)


@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")
@pytest.mark.parametrize("name", SNNTORCH)
def test_snntorch(name: str, device: FakeDevice) -> None:
    x = torch.empty(2, 3, device="meta", requires_grad=True)
    check(SNNTORCH[name](), x, device, 3, snntorch_host)


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """Of all that a call leaves for backward, numbers apart."""
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if t.dim():
            kept[id(t)] = t.numel() * t.element_size()
        alive.append(t)  # else another may come to have its number
        return t

    alive: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    return sum(kept.values())


@pytest.mark.parametrize("low", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["LIF", "LIF, norm", "IAF", "ExpLeak", "LIF, syn", "ALIF"])
def test_what_is_kept_for_backward(name: str, low: torch.dtype, device: FakeDevice) -> None:
    """The membrane before the reset, or the input and the states at the beginning: of 16 bits, or what is replayed."""
    make, states = {
        "LIF": (lambda: sl.LIF(tau_mem=20.0, norm_input=False), 1),
        "LIF, norm": (lambda: sl.LIF(tau_mem=20.0), 1),
        "IAF": (sl.IAF, 1),
        "ExpLeak": (lambda: sl.ExpLeak(tau_mem=20.0, norm_input=False), 1),
        "LIF, syn": (lambda: sl.LIF(tau_mem=20.0, tau_syn=5.0, norm_input=False), 2),
        "ALIF": (lambda: sl.ALIF(tau_mem=20.0, tau_adapt=5.0), 2),
    }[name]
    layer = plugin_accel.convert(make()).to("meta")
    x = torch.empty(8, 50, 16, device="meta", dtype=low, requires_grad=True)
    for p in layer.parameters():
        p.requires_grad_(False)
    for _ in range(2):  # the general way, then the quick one
        for n, state in layer._buffers.items():
            layer._buffers[n] = state.detach()
        found = saved_bytes(layer, x)
        replayed = states > 1 or low is not torch.float32
        assert found == x.element_size() * x.numel() + (states * 8 * 16 * 4 if replayed else 0)
        with torch.no_grad():
            assert saved_bytes(layer, x.detach()) == 0
    assert sinabs_host.last_fallback(layer) is None


@pytest.mark.parametrize("low", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["LIF", "LI"])
def test_what_norse_keeps_for_backward(name: str, low: torch.dtype, device: FakeDevice) -> None:
    layer = plugin_accel.convert(NORSE[name]()).to("meta")
    x = torch.empty(50, 8, 16, device="meta", dtype=low, requires_grad=True)
    expected = 4 * x.numel() if low is torch.float32 else 2 * x.numel() + 2 * 8 * 16 * 4
    assert saved_bytes(layer, x) == expected
    assert norse_host.last_fallback(layer) is None


def test_a_surrogate_that_is_a_callable_has_the_membrane_kept(device: FakeDevice) -> None:
    layer = plugin_accel.convert(sl.IAF(surrogate_grad_fn=lambda v, threshold: torch.exp(-((v - threshold) ** 2))))
    x = torch.empty(8, 50, 16, device="meta", dtype=torch.float16, requires_grad=True)
    assert saved_bytes(layer.to("meta"), x) == 4 * x.numel()
    assert sinabs_host.last_fallback(layer) is None


def test_an_input_changed_before_backward_is_an_error(device: FakeDevice) -> None:
    """It is all that is kept, so that torch has to say so."""
    layer = plugin_accel.convert(sl.IAF()).to("meta")
    x = torch.empty(8, 50, 16, device="meta", dtype=torch.float16, requires_grad=True) * 1.0
    out = layer(x)
    x.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


NORSE = {
    "LIF": norse.LIF,
    "LI": norse.LI,
    "LSNN": norse.LSNN,
    "LIFAdEx": norse.LIFAdEx,
    "LIFRecurrent": lambda: norse.LIFRecurrent(3, 3),
    "LSNNRecurrent": lambda: norse.LSNNRecurrent(3, 3),
    "LIFRecurrentCell": lambda: norse.LIFRecurrentCell(3, 3),
    "LSNNRecurrentCell": lambda: norse.LSNNRecurrentCell(3, 3),
    "LIFRefracRecurrentCell": lambda: norse.LIFRefracRecurrentCell(3, 3),
    "LIFCell": norse.LIFCell,
    "LICell": norse.LICell,
    "LIFBoxCell": norse.LIFBoxCell,
    "LIFAdExCell": norse.LIFAdExCell,
    "LIFRefracCell": norse.LIFRefracCell,
}


def run_norse(name: str, device: FakeDevice) -> tuple[int, Counter[str]]:
    """How many kernels the second training step of a converted layer launches, and how often it calls what of torch."""
    layer = plugin_accel.convert(NORSE[name]()).to("meta")
    shape = (2, 3) if name.endswith("Cell") else (5, 2, 3)
    x = torch.empty(shape, device="meta", requires_grad=True)
    for _ in range(2):
        before = device.launches
        with torch.autograd.profiler.profile() as profile:
            out, state = layer(x)
            out.sum().backward()
        launches = device.launches - before
    assert norse_host.last_fallback(layer) is None
    assert out.device == x.device
    # the input reaches LSNN's spikes a step later, in Norse too
    assert (x.grad is None) == (name == "LSNNRecurrentCell")
    layer(x.detach(), state)  # carried on
    assert norse_host.last_fallback(layer) is None
    return launches, Counter(e.name for e in profile.function_events)


@pytest.mark.parametrize("name", NORSE)
def test_norse(name: str, device: FakeDevice) -> None:
    """Norse's parameters stay numbers on the CPU: they are copied to the device once, not at every call.

    Nor does the gradient of the state that Norse starts from come back to the CPU, which "meta" does not do.
    """
    _, calls = run_norse(name, device)
    assert calls["aten::empty_like"] > 0
    assert not calls["aten::_to_copy"]


@pytest.mark.parametrize("name", ["LIFRecurrent", "LSNNRecurrent"])
def test_recurrent_layers_are_one_product_and_one_kernel_a_step(name: str, device: FakeDevice) -> None:
    launches, calls = run_norse(name, device)
    assert launches == 5 + 5
    assert calls["aten::mm"] <= 5 + 5 + 4  # of steps forward and back, and of the weights and the input
