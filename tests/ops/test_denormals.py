"""Numbers below the smallest normal one: kept by what runs forward, zero in what runs backward."""

from __future__ import annotations

import pytest
import snntorch as snn
import torch
from torch import nn

import plugin_accel
from plugin_accel.backends.cpu import BACKEND
from plugin_accel.backends.cpu_linear import flushing

TINY = 1e-40


def denormals_live() -> bool:
    """In every thread that computes for this one."""
    return bool((torch.full((1 << 20,), TINY) * 1.0 != 0).all())


def test_flushing_reaches_all_threads_and_ends() -> None:
    assert denormals_live()
    with pytest.raises(KeyError), flushing():
        assert not bool((torch.full((1 << 20,), TINY) * 1.0).any())
        raise KeyError
    assert denormals_live()


def test_forward_keeps_them() -> None:
    theirs, mine = snn.Leaky(0.5), plugin_accel.convert(snn.Leaky(0.5))
    x = torch.full((2, 600), TINY)
    (_, expected), (_, found) = theirs(x, x), mine(x, x)
    assert torch.equal(found, expected) and bool((found > 0).all())


def test_backward_takes_them_for_zero() -> None:
    mine = plugin_accel.convert(snn.Leaky(0.5))
    x = torch.rand(2, 600, requires_grad=True)
    _spikes, mem = mine(x, torch.zeros(2, 600))
    (gradient,) = torch.autograd.grad(mem, x, torch.tensor([TINY, 1.0]).view(2, 1).expand(2, 600), retain_graph=True)
    assert not gradient[0].any() and bool((gradient[1] == 1).all())
    assert denormals_live()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(200, 30), (5, 40, 30), (0, 30)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear(shape: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    """The products are torch's own, so they are equal to the last bit."""
    torch.manual_seed(0)
    layer, x = nn.Linear(30, 100, bias=bias, dtype=dtype), torch.randn(shape, dtype=dtype, requires_grad=True)
    leaves = [x, *layer.parameters()]
    expected, found = layer(x), BACKEND.linear(x, layer.weight, layer.bias)
    assert torch.equal(found, expected) and found.stride() == expected.stride()
    upstream = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(found, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        assert torch.equal(a, b)
    with torch.no_grad():
        assert torch.equal(BACKEND.linear(x, layer.weight, layer.bias), expected)
    assert denormals_live()


def test_linear_twice_differentiated() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    bias = torch.randn(5, dtype=torch.float64)
    tensors = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(BACKEND.linear, tensors)
    assert torch.autograd.gradgradcheck(BACKEND.linear, tensors)


def test_linear_of_other_kinds_is_torchs() -> None:
    x, weight = torch.randn(3, 4, dtype=torch.bfloat16), torch.randn(5, 4, dtype=torch.bfloat16)
    assert torch.equal(BACKEND.linear(x, weight, None), nn.functional.linear(x, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert BACKEND.linear(x.float(), weight.float(), None).dtype is torch.bfloat16
