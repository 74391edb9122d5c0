"""Forwards that must not be fused: they run as they are, with the user's own results, and the report says why."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.flop_counter
from torch import nn

import plugin_accel
from tests.fusion.base import B, Layers, N, T, grid
from tests.fusion.comparison import assert_same, step

COUNT = 0


def spikes_of(net: Any, x: Any, mem1: Any, mem2: Any) -> Any:
    spk1, mem1 = net.lif1(net.fc1(x), mem1)
    spk2, mem2 = net.lif2(net.fc2(spk1), mem2)
    return spk1, mem1, spk2, mem2


class Loop(Layers):
    """The usual loop, with something of a subclass's done in it."""

    def before(self, x):
        return None

    def inside(self, t, values):
        return values

    def forward(self, x):
        self.before(x)
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for t in range(T):
            values = self.inside(t, spikes_of(self, x, mem1, mem2))
            if values is None:
                break
            _, mem1, spk2, mem2 = values
            rec.append(spk2)
        return torch.stack(rec), mem2


class EarlyExit(Loop):
    def inside(self, t, values):
        return None if t > 0 and values[3].max() > 2 else values


class Item(Loop):
    def inside(self, t, values):
        self.lif1(self.fc1(torch.zeros(B, N)) * values[2].sum().item(), None)
        return values


class Halting(Loop):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        total = torch.zeros(())
        while float(total) < 8 and self.training:
            _, mem1, spk2, mem2 = spikes_of(self, x, mem1, mem2)
            total = total.detach() + 1 + spk2.sum().detach()
        return mem2


class Printing(Loop):
    def inside(self, t, values):
        print("step", t)
        return values


class Feedback(Layers):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk2 = torch.zeros(B, 4)
        rec = []
        for _step in range(T):
            spk1, mem1 = self.lif1(self.fc1(x) + spk2.sum(1, keepdim=True), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2)
        return torch.stack(rec)


class Plasticity(Loop):
    def inside(self, t, values):
        with torch.no_grad():
            self.fc2.weight.add_(0.125 * values[2].mean(0)[:, None])
        return values


class PlasticityOfData(Loop):
    def inside(self, t, values):
        self.fc2.weight.data += 0.125
        return values


class StateEdit(Loop):
    def inside(self, t, values):
        _spk1, _mem1, _spk2, mem2 = values
        with torch.no_grad():
            mem2[mem2 > 1] = 0.0
        return values


class StateSetItem(Loop):
    def inside(self, t, values):
        values[3][:, 0] = 0.5
        return values


class PythonRandom(Loop):
    def inside(self, t, values):
        return values[0], values[1] * random.choice([0.5, 1.0]), *values[2:]


class NumpyRandom(Loop):
    def inside(self, t, values):
        return values[0], values[1] * float(np.random.randint(1, 3)), *values[2:]


class Counter(Loop):
    def before(self, x):
        self.num_calls = getattr(self, "num_calls", 0) + 1

    def inside(self, t, values):
        return values[0], values[1] * self.num_calls, *values[2:]


class GlobalCounter(Loop):
    def inside(self, t, values):
        global COUNT
        COUNT += 1
        return values[0], values[1] + COUNT % 2, *values[2:]


class Log(Loop):
    def __init__(self) -> None:
        super().__init__()
        self.log = []

    def inside(self, t, values):
        self.log.append(values[2])
        return values


class Numpy(Loop):
    def inside(self, t, values):
        return values[0], torch.from_numpy(values[1].detach().numpy() * 0.5), *values[2:]


class Mask(Loop):
    def inside(self, t, values):
        chosen = values[3][values[3] > 0.5]
        return *values[:3], values[3] + chosen.sum()


class Backward(Loop):
    def inside(self, t, values):
        return values if values[3].grad_fn is None or t > 1 else (values[0], values[1] * 0.5, *values[2:])


UNFUSABLE: dict[str, tuple[type[nn.Module], str]] = {
    "early exit when confident": (EarlyExit, "reads values"),
    "item": (Item, "reads values"),
    "adaptive halting": (Halting, "reads values"),
    "print": (Printing, "calls builtins.print"),
    "feedback": (Feedback, "feedback: lif. and lif. need"),
    "plasticity": (Plasticity, "in place|switches gradients"),
    "plasticity of .data": (PlasticityOfData, "in place|unknown origin|another"),
    "state edited by a mask": (StateEdit, "in place|size depends|switches gradients"),
    "state edited by an index": (StateSetItem, "in place"),
    "Python's random numbers": (PythonRandom, "calls"),
    "NumPy's random numbers": (NumpyRandom, "reads .* numpy.random"),
    "a counter": (Counter, "changes .*num_calls"),
    "a global counter": (GlobalCounter, "sets the global 'COUNT'"),
    "a log on the module": (Log, "changes .*log"),
    "through NumPy": (Numpy, "reads values|unknown origin|calls"),
    "a boolean index": (Mask, "size depends on values"),
    "asks for the graph": (Backward, "reads values"),
}


@pytest.mark.parametrize("form", UNFUSABLE)
def test_unfusable(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    global COUNT
    cls, why = UNFUSABLE[form]
    nets = [grid(cls()), plugin_accel.convert(grid(cls()), fuse_time=True)]
    for call in range(5):
        torch.manual_seed(call)
        x = torch.randint(-2, 6, (B, N)) / 4
        found = []
        for net in nets:
            random.seed(call)
            np.random.seed(call)
            COUNT = call
            with torch.set_grad_enabled(cls is not Plasticity):  # the user's own backward would fail
                found.append(step(lambda net=net: net(x), [], [net], call))
            printed = capsys.readouterr().out
            assert printed == ("".join(f"step {t}\n" for t in range(T)) if cls is Printing else "")
        assert_same(found[1], found[0], f"call {call}")
        for name, parameter in nets[0].named_parameters():
            assert torch.equal(parameter, dict(nets[1].named_parameters())[name]), name
    if cls is Log:
        assert len(nets[1].log) == len(nets[0].log) == 5 * T
    if cls is Counter:
        assert nets[1].num_calls == nets[0].num_calls == 5
    (row,) = plugin_accel.report(nets[1]).loops
    assert row.status == "unfused"
    assert re.search(why, row.reasons[0]), row.reasons
