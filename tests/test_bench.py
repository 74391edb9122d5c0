"""`plugin-accel bench`: competitors must agree, and the files it writes are complete. No test depends on a time."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from plugin_accel import bench

pytest.importorskip("sinabs")

from plugin_accel.bench import agreement, call, memory, probe, render, timing, workload

QUICK = probe.suite("sinabs", quick=True)
NAMES = [w.name for w in QUICK]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The benchmark sets torch's number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("chosen", QUICK, ids=NAMES)
def test_competitors_agree(chosen: workload.Workload) -> None:
    mean, found = agreement.check(list(workload.peers(chosen)))
    assert found.keys() == set(workload.PEERS)
    assert mean == mean


def test_full_size_inputs_spike() -> None:
    """5 to 20 % of the neuron steps, as documented; on a part of the neurons, to be quick."""
    for chosen in probe.suite("sinabs", quick=False):
        if chosen.group != "sequence" or chosen.shape[1] != 100 or chosen.neuron == "ExpLeak":
            continue
        x, _ = chosen.data()
        with torch.no_grad():
            assert 0.05 < chosen.layer()(x[:4]).mean() < 0.2, chosen.name


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)


class _Wrong(nn.Module):
    """The host's layer with one spike too many."""

    def __init__(self, host: nn.Module) -> None:
        super().__init__()
        self.host = host

    def reset_states(self) -> None:
        self.host.reset_states()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.host(x).clone()
        spikes[0, 0, 0] += 1
        return spikes


def test_disagreement_is_refused() -> None:
    (chosen,) = (w for w in QUICK if w.name == "lif-T100-train")
    pair = workload.peers(replace(chosen, eager=_Wrong), (workload.HOST, workload.UNBIND))
    with pytest.raises(agreement.DisagreementError, match=r"expected 'host \+ unbind' to give the host's output"):
        agreement.check(list(pair))


def test_writes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "docs" / "table.md"
    only = "lif-T100-train,lif-T100-N65536-infer,lif-T1-N10-infer"
    options = ["--quick", "--only", only, "--no-probes", "--threads", "1"]
    assert bench.main([*options, "--out", str(tmp_path / "out"), "--markdown", str(table)]) == 0
    results = json.loads((tmp_path / "out" / "sinabs-cpu.json").read_text())
    assert results["schema"] == 1 and results["quick"]
    assert {w["name"] for w in results["workloads"]} == set(only.split(","))
    for measured in results["workloads"]:
        assert measured["peers"].keys() == set(workload.PEERS)
        assert all(entry["min_s"] <= entry["median_s"] for entry in measured["peers"].values())
        assert all(entry["flipped"] == 0 for entry in measured["peers"].values())
    assert (tmp_path / "out" / "sinabs-cpu.png").read_bytes().startswith(b"\x89PNG")
    titles = [title for title, _ in render.tables(results)]
    shown = capsys.readouterr().out
    assert len(titles) == 4 and all(title in shown and f"### {title}" in table.read_text() for title in titles)


def test_probes() -> None:
    """Fresh processes: peak memory, one call against its kernels, import time."""
    (chosen,) = (w for w in QUICK if w.name == "lif-T100-train")
    ask = {"host": "sinabs", "workload": chosen, "peer": "cpu", "threads": 1, "quick": True, "rounds": 2}
    peak = probe.ask("peak", **ask)
    assert peak is None or peak >= 0
    measured = probe.ask("call", **ask)
    assert 0 < measured["kernels_s"] < measured["whole_s"]
    assert probe.imports(1)["hosts_imported"] == []


def test_probe_failure_is_told() -> None:
    (chosen,) = (w for w in QUICK if w.name == "lif-T100-train")
    with pytest.raises(RuntimeError, match=r"expected the probe .* to succeed"):
        probe.ask("peak", host="no such host", workload=chosen, peer="cpu", threads=1, quick=True, rounds=1)


def test_kernels_must_be_called() -> None:
    (chosen,) = (w for w in QUICK if w.name == "lif-T100-train")
    (host,) = workload.peers(chosen, (workload.HOST,))
    with pytest.raises(RuntimeError, match="is it converted"):
        call.whole_and_kernels(host, 1)


def test_kept_bytes_counts_each_storage_once() -> None:
    class Keeps(nn.Module):
        def reset_states(self) -> None:
            pass

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = x.exp()  # exp saves its result; the product saves it again
            return kept * kept

    (chosen,) = (w for w in QUICK if w.name == "lif-T100-train")
    x, upstream = chosen.data()
    peer = workload.Peer("keeps", Keeps(), "train", False, x, upstream, timing.nullcontext)
    assert memory.kept_bytes(peer, chosen) == 4.0


def test_interleaves() -> None:
    order: list[str] = []
    timed = [timing.Timed(name, lambda name=name: order.append(name)) for name in "AB"]
    samples = timing.interleave(timed, rounds=3, block_s=0.0)
    assert "".join(order) == "AABB" + "AB" * 3
    assert {name: len(seconds) for name, seconds in samples.items()} == {"A": 3, "B": 3}
    stats = timing.Stats.of([3.0, 1.0, 2.0])
    assert (stats.median_s, stats.min_s, stats.samples) == (2.0, 1.0, 3)


def test_only_must_match(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--only", "nothing", "--no-figure"]) == 1
    assert "expected --only to match" in capsys.readouterr().err
    assert bench.main(["--list", "--no-figure"]) == 0
    assert capsys.readouterr().out.split() == [w.name for w in probe.suite("sinabs", quick=False)]


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench, "find_spec", lambda name: None if name == "matplotlib" else object())
    assert bench.main(["--quick"]) == 1
    message = capsys.readouterr().err
    assert "matplotlib" in message and re.search(r"plugin-accel\[demo\].*--no-figure", message)


@pytest.mark.parametrize("rich", [True, False])
def test_console_tables(rich: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(render, "find_spec", lambda name: object() if rich else None)
    times = {peer: {"median_s": 1e-3, "q1_s": 9e-4, "q3_s": 2e-3} for peer in workload.PEERS}
    measured = {"title": "LIF", "group": "small", "peers": times, "goals": {"host": 3.0}, "bandwidth": None}
    measured |= {"ratios": dict.fromkeys(workload.PEERS, 2.0), "mean_output": 0.1}
    environment = dict.fromkeys(
        ["plugin_accel", "sinabs", "torch", "python", "cpu", "isa", "threads", "load_before", "load_after", "date"], "?"
    )
    results = {"host": "sinabs", "environment": environment, "workloads": [measured]}
    render.print_tables({**results, "memory": [], "calls": [], "imports": None})
    shown = capsys.readouterr().out
    assert "1.00 ms" in shown and "MISSED" in shown and "load average ? before" in shown


def test_fusion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Loops: fused, they give the host's loss, and the document is complete."""
    pytest.importorskip("snntorch")
    table = tmp_path / "fusion.md"
    options = ["--host", "fusion", "--quick", "--threads", "1", "--out", str(tmp_path), "--markdown", str(table)]
    assert bench.main(options) == 0
    results = json.loads((tmp_path / "fusion-cpu.json").read_text())
    assert len(results["trainings"]) == 8 and results["quick"]
    for entry in results["trainings"]:
        peers = {"host", "fused", "identity", *(["sparse"] if "sparse" in entry["name"] else [])}
        assert entry["peers"].keys() == peers
        assert entry["calls_after"] < entry["calls_before"] and entry["loss_error"] <= 1e-4
        assert entry["title"] in capsys.readouterr().out + table.read_text()
    assert results["overhead"]["key_s"] > 0 and results["capture"]["both_calls_s"] > 0
