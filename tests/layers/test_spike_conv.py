"""`SpikeConv2d` against `torch.nn.Conv2d`."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import BaseTorchFunctionMode

from plugin_accel import _C
from plugin_accel.layers import (
    SpikeConv2d,
    sparse_conv2d,
    spike_break_even,
    spike_choice,
    spike_conv,
    spike_conv_choice,
)

ALWAYS = 2.0


@pytest.fixture(autouse=True)
def _any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spike_conv, "LEAST_WORK", 0)


@pytest.fixture(params=_C.isas())
def isa(request: pytest.FixtureRequest) -> str:
    before = _C.isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)


def _spikes(shape: tuple[int, ...], density: float, graded: bool, generator: torch.Generator) -> Tensor:
    x = (torch.rand(shape, generator=generator) < density).float()
    return x * torch.randn(shape, generator=generator) if graded else x


def _pair(conv: nn.Conv2d) -> tuple[nn.Conv2d, nn.Conv2d]:
    spiking = copy.deepcopy(conv)
    spiking.__class__ = SpikeConv2d
    return conv, spiking


def _close(ours: Tensor, theirs: Tensor, relative: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    scale = max(float(theirs.detach().abs().max()), 1e-6) if theirs.numel() else 1.0
    torch.testing.assert_close(ours, theirs, rtol=0, atol=relative * scale)


def _compare(conv: nn.Conv2d, x: Tensor, need_x: bool = True) -> None:
    dense, spiking = _pair(conv)
    results = []
    for layer in (dense, spiking):
        data = x.clone(memory_format=torch.preserve_format).requires_grad_(need_x)
        with spike_break_even(ALWAYS):
            y = layer(data)
        g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        wanted = [t for t in (data, *layer.parameters()) if t.requires_grad]
        results.append((y, *torch.autograd.grad(y, wanted, g)))
    assert (spike_conv.last_call(spiking) or "").startswith("from spikes")
    ours, theirs = results[1][0], results[0][0]
    for layout in (torch.contiguous_format, torch.channels_last):
        if theirs.is_contiguous(memory_format=layout):  # neither of the two where a size of 1 lets both be so
            assert ours.is_contiguous(memory_format=layout)
    for ours, theirs in zip(results[1], results[0], strict=True):
        _close(ours, theirs)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_same_as_torch(data: st.DataObject) -> None:
    draw = data.draw
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilation, stride, padding = draw(pairs), draw(pairs), draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    least = [max(d * (k - 1) + 1 - 2 * p, 1) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    size = [n + draw(st.integers(0, 9)) for n in least]
    inputs, outputs = draw(st.integers(1, 70)), draw(st.sampled_from([1, 3, 16, 64, 65, 130]))
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=draw(st.booleans()))
    if draw(st.booleans()):
        conv = conv.to(memory_format=torch.channels_last)
    density, graded = draw(st.sampled_from([0.0, 0.05, 0.5, 1.0])), draw(st.booleans())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    x = _spikes((draw(st.integers(1, 5)), inputs, *size), density, graded, generator)
    if draw(st.booleans()):
        x = x.to(memory_format=torch.channels_last)
    _compare(conv, x, need_x=draw(st.booleans()))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("graded", [False, True])
def test_each_instruction_set(isa: str, last: bool, graded: bool) -> None:
    conv = nn.Conv2d(20, 70, 3, padding=1)
    x = _spikes((6, 20, 9, 11), 0.1, graded, torch.Generator().manual_seed(0))
    _compare(conv, x.to(memory_format=torch.channels_last) if last else x)


@pytest.mark.parametrize("padding", ["same", "valid", 0, 2])
def test_padding_as_torch_takes_it(padding: str | int) -> None:
    _compare(nn.Conv2d(4, 5, 3, padding=padding), _spikes((3, 4, 8, 8), 0.2, False, torch.Generator().manual_seed(0)))


def test_strided_input() -> None:
    x = _spikes((3, 8, 8, 16), 0.2, False, torch.Generator().manual_seed(0))
    for view in (x.permute(0, 2, 3, 1), x[:, ::2], x.transpose(0, 1)):
        conv = nn.Conv2d(view.shape[1], 5, 3)
        _, spiking = _pair(conv)
        with spike_break_even(ALWAYS):
            _close(spiking(view), conv(view))
        assert (spike_conv.last_call(spiking) or "").startswith("from spikes")


@pytest.mark.parametrize(
    ("conv", "x"),
    [
        (nn.Conv2d(4, 8, 3, groups=2), torch.zeros(2, 4, 6, 6)),
        (nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular"), torch.ones(2, 4, 6, 6)),
        (nn.Conv2d(4, 8, 2, padding="same"), torch.ones(2, 4, 6, 6)),
        (nn.Conv2d(4, 8, 3).double(), torch.zeros(2, 4, 6, 6).double()),
        (nn.Conv2d(4, 8, 3), torch.zeros(4, 6, 6)),
        (nn.Conv2d(4, 8, 3), torch.zeros(0, 4, 6, 6)),
    ],
    ids=["groups", "circular", "one-sided", "double", "unbatched", "empty"],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_rest_runs_in_torch(conv: nn.Conv2d, x: Tensor) -> None:
    dense, spiking = _pair(conv)
    with spike_break_even(ALWAYS):
        assert torch.equal(spiking(x), dense(x))
    assert not (spike_conv.last_call(spiking) or "").startswith("from spikes")


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3, 6, 6), torch.zeros(2, 4, 2, 2), torch.zeros(4)])
def test_errors_are_torchs(wrong: Tensor) -> None:
    dense, spiking = _pair(nn.Conv2d(4, 8, 3))
    with pytest.raises(RuntimeError) as theirs:
        dense(wrong)
    with pytest.raises(RuntimeError) as ours, spike_break_even(ALWAYS):
        spiking(wrong)
    assert str(ours.value) == str(theirs.value)


def test_dense_input_runs_in_torch() -> None:
    dense, spiking = _pair(nn.Conv2d(8, 8, 3))
    x = torch.rand(4, 8, 9, 9)
    assert torch.equal(spiking(x), dense(x))
    assert (spike_conv.last_call(spiking) or "").startswith("dense: 100.0% of the input")


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite(value: float) -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1)
    x = _spikes((2, 3, 7, 7), 0.2, False, torch.Generator().manual_seed(0))
    dense, spiking = _pair(conv)
    bad = x.clone()
    bad[0, 1, 3, 3] = value
    with spike_break_even(ALWAYS):
        torch.testing.assert_close(spiking(bad), dense(bad), equal_nan=True)
        results = []
        for layer in (dense, spiking):
            y = layer(x)
            g = torch.ones_like(y)
            g[1, 2, 4, 4] = value
            results.append(torch.autograd.grad(y, tuple(layer.parameters()), g))
        for ours, theirs in zip(results[1], results[0], strict=True):
            torch.testing.assert_close(ours, theirs, equal_nan=True)
        for layer in (dense, spiking):
            with torch.no_grad():
                layer.weight[0, 0, 0, 0] = value
        torch.testing.assert_close(spiking(x), dense(x), equal_nan=True)


def test_any_number_of_threads_gives_the_same() -> None:
    _, spiking = _pair(nn.Conv2d(16, 32, 3))
    x = _spikes((40, 16, 9, 9), 0.1, False, torch.Generator().manual_seed(0))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with spike_break_even(ALWAYS):
                y = spiking(x)
            found.append((y, *torch.autograd.grad(y.sum(), tuple(spiking.parameters()))))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("graded", [False, True])
def test_what_is_kept_for_backward(graded: bool) -> None:
    _, spiking = _pair(nn.Conv2d(16, 8, 3))
    x = _spikes((10, 16, 12, 12), 0.05, graded, torch.Generator().manual_seed(0))
    kept: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    with spike_break_even(ALWAYS), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        spiking(x)
    masks = [t for t in kept if t.dtype is torch.int64]
    assert len(masks) == 1
    assert masks[0].nbytes <= x.nbytes / 32 + 8 * 2 * len(x)
    assert any(t is x for t in kept) == graded


def test_used_twice_and_frozen() -> None:
    dense, spiking = _pair(nn.Conv2d(6, 6, 3, padding=1))
    x = _spikes((4, 6, 8, 8), 0.2, False, torch.Generator().manual_seed(0))
    found = []
    for layer in (dense, spiking):
        with spike_break_even(ALWAYS):
            found.append(torch.autograd.grad(layer(layer(x)).sum(), tuple(layer.parameters())))
    for ours, theirs in zip(found[1], found[0], strict=True):
        _close(ours, theirs)
    spiking.weight.requires_grad_(False)
    with spike_break_even(ALWAYS):
        y = spiking(x)
    (g,) = torch.autograd.grad(y.sum(), (spiking.bias,))
    _close(g, torch.full((6,), 4.0 * 64))


def test_second_derivative_is_refused() -> None:
    _, spiking = _pair(nn.Conv2d(3, 3, 3))
    x = _spikes((2, 3, 6, 6), 0.2, False, torch.Generator().manual_seed(0)).requires_grad_()
    with spike_break_even(ALWAYS):
        y = spiking(x)
    (g,) = torch.autograd.grad(y.square().sum(), (x,), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_autocast_modes_and_transforms_see_torchs_own() -> None:
    dense, spiking = _pair(nn.Conv2d(4, 8, 3))
    x = _spikes((2, 4, 8, 8), 0.2, False, torch.Generator().manual_seed(0))
    with spike_break_even(ALWAYS):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(spiking(x), dense(x))
        stacked = torch.stack((x, x))
        assert torch.equal(torch.vmap(spiking)(stacked), torch.vmap(dense)(stacked))
        with BaseTorchFunctionMode():
            assert torch.equal(spiking(x), dense(x))
        assert torch.equal(torch.compile(spiking, backend="eager", fullgraph=True)(x), dense(x))
        assert torch.equal(torch.jit.trace(spiking, x)(x), dense(x))


def test_adds_nothing_to_its_base() -> None:
    dense, spiking = _pair(nn.Conv2d(4, 8, 3))
    assert list(spiking.state_dict()) == list(dense.state_dict())
    assert vars(spiking).keys() == vars(dense).keys()
    assert isinstance(pickle.loads(pickle.dumps(spiking)), SpikeConv2d)
    x = _spikes((2, 4, 8, 8), 0.2, False, torch.Generator().manual_seed(0))
    with spike_break_even(ALWAYS):
        _close(sparse_conv2d(x, dense.weight, dense.bias), F.conv2d(x, dense.weight, dense.bias))


def test_the_break_even_is_measured_once() -> None:
    """Of each shape, with and without gradients of the weights, unless one is pinned; a wide net of guesses."""
    measured = spike_conv_choice.measured
    layer = _pair(nn.Conv2d(4, 16, 3, padding=1))[1]
    x = _spikes((4, 4, 8, 8), 0.05, False, torch.Generator().manual_seed(0))
    spike_choice.forget()
    state = torch.random.get_rng_state()
    for _ in range(2):
        layer(x)
        with torch.no_grad():
            layer(x)
    assert torch.equal(torch.random.get_rng_state(), state)
    found = [dict(zip(spike_conv_choice.KEY, key, strict=True)) for key in measured]
    assert sorted(key["training"] for key in found) == [False, True]
    assert all(key["shape"] == (4, 8, 8) and key["images"] <= 4 for key in found)
    assert all(0 <= limit <= 1 for limit in measured.values())
    for key in measured:
        measured[key] = 0.0  # as if spikes never won
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))
    assert "spikes pay up to 0%" in str(spike_conv.last_call(layer))
    with spike_break_even(ALWAYS):
        layer(x)
    assert "from spikes" in str(spike_conv.last_call(layer))
    spike_choice.forget()
    assert not measured
