"""A worker in a program: it registers task types, and runs them.

Daemon, the public class `dtq.Worker`. The program's process is the supervisor; handlers run in its slots, which are
processes of their own, so a handler may block, hog the interpreter or crash.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dtq.client.local import program_paths
from dtq.client.tasks import check_name, registrations
from dtq.config import worker_settings
from dtq.daemon.serving import Serving
from dtq.daemon.signals import Signals
from dtq.errors import InvalidValue
from dtq.worker.link import FETCH_WAIT_S
from dtq.worker.program import stop_in_slot, this_program

log = logging.getLogger("dtq.daemon")

#: Runs a task of a registered type: takes the payload; a result of False, or an exception, is a failure.
Handler = Callable[..., Any]


class Worker:
    """Runs tasks on this machine, as ``dtq worker`` does, with task types that this program registers.

    Handlers, and functions with ``@task(name=...)``, reach the worker's slots as with multiprocessing's *spawn*: an
    importable one is imported there; for one of the main module the slot runs that module's file once, under the name
    ``__mp_main__``, and stops at the call of `start`. Code under ``if __name__ == "__main__"`` is not run again.
    Lambdas and functions of a notebook travel by value, with the extra ``closures``.

    Args:
        address: ``"host:port"``, or several for one queue; None for ``DTQ_ADDRESS``, the configuration, or the
            coordinator of this machine.
        worker_id: the worker's name; None for the configuration's, or one of host and process.
        slots: how many tasks run at once; None for the configuration's, or one a core.
        queues: the queues it serves; empty for all.
        resources: its resources for tasks that need them: ``("gpu=0,1", "memory=32GB")``.
        tags: further properties that tasks may ask for.
        authkey_file: the file with the key; None for ``DTQ_AUTHKEY_FILE``, the configuration, or this user's key.
        imports: modules that every slot imports when it starts.
        init: ``"module:function"``, a function that every slot calls when it starts; if it fails, the slot is tried
            again later.
        paths: directories for modules, before those of this program.
        only_registered: whether to run registered task types only: no function by its name, no sent code.
        keep_output: bytes that are kept of the output of each attempt of a task; 0 for none.
        keep_processes: whether processes that tasks leave running may go on until their slot is replaced.
        tasks_may_submit: whether clients in tasks use this worker's coordinator and key.
        max_waiting: bound of further slots while tasks wait for other tasks; None for 8 a slot.
        max_tasks_per_slot: number of tasks after which a slot's process is replaced; None for never.
        max_memory_per_slot: bytes above which a slot's process is replaced; None for never.
        reload: ``"auto"`` replaces slots whose code has changed on disk, ``"off"`` does not.
        grace: time for running tasks after `stop`, in seconds; None for as long as they need.

    Settings that are not given come from the configuration, as for ``dtq worker``.
    """

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        worker_id: str | None = None,
        slots: int | None = None,
        queues: Iterable[str] = (),
        resources: Iterable[str] = (),
        tags: Iterable[str] = (),
        authkey_file: str | Path | None = None,
        imports: Iterable[str] = (),
        init: str | None = None,
        paths: Iterable[str | Path] = (),
        only_registered: bool | None = None,
        keep_output: int | None = None,
        keep_processes: bool | None = None,
        tasks_may_submit: bool | None = None,
        max_waiting: int | None = None,
        max_tasks_per_slot: int | None = None,
        max_memory_per_slot: int | None = None,
        reload: str | None = None,
        grace: float | None = None,
    ) -> None:
        self._flags: dict[str, Any] = {
            "connect": (address,) if isinstance(address, str) else tuple(address or ()),
            "authkey_file": authkey_file,
            "name": worker_id,
            "slots": slots,
            "queues": tuple(queues),
            "resources": tuple(resources),
            "tags": tuple(tags),
            "imports": tuple(imports),
            "init": init,
            "paths": tuple(dict.fromkeys([*map(str, paths), *program_paths()])),
            "only_registered": only_registered,
            "keep_output": keep_output,
            "keep_processes": keep_processes,
            "tasks_may_submit": tasks_may_submit,
            "max_waiting": max_waiting,
            "max_tasks_per_slot": max_tasks_per_slot,
            "max_memory_per_slot": max_memory_per_slot,
            "reload": reload,
            "grace": grace,
        }
        self._handlers: dict[str, Handler] = {}
        self._serving: Serving | None = None
        self._ready = threading.Event()
        self._ended = threading.Event()
        self._ended.set()

    def register_handler(self, task_type: str, handler: Handler) -> None:
        """Run tasks of a type with a handler, from the next `start` on. The last one of a type wins.

        Args:
            task_type: its name.
            handler: called with the task's payload, ``handler(payload) -> bool``. If it returns False, or raises, the
                attempt has failed, and the task is tried again like any other. May be a coroutine function.

        Raises:
            InvalidValue: the name is malformed.
            TypeError: the handler cannot be called.
        """
        if not callable(handler):
            raise TypeError(f"a handler is a function, not {type(handler).__name__}")
        self._handlers[check_name(task_type)] = handler

    def start(self, poll_interval: float = FETCH_WAIT_S) -> None:
        """Work until SIGTERM or SIGINT, or until `stop`: running tasks finish, a second signal gives them back at once.

        Signals are handled only in a call from the main thread.

        Args:
            poll_interval: how long one call for work waits at the coordinator, at most, in seconds. Work that arrives
                meanwhile is answered at once: a short interval gains nothing.

        Raises:
            InvalidValue: the interval is not above 0.
            NotImportable: a handler can travel neither by name nor by value.
            RuntimeError: it works already.
            DtqError: it cannot work: the key is missing or wrong, or a module cannot be imported.
        """
        stop_in_slot()
        if not poll_interval > 0:
            raise InvalidValue("poll_interval", poll_interval, "it is a number of seconds above 0")
        if self._serving is not None:
            raise RuntimeError("this worker works already")
        serving = self._serving = Serving(
            worker_settings(self._flags),
            program=this_program({**registrations(), **self._handlers}),
            fetch_wait_s=min(poll_interval, FETCH_WAIT_S),
        )
        self._ended.clear()
        in_main = threading.current_thread() is threading.main_thread()
        # The loss of its terminal is this program's own affair.
        signals = Signals((signal.SIGTERM, signal.SIGINT)) if in_main else None
        try:
            if signals is not None:
                signals.attach(serving)
            serving.run(self._on_ready)
        finally:
            if signals is not None:
                signals.restore()
            self._serving = None
            self._ready.clear()
            self._ended.set()

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until it is connected; for another thread than the working one.

        Args:
            timeout: how long at most, in seconds; None for ever.
        """
        return self._ready.wait(timeout)

    def stop(self, *, finish: bool = True, timeout: float | None = None) -> bool:
        """Make `start` return; from another thread.

        Args:
            finish: whether running tasks finish first; else they go back to the queue.
            timeout: how long to wait for its end, in seconds; None for ever.

        Returns:
            Whether it has ended.
        """
        serving = self._serving
        if serving is not None:
            if finish:
                serving.drain()
            else:
                serving.end()
        return self._ended.wait(timeout)

    def _on_ready(self, line: str) -> None:
        log.info("%s", line)
        self._ready.set()

    def __repr__(self) -> str:
        name = self._flags["name"] or "(unnamed)"
        return f"<Worker {name}, {len(self._handlers)} handlers{', working' * (self._serving is not None)}>"
