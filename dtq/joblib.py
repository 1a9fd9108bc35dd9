"""A backend for joblib, and so for scikit-learn and others that use it: ``parallel_config(backend="dtq")``.

`register` makes it known to joblib; the extra ``dtq[joblib]`` installs its requirements. A face over `dtq.Executor`, on
the floor of the worker: nothing in dtq imports it, and it alone imports joblib.
"""

from __future__ import annotations

import logging
import pickle
import threading
import uuid
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Final, Unpack

try:
    import joblib
    from joblib._memmapping_reducer import TemporaryResourcesManager, get_memmapping_reducers
    from joblib.parallel import (
        AutoBatchingMixin,
        FallbackToBackend,
        ParallelBackendBase,
        SequentialBackend,
    )
except ImportError as error:
    raise ImportError("dtq.joblib needs joblib: install it with dtq[joblib]", name="joblib") from error

from dtq.client.by_value import sentence
from dtq.client.current import waiting
from dtq.client.executor import Executor
from dtq.client.futures import ACCEPT_S, TaskFuture
from dtq.client.handover import pack_initializer
from dtq.client.joblib_calls import run_batch
from dtq.client.payloads import dump_by_value
from dtq.client.references import Reference, apart
from dtq.client.terms import TaskOptions
from dtq.errors import CannotPickle, DtqError, InvalidValue

__all__ = ["Backend", "register"]

log = logging.getLogger("dtq.client")

#: The settings that select the executor.
_WHERE: Final = ("executor", "address", "authkey_file")
#: Arguments that joblib passes to every backend: hints between processes and threads, and the sharing of arrays on one
#: machine.
_JOBLIB: Final = (
    "context",
    "idle_worker_timeout",
    "initargs",
    "initializer",
    "max_nbytes",
    "mmap_mode",
    "prefer",
    "require",
    "temp_folder",
    "verbose",
)
#: joblib's arguments about arrays that are shared on one machine.
_SHARING: Final = ("max_nbytes", "mmap_mode", "verbose")
#: Tasks named in one stopping call.
_NAMED: Final = 1024
#: Greatest growth of a batch of tiny calls from one to the next.
_GROWTH: Final = 32


class Settings(TaskOptions, total=False):
    """Settings of ``parallel_config(backend="dtq", ...)`` and ``Parallel(backend="dtq", ...)``; and `TaskOptions`.

    Attributes:
        executor: runs the calls; without it, one is made for each use.
        address: the coordinator's, for that one; see `Executor`.
        authkey_file: the file with the key, for that one.
        initializer: called in each slot before the first batch of a use.
        initargs: its arguments.
    """

    executor: Executor | None
    address: str | Sequence[str] | None
    authkey_file: str | Path | None
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]


class Packing:
    """Pickles the batches of one use of the backend.

    Args:
        settings: joblib's and the user's.
        context: joblib's name of the use.
        shared: whether the slots are on this machine, so that large arrays can lie in files for all of them.
    """

    def __init__(self, settings: dict[str, Any], context: str, shared: bool) -> None:
        self._files: Any = None
        self._reducers: dict[type, Callable[[Any], Any]] = {}
        begin = settings.get("initializer"), tuple(settings.get("initargs") or ())
        packed, references = apart(lambda: pack_initializer(*begin))
        #: The first call of every slot, with the name of the use, and its references.
        self.initializer = (uuid.uuid4().hex, packed, references) if packed else None
        if shared and settings.get("max_nbytes", 1) is not None:
            self._files = TemporaryResourcesManager(settings.get("temp_folder"), context_id=context)
            how = {name: settings[name] for name in _SHARING if name in settings}
            self._reducers, _ = get_memmapping_reducers(
                temp_folder_resolver=self._files.resolve_temp_folder_name, unlink_on_gc_collect=False, **how
            )

    @property
    def shares(self) -> bool:
        """Whether large arrays lie in files."""
        return self._files is not None

    def pack(self, call: Callable[[], Any]) -> tuple[bytes, tuple[Reference, ...]]:
        """A batch, pickled; and the references in it.

        Raises:
            CannotPickle: an object in it cannot be pickled.
        """
        try:
            return apart(lambda: dump_by_value(call, self._reducers))
        except Exception as error:
            raise CannotPickle("the task to send to the workers", sentence(error)) from error

    def close(self) -> None:
        """Remove the files."""
        files, self._files = self._files, None
        if files is not None:
            files._clean_temporary_resources(force=False, allow_non_empty=True)


def register(*, make_default: bool = False, **settings: Unpack[Settings]) -> None:
    """Make the backend known to joblib, as ``"dtq"``.

    Args:
        make_default: use it if no backend is named. A `Parallel` without ``n_jobs`` then still runs in the program;
            else it uses all slots.
        settings: defaults of the backend's uses.
    """

    # A class, because joblib and others look up the class of a backend by its name.
    jobs = 1 if make_default else Backend.default_n_jobs
    named = type("Backend", (Backend,), {"registered": settings, "default_n_jobs": jobs, "__module__": __name__})
    joblib.register_parallel_backend("dtq", named, make_default=make_default)


class Backend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs joblib's batches of calls as tasks.

    Args:
        nesting_level: joblib's own.
        inner_max_num_threads: number of threads of numerical libraries in a slot; None for a fair share of the cores.
        settings: see `Settings`.
    """

    #: Defaults of the backend's uses; see `register`.
    registered: ClassVar[Settings] = {}

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    #: As many as there are slots, by default.
    default_n_jobs = -1

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **settings: Any
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._settings: dict[str, Any] = {**self.registered, **settings}
        self._packing: Packing | None = None
        self._variables: dict[str, str] = {}
        #: The executor of the present use; another one after an abort.
        self._workers: Executor | None = None
        self._own: Executor | None = None
        self._lock = threading.Lock()
        self._futures: set[Future[Any]] = set()
        self._waits: AbstractContextManager[None] | None = None

    def configure(self, n_jobs: int | None = 1, parallel: Any = None, **kwargs: Any) -> int:
        """Begin a use of the backend.

        Returns:
            The number of calls that run at once, for joblib's batches.

        Raises:
            FallbackToBackend: the number is one.
            Unreachable: no coordinator answers.
            InvalidValue: a setting is invalid.
        """
        if n_jobs is None:
            n_jobs = self.default_n_jobs
        if n_jobs == 1:  # as with joblib's own: then no call is parallel
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        settings = {**self._settings, **kwargs}
        if _of_parent(settings):
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self._workers, made = self._find(settings)
        self._own = self._workers if made else None
        jobs = self.effective_n_jobs(n_jobs)
        context = getattr(parallel, "_id", None) or uuid.uuid4().hex
        self._packing = Packing(settings, context, self._workers._completer.cluster is not None)
        self._variables = self._prepare_worker_env(n_jobs=max(1, jobs))
        return jobs

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """The number of calls that run at once.

        Args:
            n_jobs: the requested number; below zero it counts from the number of slots, -1 being all; None for the
                default.

        Raises:
            ValueError: it is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            n_jobs = self.default_n_jobs
        if n_jobs != 1 and self._workers is None and _of_parent(self._settings):
            return 1
        # With one job joblib would not ask the backend at all, and a cluster of one slot would do nothing.
        return n_jobs if n_jobs > 0 else max(2, self._slots() + 1 + n_jobs)

    def _slots(self) -> int:
        if self._workers is not None:
            return self._workers._max_workers
        executor, made = self._find(self._settings)
        try:
            return executor._max_workers
        finally:
            if made:
                executor.shutdown()

    @staticmethod
    def _find(settings: dict[str, Any]) -> tuple[Executor, bool]:
        """The selected executor, and whether it was made for this use."""
        terms = {name: value for name, value in settings.items() if name not in (*_JOBLIB, *_WHERE)}
        executor = settings.get("executor")
        if executor is None:
            where = {name: settings[name] for name in ("address", "authkey_file") if name in settings}
            return Executor(**where, **terms), True
        if not isinstance(executor, Executor):
            raise InvalidValue("executor", repr(executor)[:80], "it is a dtq.Executor")
        return executor.options(**terms) if terms else executor, False

    def start_call(self) -> None:
        """Begin a call of `joblib.Parallel`: inside a task, that waits for others until the call ends."""
        self._waits = waiting()
        self._waits.__enter__()

    def stop_call(self) -> None:
        """End the call, or give it up."""
        waits, self._waits = self._waits, None
        if waits is not None:
            waits.__exit__(None, None, None)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None) -> Future[Any]:
        """Run a batch of calls.

        Args:
            func: the batch.
            callback: called with the future when it has ended.
        """
        assert self._workers is not None
        assert self._packing is not None
        future = self._submit(self._workers, self._packing, func)
        with self._lock:
            self._futures.add(future)
        future.add_done_callback(self._forget)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def _submit(self, executor: Executor, packing: Packing, func: Callable[[], Any]) -> Future[Any]:
        try:
            packed, references = packing.pack(func)
        except CannotPickle as error:
            future: Future[Any] = Future()
            future.set_exception(error)
            return future
        threads = int(self._variables[self.MAX_NUM_THREADS_VARS[0]])
        how = self._variables, threads, packing.initializer, packing.shares
        return executor.submit(run_batch, packed, references, *how)

    #: The method's name before joblib 1.5.
    apply_async = submit

    def compute_batch_size(self) -> int:
        """The number of calls in the next batch.

        joblib doubles it as long as batches end too soon. Here a round trip takes longer than in a pool of processes,
        so it grows faster; at most to the size at which a batch takes joblib's wanted time.
        """
        before: int = self._effective_batch_size  # type: ignore[has-type]  # joblib is not typed
        duration_s: float = self._smoothed_batch_duration
        size: int = super().compute_batch_size()
        if size == 2 * before and duration_s > 0:
            wanted = int(2 * before * self.MIN_IDEAL_BATCH_DURATION / duration_s)
            self._effective_batch_size = size = max(size, min(_GROWTH * before, wanted))
        return size

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The results of a batch; raises the exception of its first failed call."""
        result = out.result()
        return pickle.loads(result) if type(result) is bytes else result

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop all submitted tasks, running ones too."""
        assert self._workers is not None
        client = self._workers.client
        self._workers = self._workers.options()
        ids = self._accepted()
        for start in range(0, len(ids), _NAMED):
            try:
                client.cancel(*ids[start : start + _NAMED])
            except DtqError as error:
                log.warning("tasks that joblib gave up go on, as they could not be stopped: %s", error)
                return

    def _accepted(self) -> list[str]:
        """The submitted tasks that have not ended."""
        with self._lock:
            futures = list(self._futures)
        ids = []
        for future in futures:
            task = future.task if isinstance(future, TaskFuture) else None
            try:
                if task is None or task.done():
                    continue
                if not task.accepted(ACCEPT_S):
                    break  # the coordinator is away: the other calls would fail, too
                ids.append(task.id)
            except DtqError:
                pass  # it was refused: there is no task to stop
        return ids

    def terminate(self) -> None:
        """End a use of the backend."""
        own, self._own = self._own, None
        self._workers = None
        if self._packing is not None:
            self._packing.close()
        self.reset_batch_stats()
        if own is not None:
            own.shutdown(wait=False)

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._futures.discard(future)

    def __reduce__(self) -> tuple[Any, ...]:
        # joblib may send a backend along for nested calls: there, it connects anew.
        settings = {name: value for name, value in self._settings.items() if name != "executor"}
        return _unreduced, (settings, self.nesting_level, self.inner_max_num_threads)


def _of_parent(settings: dict[str, Any]) -> bool:
    """Whether the selected executor belongs to the process that this one was forked from; then a warning says so.

    As with joblib's own processes, calls nested in those of its ``"multiprocessing"`` are not parallel.
    """
    executor = settings.get("executor")
    if not isinstance(executor, Executor) or not executor._completer.inherited:
        return False
    text = "dtq-backed parallel loops cannot use the executor of a process from a child made by fork, setting n_jobs=1"
    warnings.warn(text, stacklevel=4)
    return True


def _unreduced(settings: dict[str, Any], nesting_level: int | None, inner_max_num_threads: int | None) -> Backend:
    return Backend(nesting_level, inner_max_num_threads, **settings)
