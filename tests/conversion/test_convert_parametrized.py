"""Parametrised layers: ``torch.nn.utils.parametrize`` gives each a class of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sinabs.layers as sl
import torch
from torch import nn
from torch.nn.utils import parametrize

import plugin_accel

Drive = Callable[..., torch.Tensor]


class Softplus(nn.Module):
    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        return nn.functional.softplus(raw)

    def right_inverse(self, value: torch.Tensor) -> torch.Tensor:
        return value + torch.log(-torch.expm1(-value))


class Clamp(nn.Module):
    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        return raw.clamp(min=0.1)


def parametrised(**options: Any) -> sl.LIF:
    layer = sl.LIF(tau_mem=20.0, **options)
    return parametrize.register_parametrization(layer, "tau_mem", Softplus())


def test_convert_and_restore(drive: Drive) -> None:
    host, layer = parametrised(), parametrised()
    original = layer.parametrizations.tau_mem.original
    plugin_accel.convert(layer)

    assert type(layer).__name__ == type(host).__name__ == "ParametrizedLIF"
    assert type(layer).__bases__ == (type(plugin_accel.convert(sl.LIF(tau_mem=1.0))),)
    assert list(layer.state_dict()) == list(host.state_dict())
    assert layer.parametrizations.tau_mem.original is original
    (row,) = plugin_accel.report(layer).accelerated
    assert row.host_class == "LIF"

    for each in (host, layer):
        each(drive(each)).sum().backward()
    torch.testing.assert_close(original.grad, host.parametrizations.tau_mem.original.grad, rtol=1e-5, atol=0)

    plugin_accel.restore(layer)
    assert type(layer).__bases__ == (sl.LIF,)
    assert layer.tau_mem.item() == pytest.approx(20.0)
    assert parametrize.type_before_parametrizations(layer) is sl.LIF


@pytest.mark.parametrize("restore_first", [True, False])
def test_remove_after_conversion(restore_first: bool) -> None:
    layer = plugin_accel.convert(parametrised())
    if restore_first:
        plugin_accel.restore(layer)
        parametrize.remove_parametrizations(layer, "tau_mem")
    else:
        parametrize.remove_parametrizations(layer, "tau_mem")
        assert len(plugin_accel.report(layer).accelerated) == 1
        plugin_accel.restore(layer)
    assert type(layer) is sl.LIF
    assert isinstance(layer.tau_mem, nn.Parameter)
    assert layer.tau_mem.item() == pytest.approx(20.0)


@pytest.mark.parametrize("remove_first", [True, False])
def test_register_after_conversion(remove_first: bool, drive: Drive) -> None:
    layer = plugin_accel.convert(sl.LIF(tau_mem=20.0))
    parametrize.register_parametrization(layer, "tau_mem", Softplus())
    assert len(plugin_accel.report(layer).accelerated) == 1
    layer(drive(layer))
    if remove_first:
        parametrize.remove_parametrizations(layer, "tau_mem")
        plugin_accel.restore(layer)
    else:
        plugin_accel.restore(layer)
        assert type(layer).__bases__ == (sl.LIF,)
        parametrize.remove_parametrizations(layer, "tau_mem")
    assert type(layer) is sl.LIF


def test_several_tensors_and_several_parametrisations() -> None:
    layer = parametrised(tau_syn=5.0)
    parametrize.register_parametrization(layer, "tau_mem", Clamp())
    plugin_accel.convert(layer)
    parametrize.register_parametrization(layer, "tau_syn", Softplus())
    layer.tau_syn = torch.tensor(3.0)
    assert layer.tau_syn.item() == pytest.approx(3.0)
    assert len(layer.parametrizations.tau_mem) == 2
    plugin_accel.restore(layer)
    assert layer.tau_syn.item() == pytest.approx(3.0)
    parametrize.remove_parametrizations(layer, "tau_mem")
    parametrize.remove_parametrizations(layer, "tau_syn")
    assert type(layer) is sl.LIF


def test_a_parametrised_subclass_of_the_user_is_refused() -> None:
    class Own(sl.LIF):
        pass

    model = nn.Sequential(parametrize.register_parametrization(Own(tau_mem=3.0), "tau_mem", Softplus()), sl.IAF())
    cls = type(model[0])
    plugin_accel.convert(model)
    assert type(model[0]) is cls
    assert plugin_accel.report(model).on_host[0].host_class == "Own"


def test_a_parametrised_recurrent_connection(drive: Drive) -> None:
    layer = sl.LIFRecurrent(tau_mem=20.0, rec_connect=nn.Linear(3, 3))
    # Host layers cannot start with buffers inside rec_connect, so no parametrisation that has some.
    parametrize.register_parametrization(layer.rec_connect, "weight", Clamp())
    plugin_accel.convert(layer)
    layer(drive(layer))
    twin = plugin_accel.restore(layer, copy=True)
    assert type(twin) is sl.LIFRecurrent
    torch.testing.assert_close(twin.rec_connect.weight, layer.rec_connect.weight, rtol=0, atol=0)


def test_the_copy_of_a_parametrised_layer_has_a_class_of_its_own() -> None:
    layer = parametrised()
    twin = plugin_accel.convert(layer, copy=True)
    back = plugin_accel.restore(twin, copy=True)
    assert len({type(layer), type(twin), type(back)}) == 3
    parametrize.remove_parametrizations(back, "tau_mem")
    assert type(back) is sl.LIF
    assert layer.tau_mem.item() == twin.tau_mem.item() == pytest.approx(20.0)
    assert twin.parametrizations.tau_mem.original is not layer.parametrizations.tau_mem.original
