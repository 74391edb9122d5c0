"""``restore`` and the ``converted`` context manager."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import sinabs.layers as sl
from torch import nn

import plugin_accel
from plugin_accel.errors import ConversionError, PluginAccelWarning


def classes(model: nn.Module) -> list[type[nn.Module]]:
    return [type(module) for module in model.modules()]


def fast_layers() -> Any:
    """The module the namespace ``sinabs.accel.layers`` re-exports."""
    return importlib.import_module("plugin_accel.hosts.sinabs")


def test_restore_gives_all_classes_back(model: nn.Module) -> None:
    before = classes(model)
    plugin_accel.convert(model)
    assert classes(model) != before
    assert plugin_accel.restore(model) is model
    assert classes(model) == before


def test_restoring_a_host_model_is_a_silent_no_op(model: nn.Module) -> None:
    before = classes(model)
    assert plugin_accel.restore(model) is model
    assert classes(model) == before
    plugin_accel.restore(nn.Linear(2, 2))


def test_layers_made_from_the_namespace() -> None:
    model = nn.Sequential(fast_layers().LIF(tau_mem=3.0), fast_layers().IAFSqueeze(batch_size=2), sl.IAF())
    assert [row.status for row in plugin_accel.report(model)] == ["accelerated", "accelerated", "candidate"]
    plugin_accel.restore(model)
    assert [type(module) for module in model] == [sl.LIF, sl.IAFSqueeze, sl.IAF]


def test_a_subclass_of_an_accelerated_class_stays() -> None:
    class Own(fast_layers().LIF):  # type: ignore[misc]
        pass

    model = nn.Sequential(Own(tau_mem=3.0), plugin_accel.convert(sl.IAF()))
    plugin_accel.convert(model)
    row = plugin_accel.report(model).rows[0]
    assert (row.host_class, row.status) == ("Own", "accelerated")
    assert "user's subclass" in row.reasons[0]
    with pytest.warns(PluginAccelWarning, match="0 stays accelerated: its class .*Own is derived") as caught:
        plugin_accel.restore(model)
    assert caught[0].filename == __file__
    assert [type(module) for module in model] == [Own, sl.IAF]


def test_converted_restores_what_it_converted(model: nn.Module) -> None:
    plugin_accel.convert(model, include="0")
    before = classes(model)
    with plugin_accel.converted(model) as fast:
        assert fast is model
        assert len(plugin_accel.report(model).accelerated) == 4
    assert classes(model) == before
    assert [row.names for row in plugin_accel.report(model).accelerated] == [("0",)]


def test_converted_restores_after_an_exception(model: nn.Module) -> None:
    before = classes(model)
    with pytest.raises(KeyError, match="inside"), plugin_accel.converted(model, strict=True):
        raise KeyError("inside")
    assert classes(model) == before


def test_converted_takes_the_options_of_convert(model: nn.Module) -> None:
    with plugin_accel.converted(model, include="2.*", exclude=sl.LIF):
        assert [row.names for row in plugin_accel.report(model).accelerated] == [("2.tail.0",)]
    with plugin_accel.converted(model, copy=True) as fast:
        assert not plugin_accel.report(model).accelerated
        assert len(plugin_accel.report(fast).accelerated) == 4
    assert not plugin_accel.report(fast).accelerated
    model.append(type("Own", (sl.IAF,), {})())
    before = classes(model)
    with pytest.raises(ConversionError), plugin_accel.converted(model, strict=True):
        pytest.fail("the block must not run")
    assert classes(model) == before


def test_converted_survives_what_the_block_does(model: nn.Module) -> None:
    before = classes(model)
    with plugin_accel.converted(model):
        plugin_accel.restore(model[0])
        model[2].shared.extra = nn.Identity()
        del model[3]
    del model[2].shared.extra
    assert [type(module) for module in model.modules()] == [cls for cls in before if cls is not nn.Dropout]


def test_nested_blocks(model: nn.Module) -> None:
    before = classes(model)
    with plugin_accel.converted(model, include="0"):
        with plugin_accel.converted(model):
            assert len(plugin_accel.report(model).accelerated) == 4
        assert len(plugin_accel.report(model).accelerated) == 1
    assert classes(model) == before
