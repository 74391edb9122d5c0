"""Hooks, modes, generators, exceptions, and objects beside the modules: what happens around a loop stays as it is."""

from __future__ import annotations

import pytest
import snntorch as snn
import torch
import torch.utils.flop_counter
from torch import nn

import plugin_accel
from plugin_accel.conversion.fusion import engine_of
from tests.fusion.base import B, N, T, grid
from tests.fusion.comparison import assert_same, step
from tests.fusion.test_unfusable import Loop, spikes_of


def test_hook_on_one_layer_sees_every_step() -> None:
    """Its layer runs step by step inside of the schedule; the others are fused."""
    seen: list[list[torch.Tensor]] = []
    nets = [grid(Loop()), plugin_accel.convert(grid(Loop()), fuse_time=True)]
    for net in nets:
        seen.append([])
        net.lif1.register_forward_hook(lambda module, args, result, at=seen[-1]: at.append((result[0], module.mem)))
    for _call in range(4):
        x = torch.randint(-2, 6, (B, N)) / 4
        a, b = (net(x) for net in nets)
        assert torch.equal(a[0], b[0])
    engine = engine_of(nets[1])
    assert engine is not None and engine.reason is None
    assert len(seen[0]) == len(seen[1]) == 4 * T
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(*seen, strict=True))


def test_hooks_on_several_layers_keep_their_order() -> None:
    """Also hooks that come later."""
    seen: list[list[str]] = [[], []]
    nets = [grid(Loop()), plugin_accel.convert(grid(Loop()), fuse_time=True)]
    x = torch.randint(-2, 6, (B, N)) / 4
    for _ in range(3):
        nets[0](x), nets[1](x)
    assert plugin_accel.report(nets[1]).loops[0].status == "fused"
    for net, at in zip(nets, seen, strict=True):
        for name in ("lif1", "lif2"):
            getattr(net, name).register_forward_hook(lambda *_, at=at, name=name: at.append(name))
    for _ in range(3):
        assert torch.equal(nets[0](x)[0], nets[1](x)[0])
    assert seen[0] == seen[1] and seen[0][:2] == ["lif1", "lif2"]
    assert "several modules have hooks" in plugin_accel.report(nets[1]).loops[0].reasons[0]


def test_modes() -> None:
    """Inference mode and torch's modes run the user's own forward."""
    net = plugin_accel.convert(grid(Loop()), fuse_time=True)
    x = torch.randint(-2, 6, (B, N)) / 4
    for _ in range(3):
        expected = net(x)[0]
    with torch.inference_mode():
        assert torch.equal(net(x)[0], expected)
        assert "inference mode" in plugin_accel.report(net).loops[0].reasons[0]
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        net(x)
    assert counter.get_total_flops() == 2 * T * B * (N * 6 + 6 * 4)


def test_nothing_to_fuse() -> None:
    net = plugin_accel.convert(nn.Sequential(nn.Linear(3, 3), snn.Leaky(0.5, init_hidden=True)), fuse_time=True)
    for _ in range(4):
        net(torch.ones(1, 3))
    assert "no loop over time" in plugin_accel.report(net).loops[0].reasons[0]


def test_exceptions_reach_the_user() -> None:
    net = plugin_accel.convert(grid(Loop()), fuse_time=True)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            net(torch.ones(2, N + 1))
    assert net(torch.ones(2, N))[0].shape == (T, 2, 4)


class Seeds(Loop):
    def before(self, x):
        torch.manual_seed(3)

    def inside(self, t, values):
        return values[0], values[1] + torch.randint(0, 2, values[1].shape), *values[2:]


class OwnGenerator(Loop):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(1)

    def inside(self, t, values):
        return values[0], values[1] + torch.randint(0, 2, values[1].shape, generator=self.generator), *values[2:]


@pytest.mark.parametrize("cls", [Seeds, OwnGenerator])
def test_generators(cls: type[nn.Module]) -> None:
    """A seed set inside is not left out, and a generator of one's own draws at each step."""
    theirs, mine = grid(cls()), plugin_accel.convert(grid(cls()), fuse_time=True)
    x = torch.randint(-2, 6, (B, N)) / 4
    for call in range(5):
        assert_same(
            step(lambda: mine(x), [], [mine], call), step(lambda: theirs(x), [], [theirs], call), f"call {call}"
        )
    assert (plugin_accel.report(mine).loops[0].status == "fused") == (cls is OwnGenerator)


def test_a_list_given_to_be_filled_is_filled() -> None:
    net = plugin_accel.convert(grid(Loop()))

    @plugin_accel.fused
    def loop(x, spikes):
        mem1, mem2 = net.lif1.init_leaky(), net.lif2.init_leaky()
        for _step in range(T):
            _, mem1, spk2, mem2 = spikes_of(net, x, mem1, mem2)
            spikes.append(spk2)
        return mem2

    for _call in range(4):
        spikes = []
        loop(torch.ones(B, N), spikes)
        assert len(spikes) == T
    assert "changes a list or dict among its arguments" in loop.fusion.reason


def test_states_kept_on_a_plain_object() -> None:
    class Holder:
        mem1 = mem2 = None

    net, holder = plugin_accel.convert(grid(Loop())), Holder()

    @plugin_accel.fused
    def loop(x):
        for _step in range(T):
            _, holder.mem1, _, holder.mem2 = spikes_of(net, x, holder.mem1, holder.mem2)
        return holder.mem2

    other = grid(Loop())
    mem1 = mem2 = None
    for _call in range(5):
        x = torch.ones(B, N)
        for _step in range(T):
            _, mem1, _, mem2 = spikes_of(other, x, mem1, mem2)
        assert torch.equal(loop(x), mem2)
        assert torch.equal(holder.mem1, mem1)
    assert loop.fusion.reason is not None
