"""While a CUDA graph is captured, nothing is kept that the graph has made: it holds no numbers before a replay.

torch's "meta" device stands for the GPU, and `torch.cuda.is_current_stream_capturing` says what it is told to.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel import backends
from plugin_accel.errors import InputError
from plugin_accel.hosts import constants, norse_step
from plugin_accel.layers import EGRU
from plugin_accel.layers.egru_call import Inputs, Options, check_lengths

from .fake import FakeDevice
from .test_hosts import NORSE, SINABS, SNNTORCH, device, norse, sl, snn, snntorch_host

__all__ = ["device"]


@pytest.fixture(scope="module", autouse=True)
def few_objects() -> Iterator[None]:
    """All that there is before these tests is not looked through again and again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class _Capture:
    def __init__(self) -> None:
        self.on = False


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch, device: FakeDevice) -> Iterator[_Capture]:
    state = _Capture()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state.on)
    monkeypatch.setattr(constants, "_known", {})
    backends.forget_choices()
    yield state
    backends.forget_choices()


MORE: dict[str, Callable[[], nn.Module]] = {
    "StateLeaky": lambda: snn.StateLeaky(beta=0.9, channels=3),
    "StateLeaky, learned": lambda: snn.StateLeaky(beta=torch.rand(3), channels=3, learn_beta=True),
    "LinearLeaky": lambda: snn.LinearLeaky(beta=0.9, in_features=3, out_features=3),
    "LeakyParallel": lambda: snn.LeakyParallel(3, 3),
    "EGRU": lambda: EGRU(3, 3, zoneout=0.1),
}
LAYERS = {
    **{f"sinabs {name}": make for name, make in SINABS.items()},
    **{f"snnTorch {name}": make for name, make in SNNTORCH.items() if "inhibition" not in name},
    **{f"Norse {name}": make for name, make in NORSE.items()},
    **MORE,
}


def made(name: str) -> nn.Module:
    layer = LAYERS[name]()
    return (layer if name == "EGRU" else plugin_accel.convert(layer)).to("meta")


def input_of(name: str) -> Tensor:
    single = name.startswith("snnTorch") or name.endswith("Cell")
    return torch.empty((2, 3) if single else (5, 2, 3), device="meta", requires_grad=True)


def train(layer: nn.Module, x: Tensor) -> None:
    for _ in range(2):
        out = layer(x)
        (out[0] if isinstance(out, tuple) else out).sum().backward()
        for m in layer.modules():
            for name, state in m._buffers.items():
                if state is not None:
                    m._buffers[name] = state.detach()


def there() -> dict[int, Tensor]:
    gc.collect()
    found = [t for t in gc.get_objects() if issubclass(type(t), Tensor)]  # isinstance would ask proxies for their class
    return {id(t): t for t in found if t.device.type == "meta"}


def left_by(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Tensors that a training step leaves behind, but for those of the layer."""
    before = there()
    train(layer, x)
    for m in layer.modules():  # with their graphs
        vars(m).update({name: None for name in ("recordings", "firing_rate") if name in vars(m)})
    known = {id(t) for t in (x.grad, *layer.parameters(), *layer.buffers(), *[p.grad for p in layer.parameters()])}
    # what the hosts keep themselves
    known |= {id(v) for m in layer.modules() for v in vars(m).values() if isinstance(v, Tensor)}
    known |= {id(t) for m in layer.modules() for t, _ in getattr(m, "_counts", ())}
    return [t for key, t in there().items() if key not in before and key not in known]


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_nothing_that_a_graph_has_made_is_kept(name: str, warm: bool, capture: _Capture) -> None:
    torch.manual_seed(0)
    layer, x = made(name), input_of(name)
    if warm and name != "LeakyParallel":  # which looks at its weights
        train(layer, x)
    capture.on = True
    assert not left_by(layer, x)
    assert warm or not constants._known


@pytest.mark.parametrize("name", [n for n in LAYERS if n != "LeakyParallel"])
def test_a_captured_step_copies_nothing_from_the_cpu(
    name: str, capture: _Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer, x = made(name), input_of(name)
    train(layer, x)
    moved: list[Any] = []
    to, tensor = Tensor.to, torch.tensor

    def watched(t: Tensor, *arguments: Any, **options: Any) -> Tensor:
        result = to(t, *arguments, **options)
        moved.extend([arguments] if t.device != result.device else [])
        return result

    def from_python(*arguments: Any, **options: Any) -> Tensor:
        result = tensor(*arguments, **options)
        moved.extend([arguments] if result.device.type == "meta" else [])
        return result

    monkeypatch.setattr(Tensor, "to", watched)
    monkeypatch.setattr(torch, "tensor", from_python)
    capture.on = True
    train(layer, x)
    assert not moved


def test_what_a_graph_may_read_stays(capture: _Capture) -> None:
    """Numbers of a layer are kept for good, whatever becomes of the layer's plans."""
    cell = plugin_accel.convert(norse.LIFCell())
    x = torch.empty(2, 3, device="meta")
    with torch.no_grad():
        state = cell(x)[1]
        cell(x, state)
    params = norse_step._plans[cell].params
    cell(torch.empty(4, 3, device="meta"))
    assert params
    assert all(any(p is kept for kept in constants._known.values()) for p in params)
    kept = constants.constant(0.25, torch.float32, x.device)
    for i in range(3000):
        constants.constant(float(i), torch.float32, x.device)
    assert constants.constant(0.25, torch.float32, x.device) is kept


def test_looking_at_weights_does_not_wait(capture: _Capture) -> None:
    """`meta` gives no value back: these layers look at none, in a graph or not."""
    for name in ("StateLeaky", "StateLeaky, learned", "LinearLeaky"):
        layer, x = plugin_accel.convert(LAYERS[name]()).to("meta"), input_of(name)
        for capture.on in (False, True):
            train(layer, x)
            assert snntorch_host.last_fallback(layer) is None, name
    parallel = plugin_accel.convert(snn.LeakyParallel(3, 3)).to("meta")
    parallel(input_of("LeakyParallel"))
    assert "captured" in str(snntorch_host.last_fallback(parallel))


def test_first_use_in_double(capture: _Capture) -> None:
    """sinabs's own first states are zeros, which nobody has to look at."""
    sinabs_host = pytest.importorskip("plugin_accel.hosts.sinabs")
    x = torch.empty(2, 5, 3, device="meta", dtype=torch.float64)
    for make in (sl.IAF, lambda: sl.LIF(tau_mem=20.0, tau_syn=5.0), lambda: sl.ALIF(tau_mem=20.0, tau_adapt=10.0)):
        layer = plugin_accel.convert(make()).to("meta")
        layer(x)
        assert sinabs_host.last_fallback(layer) is None
        assert layer.v_mem.dtype is torch.float64
    layer = plugin_accel.convert(sl.IAF()).to("meta")
    layer(x.float())
    capture.on = True
    layer(x)
    assert "captured" in str(sinabs_host.last_fallback(layer))


def test_lengths_do_not_go_into_a_graph(capture: _Capture) -> None:
    x = torch.empty(5, 2, 3, device="meta")
    inputs, one = Inputs(x, *[x] * 8), torch.ones(1)
    options = Options(one, one, None, torch.tensor([5, 2]), 1.0)
    check_lengths(inputs, options)
    capture.on = True
    check_lengths(inputs, options._replace(lengths=None))
    with pytest.raises(InputError, match="graph is captured"):
        check_lengths(inputs, options)


def test_a_loop_is_not_recorded_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    on = [False]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: on[0])

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = snn.Leaky(beta=0.9)

        def forward(self, x: Tensor) -> Tensor:
            mem, out = torch.zeros_like(x[0]), []
            for x_t in x:
                spikes, mem = self.cell(x_t, mem)
                out.append(spikes)
            return torch.stack(out)

    x = torch.rand(4, 2, 3)
    wanted = Net()(x)
    net: Any = plugin_accel.convert(Net(), fuse_time=True)
    on[0] = True
    for _ in range(4):
        assert torch.equal(net(x), wanted)
    engine = net.__dict__[plugin_accel.conversion.fusion.guards.ENGINE]
    assert engine.fused_calls == 0
    assert "captured" in str(engine.reason)
    on[0] = False
    for _ in range(3):
        net(x)
    on[0] = True
    assert torch.equal(net(x), wanted)
    assert engine.fused_calls == 2
