"""The hooks a plugin of plugin_accel can implement.

A plugin is any object (most often a module) that an entry point of the group ``plugin_accel`` names and that marks
functions with :data:`hookimpl`::

    # pyproject.toml
    [project.entry-points.plugin_accel]
    mine = "my_package.accel"

    # my_package/accel.py
    from plugin_accel import hookimpl

    @hookimpl
    def plugin_accel_backends():
        return [MyBackend()]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from plugin_accel.backends import Backend
    from plugin_accel.hosts import Host

PROJECT = "plugin_accel"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def plugin_accel_backends() -> Iterable[Backend]:  # type: ignore[empty-body]
    """The backends this plugin brings: objects with the attributes of :class:`plugin_accel.backends.Backend`.

    Called once per process, when backends are first needed. A backend that cannot run on this machine is returned
    all the same: its ``unavailable()`` says why, and ``plugin-accel info`` shows it.
    """


@hookspec
def plugin_accel_hosts() -> Iterable[Host]:  # type: ignore[empty-body]
    """The host frameworks this plugin accelerates: objects with the attributes of :class:`plugin_accel.hosts.Host`.

    Called once per process, when a model is first converted or reported. It must not import the framework: a host is
    asked whether its framework is ``loaded()`` and does its imports only then.
    """
