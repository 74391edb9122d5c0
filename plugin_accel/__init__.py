"""plugin_accel: the same spiking network, with the same numbers, many times faster.

One line converts a model in place and one line gives the untouched host model back::

    import plugin_accel

    plugin_accel.convert(model)   # sinabs layers now run compiled kernels
    plugin_accel.restore(model)   # and now sinabs's own code again

Everything here is looked up on first use: ``import plugin_accel`` loads no plugin, imports no host framework and
touches no device.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plugin_accel.backends import use_backend
    from plugin_accel.backends.cpu import empty_cache
    from plugin_accel.conversion import Report, Run, convert, converted, fused, report, restore, run
    from plugin_accel.hookspecs import hookimpl

    __version__: str

__all__ = [
    "Report",
    "Run",
    "__version__",
    "convert",
    "converted",
    "empty_cache",
    "fused",
    "hookimpl",
    "report",
    "restore",
    "run",
    "use_backend",
]

_HOMES = {
    "Report": "plugin_accel.conversion",
    "Run": "plugin_accel.conversion",
    "convert": "plugin_accel.conversion",
    "converted": "plugin_accel.conversion",
    "empty_cache": "plugin_accel.backends.cpu",
    "fused": "plugin_accel.conversion",
    "hookimpl": "plugin_accel.hookspecs",
    "report": "plugin_accel.conversion",
    "restore": "plugin_accel.conversion",
    "run": "plugin_accel.conversion",
    "use_backend": "plugin_accel.backends",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("plugin-accel")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
