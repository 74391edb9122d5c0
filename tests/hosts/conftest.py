"""What tests of recurrent layers share."""

from __future__ import annotations

from typing import Any

import pytest

from plugin_accel.backends.cpu import CpuBackend


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The sequences that ran as one loop of the `cpu` backend, in order."""
    ran: list[Any] = []
    forward = CpuBackend.recurrent_forward

    def counted(call: Any, *args: Any, **kwargs: Any) -> Any:
        ran.append(call)
        return forward(call, *args, **kwargs)

    monkeypatch.setattr(CpuBackend, "recurrent_forward", staticmethod(counted))
    return ran
