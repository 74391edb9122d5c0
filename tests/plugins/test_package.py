"""The package's own namespace."""

from __future__ import annotations

from importlib.metadata import version

import pytest

import plugin_accel


def test_every_public_name_is_there() -> None:
    for name in plugin_accel.__all__:
        assert getattr(plugin_accel, name) is getattr(plugin_accel, name)
        assert name in dir(plugin_accel)
    assert plugin_accel.__version__ == version("plugin-accel")


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'plugin_accel' has no attribute 'nonsense'"):
        plugin_accel.nonsense  # noqa: B018
