"""Accelerated snnTorch layers against snnTorch: random options, shapes, dtypes, carried calls, all gradients."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import snntorch as snn
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from snntorch import surrogate
from torch import Tensor

import plugin_accel
from plugin_accel.hosts import snntorch as host
from plugin_accel.hosts.sequences import SequenceResult

LENIENT = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
SURROGATES = {
    "none given": None,
    "atan": surrogate.atan(3.0),
    "fast_sigmoid": surrogate.fast_sigmoid(10),
    "sigmoid": surrogate.sigmoid(2),
    "triangular": surrogate.triangular(0.7),
    "straight_through": surrogate.straight_through_estimator(),
    "heaviside": surrogate.heaviside(),
    "SFS": surrogate.SFS(5, 0.1),
    "spike_rate_escape": surrogate.spike_rate_escape(1.5, 2),
}
STATES = {"Leaky": 1, "Lapicque": 1, "Synaptic": 2, "Alpha": 3, "RLeaky": 1, "RSynaptic": 2}
"""States that a call returns; recurrent layers take their spikes beside."""
Mode = str
"""How the steps are run: "given" and "own" states step by step, or as a sequence."""


@dataclass
class Case:
    name: str
    kwargs: dict[str, Any]
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    seed: int
    carried: str
    """ "given": explicit states; "own": those of the layer; "hidden": init_hidden"""
    off: bool = False
    """surrogate_disable"""


def _decay(draw: st.DrawFn, shape: tuple[int, ...], low: float = -0.25, high: float = 1.25) -> Any:
    kind = draw(st.sampled_from(["number", "scalar", "one", "neuron", "sample"]))
    g = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    if kind == "number":
        return draw(st.floats(low, high, width=32))
    size = {"scalar": (), "one": (1,), "neuron": shape[-1:], "sample": shape}[kind]
    return torch.rand(size, generator=g) * (high - low) + low


@st.composite
def cases(draw: st.DrawFn, names: tuple[str, ...] = tuple(STATES), numbers: bool = False) -> Case:
    name = draw(st.sampled_from(names))
    recurrent = name in ("RLeaky", "RSynaptic")
    shape = draw(st.sampled_from([(5,), (3, 1), (1, 7), (3, 5), (2, 70), (4, 3, 5), (2, 3, 4, 4)]))
    carried = draw(st.sampled_from(["given", "own", "hidden"]))
    kwargs: dict[str, Any] = {
        "threshold": draw(st.sampled_from([1.0, 0.5, 1, torch.rand(shape[-1:]) + 0.3])),
        "reset_mechanism": draw(st.sampled_from(["subtract", "zero", "none"])),
        "init_hidden": carried == "hidden",
        "output": draw(st.booleans()),
    }
    kwargs["learn_threshold"] = not isinstance(kwargs["threshold"], int) and draw(st.booleans())
    off = draw(st.sampled_from([False] * 7 + [True]))
    if off:
        kwargs["surrogate_disable"] = True
    else:
        kwargs["spike_grad"] = SURROGATES[draw(st.sampled_from(list(SURROGATES)))]
    if name == "Lapicque":
        kwargs |= draw(st.sampled_from([{"beta": 0.8}, {"R": 5, "C": 2}, {"R": 2.5, "C": 1.7, "time_step": 0.7}]))
    elif name == "Alpha":
        per_neuron = draw(st.booleans())
        kwargs["alpha"] = torch.rand(shape[-1:]) * 0.2 + 0.75 if per_neuron else 0.9
        kwargs["beta"] = torch.rand(shape[-1:]) * 0.3 + 0.3 if per_neuron else 0.7
        kwargs["learn_beta"] = draw(st.booleans())
    else:
        kwargs["beta"] = _decay(draw, shape)
        kwargs["learn_beta"] = draw(st.booleans())
    if "Synaptic" in name:
        kwargs["alpha"] = _decay(draw, shape)
        kwargs["learn_alpha"] = draw(st.booleans())
    if name in ("Leaky", "Synaptic", "RLeaky"):
        kwargs["reset_delay"] = draw(st.booleans())
    if name == "Leaky":
        kwargs["graded_spikes_factor"] = draw(st.sampled_from([1.0, 2.0, torch.rand(shape[-1:]) + 0.5]))
        kwargs["learn_graded_spikes_factor"] = draw(st.booleans())
    if recurrent:
        kwargs["all_to_all"] = draw(st.booleans()) and len(shape) in (2, 4)
        if not kwargs["all_to_all"]:
            kwargs["V"] = draw(st.sampled_from([0.5, torch.rand(shape[-1:])]))
        elif len(shape) == 2:
            kwargs["linear_features"] = shape[-1]
        else:
            kwargs |= {"conv2d_channels": shape[1], "kernel_size": 3}
        kwargs["learn_recurrent"] = draw(st.booleans())
    if len(shape) == 2 and kwargs.get("reset_delay", True) and draw(st.sampled_from([False] * 5 + [True])):
        kwargs["inhibition"] = True
    steps = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    return Case(name, kwargs, shape, steps, draw(st.integers(0, 2**31)), carried, off)


def build(case: Case) -> Any:
    """The host layer of a case, with parameters of its own."""
    torch.manual_seed(case.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inhibition warns
        kwargs = {k: v.clone() if isinstance(v, Tensor) else v for k, v in case.kwargs.items()}
        return getattr(snn, case.name)(**kwargs)


def arguments(case: Case) -> int:
    return STATES[case.name] + (case.name in ("RLeaky", "RSynaptic"))


def by_step(layer: Any, x: Tensor, states: tuple[Any, ...]) -> SequenceResult:
    """The user's loop."""
    returned = []
    for x_t in x.unbind(0):
        out = layer(x_t, *states) if states else layer(x_t)
        returned.append(out if isinstance(out, tuple) else (out,))
        if states:
            states = out if len(states) == len(out) else out[1:]
    stacked = tuple(torch.stack(r) for r in zip(*returned, strict=True))
    return SequenceResult(stacked, states)


def at_once(layer: Any, x: Tensor, states: tuple[Any, ...]) -> SequenceResult:
    """The same as one call."""
    run = plugin_accel.plugins.hosts()["snntorch"].sequence(layer)  # type: ignore[attr-defined]
    count = STATES[type(layer).__name__]
    wanted = len(states) or count + (type(layer).__name__ in ("RLeaky", "RSynaptic"))
    made: SequenceResult = run(layer, x, states or (None,) * wanted, record=(True,) * count)
    return SequenceResult(made.outputs, made.last if states else ())


def play(layer: Any, case: Case, dtype: torch.dtype, run: Any) -> dict[str, list[Tensor]]:
    """All that a user can see, and the gradients of a loss that uses it all."""
    generator = torch.Generator().manual_seed(case.seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    seen: dict[str, list[Tensor]] = {"out": [], "states": [], "grads": []}
    inputs: list[Tensor] = []
    states: tuple[Any, ...] = ()
    if case.carried == "given":
        states = tuple((draw(*case.shape) * 0.7).to(dtype).requires_grad_() for _ in range(arguments(case)))
        inputs += states
    loss = torch.zeros((), dtype=torch.float64)
    for count in case.steps:
        x = (draw(count, *case.shape) * 0.9).to(dtype).requires_grad_()
        inputs.append(x)
        outputs, states = run(layer, x, states)
        seen["out"] += outputs
        seen["states"] += [b.clone() for b in layer._buffers.values() if b.dtype.is_floating_point]
        loss = loss + sum((o.double() * draw(*o.shape)).sum() for o in outputs)
    for name in ("mem", "syn", "syn_exc"):
        if name in layer._buffers:
            loss = loss + (getattr(layer, name).double() * draw(*case.shape)).sum()
    leaves = [*inputs, *(p for p in layer.parameters() if p.requires_grad)]
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    seen["grads"] = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]
    return seen


def assert_equal(case: Case, got: dict[str, list[Tensor]], want: dict[str, list[Tensor]], summed: bool = False) -> None:
    for kind in ("out", "states"):
        for a, b in zip(got[kind], want[kind], strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            assert a.requires_grad == b.requires_grad
            if summed:
                assert (a - b).abs().max() <= 1e-5 * max(b.abs().max().item(), 1.0), kind
            else:
                assert torch.equal(a, b), kind
    for a, b in zip(got["grads"], want["grads"], strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if not torch.isfinite(b).all():  # sigmoid far below the threshold, where it is 0 here
            assert torch.isfinite(a).all()
            continue
        # sums over samples and steps show fp32 rounding of their own
        tolerance = (1e-5 if a.numel() >= want["out"][0][0].numel() else 1e-4) * b.abs().max().item() + 1e-6
        assert (a - b).abs().max().item() <= tolerance


def assert_parity(case: Case, dtype: torch.dtype, backend: str, run: Any) -> None:
    plain, fast = build(case).to(dtype), plugin_accel.convert(build(case).to(dtype), strict=True)
    want = play(plain, case, dtype, by_step)
    with plugin_accel.use_backend(backend):
        got = play(fast, case, dtype, run)
    assert host.last_fallback(fast) is None
    # the sums of a linear `recurrent` have an order of our own there
    summed = "linear_features" in case.kwargs and run is at_once and backend == "cpu" and dtype is torch.float32
    assert_equal(case, got, want, summed)


@settings(LENIENT, max_examples=200)
@given(cases(), st.sampled_from([by_step, at_once]))
def test_layers_equal_snntorch(case: Case, run: Any) -> None:
    assert_parity(case, torch.float32, "cpu", run)


@settings(LENIENT, max_examples=60)
@given(cases(), st.sampled_from([by_step, at_once]))
def test_reference_backend_equals_snntorch(case: Case, run: Any) -> None:
    assert_parity(case, torch.float32, "reference", run)


@settings(LENIENT, max_examples=60)
@given(cases(("Leaky", "Lapicque", "Synaptic", "Alpha")), st.sampled_from([by_step, at_once]))
def test_layers_equal_snntorch_in_double(case: Case, run: Any) -> None:
    case.kwargs.pop("graded_spikes_factor", None)  # a float64 vector widens the spikes: left to the host
    assert_parity(case, torch.float64, "cpu", run)
