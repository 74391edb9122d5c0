"""Loops over layers of other hosts: sinabs's called per step, Norse's cells, snnTorch's without a sequence kernel."""

from __future__ import annotations

import pytest
import sinabs
import sinabs.layers as sl
import snntorch as snn
import torch
from torch import nn

import plugin_accel
from plugin_accel.conversion.fusion import engine_of
from tests.fusion.base import B, N, T, grid
from tests.fusion.comparison import assert_same, step


class Sinabs(nn.Module):
    """One step at a time, [batch, 1, neurons]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(N, 6), sl.LIF(tau_mem=10.0, norm_input=False)
        self.fc2, self.lif2 = nn.Linear(6, 4), sl.IAFRecurrent(rec_connect=nn.Linear(4, 4))

    def forward(self, x):
        self.lif1.reset_states()
        self.lif2.reset_states()
        rec = []
        for t in range(x.shape[1]):
            spk1 = self.lif1(self.fc1(x[:, t]).unsqueeze(1))
            rec.append(self.lif2(self.fc2(spk1)))
        return torch.cat(rec, 1)


class SinabsDeep(nn.Module):
    """LIF with a synapse, IAF, ALIF and ExpLeak; images; states that carry on from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.lif = sl.LIF(tau_mem=10.0, tau_syn=5.0, norm_input=False)
        self.fc1, self.iaf = nn.Linear(48, 6), sl.IAF(min_v_mem=-1.0)
        self.alif = sl.ALIF(tau_mem=10.0, tau_adapt=20.0, norm_input=False)
        self.fc2, self.out = nn.Linear(6, 4), sl.ExpLeak(tau_mem=20.0)

    def forward(self, x):
        sinabs.reset_states(self)
        images = x.view(B, T, 1, 4, 2).repeat(1, 1, 1, 2, 3)
        rec, rate = [], 0
        for t in range(T):
            cur = self.lif(self.conv(images[:, t]).unsqueeze(1)).flatten(2)
            cur = self.alif(2 * self.iaf(self.fc1(cur)))
            rate = rate + cur.mean()
            rec.append(self.out(self.fc2(cur)).squeeze(1))
        return torch.stack(rec, 1), rate


class SLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lstm = nn.Linear(N, 6), snn.SLSTM(6, 6, threshold=0.1)
        self.fc2, self.lif = nn.Linear(6, 4), snn.Alpha(0.75, 0.5)

    def forward(self, x):
        syn, mem = self.lstm.init_slstm()
        exc, inh, out = self.lif.init_alpha()
        rec = []
        for t in range(x.shape[1]):
            spk, syn, mem = self.lstm(self.fc1(x[:, t]), syn, mem)
            spk, exc, inh, out = self.lif(self.fc2(spk), exc, inh, out)
            rec.append(out)
        return torch.stack(rec), spk


def how(table: str, name: str) -> str:
    """What a schedule says of a layer."""
    (line,) = [line for line in table.splitlines() if line.startswith(name)]
    return line.split("  ")[-1].strip()


def _compare(make) -> str:
    torch.manual_seed(0)
    theirs = make()
    torch.manual_seed(0)
    mine = plugin_accel.convert(make(), fuse_time=True)
    for call in range(4):
        x = torch.randint(-2, 6, (B, T, N), generator=torch.Generator().manual_seed(call)) / 4
        expected = step(lambda: theirs(x), [], [theirs], call)
        found = step(lambda: mine(x), [], [mine], call)
        assert_same(found, expected, f"call {call}", exact=False)
    engine = engine_of(mine)
    assert engine is not None and engine.reason is None, engine.reason
    return engine.table


def test_sinabs() -> None:
    table = _compare(lambda: grid(Sinabs()))
    assert how(table, "fc1 linear") == "all steps at once"
    assert how(table, "lif1 LIF") == "as a sequence" and how(table, "lif2 IAFRecurrent") == "step by step"


def test_sinabs_layers_as_sequences() -> None:
    table = _compare(lambda: grid(SinabsDeep()))
    assert [how(table, name) for name in ("lif LIF", "iaf IAF", "alif ALIF", "out ExpLeak")] == ["as a sequence"] * 4, (
        table
    )


def test_sinabs_firing_rate_is_that_of_the_last_step() -> None:
    theirs, mine = grid(SinabsDeep()), plugin_accel.convert(grid(SinabsDeep()), fuse_time=True)
    x = torch.randint(-2, 6, (B, T, N)) / 4
    for _ in range(3):
        theirs(x), mine(x)
    for a, b in zip(theirs.modules(), mine.modules(), strict=True):
        if isinstance(a, sl.StatefulLayer):
            torch.testing.assert_close(b.firing_rate, a.firing_rate)
            assert b.recordings == a.recordings == {}


def test_sinabs_recordings_stay_those_of_a_step() -> None:
    def make() -> nn.Module:
        net = grid(SinabsDeep())
        net.iaf.record_states = True
        return net

    theirs, mine = make(), plugin_accel.convert(make(), fuse_time=True)
    x = torch.randint(-2, 6, (B, T, N)) / 4
    for _ in range(3):
        theirs(x), mine(x)
    assert torch.equal(mine.iaf.recordings["v_mem"], theirs.iaf.recordings["v_mem"])
    assert "step by step" in how(engine_of(mine).table, "iaf IAF")


def test_norse_sequential_state() -> None:
    norse = pytest.importorskip("norse.torch")

    class Norse(nn.Module):
        """The states of all layers as one list, which the loop hands on."""

        def __init__(self) -> None:
            super().__init__()
            self.net = norse.SequentialState(nn.Linear(N, 6), norse.LIFCell(), nn.Linear(6, 4), norse.LIFAdExCell())

        def forward(self, x):
            state, rec = None, []
            for t in range(x.shape[1]):
                z, state = self.net(x[:, t] * 20, state)
                rec.append(z)
            return torch.stack(rec), state

    table = _compare(lambda: grid(Norse()))
    assert how(table, "net.1 LIFCell") == how(table, "net.3 LIFAdExCell") == "as a sequence"
    assert how(table, "net.0 linear") == how(table, "net.2 linear") == "all steps at once"


def test_slstm_and_alpha() -> None:
    table = _compare(lambda: grid(SLSTM()))
    assert "lstm SLSTM" in table and "lif Alpha" in table


def test_norse() -> None:
    norse = pytest.importorskip("norse.torch")

    class Norse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(N, 6), norse.LIFCell()
            self.fc2, self.lif2 = nn.Linear(6, 4), norse.LIFRecurrentCell(4, 4)
            self.out = norse.LICell()

        def forward(self, x):
            s1 = s2 = so = None
            rec = []
            for t in range(x.shape[1]):
                z, s1 = self.lif1(self.fc1(x[:, t]) * 20, s1)
                z, s2 = self.lif2(self.fc2(z) * 20, s2)
                v, so = self.out(z, so)
                rec.append(v)
            return torch.stack(rec), s1, so

    table = _compare(lambda: grid(Norse()))
    assert "lif1 LIFCell" in table and "fc2 linear" in table
    assert table.count("as a sequence") == 3


def _norse_cells(name: str) -> nn.Module:
    import norse.torch as nt

    return {
        "held": lambda: nt.SequentialState(
            *(nn.Linear(N, 6), nt.LIFRefracCell(), nn.Linear(6, 5), nt.LIFAdExRefracCell(), nt.LILinearCell(5, 4))
        ),
        "recurrent": lambda: nt.SequentialState(
            *(nt.LIFExRecurrentCell(N, 6), nt.LIFAdExRefracRecurrentCell(6, 5), nt.LIFRefracRecurrentCell(5, 4)),
        ),
        "adaptive": lambda: nt.SequentialState(
            *(nn.Linear(N, 6), nt.LSNNCell(), nn.Linear(6, 4), nt.LIFAdExCell(), nt.LIBoxCell())
        ),
    }[name]()


@pytest.mark.parametrize(("name", "sequences"), [("held", 3), ("recurrent", 3), ("adaptive", 3)])
def test_sequential_state(name: str, sequences: int) -> None:
    class Looped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = _norse_cells(name)

        def forward(self, x):
            state, rec = None, []
            for t in range(x.shape[1]):
                out, state = self.net(x[:, t] * 30, state)
                rec.append(out)
            return torch.stack(rec), state

    table = _compare(lambda: grid(Looped()))
    assert table.count("as a sequence") == sequences
