"""Single steps in a loop of the user's own: what autograd may be asked for beside the numbers, against the hosts."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import norse.torch as nt
import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

import plugin_accel

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
