"""Accelerated DeltaLeaky against snnTorch's: its states are one tuple, with the old membrane itself in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor, nn

import plugin_accel
from plugin_accel.hosts import snntorch as host
from plugin_accel.hosts.snntorch_step import is_prepared
from tests.hosts.test_snntorch_parity import SURROGATES


@pytest.fixture(autouse=True)
def _unknown_to_reset() -> Iterator[None]:
    """A DeltaLeaky without a state among the host's instances breaks `snntorch.utils.reset` for all."""
    yield
    snn.SpikingNeuron.instances[:] = [i for i in snn.SpikingNeuron.instances if not isinstance(i, snn.DeltaLeaky)]


def both(**kwargs: Any) -> list[Any]:
    """The host's layer and ours."""
    made = [snn.DeltaLeaky(**{k: v.clone() if isinstance(v, Tensor) else v for k, v in kwargs.items()}) for _ in "ab"]
    return [made[0], plugin_accel.convert(made[1], strict=True)]


def play(layer: Any, x: Tensor, first: tuple[Tensor | None, Tensor | None]) -> tuple[list[Tensor], list[Tensor]]:
    """All that a user sees of a loop, and the gradients of a loss of all of it."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, *first) if t is not None]
    state: Any = (leaves[1], leaves[2]) if len(leaves) == 3 else (None, None)
    seen = []
    for x_t in leaves[0].unbind(0):
        before = state[0]
        spikes, state = layer(x_t) if layer.init_hidden else layer(x_t, state)
        seen += [spikes, *state]
        assert before is None or state[1] is before
        assert layer.mem is state[0] and layer.mem_prev is state[1]
        assert isinstance(state, tuple) and "mem_prev" in layer.__dict__ and layer._buffers["mem"] is state[0]
    generator = torch.Generator().manual_seed(5)
    loss = sum((s.double() * torch.randn(s.shape, generator=generator)).sum() for s in seen)
    wanted = [*leaves[:2], *(p for p in layer.parameters() if p.requires_grad)]
    return seen, list(torch.autograd.grad(loss, wanted, allow_unused=True))  # type: ignore[arg-type]


def assert_same(want: tuple[list[Tensor], list[Tensor]], got: tuple[list[Tensor], list[Tensor]]) -> None:
    for a, b in zip(got[0], want[0], strict=True):
        assert a.dtype is b.dtype and torch.equal(a, b) and a.requires_grad == b.requires_grad
    for a, b in zip(got[1], want[1], strict=True):
        assert (a is None) == (b is None)
        if a is None:
            continue
        if not torch.isfinite(b).all():  # sigmoid far below the threshold, where it is 0 here
            assert torch.isfinite(a).all()
            continue
        exact = 1e-5 if b.dtype is torch.float32 else 1e-10
        assert a.dtype is b.dtype and (a - b).abs().max() <= exact * max(b.abs().max().item(), 1.0)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("carried", ["none", "given", "hidden"])
def test_steps_equal_the_hosts(carried: str, dtype: torch.dtype, backend: str) -> None:
    torch.manual_seed(0)
    shapes, sizes = [(5,), (3, 70), (2, 3, 4, 4)], ["number", "one", "neuron"]
    for shape, size, learn in itertools.product(shapes, sizes, [False, True]):
        beta = 0.9 if size == "number" else torch.rand(shape[-1] if size == "neuron" else 1) * 2 - 0.5
        layers = both(beta=beta, learn_beta=learn, delta_threshold=0.45, init_hidden=carried == "hidden")
        x = torch.randn(6, *shape, dtype=dtype)
        x[2, ..., 0] = 0  # with beta = 1 or a membrane of zero: a change of zero, which has no gradient
        given = (torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype))
        first = given if carried == "given" else (None, None)
        want = play(layers[0].to(dtype), x, first)
        with plugin_accel.use_backend(backend):
            assert_same(want, play(layers[1].to(dtype), x, first))
        assert host.last_fallback(layers[1]) is None
        quick = dtype is torch.float32 and backend == "cpu" and (len(shape) < 4 or layers[1].beta.numel() == 1)
        assert is_prepared(layers[1]) == quick


@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate(name: str) -> None:
    torch.manual_seed(1)
    layers = both(beta=0.8, spike_grad=SURROGATES[name], delta_threshold=1)
    x = torch.randn(5, 3, 7)
    assert_same(play(layers[0], x, (None, None)), play(layers[1], x, (None, None)))
    assert host.last_fallback(layers[1]) is None


@pytest.mark.filterwarnings("ignore:Inhibition")
def test_other_options_have_no_effect() -> None:
    torch.manual_seed(2)
    x = torch.randn(5, 3, 7)
    for options in (
        {"reset_mechanism": "zero", "graded_spikes_factor": 3.0, "threshold": 0.1, "output": True},
        {"reset_delay": False, "inhibition": True},
        {"state_quant": torch.round},
        {"surrogate_disable": True},
        {"surrogate_disable": True, "learn_graded_spikes_factor": True},
    ):
        layers = both(beta=0.8, delta_threshold=0.3, **options)
        assert_same(play(layers[0], x, (None, None)), play(layers[1], x, (None, None)))
        assert host.last_fallback(layers[1]) is None


def test_beta_of_one_and_no_change() -> None:
    layers = both(beta=1.0, delta_threshold=-0.5, learn_beta=True)
    x = torch.zeros(3, 2, 3)
    first = (torch.ones(2, 3), torch.ones(2, 3))
    assert_same(play(layers[0], x, first), play(layers[1], x, first))


def test_changes_between_calls_are_seen() -> None:
    seen = []
    for layer in both(beta=0.8, delta_threshold=0.5):
        x, state, out = torch.full((2, 4), 0.7), (None, None), []
        for threshold, beta in ((0.5, 0.8), (0.9, 0.8), (0.9, 0.3), (2, 0.3), (0.1, 1.0)):
            layer.delta_threshold, layer.beta = threshold, torch.tensor(beta)
            spikes, state = layer(x, state)
            out += [spikes, *state]
        layer.reset_mem()
        assert layer.mem is None and layer.mem_prev is None
        seen.append(torch.stack(out))
    assert torch.equal(*seen)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"spike_grad": torch.sigmoid}, "sigmoid has no kernel"),
        ({"spike_grad": surrogate.custom_surrogate(lambda x, g, s: g)}, "has no kernel"),
        ({"delta_threshold": torch.tensor(0.5)}, "delta_threshold is a Tensor"),
        ({"x": torch.randn(2, 3).half()}, "input is torch.float16"),
        ({"mem": torch.randn(3)}, "the membrane has shape (3,), the input (2, 3)"),
    ],
    ids=["a function", "a callable", "a threshold of tensors", "16 bits", "a membrane of another shape"],
)
def test_what_is_left_to_the_host(change: dict[str, Any], reason: str) -> None:
    options = {"spike_grad": None, "delta_threshold": 0.4, "x": torch.randn(2, 3), "mem": None} | change
    seen = []
    for layer in both(beta=0.8):
        layer.delta_threshold = options["delta_threshold"]
        layer.spike_grad = options["spike_grad"] or layer.spike_grad
        spikes, state = layer(options["x"], (options["mem"], None))
        seen.append((spikes, *state))
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    assert reason in str(host.last_fallback(layer))


def test_errors_are_the_hosts() -> None:
    for layer in both(beta=0.8):
        with pytest.raises(TypeError, match="must be provided"):
            layer(torch.zeros(2, 3))
        with pytest.raises(ValueError, match="unpack"):
            layer(torch.zeros(2, 3), (None, None, None))
        with pytest.raises(TypeError, match="cannot assign"):
            layer(torch.zeros(2, 3), (nn.Parameter(torch.zeros(2, 3)), None))


def test_report_restore_and_namespace() -> None:
    plain, fast = both(beta=0.8)
    (row,) = plugin_accel.report(fast).rows
    assert row.status != "host" and not row.reasons
    fast.spike_grad = torch.sigmoid
    assert "has no kernel" in plugin_accel.report(fast).rows[0].reasons[0]
    assert type(plugin_accel.restore(fast)) is type(plain) and fast.__dict__.keys() == plain.__dict__.keys()
    accel = pytest.importorskip("snntorch.accel")
    assert accel.DeltaLeaky is type(plugin_accel.convert(plain))


class Net(nn.Module):
    def __init__(self, hidden: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.fc, self.lif = nn.Linear(4, 6), snn.Leaky(0.8)
        self.delta = snn.DeltaLeaky(beta=0.9, delta_threshold=0.3, init_hidden=hidden)

    def forward(self, x: Tensor) -> Tensor:
        mem, state, out = self.lif.init_leaky(), self.delta.reset_mem(), []
        for x_t in x.unbind(0):
            spikes, mem = self.lif(self.fc(x_t), mem)
            spikes, state = self.delta(spikes) if self.delta.init_hidden else self.delta(spikes, state)
            out += [spikes, *state]
        return torch.stack(out)


@pytest.mark.parametrize("hidden", [False, True])
def test_a_loop_under_time_fusion_gives_the_same(hidden: bool) -> None:
    x, seen = torch.randn(7, 3, 4), []
    fast = plugin_accel.convert(Net(hidden), fuse_time=True)
    for net in (Net(hidden), fast):
        for _ in range(4):
            out = net(x)
            net.zero_grad()
            (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
            seen.append([out.detach(), *(p.grad.clone() for p in net.parameters())])
    for run in seen[1:]:
        assert torch.equal(run[0], seen[0][0])
        for a, b in zip(run[1:], seen[0][1:], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    root = plugin_accel.report(fast).rows[0]
    assert root.status == "unfused" and root.reasons


@pytest.mark.one_graph
@pytest.mark.parametrize("learned", [False, True])
def test_compiled_graphs(learned: bool) -> None:
    x, seen = torch.randn(4, 2, 3), []
    for layer in both(beta=0.9, delta_threshold=0.4, learn_beta=learned):

        def loop(x: Tensor, layer: Any = layer) -> tuple[Tensor, ...]:
            state, out = (None, None), []
            for x_t in x.unbind(0):
                spikes, state = layer(x_t, state)
                out.append(spikes)
            return (torch.stack(out), *state)

        leaf = x.clone().requires_grad_()
        ours = isinstance(layer, host.sd.DeltaLeaky)
        made = (torch.compile(loop, backend="aot_eager", fullgraph=True) if ours else loop)(leaf)
        seen.append((list(made), list(torch.autograd.grad(made[0].sum() + made[1].sum(), leaf))))
    assert_same(*seen)
