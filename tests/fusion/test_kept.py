"""Forms in which a forward keeps tensors: in lists of a module, in memory filled step by step, without gradients."""

from __future__ import annotations

from typing import Any

import pytest
import snntorch as snn
import torch
from snntorch import spikegen
from torch import nn

import plugin_accel
from plugin_accel.conversion.fusion import engine_of
from tests.fusion.base import B, Layers, N, T, grid
from tests.fusion.comparison import assert_same, step, tensors


class Loop(Layers):
    """The usual loop; what a subclass does in it is called with the step and what came of it."""

    def begin(self, x):
        return None

    def each(self, t, kept, spk1, mem1, spk2, mem2):
        return None

    def end(self, kept, last):
        return last

    def drive(self, x, t):
        return x[t]

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        kept = self.begin(x)
        for t in range(T):
            spk1, mem1 = self.lif1(self.fc1(self.drive(x, t)), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            self.each(t, kept, spk1, mem1, spk2, mem2)
        return self.end(kept, mem2)


class Lists(Loop):
    def begin(self, x):
        self.rec, self.all = [], {"spikes": [], "steps": T}

    def each(self, t, kept, spk1, mem1, spk2, mem2):
        self.rec.append((spk1, mem1))
        self.all["spikes"].append(spk2)
        self.last = (mem1, mem2)


class Activity(Loop):
    def begin(self, x):
        self.rec = []

    def each(self, t, kept, spk1, mem1, spk2, mem2):
        self.rec.append(spk1)

    def end(self, kept, last):
        return last, torch.stack(self.rec).mean()


class Memory(Loop):
    def begin(self, x):
        return torch.zeros(T, x.shape[1], 4), torch.empty(x.shape[1], T, 6)

    def each(self, t, kept, spk1, mem1, spk2, mem2):
        kept[0][t] = mem2
        kept[1][:, t] = spk1

    def end(self, kept, last):
        return kept


class LastAxis(Memory):
    def begin(self, x):
        return x.new_zeros(x.shape[1], 4, T), torch.ones(T)

    def each(self, t, kept, spk1, mem1, spk2, mem2):
        kept[0][..., t - T] = spk2
        kept[1][t] = spk1.sum()


class Half(Memory):
    """Some steps stay as they were made."""

    def begin(self, x):
        return torch.full((T, x.shape[1], 4), 0.5), self.fc2(x[:, :, :6])

    def each(self, t, kept, spk1, mem1, spk2, mem2):
        if t % 2:
            kept[0][t, :, :] = mem2
            kept[1][t] = spk2


class Reads(Memory):
    """The memory is looked at while it is being filled, and changed as a whole."""

    def each(self, t, kept, spk1, mem1, spk2, mem2):
        kept[0][t] = mem2
        kept[1][:, t] = kept[0].sum() * spk1
        kept[0].mul_(0.5)


class Overwritten(Memory):
    def each(self, t, kept, spk1, mem1, spk2, mem2):
        kept[0][t] = mem2
        kept[0][0] = spk2
        kept[1][:, t] = mem1


class Monitored(Loop):
    def begin(self, x):
        return {"total": 0, "seen": []}

    def each(self, t, kept, spk1, mem1, spk2, mem2):
        with torch.no_grad():
            kept["total"] = kept["total"] + spk1
            kept["seen"].append(mem2 * 2)

    def end(self, kept, last):
        with torch.no_grad():
            rates = torch.stack(kept["seen"]).mean(0)
        return last, kept["total"] / T, rates, torch.stack(kept["seen"])


class Leaking(Layers):
    """The state that goes into the next step is half without a gradient: these steps need each other."""

    def forward(self, x):
        mem1, mem2, rec = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for t in range(T):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            with torch.no_grad():
                leaked = mem1 * 0.5
            mem1 = mem1 * 0.5 + leaked
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2)
        return torch.stack(rec), mem1


class Frozen(Loop):
    """The first layer is not trained, the second is; a mean of both is read with and without gradients."""

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec, seen = [], []
        for t in range(T):
            with torch.no_grad():
                spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(mem2)
            with torch.no_grad():
                seen.append(spk2.relu())
        with torch.no_grad():
            frozen = torch.stack(rec)
        return torch.stack(rec), frozen, seen[0], mem1


class Detached(Loop):
    """A step of a tensor, taken where no gradients are recorded, and used where they are."""

    def begin(self, x):
        return []

    def each(self, t, kept, spk1, mem1, spk2, mem2):
        currents = self.fc2(mem1)
        with torch.no_grad():
            row = currents[0]
        kept.append(row * mem2)

    def end(self, kept, last):
        return torch.stack(kept)


class Rates(Loop):
    """snnTorch's own coding of a static input, in the forward."""

    def begin(self, x):
        self.spikes = spikegen.rate(x[0].clamp(0, 1), num_steps=T)

    def drive(self, x, t):
        return self.spikes[t]


class Counted(Loop):
    """Numbers read from tensors that are the same at each call."""

    def begin(self, x):
        self.order = torch.arange(T).flip(0).tolist()
        assert float(torch.linspace(0, 1, 3)[1]) == 0.5

    def drive(self, x, t):
        return x[self.order[t]] * int(torch.ones(2, dtype=torch.long).sum())


FORMS = [
    Lists,
    Activity,
    Memory,
    LastAxis,
    Half,
    Reads,
    Overwritten,
    Monitored,
    Frozen,
    Leaking,
    Detached,
    Rates,
    Counted,
]


def _attributes(net: nn.Module) -> Any:
    return {name: value for name, value in vars(net).items() if name in ("rec", "all", "last")}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_what_is_kept(form: type[Loop], grad: bool) -> None:
    theirs, mine = grid(form()), plugin_accel.convert(grid(form()), fuse_time=True)
    for call in range(5):
        torch.manual_seed(call)
        x = torch.randint(-3, 5, (T, B, N)).float() / 4
        with torch.set_grad_enabled(grad):
            expected = step(lambda: (theirs(x), _attributes(theirs)), [], [theirs], call)
            found = step(lambda: (mine(x), _attributes(mine)), [], [mine], call)
        assert_same(found, expected, f"call {call}")
    engine = engine_of(mine)
    assert engine is not None and engine.reason is None and engine.fused_calls == 3, engine.reason
    if form not in (Reads, Leaking):
        assert engine.table.count("as a sequence") == 2, engine.table


def test_filled_memory_is_one_stack() -> None:
    net = plugin_accel.convert(grid(Memory()), fuse_time=True)
    for _ in range(3):
        net(torch.rand(T, B, N))
    engine = engine_of(net)
    assert engine is not None
    rows = [line.split()[0] for line in engine.table.splitlines()]
    assert rows.count("stack") == 2 and not {"zeros", "empty", "setitem", "select"} & set(rows), engine.table


def _unfused(net: nn.Module, *inputs: torch.Tensor) -> str:
    theirs, mine = grid(net()), plugin_accel.convert(grid(net()), fuse_time=True)
    for call in range(4):
        expected = step(lambda: theirs(*inputs), [], [theirs], call)
        assert_same(step(lambda: mine(*inputs), [], [mine], call), expected, f"call {call}")
    engine = engine_of(mine)
    assert engine is not None and engine.fused_calls == 0
    return str(engine.reason)


class TwoNames(Lists):
    """The list that is returned is the one that is kept: an edit of one is an edit of both."""

    def end(self, kept, last):
        return self.rec


class Nudged(Loop):
    """An edit in place that gradients do not see, of a tensor that has one."""

    def each(self, t, kept, spk1, mem1, spk2, mem2):
        current = self.fc2(spk1)
        with torch.no_grad():
            current.mul_(0.5)
        self.seen = current


class Broadcast(Memory):
    def each(self, t, kept, spk1, mem1, spk2, mem2):
        kept[0][t] = mem2[0]
        kept[1][:, t] = spk1


class SharedMemory(Memory):
    """A step is looked at before it is overwritten."""

    def each(self, t, kept, spk1, mem1, spk2, mem2):
        before = kept[0][0]
        kept[0][0] = mem2
        kept[1][:, t] = spk1 + before.sum()


class Shared(Loop):
    """NumPy writes into the memory of a tensor that was the same at each call."""

    def begin(self, x):
        scale = torch.ones(T)
        scale.numpy()[:] = 0.5
        return scale

    def end(self, kept, last):
        return last * kept.sum()


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (Shared, "reads values"),
        (TwoNames, "keeps a list or dict in two places"),
        (Nudged, "in place"),
        (Broadcast, "in place"),
        (SharedMemory, "in place"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_not_fused(form: type[Loop], reason: str) -> None:
    assert reason in _unfused(form, torch.rand(T, B, N))


class SwitchedOn(Loop):
    def each(self, t, kept, spk1, mem1, spk2, mem2):
        with torch.enable_grad():
            self.seen = self.fc2(spk1)


def test_gradients_switched_on_inside() -> None:
    with torch.no_grad():
        assert "switches gradients on" in _unfused(SwitchedOn, torch.rand(T, B, N))


def test_lists_that_are_kept_hold_no_memory_of_earlier_calls() -> None:
    net = plugin_accel.convert(Lists(), fuse_time=True)
    kept = []
    for _ in range(4):
        net(torch.rand(T, B, N))
        kept.append(tensors(_attributes(net)))
    assert not {id(t) for t in kept[2]} & {id(t) for t in kept[3]}
    assert isinstance(net.lif1, snn.Leaky)
