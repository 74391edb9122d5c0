"""plugin_accel under the host's own name: ``from sinabs.accel import convert``."""

from sinabs.accel import layers

from plugin_accel import convert, converted, report, restore, use_backend

__all__ = ["convert", "converted", "layers", "report", "restore", "use_backend"]
