"""``report``: which layers of a model are accelerated, which are not, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Literal

from torch import nn

from plugin_accel.conversion.fusion.api import engine_of
from plugin_accel.conversion.spikes import told
from plugin_accel.conversion.tables import table
from plugin_accel.conversion.walker import Layer, find_layers, loaded_hosts, walk
from plugin_accel.errors import BackendError

__all__ = ["Report", "Row", "report", "table"]

Status = Literal["accelerated", "host", "candidate", "fused", "unfused"]
_HEADER = ("layer", "class", "host", "status", "backend", "reasons")


@dataclass(frozen=True)
class Row:
    """What :func:`report` says about one layer.

    Attributes:
        names: All qualified names of the layer; ``""`` is the model itself.
        host_class: Name of its class in the host framework.
        host: Name of the host.
        status: ``"accelerated"``: converted, our kernel runs. ``"candidate"``: ``convert`` would accelerate it.
            ``"host"``: the host's own forward runs, or would run after ``convert``. ``"fused"``: not a layer, but a
            module whose loop over time ran layer by layer in its last call; ``"unfused"``: one whose last call did not.
        backend: The backend that would run it where it is now, ``"-"`` if none.
        reasons: Why the host's own forward runs, and notes such as the last call's fallback.
    """

    names: tuple[str, ...]
    host_class: str
    host: str
    status: Status
    backend: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """The rows of a model, in the order of its modules. Prints as a table.

    Attributes:
        rows: One row per layer that a host owns; where layers are computed from spikes, also one per linear layer and
            convolution, with ``"torch"`` as host and ``"sparse"`` as backend.
        hosts: The hosts whose framework is imported; layers of others cannot be in the model.
    """

    rows: tuple[Row, ...]
    hosts: tuple[str, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def accelerated(self) -> tuple[Row, ...]:
        """The layers that run our kernels."""
        return self._with("accelerated")

    @property
    def candidates(self) -> tuple[Row, ...]:
        """The layers that ``convert`` would accelerate."""
        return self._with("candidate")

    @property
    def on_host(self) -> tuple[Row, ...]:
        """The layers that run the host's own forward, and would after ``convert``."""
        return self._with("host")

    def to_dict(self) -> dict[str, Any]:
        """The report as dicts, lists and strings, for JSON."""
        rows = [{**asdict(row), "names": list(row.names), "reasons": list(row.reasons)} for row in self.rows]
        return {"hosts": list(self.hosts), "rows": rows}

    def __str__(self) -> str:
        if not self.rows:
            hosts = ", ".join(self.hosts) or "none"
            return f"no layer of a host framework in this model (host frameworks imported: {hosts})"
        lines = table([_HEADER, *chain.from_iterable(_cells(row) for row in self.rows)])
        counts = f"{len(self.accelerated)} accelerated, {len(self.candidates)} candidate, {len(self.on_host)} host"
        return "\n".join([*lines, f"layers: {counts}"])

    @property
    def loops(self) -> tuple[Row, ...]:
        """The modules converted with ``fuse_time=True``."""
        return (*self._with("fused"), *self._with("unfused"))

    def _with(self, status: Status) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.status == status)


def report(model: nn.Module) -> Report:
    """Says of each layer that a host owns whether it is accelerated, by which backend, and if not, why.

    Pure: the model, its states and the random number generators are the same afterwards.

    Args:
        model: A module, converted or not.

    Returns:
        The report; ``print`` it, or read its rows.

    Raises:
        TypeError: If ``model`` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"report: expected a torch.nn.Module, got {type(model).__name__}; pass the network itself")
    loops = tuple(_loop(module, names) for module, names in walk(model) if engine_of(module) is not None)
    place = {names: index for index, (_, names) in enumerate(walk(model))}
    layers = sorted((*find_layers(model), *told(model)), key=lambda layer: place[layer.names])
    rows = tuple(_row(layer) for layer in layers)
    return Report((*loops, *rows), tuple(host.host.name for host in loaded_hosts()))


def _row(layer: Layer) -> Row:
    against = layer.reasons()
    backend: str | None = "-"
    notes = [] if layer.note is None else [layer.note]
    if not against:
        try:
            backend = layer.backend()
        except BackendError as error:
            notes.append(str(error))
        if backend is None:
            against = ("no backend runs it where it is now",)
    if layer.runs_accelerated:
        if layer.original is None:
            notes.append("a user's subclass of the accelerated class: what it overrides is its own")
        fallback = layer.last_fallback()
        if fallback is not None:
            notes.append(f"last call: {fallback}")
    status: Status = "host" if against else "accelerated" if layer.runs_accelerated else "candidate"
    names = layer.host_class.__name__, layer.host.host.name
    return Row(layer.names, *names, status, backend or "-", (*against, *notes))


def _loop(module: nn.Module, names: tuple[str, ...]) -> Row:
    engine = engine_of(module)
    assert engine is not None
    share = f"{engine.fused_calls} of {engine.calls} calls ran fused"
    reasons = () if engine.reason is None else (engine.reason, share)
    return Row(names, type(module).__name__, "time fusion", "unfused" if reasons else "fused", "-", reasons)


def _cells(row: Row) -> list[tuple[str, ...]]:
    """The lines of one row: its names and its reasons go below each other."""
    names = [name or "(root)" for name in row.names]
    fixed = (row.host_class, row.host, row.status, row.backend)
    lines = []
    for index in range(max(len(names), len(row.reasons), 1)):
        lines.append(
            (
                names[index] if index < len(names) else "",
                *(fixed if index == 0 else ("",) * len(fixed)),
                row.reasons[index] if index < len(row.reasons) else "",
            )
        )
    return lines
