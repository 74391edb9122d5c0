"""The `torch.library` ops: opcheck, equality with `run`, and what they say to wrong arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from plugin_accel.backends import cpu, reference, use_backend
from plugin_accel.errors import BackendError, InputError
from plugin_accel.neurons import ALL, SINABS_ALIF, SINABS_LIF, Config, Neuron, SinabsConfig, ops, run
from plugin_accel.surrogates import Surrogate

EXPONENTIAL = Surrogate("single_exponential", (0.5, 1.0))
F32, F64 = torch.float32, torch.float64


def _config(synapse: bool, spike: str, reset: str, clamp: bool, time_dim: int = 1, most: float = 3.0) -> Config:
    return SinabsConfig(synapse, spike, reset, clamp, most, EXPONENTIAL if spike != "none" else None, time_dim)


# neuron, config, shape of a state, dtype, shape of the parameters, memory order of the input
CASES: dict[str, tuple[Neuron, Config, tuple[int, ...], torch.dtype, tuple[int, ...], str]] = {
    "plain": (SINABS_LIF, _config(False, "multi", "subtract_threshold", False), (4, 5), F32, (), "dense"),
    "leak": (SINABS_LIF, _config(False, "none", "subtract_threshold", True), (4, 5), F32, (5,), "dense"),
    "leak-64": (SINABS_LIF, _config(False, "none", "subtract_threshold", False), (4, 5), F64, (4, 1), "dense"),
    "synapse": (SINABS_LIF, _config(True, "single", "subtract", True), (4, 5), F32, (5,), "dense"),
    "synapse-64": (SINABS_LIF, _config(True, "multi", "value", True), (4, 5), F64, (4, 5), "dense"),
    "channels": (SINABS_LIF, _config(True, "multi", "subtract", False), (2, 3, 4, 5), F32, (3, 1, 1), "channels last"),
    "no neurons' dimension": (SINABS_LIF, _config(False, "multi", "value", False), (4,), F32, (), "dense"),
    "step": (SINABS_LIF, _config(True, "multi", "subtract", True, -1), (4, 5), F32, (5,), "dense"),
    "time first": (SINABS_LIF, _config(False, "multi", "subtract", True, 0), (4, 5), F32, (5,), "dense"),
    "strided": (SINABS_LIF, _config(False, "multi", "subtract", True), (4, 5), F32, (5,), "time last"),
    "alif": (SINABS_ALIF, _config(False, "multi", "subtract_threshold", False), (4, 5), F32, (), "dense"),
    "alif-synapse": (SINABS_ALIF, _config(True, "single", "subtract_threshold", True), (4, 5), F32, (5,), "dense"),
    "alif-64": (SINABS_ALIF, _config(True, "single", "value", True), (4, 5), F64, (), "dense"),
    "alif-step": (SINABS_ALIF, _config(False, "single", "subtract", False, -1), (4, 5), F32, (4, 1), "dense"),
    "alif-channels": (SINABS_ALIF, _config(True, "multi", "value", False), (2, 3, 4, 5), F32, (), "channels last"),
}
VALUES = {"gain_mem": 0.75, "threshold": 1.0, "reset_value": 0.5, "min_v_mem": -0.375, "b0": 1.0, "adapt_scale": 1.5}


def _arguments(name: str, grad: bool, time: int = 7) -> tuple[Neuron, Config, Tensor, list[Tensor], list[Tensor]]:
    neuron, config, shape, dtype, param_shape, order = CASES[name]
    generator = torch.Generator().manual_seed(0)
    k = config.time_dim
    if k == -1:
        x = torch.randn(shape, dtype=dtype, generator=generator)
    elif order == "channels last":
        outer, channels, *space = shape
        x = torch.randn((outer, time, *space, channels), dtype=dtype, generator=generator).movedim(-1, 2)
    elif order == "time last":
        x = torch.randn((*shape, time), dtype=dtype, generator=generator).movedim(-1, 1)
    else:
        x = torch.randn((*shape[:k], time, *shape[k:]), dtype=dtype, generator=generator)
    # halves and quarters: what fp32 holds exactly, and b of no sign that brings a threshold to zero
    first = [torch.randint(0, 4, shape, generator=generator).to(dtype) / 4 for _ in neuron.states(config)]
    params = [torch.full(param_shape, VALUES.get(p, 0.875), dtype=dtype) for p in neuron.params(config)]
    if grad:
        for t in (x, *first, *params):
            t.requires_grad_()
    return neuron, config, x * 1.5 if not grad else x, first, params


@pytest.mark.parametrize("record", [False, True], ids=["", "record"])
@pytest.mark.parametrize("name", CASES)
def test_opcheck(name: str, record: bool) -> None:
    for grad in (False, True):
        neuron, config, x, first, params = _arguments(name, grad)
        op = getattr(torch.ops.plugin_accel, neuron.name)
        torch.library.opcheck(op, (x, first, params, config.encoded, grad or record, record, ""))
    with torch.no_grad():
        states = len(first)
        out, mean, *rest = op(x, first, params, config.encoded, True, record, "")
        last, kept, records = rest[:states], rest[states], rest[states + 1 :]
        for grads in ([out, mean, *last, kept, *records], [out, *(None,) * (2 + states + len(records))]):
            wanted = [i % 3 != 1 or len(grads) > 4 for i in range(1 + states + len(params))]
            arguments = (x, kept, first, params, grads, wanted, config.encoded, "")
            backward = getattr(torch.ops.plugin_accel, f"{neuron.name}_backward")
            torch.library.opcheck(backward, arguments)


@pytest.mark.parametrize("name", ["channels", "time first"])
def test_opcheck_of_a_backend_with_strides_of_its_own(name: str) -> None:
    neuron, config, x, first, params = _arguments(name, grad=True)
    op = getattr(torch.ops.plugin_accel, neuron.name)
    torch.library.opcheck(op, (x, first, params, config.encoded, True, True, "reference"))


def test_a_variant_without_a_kernel() -> None:
    """No host has a synapse without spikes."""
    neuron, _, x, first, params = _arguments("synapse", grad=False)
    with pytest.raises(ValueError, match="neuron variant: expected"):
        run(neuron, cpu.BACKEND, _config(True, "none", "subtract_threshold", True), x, first, params[:-2])


def _weighted(result: Any) -> Tensor:
    used = [result.out, *result.last, *result.records, *([] if result.kept is None else [result.kept])]
    return torch.stack([(t * torch.linspace(0.5, 2, t.numel()).view(t.shape)).sum().double() for t in used]).sum()


@pytest.mark.parametrize("backend", [cpu.BACKEND, reference.BACKEND], ids=lambda b: b.name)
@pytest.mark.parametrize("name", CASES)
def test_call_equals_run(name: str, backend: Any) -> None:
    for extras in ({}, {"keep": True}, {"record": True}, {"keep": True, "record": True}):
        seen = []
        for how in ("op", "run"):
            neuron, config, x, first, params = _arguments(name, grad=True)
            if how == "op":
                result = ops.call(neuron, config, x, first, params, backend=backend.name, **extras)
            else:
                result = run(neuron, backend, config, x, first, params, **extras)
            assert (result.mean is None) == name.endswith("step")
            means = [] if result.mean is None else [result.mean]
            loss = _weighted(result) + 3 * sum(means)
            grads = torch.autograd.grad(loss, [x, *first, *params], allow_unused=True)
            kept = [] if result.kept is None else [result.kept]
            values = (result.out, *means, *result.last, *kept, *result.records)
            seen.append(
                (
                    values,
                    [torch.zeros_like(p) if g is None else g for p, g in zip((x, *first, *params), grads, strict=True)],
                )
            )
        for kind in range(2):
            assert len(seen[0][kind]) == len(seen[1][kind])
            for a, b in zip(seen[0][kind], seen[1][kind], strict=True):
                assert a.dtype is b.dtype and a.shape == b.shape and torch.equal(a, b)
                assert kind or backend is reference.BACKEND or a.stride() == b.stride()


@pytest.mark.parametrize("backend", [cpu.BACKEND, reference.BACKEND], ids=lambda b: b.name)
@pytest.mark.parametrize("name", ["plain", "synapse", "leak", "alif-64"])
@pytest.mark.parametrize("empty", ["time", "samples", "neurons"])
def test_nothing_to_do(name: str, empty: str, backend: Any) -> None:
    neuron, config, x, first, params = _arguments(name, grad=False)
    params = [p.flatten()[0].clone().requires_grad_() for p in params]
    dim = {"time": 1, "samples": 0, "neurons": 2}[empty]
    x = x.narrow(dim, 0, 0).requires_grad_()
    if dim != 1:
        first = [s.narrow(min(dim, 1), 0, 0) for s in first]
    first = [s.clone().requires_grad_() for s in first]
    result = run(neuron, backend, config, x, first, params, record=True, keep=True)
    assert result.out.shape == x.shape and result.mean.isnan()
    assert all(torch.equal(a, b) for a, b in zip(result.last, first, strict=True))
    grads = torch.autograd.grad(
        sum(s.sum() for s in result.last) + result.out.sum(), [x, *first, *params], allow_unused=True
    )
    assert grads[0] is None or grads[0].shape == x.shape
    assert all(g is None or torch.equal(g, torch.ones_like(g)) for g in grads[1 : 1 + len(first)])
    assert all(g is None or not g.any() for g in grads[1 + len(first) :])


def _bad(
    change: str, x: Tensor, first: list[Tensor], params: list[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    at: dict[str, tuple[Tensor, list[Tensor], list[Tensor]]] = {
        "input is integer": (x.int(), first, params),
        "input is float16": (x.half(), first, params),
        "input is complex": (x.to(torch.complex64), first, params),
        "input is sparse": (x.to_sparse(), first, params),
        "input has no time": (x[0, 0], [s[0] for s in first], params),
        "input is 0-d": (x[0, 0, 0], first, params),
        "input is double": (x.double(), first, params),
        "no states": (x, [], params),
        "one state more": (x, [*first, first[0]], params),
        "state of another batch": (x, [s[:1] for s in first], params),
        "state of other neurons": (x, [s[:, :1] for s in first], params),
        "state with time": (x, [x for _ in first], params),
        "state is double": (x, [s.double() for s in first], params),
        "state on meta": (x, [s.to("meta") for s in first], params),
        "state is sparse": (x, [s.to_sparse() for s in first], params),
        "one parameter less": (x, first, params[:-1]),
        "one parameter more": (x, first, [*params, params[0]]),
        "no parameters": (x, first, []),
        "parameter of other neurons": (x, first, [torch.ones(3), *params[1:]]),
        "parameter of another rank": (x, first, [torch.ones(1, 4, 5), *params[1:]]),
        "parameter is double": (x, first, [params[0].double(), *params[1:]]),
        "parameter is integer": (x, first, [params[0].int(), *params[1:]]),
        "parameter on meta": (x, first, [params[0].to("meta"), *params[1:]]),
    }
    return at[change]


CHANGES = [
    "input is integer", "input is float16", "input is complex", "input is sparse", "input has no time", "input is 0-d",
    "input is double", "no states", "one state more", "state of another batch", "state of other neurons",
    "state with time", "state is double", "state on meta", "state is sparse", "one parameter less",
    "one parameter more", "no parameters", "parameter of other neurons", "parameter of another rank",
    "parameter is double", "parameter is integer", "parameter on meta",
]  # fmt: skip


@pytest.mark.parametrize("name", ["plain", "synapse", "alif"])
@pytest.mark.parametrize("change", CHANGES)
def test_wrong_arguments(change: str, name: str) -> None:
    neuron, config, x, first, params = _arguments(name, grad=False)
    x, first, params = _bad(change, x, first, params)
    with pytest.raises(InputError, match=r"expected .*, got"):
        run(neuron, cpu.BACKEND, config, x, first, params)
    with pytest.raises((InputError, NotImplementedError, RuntimeError)):  # the dispatcher may be first
        ops.call(neuron, config, x, first, params)


def test_wrong_arguments_of_backward() -> None:
    _, config, x, first, params = _arguments("synapse", grad=False)
    op = torch.ops.plugin_accel.sinabs_lif_backward
    out, mean, *last, kept = torch.ops.plugin_accel.sinabs_lif(x, first, params, config.encoded, True, False, "")
    grads = [out, mean, *last, kept]
    wanted = [True] * (1 + len(first) + len(params))
    good = (x, kept, first, params, grads, wanted, config.encoded, "")
    assert len(op(*good)) == len(wanted)
    bad: dict[int, list[Any]] = {
        0: [None, x[:1], x.double(), x[..., :1]],
        1: [kept[:1], kept[0, 0, 0], kept.double(), kept.int()],
        2: [[], first[:1], [s[:1] for s in first]],
        3: [[], params[1:], [torch.ones(3), *params[1:]]],
        4: [[], grads[:-1], [out[:1], *grads[1:]], [out, out, *grads[2:]], [out, mean, out, *grads[3:]], [*grads, out],
            [out.to(torch.complex64), *grads[1:]], [out.int(), *grads[1:]]],
        5: [[], wanted[:-1], [*wanted, True]],
        6: [SinabsConfig(True, "single", "subtract", True).encoded],
    }  # fmt: skip
    for position, values in bad.items():
        for value in values:
            with pytest.raises(InputError, match="expected"):
                op(*good[:position], value, *good[position + 1 :])


def test_backward_takes_any_strides() -> None:
    _, config, x, first, params = _arguments("synapse", grad=False)
    op = torch.ops.plugin_accel.sinabs_lif_backward
    _, _, *_, kept = torch.ops.plugin_accel.sinabs_lif(x, first, params, config.encoded, True, False, "")
    wanted = [True] * (1 + len(first) + len(params))

    def other(t: Tensor) -> Tensor:
        return t.transpose(0, -1).contiguous().transpose(0, -1)

    grads = [torch.randn_like(x), None, *(None for _ in first), None]
    want = op(x, kept, first, params, grads, wanted, config.encoded, "")
    got = op(
        other(x),
        other(kept),
        [other(s) for s in first],
        params,
        [other(grads[0]), *grads[1:]],
        wanted,
        config.encoded,
        "",
    )
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # parameters' gradients are summed in another order


def test_calls_that_cannot_be_differentiated() -> None:
    neuron, config, x, first, params = _arguments("plain", grad=True)
    out = torch.ops.plugin_accel.sinabs_lif(x, first, params, config.encoded, False, False, "")[0]
    with pytest.raises(InputError, match="expected keep=True"):
        out.sum().backward()
    without = SinabsConfig(False, "multi", "subtract_threshold")
    with pytest.raises(InputError, match="surrogate: expected one"):
        run(neuron, cpu.BACKEND, without, x, first, params)
    with pytest.raises(InputError, match="surrogate: expected one"):
        ops.call(neuron, without, x, first, params).out.sum().backward()


@pytest.mark.parametrize("field", ["spike", "reset", "time_dim", "max_spikes"])
def test_configurations_that_are_none(field: str) -> None:
    with pytest.raises(InputError, match=f"{field}: expected"):
        SinabsConfig(**{field: {"spike": "some", "reset": "never", "time_dim": -2, "max_spikes": float("nan")}[field]})


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "[1, 2]", '[false, "multi", "subtract", false, 1, null, 0.5]', '[false, "multi"]', "not json"],
)
def test_texts_that_are_no_configuration(text: str) -> None:
    _, _, x, first, params = _arguments("plain", grad=False)
    with pytest.raises(InputError, match="config: expected"):
        torch.ops.plugin_accel.sinabs_lif(x, first, params, text, False, False, "")


def test_backends_by_name() -> None:
    neuron, config, x, first, params = _arguments("plain", grad=False)
    with pytest.raises(BackendError, match="not registered"):
        ops.call(neuron, config, x, first, params, backend="none of these")
    with use_backend("reference"):
        assert torch.equal(
            ops.call(neuron, config, x, first, params).out, run(neuron, cpu.BACKEND, config, x, first, params).out
        )
    assert {"sinabs_lif", "sinabs_alif"} < set(ALL)


def test_a_backend_that_needs_the_input_after_one_that_did_not() -> None:
    """The input is not saved for backward where no kernel reads it; another backend then cannot step in."""
    neuron, config, x, first, params = _arguments("plain", grad=False)
    out = ops.call(neuron, config, x.requires_grad_(), first, params).out
    with use_backend("reference"), pytest.raises(InputError, match="x: expected the input"):
        out.sum().backward()
