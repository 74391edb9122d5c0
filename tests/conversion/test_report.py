"""``report``: what it says, and that it changes nothing."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import numpy as np
import pytest
import sinabs.layers as sl
import torch
from torch import nn
from torch.nn.utils import parametrize

import plugin_accel
from plugin_accel.conversion import Report, Row
from plugin_accel.errors import BackendError


def test_statuses(model: nn.Module, toy: Any) -> None:
    model.append(toy.UnsupportedToy())
    plugin_accel.convert(model, include="0")
    report = plugin_accel.report(model)
    assert [(row.names[0], row.host_class, row.host, row.status) for row in report] == [
        ("0", "IAF", "sinabs", "accelerated"),
        ("2.shared", "LIF", "sinabs", "candidate"),
        ("2.tail.0", "ExpLeak", "sinabs", "candidate"),
        ("4", "LIFRecurrent", "sinabs", "candidate"),
        ("5", "UnsupportedToy", "toy", "host"),
    ]
    assert len(report) == 5
    assert [row.names[0] for row in report.accelerated] == ["0"]
    assert [row.names[0] for row in report.candidates] == ["2.shared", "2.tail.0", "4"]
    assert [row.names[0] for row in report.on_host] == ["5"]
    assert report.on_host[0].backend == "-"
    assert {row.backend for row in report if row.status != "host"} == {"cpu"}
    assert {"sinabs", "toy"} <= set(report.hosts)


def test_reasons_before_and_after_conversion(toy: Any) -> None:
    model = nn.Sequential(toy.Toy())
    toy.against = ("gain: too large", "mode: unknown")
    for _ in range(2):
        (row,) = plugin_accel.report(model)
        assert (row.status, row.reasons, row.backend) == ("host", ("gain: too large", "mode: unknown"), "-")
        plugin_accel.convert(model)
    toy.against = ()
    assert plugin_accel.report(model).rows[0].status == "accelerated"


def test_the_last_fallback_is_shown(toy: Any) -> None:
    toy.fallback = "input: int64"
    model = nn.Sequential(toy.Toy())
    assert plugin_accel.report(model).rows[0].reasons == ()
    plugin_accel.convert(model)
    row = plugin_accel.report(model).rows[0]
    assert (row.status, row.reasons) == ("accelerated", ("last call: input: int64",))


def test_backends(toy: Any) -> None:
    model = plugin_accel.convert(nn.Sequential(toy.Toy()))

    def row() -> Row:
        return plugin_accel.report(model).rows[0]

    assert (row().status, row().backend, row().reasons) == ("accelerated", "toy-runner", ())
    toy.runner = None
    assert (row().status, row().backend, row().reasons) == ("host", "-", ("no backend runs it where it is now",))
    # A backend that was named and cannot: the layer does not fall back, its call raises.
    toy.runner = BackendError("backend 'x': expected ...")
    assert (row().status, row().backend, row().reasons) == ("accelerated", "-", ("backend 'x': expected ...",))


def test_the_backend_follows_device_and_choice() -> None:
    layer = sl.LIF(tau_mem=2.0)
    assert plugin_accel.report(layer).rows[0].backend == "cpu"
    assert plugin_accel.report(layer.double()).rows[0].backend == "cpu"
    assert plugin_accel.report(layer.half()).rows[0].backend == "cpu"
    with plugin_accel.use_backend("reference"):
        assert plugin_accel.report(layer).rows[0].backend == "reference"
    assert plugin_accel.report(layer.to("meta")).rows[0].status == "host"
    with plugin_accel.use_backend("cpu"):
        row = plugin_accel.report(layer).rows[0]
    assert row.backend == "-"
    assert "meta" in row.reasons[0]


def test_rendering(model: nn.Module, toy: Any) -> None:
    model.append(toy.Toy())
    toy.against = ("first reason", "second reason")
    lines = str(plugin_accel.report(model)).splitlines()
    assert [line.rstrip() for line in lines] == lines
    assert lines[0].split() == ["layer", "class", "host", "status", "backend", "reasons"]
    assert lines[2].split() == ["0", "IAF", "sinabs", "candidate", "cpu"]
    assert [line.split()[0] for line in lines[3:6]] == ["2.shared", "2.branches.main.1", "2.tail.2"]
    assert lines[-3].endswith("first reason")
    assert lines[-2].strip() == "second reason"
    assert lines[-3].index("first") == lines[-2].index("second")
    assert lines[-1] == "layers: 0 accelerated, 4 candidate, 1 host"
    assert "(root)" in str(plugin_accel.report(sl.IAF()))


def test_rendering_without_layers() -> None:
    report = plugin_accel.report(nn.Linear(2, 2))
    assert not report.rows
    assert re.fullmatch(
        r"no layer of a host framework in this model \(host frameworks imported: .*sinabs.*\)", str(report)
    )


def test_to_dict_is_json(model: nn.Module) -> None:
    data = json.loads(json.dumps(plugin_accel.report(model).to_dict()))
    assert "sinabs" in data["hosts"]
    assert data["rows"][1] == {
        "names": ["2.shared", "2.branches.main.1", "2.tail.2"],
        "host_class": "LIF",
        "host": "sinabs",
        "status": "candidate",
        "backend": "cpu",
        "reasons": [],
    }


def test_rows_are_values() -> None:
    row = Row(("0",), "IAF", "sinabs", "candidate", "cpu", ())
    assert Report((row,), ("sinabs",)) == Report((Row(("0",), "IAF", "sinabs", "candidate", "cpu", ()),), ("sinabs",))
    with pytest.raises(AttributeError):
        row.status = "host"  # type: ignore[misc]


class Noisy(nn.Module):
    """A parametrisation that draws a number and changes a buffer each time it is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return raw + 0 * torch.rand_like(raw)


@pytest.mark.parametrize("convert_first", [False, True])
def test_it_is_pure(model: nn.Module, convert_first: bool) -> None:
    if convert_first:
        plugin_accel.convert(model)
    model(torch.rand(2, 5, 3))
    parametrize.register_parametrization(model[2].shared, "tau_mem", Noisy())
    count = model[2].shared.parametrizations.tau_mem[0].count.item()
    modules = {name: (type(module), dict(vars(module))) for name, module in model.named_modules()}
    versions = {name: tensor._version for name, tensor in model.state_dict(keep_vars=True).items()}
    random_states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())

    plugin_accel.report(model)

    assert torch.equal(torch.get_rng_state(), random_states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == random_states[1:]
    assert model[2].shared.parametrizations.tau_mem[0].count.item() == count
    assert {name: tensor._version for name, tensor in model.state_dict(keep_vars=True).items()} == versions
    for name, module in model.named_modules():
        cls, attributes = modules[name]
        assert type(module) is cls
        assert vars(module).keys() == attributes.keys()
        assert all(vars(module)[key] is value for key, value in attributes.items())
