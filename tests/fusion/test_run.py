"""``run``: the same as the loop it stands for."""

from __future__ import annotations

from typing import Any

import norse.torch as nt
import pytest
import snntorch as snn
import torch
from torch import nn

import plugin_accel
from plugin_accel.conversion.fusion.guards import RUNNER
from tests.fusion.base import B, N, T, grid
from tests.fusion.comparison import assert_same, step


def _sequential(dropouts: int = 1) -> nn.Module:
    return grid(
        nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 2, 3), snn.Leaky(0.5, init_hidden=True), nn.MaxPool2d(2)),
            *(nn.Dropout(0.5) for _ in range(dropouts)),
            nn.Flatten(),
            nn.Linear(8, 6),
            nn.BatchNorm1d(6),
            snn.Synaptic(0.5, 0.75, init_hidden=True),
            nn.Linear(6, 4),
            snn.Leaky(0.5, init_hidden=True, output=True),
        )
    )


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(N, N), snn.Leaky(0.5, init_hidden=True)
        self.fc2, self.lif2 = nn.Linear(N, 4), snn.RLeaky(0.5, linear_features=4, init_hidden=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lif2(self.fc2(self.lif1(self.fc1(x)) + x))


def loop(net: nn.Module, x: torch.Tensor) -> Any:
    results = [net(x_t) for x_t in x]
    if isinstance(results[0], tuple):
        return tuple(torch.stack(part) for part in zip(*results, strict=True))
    return torch.stack(results)


@pytest.mark.parametrize("chunk", [None, 1, 3])
@pytest.mark.parametrize(
    "make",
    [_sequential, lambda: _sequential(2), lambda: grid(Block()), lambda: grid(nn.Sequential(Block().lif2))],
    ids=["one", "two", "block", "recurrent"],
)
def test_run(make: Any, chunk: int | None) -> None:
    theirs, mine = make(), plugin_accel.convert(make())
    shape = (T, B, N) if isinstance(theirs, Block) else (T, B, 4) if len(theirs) == 1 else (T, B, 1, 6, 6)
    for call in range(4):
        theirs.train(call != 3), mine.train(call != 3)
        x = torch.randint(-2, 6, shape, generator=torch.Generator().manual_seed(call)) / 4
        expected = step(lambda: loop(theirs, x), [], [theirs], call)
        found = step(lambda: plugin_accel.run(mine, x, chunk=chunk).outputs, [], [mine], call)
        assert_same(found, expected, f"call {call}")
        if isinstance(mine, Block) and chunk is None and call == 2:
            assert vars(mine)[RUNNER].reason is None, vars(mine)[RUNNER].reason


def test_chunks_of_the_first_call_are_fused() -> None:
    theirs, mine = grid(Block()), plugin_accel.convert(grid(Block()))
    x = torch.randint(-2, 6, (12, B, N), generator=torch.Generator().manual_seed(0)) / 4
    found = step(lambda: plugin_accel.run(mine, x, chunk=2).outputs, [], [mine], 0)
    assert_same(found, step(lambda: loop(theirs, x), [], [theirs], 0))
    engine = vars(mine)[RUNNER]
    assert engine.calls == 6 and engine.fused_calls >= 3, engine.reason


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("name", ["cell", "sequential"])
def test_networks_that_are_handed_their_state(name: str, chunk: int | None) -> None:
    def make() -> nn.Module:
        if name == "cell":
            return grid(nt.LILinearCell(N, 4))
        cells = nt.LIFCell(), nn.Linear(N, 6), nt.LIFRecurrentCell(6, 5), nt.LILinearCell(5, 4)
        return grid(nt.SequentialState(nn.Linear(N, N), *cells))

    def theirs_loop(x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        outs = []
        for x_t in x:
            out, state = theirs(x_t, state)
            outs.append(out)
        return torch.stack(outs), state

    def mine_loop(x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        result = plugin_accel.run(mine, x, state=state, chunk=chunk)
        return result.outputs, result.state

    torch.manual_seed(0)
    theirs = make()
    torch.manual_seed(0)
    mine = plugin_accel.convert(make())
    for call in range(4):
        x = torch.randint(-2, 6, (T, B, N), generator=torch.Generator().manual_seed(call)) * 5.0
        for again in range(2):  # the second time from where the first ended
            with torch.no_grad():
                before = None if again == 0 else theirs_loop(x, None)[1]
            expected = step(lambda: theirs_loop(x, before), [], [theirs], call)
            with torch.no_grad():
                before = None if again == 0 else mine_loop(x, None)[1]
            found = step(lambda: mine_loop(x, before), [], [mine], call)
            assert_same(found, expected, f"call {call}", exact=False)
    with pytest.raises(TypeError, match="expected no state"):
        plugin_accel.run(_sequential(), x, state=before)


def test_states_and_recordings() -> None:
    net = plugin_accel.convert(_sequential())
    x = torch.randint(-2, 6, (T, B, 1, 6, 6)) / 4
    result = plugin_accel.run(net, x, record=["0.1", "5"], chunk=2)
    assert {name: set(states) for name, states in result.states.items()} == {
        "0.1": {"mem"},
        "5": {"syn", "mem"},
        "7": {"mem"},
    }
    assert torch.equal(result.states["7"]["mem"], result.outputs[1][-1])
    assert {name: tuple(spikes.shape) for name, spikes in result.recordings.items()} == {
        "0.1": (T, B, 2, 4, 4),
        "5": (T, B, 6),
    }
    assert set(result.recordings["0.1"].unique().tolist()) == {0.0, 1.0}


def test_what_is_wrong_is_told() -> None:
    net = _sequential()
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module and a tensor, got list"):
        plugin_accel.run(net, [1.0])
    with pytest.raises(ValueError, match=r"expected x \[T >= 1, ...\]"):
        plugin_accel.run(net, torch.zeros(0, 2))
    with pytest.raises(ValueError, match=r"got \['9'\]"):
        plugin_accel.run(net, torch.zeros(T, B, 1, 6, 6), record=["9"])
