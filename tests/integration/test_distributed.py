"""Converted models under DataParallel and, in two processes, under DistributedDataParallel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import plugin_accel

from .networks import assert_equal, drive, layers, reset

RANK = Path(__file__).with_name("ddp_rank.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, list[Tensor]]]]:
    """What each of two processes saw, of sinabs's own model and of the converted one."""
    folder = tmp_path_factory.mktemp("ddp")
    processes = [
        subprocess.Popen(
            [sys.executable, str(RANK), str(rank), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [p.communicate(timeout=120)[0] for p in processes]
    finally:
        for p in processes:
            p.kill()
            p.wait()
    assert [p.returncode for p in processes] == [0, 0], said
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_ddp_equals_the_host_under_ddp(ranks: list[dict[str, dict[str, list[Tensor]]]]) -> None:
    for rank in ranks:
        assert all(out.any() for out in rank["host"]["outputs"])
        assert_equal(rank["converted"], rank["host"], 1e-5)


def test_ddp_gives_both_processes_the_same_gradients(ranks: list[dict[str, dict[str, list[Tensor]]]]) -> None:
    one, other = (rank["converted"] for rank in ranks)
    assert len(one["gradients"]) >= 12
    assert all(torch.equal(a, b) for a, b in zip(one["gradients"], other["gradients"], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one["outputs"], other["outputs"], strict=True))


def test_data_parallel_on_the_cpu_is_the_model(network: object) -> None:
    host, model = network(), plugin_accel.convert(network())  # type: ignore[operator]
    x = drive(host)
    assert torch.equal(nn.DataParallel(model)(x), nn.DataParallel(host)(x))


def test_replicas_of_data_parallel_run_our_kernels() -> None:
    """What DataParallel makes of a layer for each device: a shallow copy without parameters of its own."""
    import sinabs.layers as sl

    layer = plugin_accel.convert(sl.LIF(tau_mem=9.0))
    x = torch.randn(2, 5, 3) * 8
    want = layer(x)
    reset(nn.Sequential(layer))
    replica = layer._replicate_for_data_parallel()
    for name, parameter in layer.named_parameters():
        setattr(replica, name, parameter.detach().clone().requires_grad_())
    for name, buffer in layer.named_buffers():
        setattr(replica, name, buffer.clone())
    assert torch.equal(replica(x), want)
    assert not layer.v_mem.any() and replica.v_mem.any()
    assert layers(nn.Sequential(replica))
