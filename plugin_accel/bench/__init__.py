"""``plugin-accel bench``: a host framework, the same in eager torch, and the backends, on the same work.

Competitors: ``host`` (as shipped), ``host + unbind`` (the same operations in eager torch, with a time loop over
``x.unbind(1)``), ``reference`` and ``cpu`` (the backends). Each must agree with the host before it is timed: outputs
bit for bit, the input's gradient within 1e-5 of its largest entry.

It writes ``<host>-cpu.json`` and ``<host>-cpu.png``. The JSON file, times in seconds, sizes in bytes::

    schema       1
    host, quick  what was asked for; quick means tiny sizes, whose times mean nothing
    environment  date, versions, cpu, cores, threads, isa, compiler, openmp, allocator, load_before, load_after
    workloads    list of: name, group, title, neuron, shape [batch, time, neurons], mode ("train": forward + backward,
                 "infer": no_grad), streaming (state kept over calls), mean_output (spikes per neuron step),
                 load (average after the workload),
                 peers {competitor: {median_s, q1_s, q3_s, min_s, samples,
                     flipped (elements unlike the host's), input_gradient, parameter_gradient (largest error over
                     largest entry, null in inference)}},
                 ratios {competitor: its median over that of cpu}, goals {competitor: the ratio aimed at},
                 bandwidth null or {bytes_per_element, moved_GBps, copy_GBps, fraction, goal}; copy: torch's copy_ of
                     256 MiB in the same rounds, read and written bytes counted
    memory       list of: name, title, kept {competitor: bytes per neuron step saved by autograd beyond input, output
                 and parameters}, peak {competitor: growth of the peak resident memory per neuron step, fresh process}
    calls        list of: name, title, whole_s (one call through autograd, fresh process), kernels_s (the calls of the
                 compiled library in it), ratio, overhead_s, goals {"ratio" or "overhead_s": the most aimed at}
    imports      torch_s, plugin_accel_s (what it adds), hosts_imported
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

HOSTS = ("sinabs", "snntorch", "norse", "fusion", "egru", "sparse")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``plugin-accel bench``.

    Args:
        argv: Arguments after ``bench``; those of the process, if ``None``.

    Returns:
        0, or 1 if something is missing or a competitor disagrees with the host.
    """
    options = _parser().parse_args(argv)
    if options.host == "egru":
        from plugin_accel.bench import egru_suite

        return egru_suite.main(options)
    if options.sparse or options.host == "sparse":
        from plugin_accel.bench import sparse_suite

        return sparse_suite.main(options)
    if options.host == "fusion":
        return _fusion(options)
    missing = [
        name for name in (options.host, *(() if options.no_figure else ("matplotlib",))) if find_spec(name) is None
    ]
    if missing:
        print(
            f"bench: expected {', '.join(missing)} to be installed; pip install 'plugin-accel[demo]'"
            + (" or pass --no-figure" if missing == ["matplotlib"] else ""),
            file=sys.stderr,
        )
        return 1

    from plugin_accel.bench import measure, output
    from plugin_accel.bench.render import markdown, print_tables

    workloads = measure.select(options.host, options.only, options.quick)
    if (code := output.told(options, workloads)) is not None:
        return code
    try:
        results = measure.run(
            options.host, workloads, options.rounds, options.threads, options.quick, not options.no_probes
        )
    except measure.DisagreementError as error:
        print(error, file=sys.stderr)
        return 1
    print_tables(results)
    draw = None if options.no_figure else import_module("plugin_accel.bench.figure").draw
    output.write(options, options.host, results, lambda: markdown(results), draw)
    return 0


def _fusion(options: argparse.Namespace) -> int:
    """The loops of :mod:`plugin_accel.bench.fusion`."""
    if find_spec("snntorch") is None:
        print("bench: expected snntorch to be installed; pip install 'plugin-accel[snntorch]'", file=sys.stderr)
        return 1
    from plugin_accel.bench import fusion, output, render
    from plugin_accel.conversion.tables import table

    try:
        results = fusion.run(options.only, options.rounds, options.threads, options.quick)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    rows = fusion.rows(results)
    print("\n".join(table(list(rows))))
    output.write(options, "fusion", results, lambda: render.pipe_table(rows))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plugin-accel bench", description="Compare a host framework with plugin_accel's backends on the CPU."
    )
    parser.add_argument(
        "--host",
        choices=HOSTS,
        default="sinabs",
        help="the host framework, or the layer without one (default: %(default)s)",
    )
    parser.add_argument("--sparse", action="store_true", help="the same as --host sparse")
    parser.add_argument(
        "--only", metavar="PATTERNS", help="workloads by name, comma-separated, with * and ?; see --list"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the workloads and stop")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder (default: %(default)s)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown, too")
    parser.add_argument("--threads", type=int, default=2, help="torch.set_num_threads (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="turns per competitor (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and two rounds: does it run at all?")
    parser.add_argument("--no-probes", action="store_true", help="leave out memory, call overhead and import time")
    parser.add_argument("--no-figure", action="store_true", help="draw no figure (it needs matplotlib)")
    return parser
