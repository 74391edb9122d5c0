"""Single steps in a loop of the user's own: what autograd may be asked for beside the numbers, against the hosts."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import norse.torch as nt
import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel import _C

STEPS, SHAPE = 6, (3, 5)
LAYERS: dict[str, Callable[[], Any]] = {
    "Leaky": lambda: snn.Leaky(beta=0.9, threshold=0.6),
    "Leaky, zero": lambda: snn.Leaky(beta=0.9, threshold=0.6, reset_mechanism="zero"),
    "Leaky, learned": lambda: snn.Leaky(beta=0.9, threshold=0.6, learn_beta=True, learn_threshold=True),
    "Leaky, neurons": lambda: snn.Leaky(beta=torch.linspace(0.5, 0.9, 5), threshold=0.6, learn_beta=True),
    "Lapicque": lambda: snn.Lapicque(beta=0.9, threshold=0.1),
    "Synaptic": lambda: snn.Synaptic(alpha=0.7, beta=0.9, threshold=0.6),
    "Alpha": lambda: snn.Alpha(alpha=0.9, beta=0.8, threshold=0.3),
    "RLeaky": lambda: snn.RLeaky(beta=0.9, all_to_all=False, V=0.4, threshold=0.6),
    "RLeaky, fixed": lambda: snn.RLeaky(beta=0.9, all_to_all=False, V=0.4, learn_recurrent=False, threshold=0.6),
    "RLeaky, neurons": lambda: snn.RLeaky(
        beta=0.9, all_to_all=False, V=torch.linspace(-0.5, 0.5, 5), learn_beta=True, threshold=0.6
    ),
    "RLeaky, linear": lambda: snn.RLeaky(beta=0.9, linear_features=5, threshold=0.6),
    "RSynaptic": lambda: snn.RSynaptic(alpha=0.7, beta=0.9, all_to_all=False, V=0.4, threshold=0.6),
    "LICell": lambda: nt.LICell(dt=0.01),
    "LIFCell": lambda: nt.LIFCell(nt.LIFParameters(v_th=torch.as_tensor(0.1)), dt=0.01),
    "LIFBoxCell": lambda: nt.LIFBoxCell(nt.LIFBoxParameters(v_th=torch.as_tensor(0.1)), dt=0.01),
    "LSNNCell": lambda: nt.LSNNCell(nt.LSNNParameters(v_th=torch.as_tensor(0.1)), dt=0.01),
}


def made(name: str) -> Any:
    torch.manual_seed(1)
    return LAYERS[name]()


def roll(layer: Any, x: Tensor) -> list[Tensor]:
    """Spikes of each step, then all that the last step gave."""
    out, state = [], None
    for x_t in x.unbind(0):
        if isinstance(layer, snn.SpikingNeuron):
            spk, *last = layer(x_t)
        else:
            spk, state = layer(x_t, state)
            last = list(state)
        out.append(spk)
    return [*out, *last]


def loss_of(out: list[Tensor]) -> Tensor:
    weights = [torch.linspace(-1, 1 + i, o.numel()).reshape(o.shape) for i, o in enumerate(out)]
    return torch.stack([(w * o).sum() for w, o in zip(weights, out, strict=True)]).sum()


def data(scale: float = 1.0) -> Tensor:
    return (torch.rand(STEPS, *SHAPE, generator=torch.Generator().manual_seed(0)) * scale).requires_grad_()


def close(a: Tensor | None, b: Tensor | None) -> bool:
    return (a is b is None) or bool(torch.allclose(a, b, rtol=1e-5, atol=1e-6))  # type: ignore[arg-type]


def gradients(layer: Any, x: Tensor, run: Callable[[Any, Tensor], None]) -> list[Tensor | None]:
    x.grad = None
    run(layer, x)
    return [x.grad, *[p.grad for p in layer.parameters()]]


def twice(layer: Any, x: Tensor) -> None:
    loss = loss_of(roll(layer, x))
    loss.backward(retain_graph=True)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def with_hooks(layer: Any, x: Tensor) -> None:
    out = roll(layer, x)
    out[0].register_hook(lambda g: g * 2)
    out[-1].retain_grad()
    loss_of(out).backward()
    assert out[-1].grad is not None


def with_saved_hooks(layer: Any, x: Tensor) -> None:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t.view_as(t)):
        loss = loss_of(roll(layer, x))
    loss.backward()


def expanded_and_negated(layer: Any, x: Tensor) -> None:
    out = roll(layer, x)
    one = torch.complex(torch.zeros(SHAPE), torch.ones(SHAPE)).conj().imag  # negated when it is read
    assert one.is_neg()
    torch.autograd.backward(out[:2], [torch.ones(()).expand(SHAPE), one])


def spikes_alone(layer: Any, x: Tensor) -> None:
    torch.stack(roll(layer, x)[:STEPS]).sum().backward()


@pytest.mark.parametrize("run", [twice, with_hooks, with_saved_hooks, expanded_and_negated, spikes_alone])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_the_hosts(name: str, run: Callable[[Any, Tensor], None]) -> None:
    plain, fast, x = made(name), plugin_accel.convert(made(name)), data()
    before, after = roll(plain, x.detach()), roll(fast, x.detach())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)) or name == "RLeaky, linear"
    assert torch.stack(before[:STEPS]).any()
    for layer in (plain, fast):
        if isinstance(layer, snn.SpikingNeuron):
            layer.reset_mem()
    want = gradients(plain, x, run)
    got = gradients(fast, x, run)
    assert want[0] is not None and want[0].any()
    assert all(close(a, b) for a, b in zip(got, want, strict=True)), (got, want)


@pytest.mark.parametrize("name", ["Leaky", "Synaptic", "RLeaky"])
def test_the_graph_is_once_differentiable(name: str) -> None:
    layer, x = plugin_accel.convert(made(name)), data()
    with pytest.raises(RuntimeError, match="restore"):
        torch.autograd.grad(loss_of(roll(layer, x)), x, create_graph=True)


def test_what_a_transform_leaves_behind_is_taken() -> None:
    left: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        left.append(x * 1.0)
        return x.sum()

    torch.func.grad(watched)(data()[0].detach())
    plain, fast = made("Leaky"), plugin_accel.convert(made("Leaky"))
    fast(data()[1])
    fast.reset_mem()
    assert torch.equal(fast(left[0])[0], plain(left[0])[0])


def test_hooks_of_the_recurrent_module_are_called() -> None:
    fast, seen = plugin_accel.convert(made("RLeaky")), []
    fast.recurrent.register_forward_hook(lambda module, inputs, out: seen.append(out))
    roll(fast, data())
    assert len(seen) == STEPS


@pytest.mark.parametrize("name", ["Leaky", "Alpha", "RLeaky", "LIFCell"])
def test_a_layer_that_was_called_can_die(name: str) -> None:
    layer = plugin_accel.convert(made(name))
    roll(layer, data())
    watch = weakref.ref(layer)
    for cls in type(layer).__mro__:  # snnTorch keeps a list of all its layers
        if "instances" in vars(cls):
            cls.instances[:] = [other for other in cls.instances if other is not layer]  # type: ignore[attr-defined]
    del layer
    gc.collect()
    assert watch() is None


def test_options_may_change_between_the_steps() -> None:
    plain, fast, x = made("Leaky"), plugin_accel.convert(made("Leaky")), data()
    for layer in (plain, fast):
        roll(layer, x)
        layer.state_function = layer._base_zero
    assert all(torch.equal(a, b) for a, b in zip(roll(fast, x), roll(plain, x), strict=True))


def test_wide_and_narrow_steps() -> None:
    """More neurons than one thread takes, and few with parameters of their own, which are taken in samples."""
    for shape, beta in [((4, 30000), 0.9), ((7, 3), torch.tensor([0.2, 0.5, 0.9])), ((2, 1100), torch.rand(1100))]:
        x = (torch.rand(3, *shape) * 2).requires_grad_()
        plain, fast = snn.Leaky(beta=beta), plugin_accel.convert(snn.Leaky(beta=beta))
        seen = []
        for layer in (plain, fast):
            out = roll(layer, x)
            seen.append([*out, *torch.autograd.grad(loss_of(out), x)])
        assert all(torch.equal(a, b) for a, b in zip(seen[0][:-1], seen[1][:-1], strict=True))
        assert torch.allclose(seen[0][-1], seen[1][-1], rtol=1e-5, atol=1e-6)


def test_a_parametrised_layer_goes_the_general_way() -> None:
    class Half(nn.Module):
        def forward(self, beta: Tensor) -> Tensor:
            return beta / 2

    layers = [snn.Leaky(beta=0.8, learn_beta=True), plugin_accel.convert(snn.Leaky(beta=0.8, learn_beta=True))]
    for layer in layers:
        nn.utils.parametrize.register_parametrization(layer, "beta", Half())
    x = data()
    assert all(torch.equal(a, b) for a, b in zip(*[roll(layer, x) for layer in layers], strict=True))


def both(name: str) -> tuple[Any, Any]:
    return made(name), plugin_accel.convert(made(name))


def same(plain: list[Tensor], fast: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(plain, fast, strict=True))


@pytest.mark.parametrize("shape", [(7, 33), (64,)])
@pytest.mark.parametrize("name", ["RLeaky", "RSynaptic"])
def test_the_gradient_of_v_is_summed_over_all_neurons(name: str, shape: tuple[int, ...]) -> None:
    x = (torch.rand(STEPS, *shape, generator=torch.Generator().manual_seed(3)) * 2).requires_grad_()
    seen = []
    for layer in both(name):
        out = roll(layer, x)
        seen.append((out, torch.autograd.grad(loss_of(out), [x, layer.recurrent.V])))
    assert same(seen[0][0], seen[1][0])
    assert seen[0][1][1] != 0
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(seen[0][1], seen[1][1], strict=True))


def test_who_asks_for_a_gradient_may_change_between_the_steps() -> None:
    """More ways than a guard remembers, again and again."""
    layers, seen = both("RLeaky"), []
    for layer in layers:
        out, x = [], data()
        for i in range(120):
            layer.recurrent.V.requires_grad_(bool(i % 2))
            layer.threshold.requires_grad_(bool(i % 3))
            with torch.set_grad_enabled(i % 5 > 0):
                spk, mem = layer(x[i % STEPS] if i % 7 else x[i % STEPS].detach())
            if i % 11 == 0:
                spk, mem = layer.spk, layer.mem = spk.detach(), mem.detach()
            out += [spk, mem]
        asking = [t for t in out if t.requires_grad]
        seen.append((out, torch.autograd.grad(loss_of(asking), [x, layer.recurrent.V], allow_unused=True)))
    assert [t.requires_grad for t in seen[0][0]] == [t.requires_grad for t in seen[1][0]]
    assert same(seen[0][0], seen[1][0])
    assert all(close(a, b) for a, b in zip(seen[0][1], seen[1][1], strict=True))


def test_weights_and_states_may_become_others_between_the_steps() -> None:
    layers, seen = both("RLeaky"), []
    for layer in layers:
        x, out = data(2.0).detach(), []
        for i, x_t in enumerate(x):
            if i == 2:
                layer.recurrent.V.data = torch.linspace(-0.5, 0.5, SHAPE[-1])
            if i == 3:
                layer.recurrent.V.data = torch.tensor(0.3)
            spk, mem = layer(x_t)
            out += [spk, mem]
        out += layer(mem, spk, mem)  # the same tensor twice
        seen.append(out)
    assert same(*seen)


def test_fixed_parameters_of_a_cell_may_be_edited_between_the_steps() -> None:
    seen = []
    for cell in both("LIFCell"):
        state, out = None, []
        for i, x_t in enumerate(data()):
            if i == 3:
                cell.p.v_th.mul_(0.5)
            if i == 4:
                cell.p = cell.p._replace(v_reset=torch.full(SHAPE[-1:], 0.01))
            spk, state = cell(x_t, state)
            out += [spk, *state]
        seen.append(out)
        assert type(state) is nt.functional.lif.LIFFeedForwardState
    assert same(*seen)


def test_rows_go_back_to_the_pool() -> None:
    layer, x = plugin_accel.convert(snn.Leaky(beta=0.9)), torch.rand(4, 2048).requires_grad_()
    before = _C.pool_used_bytes()
    spk, mem = layer(x)
    spk, mem = layer(x, mem)
    held = [spk]
    (spk.sum() + mem.sum()).backward()
    assert _C.pool_used_bytes() > before
    layer.reset_mem()
    other = threading.Thread(target=held.clear)
    del spk, mem
    other.start()
    other.join()
    x.grad = None
    assert _C.pool_used_bytes() == before


OLDER = """
import torch
del torch.Tensor.__dlpack_c_exchange_api__
import torch._C._dynamo.guards as guards
del guards.TensorGuards
from tests.hosts import test_single_steps as t
for name in ("Leaky", "Synaptic", "RLeaky, neurons", "LIFCell"):
    t.test_gradients_are_the_hosts(name, t.with_hooks)
t.test_wide_and_narrow_steps()
t.test_fixed_parameters_of_a_cell_may_be_edited_between_the_steps()
"""


def test_an_older_torch_is_asked_attribute_by_attribute() -> None:
    root = Path(__file__).parents[2]
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        pytest.skip("this torch is one")
    subprocess.run([sys.executable, "-c", OLDER], check=True, cwd=root, timeout=120)
