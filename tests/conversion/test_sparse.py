"""``convert(model, sparse=...)``: which layers are computed from spikes, and that nothing else changes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import norse.torch as norse
import pytest
import sinabs.layers as sl
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import plugin_accel
from plugin_accel.errors import ConversionError, PluginAccelWarning
from plugin_accel.layers import SpikeConv2d, SpikeLinear, spike_break_even, spike_call, spike_conv
from tests.conversion.sparse_nets import Net, rows, takers

BATCH, STEPS = 2, 3
POOLS: dict[str, Callable[[], nn.Module]] = {
    "max": lambda: nn.MaxPool2d(2),
    "average": lambda: nn.AvgPool2d(2),
    "sum": lambda: sl.SumPool2d(2),
    "dropout": lambda: nn.Dropout(0.3),
    "identity": lambda: nn.Sequential(nn.Identity(), nn.ReLU()),
    "norm": lambda: nn.GroupNorm(1, 4),
    "sigmoid": nn.Sigmoid,
}
KEEPS = {"max", "average", "sum", "dropout", "identity"}
NEURONS: dict[str, Callable[[], nn.Module]] = {
    "lif": lambda: sl.LIFSqueeze(tau_mem=5.0, batch_size=BATCH),
    "iaf": lambda: sl.IAFSqueeze(batch_size=BATCH),
    "leak": lambda: sl.ExpLeakSqueeze(tau_mem=5.0, batch_size=BATCH),
}


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nets of tests are small, and their spikes many."""
    monkeypatch.setattr(spike_conv, "LEAST_WORK", 0)
    monkeypatch.setattr(spike_call, "LEAST_WORK", 0)
    with spike_break_even(2.0):
        yield


def drawn(draw: Any) -> tuple[nn.Sequential, set[str]]:
    """A net, and the names of its layers that spikes come to."""
    layers: list[nn.Module] = []
    expected: set[str] = set()
    spikes = False
    for _ in range(draw(st.integers(1, 3))):
        if spikes:
            expected.add(str(len(layers)))
        layers.append(nn.Conv2d(4, 4, 3, padding=1))
        spikes = False
        if draw(st.booleans()):
            neuron = draw(st.sampled_from(sorted(NEURONS)))
            layers.append(NEURONS[neuron]())
            spikes = neuron != "leak"
        for kind in draw(st.lists(st.sampled_from(sorted(POOLS)), max_size=2)):
            layers.append(POOLS[kind]())
            spikes = spikes and kind in KEEPS
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    for _ in range(draw(st.integers(0, 2))):
        if spikes:
            expected.add(str(len(layers)))
        layers += [nn.Linear(16, 16), sl.LIFSqueeze(tau_mem=5.0, batch_size=BATCH)]
        spikes = True
    layers.append(sl.LIFSqueeze(tau_mem=5.0, batch_size=BATCH))
    return nn.Sequential(*layers), expected


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_nets(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 99)))
    net, expected = drawn(data.draw)
    before = {name: (type(part), dict(vars(part))) for name, part in net.named_modules()}
    keys, parameters, text = list(net.state_dict()), list(net.parameters()), repr(net)
    plugin_accel.convert(net)
    if expected:
        assert plugin_accel.convert(net, sparse=True) is net
    else:
        with pytest.warns(PluginAccelWarning, match="no layer to compute from spikes"):
            plugin_accel.convert(net, sparse=True)
    assert takers(net) == expected
    assert list(net.state_dict()) == keys and repr(net) == text
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert all(vars(part).keys() == before[name][1].keys() for name, part in net.named_modules())
    for name, row in rows(net).items():
        if row.host == "torch":
            assert (row.status, row.backend) == (("accelerated", "sparse") if name in expected else ("host", "-"))
    _same_layer_by_layer(net, torch.rand(BATCH * STEPS, 4, 16, 16))
    plugin_accel.restore(net)
    assert all(type(part) is before[name][0] for name, part in net.named_modules())


def _same_layer_by_layer(net: nn.Sequential, x: Tensor) -> None:
    """Each layer on its spikes against torch's on the same: a spike may flip where sums are rounded otherwise."""
    for layer in net:
        inputs = x.detach()
        try:
            x = layer(inputs)
        except RuntimeError:  # pooled away
            return
        if not isinstance(layer, (SpikeLinear, SpikeConv2d)):
            continue
        base = nn.Linear if isinstance(layer, SpikeLinear) else nn.Conv2d
        expected = base.forward(layer, inputs)
        parameters, g = list(layer.parameters()), torch.rand(x.shape)
        found = (x, *torch.autograd.grad(x, parameters, g, retain_graph=True))
        for ours, theirs in zip(found, (expected, *torch.autograd.grad(expected, parameters, g)), strict=True):
            bound = 1e-5 * float(theirs.detach().abs().max()) + 1e-7
            torch.testing.assert_close(ours, theirs, rtol=0, atol=bound)


def test_a_module_of_the_user() -> None:
    net = plugin_accel.convert(Net(), sparse=True)
    assert takers(net) == {"fc2"}
    found = rows(net)
    assert found["fc2"].host_class == "Linear" and found["fc2"].reasons[0].startswith("fed by lif1")
    assert found["fc1"].status == "host" and "sparse=['fc1']" in found["fc1"].reasons[0]
    plugin_accel.convert(net, sparse=["fc1"])
    assert takers(net) == {"fc1", "fc2"}
    assert "named" in rows(net)["fc1"].reasons[0]
    plugin_accel.restore(net)
    assert takers(net) == set() and [row.host for row in plugin_accel.report(net)] == ["snntorch"] * 2


@pytest.mark.parametrize(
    "selector",
    ["fc*", ["fc1", "fc2"], nn.Linear, lambda name, module: name.startswith("fc"), [nn.Conv2d, "fc?"]],
    ids=["glob", "names", "type", "predicate", "mixed"],
)
def test_selectors(selector: Any) -> None:
    net = plugin_accel.convert(Net(), sparse=selector)
    assert takers(net) == {"fc1", "fc2"}


def test_include_and_exclude() -> None:
    assert takers(plugin_accel.convert(Net(), sparse="*", exclude="fc1")) == {"fc2"}
    assert takers(plugin_accel.convert(Net(), sparse="*", include=["fc1", "lif1"])) == {"fc1"}
    with pytest.warns(PluginAccelWarning, match="include and exclude leave none of 1"):
        plugin_accel.convert(Net(), sparse=True, include="lif*")


def test_nothing_selected_warns_and_wrong_selectors_raise() -> None:
    with pytest.warns(PluginAccelWarning, match=r"sparse='nothing' selects no Linear or Conv2d"):
        plugin_accel.convert(Net(), sparse="nothing")
    with pytest.raises(TypeError, match="expected a name pattern"):
        plugin_accel.convert(Net(), sparse=3)  # type: ignore[arg-type]
    assert takers(plugin_accel.convert(Net())) == set()


def test_strict() -> None:
    net = nn.Sequential(sl.IAFSqueeze(batch_size=2), nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ConversionError, match="it has 2 groups"):
        plugin_accel.convert(net, sparse=True, strict=True)
    assert takers(net) == set()
    plugin_accel.convert(net, sparse=True)
    assert rows(net)["1"].status == "host" and "2 groups" in rows(net)["1"].reasons[0]


def test_copy_and_converted() -> None:
    net = Net()
    fast = plugin_accel.convert(net, sparse=True, copy=True)
    assert takers(net) == set() and takers(fast) == {"fc2"}
    with plugin_accel.converted(net, sparse="fc1") as inside:
        assert inside is net and takers(net) == {"fc1"}
    assert takers(net) == set() and type(net.fc1) is nn.Linear
    with plugin_accel.converted(fast, sparse="*"):
        assert takers(fast) == {"fc1", "fc2"}
    assert takers(fast) == {"fc2"}


def test_copies_and_pickles() -> None:
    net = plugin_accel.convert(nn.Sequential(sl.LIF(tau_mem=5.0), nn.Linear(6, 6)), sparse=True)
    assert takers(copy.deepcopy(net)) == {"1"}
    assert takers(pickle.loads(pickle.dumps(net))) == {"1"}
    restored = pickle.dumps(plugin_accel.restore(net))
    assert b"plugin_accel" not in restored
    assert type(pickle.loads(restored)[1]) is nn.Linear


def test_optimizers_and_hooks_stay() -> None:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    seen: list[str] = []
    net.fc2.register_forward_hook(lambda *_: seen.append("hook"))
    plugin_accel.convert(net, sparse="fc*")
    before = [p.detach().clone() for p in net.parameters()]
    net((torch.rand(5, 3, 20) < 0.3).float())[1].sum().backward()
    optimizer.step()
    assert seen == ["hook"] * 5
    assert all(not torch.equal(a, b) for a, b in zip(before[:3], net.parameters(), strict=False))


def test_weights_tied_and_layers_shared() -> None:
    shared = nn.Linear(6, 6)
    net = nn.Sequential(nn.Linear(6, 6), sl.LIF(tau_mem=5.0), shared, sl.LIF(tau_mem=5.0), shared, nn.Linear(6, 6))
    net[5].weight = net[0].weight
    plain = copy.deepcopy(net)
    plugin_accel.convert(net, sparse=True)
    assert type(shared) is SpikeLinear and rows(net)["4"].names == ("2", "4")
    assert net[5].weight is net[0].weight and type(net[5]) is nn.Linear
    x = torch.rand(2, 4, 6) * 3
    for model in (net, plain):
        model(x).sum().backward()
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


def test_parametrised() -> None:
    net = nn.Sequential(sl.LIF(tau_mem=5.0), parametrizations.weight_norm(nn.Linear(6, 6)))
    plain = copy.deepcopy(net)
    plugin_accel.convert(net, sparse=True)
    assert takers(net) == {"1"}
    x = torch.rand(2, 4, 6) * 3
    torch.testing.assert_close(net(x), plain(x))
    plugin_accel.restore(net)
    assert takers(net) == set()
    torch.nn.utils.parametrize.remove_parametrizations(net[1], "weight")
    assert type(net[1]) is nn.Linear


class Odd(nn.Linear):
    """A user's own layer."""


def test_what_is_left_alone() -> None:
    recurrent = sl.LIFRecurrent(tau_mem=9.0, rec_connect=nn.Linear(3, 3))
    scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 3)))
    net = nn.Sequential(sl.IAF(), Odd(3, 3), recurrent, scripted, norse.LICell(), nn.Linear(3, 3))
    plugin_accel.convert(net)
    with pytest.warns(PluginAccelWarning, match="no Linear or Conv2d is registered after a spiking layer"):
        plugin_accel.convert(net, sparse=True)
    assert takers(net) == set()
    assert takers(plugin_accel.convert(net, sparse="*")) == {"5"}


def test_report_is_pure_and_tells_of_dense_layers_only_where_some_take_spikes() -> None:
    net = plugin_accel.convert(Net())
    assert [row.host for row in plugin_accel.report(net)] == ["snntorch"] * 2
    plugin_accel.convert(net, sparse=True)
    assert [row.names[0] for row in plugin_accel.report(net)] == ["fc1", "lif1", "fc2", "lif2"]
    plugin_accel.report(net)
    assert takers(net) == {"fc2"}
    assert "last call: from spikes" not in str(plugin_accel.report(net))
    conv = plugin_accel.convert(nn.Sequential(sl.IAFSqueeze(batch_size=2), nn.Conv2d(2, 4, 3)), sparse=True)
    conv(torch.rand(4, 2, 8, 8) * 2)
    assert "last call: from spikes" in str(plugin_accel.report(conv))
