"""functional_call, checkpointing, autocast, transforms, modes: what works with sinabs works converted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sinabs.activation as sa
import sinabs.layers as sl
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import plugin_accel
from plugin_accel.hosts.sinabs import last_fallback

from .networks import Factory, assert_accelerated, assert_equal, drive, reset, states, train_step


def _both(make: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    return make(), plugin_accel.convert(make())


def test_functional_call(network: Factory) -> None:
    """Other parameters and buffers for one call: gradients go to them, the module is as before."""
    seen = []
    for model in _both(network):
        model(drive(model))
        reset(model)
        torch.manual_seed(1)
        own = {name: (p + 0.05 * torch.rand_like(p)).detach() for name, p in model.named_parameters()}
        trained = [own[n].requires_grad_() for n, p in model.named_parameters() if p.requires_grad]
        own |= {n: torch.rand_like(b) * 0.1 for n, b in model.named_buffers()}
        out = functional_call(model, own, (drive(model, 1),))
        out.square().sum().backward()
        grads = [p.grad for p in trained if p.grad is not None]
        assert len(grads) >= 2 and all(p.grad is None for p in model.parameters())
        seen.append({"outputs": [out.detach()], "states": [b.detach() for b in model.buffers()], "gradients": grads})
    assert_equal(seen[1], seen[0], 1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(network: Factory, reentrant: bool) -> None:
    """With states reset inside, so that the second forward starts where the first did."""

    def checkpointed(model: nn.Module) -> dict[str, list[Tensor]]:
        def section(x: Tensor) -> Tensor:
            reset(model)
            return model(x)

        def call(x: Tensor) -> Tensor:
            made: Tensor = checkpoint(section, x, use_reentrant=reentrant)
            return made

        model.zero_grad()
        x = drive(model, 3).requires_grad_()
        out = call(x)
        out.square().sum().backward()
        grads = [p.grad for p in (x, *model.parameters()) if p.grad is not None]
        return {"outputs": [out.detach()], "gradients": grads}

    host, model = _both(network)
    got = checkpointed(model)
    assert_equal(got, checkpointed(host), 1e-5)
    assert_accelerated(model)


LAYERS: dict[str, Callable[[], Any]] = {
    "LIF": lambda: sl.LIF(tau_mem=20.0),
    "LIF-plain": lambda: sl.LIF(tau_mem=20.0, norm_input=False, min_v_mem=-0.5),
    "LIF-neurons": lambda: sl.LIF(tau_mem=torch.linspace(3, 30, 7)),
    "LIF-synapse": lambda: sl.LIF(tau_mem=20.0, tau_syn=5.0, reset_fn=sa.MembraneSubtract(0.7)),
    "IAF": sl.IAF,
    "ExpLeak": lambda: sl.ExpLeak(tau_mem=10.0),
    "ALIF": lambda: sl.ALIF(tau_mem=9.0, tau_adapt=20.0),
    "LIFRecurrent": lambda: sl.LIFRecurrent(tau_mem=9.0, rec_connect=nn.Linear(7, 7), norm_input=False),
    "ALIFRecurrent": lambda: sl.ALIFRecurrent(tau_mem=9.0, tau_adapt=9.0, rec_connect=nn.Linear(7, 7)),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", LAYERS)
def test_autocast(name: str, dtype: torch.dtype) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 7), LAYERS[name](), nn.Linear(7, 5))

    seen = []
    for model in _both(make):
        with torch.autocast("cpu", dtype):
            assert model[0](drive(model)).dtype is dtype
            seen.append(train_step(model))
    assert_accelerated(model)
    # gradients pass through 16 bits on their way to the first weights: 2^-8 and 2^-11
    assert_equal(seen[1], seen[0], 1e-2 if dtype is torch.bfloat16 else 2e-3)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool, torch.float64]
)
def test_input_of_any_dtype(name: str, dtype: torch.dtype) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(LAYERS[name]())

    host, model = _both(make)
    with torch.no_grad():
        for seed in range(3):
            x = (torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(seed)) * 6).to(dtype)
            a, b = host(x), model(x)
            assert a.dtype is b.dtype and torch.equal(a, b)
            for s, t in zip(states(host), states(model), strict=True):
                assert s.dtype is t.dtype and torch.equal(s, t)
    assert_accelerated(model)


def _exp_leak() -> Any:
    layer = sl.ExpLeak(tau_mem=9.0)
    layer.tau_mem.requires_grad_(False)
    return layer


TRANSFORMS: dict[str, Callable[[Any, Tensor], Any]] = {
    "grad": lambda layer, x: torch.func.grad(lambda v: layer(v).square().sum())(x),
    "vmap": lambda layer, x: torch.vmap(layer)(torch.stack([x, 2 * x])),
    "jvp": lambda layer, x: torch.func.jvp(layer, (x,), (torch.ones_like(x),))[1],
    "jacrev": lambda layer, x: torch.func.jacrev(layer)(x),
}


# forward mode loads a part of torch that is written in TorchScript
TORCHSCRIPT = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@TORCHSCRIPT
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_run_the_hosts_forward(name: str) -> None:
    x = torch.randn(2, 3, 4)
    host, model = _both(_exp_leak)
    assert torch.equal(TRANSFORMS[name](model, x), TRANSFORMS[name](host, x))
    assert "torch.func" in str(last_fallback(model))
    assert torch.equal(_fresh(model)(x), _fresh(host)(x))


def _fresh(layer: Any) -> Any:
    layer.v_mem = torch.zeros(0)
    return layer


@TORCHSCRIPT
def test_forward_mode_differentiation_runs_the_hosts_forward() -> None:
    x, tangents = torch.randn(2, 3, 4), []
    for layer in _both(_exp_leak):
        with torch.autograd.forward_ad.dual_level():
            out = layer(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
            tangents.append(torch.autograd.forward_ad.unpack_dual(out).tangent)
    assert torch.equal(*tangents)


def _traced(layer: Any, x: Tensor) -> Any:
    with torch.no_grad():
        return torch.jit.trace(layer, (x,), check_trace=False)


TRACERS: dict[str, Callable[[Any, Tensor], Any]] = {
    "jit": _traced,
    "make_fx": lambda layer, x: make_fx(layer)(x),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.trace_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python:torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:Iterating over a tensor:torch.jit.TracerWarning")
@pytest.mark.parametrize("name", TRACERS)
def test_tracers_see_what_is_computed(name: str) -> None:
    """What they do not see they would record as a constant."""
    x = torch.randn(2, 3, 4)
    layer = plugin_accel.convert(_exp_leak())
    layer(x)
    layer.reset_states()
    assert torch.equal(TRACERS[name](layer, x)(2 * x), _exp_leak()(2 * x))


class Wrapped(Tensor):
    """A tensor whose numbers are in another one."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapped:
        made = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*(a.inner if isinstance(a, Wrapped) else a for a in args), **(kwargs or {}))


@pytest.mark.parametrize("what", ["input", "state", "parameter"])
def test_tensors_of_another_class_run_the_hosts_forward(what: str) -> None:
    outputs = []
    for layer in _both(lambda: sl.LIF(tau_mem=9.0, norm_input=False)):
        layer.tau_mem.requires_grad_(False)
        x = torch.linspace(-9, 9, 24).reshape(2, 3, 4)
        if what == "input":
            x = Wrapped(x)
        elif what == "state":
            layer.v_mem = Wrapped(torch.ones(2, 4))
        else:
            del layer.spike_threshold
            layer.spike_threshold = Wrapped(torch.tensor(2.0))
        outputs.append(layer(x))
    assert torch.equal(*outputs) and outputs[0].any()
    assert "Wrapped" in str(last_fallback(layer))


@pytest.mark.parametrize("norm_input", [False, True])
def test_input_changed_before_backward(norm_input: bool) -> None:
    """An error as from sinabs where backward needs the input, and none where it does not."""
    for layer in _both(lambda: sl.LIF(tau_mem=9.0, norm_input=norm_input)):
        x = torch.randn(2, 3, 4, requires_grad=True) * 2
        out = layer(x)
        with torch.no_grad():
            x.zero_()
        if norm_input:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                out.sum().backward()
        else:
            out.sum().backward()


def test_threads_of_python_run_layers_at_once() -> None:
    x = torch.randn(8, 60, 400)
    want = sl.LIF(tau_mem=9.0)(x)

    def run(_: int) -> bool:
        return all(torch.equal(plugin_accel.convert(sl.LIF(tau_mem=9.0))(x), want) for _ in range(10))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(4)))


def test_second_derivatives_are_an_error() -> None:
    layer, x = plugin_accel.convert(sl.LIF(tau_mem=9.0)), torch.randn(2, 3, 4, requires_grad=True)
    (g,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        g.sum().backward()


def test_training_after_inference_mode() -> None:
    """Nothing that was made and kept in inference mode is met again."""
    for train in (True, False):
        gradients = []
        for convert in (plugin_accel.convert, lambda layer: layer):
            layers = [convert(sl.LIF(tau_mem=13.25)) for _ in range(2)]
            for layer in layers:
                layer.tau_mem.requires_grad_(train)
            with torch.inference_mode():
                layers[0](torch.randn(2, 3, 4))
            x = torch.linspace(-9, 9, 24).reshape(2, 3, 4).requires_grad_()
            layers[1](x).sum().backward()
            gradients.append(x.grad)
        torch.testing.assert_close(*gradients)


def test_default_device_of_the_context_does_not_matter() -> None:
    layer = plugin_accel.convert(sl.LIF(tau_mem=13.75, reset_fn=sa.MembraneReset(0.1), spike_fn=sa.MaxSpike(7)))
    layer.tau_mem.requires_grad_(False)
    x = torch.randn(4, 300, 100)
    layer(x)
    layer.reset_states()
    with torch.device("meta"):
        out = layer(x)
    assert out.device.type == "cpu"
    assert last_fallback(layer) is None
    other = sl.LIF(tau_mem=13.75, reset_fn=sa.MembraneReset(0.1), spike_fn=sa.MaxSpike(7))
    assert torch.equal(out, other(x))


def test_hooks_see_what_they_see_of_the_host() -> None:
    seen: dict[int, list[Any]] = {0: [], 1: []}
    for i, layer in enumerate(_both(lambda: sl.LIF(tau_mem=9.0))):
        layer.register_forward_pre_hook(lambda m, args, i=i: seen[i].append(args[0].shape))
        layer.register_forward_hook(lambda m, args, out, i=i: seen[i].append((out.sum(), m.v_mem.sum())))
        layer.register_full_backward_hook(lambda m, gi, go, i=i: seen[i].append((len(gi), go[0].sum())))
        x = torch.linspace(-9, 9, 24).reshape(2, 3, 4).requires_grad_()
        layer(x).sum().backward()
    assert seen[0] == seen[1] and len(seen[0]) == 3
