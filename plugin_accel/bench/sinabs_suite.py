"""The workloads of sinabs: every accelerated neuron, sequences, a memory-bound size, small and streaming calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import sinabs.layers as sl
import torch
from torch import nn

from plugin_accel.bench import sinabs_eager as eager
from plugin_accel.bench.workload import HOST, UNBIND, Mode, Workload

FRAMEWORK = "sinabs"

_Factory = Callable[[], nn.Module]
_NO_GOALS: Mapping[str, float] = MappingProxyType({})
_UNBIND_GOAL = MappingProxyType({UNBIND: 8.0})
_WHOLE_CALL: dict[str, Any] = {"probe_call": True, "call_goals": MappingProxyType({"ratio": 2.0})}
_SMALL_CALL: dict[str, Any] = {"probe_call": True, "call_goals": MappingProxyType({"overhead_s": 25e-6})}


def workloads(quick: bool = False) -> list[Workload]:
    """The workloads, in the order of the tables.

    The input makes 5 to 20 % of the neuron steps emit a spike; the rate is measured and reported.

    Args:
        quick: Tiny sizes: whether it runs at all, not how fast.
    """
    suite = [*_sequences(), *_bulk(), *_small(), *_recurrent()]
    return [_shrink(workload) for workload in suite] if quick else suite


def _sequences() -> list[Workload]:
    shapes = ((16, 500, 512), (16, 100, 512))
    goals: dict[int, Mapping[str, float]] = {500: {HOST: 40.0, UNBIND: 8.0}, 100: {HOST: 40.0}}
    suite = [_make("lif", "train", shape, goals=goals[shape[1]], **_WHOLE_CALL) for shape in shapes]
    suite += [_make("lif", "infer", shape, goals={HOST: 8.0}) for shape in shapes]
    for neuron in ("iaf", "expleak", "lif-syn", "alif"):
        suite += [_make(neuron, "train", shape, goals=_UNBIND_GOAL) for shape in shapes]
    return suite


def _bulk() -> list[Workload]:
    # Forward reads the input and writes spikes and membranes; backward reads membranes and upstream gradient and writes
    # the input's gradient: 24 bytes. The gradient of a time constant needs the input once more. Inference reads the
    # input and writes spikes.
    shape = (1, 100, 65536)
    return [
        _make("lif-fixed", "train", shape, "memory", bytes_per_element=24, bandwidth_goal=0.6, probe_memory=True),
        _make("lif", "train", shape, "memory", bytes_per_element=28),
        _make("lif", "infer", shape, "memory", bytes_per_element=8, probe_memory=True),
    ]


def _small() -> list[Workload]:
    goals = {HOST: 3.0}
    return [
        _make("lif", "train", (64, 100, 10), "small", goals=goals, probe_call=True),
        _make("lif", "infer", (64, 100, 10), "small", goals=goals, **_SMALL_CALL),
        _make("lif", "infer", (1, 1, 10), "streaming", goals=goals, streaming=True, **_SMALL_CALL),
        _make("lif", "infer", (1, 1, 512), "streaming", goals=goals, streaming=True, **_SMALL_CALL),
    ]


def _recurrent() -> list[Workload]:
    shape = (16, 100, 256)
    return [_make("lif-recurrent", "train", shape, "recurrent", goals={HOST: 2.5}, products=True)]


def _make(
    neuron: str,
    mode: Mode,
    shape: tuple[int, int, int],
    group: str = "sequence",
    goals: Mapping[str, float] = _NO_GOALS,
    **options: Any,
) -> Workload:
    words, layer, peer, drive = _NEURONS[neuron]
    size = f"-N{shape[2]}" if group != "sequence" else ""
    return Workload(
        name=f"{neuron}-T{shape[1]}{size}-{mode}",
        group=group,
        neuron=words,
        shape=shape,
        mode=mode,
        layer=layer,
        eager=peer,
        drive=drive,
        goals=goals,
        **options,
    )


def _shrink(workload: Workload) -> Workload:
    batch, steps, neurons = workload.shape
    fewer = neurons if workload.group == "recurrent" else min(neurons, 64)  # the width of a matrix is its layer's
    shape = (min(batch, 2), min(steps, 5), fewer)
    return replace(workload, shape=shape, goals=_NO_GOALS, bandwidth_goal=None, call_goals=_NO_GOALS)


def _matrix() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer: nn.Module = sl.LIFRecurrent(tau_mem=20.0, rec_connect=nn.Linear(256, 256))
        return layer


def _fixed() -> nn.Module:
    layer: nn.Module = sl.LIF(tau_mem=20.0)
    return layer.requires_grad_(False)


# Words for tables, the host's layer, its eager peer, mean and standard deviation of the input.
_NEURONS: dict[str, tuple[str, _Factory, Callable[[nn.Module], nn.Module], tuple[float, float]]] = {
    "lif": ("LIF", lambda: sl.LIF(tau_mem=20.0), eager.LIF, (2.0, 4.0)),
    "lif-fixed": ("LIF, fixed tau", _fixed, eager.LIF, (2.0, 4.0)),
    "lif-syn": ("LIF with tau_syn", lambda: sl.LIF(tau_mem=20.0, tau_syn=5.0), eager.LIF, (0.5, 1.0)),
    "lif-recurrent": ("LIFRecurrent", _matrix, eager.LIFRecurrent, (2.0, 4.0)),
    "iaf": ("IAF", sl.IAF, eager.IAF, (0.1, 0.3)),
    "expleak": ("ExpLeak", lambda: sl.ExpLeak(tau_mem=20.0), eager.ExpLeak, (0.1, 0.3)),
    "alif": ("ALIF", lambda: sl.ALIF(tau_mem=20.0, tau_adapt=50.0), eager.ALIF, (3.0, 5.0)),
}
