"""Where Norse's graph leads to no gradient there is none, rather than zeros that a weight decay would act on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import norse.torch as nt
import pytest
import torch
from norse.torch.functional import iaf, izhikevich
from torch import Tensor

import plugin_accel
from plugin_accel.hosts import norse as host

CELLS = [
    *("LIFCell", "LIFExCell", "LIFAdExCell", "LSNNCell", "LICell", "IAFCell", "LIFBoxCell"),
    *("LIFRefracCell", "LIFAdExRefracCell", "IzhikevichCell", "CobaLIFCell"),
    *("LIFRecurrentCell", "LIFAdExRecurrentCell", "LIFRefracRecurrentCell"),
]  # in an LSNNRecurrentCell the current, which the hooked weights lead to, may have zeros as well
LAYERS = ["LIF", "LI", "LSNN", "IAF", "LIFAdEx", "LIFRecurrent", "LSNNRecurrent", "LIFExRecurrent"]
HOOKED = "recurrent_weights"
"""Norse has a hook on them that cannot take None: they may have zeros."""


def build(name: str) -> Any:
    cls = getattr(nt, name)
    options: dict[str, Any] = {"input_size": 4, "hidden_size": 4} if "Recurrent" in name or "Coba" in name else {}
    if "IAF" in name:  # Norse has its default v_reset require a gradient, for all that have it
        options["p"] = iaf.IAFParameters(v_th=torch.tensor(1.0), v_reset=torch.tensor(0.0))
    return cls(izhikevich.tonic_spiking, **options) if "Izhikevich" in name else cls(**options)


def leaves_of(value: Any, found: dict[str, Tensor]) -> Any:
    """A tuple of parameters or states with leaves of its own."""
    made = {}
    for name, field in value._asdict().items():
        if isinstance(field, tuple):
            made[name] = leaves_of(field, found)
        elif isinstance(field, Tensor) and field.is_floating_point() and name != "alpha":
            made[name] = found[f"{len(found)} {name}"] = field.detach().clone().requires_grad_()
        else:
            made[name] = field
    return type(value)(**made)


def flat(state: Any) -> Iterator[Tensor]:
    for field in state:
        yield from flat(field) if isinstance(field, tuple) else (field,)


def results_of(name: str, steps: int, learn: bool, convert: bool) -> tuple[list[Tensor], dict[str, Tensor], Any]:
    torch.manual_seed(2)
    layer, leaves = build(name), {}
    x = leaves["x"] = (torch.rand(steps, 3, 4) * 9).requires_grad_()
    sequence = not name.endswith("Cell")
    with torch.no_grad():
        _, state = layer(x if sequence else x[0])
    leaves.update(layer.named_parameters())
    if learn and "Izhikevich" not in name:
        layer.p = leaves_of(layer.p, leaves)
    state = leaves_of(state, leaves)
    if convert:
        plugin_accel.convert(layer)
    if sequence:
        out, state = layer(x, state)
    else:
        outputs = []
        for x_t in x:
            out, state = layer(x_t, state)
            outputs.append(out)
        out = torch.stack(outputs)
    return [out, *flat(state)], leaves, layer


@pytest.mark.parametrize("learn", [False, True], ids=["", "learned"])
@pytest.mark.parametrize("name", [*CELLS, *LAYERS])
def test_the_same_gradients_are_absent(name: str, learn: bool) -> None:
    for steps in (1, 2, 3):
        absent = []
        for convert in (False, True):
            results, leaves, layer = results_of(name, steps, learn, convert)
            if convert:
                assert host.last_fallback(layer) is None
            found = []
            for result in results:
                wanted = [leaf for key, leaf in leaves.items() if key != HOOKED]
                grads = (
                    torch.autograd.grad(result.sum(), wanted, allow_unused=True, retain_graph=True)
                    if (result.requires_grad)
                    else [None] * len(wanted)
                )
                found.append([grad is None for grad in grads])
            absent.append(found)
        assert absent[0] == absent[1], steps


@pytest.mark.parametrize("name", ["LSNNRecurrent", "LSNNRecurrentCell", "LIFRecurrent", "LIFRecurrentCell"])
def test_the_hook_on_recurrent_weights_is_given_a_tensor(name: str) -> None:
    for steps in (1, 2):
        count = len(results_of(name, steps, False, True)[0])
        for wanted in range(count):
            results, _, layer = results_of(name, steps, False, True)
            results[wanted].sum().backward()
            grad = layer.recurrent_weights.grad
            assert grad is None or not grad.diagonal().any()


def test_the_weights_before_an_lsnn_do_not_decay_for_a_loss_on_one_step() -> None:
    """Its input acts one step later."""
    for convert in (False, True):
        torch.manual_seed(0)
        linear, cell = torch.nn.Linear(4, 3), nt.LSNNCell()
        if convert:
            plugin_accel.convert(cell)
        before = linear.weight.detach().clone()
        optimizer = torch.optim.Adam(linear.parameters(), lr=0.1, weight_decay=0.5)
        state = cell.state_fallback(torch.zeros(2, 3))
        _, after = cell(linear(torch.ones(2, 4)), state._replace(v=torch.ones(2, 3, requires_grad=True)))
        after.v.sum().backward()
        optimizer.step()
        assert linear.weight.grad is None
        assert torch.equal(linear.weight, before)
