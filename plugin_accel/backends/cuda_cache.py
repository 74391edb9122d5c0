"""Compiled kernels on disk: shared by processes, never read half written, dropped when anything they come from changes.

`PLUGIN_ACCEL_CACHE` names the folder, "0" keeps nothing on disk; by default it is `plugin_accel` in the user's cache.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

VARIABLE = "PLUGIN_ACCEL_CACHE"

_DIGEST = 32


def folder() -> Path | None:
    """Where the kernels are kept; None if nowhere."""
    named = os.environ.get(VARIABLE)
    if named == "0":
        return None
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or (Path.home() / ".cache" if Path("~").expanduser() != Path("~") else "")
    return Path(base, "plugin_accel") if base else None


def key(*parts: str) -> str:
    """Name of what is made of these parts."""
    return sha256("\0".join(parts).encode()).hexdigest()


def _path(name: str) -> Path | None:
    where = folder()
    return where / f"{name}.cubin" if where else None


def load(name: str) -> bytes | None:
    """What was stored under a name; None if nothing was, or if it is damaged."""
    path = _path(name)
    if path is None:
        return None
    try:
        data = path.read_bytes()
    except OSError:
        return None
    body = data[_DIGEST:]
    return body if body and sha256(body).digest() == data[:_DIGEST] else None


def store(name: str, body: bytes) -> None:
    """Store under a name. A folder that cannot be written costs a compilation in every process, and no more."""
    path = _path(name)
    if path is None:
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{name[:16]}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(sha256(body).digest() + body)
            os.replace(part, path)  # other processes see all of it or nothing
        except BaseException:
            with suppress(OSError):
                os.unlink(part)
            raise
