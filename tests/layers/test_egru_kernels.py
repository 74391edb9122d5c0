"""EGRU's kernels: the reference against the equations, every backend against the reference, ops, edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import plugin_accel
from plugin_accel import _C
from plugin_accel.errors import InputError
from plugin_accel.layers.egru_call import Inputs, Options
from plugin_accel.layers.egru_ops import run

from .egru_cases import RESULTS, by_hand, case, differentiate

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "zoneout": {"zoneout": 0.3},
    "zoneout in evaluation": {"keep": 0.7},
    "lengths": {"lengths": [9, 1, 4, 7, 9]},
    "all at once": {"lengths": [3, 9, 1, 2, 5], "zoneout": 0.2, "support": 3.6, "dampening": 1.3, "scale": 2.0},
}
SHAPES = [(9, 5, 4, 7), (9, 5, 1, 16), (9, 5, 19, 50)]


@pytest.fixture(params=_C.isas())
def isa(request: pytest.FixtureRequest) -> Any:
    """Each instruction set in turn."""
    before = _C.isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("shape", SHAPES)
def test_inference_writes_less_and_the_same(shape: tuple[int, ...], options: dict[str, Any], isa: str) -> None:
    inputs, rest = case(*shape, **options)
    want = run(inputs, rest, record=True, backend="cpu")
    with torch.no_grad():
        got = run(inputs, rest, record=False, backend="cpu")
    for name in ("y", "y_n", "h_n", "trace_n", "counts"):
        assert torch.equal(getattr(got, name), getattr(want, name)), name


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_reference_follows_the_equations(options: dict[str, Any]) -> None:
    inputs, rest = case(9, 5, 3, 4, **options)
    got = run(inputs, rest, record=True, backend="reference")
    assert 0.05 < float(got.o.detach().mean()) < 0.8
    for name, want in by_hand(inputs, rest).items():
        torch.testing.assert_close(getattr(got, name), torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-13)


def test_gradients_of_the_smooth_part_are_the_derivatives() -> None:
    """Without surrogate and away from the thresholds, events are constants and everything else is smooth."""
    inputs, options = case(5, 2, 3, 4, dampening=0.0, zoneout=0.2, lengths=[5, 3], seed=3)
    for backend in ("reference", "cpu"):

        def smooth(*tensors: torch.Tensor, backend: str = backend) -> tuple[torch.Tensor, ...]:
            result = run(Inputs(*tensors), options, record=True, backend=backend)
            return tuple(t for t in result[:7] if t.requires_grad)

        assert torch.autograd.gradcheck(smooth, tuple(inputs), eps=1e-7, atol=1e-6)


def test_surrogate_is_the_triangle() -> None:
    """One step of one unit: d o / d thr = -d max(0, 1 - s |c - thr|), on and off the triangle."""
    for backend in ("reference", "cpu"):
        for thr in (0.0, 0.1, 0.35, 0.6, 1.0):
            inputs, options = case(1, 1, 1, 1, support=2.5, dampening=0.9)
            inputs = inputs._replace(thr=torch.tensor([thr], dtype=torch.float64, requires_grad=True))
            result = run(inputs, options, record=True, backend=backend)
            (slope,) = torch.autograd.grad(result.o.sum(), inputs.thr)
            v = float((result.h + result.o * thr).detach()) - thr
            assert slope.item() == pytest.approx(-0.9 * max(0.0, 1 - 2.5 * abs(v)), abs=1e-12)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cpu_equals_the_reference(shape: tuple[int, int, int, int], options: dict[str, Any], isa: str) -> None:
    inputs, rest = case(*shape, **options)
    want, want_grads = differentiate(inputs, rest, "reference")
    got, grads = differentiate(inputs, rest, "cpu")
    assert got.o.equal(want.o) and 0.02 < float(want.o.detach().mean()) < 0.9
    assert got.counts.tolist() == want.counts.tolist()
    for name in RESULTS:
        torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=1e-11, atol=1e-12)
    for name, g, w in zip(Inputs._fields, grads, want_grads, strict=True):
        assert float(w.abs().max()) > 0, name
        assert float((g - w).abs().max() / w.abs().max()) < 1e-10, name


@pytest.mark.parametrize("only", [("y",), ("h",), ("o",), ("trace",), ("y_n",), ("h_n",), ("trace_n",)], ids=str)
def test_losses_on_each_output(only: tuple[str, ...]) -> None:
    inputs, rest = case(12, 3, 4, 20, zoneout=0.2, lengths=[12, 5, 8])
    _, want = differentiate(inputs, rest, "reference", only)
    _, got = differentiate(inputs, rest, "cpu", only)
    for name, g, w in zip(Inputs._fields, got, want, strict=True):
        assert float((g - w).abs().max()) <= 1e-10 * max(float(w.abs().max()), 1e-3), name


def test_float32_agrees_and_flips_are_counted(isa: str) -> None:
    """An event may flip where c meets the threshold within rounding; samples with one are compared no further."""
    inputs, rest = case(60, 24, 16, 96, dtype=torch.float32, support=2.0)
    wide = Inputs(*(t.detach().double().requires_grad_() for t in inputs))
    wide_rest = rest._replace(dampening=rest.dampening.double(), support=rest.support.double())
    got = run(inputs, rest, record=True, backend="cpu")
    want = run(wide, wide_rest, record=True, backend="reference")
    alike = (got.o == want.o).flatten(2).all(2).all(0)
    flips = int((got.o != want.o).sum())
    assert int(alike.sum()) >= 22, f"{flips} flips in {int((~alike).sum())} of 24 samples"
    for name in RESULTS[:4]:
        a, b = getattr(got, name)[:, alike], getattr(want, name)[:, alike]
        assert float(((a - b).abs().max() / b.abs().max()).detach()) < 1e-5, name
    weight = torch.randn(got.y.shape, generator=torch.Generator().manual_seed(2)) * alike[None, :, None]
    grads = torch.autograd.grad(sum((t * weight).sum() for t in got[:4]), inputs[:6])  # type: ignore[call-overload]
    wants = torch.autograd.grad(sum((t * weight.double()).sum() for t in want[:4]), wide[:6])  # type: ignore[call-overload]
    for name, g, w in zip(Inputs._fields, grads, wants, strict=False):
        assert float((g - w).abs().max() / w.abs().max()) < 1e-4, name


def test_results_do_not_depend_on_threads_or_batch_mates() -> None:
    inputs, rest = case(20, 37, 24, 65, dtype=torch.float32)
    before = torch.get_num_threads()
    seen = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            result, grads = differentiate(inputs, rest, "cpu")
            seen.append((*result[:8], *grads))
    finally:
        torch.set_num_threads(before)
    for other in seen[1:]:
        # The products with the input are torch's, which does depend on its threads.
        products = [8 + Inputs._fields.index(n) for n in ("x", "kernel")]
        for i, (a, b) in enumerate(zip(seen[0], other, strict=True)):
            if i in products:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            else:
                assert a.equal(b), i


def test_sparse_and_dense_products_are_equal_bit_for_bit() -> None:
    """Skipping a unit that is silent leaves out the addition of an exact zero."""
    inputs, rest = case(30, 16, 3, 64, dtype=torch.float32, thr_mean=0.3)
    x = inputs.x.detach()
    want = run(Inputs(*(t.detach() for t in inputs)), rest, record=True, backend="cpu")
    # one sample with every unit active beside the others changes how its whole tile is computed
    busy = inputs.y.detach().clone()
    busy[0] = 0.5
    got = run(
        Inputs(x, *(t.detach() for t in inputs[1:6]), busy, *(t.detach() for t in inputs[7:])),
        rest,
        record=True,
        backend="cpu",
    )
    assert got.y[:, 1:].equal(want.y[:, 1:]) and not got.y[:, 0].equal(want.y[:, 0])


@pytest.mark.parametrize("shape", [(0, 3, 2, 4), (3, 0, 2, 4), (1, 1, 1, 1), (2, 1, 300, 3)], ids=str)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_edges(shape: tuple[int, int, int, int], backend: str) -> None:
    inputs, rest = case(*shape)
    result, grads = differentiate(inputs, rest, backend)
    assert result.y.shape == (shape[0], shape[1], shape[3]) == result.trace.shape
    assert all(g.shape == t.shape and g.isfinite().all() for g, t in zip(grads, inputs, strict=True))
    if not shape[0]:
        assert result.h_n.equal(inputs.h) and result.h_n.data_ptr() != inputs.h.data_ptr()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_nan_stays_visible(backend: str) -> None:
    """A NaN in one sample reaches its own units and its own gradients, and no other sample."""
    inputs, rest = case(6, 9, 2, 20)
    x = inputs.x.detach().clone()
    x[2, 4] = float("nan")
    with torch.no_grad():
        want = run(inputs, rest, record=True, backend=backend)
        got = run(inputs._replace(x=x), rest, record=True, backend=backend)
    assert got.y[2:, 4].isnan().all() and got.h[2:, 4].isnan().all() and not got.o[2:, 4].any()
    others = [b for b in range(9) if b != 4]
    assert got.y[:, others].equal(want.y[:, others]) and got.y[:2, 4].equal(want.y[:2, 4])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("save", [True, False])
def test_opcheck(backend: str, save: bool) -> None:
    inputs, rest = case(4, 3, 2, 5, zoneout=0.2, lengths=[4, 2, 3])
    for record in (True, False):
        if not save:
            inputs = Inputs(*(t.detach() for t in inputs))
        torch.library.opcheck(torch.ops.plugin_accel.egru.default, (*inputs, *rest, record, save, backend))


def test_what_one_backend_saved_another_can_use() -> None:
    inputs, rest = case(6, 3, 2, 5)
    found = []
    for first, second in (("reference", "cpu"), ("cpu", "reference")):
        flat = torch.ops.plugin_accel.egru(*inputs, *rest, True, True, first)
        grads = [torch.ones_like(t) for t in flat[:7]]
        found.append(
            torch.ops.plugin_accel.egru_backward(
                *(t.detach() for t in inputs), *rest, flat[-1].detach(), grads, [True] * 9, second
            )
        )
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_second_derivatives() -> None:
    """The kernels have none and say so; the reference is plain torch."""
    for backend in ("cpu", "reference"):
        inputs, rest = case(4, 2, 2, 3)
        y = run(inputs, rest, record=False, backend=backend).y
        (g,) = torch.autograd.grad(y.square().sum(), inputs.x, create_graph=True)
        if backend == "cpu":
            with pytest.raises(RuntimeError, match="once_differentiable"):
                g.square().sum().backward()
        else:
            g.square().sum().backward()
            assert inputs.kernel.grad is not None and inputs.kernel.grad.any()


def test_elementary_functions(isa: str) -> None:
    """Errors of sigmoid and tanh in units in the last place: what the documentation states."""
    sweep = torch.cat((torch.linspace(-30, 30, 40000), torch.logspace(-6, 0, 2000), -torch.logspace(-6, 0, 2000)))
    for dtype in (torch.float32, torch.float64):
        v = sweep.to(dtype).view(-1, 1, 1)
        zeros = torch.zeros(1, 1, dtype=dtype)
        wide = torch.zeros(3, dtype=dtype)
        inputs = Inputs(v, torch.ones(1, 3, dtype=dtype), wide[None], wide, wide, wide[:1] + 1, zeros, zeros, zeros)
        rest = Options(torch.ones(1, dtype=dtype), torch.ones(1, dtype=dtype))
        z, _, g = torch.ops.plugin_accel.egru(*inputs, *rest, False, True, "cpu")[-1][:, 0, :3, 0].unbind(1)
        exact = v.double().flatten()
        for got, want, most in ((z, exact.sigmoid(), 5), (g, exact.tanh(), 3)):
            # float64 has nothing more exact beside it than torch's own, good to a unit or so itself
            unit = want.abs() * torch.finfo(dtype).eps / 2
            assert float(((got.double() - want).abs() / unit).max()) <= 2 * most + (2 if dtype is torch.float64 else 0)


def test_memory_kept_for_backward() -> None:
    steps, batch, hidden = 20, 4, 32
    inputs, rest = case(steps, batch, 3, hidden, dtype=torch.float32)
    given = {t.data_ptr() for t in (*inputs, *rest[:2])}
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        if t.data_ptr() not in given:
            kept[t.data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run(inputs, rest, record=True, backend="cpu")
    assert sum(kept.values()) <= 5 * hidden * steps * batch * 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lengths": torch.tensor([0, 2, 3])}, "lengths: expected values within 1"),
        ({"lengths": torch.tensor([5, 2, 3])}, "lengths: expected values within 1"),
        ({"lengths": torch.tensor([1, 2])}, "lengths: expected int64 of shape"),
        ({"lengths": torch.tensor([1.0, 2.0, 3.0])}, "lengths: expected int64"),
        ({"mask": torch.ones(4, 3, 4, dtype=torch.bool)}, "mask: expected bool of shape"),
        ({"y": torch.zeros(2, 5)}, "y: expected shape"),
        ({"thr": torch.zeros(5, dtype=torch.float64)}, "thr: expected torch.float32"),
        ({"x": torch.zeros(4, 3, 2, dtype=torch.int32)}, "input: expected float32 or float64"),
        ({"x": torch.zeros(3, 2)}, "input: expected 3 dimensions"),
        ({"kernel": torch.zeros(2, 14)}, "kernel: expected shape"),
        ({"support": torch.zeros(2)}, "support: expected one value"),
    ],
)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_wrong_arguments(change: dict[str, torch.Tensor], words: str, backend: str) -> None:
    inputs, rest = case(4, 3, 2, 5, dtype=torch.float32)
    inputs = inputs._replace(**{k: v for k, v in change.items() if k in Inputs._fields})
    rest = rest._replace(**{k: v for k, v in change.items() if k in Options._fields})
    with pytest.raises(InputError, match=words):
        run(inputs, rest, record=False, backend=backend)


def test_the_backend_is_chosen_as_for_neurons(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, rest = case(2, 1, 1, 2)

    def ran() -> str:
        return str(run(inputs, rest, record=False).y.grad_fn)

    assert "egru" in ran()
    with plugin_accel.use_backend("reference"):
        assert "egru" not in ran()
    monkeypatch.setenv("PLUGIN_ACCEL_BACKEND", "reference")
    assert "egru" not in ran()
    with pytest.raises(plugin_accel.errors.BackendError, match="not registered"):
        run(inputs, rest, record=False, backend="nowhere")
