"""Every form of the time loop that users write: fused, with the results, gradients, states and draws of their loop."""

from __future__ import annotations

from typing import Any

import pytest
import snntorch as snn
import torch
from snntorch import utils
from torch import nn

import plugin_accel
from plugin_accel.conversion.fusion import engine_of
from tests.fusion.base import Layers, N, T, grid
from tests.fusion.comparison import assert_same, step
from tests.fusion.forms import FORMS, batch_first_input, input_over_time
from tests.fusion.larger_forms import Summed


@pytest.mark.parametrize("grad", [True, False], ids=["train", "no_grad"])
@pytest.mark.parametrize("form", FORMS)
def test_form(form: str, grad: bool) -> None:
    make, draw = FORMS[form]
    torch.manual_seed(0)
    theirs = grid(make())
    torch.manual_seed(0)
    mine = plugin_accel.convert(grid(make()), fuse_time=True)
    theirs.train(grad)
    mine.train(grad)
    for call in range(5):
        torch.manual_seed(call)
        given = draw()
        given = given if isinstance(given, tuple) else (given,)
        with torch.set_grad_enabled(grad):
            expected = step(lambda: theirs(*given), [], [theirs], call)
            found = step(lambda: mine(*given), [], [mine], call)
        assert_same(found, expected, f"call {call}")
        for name in ("mem1", "spk1", "activity"):
            if name in vars(theirs):
                assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
    engine = engine_of(mine)
    assert engine is not None and engine.reason is None, engine.reason
    assert engine.table.count("as a sequence") >= 2, engine.table
    (row,) = plugin_accel.report(mine).loops
    assert row.status == "fused" and row.reasons == ()


def test_running_sums_are_one_call() -> None:
    net = plugin_accel.convert(grid(Summed()), fuse_time=True)
    for _ in range(3):
        net(input_over_time())
    engine = engine_of(net)
    assert engine is not None
    sums = [line.split() for line in engine.table.splitlines() if line.startswith("add ") and "in your order" in line]
    assert sorted(line[1:3] for line in sums) == [[str(T - 1), "1"], *[[str(T), "1"]] * 3], engine.table


class Tired(Layers):
    """A running sum that the layer it sums up waits for."""

    def forward(self, x):
        mem1, mem2, total, rec = self.lif1.init_leaky(), self.lif2.init_leaky(), torch.zeros(x.shape[1], 6), []
        for t in range(x.shape[0]):
            spk1, mem1 = self.lif1(self.fc1(x[t]) - 0.25 * total, mem1)
            total = total + spk1
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2)
        return torch.stack(rec), total


def test_a_sum_that_feeds_back() -> None:
    theirs, mine = grid(Tired()), plugin_accel.convert(grid(Tired()), fuse_time=True)
    for call in range(4):
        x = input_over_time()
        expected = step(lambda: theirs(x), [], [theirs], call)
        assert_same(step(lambda: mine(x), [], [mine], call), expected, f"call {call}")
    engine = engine_of(mine)
    assert engine is not None and engine.reason is None, engine.reason
    assert "step by step: these need each other" in engine.table and "in your order" not in engine.table


def forward_pass(net: nn.Module, num_steps: int, data: torch.Tensor) -> Any:
    utils.reset(net)
    mem_rec, spk_rec = [], []
    for step in range(num_steps):
        spk_out, mem_out = net(data[step])
        spk_rec.append(spk_out)
        mem_rec.append(mem_out)
    return torch.stack(spk_rec), torch.stack(mem_rec)


def _sequential() -> nn.Module:
    return grid(
        nn.Sequential(
            nn.Linear(N, 6),
            snn.Leaky(0.5, init_hidden=True),
            nn.Linear(6, 4),
            snn.Leaky(0.5, init_hidden=True, output=True),
        )
    )


def test_function() -> None:
    theirs, mine = _sequential(), plugin_accel.convert(_sequential())
    fast = plugin_accel.fused(forward_pass)
    assert fast.__name__ == "forward_pass"
    for call in range(5):
        steps = 3 if call == 4 else T  # another number of steps is another signature
        x = input_over_time()
        expected = step(lambda: forward_pass(theirs, steps, x), [], [theirs], call)
        found = step(lambda: fast(mine, steps, x), [], [mine], call)
        assert_same(found, expected, f"call {call}")
        assert (fast.fusion.reason is None) == (call in (1, 2, 3)), fast.fusion.reason


class Wrapper:
    """No module: an evaluation harness."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.scale = net, 1.0

    @plugin_accel.fused
    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        utils.reset(self.net)
        rec = []
        for step in range(batch.shape[1]):
            rec.append(self.scale * self.net(batch[:, step, ...])[0])
        return torch.stack(rec).transpose(0, 1)


def test_method_of_a_plain_class() -> None:
    theirs, mine = Wrapper(_sequential()), Wrapper(plugin_accel.convert(_sequential()))
    plain = Wrapper.__call__.__wrapped__
    for call in range(6):
        if call == 4:
            theirs.scale = mine.scale = 2.0  # read by the method, so the recording does not hold any more
        x = batch_first_input()
        assert torch.equal(mine(x), plain(theirs, x))
        assert (Wrapper.__call__.fusion.reason is None) == (call != 0 and call != 4), call
