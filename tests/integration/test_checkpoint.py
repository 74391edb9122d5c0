"""Activation checkpointing: what a forward keeps for backward is what its repetition keeps, from the first call on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import norse.torch as norse
import pytest
import sinabs.layers as sl
import snntorch as snn
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import plugin_accel
from plugin_accel.conversion.fusion import engine_of

T, B, N = 5, 4, 8


class Steps(nn.Module):
    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.fc, self.neuron = nn.Linear(6, N), make()

    def forward(self, x):
        state = self.neuron.init_leaky() if hasattr(self.neuron, "init_leaky") else None
        spikes = []
        for t in range(T):
            spk, state = self.neuron(self.fc(x[t]), state)
            spikes.append(spk)
        return torch.stack(spikes)


class Sequence(Steps):
    def forward(self, x):
        if hasattr(self.neuron, "reset_states"):
            self.neuron.reset_states()
        made = self.neuron(self.fc(x))
        return made[0] if isinstance(made, tuple) else made


NETS: dict[str, Callable[[], nn.Module]] = {
    "Leaky": lambda: Steps(lambda: snn.Leaky(0.9)),
    "Leaky, learned": lambda: Steps(lambda: snn.Leaky(0.9, learn_beta=True, learn_threshold=True)),
    "LIFCell": lambda: Steps(norse.LIFCell),
    "LSNNCell": lambda: Steps(norse.LSNNCell),
    "norse.LIF": lambda: Sequence(norse.LIF),
    "norse.LIFRecurrent": lambda: Sequence(lambda: norse.LIFRecurrent(N, N)),
    "sinabs.LIF": lambda: Sequence(lambda: sl.LIF(10.0)),
    "sinabs.ALIF": lambda: Sequence(lambda: sl.ALIF(10.0, tau_adapt=10.0)),
    "sinabs.LIFRecurrent": lambda: Sequence(lambda: sl.LIFRecurrent(10.0, rec_connect=nn.Linear(N, N))),
}


def _step(net: nn.Module, call: int, checkpointed: bool) -> list[Any]:
    x = (3 * torch.randn(T, B, 6, generator=torch.Generator().manual_seed(call))).requires_grad_()
    net.zero_grad()
    out = checkpoint(net, x, use_reentrant=False) if checkpointed else net(x)
    out.square().sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in net.parameters())]


def _compare(mine: nn.Module, theirs: nn.Module, call: int, checkpointed: bool) -> None:
    for a, b in zip(_step(mine, call, checkpointed), _step(theirs, call, checkpointed), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def _pair(name: str, **options: bool) -> tuple[nn.Module, nn.Module]:
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(NETS[name]())
    return plugin_accel.convert(nets[0], **options), nets[1]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("fuse_time", [False, True], ids=["layers", "fused"])
def test_checkpointed_from_the_first_call_on(name: str, fuse_time: bool) -> None:
    mine, theirs = _pair(name, fuse_time=fuse_time)
    for call in range(4):
        _compare(mine, theirs, call, checkpointed=True)


def test_fused_before_and_checkpointed_then() -> None:
    mine, theirs = _pair("Leaky, learned", fuse_time=True)
    for call in range(3):
        _compare(mine, theirs, call, checkpointed=False)
    engine = engine_of(mine)
    assert engine is not None and engine.fused_calls == 1
    for call in range(3):
        _compare(mine, theirs, call, checkpointed=True)
    assert engine.fused_calls == 7  # each is called again in backward
