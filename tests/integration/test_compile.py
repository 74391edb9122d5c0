"""`torch.compile(fullgraph=True)` of converted models: no graph break, the eager numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sinabs.activation as sa
import sinabs.layers as sl
import torch
from torch import Tensor, fx, nn
from torch._dynamo.backends.debugging import aot_eager

import plugin_accel

from .networks import Factory, Ramp, assert_equal, drive, layers, reset, states, train_step

# torch's compiler looks at the .grad of states that carry a graph from the call before
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


class Recording:
    """A compiler backend that remembers which of our ops are in its graphs."""

    def __init__(self, backend: Callable[..., Any] = aot_eager) -> None:
        self.backend = backend
        self.ops: list[str] = []

    def __call__(self, module: fx.GraphModule, inputs: list[Tensor], **options: Any) -> Any:
        self.ops += [str(node.target) for node in module.graph.nodes if "plugin_accel" in str(node.target)]
        return self.backend(module, inputs, **options)


@pytest.mark.one_graph
def test_training_equals_eager(network: Factory) -> None:
    host, eager, model = network(), plugin_accel.convert(network()), plugin_accel.convert(network())
    backend = Recording()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    want = train_step(host)
    assert_equal(train_step(eager), want, 1e-5)
    got = train_step(model, compiled)
    assert_equal(got, want, 1e-5)
    assert_equal(got, train_step(eager), 1e-6)
    assert len(backend.ops) >= len(layers(model))
    assert_equal(train_step(model, compiled), got)  # once more, from compiled code and reset states


@pytest.mark.one_graph
def test_inference_carries_states(network: Factory) -> None:
    host, model = network(), plugin_accel.convert(network())
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        for seed in range(4):
            x = drive(model, seed)
            assert torch.equal(compiled(x), host(x))
            for a, b in zip(states(model), states(host), strict=True):
                assert torch.equal(a, b)


@pytest.mark.one_graph
# inductor itself loads a deprecated part of torch
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_inductor() -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 7), sl.LIF(tau_mem=20.0, tau_syn=5.0), sl.ALIF(tau_mem=9.0, tau_adapt=20.0))

    host, model = make(), plugin_accel.convert(make())
    compiled = torch.compile(model, fullgraph=True, backend="inductor")
    want, got = train_step(host), train_step(model, compiled)
    assert_equal(got, want, 1e-5)


SIZES = {"time": [(3, 4), (3, 5), (3, 9), (3, 2)], "batch and time": [(2, 4), (3, 5), (7, 6), (9, 3)]}


@pytest.mark.one_graph
@pytest.mark.parametrize("what", SIZES)
def test_sizes_may_change(what: str) -> None:
    """Compiled twice, for the first sizes and for any; the compiler must be told that shapes of buffers vary."""

    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 7), sl.LIF(tau_mem=20.0, tau_syn=5.0), sl.ALIF(tau_mem=9.0, tau_adapt=20.0))

    host, model = make(), plugin_accel.convert(make())
    backend = Recording()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    free = {"force_nn_module_property_static_shapes": False, "force_parameter_static_shapes": False}
    with torch._dynamo.config.patch(**free if "batch" in what else {}):
        for batch, time in SIZES[what]:
            x, outputs = drive(model, time, batch, time), []
            for m, call in ((host, host), (model, compiled)):
                for layer in layers(m):
                    layer.init_state_with_shape((batch, 7))
                m.zero_grad()
                outputs.append(call(x))
                outputs[-1].sum().backward()
            assert torch.equal(*outputs)
            for p, q in zip(host.parameters(), model.parameters(), strict=True):
                if p.grad is not None:
                    torch.testing.assert_close(q.grad, p.grad, rtol=1e-5, atol=1e-5)
    assert len(backend.ops) == 2 * 2


def change(layer: Any) -> list[Callable[[], None]]:
    """Changes of options that a compiled program must notice, one after the other."""

    def also(name: str, value: Any, of: Any = layer) -> Callable[[], None]:
        return lambda: setattr(of, name, value)

    return [
        lambda: None,
        also("spike_fn", sa.SingleSpike),
        also("spike_fn", sa.MaxSpike(2)),
        lambda: setattr(layer.spike_fn, "max_num_spikes_per_bin", 3),
        lambda: setattr(layer.spike_fn, "max_num_spikes_per_bin", None),
        also("reset_fn", sa.MembraneSubtract(0.5)),
        lambda: setattr(layer.reset_fn, "subtract_value", 0.75),
        lambda: setattr(layer.reset_fn, "subtract_value", 0.25),
        also("reset_fn", sa.MembraneReset(0.1)),
        also("surrogate_grad_fn", sa.SingleExponential(0.3)),
        lambda: setattr(layer.surrogate_grad_fn, "grad_width", 0.7),
        lambda: setattr(layer.surrogate_grad_fn, "grad_width", 0.9),
        also("surrogate_grad_fn", sa.Gaussian()),
        also("norm_input", False),
        also("record_states", True),
        also("min_v_mem", nn.Parameter(torch.tensor(-0.5), requires_grad=False)),
    ]


@pytest.mark.one_graph
def test_changed_options_are_noticed() -> None:
    def make() -> Any:
        return sl.LIF(tau_mem=5.0, spike_threshold=torch.tensor(0.8), surrogate_grad_fn=sa.SingleExponential())

    host, model = make(), plugin_accel.convert(make())
    torch._dynamo.config.recompile_limit, limit = 64, torch._dynamo.config.recompile_limit
    try:
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        for one, other in zip(change(host), change(model), strict=True):
            one()
            other()
            seen = []
            for layer, call in ((host, host), (model, compiled)):
                layer.reset_states()
                x = drive(nn.Sequential(layer), 3).requires_grad_()
                out = call(x)
                out.sum().backward()
                seen.append((out, layer.v_mem, *layer.recordings.values(), x.grad))
            *exact, gradient = zip(*seen, strict=True)
            for a, b in exact:
                assert torch.equal(a, b)
            torch.testing.assert_close(*gradient, rtol=1e-5, atol=1e-6)
    finally:
        torch._dynamo.config.recompile_limit = limit


@pytest.mark.one_graph
def test_layers_compiled_one_by_one_share_code() -> None:
    """More layers than the compiler would compile the same function anew for."""
    model = nn.Sequential(
        *(sl.LIF(tau_mem=5.0 + i, surrogate_grad_fn=sa.Gaussian(), reset_fn=sa.MembraneReset()) for i in range(12))
    )
    plugin_accel.convert(model)
    x = drive(model)
    want = model(x)
    reset(model)
    for layer in model:
        layer.compile(fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=False, recompile_limit=4):
        assert torch.equal(model(x), want)


@pytest.mark.parametrize(
    "options",
    [{"surrogate_grad_fn": Ramp()}, {"spike_threshold": torch.tensor([1.0] * 7, dtype=torch.float64)}],
    ids=["surrogate", "float64 thresholds"],
)
def test_what_no_kernel_knows_runs_the_hosts_forward(options: dict[str, Any]) -> None:
    """With graph breaks, because the compiler has them in sinabs's own forward."""

    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 7), sl.IAF(**options))

    host, model, backend = make(), plugin_accel.convert(make()), Recording()
    got, want = train_step(model, torch.compile(model, backend=backend)), train_step(host)
    assert backend.ops == []
    assert_equal(got, want, 1e-6)


def test_states_of_another_precision_run_the_hosts_forward() -> None:
    host, model = sl.LIF(tau_mem=9.0), plugin_accel.convert(sl.LIF(tau_mem=9.0))
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        for dtype in (torch.float32, torch.float64, torch.float32):
            x = (torch.randn(2, 4, 6) * 3).to(dtype)
            assert torch.equal(compiled(x), host(x))
            assert model.v_mem.dtype is host.v_mem.dtype and torch.equal(model.v_mem, host.v_mem)


def test_without_time_steps_the_hosts_error_comes() -> None:
    for call in (sl.IAF(), torch.compile(plugin_accel.convert(sl.IAF()), backend="eager")):
        with pytest.raises(RuntimeError, match="non-empty TensorList"):
            call(torch.zeros(2, 0, 3))
