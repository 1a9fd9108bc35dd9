"""A slot: the child process that runs tasks, one at a time.

Forked by its `reaper` (started by the supervisor on systems without one), with two descriptors and nothing else: no
key, no address. It reads leases from its pipe, runs their tasks in order and reports results in pages; its position is
in shared memory. It lives as long as its supervisor: the kernel kills it with its parent if it can, and the closed pipe
ends it elsewhere.

User code may do anything here (exit, crash, close every descriptor): whatever happens, the supervisor sees a report or
the end of the process. Process state that a task changed is restored before the next one (`process_state`); if it
cannot be, the process ends and another takes its place.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import importlib
import io
import os
import signal
import socket
import sys
from collections.abc import Callable
from mmap import mmap
from time import monotonic
from typing import Any, Final, NoReturn

from dtq.client import current
from dtq.client.around import hooked, registered_hooks
from dtq.client.by_value import sentence
from dtq.client.functions import cannot_import, resolve
from dtq.client.import_path import find_modules
from dtq.client.inheritance import Inheritance
from dtq.client.payloads import call_decoder, result_encoder
from dtq.client.runnables import runnable
from dtq.errors import BadMessage, CannotImport, DtqError, OnlyRegistered
from dtq.model import pages
from dtq.model.inputs import with_previous
from dtq.model.lru import SizedLru
from dtq.model.messages import Failure
from dtq.model.options import Function, FunctionKind
from dtq.model.values import Value, is_description, weight
from dtq.model.wire import codec
from dtq.records import replace
from dtq.values.place import Place
from dtq.worker.allotment import Portions, allotted, cards_of, has_opened_cards
from dtq.worker.arena import SIZE, Arena
from dtq.worker.channel import Channel
from dtq.worker.contexts import new_contexts
from dtq.worker.failures import Stage, bounded, describe, located, traceback_of
from dtq.worker.forgotten import Forgotten
from dtq.worker.forks import end_child, own_page
from dtq.worker.logrecords import mark_records
from dtq.worker.marked_stream import mark_streams
from dtq.worker.position import Position
from dtq.worker.process_state import ProcessState, Spoilt, seed_anew
from dtq.worker.program import Program, become, initialize
from dtq.worker.reaper import adopt_orphans, die_with
from dtq.worker.reports import (
    KEPT_BYTES,
    KEPT_RESULTS,
    MAX_KEPT,
    MAX_TEXT,
    MAX_TRACE,
    Advanced,
    Changed,
    Leaving,
    Misplaced,
    NoRoom,
    Prepared,
    Raised,
    Ready,
    Report,
    Stale,
    Stopped,
    Uninitialized,
    Unusable,
    Waiting,
    notice,
    plain,
)
from dtq.worker.resident import peak_memory, resident_memory
from dtq.worker.result_buffer import ResultBuffer
from dtq.worker.setters import Setters
from dtq.worker.siblings import empty_main, share_key, share_tracker
from dtq.worker.slotcode import OtherCode, admit
from dtq.worker.slotvalues import SlotValues
from dtq.worker.soft_timeout import softly
from dtq.worker.sources import Sources

#: Seconds without work before this process checks all state that tasks may have changed.
IDLE_S: Final = 0.003
#: Longest tiny task, in seconds: state is checked as soon as a longer task has ended, and after tiny ones at the end of
#: their lease.
TINY_S: Final = 0.004

#: Most remembered functions whose traces were reported, and most bytes of their names.
MOST_TOLD: Final = 1_000
MOST_TOLD_BYTES: Final = 1 << 16

#: Modules without which no import works.
_NEEDED: Final = frozenset({"sys", "builtins", "_frozen_importlib", __name__})
DECODE: Final = Stage.DECODE
CALL: Final = Stage.CALL
RESULT: Final = Stage.RESULT
_FUNCTION: Final = codec(Function)
_PROGRAM: Final = codec(Program)
_INHERITANCE: Final = codec(Inheritance)
_PLACE: Final = codec(Place | None)


class Spec:
    """A function as this process calls it, imported at its first call.

    Args:
        function: the function in its form for the wire.
        worker: the worker's name.
        only_registered: whether only registered task types may run: no other function is even unpickled.
        on_import: called after its import: the state that its module set up in this process stays.
    """

    __slots__ = (
        "_call",
        "_function",
        "_on_import",
        "_refused",
        "_worker",
        "decode",
        "depth",
        "encode",
        "identity",
        "queue",
        "reached",
        "run",
        "size",
        "soft_s",
        "stage",
        "tiny_s",
    )

    def __init__(self, function: Function, worker: str, only_registered: bool, on_import: Callable[[], None]) -> None:
        self._function = function
        #: The same for specs of one function, which may differ in their queue and other terms.
        self.identity = function.kind, function.name, hash(function.body)
        #: Bytes of a function that travelled by value.
        self.size = weight(function.body)
        self._worker = worker
        self._on_import = on_import
        #: Runs one call, in its own context, in which it must be called; None until the function is resolved.
        self.run: Callable[[bytes], bytes] | None = None
        self._call: Callable[..., Any] | None = None
        self._refused = only_registered and function.kind is not FunctionKind.REGISTERED
        self.stage = Stage.CALL if self._refused else Stage.of(function)
        #: The stage at which the last failed call ended.
        self.reached = CALL
        self.decode = call_decoder(function.kind)
        self.encode = result_encoder(function.kind)
        #: Longest tiny task of it, after which state is not checked at once; negative for a function that left traces
        #: before.
        self.tiny_s = TINY_S
        #: Number of tasks that submit tasks above its own.
        self.depth = 0
        #: The queue of its tasks, and the seconds after which `SoftTimeout` is raised in them; 0 for never.
        self.queue = ""
        self.soft_s = 0.0

    @property
    def name(self) -> str:
        """The function's name."""
        return self._function.name

    def resolve(self, own: mmap, values: SlotValues) -> Callable[[bytes], bytes]:
        """Make it ready: sets `run`.

        Args:
            own: see `forks.own_page`.
            values: for large arguments and results.

        Raises:
            OnlyRegistered: it must not run here.
            OtherCode: it must not run in this process.
            DtqError: it cannot be had here.
        """
        self.reached = self.stage
        if self._refused:
            raise OnlyRegistered(self._function.name, f"the worker {self._worker}")
        admit(self._function)
        self._call = runnable(
            resolve(self._function, f"the worker {self._worker}", values if values.present else None), self._function
        )
        self._function = replace(self._function, body=b"")  # no longer needed
        self._on_import()
        self.reached = CALL
        run = self.adapt(own, values)
        assert run is not None
        return run

    def adapt(self, own: mmap, values: SlotValues) -> Callable[[bytes], bytes] | None:
        """Make it ready again after the place of values has changed; None if it was not ready. Arguments as above."""
        call = self._call
        if call is not None:
            call = hooked(softly(call, self.soft_s) if self.soft_s else call)
            # The first result may be large, so it is not pickled in memory; the next ones are expected to be as large.
            run = self._running_large if values.present else self._running
            self.run = run(call, own, values)
        return self.run

    def _running(self, call: Callable[..., Any], own: mmap, values: SlotValues) -> Callable[[bytes], bytes]:
        """Runs one call whose result is probably small."""
        decode, encode, most = self.decode, self.encode, values.most
        readable = values if values.present else None

        def run(blob: bytes) -> bytes:
            try:
                args, kwargs = decode(blob, readable)
            except BaseException:
                self.reached = DECODE
                raise
            value = call(*args, **kwargs)
            try:
                result = encode(value)
                large = len(result) > most
                if large and own[0]:
                    result = values.keep(result)
            except BaseException:
                self.reached = RESULT
                raise
            if not own[0]:
                end_child(None)
            if large:
                self.run = self._running_large(call, own, values)
            return result

        return run

    def _running_large(self, call: Callable[..., Any], own: mmap, values: SlotValues) -> Callable[[bytes], bytes]:
        """Runs one call whose result is probably large."""
        decode, encode = self.decode, self.encode

        def run(blob: bytes) -> bytes:
            try:
                args, kwargs = decode(blob, values)
            except BaseException:
                self.reached = DECODE
                raise
            value = call(*args, **kwargs)
            del args, kwargs
            try:
                result = values.encode(encode, value)
            except BaseException:
                self.reached = RESULT
                raise
            if not own[0]:
                end_child(None)
            if not is_description(result):
                self.run = self._running(call, own, values)
            return result

        return run

    def located(self, error: BaseException, stage: Stage) -> BaseException:
        """See `failures.located`."""
        return located(error, stage, f"the worker {self._worker}")


class _Unfit(Exception):
    """This process must not run another task.

    Args:
        at_once: whether it ends without exit handlers, which might wait for processes left running.
    """

    def __init__(self, at_once: bool) -> None:
        super().__init__(at_once)
        self.at_once = at_once


class Slot:
    """Runs the supervisor's leases.

    Args:
        channel: to the supervisor.
        position: shared with it.
        arena: shared with it.
        setters: record tasks' changes.
        sources: the files of the modules that were imported so far.
        worker: the worker's name.
        max_result: longest result in bytes that is no value.
        max_memory: resident memory in bytes, after a task, above which it is replaced; None for any.
        keep_processes: whether processes that tasks leave running may go on.
        only_registered: whether only registered task types may run.
        reload: whether it is replaced after its imported code has changed.
    """

    def __init__(
        self,
        channel: Channel,
        position: Position,
        arena: Arena,
        setters: Setters,
        sources: Sources,
        worker: str,
        max_result: int,
        max_memory: int | None,
        keep_processes: bool,
        only_registered: bool,
        reload: bool,
    ) -> None:
        self._channel = channel
        self._unsent = ResultBuffer(channel, arena)
        self._start = position.starter()
        self._worker = worker
        self._max_memory = max_memory
        #: The clock; a user's test that patches the time module does not reach it here.
        self._clock = monotonic
        #: Functions whose traces were reported.
        self._told: SizedLru[str, bool] = SizedLru(MOST_TOLD_BYTES, MOST_TOLD)
        self._surroundings = ProcessState(keep_processes, setters)
        self._new_context = new_contexts()
        self._sources = sources
        self._reload = reload
        #: Whether it has waited for work since the last lease.
        self._waited = False
        #: See `forks.own_page`.
        self._own = own_page(self._unsent.before_fork, self._forked)
        self._values = SlotValues(self._own, max_result, self._unsent.describe, self._has_no_room)
        self._only_registered = only_registered
        self._specs: dict[int, Spec] = {}
        self._forgotten = Forgotten()
        #: The hooks around each task, as of the time when the functions were made ready.
        self._hooks = registered_hooks()
        self._token = 0
        self._index = 0
        #: Results that may be given to tasks of leases that are behind theirs, by lease.
        self._results: SizedLru[int, bytes] = SizedLru(KEPT_BYTES, KEPT_RESULTS)
        #: The graphics cards of the last task that had any.
        self._cards = ""
        #: The function that has run last.
        self._latest: Spec | None = None
        current.serve(worker, self._progress, self._wait)

    def run(self) -> None:
        """Serve until the pipe is closed, or this process is unfit for another task."""
        try:
            while (message := self._receive()) is not None:
                kind, *fields = message
                if kind == "lease":
                    self._lease(*fields)
                elif kind == "behind":
                    self._behind(*fields)
                elif kind == "allotted":
                    self._allotted(fields[0], *fields[1:])
                else:
                    self._heed(kind, *fields)
        except _Unfit as unfit:
            if unfit.at_once:
                _flush_streams()
                os._exit(0)

    def _heed(self, kind: str, *fields: Any) -> None:
        """Take a message of the supervisor's that is no lease."""
        if kind == "spec":
            self._specs[fields[0]] = self._spec(_FUNCTION.decode(fields[1]), *fields[2:])
        elif kind == "prepare":
            self._prepare(_FUNCTION.decode(fields[0]))
        elif kind == "settled":
            self._values.settled([Value(segment, 0, 0) for segment in fields[0]])
        elif kind == "place":
            self.move(_PLACE.decode(fields[0]))
        elif kind == "forget":
            self._forgotten.add(self._specs.pop(fields[0]).size)
        else:
            raise BadMessage(f"a slot is told {kind!r}")

    def move(self, place: Place | None) -> None:
        """Set the place of values from now on; None for none."""
        self._values.move(place)
        self._adapt()

    def mark_streams(self, position: Position) -> None:
        """Have what tasks print marked with the task (`marked_stream`)."""
        mark_streams(lambda: position.serial, self._own)

    def _adapt(self) -> None:
        """Make functions ready again after a change of their hooks or of the place of values."""
        self._hooks = registered_hooks()
        for spec in self._specs.values():
            spec.adapt(self._own, self._values)

    def _has_no_room(self, why: str) -> None:
        self._say(NoRoom(self._token, notice(why)))

    def _receive(self) -> Any | None:
        latest = self._latest
        if latest is not None and self._surroundings.overdue:
            # The next lease often comes soon, and would have to wait for that check.
            try:
                return self._channel.receive(self._waits, IDLE_S)
            except TimeoutError:
                self._look_after(latest, everything=True)
        return self._channel.receive(self._waits)

    def _waits(self) -> None:
        self._waited = True

    def _forked(self) -> None:
        """Handle a fork by a task, in the child: its messages must not be heard."""
        self._channel.close()

    def _imported(self) -> None:
        if not self._own[0]:
            end_child(None)
        self._surroundings.accept()
        self._new_context = new_contexts()
        self._sources.note()
        if registered_hooks() != self._hooks:
            self._adapt()

    def _spec(self, function: Function, depth: int = 0, queue: str = "", soft_s: float = 0.0) -> Spec:
        spec = Spec(function, self._worker, self._only_registered, self._imported)
        spec.depth, spec.queue, spec.soft_s = depth, queue, soft_s
        if self._max_memory is not None:
            spec.tiny_s = -1.0
        return spec

    def _prepare(self, function: Function) -> None:
        """Import a function in advance; its task will report a failure.

        Raises:
            _Unfit: its module has failed halfway: the task must find a process without the attempt.
        """
        latest = self._latest
        if latest is not None and self._surroundings.overdue:  # as before the first task of a function
            self._look_after(latest, everything=True)
        self._sources.note()
        self._sources.begin()
        sound = True
        try:
            self._spec(function).resolve(self._own, self._values)
        except BaseException as error:  # noqa: BLE001 - the edge to user code, at import
            if not self._own[0]:
                end_child(error)
            sound = isinstance(error, OtherCode) or _ran_nothing(error, function)
        self._imported()
        _flush_streams()
        self._say(Prepared(sound))
        if not sound:
            raise _Unfit(at_once=False)

    def _progress(self, done: float, total: float) -> None:
        if self._own[0]:
            self._say(Advanced(self._token, self._index, done, total))

    def _wait(self, seconds: float, blocked: bool) -> None:
        if self._own[0]:
            self._say(Waiting(self._token, self._index, seconds, blocked))

    def _say(self, report: Report) -> None:
        self._channel.send(*plain(report))

    def _lease(
        self,
        token: int,
        serial: int,
        batch: int,
        lo: int,
        single: bool,
        attempt: int,
        number: int,
        arguments: bytes,
        careful: bool,
    ) -> None:
        spec = self._specs[number]
        self._refuse_old_code()
        latest = self._latest
        if latest is not None and self._surroundings.overdue and (spec.run is None or spec.identity != latest.identity):
            # State that the import sets up is accepted, and no other change is; and one task's traces are not another's
            # to find.
            self._look_after(latest, everything=True)
        self._latest = spec
        current.lease(spec.depth, spec.name, spec.queue)
        self._token = token
        start, touched = self._start, self._surroundings.touched
        clock = self._clock
        unsent = self._unsent
        last = lo + pages.count(arguments) - 1
        result: bytes | None = None
        begun = clock()
        unsent.begin(token, lo, begun)
        for index, blob in enumerate(pages.unpack(arguments), lo):
            if not start(serial + index - lo, begun):
                self._flush(begun)
                self._say(Stopped(token, index))
                self._look_after(spec)
                return
            self._index = index
            current.begin(batch, index, single, attempt)
            try:
                run = spec.run or spec.resolve(self._own, self._values)
                result = self._new_context().run(run, blob)
            except BaseException as error:  # noqa: BLE001 - the edge to user code: whatever it raises is its outcome
                if self._failed(spec, serial + index - lo, index, begun, error):  # and so would the others
                    if index < last:
                        self._say(Stopped(token, index + 1))
                    return
                result = None
                begun = clock()
                unsent.begin(token, index + 1, begun)
                continue
            now = clock()
            more = index < last
            due = unsent.add(result, now, more)
            if more and now - begun > spec.tiny_s:
                self._look_after(spec)
            elif touched:
                self._look_after(spec, touched=True)
            if due or careful:
                start(serial + index - lo, begun)
                self._flush(now)
            begun = now
        self._keep(token, result)
        start(serial + last - lo, begun)
        self._flush(begun)
        self._look_after(spec)

    def _keep(self, token: int, result: bytes | None) -> None:
        """Keep the result of a lease's last task for leases that may be behind it, if it can be handed on as it is."""
        if result is not None and len(result) < MAX_KEPT and not is_description(result):
            self._results.put(token, result, len(result))

    def _behind(
        self,
        behind: int,
        token: int,
        serial: int,
        batch: int,
        lo: int,
        single: bool,
        attempt: int,
        number: int,
        arguments: bytes,
        careful: bool,
    ) -> None:
        """Run a lease that is behind another one, with the result of that one's task; give it back if that task has no
        result, or none that can be handed on as it is."""
        result = self._results.get(behind)
        if result is None:
            self._say(Stopped(token, lo))
            return
        calls = pages.pack([with_previous(call, result) for call in pages.unpack(arguments)], described=True)
        self._lease(token, serial, batch, lo, single, attempt, number, calls, careful)

    def _allotted(self, what: tuple[Portions, int, tuple[str, ...]], token: int, *lease: Any) -> None:
        """Run a lease whose task has further resources of the worker.

        Raises:
            _Unfit: the task has other graphics cards than this process, which opens them only once, has opened.
        """
        cards = cards_of(what[0])
        if cards and self._cards and cards != self._cards and has_opened_cards():
            self._say(Leaving(token, notice("has other graphics cards than this process has opened")))
            raise _Unfit(at_once=False)
        self._cards = cards or self._cards
        with allotted(self._surroundings, *what):
            self._lease(token, *lease)

    def _refuse_old_code(self) -> None:
        """Leave if imported code has changed on disk.

        Raises:
            _Unfit: it has.
        """
        sources = self._sources
        sources.note()
        if self._reload and (path := sources.changed(self._waited)):
            self._leave(path)
        self._waited = False
        sources.begin()

    def _leave(self, path: str, stopped: Stopped | None = None) -> NoReturn:
        """End because of old code, and have unfinished tasks run in another process."""
        self._say(Stale(notice(path)))
        if stopped is not None:
            self._say(stopped)
        raise _Unfit(at_once=False)

    def _failed(self, spec: Spec, serial: int, index: int, begun: float, error: BaseException) -> bool:
        """Report a failed task.

        Args:
            spec: its function.
            serial: its serial.
            index: its index.
            begun: when it began.
            error: its exception.

        Returns:
            Whether this process cannot run any task of the function.

        Raises:
            _Unfit: another process has to run it.
        """
        if not self._own[0]:
            end_child(error)
        token = self._token
        self._start(serial, begun)  # the position may have been changed by the task; before any report
        now, stage = self._clock(), spec.reached
        spec.reached = CALL
        self._flush(begun)
        if isinstance(error, OtherCode):
            self._say(Misplaced(notice(error.name)))
            self._say(Stopped(token, index))
            raise _Unfit(at_once=False)
        if stage is spec.stage and isinstance(error, CannotImport):
            if self._reload and (path := self._sources.has_now(spec.name)):
                self._leave(path, Stopped(token, index))
            error = self._sources.told(spec.name, error)
        failure = _describe(spec.located(error, stage), stage)
        self._say(Raised(token, index, now - begun, failure))
        self._look_after(spec)
        return stage is spec.stage and failure.unable

    def _look_after(self, spec: Spec, *, everything: bool = False, touched: bool = False) -> None:
        """Restore the state that a task may have changed, for the next one.

        Args:
            spec: the function that ran last.
            everything: see `ProcessState.restore`.
            touched: likewise.

        Raises:
            _Unfit: that is impossible.
        """
        current.end()
        self._sources.note()
        why = ""
        changed: list[str] = []
        try:
            changed = self._surroundings.restore(everything=everything, touched=touched)
        except Spoilt as spoilt:
            why = str(spoilt)
        if not why and not sys.modules.keys() >= _NEEDED:
            why = "removed modules that every import needs"
        spoilt_by_it = bool(why)
        if self._max_memory is not None and not why and (size := resident_memory()) > self._max_memory:
            why = f"leaves {size} bytes resident, more than --max-memory-per-slot, {self._max_memory}"
        if why:
            self._unsent.flush(self._clock())
            self._say(Leaving(self._token, notice(why)))
            raise _Unfit(at_once=spoilt_by_it)
        if changed:
            spec.tiny_s = -1.0
            if self._told.get(spec.name) is None:
                self._told.put(spec.name, True, len(spec.name))
                self._say(Changed(self._token, notice(", ".join(changed))))

    def _flush(self, now: float) -> None:
        current.end()
        _flush_streams()  # a task's output is written before its result
        self._unsent.flush(now)


def _describe(error: BaseException, stage: Stage) -> Failure:
    """Describe an exception for the coordinator."""
    current.end()
    _flush_streams()
    return describe(error, __file__, stage, peak_memory())


def _ran_nothing(error: BaseException, function: Function) -> bool:
    """Whether no code of a function's own module has run; its parent packages may have been imported.

    Args:
        error: the exception of `resolve`.
        function: the function.
    """
    cause = error.__cause__
    if not isinstance(cause, ModuleNotFoundError) or function.kind is not FunctionKind.IMPORT:
        return cause is None and isinstance(error, DtqError)
    module = function.name.partition(":")[0]
    return cause.name is not None and f"{module}.".startswith(f"{cause.name}.")


def _flush_streams() -> None:
    """Flush the task's buffered output."""
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105 - dearer, and done before every report
            stream.flush()
        except BaseException:  # noqa: BLE001 - whatever stands there is the task's own
            pass


def _be_sibling(inherited: Inheritance) -> None:
    """Become a sibling of the program's, or worker's, other processes for multiprocessing."""
    empty_main()
    if inherited.authkey:
        share_key(inherited.authkey)
    if inherited.tracker >= 0:
        os.set_inheritable(inherited.tracker, False)
        share_tracker(inherited.tracker)


def _prepare(
    channel: Channel,
    worker: str,
    paths: tuple[str, ...],
    imports: tuple[str, ...],
    init: str,
    program: Program,
    inherited: Inheritance,
) -> bool:
    """Make the user's modules importable, import the initial ones, and load the task types."""
    find_modules(paths)
    what = ""
    try:
        for what in imports:
            importlib.import_module(what)
        what = f"the program {program.path}" if program.path else "the registered task types"
        become(program)
    except BaseException as error:  # noqa: BLE001 - the edge to user code, at import
        why = cannot_import(what, f"the worker {worker}", error)
        args = tuple([bounded(str(arg), MAX_TRACE) for arg in why.args])
        channel.send(*plain(Unusable(bounded(traceback_of(error, __file__), MAX_TRACE), args)))
        return False
    try:
        initialize(inherited.initializer)
        if init:
            resolve(Function(name=init), f"the worker {worker}", None)()
    except BaseException as error:  # noqa: BLE001 - as above
        trace = bounded(traceback_of(error, __file__), MAX_TRACE)
        channel.send(*plain(Uninitialized(trace, bounded(sentence(error), MAX_TEXT))))
        return False
    return True


def main(parent: int, channel_fd: int, position_fd: int, forked: Sources | None = None, tracker: int = -1) -> int:
    """Be a slot until there is no more work.

    Args:
        parent: the process that this one must not outlive.
        channel_fd: descriptor of the pipe.
        position_fd: descriptor of the shared memory.
        forked: if forked from a process with imported modules, their files.
        tracker: then, descriptor of the pipe to the resource tracker; -1 for none.

    Returns:
        The exit code.
    """
    die_with(parent, signal.SIGKILL)
    adopt_orphans()
    os.set_inheritable(channel_fd, False)
    channel = Channel(socket.socket(fileno=channel_fd))
    position = Position(position_fd, SIZE)
    position.keep_from_children()
    arena = Arena(position.memory)
    os.close(position_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()  # the place of a crash is among its last words
    setters = Setters()
    setters.watch()
    sources = Sources() if forked is None else forked
    if forked is not None:
        seed_anew()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    greeting = channel.receive(lambda: None)
    if greeting is None:
        return 0
    worker, paths, imports, init, *limits, plain_program, plain_inheritance, plain_place = greeting
    mark_records()
    inherited = _INHERITANCE.decode(plain_inheritance)
    if forked is not None:
        inherited = replace(inherited, tracker=tracker)
    current.become_slot(current.Access(inherited.addresses, inherited.clientkey) if inherited.clientkey else None)
    _be_sibling(inherited)
    if not _prepare(channel, worker, paths, imports, init, _PROGRAM.decode(plain_program), inherited):
        return 1
    sources.begin()
    sources.note()
    slot = Slot(channel, position, arena, setters, sources, worker, *limits)
    slot.move(_PLACE.decode(plain_place))
    if not inherited.streams:
        slot.mark_streams(position)
    channel.send(*plain(Ready(os.getpid())))
    with contextlib.suppress(BrokenPipeError, ConnectionError):
        try:
            slot.run()
        except BadMessage as error:
            _last_word(f"a task has disturbed the pipe between its slot and the worker: {error}")
            os._exit(1)
        except OSError as error:
            if error.errno == errno.EBADF:
                _last_word("the task closed the pipe between its slot and the worker")
                os._exit(1)
            raise
    return 0


def _last_word(text: str) -> None:
    """Report why this process ends, as far as that can still be heard."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
