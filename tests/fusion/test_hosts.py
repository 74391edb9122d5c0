"""Loops over layers of other hosts: sinabs's called per step, Norse's cells, snnTorch's without a sequence kernel."""

from __future__ import annotations

import pytest
import sinabs.layers as sl
import snntorch as snn
import torch
from torch import nn

import plugin_accel
from plugin_accel.conversion.fusion import engine_of
from tests.fusion.comparison import assert_same, step
from tests.fusion.test_forms import B, N, T, grid


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
    assert "fc1 linear" in table and "all steps at once" in table


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
