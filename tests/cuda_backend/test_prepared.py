"""Layers by way of the prepared calls, their kernels emulated: what the `cpu` backend gives, to the last bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel import backends, plugins
from plugin_accel.backends import cuda_step
from plugin_accel.backends.cuda import CudaBackend

from .emulated import COMPILER, EmulatedDevice
from .fake import Plugin

sl = pytest.importorskip("sinabs.layers")
snn = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
    pytest.mark.usefixtures("baseline"),
]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CudaBackend]:
    backend = CudaBackend(EmulatedDevice(tmp_path_factory.mktemp("kernels")))
    backend.name = "emulated"
    plugin = Plugin(backend)
    plugins.manager().register(plugin)
    yield backend
    plugins.manager().unregister(plugin)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which prepared calls are made."""
    found: list[str] = []

    def watch(owner: type[Any], name: str) -> None:
        own = getattr(owner, name)

        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            found.append(f"{owner.__name__}.{name}")
            return own(self, *arguments, **options)

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (cuda_step.CudaStep, "made"),
        (cuda_step.CudaStep, "forward"),
        (cuda_step.CudaStep, "back"),
    ):
        watch(owner, name)
    return found


LAYERS = {
    "Leaky": (lambda: snn.Leaky(beta=0.9, init_hidden=True), (3, 7), "CudaStep"),
    "Leaky, learned": (lambda: snn.Leaky(beta=torch.rand(7), init_hidden=True, learn_beta=True), (3, 7), "CudaStep"),
    "RLeaky, one to one": (lambda: snn.RLeaky(beta=0.9, all_to_all=False, init_hidden=True), (3, 7), "CudaStep"),
    "LIFCell": (norse.LIFCell, (3, 7), "CudaStep"),
    "LIF": (lambda: sl.LIF(tau_mem=20.0, tau_syn=5.0, norm_input=False), (3, 11, 7), "CudaStep"),
    "LIF, bound": (lambda: sl.LIF(tau_mem=20.0, norm_input=True, min_v_mem=-0.5), (3, 11, 7), "CudaStep"),
    "ExpLeak": (lambda: sl.ExpLeak(tau_mem=20.0), (3, 11, 7), "CudaStep"),
    "IAF": (sl.IAF, (3, 11, 7), "CudaStep"),
    "Norse LIF": (norse.LIF, (11, 3, 7), "CudaStep"),
    "Norse LIF, learned": (
        lambda: norse.LIF(norse.LIFParameters(v_th=nn.Parameter(torch.tensor(0.7)))),
        (11, 3, 7),
        "",
    ),
    "Norse LI": (norse.LI, (11, 3, 7), "CudaStep"),
    "Norse LSNN": (norse.LSNN, (11, 3, 7), "CudaStep"),
}


def outcome(layer: nn.Module, x: Tensor, weight: Tensor | None) -> dict[str, Tensor]:
    """Of three calls that carry on, and of the gradients; without a weight the outputs' gradient is one number."""
    x = x.clone().requires_grad_()
    carried = type(layer).__module__.endswith("norse")
    out, state = [], None
    for x_t in x:
        made = layer(x_t, state) if carried else layer(x_t)
        made, state = made if isinstance(made, tuple) else (made, None)
        out.append(made)
    spikes = torch.stack(out)
    (spikes.sum() if weight is None else (spikes * weight).sum()).backward()
    with torch.no_grad():
        after = layer(x[0].detach(), state) if carried else layer(x[0].detach())
    found = {"out": spikes, "g x": x.grad, "after": after[0] if isinstance(after, tuple) else after}
    return found | {f"g {n}": p.grad for n, p in layer.named_parameters() if p.grad is not None}  # type: ignore[dict-item]


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, emulated: CudaBackend, taken: list[str]) -> None:
    make, shape, kind = LAYERS[name]
    torch.manual_seed(1)
    layer = plugin_accel.convert(make())
    x, weight = torch.randn(3, *shape) * 2, torch.randn(3, *shape)
    for given in (weight, None):
        with backends.use_backend("cpu"):
            wanted = outcome(copy.deepcopy(layer), x, given)
        assert not taken
        with backends.use_backend("emulated"):
            got = outcome(copy.deepcopy(layer), x, given)
        assert {t.split(".")[0] for t in taken} >= {kind} - {""}
        assert not kind or taken.count("CudaStep.back") >= 2
        assert "CudaStep.forward" not in taken  # which copies the parameters
        taken.clear()
        assert got.keys() == wanted.keys()
        for key, expected in wanted.items():
            exact = key.startswith(("out", "after", "g x"))
            tolerance = 0.0 if exact else 1e-5  # sums in another order
            torch.testing.assert_close(
                got[key], expected, rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}"
            )


@pytest.mark.parametrize("name", ["LIF", "IAF", "norm", "Norse LIF"])
def test_under_autocast(name: str, emulated: CudaBackend) -> None:
    """The products come in 16 bits: two bytes of each are kept, and the numbers are those of the `cpu` backend."""
    make = {"LIF": LAYERS["LIF"][0], "IAF": sl.IAF, "norm": lambda: sl.LIF(tau_mem=20.0), "Norse LIF": norse.LIF}[name]
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(8, 24), plugin_accel.convert(make()))
    data, weight = torch.randn(3, 40, 8) * 4, torch.randn(3, 40, 24)

    def outcome(backend: str) -> tuple[list[Tensor], int]:
        own = copy.deepcopy(model)
        kept: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            if t.shape == weight.shape:
                kept[t.data_ptr()] = t.element_size()
            return t

        with backends.use_backend(backend), torch.autocast("cpu", torch.bfloat16):
            x = own[0](data)
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                made = own[1](x)
            out = made[0] if isinstance(made, tuple) else made
            (out * weight).sum().backward()
        return [out, own[0].weight.grad, own[0].bias.grad], sum(kept.values())

    wanted, _ = outcome("cpu")
    got, bytes_kept = outcome("emulated")
    for expected, found in zip(wanted, got, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    learns = name == "norm"  # of the product of gain and input, torch keeps the input too
    assert bytes_kept == (4 if learns else 2)
