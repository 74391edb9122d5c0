"""``copy=True``: what a copy keeps that ``copy.deepcopy`` of a sinabs layer loses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import sinabs.layers as sl
import torch
from torch import nn

import plugin_accel

Drive = Callable[..., torch.Tensor]
Factory = Callable[[], nn.Module]


def test_every_layer_can_be_copied(layer: nn.Module, drive: Drive) -> None:
    layer(drive(layer))
    classes = [type(module) for module in layer.modules()]
    fast = plugin_accel.convert(layer, copy=True)
    assert fast is not layer
    assert [type(module) for module in layer.modules()] == classes
    assert len(plugin_accel.report(fast).accelerated) == 1
    assert not {id(p) for p in fast.parameters()} & {id(p) for p in layer.parameters()}

    torch.testing.assert_close(dict(fast.named_buffers()), dict(layer.named_buffers()), rtol=0, atol=0)
    out, expected = fast(drive(fast, 1)), layer(drive(layer, 1))
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


def test_restoring_a_copy(model: nn.Module) -> None:
    plugin_accel.convert(model)
    host = plugin_accel.restore(model, copy=True)
    assert not plugin_accel.report(host).accelerated
    assert len(plugin_accel.report(model).accelerated) == 4


def test_flags_hooks_and_attributes(drive: Drive) -> None:
    layer = sl.LIF(tau_mem=20.0, norm_input=False)
    layer.tau_mem.requires_grad_(False)
    layer.spike_threshold.requires_grad_(True)
    layer.note = {"a": [1, 2]}
    calls: list[nn.Module] = []
    layer.register_forward_hook(lambda module, args, out: calls.append(module))
    layer.eval()
    lost = copy.deepcopy(layer)
    assert lost.training
    assert lost.tau_mem.requires_grad
    assert not lost._forward_hooks

    fast = plugin_accel.convert(layer, copy=True)
    assert not fast.training
    assert not fast.tau_mem.requires_grad
    assert fast.spike_threshold.requires_grad
    assert fast.note == layer.note
    assert fast.note is not layer.note
    fast(drive(fast))
    assert calls == [fast]


def test_states_come_with_values_and_without_graph(drive: Drive) -> None:
    layer = sl.LIF(tau_mem=20.0, tau_syn=3.0, record_states=True)
    layer(drive(layer).requires_grad_())
    assert layer.v_mem.grad_fn is not None
    fast = plugin_accel.convert(layer, copy=True)
    for name in ("v_mem", "i_syn"):
        state, original = getattr(fast, name), getattr(layer, name)
        assert torch.equal(state, original)
        assert state.grad_fn is None
        assert original.grad_fn is not None
        assert state._base is None
    assert torch.equal(fast.recordings["v_mem"], layer.recordings["v_mem"])
    assert torch.equal(fast.firing_rate, layer.firing_rate)
    assert not fast.firing_rate.requires_grad
    # Its own history starts here: a backward through it leaves the original's graph alone.
    fast(drive(fast)).sum().backward()
    layer(drive(layer)).sum().backward()


def test_shared_layers_parameters_and_storage(model: nn.Module) -> None:
    model[4].tau_mem = model[2].shared.tau_mem
    model[2].tail[0].spike_threshold = None
    fast = plugin_accel.convert(model, copy=True)
    assert fast[2].shared is fast[2].branches["main"][1] is fast[2].tail[2]
    assert fast[4].tau_mem is fast[2].shared.tau_mem is not model[4].tau_mem


def test_references_between_modules() -> None:
    model = nn.Sequential(sl.IAF(), nn.Linear(3, 3))
    model[0].neighbour = [model[1]]
    object.__setattr__(model[0], "owner", model)
    fast = plugin_accel.convert(model, copy=True)
    assert fast[0].neighbour[0] is fast[1]
    assert fast[0].owner is fast


def test_the_original_is_untouched(model: nn.Module) -> None:
    model(torch.rand(2, 5, 3))
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    random_state = torch.get_rng_state()
    plugin_accel.convert(model, copy=True)
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, module in model.named_modules():
        after = vars(module)
        assert after.keys() == before[name].keys()
        assert all(after[key] is before[name][key] for key in after)


def test_a_deepcopy_the_user_wrote_is_called() -> None:
    class Own(sl.IAF):
        def __deepcopy__(self, memo: Any) -> Own:
            twin = Own()
            twin.copied_by_user = True
            return twin

    fast = plugin_accel.convert(nn.Sequential(Own(), sl.IAF()), copy=True)
    assert fast[0].copied_by_user


def test_a_copy_trains_on_its_own(factory: Factory, drive: Drive) -> None:
    layer = factory()
    fast = plugin_accel.convert(layer, copy=True)
    parameters = [p for p in fast.parameters() if p.requires_grad]
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    fast(drive(fast).requires_grad_()).sum().backward()
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(1)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])
