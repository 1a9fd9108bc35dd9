"""A private cluster: a coordinator and a worker as processes, for as long as a program needs them.

Client, below the faces that can run without a cluster of somebody else's. The processes are those that a user would
start with ``dtq coordinator start`` and ``dtq worker``, and end with this program, however it ends. The user's own
coordinator is left alone: port, key and state are apart.

It imports little, so that the processes start while the program imports what speaks to them.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import operator
import os
import site
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from dtq.client.handover import interpreter_flags, pack_initializer
from dtq.client.inheritance import Inheritance
from dtq.client.processes import Processes
from dtq.errors import ClusterEnded, InvalidValue
from dtq.wording import counted

if TYPE_CHECKING:
    from pathlib import Path

    from dtq.client.terms import Span

log = logging.getLogger("dtq.client")

#: Settings of this program's environment that also hold for its own cluster.
_KEPT: Final = ("DTQ_LOG_LEVEL",)
#: The name of a store in memory, as in `config.settings`.
_MEMORY: Final = ":memory:"


class LocalCluster:
    """A coordinator and a worker that belong to this program.

    They end with `close`, with the ``with`` block, or with the program, in whichever way it ends. The worker runs in
    the current directory and imports what this program can import; like any worker it obeys a ``[worker]`` table of
    ``dtq.toml``, except for settings given here. Tasks' output goes where this program's goes.

    Args:
        slots: how many tasks run at once; None for one a core.
        db: the store's file; None keeps everything in memory.
        durability: with a file, the guarantee behind an acknowledgement: ``"fsync"`` (the disk), ``"os"``, ``"none"``.
        highest_first: whether a higher priority number is served first.
        queues: the queues the worker serves; empty for all.
        resources: its resources for tasks that need them: ``("gpu=0,1", "memory=32GB")``.
        tags: further properties that tasks may ask for.
        imports: modules that every slot imports when it starts.
        preload: modules that are imported once, in the process that slots are forked from.
        paths: directories for modules, before those of this program.
        name: the worker's name for people; None for one with this process's number.
        initializer: called in every slot when it starts, as with the pools of the standard library.
        initargs: its arguments.
        max_tasks_per_slot: after how many tasks a slot's process is replaced; None for never.
        max_message: largest message in bytes, or as text ("64MiB"); None for the default.
        max_value: largest argument or result in bytes, or as text ("4GiB"); None for the default.
        keep_results: how long results are kept, in seconds or as a timedelta; None for the default.
        tasks_may_submit: whether clients in tasks, which name no address and no key, are this cluster's.

    Raises:
        InvalidValue: ``slots`` is not at least 1, or another value is invalid.
        TypeError: ``initializer`` cannot be called, or ``slots`` is no whole number.
        CannotPickle: ``initializer`` or one of its arguments cannot be sent.
    """

    def __init__(
        self,
        slots: int | None = None,
        *,
        db: str | Path | None = None,
        durability: str = "fsync",
        highest_first: bool = False,
        queues: Iterable[str] = (),
        resources: Iterable[str] = (),
        tags: Iterable[str] = (),
        imports: Iterable[str] = (),
        preload: Iterable[str] = (),
        paths: Iterable[str | Path] = (),
        name: str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_slot: int | None = None,
        max_message: int | str | None = None,
        max_value: int | str | None = None,
        keep_results: Span | None = None,
        tasks_may_submit: bool = False,
    ) -> None:
        if slots is not None and operator.index(slots) < 1:
            raise InvalidValue("slots", slots, "it is a whole number of at least 1")
        if max_tasks_per_slot is not None and operator.index(max_tasks_per_slot) < 1:
            raise InvalidValue("max_tasks_per_slot", max_tasks_per_slot, "it is a whole number of at least 1")
        #: Number of tasks that run at once.
        self.slots = _usable_cores() if slots is None else operator.index(slots)
        self._initializer = pack_initializer(initializer, tuple(initargs))
        self._max_tasks = None if max_tasks_per_slot is None else operator.index(max_tasks_per_slot)
        self._limits = _limits(max_message, max_value, keep_results)
        self._db = _MEMORY if db is None else _absolute(os.path.expanduser(db))
        self._durability = durability
        self._highest_first = highest_first
        self._queues = tuple(queues)
        self._resources, self._tags = tuple(resources), tuple(tags)
        if self._resources or self._tags:
            from dtq.model.resources import offers  # a cluster without any starts the sooner

            offers(self._resources, self._tags)  # their faults are reported here
        self._imports = tuple(imports)
        self._preload = tuple(preload)
        self._tasks_may_submit = tasks_may_submit
        self._paths = [os.path.abspath(os.path.expanduser(path)) for path in paths]
        self._name = name or f"local-{os.getpid()}"
        self._lock = threading.Lock()
        self._processes: Processes | None = None
        self._address = ""
        self._failure: ClusterEnded | None = None
        self._listeners: list[Callable[[ClusterEnded], None]] = []

    def launch(self) -> None:
        """Begin to start the processes, without a wait: `start` waits. No effect if they run already.

        Raises:
            OSError: the machine has no process, memory or descriptor left.
        """
        with self._lock:
            self._launch()

    def await_listening(self) -> None:
        """Start both and wait until clients can connect; `start` waits for the rest.

        Raises:
            ClusterEnded: as `start`.
        """
        with self._lock:
            self._await_listening()

    def _await_listening(self) -> Processes:
        processes = self._launch()
        if not self._address:
            with self._ended_on_failure(processes):
                self._address = processes.await_listening()
        return processes

    @contextlib.contextmanager
    def _ended_on_failure(self, processes: Processes) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._processes = None
            processes.close(drain=False, timeout_s=None)
            raise

    def start(self) -> Self:
        """Start both and wait until they are ready; no effect if they are.

        Returns:
            This cluster.

        Raises:
            ClusterEnded: one of them did not become ready; the sentence has its log. Nothing is left behind.
        """
        with self._lock:
            processes = self._await_listening()
            if not processes.pids:
                with self._ended_on_failure(processes):
                    processes.await_ready()
                    watched = weakref.ref(self), processes
                    threading.Thread(target=_watch, args=watched, name="dtq-local", daemon=True).start()
        return self

    def _launch(self) -> Processes:
        """The processes, which have begun. Under the lock."""
        if self._processes is not None:
            return self._processes
        directory = _make_directory()
        try:
            processes = Processes(directory, _environment())
        except BaseException:
            os.rmdir(directory)
            raise
        self._address = ""
        self._processes = processes
        weakref.finalize(self, processes.close, False, None).atexit = False
        _clusters.add(self)
        inheritance = Inheritance(streams=True, flags=interpreter_flags(), initializer=self._initializer)
        key = _key(processes)
        processes.begin(self._coordinator_settings(key), self._worker_settings(key), inheritance)
        return processes

    @property
    def address(self) -> str:
        """The coordinator's address, ``host:port``.

        Raises:
            ClusterEnded: it was not started, or was closed.
        """
        self._required()
        return self._address

    @property
    def authkey_file(self) -> Path:
        """The file with the clients' key.

        Raises:
            ClusterEnded: it was not started, or was closed.
        """
        from pathlib import Path  # a program that is to start its cluster does without

        return Path(_key(self._required()))

    @property
    def pids(self) -> dict[str, int]:
        """The process ids, by role: ``coordinator`` and ``worker``.

        Raises:
            ClusterEnded: it was not started, or was closed.
        """
        return dict(self._required().pids)

    def on_end(self, tell: Callable[[ClusterEnded], None]) -> None:
        """Call a function at the unexpected end of a process: the cluster is then unusable.

        Args:
            tell: called once, by a thread of the cluster's; by this one, and now, if it has happened already.
        """
        with self._lock:
            failure = self._failure
            if failure is None:
                self._listeners.append(tell)
        if failure is not None:
            tell(failure)

    def close(self, drain: bool = True, timeout_s: float | None = None) -> None:
        """End both, and wait for their ends. Waiting tasks in a store with a file are there for the next cluster.

        Args:
            drain: let running tasks finish first; else they are killed (and with a file, run again with the next
                cluster).
            timeout_s: longest time for that, in seconds; then they are killed all the same. None for as long as it
                needs.
        """
        with self._lock:
            processes, self._processes = self._processes, None
        if processes is not None:
            processes.close(drain, timeout_s)

    def _coordinator_settings(self, key: str) -> dict[str, Any]:
        return {
            "authkey_file": key,
            "host": "127.0.0.1",
            "port": 0,
            "db": self._db,
            "durability": self._durability,
            "highest_first": self._highest_first,
            **self._limits,
        }

    def _worker_settings(self, key: str) -> dict[str, Any]:
        return {
            "authkey_file": key,
            "slots": self.slots,
            "name": self._name,
            "queues": self._queues,
            "resources": self._resources,
            "tags": self._tags,
            "imports": self._imports,
            "preload": self._preload,
            "paths": tuple(dict.fromkeys([*self._paths, *program_paths()])),
            "max_tasks_per_slot": self._max_tasks,
            "tasks_may_submit": True if self._tasks_may_submit else None,
        }

    def _failed(self, failure: ClusterEnded) -> None:
        log.error("%s", failure)
        with self._lock:
            self._failure = failure
            listeners = list(self._listeners)
        for tell in listeners:
            try:
                tell(failure)
            except Exception:
                log.exception("a listener of a local cluster failed")

    def _required(self) -> Processes:
        processes = self._processes
        if processes is None or not self._address:
            raise ClusterEnded("it was not started, or was closed")
        return processes

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)

    def __repr__(self) -> str:
        where = "not running" if self._processes is None else f"at {self._address}"
        return f"<LocalCluster {where}, {counted(self.slots, 'slot')}>"


#: All clusters. Those that run at the program's exit are closed then: after everything that was registered later, and
#: so after all code that uses them.
_clusters: Final[weakref.WeakSet[LocalCluster]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for cluster in list(_clusters):
        cluster.close(drain=False)


def _absolute(path: str) -> str:
    """A path that means the same in another directory; ``..`` stays, for the part before it may be a link."""
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


def _usable_cores() -> int:
    from dtq.config.cores import usable_cores  # who says how many slots there are does without

    return usable_cores()


def _key(processes: Processes) -> str:
    return os.path.join(processes.directory, "authkey")


def _make_directory() -> str:
    """A directory of this user's alone, where temporary ones are."""
    places = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    for place in filter(None, [*places, "/tmp"]):
        path = _absolute(os.path.join(place, f"dtq-{os.urandom(8).hex()}"))
        try:
            os.mkdir(path, 0o700)
        except OSError:
            continue
        return path
    import tempfile  # it knows more places, and takes as long to import as everything else here

    return tempfile.mkdtemp(prefix="dtq-")


def _watch(cluster: weakref.ref[LocalCluster], processes: Processes) -> None:
    failure = processes.watch()
    known = cluster()
    if failure is not None and known is not None:
        known._failed(failure)


def _limits(max_message: int | str | None, max_value: int | str | None, keep_results: Span | None) -> dict[str, Any]:
    """The coordinator's settings for the limits.

    Raises:
        InvalidValue: one of them is invalid.
    """
    found: dict[str, Any] = {}
    if (max_message, max_value, keep_results) == (None, None, None):
        return found
    from dtq.client.terms import seconds  # a program without limits does not import it
    from dtq.config.values import parse_size

    if max_message is not None:
        found["max_message"] = parse_size(str(max_message), "max_message")
    if max_value is not None:
        found["max_value"] = parse_size(str(max_value), "max_value")
    if keep_results is not None:
        found["keep_results"] = seconds(keep_results, "keep_results")
    return found


def program_paths() -> list[str]:
    """The directories and archives this program imports from, except those of any Python here."""
    usual = _usual_paths()
    # The empty entry is the current directory: if it comes first here, it does so there, too.
    paths = [os.path.abspath(path or ".") for path in sys.path]
    return [path for path in paths if os.path.exists(path) and not _is_in(path, usual)]


def _usual_paths() -> set[str]:
    here = sysconfig.get_paths()
    usual = {
        here["stdlib"],
        here["platstdlib"],
        here["purelib"],
        here["platlib"],
        sysconfig.get_config_var("DESTSHARED"),
    }
    usual.update(site.getsitepackages())
    if site.ENABLE_USER_SITE:
        usual.add(site.getusersitepackages())
    return {os.path.realpath(path) for path in usual if path}


def _is_in(path: str, usual: set[str]) -> bool:
    return os.path.realpath(path) in usual


def _environment() -> dict[str, str]:
    """This program's environment without its settings of dtq; dtq itself can be imported there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DTQ_") or name in _KEPT}
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    if not _is_in(root, _usual_paths()):
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [root, kept.get("PYTHONPATH", "")]))
    return kept
