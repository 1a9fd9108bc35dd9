"""Detects whether the files of a slot's imported modules have changed since.

Worker, in the slot's process. A process imports a module once: without a check, code that was changed on disk meanwhile
would not run. So the files of the user's modules are checked before a lease, and a slot with old code is replaced. Only
modules that were imported since the start are watched, from outside of the standard library and of the directories of
installed packages. A missing file counts as unchanged, for it is about to be replaced; so does one that was written
again with the same text.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from time import monotonic, time_ns
from types import ModuleType
from typing import Any, Final

from dtq.errors import CannotImport

#: The check takes at most one part in this many of the time, if leases always wait.
SHARE: Final = 50
#: Most ns that a file's time may be behind the clock's: it is that of the kernel's last tick.
_TICK_NS: Final = 10_000_000
_LIBRARY: Final = os.path.dirname(os.__file__) + os.sep
_INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_OWN: Final = "dtq"

#: The version of a file: time of the last change, size, inode.
_State = tuple[int, int, int]
#: The version of a file that was changed during its import.
_NONE: Final = (-1, -1, -1)


class Sources:
    """The files of the modules that are imported from now on."""

    def __init__(self) -> None:
        self._known = set(sys.modules)
        #: By file, its version, and a hash of its content.
        self._files: dict[str, tuple[_State, int]] = {}
        #: A file that was last changed before this moment, in ns since the epoch, certainly has the imported content.
        self._since = time_ns() - _TICK_NS
        self._due_at = 0.0

    def begin(self) -> None:
        """Note the present time: the next imports come after it."""
        self._since = time_ns() - _TICK_NS

    def note(self) -> None:
        """Add the files of modules that were imported since the last call."""
        if len(sys.modules) == len(self._known):
            return
        now = time_ns()
        for name, module in list(sys.modules.items()):
            if name not in self._known:
                self._known.add(name)
                path = source_of(name, module)
                state = None if path is None else _state(path)
                if path is not None and state is not None:
                    new = self._since <= state[0] <= now and _is_older(module, state)
                    self._files[path] = (_NONE, 0) if new else (state, _hash(path))
        self._known &= sys.modules.keys()

    def changed(self, waited: bool) -> str:
        """The first file that has changed since its import; empty for none.

        Args:
            waited: whether the slot has waited for work, so that there is time for a check. Otherwise it is checked
                only now and then.
        """
        begun = monotonic()
        if not self._files or (not waited and begun < self._due_at):
            return ""
        for path, (state, text) in self._files.items():
            now = _state(path)
            if now is None or now == state:
                continue
            if state == _NONE or _hash(path) != text:
                return path
            self._files[path] = now, text
        ended = monotonic()
        self._due_at = ended + SHARE * (ended - begun)
        return ""

    def has_now(self, function: str) -> str:
        """The file of an imported module that lacks a function, if the file defines it now; else empty.

        Args:
            function: as ``module:qualname``.
        """
        module, _, qualname = function.partition(":")
        path = source_of(module, sys.modules.get(module))
        if path is None or module not in self._known:
            return ""
        from dtq.worker.source_names import defines  # see there

        return path if defines(path, qualname.partition(".")[0]) else ""

    def told(self, function: str, error: CannotImport) -> CannotImport:
        """The error for a missing function; it mentions a module's file that has changed since the import.

        Args:
            function: as ``module:qualname``.
            error: the original error.
        """
        module = function.partition(":")[0]
        path = source_of(module, sys.modules.get(module))
        before = self._files.get(path or "")
        if path is None or before is None or _state(path) in (None, before[0]):
            return error
        name, where, why, *rest = error.args
        old = f"{why}, as this process imported it; {path} has changed since, and --reload is off"
        return CannotImport(name, where, old, *rest).with_traceback(error.__traceback__)


def source_of(name: str, module: Any) -> str | None:
    """The file of a user's module; None for other modules, and for those without a file."""
    if not isinstance(module, ModuleType) or name.partition(".")[0] == _OWN:
        return None
    path = getattr(module, "__file__", None)
    if not isinstance(path, str) or path.startswith(_LIBRARY) or any(part in path for part in _INSTALLED):
        return None
    archive = getattr(getattr(module, "__loader__", None), "archive", None)
    return archive if isinstance(archive, str) else path


def _hash(path: str) -> int:
    with suppress(OSError), open(path, "rb") as file:
        return hash(file.read())
    return 0


def _is_older(module: ModuleType, state: _State) -> bool:
    """Whether the imported code is older than the module's file: the kept compiled code, if any, names its source's
    version.
    """
    cached = getattr(module, "__cached__", None)
    with suppress(OSError, TypeError), open(cached, "rb") as file:  # type: ignore[arg-type]  # None raises, too
        head = file.read(16)
        changed_at, size = (int.from_bytes(head[at : at + 4], "little") for at in (8, 12))
        return (changed_at, size) != (state[0] // 1_000_000_000 & 0xFFFFFFFF, state[1] & 0xFFFFFFFF)
    return False


def _state(path: str) -> _State | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
