"""EGRU and EGRUCell as layers: semantics, states, weights, options, bad input."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel.errors import InputError
from plugin_accel.layers import (
    EGRU,
    EGRUCell,
    EGRUState,
    activity_loss,
)

D = torch.float64


def make(*sizes: int, seed: int = 0, **options: object) -> EGRU:
    torch.manual_seed(seed)
    layer = EGRU(*sizes, **{"dtype": D, "weight_initialization_gain": 2.0, **options})  # type: ignore[arg-type]
    with torch.no_grad():
        for name, p in layer.named_parameters():
            if "bias" in name:
                p.normal_(std=0.3)
    return layer


def data(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_chunks_equal_one_pass(layers: int, backend: str) -> None:
    """EvNN hands on the output alone, so that its chunks differ from one pass."""
    layer, x = make(3, 20, num_layers=layers), data(12, 4, 3)
    with plugin_accel.use_backend(backend):
        y, sequences, last = layer(x, return_state=True)
        state, parts = None, []
        for chunk in x.split([5, 1, 6]):
            part, rest, state = layer(chunk, state, return_state=True)
            parts.append((part, *rest))
    assert float(y.detach().count_nonzero()) > 20
    for want, got in zip((y, *sequences), zip(*parts, strict=True), strict=True):
        assert torch.cat(got).equal(want)
    assert all(a.equal(b) and a.shape == (layers, 4, 20) for a, b in zip(state or (), last, strict=True))


def test_gradients_flow_through_the_carried_state() -> None:
    layer, x = make(3, 8), data(10, 2, 3).requires_grad_()
    (want,) = torch.autograd.grad(layer(x)[0][5:].square().sum(), x)
    _, _, state = layer(x[:5], return_state=True)
    (got,) = torch.autograd.grad(layer(x[5:], state)[0].square().sum(), x)
    assert float(want[:5].abs().max()) > 0
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_a_tensor_as_state_is_the_output_alone() -> None:
    layer, x = make(3, 8), data(4, 2, 3)
    y0 = data(1, 2, 8).clamp(min=0)
    zeros = torch.zeros_like(y0)
    assert layer(x, y0)[0].equal(layer(x, EGRUState(y0, zeros, zeros))[0])
    assert not layer(x, y0)[0].equal(layer(x)[0])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_lengths_are_those_of_single_runs(batch_first: bool, backend: str) -> None:
    layer = make(3, 20, batch_first=batch_first, num_layers=2)
    lengths = [7, 2, 9, 1, 9]
    x = data(5, 9, 3)
    for b, n in enumerate(lengths):
        x[b, n:] = float("nan")  # what lies behind the last step is never used
    x.requires_grad_()
    with plugin_accel.use_backend(backend):
        y, (h, o, trace), state = layer(x if batch_first else x.transpose(0, 1), None, lengths, return_state=True)
        grads = torch.autograd.grad(y.sum() + h.sum() + trace.sum() + state.h.sum(), [x, *layer.parameters()])
        if not batch_first:
            y, h, o, trace = (t.transpose(0, 1) for t in (y, h, o, trace))
        total = [torch.zeros_like(g) for g in grads]
        for b, n in enumerate(lengths):
            one = x[b : b + 1, :n].detach().requires_grad_()
            wants = layer(one if batch_first else one.transpose(0, 1), return_state=True)
            want_y, want_h, want_trace = (
                t if batch_first else t.transpose(0, 1) for t in (wants[0], wants[1][0], wants[1][2])
            )
            for got, want in ((y, want_y), (h, want_h), (trace, want_trace)):
                torch.testing.assert_close(got[b : b + 1, :n], want, rtol=1e-10, atol=1e-12)
                assert not got[b, n:].any()
            for got, want in zip(state, wants[2], strict=True):
                torch.testing.assert_close(got[:, b : b + 1], want, rtol=1e-10, atol=1e-12)
            loss = want_y.sum() + want_h.sum() + want_trace.sum() + wants[2].h.sum()
            single = torch.autograd.grad(loss, [one, *layer.parameters()])
            total[0][b : b + 1, :n] += single[0]
            for summed, g in zip(total[1:], single[1:], strict=True):
                summed.add_(g)
    for got, want in zip(grads, total, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_zoneout() -> None:
    layer, x = make(3, 30, zoneout=0.4), data(40, 8, 3)
    _, (h, o, _) = layer(x)
    before = torch.cat((torch.zeros_like(h[:1]), h[:-1]))
    kept = ((h + o * layer.thr) == before).to(D)
    assert 0.35 < float(kept.mean()) < 0.45
    layer.eval()
    torch.testing.assert_close(layer(x)[0], layer(x)[0], rtol=0, atol=0)
    _, (h, o, _) = layer(x[:1])
    plain = make(3, 30).eval()
    plain.load_state_dict(layer.state_dict())
    _, (want_h, want_o, _) = plain(x[:1])
    torch.testing.assert_close(h + o * layer.thr, 0.6 * (want_h + want_o * layer.thr))
    assert float(layer(x)[0].count_nonzero()) > 0, "EvNN's Python path never moves in evaluation"


def test_dropconnect_is_one_mask_per_call() -> None:
    layer, x = make(3, 10, dropout=0.5), data(6, 2, 3)
    torch.manual_seed(3)
    got = layer(x)[0]
    torch.manual_seed(3)
    masked = nn.functional.dropout(layer.recurrent_kernel.detach(), 0.5)
    plain = make(3, 10)
    plain.load_state_dict({**layer.state_dict(), "recurrent_kernel": masked})
    assert got.equal(plain(x)[0])
    got.sum().backward()
    assert layer.recurrent_kernel.grad is not None and not layer.recurrent_kernel.grad[masked == 0].any()
    layer.eval()
    assert layer(x)[0].equal(make(3, 10).eval()(x)[0])


def test_gradients_are_clipped_together() -> None:
    free, clipped = make(3, 8), make(3, 8, grad_clip=0.1)
    x, y0 = data(9, 2, 3), data(1, 2, 8)
    seen = []
    for layer in (free, clipped):
        inputs = [x.clone().requires_grad_(), y0.clone().requires_grad_()]
        layer(*inputs)[0].square().sum().backward()
        seen.append([inputs[0].grad, inputs[1].grad, *(p.grad for p in layer.parameters())])
    norm = torch.stack([g.norm() for g in seen[0][1:]]).norm()
    assert norm > 0.2
    assert seen[1][0].equal(seen[0][0]), "the gradient of the input is not clipped"
    for want, got in zip(seen[0][1:], seen[1][1:], strict=True):
        torch.testing.assert_close(got, want * 0.1 / (norm + 1e-6))


def test_thresholds_stay_within_bounds() -> None:
    layer, x = make(3, 4), data(3, 2, 3)
    with torch.no_grad():
        layer.thr.copy_(torch.tensor([-0.5, 0.3, 1.5, 1.0], dtype=D))
    layer.eval()
    want = layer(x)[0]
    assert layer.thr.tolist() == [-0.5, 0.3, 1.5, 1.0], "evaluation changes no parameter"
    layer.train()
    assert layer(x)[0].equal(want) and layer.thr.tolist() == [0.0, 0.3, 1.0, 1.0]
    with torch.no_grad():
        layer.thr[1] = float("nan")
    assert not layer(x)[1][1][..., 1].any(), "a threshold that is not a number is never exceeded"


def test_initialisation() -> None:
    layer = EGRU(200, 100, thr_mean=0.2)
    assert layer.thr.mean().item() == pytest.approx(0.2, abs=0.06) and layer.thr.requires_grad
    assert layer.kernel.std().item() == pytest.approx((2 / 500) ** 0.5, rel=0.03)
    assert layer.recurrent_kernel.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.03)
    assert not layer.bias.any() and layer.dampening_factor.tolist() == [pytest.approx(0.7)]
    thr = layer.thr.clone()
    layer.reset_parameters()
    assert layer.thr.equal(thr), "as in EvNN"
    assert [n for n, _ in EGRU(2, 3, bias=False, num_layers=2).named_parameters()] == [
        "kernel",
        "recurrent_kernel",
        "thr",
        "kernel_l1",
        "recurrent_kernel_l1",
        "thr_l1",
    ]
    assert EGRU(2, 3, device="meta", dtype=D).kernel.is_meta


def test_final_values_instead_of_sequences() -> None:
    layer, short = make(3, 6, num_layers=2), make(3, 6, num_layers=2, return_state_sequence=False)
    x = data(5, 2, 3)
    y, (h, o, trace) = layer(x)
    short_y, (h_n, o_n, trace_n) = short(x)
    assert short_y.equal(y) and h_n.shape == (2, 2, 6)
    assert h_n[-1].equal(h[-1]) and o_n[-1].equal(o[-1]) and trace_n[-1].equal(trace[-1])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_cell_is_the_layer_step_by_step(backend: str) -> None:
    layer, cell = make(3, 9), EGRUCell(3, 9, dtype=D)
    cell.load_state_dict(layer.state_dict())
    x = data(6, 2, 3)
    with plugin_accel.use_backend(backend):
        want, _, last = layer(x, return_state=True)
        state, got = None, []
        for x_t in x:
            y, state = cell(x_t, state)
            got.append(y)
    assert torch.stack(got).equal(want) and state is not None
    assert all(a.equal(b[0]) for a, b in zip(state, last, strict=True))
    with pytest.raises(InputError, match="EGRUCell input: expected shape"):
        cell(x)


def test_activity() -> None:
    layer, x = make(3, 30, pseudo_derivative_support=3.6), data(20, 4, 3)
    with pytest.raises(RuntimeError, match="forward call before"):
        layer.activity()
    _, (h, o, _) = layer(x)
    c = h + o * layer.thr
    silent = (o == 0) & (3.6 * (c - layer.thr).abs() >= 1)
    assert layer.activity().events == pytest.approx(float(o.detach().mean())) and 0 < layer.activity().events < 1
    assert layer.activity().silent == pytest.approx(float(silent.to(D).mean()), abs=1e-3)
    assert 0.2 < layer.activity().silent < 1


def test_activity_loss_moves_the_rate_to_its_target() -> None:
    layer, x = make(3, 30), data(20, 8, 3)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(60):
        _, (_, o, _) = layer(x)
        optimizer.zero_grad()
        activity_loss(o, 0.05).backward()
        optimizer.step()
    layer(x)
    assert 0.02 < layer.activity().events < 0.08


def test_copies_and_pickles() -> None:
    layer, x = make(3, 4, num_layers=2), data(5, 2, 3)
    want = layer(x)[0]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other(x)[0].equal(want)
    assert repr(layer) == "EGRU(3, 4, num_layers=2)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((data(4, 2, 5),), "EGRU input: expected shape"),
        ((data(4, 3),), "add a batch dimension"),
        ((data(4, 2, 3).float(),), "expected torch.float64 as the parameters"),
        ((data(4, 2, 3), data(1, 3, 6)), "EGRU state y: expected shape"),
        ((data(4, 2, 3), data(2, 6)), "EGRU state y: expected shape"),
        ((data(4, 2, 3), (data(1, 2, 6),) * 3), "expected an EGRUState, a tensor or None"),
        ((data(4, 2, 3), EGRUState(data(1, 2, 6), data(1, 2, 5), data(1, 2, 6))), "EGRU state h: expected shape"),
        ((data(4, 2, 3), None, [4, 0]), "within 1 and the 4 steps"),
        ((data(4, 2, 3), None, [4, 5]), "within 1 and the 4 steps"),
        ((data(4, 2, 3), None, [4]), "lengths: expected int64 of shape"),
    ],
)
def test_bad_input(arguments: tuple[object, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(3, 6)(*arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"thr_mean": -0.2465}, "thr_mean"),
        ({"thr_mean": 1.0}, "thr_mean"),
        ({"dropout": 1.2}, "dropout"),
        ({"zoneout": -0.1}, "zoneout"),
        ({"grad_clip": 0.0}, "grad_clip"),
        ({"num_layers": 0}, "num_layers"),
    ],
)
def test_bad_options(options: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        EGRU(2, 3, **options)  # type: ignore[arg-type]
