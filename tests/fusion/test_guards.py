"""What a forward reads may change between calls: the results follow."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import plugin_accel
from plugin_accel.conversion.fusion import engine_of
from tests.fusion.base import B, Layers, N, grid

FACTOR = 1.0
SETTINGS = {"offset": [0.0, 0.0]}


class Config:
    steps = 3

    def __init__(self) -> None:
        self.shift = 0.0


CONFIG = Config()


def helper(value: Any) -> Any:
    return value * FACTOR + SETTINGS["offset"][1]


class Reader(Layers):
    bonus = 0.0

    def __init__(self, closed: Callable[[Any], Any]) -> None:
        super().__init__()
        self.config = CONFIG
        self.closed = closed
        self.mode = "plain"
        self.weights = [1.0, 1.0]
        self.extra = torch.zeros(4)

    @property
    def twice(self) -> bool:
        return self.mode == "double"

    def tail(self, value: Any) -> Any:
        return value

    def forward(self, x: torch.Tensor, gain: float = 1.0, *, flag: bool = False) -> torch.Tensor:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for step in range(self.config.steps):
            spk1, mem1 = self.lif1(self.fc1(x) * gain, mem1)
            spk2, mem2 = self.lif2(helper(self.fc2(spk1)) + self.config.shift + self.bonus, mem2)
            out = self.closed(mem2) * self.weights[step % 2] + self.extra
            if self.twice:
                out = out * 2
            rec.append(self.tail(out) if not flag else spk2)
        return torch.stack(rec)


def build() -> tuple[Reader, list[float]]:
    captured = [1.0]
    return grid(Reader(lambda value: value * captured[0])), captured


def set_global(net: Reader, captured: list[float]) -> None:
    global FACTOR
    FACTOR = 2.0


def _swap(net: Reader, name: str, value: Any) -> None:
    setattr(net, name, value)


CHANGES: dict[str, Callable[[Reader, list[float]], Any]] = {
    "attribute": lambda net, c: _swap(net, "mode", "double"),
    "attribute of an object": lambda net, c: setattr(CONFIG, "shift", 0.5),
    "attribute of its class": lambda net, c: setattr(Config, "steps", 4),
    "attribute of the module's class": lambda net, c: setattr(Reader, "bonus", 0.5),
    "instance attribute in front of it": lambda net, c: _swap(net, "bonus", 0.5),
    "method": lambda net, c: setattr(Reader, "tail", lambda self, value: value * 4),
    "method on the instance": lambda net, c: _swap(net, "tail", lambda value: value * 4),
    "global": set_global,
    "deep in a container": lambda net, c: SETTINGS["offset"].__setitem__(1, 0.5),
    "list on the module": lambda net, c: net.weights.__setitem__(1, 3.0),
    "closure's list": lambda net, c: c.__setitem__(0, 3.0),
    "another function": lambda net, c: _swap(net, "closed", lambda value: value + 1),
    "tensor, other values": lambda net, c: _swap(net, "extra", torch.ones(4)),
    "tensor, other shape": lambda net, c: _swap(net, "extra", torch.ones(B, 4)),
    "another layer": lambda net, c: _swap(net, "fc1", nn.Linear(N, 6, bias=False)),
    "layer inserted": lambda net, c: _swap(net, "fc2", nn.Sequential(net.fc2, nn.ReLU())),
    "layer's option": lambda net, c: setattr(net.lif2, "output", False),
    "other weights": lambda net, c: nn.init.ones_(net.fc1.weight),
    "another parameter": lambda net, c: _swap(net.fc1, "weight", nn.Parameter(torch.ones(6, N))),
    "frozen": lambda net, c: net.fc1.requires_grad_(False),
    "other decay": lambda net, c: net.lif1.beta.fill_(0.25),
    "evaluation": lambda net, c: net.eval(),
    "replaced forward": lambda net, c: _swap(net.fc1, "forward", lambda x: torch.ones(B, 6)),
}


@pytest.fixture(autouse=True)
def unchanged() -> Any:
    global FACTOR
    tail = Reader.tail
    yield
    FACTOR = 1.0
    SETTINGS["offset"][1] = 0.0
    Config.steps, CONFIG.shift = 3, 0.0
    Reader.bonus, Reader.tail = 0.0, tail


@pytest.mark.parametrize("change", CHANGES)
def test_change_is_seen(change: str) -> None:
    (mine, mine_closed), (theirs, theirs_closed) = build(), build()
    plugin_accel.convert(mine, fuse_time=True)
    x = torch.randint(0, 6, (B, N)) / 4
    for _ in range(3):
        assert torch.equal(mine(x), theirs(x))
    engine = engine_of(mine)
    assert engine is not None and engine.reason is None, engine.reason
    torch.manual_seed(0)
    CHANGES[change](mine, mine_closed)
    torch.manual_seed(0)
    CHANGES[change](theirs, theirs_closed)
    x = x.to(next(theirs.parameters()).dtype)
    for call in range(4):
        a, b = mine(x), theirs(x)
        assert a.dtype == b.dtype and torch.equal(a, b), call
        assert a.requires_grad == b.requires_grad
        if a.requires_grad:
            a.sum().backward()
            b.sum().backward()
            for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
                assert (p.grad is None) == (q.grad is None)
                assert p.grad is None or torch.allclose(p.grad, q.grad)
            mine.zero_grad(), theirs.zero_grad()
    assert engine.reason is None, engine.reason


@pytest.mark.parametrize(
    "call",
    [
        lambda net, x: net(x, 2.0),
        lambda net, x: net(x, gain=2),
        lambda net, x: net(x, flag=True),
        lambda net, x: net(x[:2]),
        lambda net, x: net(x.double().float().requires_grad_()),
        lambda net, x: net(x.t().contiguous().t()),
        lambda net, x: torch.no_grad()(net)(x),
    ],
)
def test_signature(call: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
    (mine, _), (theirs, _) = build(), build()
    plugin_accel.convert(mine, fuse_time=True)
    x = torch.randint(0, 6, (B, N)) / 4
    for _ in range(3):
        mine(x)
        assert torch.equal(call(mine, x), call(theirs, x))
        assert call(mine, x).requires_grad == call(theirs, x).requires_grad
        assert torch.equal(mine(x), theirs(x))


def test_autocast() -> None:
    (mine, _), (theirs, _) = build(), build()
    plugin_accel.convert(mine, fuse_time=True)
    x = torch.randint(0, 6, (B, N)) / 4
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            a, b = mine(x), theirs(x)
        assert a.dtype == b.dtype and torch.equal(a, b)
        assert torch.equal(mine(x), theirs(x))
    assert engine_of(mine).reason is None


def test_many_changes_end_in_the_users_forward() -> None:
    (mine, _), (theirs, _) = build(), build()
    plugin_accel.convert(mine, fuse_time=True)
    x = torch.randint(0, 6, (B, N)) / 4
    for call in range(24):
        mine.weights[0] = theirs.weights[0] = call / 4
        assert torch.equal(mine(x), theirs(x))
    assert "changes at each call" in plugin_accel.report(mine).loops[0].reasons[0]


def test_results_do_not_share_memory() -> None:
    """What is returned may be edited and detached, as what the loop returned."""

    class Net(Layers):
        def forward(self, x, mem):
            rec, mems = [], []
            for _step in range(3):
                spk, mem = self.lif1(self.fc1(x), mem)
                rec.append(spk)
                mems.append(mem)
            return torch.stack(rec), torch.stack(rec), rec, mem, x

    mine = plugin_accel.convert(grid(Net()), fuse_time=True)
    x = torch.randint(0, 6, (B, N)) / 4
    for _ in range(4):
        first, second, rec, mem, same = mine(x, torch.zeros(B, 6))
        assert same is x
        tensors = [first, second, *rec, mem]
        assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)
        for tensor in tensors:
            tensor.detach_()
            tensor.add_(1)
    assert engine_of(mine).reason is None


COLLECTIONS = 0


def on_collection(phase: str, info: dict[str, int]) -> None:
    global COLLECTIONS
    COLLECTIONS += 1


def test_what_the_garbage_collector_calls_is_no_part_of_a_forward() -> None:
    net = plugin_accel.convert(Reader(lambda value: value), fuse_time=True)
    threshold = gc.get_threshold()
    gc.callbacks.append(on_collection)
    gc.set_threshold(1)
    try:
        for _ in range(3):
            net(torch.rand(B, N))
    finally:
        gc.callbacks.remove(on_collection)
        gc.set_threshold(*threshold)
    engine = engine_of(net)
    assert COLLECTIONS > 0
    assert gc.isenabled()
    assert engine is not None
    assert engine.reason is None


def test_a_default_device_is_no_mode() -> None:
    """`with torch.device(...)` and `torch.set_default_device` are modes of torch, but harmless ones."""
    theirs, mine = grid(Layers()), grid(Layers())

    def forward(net: Any, x: Any) -> Any:
        mem1, mem2 = net.lif1.init_leaky(), net.lif2.init_leaky()
        total = torch.zeros(B, 4)
        for _ in range(3):
            spk1, mem1 = net.lif1(net.fc1(x), mem1)
            spk2, mem2 = net.lif2(net.fc2(spk1), mem2)
            total = total + spk2
        return total

    fast = plugin_accel.fused(forward)
    plugin_accel.convert(mine)
    for call in range(8):
        x = torch.rand(B, N) * 4
        with torch.device("cpu") if call < 4 else contextlib.nullcontext():
            assert torch.equal(fast(mine, x), forward(theirs, x))
        assert (fast.fusion.reason is None) == (call % 4 >= 1), (call, fast.fusion.reason)
