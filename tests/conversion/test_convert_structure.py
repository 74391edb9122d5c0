"""Where layers can sit in a model, and what is refused."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import sinabs.layers as sl
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import plugin_accel
from plugin_accel import plugins
from plugin_accel.errors import PluginAccelWarning


def accelerated(model: nn.Module) -> list[str]:
    return [name for row in plugin_accel.report(model).accelerated for name in row.names]


def test_the_root_itself() -> None:
    layer = sl.IAF()
    assert accelerated(plugin_accel.convert(layer)) == [""]


def test_containers_and_shared_layers(model: nn.Module) -> None:
    plugin_accel.convert(model)
    report = plugin_accel.report(model)
    assert [row.names for row in report] == [
        ("0",),
        ("2.shared", "2.branches.main.1", "2.tail.2"),
        ("2.tail.0",),
        ("4",),
    ]
    assert len(report.accelerated) == 4
    shared = model.get_submodule("2.shared")
    assert model.get_submodule("2.branches.main.1") is shared is model.get_submodule("2.tail.2")
    plugin_accel.restore(model)
    assert type(shared) is sl.LIF


def test_a_layer_inside_a_recurrent_connection() -> None:
    layer = sl.IAFRecurrent(rec_connect=nn.Sequential(nn.Linear(3, 3), sl.ExpLeakSqueeze(tau_mem=3.0, batch_size=2)))
    report = plugin_accel.report(plugin_accel.convert(layer))
    assert [row.names for row in report.accelerated] == [("rec_connect.1",)]
    # The states of the inner layer are buffers, with which sinabs cannot run the outer one.
    assert [row.names for row in report.on_host] == [("",)]
    assert "rec_connect has buffers" in report.on_host[0].reasons[0]


def test_a_module_that_contains_itself() -> None:
    model = nn.Sequential(sl.IAF())
    model[0].parent = model
    assert accelerated(plugin_accel.convert(model))[0] == "0"
    assert type(plugin_accel.restore(model)[0]) is sl.IAF


def test_data_parallel(model: nn.Module) -> None:
    wrapped = nn.DataParallel(model)
    plugin_accel.convert(wrapped)
    assert "module.0" in accelerated(wrapped)
    assert wrapped(torch.rand(2, 5, 3)).shape == (2, 5, 3)


def test_distributed_data_parallel(model: nn.Module, tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            wrapped = DistributedDataParallel(model, broadcast_buffers=False)
        plugin_accel.convert(wrapped)
        wrapped(torch.rand(2, 5, 3)).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert "module.2.tail.0" in accelerated(wrapped)
    assert model[1].weight.grad is not None


@pytest.mark.one_graph
def test_a_compiled_model_is_compiled_again_after_conversion() -> None:
    model = nn.Sequential(nn.Linear(3, 3), sl.IAF())
    seen: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        seen.append(len(graph.graph.nodes))
        return graph.forward

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model, backend=backend)
        x = torch.rand(1, 2, 3)
        compiled(x)
        compiled(x)
        before = len(seen)
        plugin_accel.convert(compiled)
        assert accelerated(compiled) == ["_orig_mod.1"]
        expected_state = model[1].v_mem.detach().clone()
        out = compiled(x)
        assert len(seen) > before
        model[1].v_mem = expected_state
        torch.testing.assert_close(out, model(x), rtol=0, atol=0)


class OwnLIF(sl.LIF):
    def forward(self, input_data: torch.Tensor) -> torch.Tensor:
        return super().forward(2 * input_data)


def test_user_subclasses_are_left_alone() -> None:
    model = nn.Sequential(OwnLIF(tau_mem=9.0), sl.LIF(tau_mem=9.0))
    plugin_accel.convert(model)
    assert type(model[0]) is OwnLIF
    row = plugin_accel.report(model).on_host[0]
    assert (row.names, row.host_class) == (("0",), "OwnLIF")
    assert "subclass of LIF" in row.reasons[0]


def test_script_modules_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(nn.Sequential(nn.Linear(3, 3), sl.IAF()), torch.rand(1, 2, 3), check_trace=False)
    model = nn.Sequential(traced, sl.IAF())
    classes = [type(module) for module in traced.modules()]
    plugin_accel.convert(model)
    assert [type(module) for module in traced.modules()] == classes
    report = plugin_accel.report(model)
    assert [row.names for row in report.accelerated] == [("1",)]
    assert [row.names for row in report.on_host] == [("0",)]
    assert "TorchScript" in report.on_host[0].reasons[0]
    plugin_accel.restore(model)


def test_a_replaced_forward_is_reported() -> None:
    layer = sl.IAF()
    layer.forward = layer.forward  # as wrappers do that patch instances
    plugin_accel.convert(layer)
    assert "replaced on the instance" in plugin_accel.report(layer).on_host[0].reasons[0]


def test_a_layout_python_cannot_exchange_is_refused(toy: Any) -> None:
    model = nn.Sequential(toy.RigidToy(), toy.Toy())
    plugin_accel.convert(model)
    assert type(model[0]) is toy.RigidToy
    assert type(model[1]) is toy.FastToy
    assert "cannot be exchanged" in plugin_accel.report(model).on_host[0].reasons[0]


def test_a_mapping_to_a_foreign_class_is_refused(toy: Any) -> None:
    toy.classes = lambda: {toy.Toy: nn.Linear}
    model = nn.Sequential(toy.Toy(), sl.IAF())
    plugin_accel.convert(model)
    assert type(model[0]) is toy.Toy
    assert "no subclass of Toy" in plugin_accel.report(model).on_host[0].reasons[0]


def test_a_failing_host_does_not_stop_the_others(toy: Any) -> None:
    def fail() -> Any:
        raise OSError("broken")

    model = nn.Sequential(toy.Toy(), sl.IAF())
    toy.classes = fail
    with pytest.warns(PluginAccelWarning, match=r"'toy'.*OSError: broken"):
        plugin_accel.convert(model)
    assert type(model[0]) is toy.Toy
    assert type(model[1]) is not sl.IAF


def test_a_host_that_is_not_loaded_owns_nothing(toy: Any) -> None:
    toy.is_loaded = False
    model = nn.Sequential(toy.Toy(), sl.IAF())
    plugin_accel.convert(model)
    assert type(model[0]) is toy.Toy
    assert len(plugin_accel.report(model)) == 1


def test_converting_twice_is_a_silent_no_op(model: nn.Module) -> None:
    plugin_accel.convert(model)
    classes = [type(module) for module in model.modules()]
    plugin_accel.convert(model)
    plugin_accel.convert(model, strict=True)
    assert [type(module) for module in model.modules()] == classes


@pytest.mark.parametrize("function", [plugin_accel.convert, plugin_accel.restore, plugin_accel.report])
def test_something_else_than_a_module(function: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, got type"):
        function(sl.IAF)


class TestNothingToConvert:
    """Each warning says which case it is."""

    def test_no_layer(self) -> None:
        with pytest.warns(PluginAccelWarning, match=r"no layer of a host framework \(imported: .*sinabs"):
            plugin_accel.convert(nn.Linear(2, 2))

    def test_all_excluded(self) -> None:
        layer = sl.IAF()
        with pytest.warns(PluginAccelWarning, match="include and exclude leave none of its 1"):
            plugin_accel.convert(layer, exclude="*")
        assert type(layer) is sl.IAF

    def test_all_refused(self) -> None:
        with pytest.warns(PluginAccelWarning, match="the model itself: its class OwnLIF is a subclass of LIF"):
            plugin_accel.convert(OwnLIF(tau_mem=2.0))

    def test_no_framework(self, toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        toy.is_loaded = False
        monkeypatch.setattr(plugins, "hosts", lambda: {"toy": toy})
        with pytest.warns(PluginAccelWarning, match="no host framework is imported.*toy"):
            plugin_accel.convert(nn.Linear(2, 2))

    def test_no_plugin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plugins, "hosts", lambda: {})
        with pytest.warns(PluginAccelWarning, match="no host plugin is registered"):
            plugin_accel.convert(nn.Linear(2, 2))

    def test_the_warning_points_at_the_caller(self) -> None:
        with pytest.warns(PluginAccelWarning) as caught, plugin_accel.converted(nn.Linear(2, 2)):
            pass
        plain = nn.Linear(2, 2)
        with pytest.warns(PluginAccelWarning) as caught_too:
            plugin_accel.convert(plain)
        assert {caught[0].filename, caught_too[0].filename} == {__file__}
