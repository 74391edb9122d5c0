"""Conversion changes the class of a layer and nothing else, for every class of sinabs."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import sinabs.layers as sl
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import plugin_accel

Drive = Callable[..., torch.Tensor]
Factory = Callable[[], nn.Module]


def run(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    out = layer(x)
    return out.detach().clone(), {name: state.detach().clone() for name, state in layer.named_buffers()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], rounding: float = 0.0) -> None:
    torch.testing.assert_close(first, second, rtol=rounding, atol=rounding, equal_nan=True)


def test_convert_exchanges_the_class_alone(layer: nn.Module) -> None:
    host_class = type(layer)
    before = dict(vars(layer))
    parameters = dict(layer.named_parameters())
    buffers = dict(layer.named_buffers())

    assert plugin_accel.convert(layer) is layer

    assert type(layer) is not host_class
    assert isinstance(layer, host_class)
    assert type(layer).__name__ == host_class.__name__
    assert vars(layer).keys() == before.keys()
    assert all(vars(layer)[key] is before[key] for key in before)
    assert all(value is parameters[name] for name, value in layer.named_parameters())
    assert all(value is buffers[name] for name, value in layer.named_buffers())
    assert not [name for name, _ in layer.named_modules() if name and not name.startswith("rec_connect")]

    assert plugin_accel.restore(layer) is layer
    assert type(layer) is host_class
    assert all(vars(layer)[key] is before[key] for key in before)


def test_repr_and_state_dict_keys_stay(factory: Factory) -> None:
    layer = factory()
    text, keys = repr(layer), list(layer.state_dict())
    plugin_accel.convert(layer)
    assert repr(layer) == text
    assert list(layer.state_dict()) == keys


def test_states_carry_on_through_convert_and_restore(factory: Factory, drive: Drive) -> None:
    torch.manual_seed(0)
    reference = factory()
    torch.manual_seed(0)
    layer = factory()
    for call in range(4):
        (plugin_accel.restore if call % 2 else plugin_accel.convert)(layer)
        expected, expected_states = run(reference, drive(reference, call))
        actual, states = run(layer, drive(layer, call))
        rounding = 1e-5 if hasattr(layer, "rec_connect") else 0.0  # its sums have an order of their own
        torch.testing.assert_close(actual, expected, rtol=rounding, atol=rounding)
        assert_same(states, expected_states, rounding)


def test_checkpoints_load_both_ways(factory: Factory, drive: Drive) -> None:
    host, fast = factory(), plugin_accel.convert(factory())
    for layer in (host, fast):
        layer(drive(layer))
    fast.load_state_dict(host.state_dict(), strict=True)
    host.load_state_dict(fast.state_dict(), strict=True)
    assert_same(host.state_dict(), fast.state_dict())


def test_hooks_and_flags_stay(layer: nn.Module, drive: Drive) -> None:
    calls: list[str] = []
    layer.register_forward_pre_hook(lambda module, args: calls.append("pre"))
    layer.register_forward_hook(lambda module, args, output: calls.append(type(module).__module__))
    handle = layer.register_forward_hook(lambda *args: calls.append("removed"))
    layer.eval()
    plugin_accel.convert(layer)
    handle.remove()
    layer(drive(layer))
    assert calls == ["pre", type(layer).__module__]
    assert not layer.training


def test_an_optimizer_made_before_still_trains(drive: Drive) -> None:
    layer = sl.LIF(tau_mem=20.0, norm_input=False)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    plugin_accel.convert(layer)
    tau = layer.tau_mem.item()
    layer(drive(layer)).sum().backward()
    optimizer.step()
    assert layer.tau_mem.item() != tau
    plugin_accel.restore(layer)
    assert optimizer.param_groups[0]["params"][0] is layer.tau_mem


def test_deepcopy_of_a_converted_layer_is_converted(drive: Drive) -> None:
    layer = plugin_accel.convert(sl.LIFSqueeze(tau_mem=20.0, batch_size=2))
    twin = copy.deepcopy(layer)
    assert type(twin) is type(layer)
    torch.testing.assert_close(twin(drive(twin)), layer(drive(layer)), rtol=0, atol=0)
    assert type(plugin_accel.restore(twin)) is sl.LIFSqueeze
    assert type(layer) is not sl.LIFSqueeze


def test_pickle_and_torch_save(layer: nn.Module, drive: Drive) -> None:
    plugin_accel.convert(layer)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    copies = [torch.load(buffer, weights_only=False), pickle.loads(pickle.dumps(layer))]
    expected = run(layer, drive(layer))
    for twin in copies:
        assert type(twin) is type(layer)
        actual = run(twin, drive(twin))
        torch.testing.assert_close(actual[0], expected[0], rtol=0, atol=0)
        assert_same(actual[1], expected[1])


def test_functional_call(drive: Drive) -> None:
    host = sl.LIF(tau_mem=20.0)
    fast = plugin_accel.convert(sl.LIF(tau_mem=20.0))
    gradients = []
    for layer in (host, fast):
        tau = torch.tensor(7.0, requires_grad=True)
        out = torch.func.functional_call(layer, {"tau_mem": tau}, (drive(layer),))
        out.sum().backward()
        gradients.append(tau.grad)
        assert layer.tau_mem.item() == 20.0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=0)


def test_checkpointing(drive: Drive) -> None:
    results = []
    for make in (sl.IAF, lambda: plugin_accel.convert(sl.IAF())):
        layer = make()
        x = drive(layer).requires_grad_()

        def segment(x: torch.Tensor, layer: nn.Module = layer) -> torch.Tensor:
            layer.reset_states()
            return layer(x)

        checkpoint(segment, x, use_reentrant=False).sum().backward()
        results.append(x.grad)
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("restored", [True, False])
def test_training_a_model_gives_the_same_losses(model: nn.Module, restored: bool) -> None:
    fast = plugin_accel.convert(model, copy=True)
    host = plugin_accel.restore(fast, copy=True) if restored else model
    losses: list[list[float]] = []
    for net in (host, fast):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        losses.append([])
        for step in range(3):
            x = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(step)) * 2
            optimizer.zero_grad()
            loss = (net(x) - 1).square().mean()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
            # sinabs.zero_grad would miss the recurrent layer: it resets modules without children only.
            for module in net.modules():
                if isinstance(module, sl.StatefulLayer):
                    module.zero_grad()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
