"""`torch.export` of converted models: our ops in the graph, states as buffers that the program changes."""

from __future__ import annotations

import io

import pytest
import sinabs.layers as sl
import torch
from torch import nn

import plugin_accel

from .networks import Factory, drive, layers, reset

# what a layer sets besides its buffers (firing_rate, recordings) is not part of an exported program, as with sinabs
pytestmark = [
    pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects:UserWarning"),
]


def _export(model: nn.Module, strict: bool, **options: object) -> torch.export.ExportedProgram:
    """The program of a model whose states have their shape and are zero."""
    with torch.no_grad():
        model(drive(model))
        reset(model)
        return torch.export.export(model, (drive(model),), strict=strict, **options)


@pytest.mark.parametrize(
    "strict", [False, pytest.param(True, marks=pytest.mark.one_graph)], ids=["non-strict", "strict"]
)
def test_program_equals_the_host_and_carries_states(network: Factory, strict: bool) -> None:
    host, model = network(), plugin_accel.convert(network())
    program = _export(model, strict)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum("plugin_accel" in t for t in targets) >= len(layers(model))
    run = program.module()
    with torch.no_grad():
        for seed in range(3):
            x = drive(model, seed)
            assert torch.equal(run(x), host(x))
        for (name, _), state in zip(
            ((n, b) for n, b in model.named_buffers()), (b for _, b in host.named_buffers()), strict=True
        ):
            assert torch.equal(run.get_buffer(name), state)


def test_states_are_buffers_that_the_program_changes() -> None:
    model = plugin_accel.convert(nn.Sequential(nn.Linear(6, 7), sl.LIF(tau_mem=9.0, tau_syn=4.0), sl.IAF()))
    program = _export(model, strict=False).run_decompositions()
    assert set(program.graph_signature.buffers_to_mutate.values()) == {"1.v_mem", "1.i_syn", "2.v_mem"}


@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # torch's own, before 2.13
def test_any_time_and_save_and_load() -> None:
    """sinabs itself unrolls time into the program, so its length is fixed there."""
    torch.manual_seed(0)
    host = nn.Sequential(nn.Linear(6, 7), sl.LIF(tau_mem=9.0, norm_input=False), sl.ALIF(tau_mem=9.0, tau_adapt=4.0))
    model = plugin_accel.convert(host, copy=True)
    time = torch.export.Dim("time", min=1, max=1024)
    program = _export(model, strict=False, dynamic_shapes=({1: time},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    run = torch.export.load(file).module()
    with torch.no_grad():
        for steps in (4, 1, 33):
            x = drive(host, steps, time=steps)
            assert torch.equal(run(x), host(x))
