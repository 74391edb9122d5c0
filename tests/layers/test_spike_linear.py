"""`SpikeLinear` against `nn.Linear`: any input, either way, the same numbers up to the order of summation."""

from __future__ import annotations

import copy
import gc
import io
import math
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from plugin_accel import _C
from plugin_accel.layers import SpikeLinear, sparse_linear, spike_break_even, spike_choice, spike_weights
from plugin_accel.layers.spike_linear import refusal

SPARSE, DENSE = (2.0, 2.0), (0.0, 0.0)
WAYS = [SPARSE, DENSE, (2.0, 0.0), (0.0, 2.0), (0.2, 0.1)]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(params=_C.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set of this machine in turn."""
    before = _C.isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)


def spikes(rows: int, inputs: int, density: float, kind: str, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """An input; its first rows are all zeros and all ones where there are as many."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(rows, inputs, generator=generator) < density).to(dtype)
    if kind == "graded":
        x = x * torch.randn(rows, inputs, generator=generator, dtype=dtype)
    elif kind == "counts":
        x = x * torch.randint(1, 4, (rows, inputs), generator=generator).to(dtype)
    if rows > 2:
        x[0], x[1] = 0, 1
    return x


def pair(inputs: int, outputs: int, bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """`nn.Linear`, and the same as `SpikeLinear`."""
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias=bias, dtype=dtype)
    other = copy.deepcopy(layer)
    other.__class__ = SpikeLinear
    return layer, other


def assert_close(got: Tensor | None, want: Tensor | None, dtype: torch.dtype = torch.float32) -> None:
    """Within 1e-5 of the largest entry (1e-12 in float64); infinities and NaNs in the same places."""
    assert (got is None) == (want is None)
    if got is None or want is None:
        return
    assert got.shape == want.shape and got.dtype is want.dtype
    finite = torch.isfinite(want)
    assert torch.equal(torch.isfinite(got), finite)
    assert torch.equal(torch.isnan(got), torch.isnan(want))
    if finite.any():
        scale = float(want[finite].abs().max())
        assert float((got - want)[finite].abs().max()) <= TOLERANCE[dtype] * scale


def both(layers: tuple[Any, Any], x: Tensor, needs_input: bool = True) -> None:
    """Compares outputs and gradients."""
    found = []
    torch.manual_seed(1)
    upstream = None
    for layer in layers:
        layer.zero_grad(set_to_none=True)
        leaf = x.detach().clone().requires_grad_(needs_input)
        y = layer(leaf)
        if upstream is None:
            upstream = torch.randn_like(y)
        if y.requires_grad:
            y.backward(upstream)
        found.append([y.detach(), leaf.grad, *(p.grad for p in layer.parameters())])
    for want, got in zip(*found, strict=True):
        assert_close(got, want, x.dtype)


@given(
    rows=st.integers(1, 80),
    inputs=st.sampled_from([1, 3, 63, 64, 65, 200]),
    outputs=st.sampled_from([1, 7, 16, 33, 130, 300]),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
    kind=st.sampled_from(["binary", "graded", "counts"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    bias=st.booleans(),
    needs_input=st.booleans(),
    way=st.sampled_from(WAYS),
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_equals_linear(
    rows: int,
    inputs: int,
    outputs: int,
    density: float,
    kind: str,
    dtype: torch.dtype,
    bias: bool,
    needs_input: bool,
    way: tuple[float, float],
) -> None:
    """Outputs and all gradients, whichever way is pinned, and without gradients."""
    torch.manual_seed(0)
    x = spikes(rows, inputs, density, kind, dtype)
    weight = torch.randn(outputs, inputs, dtype=dtype)
    offset = torch.randn(outputs, dtype=dtype) if bias else None
    upstream = torch.randn(rows, outputs, dtype=dtype)
    found = []
    for function in (torch.nn.functional.linear, lambda *a: sparse_linear(*a, break_even=way)):
        leaves = [t if t is None else t.clone().requires_grad_() for t in (x, weight, offset)]
        leaves[0].requires_grad_(needs_input)
        y = function(*leaves)
        y.backward(upstream)
        with torch.no_grad():
            again = function(x, weight, offset)
        found.append([y.detach(), again, *(None if t is None else t.grad for t in leaves)])
    for want, got in zip(*found, strict=True):
        assert_close(got, want, dtype)


@pytest.mark.parametrize("kind", ["binary", "graded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("outputs", [3, 171])
def test_every_instruction_set(isa: str, kind: str, dtype: torch.dtype, outputs: int) -> None:
    """More rows than one block of the gradient, more columns than one tile or fewer than a vector, tails of each."""
    layers = pair(150, outputs, dtype=dtype)
    with spike_break_even(2):
        both(layers, spikes(2100, 150, 0.1, kind, dtype))


def test_any_number_of_threads() -> None:
    """Not one bit depends on it."""
    layer = pair(300, 200)[1]
    x, found = spikes(3000, 300, 0.08, "binary", torch.float32), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            layer.zero_grad(set_to_none=True)
            with spike_break_even(2):
                y = layer(x)
                y.backward(y.detach())
            found.append((y.detach(), layer.weight.grad, layer.bias.grad))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize(
    "shape", [(200,), (1, 200), (5, 200), (4, 6, 200), (2, 3, 4, 5, 200), (0, 200), (3, 0, 200)], ids=str
)
@pytest.mark.parametrize("way", [SPARSE, DENSE], ids=["sparse", "dense"])
def test_any_number_of_dimensions(shape: tuple[int, ...], way: tuple[float, float]) -> None:
    """None or many leading dimensions, and none of their entries."""
    layers = pair(200, 700)
    x = (torch.rand(shape) < 0.1).float()
    with spike_break_even(*way):
        both(layers, x)
        with torch.no_grad():
            for _ in range(3):
                assert_close(layers[1](x), layers[0](x))


def test_memory_that_is_not_contiguous() -> None:
    """Rows apart, columns apart, a transposed input, an expanded gradient."""
    layers = pair(96, 1500)
    base = spikes(120, 200, 0.1, "binary", torch.float32)
    inputs = [base[:, :96], base[:, 3:195:2], base[:96, :].t(), base[::2, :96], base[:1, :96].expand(40, 96)]
    with spike_break_even(2):
        for x in inputs:
            found = []
            for layer in layers:
                layer.zero_grad(set_to_none=True)
                y = layer(x)
                y.sum().backward()
                with torch.no_grad():
                    found.append((y.detach(), layer(x[:2]), layer.weight.grad, layer.bias.grad))
            for want, got in zip(*found, strict=True):
                assert_close(got, want)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("where", ["weight", "input", "bias", "gradient"])
@pytest.mark.parametrize("rows", [4, 100])
def test_infinities(where: str, value: float, rows: int) -> None:
    """Zero times infinity is NaN in a dense product, and so it is here."""
    layers = pair(120, 400)
    x = spikes(rows, 120, 0.1, "binary", torch.float32)
    upstream = torch.randn(rows, 400)
    if where == "input":
        x[2, 5] = value
    if where == "gradient":
        upstream[1, 7] = value
    found = []
    with spike_break_even(2):
        for layer in layers:
            if where in ("weight", "bias"):
                with torch.no_grad():
                    getattr(layer, where).view(-1)[11] = value
            y = layer(x)
            y.backward(upstream)
            with torch.no_grad():
                found.append((y.detach(), layer(x), layer.weight.grad, layer.bias.grad))
    for want, got in zip(*found, strict=True):
        assert_close(got, want)


def test_weights_that_change() -> None:
    """In place, by an optimizer, by `.data`, by a new Parameter, through another dtype and back."""
    layer, other = pair(100, 600)
    x = spikes(30, 100, 0.1, "binary", torch.float32)

    def check() -> None:
        other.load_state_dict(layer.state_dict())
        for rows in (x, x[3:4]):
            for _ in range(2):
                with torch.no_grad(), spike_break_even(2):
                    assert_close(layer(rows), nn.functional.linear(rows, layer.weight, layer.bias))

    layer.__class__ = SpikeLinear
    check()
    with torch.no_grad():
        layer.weight[3, 3] += 1
    check()
    optimizer = torch.optim.Adam(layer.parameters(), 0.1)
    layer(x).square().sum().backward()
    optimizer.step()
    check()
    layer.weight.data.mul_(0.5)
    check()
    layer.weight.data = torch.randn(600, 100)
    check()
    layer.half().float()
    check()
    layer.weight = nn.Parameter(torch.randn(600, 100))
    check()
    layer.weight.numpy(force=True)[:] = 1.0
    check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(64, 64), (70, 151)], ids=str)
def test_small_writes_past_torch_are_found(isa: str, dtype: torch.dtype, size: tuple[int, int]) -> None:
    """One entry through `.data`: at once in a large call, in small ones when all lines have had their turn."""
    inputs, outputs = size
    layer = pair(inputs, outputs, dtype=dtype)[1]
    large = torch.ones(spike_weights.MANY_ROWS, inputs, dtype=dtype)
    with spike_break_even(2), torch.no_grad():
        for row, column in ((0, 0), (17, 20), (outputs - 1, inputs - 1)):
            for x in (large, large[:40]):
                layer(x)
                layer.weight.data[row, column] += 1.0
                for _ in range(1 if x is large else 40):
                    y = layer(x)
                assert_close(y, nn.functional.linear(x, layer.weight, layer.bias), dtype)


def test_double_use_and_tying() -> None:
    """One layer twice in a graph, one weight in two layers."""
    found = []
    for cls in (nn.Linear, SpikeLinear):
        torch.manual_seed(0)
        first, second = nn.Linear(150, 150), nn.Linear(150, 150)
        second.weight = first.weight
        for layer in (first, second):
            layer.__class__ = cls
        x = spikes(60, 150, 0.1, "binary", torch.float32)
        with spike_break_even(2):
            hidden = (first(x) > 0.5).float()
            y = second(hidden) + first(hidden) + first(x)
            y.square().sum().backward()
        found.append([y.detach(), first.weight.grad, first.bias.grad, second.bias.grad])
    for want, got in zip(*found, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize("frozen", ["weight", "bias", "both"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_frozen_parameters(frozen: str, way: tuple[float, float]) -> None:
    layers = pair(120, 90)
    for layer in layers:
        for name in ("weight", "bias"):
            getattr(layer, name).requires_grad_(frozen not in (name, "both"))
    with spike_break_even(*way):
        both(layers, spikes(50, 120, 0.05, "binary", torch.float32))
        both(layers, spikes(50, 120, 0.05, "binary", torch.float32), needs_input=False)


def test_what_is_left_to_torch() -> None:
    """The same result, or the same error, as `nn.Linear`."""
    layer, other = pair(100, 600)
    x = spikes(40, 100, 0.1, "binary", torch.float32)

    class Subclass(Tensor):
        pass

    assert refusal(other, x) is None
    with spike_break_even(2):
        assert type(other(x.as_subclass(Subclass))) is type(layer(x.as_subclass(Subclass)))
        assert refusal(other, x.as_subclass(Subclass)) is not None
        with torch.autocast("cpu", torch.bfloat16):
            assert refusal(other, x) is not None
            assert torch.equal(other(x), layer(x)) and other(x).dtype is torch.bfloat16
        assert torch.equal(torch.func.vmap(other)(x), torch.func.vmap(layer)(x))
        parameters = dict(other.named_parameters())
        call = torch.func.functional_call
        for got, want in zip(
            torch.func.grad(lambda p: call(other, p, x).sum())(parameters).values(),
            torch.func.grad(lambda p: call(layer, p, x).sum())(parameters).values(),
            strict=True,
        ):
            assert torch.equal(got, want)
        assert_close(torch.func.jvp(other, (x,), (x,))[1].detach(), torch.func.jvp(layer, (x,), (x,))[1].detach())
        for bad in (x.int(), x.double(), x.half(), x[:, :50], torch.tensor(1.0), None, [1.0]):
            with pytest.raises((RuntimeError, TypeError)) as want_error:
                layer(bad)
            with pytest.raises((RuntimeError, TypeError)) as got_error:
                other(bad)
            assert type(got_error.value) is type(want_error.value)
        assert_close(other(x.to_sparse()).detach(), layer(x.to_sparse()).detach())
        parametrized = torch.nn.utils.parametrizations.weight_norm(copy.deepcopy(other))
        assert_close(parametrized(x).detach(), layer(x).detach())
        with torch.inference_mode():
            assert_close(other(x.clone()), layer(x))


def test_batched_gradients() -> None:
    """`is_grads_batched` runs backward under vmap."""
    found = []
    x = spikes(40, 100, 0.1, "binary", torch.float32)
    g = torch.randn(3, 40, 600)
    with spike_break_even(2):
        for layer in pair(100, 600):
            found.append(torch.autograd.grad(layer(x), list(layer.parameters()), g, is_grads_batched=True))
    for want, got in zip(*found, strict=True):
        assert_close(got, want)


def test_second_derivatives() -> None:
    """Those of `nn.Linear` while the input has no gradient; a clear error otherwise."""
    found = []
    x = spikes(40, 100, 0.1, "binary", torch.float32)
    with spike_break_even(2):
        for layer in pair(100, 60):
            g = torch.autograd.grad(layer(x).square().sum(), layer.weight, create_graph=True)[0]
            g.square().sum().backward()
            found.append(layer.weight.grad)
        assert_close(found[1], found[0])
        layer = pair(100, 60)[1]
        with pytest.raises(RuntimeError, match="create_graph"):
            torch.autograd.grad(layer(x.requires_grad_()).square().sum(), layer.weight, create_graph=True)


def test_compile() -> None:
    """A compiled program has the dense product, without a graph break."""
    layer, other = pair(100, 60)
    x = spikes(40, 100, 0.1, "binary", torch.float32)
    with spike_break_even(2):
        other(x)
        compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
        y = compiled(x)
        y.sum().backward()
    layer(x).sum().backward()
    assert_close(y.detach(), layer(x).detach())
    assert_close(other.weight.grad, layer.weight.grad)


def test_the_module_stays_a_linear() -> None:
    """Hooks, copies, pickles, `state_dict`, `repr`; nothing is left on the module."""
    layer, other = pair(100, 600)
    x = spikes(40, 100, 0.1, "binary", torch.float32)
    keys = set(other.__dict__)
    with spike_break_even(2), torch.no_grad():
        y = other(x)
        seen: list[Any] = []
        handle = other.register_forward_hook(lambda _m, _a, out: seen.append(out))
        other(x)
        handle.remove()
        assert_close(seen[0], y)
        assert set(other.__dict__) == keys
        buffer = io.BytesIO()
        torch.save(other.state_dict(), buffer)
        for twin in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
            assert type(twin) is SpikeLinear and torch.equal(twin(x), y)
        assert list(other.state_dict()) == list(layer.state_dict())
        other.__class__ = nn.Linear
        assert torch.equal(other(x), layer(x)) and repr(other) == repr(layer)


def test_nothing_outlives_the_weight() -> None:
    """What is kept for a weight goes with it."""
    gc.collect()
    before = len(spike_weights.KNOWN)
    layer = pair(100, 600)[1]
    with spike_break_even(2), torch.no_grad():
        layer(spikes(4, 100, 0.1, "binary", torch.float32))
    assert len(spike_weights.KNOWN) == before + 1
    del layer
    gc.collect()
    assert len(spike_weights.KNOWN) == before


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """What autograd keeps, without Parameters."""
    found: dict[int, int] = {}
    known = {p.untyped_storage().data_ptr() for p in layer.parameters()}

    def pack(t: Tensor) -> Tensor:
        found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = layer(x)
    assert y.requires_grad
    return sum(size for address, size in found.items() if address not in known)


@pytest.mark.parametrize(
    ("density", "kind", "way", "most"),
    [
        (0.05, "binary", SPARSE, 2 * 0.055 + 0.02),
        (0.05, "graded", SPARSE, 6 * 0.055 + 0.02),
        (0.05, "binary", (1e-3, 0.0), 1 / 8 + 0.02),
        (0.3, "binary", (2.0, 0.1), 1 / 8 + 0.02),
        (0.3, "binary", SPARSE, 2 * 0.305 + 0.02),
        (0.05, "graded", (1e-3, 0.0), 4.0),
        (0.05, "binary", DENSE, 4.0),
    ],
)
def test_what_is_kept_for_backward(density: float, kind: str, way: tuple[float, float], most: float) -> None:
    """Bytes per entry of the input: 2 per spike, 6 with values, or a bit per entry; 4 bytes are those of floats."""
    layer, rows, inputs = pair(768, 400)[1], 1000, 768
    x = (spikes(rows, inputs, density, kind, torch.float32) * 1.0).requires_grad_()
    with spike_break_even(*way):
        assert 0 < saved_bytes(layer, x) <= most * rows * inputs
        x = x.detach()
        if way == SPARSE:
            assert 0 < saved_bytes(layer, x) <= most * rows * inputs


def test_a_default_device_is_no_mode() -> None:
    """`torch.set_default_device` is a mode of torch, and the spikes are counted all the same."""
    layer, x = pair(768, 400)[1], spikes(1000, 768, 0.05, "binary", torch.float32)
    with spike_break_even(*SPARSE), torch.device("cpu"):
        assert refusal(layer, x) is None
        assert 0 < saved_bytes(layer, x) <= 0.5 * x.numel()


def test_the_pin_and_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pin wins and measures nothing; a measurement is made once per shape."""
    monkeypatch.setattr(spike_choice, "_variable", None)
    spike_choice.forget()
    layer = pair(256, 256)[1]
    x = spikes(64, 256, 0.02, "binary", torch.float32)
    with spike_break_even(0.3, 0.2):
        layer(x).sum().backward()
        assert spike_choice.pinned() == (0.3, 0.2)
        assert spike_choice.measured() == {}
    layer(x).sum().backward()
    layer(x)
    assert len(spike_choice.measured()) == 1
    ((key, found),) = spike_choice.measured().items()
    assert key[-3:] == (64, 256, 256) and all(0 <= limit <= 1 for limit in found)
    seen: list[int] = []

    def timing() -> spike_choice.Timing:
        def calls(rows: int, _: float | None) -> tuple[Any, Any]:
            seen.append(rows)
            return (lambda: None), (lambda: None)

        return spike_choice.Timing(calls, (0.0, 0.0))

    for rows, inputs, outputs in ((1, 10, 10), (5000, 60000, 60000), (5000, 100, 100)):
        spike_choice.break_even(torch.float32, rows, inputs, outputs, True, timing)
    assert list(dict.fromkeys(seen)) == [1, 1024, 4096]
    with pytest.raises(ValueError, match="break-even: expected"), spike_break_even(-1):
        pass
    assert spike_choice._parse("dense") == DENSE and spike_choice._parse("0.3,0.2") == (0.3, 0.2)
    assert spike_choice._parse("auto") is None and spike_choice._parse("0.5") == (0.5, 0.5)
    for text in ("fast", "1,2,3", "-1", "nan"):
        with pytest.raises(ValueError, match="PLUGIN_ACCEL_SPIKES: expected"):
            spike_choice._parse(text)


def test_measured_choice_gives_the_same_numbers() -> None:
    """Without a pin, over inputs that go either way."""
    spike_choice.forget()
    layers = pair(300, 200)
    for density in (0.02, 0.9, 0.02, 0.3):
        both(layers, spikes(200, 300, density, "binary", torch.float32))
        with torch.no_grad():
            x = spikes(3, 300, density, "binary", torch.float32)
            for _ in range(40):
                assert_close(layers[1](x), layers[0](x))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_a_weight_that_is_no_parameter_of_its_layer() -> None:
    layer = torch.nn.utils.weight_norm(nn.Linear(300, 600))
    x = torch.rand(50, 300).lt_(0.05)
    expected = layer(x)
    layer.__class__ = SpikeLinear
    with spike_break_even(2.0):
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


def test_small_dense_calls_say_nothing_of_larger_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a loop that were dense, then all of them at once, from few spikes: kept compressed."""
    monkeypatch.setattr(spike_choice, "break_even", lambda *_: spike_choice.BreakEven(0.1, 0.1))
    layer = pair(600, 300)[1]
    steps = torch.rand(20, 600)
    whole = spikes(400, 600, 0.02, "binary", torch.float32).requires_grad_()
    layer(steps)
    assert spike_weights.KNOWN[id(layer.weight)].skip[True]
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(whole)
    assert (
        sum(t.nbytes for t in kept if t is not layer.weight and t.data_ptr() != layer.weight.data_ptr())
        < 0.1 * whole.nbytes
    )
    layer(steps)
    assert spike_weights.KNOWN[id(layer.weight)].skip[True] == 30


def test_checkpointing_while_dense_calls_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a call keeps is what its repetition keeps, though the next look would have come between them."""
    monkeypatch.setattr(spike_choice, "break_even", lambda *_: spike_choice.BreakEven(0.1, 0.1))
    layer = pair(600, 300)[1]
    layer(torch.rand(400, 600))
    of = spike_weights.KNOWN[id(layer.weight)]
    while of.skip[True] > 1:
        layer(torch.rand(400, 600))
    x = spikes(400, 600, 0.02, "binary", torch.float32).requires_grad_()
    y = checkpoint(layer, x, use_reentrant=False)
    y.sum().backward()
    assert_close(x.grad, layer.weight.detach().sum(0).expand(400, 600))
