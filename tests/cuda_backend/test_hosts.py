"""Converted layers on a device that is not the CPU: nothing of a call is left behind there, and nothing waits for it.

torch's "meta" device stands for the GPU: it refuses to mix with data on the CPU and to give a value back to Python.
"""

from __future__ import annotations

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
