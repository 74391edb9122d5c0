"""A gradient that does not come is none for what lies before, as in torch's layers: zeros would decay the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plugin_accel.layers import SpikeConv2d, SpikeLinear, spike_break_even


class Stop(torch.autograd.Function):
    """Gives no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        return None


LAYERS = {
    "linear": (nn.Linear(512, 512), SpikeLinear(512, 512), (64, 512)),
    "conv": (nn.Conv2d(16, 32, 3), SpikeConv2d(16, 32, 3), (16, 16, 18, 18)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_no_gradient_comes(name: str) -> None:
    *layers, shape = LAYERS[name]
    for layer in layers:
        x = (torch.rand(shape) < 0.05).float().requires_grad_()
        with spike_break_even(2.0):
            y = layer(x)
        assert y.grad_fn is not None
        assert ("Spike" in y.grad_fn.name() or "Product" in y.grad_fn.name()) == (
            type(layer) is not layers[0].__class__
        )
        Stop.apply(y).sum().backward()  # type: ignore[no-untyped-call]
        assert x.grad is None
        assert layer.weight.grad is None
        assert layer.bias.grad is None
