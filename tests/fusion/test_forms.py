"""Every form of the time loop that users write: fused, with the results, gradients, states and draws of their loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
from snntorch import utils
from snntorch.functional import quant
from torch import nn

import plugin_accel
from plugin_accel.conversion.fusion import engine_of
from tests.fusion.comparison import assert_same, step

T, B, N = 4, 3, 8
num_steps = T


def grid(net: nn.Module) -> nn.Module:
    """Puts weights on a coarse binary grid: sums are exact, so batches of steps give what steps give, bit for bit."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.dim() > 1 or name.endswith("bias"):
                parameter.copy_(torch.randint(-6, 9, parameter.shape, generator=generator) / 8)
    return net


class Layers(nn.Module):
    """The layers of the nets below; each brings its own loop."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.num_steps = T
        self.fc1 = nn.Linear(N, 6)
        self.lif1 = snn.Leaky(beta=0.5, **options)
        self.fc2 = nn.Linear(6, 4)
        self.lif2 = snn.Leaky(beta=0.75, **({**options, "output": True} if options.get("init_hidden") else options))


class Static(Layers):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk2_rec, mem2_rec = [], []
        for _step in range(self.num_steps):
            cur1 = self.fc1(x)
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = self.fc2(spk1)
            spk2, mem2 = self.lif2(cur2, mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        return torch.stack(spk2_rec, dim=0), torch.stack(mem2_rec, dim=0)


class ToDevice(Layers):
    def forward(self, x):
        device = x.device
        mem1, mem2 = self.lif1.reset_mem().to(device), self.lif2.reset_mem().to(device)
        acc = 0
        for _step in range(num_steps):
            cur1 = self.fc1(x.flatten(1)).to(device)
            spk1, mem1 = self.lif1(cur1, mem1)
            _spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            acc = acc + mem2
        return acc / num_steps


class OverTime(Layers):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes = []
        for t in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[t].view(x[t].size(0), -1)), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
        return torch.stack(spikes).sum(0)


class BatchFirst(Layers):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes = []
        for t in range(x.shape[1]):
            spk1, mem1 = self.lif1(self.fc1(x[:, t, ...]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
        return torch.stack(spikes).transpose(0, 1)


class Iterated(Layers):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        for x_t in x.permute(1, 0, 2):
            spk1, mem1 = self.lif1(self.fc1(x_t), mem1)
            _spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
        return mem2


class Encoding(Layers):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        out = []
        for _step in range(self.num_steps):
            spikes = torch.bernoulli(x.clamp(0, 1))
            spikes = spikes + (torch.rand_like(spikes) < 0.25).float()
            spk1, mem1 = self.lif1(self.fc1(spikes), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(spk2)
        return out


class Flagged(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.dynamic_input = True

    def forward(self, x):
        if x.dim() == 2:
            x = x.unsqueeze(1).expand(-1, T, -1)
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for t in range(self.num_steps):
            x_t = x[:, t] if self.dynamic_input else x[:, 0]
            spk1, mem1 = self.lif1(self.fc1(x_t), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2)
        return torch.stack(rec).mean(dim=0)


class Hidden(Layers):
    def __init__(self) -> None:
        super().__init__(init_hidden=True)

    def forward(self, x):
        utils.reset(self)
        rec, mems = [], []
        for _step in range(self.num_steps):
            spk2, mem2 = self.lif2(self.fc2(self.lif1(self.fc1(x))))
            rec.append(spk2)
            mems.append(mem2)
        return torch.stack(rec), torch.stack(mems)


class Carried(Layers):
    """States come in and go out, and are detached every two steps."""

    def forward(self, x, mem1, mem2):
        loss = torch.zeros(())
        for t in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            loss = loss + F.mse_loss(mem2, torch.ones_like(mem2)) + spk2.sum()
            if (t + 1) % 2 == 0:
                mem1, mem2 = mem1.detach(), mem2.detach()
        return loss, mem1, mem2


class Learned(Layers):
    """A learned first state and a random one."""

    def __init__(self) -> None:
        super().__init__(learn_beta=True, learn_threshold=True)
        self.start = nn.Parameter(torch.full((6,), 0.5))

    def forward(self, x):
        mem1 = self.start.expand(x.size(0), -1).clone()
        mem2 = torch.randint(0, 2, (x.size(0), 4)) / 2
        rec = []
        for _step in range(self.num_steps):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec += [spk2]
        return torch.stack(rec)


class Deep(nn.Module):
    """Layers in lists, states in lists, a residual sum, dropout, a norm per layer, all spikes returned."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(N, N) for _ in range(3))
        self.norms = nn.ModuleList([nn.BatchNorm1d(N), nn.LayerNorm(N), nn.Identity()])
        self.lifs = nn.ModuleList(snn.Leaky(0.5) for _ in range(3))
        self.drop = nn.Dropout(0.5)
        self.embedding = nn.Parameter(torch.arange(float(N)) / 8)

    def forward(self, x):
        mems = [lif.reset_mem() for lif in self.lifs]
        spikes = [[] for _ in self.lifs]
        for _step in range(T):
            out = x + self.embedding
            for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=False)):
                cur = norm(layer(out))
                if i > 0:
                    cur = cur + out
                spk, mems[i] = self.lifs[i](cur, mems[i])
                out = self.drop(spk)
                spikes[i].append(spk)
        return {"spikes": [torch.stack(s) for s in spikes], "rate": sum(spikes[-1]) / T, "steps": T}


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, 3)
        self.lif1 = snn.Leaky(0.5, spike_grad=snn.surrogate.fast_sigmoid(slope=25))
        self.conv2 = nn.Conv2d(2, 3, 2)
        self.lif2 = snn.Leaky(0.5)
        self.fc1 = nn.Linear(3, 4)
        self.lif3 = snn.Leaky(0.5, reset_mechanism="none")

    def forward(self, x):
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        spk_rec, mem_rec = [], []
        for _step in range(T):
            spk1, mem1 = self.lif1(F.max_pool2d(self.conv1(x), 2), mem1)
            spk2, mem2 = self.lif2(F.avg_pool2d(self.conv2(spk1), 1), mem2)
            spk3, mem3 = self.lif3(self.fc1(spk2.view(x.size(0), -1)), mem3)
            spk_rec.append(spk3)
            mem_rec.append(mem3)
        return torch.stack(spk_rec), torch.stack(mem_rec)


class Habituation(nn.Module):
    """A user's own layer with a state, in plain torch."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.25))

    def forward(self, x, trace):
        trace = 0.5 * trace + self.rate * x
        return x - trace, trace


class Own(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.habituation = Habituation()
        self.back = snn.RLeaky(beta=torch.linspace(0.25, 0.75, 4), linear_features=4)

    def forward(self, x):
        mem1 = self.lif1.init_leaky()
        spk2, mem2 = self.back.init_rleaky()
        trace = torch.zeros(x.shape[1], 6)
        rec = []
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            spk1, trace = self.habituation(spk1, trace)
            spk2, mem2 = self.back(self.fc2(spk1), spk2, mem2)
            rec.append(spk2)
        return torch.stack(rec), trace


class OneSequential(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(N, 6),
            snn.Leaky(0.5, init_hidden=True),
            nn.Dropout(0.5),
            nn.Linear(6, 4),
            snn.Leaky(0.5, init_hidden=True, output=True),
        )

    def forward(self, x):
        utils.reset(self.net)
        spk_rec = []
        for step in range(x.size(0)):
            spk_out, _mem_out = self.net(x[step])
            spk_rec.append(spk_out)
        return torch.stack(spk_rec)


class Summed(Layers):
    """Pooling after a neuron, an embedding of time, running sums of all kinds, a prediction at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.arange(T * N).view(T, N) / 8)
        self.fc2 = nn.Linear(3, 4)
        self.syn = snn.Synaptic(0.5, 0.75)

    def forward(self, x):
        syn1, mem1 = self.syn.init_synaptic()
        mem2 = self.lif2.init_leaky()
        total, spk_sum, sums, peak, spikes, labels = 0, torch.zeros(x.size(1), 4), [], None, [], []
        for t in range(x.shape[0]):
            spk1, syn1, mem1 = self.syn(self.fc1(x[t] + self.embedding[t]), syn1, mem1)
            spk2, mem2 = self.lif2(self.fc2(F.avg_pool1d(spk1.unsqueeze(1), 2).squeeze(1)), mem2)
            total = total + mem2
            spk_sum += spk2
            sums.append(total)
            peak = syn1.clone() if peak is None else syn1 + peak
            spikes.append(spk2)
            labels.append(spk_sum.argmax(1))
        return total, spk_sum, torch.stack(sums), peak, sum(spikes), torch.stack(labels)


class Quantised(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.lif0 = snn.Leaky(0.5, state_quant=quant.state_quant(num_bits=4, uniform=True, threshold=1.0))
        self.fc0 = nn.Linear(N, N)

    def forward(self, x):
        mem0, mem1, mem2 = self.lif0.init_leaky(), self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for t in range(x.shape[0]):
            spk0, mem0 = self.lif0(self.fc0(x[t]), mem0)
            spk1, mem1 = self.lif1(self.fc1(spk0), mem1)
            _spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(mem2)
        return torch.stack(rec), mem0


class Kept(Layers):
    """States and activity kept as attributes of the module."""

    def forward(self, x):
        self.mem1, self.mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for _step in range(self.num_steps):
            self.spk1, self.mem1 = self.lif1(self.fc1(x), self.mem1)
            spk2, self.mem2 = self.lif2(self.fc2(self.spk1), self.mem2)
            rec.append(spk2)
        self.activity = torch.stack(rec).mean()
        return torch.stack(rec)


def _static() -> torch.Tensor:
    return torch.randint(-2, 6, (B, N)) / 4


def _over_time() -> torch.Tensor:
    return torch.randint(-2, 6, (T, B, N)) / 4


def _batch_first() -> torch.Tensor:
    return _over_time().transpose(0, 1).contiguous()


FORMS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "static input": (Static, _static),
    "to(device), flatten, running sum": (ToDevice, _static),
    "x[t], view, sum": (OverTime, _over_time),
    "x[:, t], transposed result": (BatchFirst, _batch_first),
    "iterating the tensor, last step": (Iterated, _batch_first),
    "drawn in each step, list": (Encoding, _static),
    "flag, dimension added": (Flagged, _static),
    "hidden states, utils.reset": (Hidden, _static),
    "states in and out, detached, loss inside": (
        Carried,
        lambda: (_over_time(), torch.ones(B, 6) / 2, torch.zeros(B, 4)),
    ),
    "learned and random first states": (Learned, _static),
    "lists of layers and states, residual, dropout, norms": (Deep, _static),
    "convolutions, pooling, readout": (Conv, lambda: torch.randint(0, 4, (B, 1, 6, 6)) / 4),
    "own layer, recurrent layer, per-neuron beta": (Own, _over_time),
    "one Sequential": (OneSequential, _over_time),
    "kept on the module": (Kept, _static),
    "running sums, embedding of time, pooling after, predictions": (Summed, _over_time),
    "quantised states": (Quantised, _over_time),
}


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
        net(_over_time())
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
        x = _over_time()
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
        x = _over_time()
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
        x = _batch_first()
        assert torch.equal(mine(x), plain(theirs, x))
        assert (Wrapper.__call__.fusion.reason is None) == (call != 0 and call != 4), call
