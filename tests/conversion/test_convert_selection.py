"""``include=``, ``exclude=`` and ``strict=``."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sinabs.layers as sl
from torch import nn

import plugin_accel
from plugin_accel.errors import ConversionError


def converted_names(model: nn.Module) -> set[str]:
    return {row.names[0] for row in plugin_accel.report(model).accelerated}


@pytest.mark.parametrize(
    ("include", "expected"),
    [
        ("0", {"0"}),
        ("2.*", {"2.shared", "2.tail.0"}),
        ("*.main.1", {"2.shared"}),
        (["0", "4"], {"0", "4"}),
        (("2.tail.?",), {"2.shared", "2.tail.0"}),
        (sl.LIF, {"2.shared"}),
        ((sl.IAF, sl.ExpLeak), {"0", "2.tail.0"}),
        (sl.StatefulLayer, {"0", "2.shared", "2.tail.0", "4"}),
        ([sl.IAF, "4", lambda name, module: name.endswith("tail.0")], {"0", "2.tail.0", "4"}),
        (lambda name, module: isinstance(module, sl.LIF) and "." in name, {"2.shared", "2.tail.0"}),
        (None, {"0", "2.shared", "2.tail.0", "4"}),
    ],
)
def test_include(model: nn.Module, include: Any, expected: set[str]) -> None:
    assert converted_names(plugin_accel.convert(model, include=include)) == expected


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        ("2.*", {"0", "4"}),
        ("2.tail.2", {"0", "2.tail.0", "4"}),
        (sl.IAF, {"2.shared", "2.tail.0", "4"}),
        ([sl.LIFRecurrent, lambda name, module: name == "0"], {"2.shared", "2.tail.0"}),
        (iter(["0", "4"]), {"2.shared", "2.tail.0"}),
    ],
)
def test_exclude(model: nn.Module, exclude: Any, expected: set[str]) -> None:
    assert converted_names(plugin_accel.convert(model, exclude=exclude)) == expected


def test_both(model: nn.Module) -> None:
    plugin_accel.convert(model, include="2.*", exclude=sl.ExpLeak)
    assert converted_names(model) == {"2.shared"}


@pytest.mark.parametrize("copy", [False, True])
def test_modules_select_what_is_inside_them(model: nn.Module, copy: bool) -> None:
    plain = converted_names(plugin_accel.convert(model, include=model[2], exclude=[model[2].shared], copy=copy))
    assert plain == {"2.tail.0"}


def test_a_predicate_sees_the_original_when_copying(model: nn.Module) -> None:
    fast = plugin_accel.convert(model, copy=True, include=lambda name, module: module is model[0])
    assert converted_names(fast) == {"0"}


def test_an_accelerated_class_selects_like_its_host_class(model: nn.Module) -> None:
    accelerated = type(plugin_accel.convert(sl.LIF(tau_mem=3.0)))
    plugin_accel.convert(model, include=accelerated)
    assert converted_names(model) == {"2.shared"}


def test_layers_accelerated_before_stay_so_when_excluded(model: nn.Module) -> None:
    plugin_accel.convert(model, include="0")
    plugin_accel.convert(model, exclude="0")
    assert "0" in converted_names(model)


@pytest.mark.parametrize("option", ["include", "exclude"])
@pytest.mark.parametrize("wrong", [3, [sl.IAF, 3.5]])
def test_an_unknown_selector(model: nn.Module, option: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=rf"{option}: expected a name pattern.*got 3"):
        plugin_accel.convert(model, **{option: wrong})
    assert not converted_names(model)


class OwnIAF(sl.IAF):
    pass


class TestStrict:
    def test_passes_when_all_is_accelerated(self, model: nn.Module) -> None:
        assert len(converted_names(plugin_accel.convert(model, strict=True))) == 4

    @pytest.mark.parametrize("copy", [False, True])
    def test_raises_before_touching_anything(self, model: nn.Module, copy: bool, toy: Any) -> None:
        model.append(OwnIAF())
        model.append(toy.UnsupportedToy())
        classes = [type(module) for module in model.modules()]
        with pytest.raises(ConversionError) as caught:
            plugin_accel.convert(model, strict=True, copy=copy)
        assert [type(module) for module in model.modules()] == classes
        text = str(caught.value)
        assert "got 2 of 6" in text
        assert re.search(r"\n  5 \(OwnIAF\): .*subclass of IAF", text)
        assert re.search(r"\n  6 \(UnsupportedToy\): toy's UnsupportedToy has no accelerated version", text)

    def test_names_all_names_of_a_shared_layer(self) -> None:
        layer = OwnIAF()
        with pytest.raises(ConversionError, match=r"a = b \(OwnIAF\)"):
            plugin_accel.convert(nn.ModuleDict({"a": layer, "b": layer}), strict=True)

    def test_a_configuration_that_falls_back_counts(self, toy: Any) -> None:
        toy.against = ("gain: expected a float",)
        model = nn.Sequential(toy.Toy())
        with pytest.raises(ConversionError, match="gain: expected a float"):
            plugin_accel.convert(model, strict=True)
        assert type(plugin_accel.convert(model)[0]) is toy.FastToy
        with pytest.raises(ConversionError, match="gain: expected a float"):
            plugin_accel.convert(model, strict=True)

    def test_looks_at_selected_layers_only(self, model: nn.Module) -> None:
        model.append(OwnIAF())
        plugin_accel.convert(model, strict=True, exclude="5")
        assert type(model[5]) is OwnIAF
        assert len(converted_names(model)) == 4

    def test_an_exchange_that_fails_half_way_is_undone(self, toy: Any) -> None:
        class Fixed(toy.Toy):
            pass

        class FastFixed(Fixed):
            pass

        toy.classes = lambda: {toy.Toy: toy.FastToy, Fixed: FastFixed}
        model = nn.Sequential(toy.Toy(), Fixed(), toy.Toy())
        exchanged: list[nn.Module] = []

        def failing(module: nn.Module, base: type[nn.Module]) -> None:
            if base is FastFixed:
                raise TypeError("object layout differs")
            exchanged.append(module)
            object.__setattr__(module, "__class__", base)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("plugin_accel.conversion.api.exchange", failing)
            with pytest.raises(TypeError, match="object layout differs"):
                plugin_accel.convert(model)
        assert exchanged == [model[0], model[0]]
        assert [type(module) for module in model] == [toy.Toy, Fixed, toy.Toy]
