"""Large outputs past the caches: the same numbers, and only where it was asked for."""

from __future__ import annotations

import pytest
import snntorch as snn
import torch
from torch import nn

import plugin_accel
from plugin_accel import _C
from plugin_accel.backends.cpu import BACKEND


@pytest.mark.parametrize("width", [1 << 15, (1 << 15) + 3, 33])
def test_same_numbers(width: int) -> None:
    """Rows of any alignment; one that is narrow shares a tile with other samples."""
    net = plugin_accel.convert(nn.Sequential(snn.Leaky(0.9, init_hidden=True)))
    x = torch.randn(17, 4 if width > 33 else 4096, width)
    outputs = []
    for around in (torch.enable_grad, BACKEND.amid_others):
        x.requires_grad_().grad = None
        net[0].reset_mem()
        with around():
            out = plugin_accel.run(net, x).outputs
        out.backward(torch.linspace(-1, 1, width).expand_as(out))
        outputs.append((out.detach(), x.grad, net[0].mem.detach()))
    for plain, amid in zip(*outputs, strict=True):
        assert torch.equal(plain, amid)


def test_it_ends() -> None:
    with pytest.raises(KeyError), BACKEND.amid_others():
        with BACKEND.amid_others():
            pass
        assert _C.set_amid_others(True)
        raise KeyError
    assert not _C.set_amid_others(False)
