"""Makes the folders beside this file importable as part of the hosts: ``sinabs/accel`` here is ``sinabs.accel``.

Installed as ``plugin_accel_namespaces`` and loaded by a ``.pth`` file at every start of Python, so it imports next to
nothing. Files put into the host's own folder would do in the simplest case, but they make ``import sinabs`` succeed
(as an empty namespace package) where sinabs is not installed, and they are not found where the host lives in another
folder than this package: an editable install, the user's site-packages, a virtual environment that sees the system's.

The finder stands behind Python's own: what a host ships itself wins. To add a namespace, add its folder.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # importing `typing` would cost more than the rest of this file
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import FrameType, ModuleType

ROOT = os.path.dirname(os.path.abspath(__file__))


class HostNamespaceFinder:
    """Finds ``<host>.accel`` and what is below it, and nothing else."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Gives the spec of a module of ours.

        Raises:
            ModuleNotFoundError: If a host is not installed, and it is wanted for a module of ours. A plain import of
                the host fails as it does without this package.
        """
        parts = fullname.split(".")
        folder = os.path.join(ROOT, *parts)
        if "accel" in parts[1:]:
            return _spec(fullname, folder)
        if os.path.isdir(folder) and (wanted := _namespace_being_imported(f"{fullname}.")):
            later = sys.meta_path[sys.meta_path.index(HostNamespaceFinder) + 1 :]
            if any(finder.find_spec(fullname, path, target) for finder in later):
                return None
            host = parts[0]
            raise ModuleNotFoundError(
                f"{wanted}: expected {host} to be installed, got no module named {fullname!r}; "
                f"pip install 'plugin-accel[{host}]'",
                name=fullname,
            )
        return None


def _spec(fullname: str, folder: str) -> ModuleSpec | None:
    package = os.path.join(folder, "__init__.py")
    module = f"{folder}.py"
    if not os.path.isfile(package) and not os.path.isfile(module):
        return None
    from importlib.util import spec_from_file_location

    if os.path.isfile(package):
        return spec_from_file_location(fullname, package, submodule_search_locations=[folder])
    return spec_from_file_location(fullname, module)


def _namespace_being_imported(prefix: str) -> str | None:
    # The import system asks for `sinabs` without saying that it is for `sinabs.accel`; its own frames know. Where they
    # look different, the import fails with Python's plain "No module named 'sinabs'".
    from importlib import _bootstrap

    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals is vars(_bootstrap):
        name = frame.f_locals.get("name")
        if isinstance(name, str) and name.startswith(prefix) and "accel" in name.split("."):
            return name
        frame = frame.f_back
    return None


def install() -> None:
    """Adds the finder behind all others, once."""
    if HostNamespaceFinder not in sys.meta_path:
        sys.meta_path.append(HostNamespaceFinder)
