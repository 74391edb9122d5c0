"""What a forward reads from lists, dicts and parameters that others replace, and from one tensor in several places."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import plugin_accel
from plugin_accel.conversion.fusion import engine_of
from tests.fusion.base import B, Layers, N, T, grid
from tests.fusion.comparison import assert_same, step


class FromPlaces(Layers):
    """First states from a list and a dict of the module; two inputs; a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Linear(N, N)
        self.other = nn.Linear(N, N)
        self.other.weight = self.same.weight
        self.first = [torch.zeros(B, 6), {"mem": torch.zeros(B, 4)}]
        self.unread = [self.fc1.weight]

    def forward(self, x, y):
        mem1, mem2, rec = self.first[0], self.first[1]["mem"], []
        for t in range(T):
            spk1, mem1 = self.lif1(self.fc1(self.other(self.same(x[t]))) + self.fc1(y[t]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(mem2 + spk2)
        return torch.stack(rec)


def _new_list(net):
    net.first = [torch.full((B, 6), 0.5), net.first[1]]


def _new_entry(net):
    net.first[1] = {"mem": torch.full((B, 4), -0.5)}


def _new_tensor(net):
    net.first[1]["mem"] = torch.full((B, 4), 0.25)


def _untied(net):
    net.same.weight = nn.Parameter(torch.full((N, N), 0.125))


def _untied_the_other_way(net):
    net.other.weight = nn.Parameter(torch.full((N, N), 0.125))


def _new_weight(net):
    net.fc1.weight = nn.Parameter(torch.full((6, N), 0.25))


@pytest.mark.parametrize(
    "change",
    [_new_list, _new_entry, _new_tensor, _untied, _untied_the_other_way, _new_weight],
    ids=lambda c: c.__name__,
)
def test_other_tensors_in_the_places_that_are_read(change: Any) -> None:
    theirs, mine = grid(FromPlaces()), plugin_accel.convert(grid(FromPlaces()), fuse_time=True)
    for call in range(8):
        if call == 4:
            change(theirs), change(mine)
        torch.manual_seed(call)
        x, y = torch.randint(-3, 5, (2, T, B, N)).float() / 4
        expected = step(lambda: theirs(x, y), [], [theirs], call)
        assert_same(step(lambda: mine(x, y), [], [mine], call), expected, f"call {call}", exact=False)
    engine = engine_of(mine)
    assert engine is not None and engine.reason is None, engine.reason


def test_one_tensor_as_two_arguments() -> None:
    theirs, mine = grid(FromPlaces()), plugin_accel.convert(grid(FromPlaces()), fuse_time=True)
    for call in range(9):
        torch.manual_seed(call)
        x, y = torch.randint(-3, 5, (2, T, B, N)).float() / 4
        y = x if call < 3 or call == 8 else y
        expected = step(lambda: theirs(x, y), [], [theirs], call)
        assert_same(step(lambda: mine(x, y), [], [mine], call), expected, f"call {call}", exact=False)
    engine = engine_of(mine)
    assert engine is not None and engine.reason is None and engine.fused_calls == 5, engine.fused_calls


def test_a_state_in_a_list_from_call_to_call() -> None:
    """The list is new at each call, and read at the next."""

    class Streaming(Layers):
        def forward(self, x):
            mem1, mem2 = self.mems
            rec = []
            for t in range(T):
                spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
                spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
                rec.append(spk2)
            self.mems = [mem1.detach(), mem2.detach()]
            return torch.stack(rec)

    nets = grid(Streaming()), plugin_accel.convert(grid(Streaming()), fuse_time=True)
    for net in nets:
        net.mems = [torch.zeros(B, 6), torch.zeros(B, 4)]
    for call in range(7):
        if call == 5:
            for net in nets:
                net.mems = [torch.ones(B, 6), torch.ones(B, 4)]
        x = torch.randint(-3, 5, (T, B, N), generator=torch.Generator().manual_seed(call)).float() / 4
        results = [step(lambda net=net: (net(x), net.mems), [], [net], call) for net in nets]
        assert_same(results[1], results[0], f"call {call}")
    engine = engine_of(nets[1])
    assert engine is not None and engine.reason is None and engine.fused_calls == 5, engine.reason
