"""Makes a slot a sibling of other processes for `multiprocessing`: the same key, the same resource tracker.

Worker, in the slot's process. A *resource tracker*, a process of its own, cleans up shared memory and named semaphores
after the last of its clients has ended. A slot with a tracker of its own would at its end have memory removed that
others still use, so all slots of a worker share the worker's tracker (`resource_tracker`), or that of the program that
a local cluster belongs to. multiprocessing costs a slot 10 ms and half a megabyte; so no part of it is imported before
a task imports it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader
else:
    Loader = object  # importlib.abc brings importlib.resources and tempfile: as much as multiprocessing itself


class _AfterImport:
    """Modifies a module as soon as it has been imported."""

    def __init__(self, name: str, act: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._act = act

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if fullname != self._name:
            return None
        self._name = ""  # it stays in place: the list of finders is compared after each task
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Acting(spec.loader, self._act)
        return spec


class _Acting(Loader):
    def __init__(self, inner: Loader, act: Callable[[ModuleType], None]) -> None:
        self._inner = inner
        self._act = act

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """See `importlib.abc.Loader`."""
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """See `importlib.abc.Loader`."""
        self._inner.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._inner
        self._act(module)


def _on_import(name: str, act: Callable[[ModuleType], None]) -> None:
    if name in sys.modules:
        act(sys.modules[name])
    else:
        sys.meta_path.insert(0, _AfterImport(name, act))


def share_tracker(descriptor: int) -> None:
    """Use the resource tracker at the other end of a pipe.

    Args:
        descriptor: of the pipe.
    """

    def share(module: ModuleType) -> None:
        module._resource_tracker._fd = descriptor

    _on_import("multiprocessing.resource_tracker", share)


def share_key(key: bytes) -> None:
    """Use an authentication key: that of managers, listeners and proxies of the same program.

    Args:
        key: the key.
    """

    def share(module: ModuleType) -> None:
        module.current_process().authkey = key

    _on_import("multiprocessing.process", share)


def empty_main() -> None:
    """Make the main program empty: a look-up in it finds nothing, rather than a name of dtq's."""
    main = ModuleType("__main__")
    main.__builtins__ = importlib.import_module("builtins")  # type: ignore[attr-defined]
    sys.modules["__main__"] = main
