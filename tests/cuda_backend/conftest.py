from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin_accel import _C


@pytest.fixture(autouse=True)
def quiet_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the tests' kernels out of the user's cache."""
    monkeypatch.setenv("PLUGIN_ACCEL_CACHE", str(tmp_path / "kernels"))


@pytest.fixture(scope="module")
def baseline() -> Iterator[None]:
    """The cpu kernels without fused multiply-adds in their surrogates, as the CUDA kernels are."""
    before = _C.isa()
    _C.set_isa("baseline")
    yield
    _C.set_isa(before)
