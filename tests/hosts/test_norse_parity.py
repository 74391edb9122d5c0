"""Accelerated Norse layers against Norse: random parameters, methods, shapes, dtypes, carried calls, all gradients."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import norse.torch as nt
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import plugin_accel
from plugin_accel.hosts import norse as host
from plugin_accel.hosts.norse_forms import form_of
from plugin_accel.hosts.sequences import SequenceResult

LENIENT = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
BEHAVIOUR = nt.functional.izhikevich.tonic_spiking
FAMILIES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "LIF": (nt.LIFParameters, ("Cell", "")),
    "LI": (nt.LIParameters, ("Cell", "")),
    "LIFBox": (nt.LIFBoxParameters, ("Cell",)),
    "LIBox": (nt.LIBoxParameters, ("Cell",)),
    "IAF": (nt.IAFParameters, ("Cell", "")),
    "LIFEx": (nt.LIFExParameters, ("Cell", "")),
    "LIFAdEx": (nt.LIFAdExParameters, ("Cell", "")),
    "LSNN": (nt.LSNNParameters, ("Cell", "")),
    "Izhikevich": (nt.functional.izhikevich.IzhikevichParameters, ("Cell", "")),
    "LIFRefrac": (nt.LIFRefracParameters, ("Cell",)),
    "LIFAdExRefrac": (nt.LIFAdExRefracParameters, ("Cell",)),
}
HELD = {"LIFRefrac": ("lif", nt.LIFParameters), "LIFAdExRefrac": ("lif_adex", nt.LIFAdExParameters)}
"""Where the parameters lie of the neurons that a refractory period holds."""
INEXACT = ("LIFEx", "LIFAdEx", "LIFAdExRefrac")
"""Those with an exponential in the membrane."""
METHODS = {"super": 100.0, "triangle": 0.3, "tanh": 1.5, "circ": 0.7, "heavi_erfc": 0.9}


@dataclass
class Case:
    family: str
    suffix: str
    fields: dict[str, Any]
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    seed: int
    carried: str
    """ "given": an explicit first state; "own": Norse's"""
    dt: float
    record: bool
    nested: dict[str, Any]


def _value(draw: st.DrawFn, name: str, default: Any, shape: tuple[int, ...]) -> Any:
    kinds = ["tensor", "tensor", "parameter", "neuron", "neuron parameter"]
    if name in ("v_leak", "v_reset", "v_th"):  # Norse calls methods of tensors on them
        size = draw(st.sampled_from([(), ()]))
        kinds = ["tensor", "parameter"]
    else:
        size = shape[-1:]
        kinds.append("number")
    kind = draw(st.sampled_from(kinds))
    base = float(default)
    if kind == "number":
        return base * 1.1
    g = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    dims = size if "neuron" in kind else ()
    value = base * (0.7 + 0.6 * torch.rand(dims, generator=g)) + 0.05 * torch.rand(dims, generator=g)
    return nn.Parameter(value) if "parameter" in kind else value


@st.composite
def cases(draw: st.DrawFn, families: tuple[str, ...] = tuple(FAMILIES)) -> Case:
    family = draw(st.sampled_from(families))
    cls, suffixes = FAMILIES[family]
    shape = draw(st.sampled_from([(5,), (3, 1), (1, 7), (3, 5), (2, 70), (2, 3, 4, 4)]))
    nested: dict[str, Any] = {}
    defaults = cls._field_defaults
    if family == "Izhikevich":
        defaults = BEHAVIOUR.p._asdict()
    fields: dict[str, Any] = {}
    source = HELD[family][1]._field_defaults if family in HELD else defaults
    target = nested if family in HELD else fields
    for name, default in source.items():
        if name in ("method", "alpha", "reset_method") or not draw(st.booleans()):
            continue
        target[name] = _value(draw, name, default, shape)
    if family in HELD:
        fields["rho_reset"] = torch.tensor(draw(st.sampled_from([1.0, 2.0, 3.0])))
    if family == "IAF":  # never the shared default, which Norse makes require a gradient
        fields["v_reset"] = torch.tensor(draw(st.sampled_from([0.0, 0.2])))
    if "method" in source and family not in HELD:
        method = draw(st.sampled_from(list(METHODS)))
        alpha = METHODS[method]
        kind = draw(st.sampled_from([float, torch.tensor]))
        fields |= {"method": method, "alpha": kind(alpha)}
    if family == "LIFBox":
        fields["reset_method"] = draw(
            st.sampled_from([nt.functional.reset.reset_value, nt.functional.reset.reset_subtract])
        )
    return Case(
        family,
        draw(st.sampled_from(suffixes)),
        fields,
        shape,
        tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))),
        draw(st.integers(0, 2**31)),
        draw(st.sampled_from(["given", "own"])),
        draw(st.sampled_from([0.001, 0.002])),
        draw(st.booleans()),
        nested,
    )


def build(case: Case) -> tuple[Any, list[nn.Parameter]]:
    """The host layer of a case, with parameters of its own."""
    memo: list[nn.Parameter] = []

    def own(fields: dict[str, Any]) -> dict[str, Any]:
        made = {k: copy.deepcopy(v) for k, v in fields.items()}
        memo.extend(v for v in made.values() if isinstance(v, nn.Parameter))
        return made

    cls = FAMILIES[case.family][0]
    fields = own(case.fields)
    if case.family in HELD:
        name, kind = HELD[case.family]
        fields[name] = kind(**own(case.nested))
    kwargs: dict[str, Any] = {"dt": case.dt}
    if case.suffix == "" and case.family != "IAF":
        kwargs["record_states"] = case.record
    layer = getattr(nt, case.family + case.suffix)
    if case.family == "Izhikevich":
        state = nt.functional.izhikevich.IzhikevichState(torch.tensor(-70.0, requires_grad=True), torch.tensor(-14.0))
        p = BEHAVIOUR.p._replace(**fields)
        return layer(nt.functional.izhikevich.IzhikevichSpikingBehavior(p, state), **kwargs), memo
    return layer(cls(**fields), **kwargs), memo


def rebuilt(like: Any, tensors: list[Tensor]) -> Any:
    """A state of the class of `like`."""
    fields = [getattr(like, n) for n in like._fields]
    return type(like)(*[rebuilt(v, tensors) if isinstance(v, tuple) else tensors.pop(0) for v in fields])


def leaves(state: Any) -> list[Tensor]:
    return [t for v in state for t in (leaves(v) if isinstance(v, tuple) else [v])]


def by_step(layer: Any, x: Tensor, state: Any) -> tuple[list[Tensor], Any]:
    """The user's loop over a cell."""
    out, states = [], []
    for x_t in x.unbind(0):
        z, state = layer(x_t, state)
        out.append(z)
        states.append(leaves(state))
    return [torch.stack(out), *(torch.stack(s) for s in zip(*states, strict=True))], state


def at_once(layer: Any, x: Tensor, state: Any) -> tuple[list[Tensor], Any]:
    """The same as one call, by the protocol for time fusion."""
    run = plugin_accel.plugins.hosts()["norse"].sequence(layer)  # type: ignore[attr-defined]
    form = form_of(type(layer))
    assert form is not None
    names = form.neuron.states(None)
    given = (None,) if state is None else leaves(state)
    made: SequenceResult = run(layer, x, given, record=(True,) * len(names))
    return list(made.outputs), form.make(made.last)  # type: ignore[arg-type]


def whole(layer: Any, x: Tensor, state: Any) -> tuple[list[Tensor], Any]:
    """A layer for sequences."""
    out, state = layer(x, state)
    return [out, *leaves(state)], state


def play(case: Case, fast: bool, dtype: torch.dtype, run: Any) -> dict[str, Any]:
    """All that a user can see, and the gradients of a loss that uses it all."""
    layer, params = build(case)
    if fast:
        plugin_accel.convert(layer, strict=True)
    generator = torch.Generator().manual_seed(case.seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    scale = 20.0 if case.family in ("Izhikevich",) else 0.6 if "Box" in case.family or case.family == "IAF" else 8.0
    like = layer.state_fallback(draw(*case.shape).to(dtype) if case.suffix else draw(1, *case.shape).to(dtype))
    state = None
    inputs: list[Tensor] = []
    if case.carried == "given":
        shift = -60.0 if case.family == "Izhikevich" else 0.3
        inputs = [(draw(*case.shape) * 0.7 + shift).to(dtype).requires_grad_() for _ in leaves(like)]
        state = rebuilt(like, list(inputs))
    seen: dict[str, Any] = {"out": [], "states": []}
    loss = torch.zeros((), dtype=torch.float64)
    for count in case.steps:
        x = (draw(count, *case.shape) * scale).to(dtype).requires_grad_()
        inputs.append(x)
        outputs, after = run(layer, x, state)
        assert type(after) is type(like)
        seen["out"] += outputs
        seen["states"] += leaves(after)
        loss = loss + sum((o.double() * draw(*o.shape)).sum() for o in [*outputs, *leaves(after)])
        state = after if not (case.suffix == "" and case.record and case.family != "IAF") else None
    found = torch.autograd.grad(loss, [*inputs, *params], allow_unused=True)
    seen["grads"] = [
        torch.zeros_like(leaf) if g is None else g for leaf, g in zip([*inputs, *params], found, strict=True)
    ]
    seen["fallback"] = host.last_fallback(layer)
    return seen


def assert_equal(case: Case, got: dict[str, Any], want: dict[str, Any], exact: bool) -> None:
    assert got["fallback"] is None
    for kind in ("out", "states"):
        for a, b in zip(got[kind], want[kind], strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            if exact:
                assert torch.equal(a, b), kind
            else:
                torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)
    steep = case.family == "Izhikevich"  # whose gradients are ill-conditioned, see docs/numerics.md
    for a, b in zip(got["grads"], want["grads"], strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        # sums over samples and steps show fp32 rounding of their own
        rough = 1e-4 if a.numel() < want["out"][0][0].numel() or not exact or steep else 1e-5
        tolerance = (rough if a.dtype is torch.float32 else 1e-10) * max(b.abs().max().item(), 1.0)
        assert (a - b).abs().max().item() <= tolerance


def assert_parity(case: Case, dtype: torch.dtype, backend: str, fused: bool) -> None:
    run = whole if not case.suffix else by_step
    want = play(case, False, dtype, run)
    with plugin_accel.use_backend(backend):
        got = play(case, True, dtype, at_once if fused and case.suffix else run)
    assert_equal(case, got, want, case.family not in INEXACT)


@settings(LENIENT, max_examples=800)
@given(cases(), st.booleans())
def test_layers_equal_norse(case: Case, fused: bool) -> None:
    assert_parity(case, torch.float32, "cpu", fused)


@settings(LENIENT, max_examples=80)
@given(cases(), st.booleans())
def test_reference_backend_equals_norse(case: Case, fused: bool) -> None:
    assert_parity(case, torch.float32, "reference", fused)
