"""`convert(fuse_time=True)` keeps to the rules of conversion: nothing changes but how the forward runs."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import weakref

import pytest
import snntorch as snn
import torch
from torch import nn

import plugin_accel
from plugin_accel.conversion.fusion import engine_of
from tests.fusion.base import B, N, T, grid
from tests.fusion.forms import Static


def surrogate(z: torch.Tensor) -> torch.Tensor:
    """One that can be pickled, and fires at the threshold, too, so that no kernel can go with it."""
    return torch.heaviside(z.detach(), torch.ones(())) + (z - z.detach()) * 0.5


class Named(Static):
    """A docstring of its own."""

    def __init__(self) -> None:
        super().__init__(spike_grad=surrogate)


def x_of(seed: int = 0) -> torch.Tensor:
    return torch.randint(-2, 6, (B, N), generator=torch.Generator().manual_seed(seed)) / 4


def status(net: nn.Module) -> str:
    return plugin_accel.report(net).loops[0].status


def test_class_and_signature_stay() -> None:
    plain, net = grid(Named()), grid(Named())
    parameters, keys = list(net.parameters()), list(net.state_dict())
    assert plugin_accel.convert(net, fuse_time=True) is net
    cls = type(net)
    assert isinstance(net, Named) and cls is not Named
    assert (cls.__name__, cls.__qualname__, cls.__module__, cls.__doc__) == (
        Named.__name__,
        Named.__qualname__,
        Named.__module__,
        Named.__doc__,
    )
    assert inspect.signature(net.forward) == inspect.signature(plain.forward)
    assert repr(net) == repr(plain)
    assert list(net.state_dict()) == keys
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert type(plugin_accel.convert(grid(Named()), fuse_time=True)) is cls


def test_restore() -> None:
    net = grid(Named())
    before = set(vars(net))
    plugin_accel.convert(net, fuse_time=True)
    for _ in range(3):
        expected = net(x_of())
    assert plugin_accel.restore(net) is net
    assert type(net) is Named and set(vars(net)) == before
    assert not plugin_accel.report(net).loops
    assert torch.equal(net(x_of())[0], expected[0])


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "convert"])
def test_copies_start_anew(how: str) -> None:
    net = grid(Named())
    if how != "convert":
        plugin_accel.convert(net, fuse_time=True)
        with torch.no_grad():
            for _ in range(3):
                net(x_of())
    if how == "deepcopy":
        other = copy.deepcopy(net)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(net))
    else:
        other = plugin_accel.convert(net, copy=True, fuse_time=True)
        assert type(net) is Named
    assert engine_of(other) is not engine_of(net)
    with torch.no_grad():
        other.fc1.weight.zero_()
        for call in range(4):
            a, b = other(x_of(call)), net(x_of(call))
            assert not torch.equal(a[1], b[1])
    assert status(other) == "fused"
    assert torch.count_nonzero(net.fc1.weight)


def test_shallow_copy_has_its_own_weights() -> None:
    """As the replicas of DataParallel."""
    net = plugin_accel.convert(grid(Named()), fuse_time=True)
    for _ in range(3):
        net(x_of())
    replica = net._replicate_for_data_parallel()
    replica.fc1 = nn.Linear(N, 6)
    replica.lif1, replica.fc2, replica.lif2 = net.lif1, net.fc2, net.lif2
    assert not torch.equal(replica(x_of())[1], net(x_of())[1])


def test_optimizer_and_state_dict() -> None:
    nets = [grid(Named()), plugin_accel.convert(grid(Named()), fuse_time=True)]
    optimizers = [torch.optim.Adam(net.parameters(), 0.125) for net in nets]
    for call in range(5):
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            net(x_of(call))[1].sum().backward()
            optimizer.step()
    for a, b in zip(*(net.state_dict().values() for net in nets), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert status(nets[1]) == "fused"
    nets[1].load_state_dict(grid(Named()).state_dict())
    assert torch.equal(nets[1](x_of())[1], grid(Named())(x_of())[1])


def test_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snn.SpikingNeuron, "instances", [])  # snnTorch itself keeps every neuron
    net = plugin_accel.convert(grid(Named()), fuse_time=True)
    for _ in range(3):
        net(x_of())
    gone = weakref.ref(net)
    snn.SpikingNeuron.instances.clear()
    del net
    gc.collect()
    assert gone() is None


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    net = plugin_accel.convert(grid(Named()), fuse_time=True, explain=True)
    net(x_of())
    assert capsys.readouterr().out == ""
    net(x_of())
    shown = capsys.readouterr().out
    assert "calls before" in shown and f"{T}             1" in shown and "once: the same at every step" in shown
    net(x_of())  # a layer refuses, which is known only now
    shown = capsys.readouterr().out
    assert "lif1 Leaky  4             4            step by step: spike_grad surrogate does not give 1" in shown
    net(x_of())
    assert capsys.readouterr().out == ""


def test_report() -> None:
    net = plugin_accel.convert(grid(Named()), fuse_time=True)
    row = plugin_accel.report(net).rows[0]
    assert (row.names, row.host_class, row.host, row.status) == (("",), "Named", "time fusion", "unfused")
    assert row.reasons == ("not called yet", "0 of 0 calls ran fused")
    for _ in range(3):
        net(x_of())
    assert plugin_accel.report(net).rows[0].reasons == ()
    assert "fused" in str(plugin_accel.report(net))


def test_what_cannot_be_fused_is_told() -> None:
    net = grid(Named())
    net.forward = lambda x: x
    with pytest.warns(plugin_accel.errors.PluginAccelWarning, match="`forward` is replaced on the instance"):
        plugin_accel.convert(net, fuse_time=True)


def test_wrapped() -> None:
    wrapped = nn.DataParallel(grid(Named()))
    plugin_accel.convert(wrapped, fuse_time=True)
    for _ in range(3):
        wrapped(x_of())
    assert plugin_accel.report(wrapped).loops[0].names == ("module",) and status(wrapped) == "fused"


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_compile_takes_the_users_forward() -> None:
    net = plugin_accel.convert(grid(Named()), fuse_time=True)
    compiled = torch.compile(net, backend="eager")
    for call in range(3):
        assert torch.equal(compiled(x_of(call))[0], grid(Named())(x_of(call))[0])
