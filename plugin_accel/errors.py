"""Errors and warnings of plugin_accel. Messages read `<what>: expected <...>, got <...>; <remedy>`."""

from __future__ import annotations


class PluginAccelError(Exception):
    """Base of every error this package raises on purpose."""


class BackendError(PluginAccelError, RuntimeError):
    """A backend that was asked for by name cannot do what is asked."""


class ConversionError(PluginAccelError, ValueError):
    """A model cannot be converted as asked; nothing has been changed."""


class InputError(PluginAccelError, ValueError):
    """A tensor handed to a neuron has the wrong shape, dtype or device."""


class PluginAccelWarning(UserWarning):
    """Something works, but not as a user would expect it to."""


class Refused(Exception):
    """A call of a layer that is left to the host's own forward; the text says why. Nothing has been changed.

    Never reaches the user: whoever asked for the call makes the host's instead.
    """
