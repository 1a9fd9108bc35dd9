"""One error tree with stable codes, the same on both sides of the wire.

Ground floor: imports nothing of dtq but `wording`. Every error keeps its raw arguments (``args``) and builds its
sentence in ``__str__``, so that it survives a pickle and the wire unchanged: its form on the wire is ``(code, args)``.
The sentence names the event and the remedy. ``exit_code`` is the command line's exit code (from sysexits.h where one
fits).
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from pickle import PicklingError, UnpicklingError
from typing import ClassVar

from dtq.wording import counted, duration

#: Types of an error's arguments: the scalars that cross the wire.
Scalar = str | int | float | bool | None


class _Argument:
    """An argument of an error, as its sentence shows it.

    Args:
        value: the argument. A peer of another version may have sent another type than the sentence expects.
    """

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        return repr(self._value)

    def __str__(self) -> str:
        return str(self._value)

    def __format__(self, spec: str) -> str:
        value = self._value
        if spec == "duration" and isinstance(value, int | float):
            return duration(value)
        if spec == "," and isinstance(value, int):
            return f"{value:,}"
        if spec.startswith("#") and isinstance(value, int):
            return counted(value, spec[1:])
        return str(value)


class DtqError(Exception):
    """An error inside dtq."""

    #: Stable name of the error on the wire and in JSON; never renamed.
    code: ClassVar[str] = "error"
    #: Exit code of a command that ends with this error.
    exit_code: ClassVar[int] = 70
    #: Whether the same call may succeed later without any intervention.
    retryable: ClassVar[bool] = False
    #: The sentence; ``{0}``, ``{1}`` are the raw arguments, ``{0:#task}`` a number with its noun, ``{0:duration}`` a
    #: number of seconds.
    text: ClassVar[str] = "{0}"
    #: The remedy, if the sentence does not name it already.
    hint: ClassVar[str] = ""

    def __str__(self) -> str:
        return f"{self.sentence} {self.hint if self.args else ''}".rstrip()

    @property
    def sentence(self) -> str:
        """The event, without the remedy."""
        if not self.args:
            return (self.__doc__ or type(self).__name__).splitlines()[0]
        return self.text.format(*map(_Argument, self.args))


class InternalError(DtqError):
    """The coordinator met an error of its own; its log has the traceback."""

    code = "internal"
    text = "the coordinator met an error of its own ({0}); its log has the traceback."


# -- wrong use, found before anything is sent ---------------------------------------------------------------------


class InvalidValue(DtqError, ValueError):
    """A value is not one that dtq can use."""

    code = "invalid-value"
    exit_code = 2
    text = "{0} cannot be {1!r}: {2}."


class InvalidAddress(DtqError, ValueError):
    """An address is not host:port."""

    code = "invalid-address"
    exit_code = 2
    text = "{0!r} is not an address: write host:port, for example 127.0.0.1:3870."


class InvalidId(DtqError, ValueError):
    """A task id is not a number or number.number."""

    code = "invalid-id"
    exit_code = 2
    text = "{0!r} is not a task id: write a batch (17), one task of it (17.3), or a run of them (17.0-46)."


class NotImportable(DtqError, PicklingError, TypeError):
    """A function cannot be imported by its name, and so cannot travel by reference."""

    code = "not-importable"
    exit_code = 65
    #: Addition to the hint if that extra is missing.
    closures: ClassVar[str] = ", or install the extra dtq[closures] to send it by value"
    text = "{0} cannot be imported by name ({1}). Put it in a module that the workers can import{2}."


class CannotPickle(DtqError, PicklingError, TypeError):
    """An argument cannot be pickled, so it cannot be sent."""

    code = "cannot-pickle"
    exit_code = 65
    text = "{0} cannot be pickled: {1}."
    hint = "Nothing was submitted; pass plain data (paths, numbers, arrays) instead."


class ResultCannotPickle(CannotPickle):
    """A result cannot be pickled, so it cannot be sent back."""

    code = "result-cannot-pickle"
    text = "{0} cannot be pickled: {1}."
    hint = "Return plain data (paths, numbers, arrays) instead."


class CannotUnpickle(DtqError, UnpicklingError, ValueError):
    """A received pickle cannot be unpickled on this side."""

    code = "cannot-unpickle"
    exit_code = 65
    text = "{0} cannot be unpickled here: {1}."
    hint = "Both sides need the same modules, in versions that can read each other's pickles."


class OtherPython(CannotUnpickle):
    """An object was sent by value from another version of Python."""

    code = "other-python"
    text = "{0} cannot be unpickled here: it was sent by value from Python {1}, and this is Python {2}."
    hint = (
        "Code by value needs the same minor version on both sides: start a worker of that version for its "
        "queue, or put the code into a module that workers can import."
    )


class CannotImport(DtqError, ImportError):
    """A function's module cannot be imported where the function is to run."""

    code = "cannot-import"
    exit_code = 65
    text = "{0} cannot be imported by {1}: {2}. It runs Python {3} with sys.path {4}."
    hint = "Install the module there, or start the worker with --path DIR."


class NotRegistered(CannotImport):
    """A worker got a task of a registered type that it does not know."""

    code = "not-registered"
    text = "the task type {0} is not known to {1}: no module imported there registers it."
    hint = "Start the worker with --import MODULE, or keep tasks of this type in a queue of workers that know the type."


class ClientClosed(DtqError, RuntimeError):
    """The client was closed."""

    code = "client-closed"
    exit_code = 2
    text = "this client is closed ({0})."
    hint = "Make a new one; accepted tasks go on, and can be found by their ids."


class TooLarge(DtqError, ValueError):
    """A call, result or value is larger than its limit."""

    code = "too-large"
    exit_code = 65
    text = "{0} has {1:#byte}, more than the limit of {2:,}."
    hint = "Pass a path to a file, or split it; the coordinator's --max-value and --max-message are the limits."


class BadInput(DtqError, ValueError):
    """A line of a file of calls is malformed."""

    code = "bad-input"
    exit_code = 65
    text = "{0}, line {1}: {2}."


class BadFile(DtqError, ValueError):
    """A file is malformed."""

    code = "bad-file"
    exit_code = 65
    text = "{0}: {1}."


class BundleTooLarge(DtqError, ValueError):
    """The files of a bundle are too many or too large."""

    code = "bundle-too-large"
    exit_code = 65
    text = "the files of {0} cannot travel with the task: {1}; {2}."
    hint = (
        "Python files and those of --include travel, without those of --exclude. Put data where the workers find it, "
        "and pass its path."
    )


class BadConfig(DtqError):
    """A configuration file or variable has a value that cannot be used."""

    code = "bad-config"
    exit_code = 78
    text = "{0}: {1}."


class KeyMissing(DtqError):
    """There is no authkey to connect with."""

    code = "key-missing"
    exit_code = 78
    text = "no authkey found: {0} does not exist."
    hint = (
        "Start a coordinator as this user (`dtq up`; it makes the key), or copy its key file here and pass "
        "--authkey-file, or set DTQ_AUTHKEY_FILE."
    )


class KeyMissingInTask(KeyMissing):
    """There is no authkey for the client of a task."""

    code = "key-missing-in-task"
    text = "no authkey found for the client of a task: {0} does not exist here, and the worker gives its tasks none."
    hint = (
        "Start the worker with --tasks-may-submit (DTQ_TASKS_MAY_SUBMIT), or the local cluster with "
        "tasks_may_submit=True: Client() then uses the worker's coordinator and key. Or submit from outside of tasks."
    )


class SlotsWaiting(DtqError, RuntimeError):
    """All slots of a worker wait for tasks, and no slot is left to run these."""

    code = "slots-waiting"
    exit_code = 75
    text = "every slot of the worker {1} ({0} of them) runs a task that waits for others, so no slot is left for those."
    hint = "This task was ended to make room; start more workers, or allow more with --max-waiting (DTQ_MAX_WAITING)."


class KeyUnusable(DtqError):
    """The authkey file cannot be used as it is."""

    code = "key-unusable"
    exit_code = 77
    text = "the authkey file {0} cannot be used: {1}."


# -- the connection -----------------------------------------------------------------------------------------------


class Unreachable(DtqError, ConnectionError):
    """The coordinator does not answer."""

    code = "unreachable"
    exit_code = 69
    retryable = True
    text = "no coordinator answers at {0} ({1})."
    hint = "Start one with `dtq coordinator start`, or point --connect or DTQ_ADDRESS at the right host:port."


class TlsFailed(Unreachable):
    """The two sides do not agree on TLS."""

    code = "tls-failed"
    exit_code = 77
    text = "no TLS with the coordinator at {0}: {1}."
    hint = "Both sides need certificates of one authority (--tls, DTQ_TLS); `dtq keygen --tls` makes them."


class ConnectionsFull(Unreachable):
    """The coordinator's number of connections has reached its limit."""

    code = "connections-full"
    exit_code = 75
    text = "the coordinator has {0:#connection} already, the limit of its --max-connections."
    hint = "Close some, or start it with a higher --max-connections (DTQ_MAX_CONNECTIONS)."


class WrongKey(DtqError, PermissionError):
    """The other side has another authkey."""

    code = "wrong-key"
    exit_code = 77
    text = "the coordinator at {0} refused the handshake: it has another authkey than {1}."
    hint = "Copy the coordinator's key file here and pass --authkey-file."


class ProtocolMismatch(DtqError):
    """The two sides speak different versions of the protocol."""

    code = "protocol-mismatch"
    exit_code = 76
    text = "this side speaks protocol {0}, the other side {1}."
    hint = "Install the same version of dtq on both."


class BadMessage(DtqError):
    """A message breaks the protocol."""

    code = "bad-message"
    exit_code = 76
    text = "message refused: {0}."


class NotPermitted(DtqError, PermissionError):
    """The connection does not permit this call."""

    code = "not-permitted"
    exit_code = 77
    text = "{0} is not permitted on this connection."


class RoleMissing(NotPermitted):
    """The key lacks the role for this call."""

    code = "role-missing"
    text = "the key {0} may not do this: {1}."  # an OSError keeps at most two arguments
    hint = "Use a key that has it; `dtq key new` makes one."


class PortInUse(DtqError, OSError):
    """Another process listens on the coordinator's address."""

    code = "port-in-use"
    exit_code = 73
    text = "cannot listen on {0}: {1}."
    hint = "Stop the other process, or choose another --port."


class ShuttingDown(DtqError):
    """The coordinator is stopping and takes no more work."""

    code = "shutting-down"
    exit_code = 75
    retryable = True
    text = "the coordinator is stopping and takes no more work; try again when it is back ({0})."


class ClusterEnded(DtqError, RuntimeError):
    """The cluster that this program runs for itself has ended, or could not be started."""

    code = "cluster-ended"
    exit_code = 69
    text = "the local cluster is not running: {0}."


class InitializerFailed(DtqError):
    """The initializer that a cluster's slots begin with failed, so that no slot can start."""

    code = "initializer-failed"
    exit_code = 65
    text = "the initializer failed in a slot: {0}."


class SessionUnknown(DtqError):
    """The coordinator does not know this session (it has restarted, or the session was silent for too long)."""

    code = "session-unknown"
    exit_code = 75
    retryable = True
    text = "the coordinator does not know session {0}; say hello again."


class StoreReplaced(DtqError):
    """The coordinator has another store than the one that a client has used."""

    code = "store-replaced"
    exit_code = 75
    retryable = True
    text = "the coordinator at {0} has another store now; tasks of the store before are unknown there."
    hint = "Submit the tasks that are still needed again."


# -- the queue ----------------------------------------------------------------------------------------------------


class UnknownId(DtqError, LookupError):
    """No such task or batch."""

    code = "unknown-id"
    exit_code = 65
    text = "no task {0} is known here: it was never accepted, or it was purged."
    hint = "`dtq list` shows the tasks."


class QueueFull(DtqError):
    """The number of unfinished tasks has reached its limit."""

    code = "queue-full"
    exit_code = 75
    retryable = True
    text = "the queue already holds {0:#task}, its limit is {1:,}."
    hint = "Wait for workers to catch up, or start the coordinator with a higher --max-tasks (DTQ_MAX_TASKS)."


class FunctionsFull(QueueFull):
    """The functions and options of unfinished tasks have reached the limit of their memory."""

    code = "functions-full"
    text = "the functions and options of unfinished tasks take {0:,} bytes, the limit is {1:,}."
    hint = "Wait for workers to catch up; send few functions with many arguments, or functions by their names."


class EdgesFull(QueueFull):
    """The number of dependencies has reached its limit."""

    code = "edges-full"
    text = "unfinished tasks have {0:,} dependencies together, the limit is {1:,}."
    hint = "Wait until some have ended; wait for whole batches, not for each of their tasks."


class ParentUnknown(DtqError, LookupError):
    """A parent of a task does not exist, or is no longer kept."""

    code = "parent-unknown"
    exit_code = 65
    text = "a task cannot wait for {0}: {1}."
    hint = "It was not submitted."


class HoldsFull(QueueFull):
    """The number of clients' values has reached its limit."""

    code = "holds-full"
    text = "clients hold {0:,} put values, which is the most they may."
    hint = "Let go of references that are not needed any more (Reference.release)."


class LimitsFull(DtqError):
    """The number of limits has reached its bound."""

    code = "limits-full"
    exit_code = 65
    text = "there are {0:,} limits already, which is the most."
    hint = "Name many limits with one glob (dtq limit set 'tenant-*' ...), and remove unneeded ones."


class UnknownLimit(DtqError, LookupError):
    """No such limit."""

    code = "unknown-limit"
    exit_code = 65
    text = "there is no limit {0!r}."
    hint = "`dtq limit list` shows the limits."


class UnknownWorker(DtqError, LookupError):
    """No such worker."""

    code = "unknown-worker"
    exit_code = 65
    text = "no worker is named {0!r}."
    hint = "`dtq workers list` shows the connected workers."


class QueueDraining(DtqError):
    """A queue takes no new tasks, as an operator has asked."""

    code = "queue-draining"
    exit_code = 75
    text = "the queue {0!r} takes no new tasks: it is being drained."
    hint = "Submit to another queue, or let it take tasks again (dtq queue resume)."


class WholeBatchOnly(DtqError, ValueError):
    """One task of a batch cannot have a priority of its own."""

    code = "whole-batch-only"
    exit_code = 65
    text = "{0} is one task of a batch: the tasks of a batch have one priority."
    hint = "Name the batch."


class BatchTooLarge(DtqError, ValueError):
    """A batch would have more tasks than a batch may have."""

    code = "batch-too-large"
    exit_code = 65
    text = "the batch would have {0:#task}, more than the limit of {1:,}."
    hint = "Submit several batches, or start the coordinator with a higher --max-batch (DTQ_MAX_BATCH)."


class KeyConflict(DtqError):
    """The key of a submission already belongs to a different one."""

    code = "key-conflict"
    exit_code = 65
    text = "the key {0!r} already belongs to batch {1}, a different submission."


class UnknownSchedule(DtqError, LookupError):
    """No such schedule."""

    code = "unknown-schedule"
    exit_code = 65
    text = "no schedule is called {0!r}."
    hint = "`dtq schedule list` shows the schedules."


class ScheduleExists(DtqError):
    """The name of a schedule is taken."""

    code = "schedule-exists"
    exit_code = 65
    text = "there is a schedule {0!r} already, with another definition."
    hint = "Add --replace (replace=True) to change it."


class SchedulesFull(DtqError):
    """The number of schedules has reached its bound."""

    code = "schedules-full"
    exit_code = 75
    text = "no more schedules fit: there are {0:,}, whose calls have {1:,} bytes."
    hint = "Remove those that are over, and have functions read large data."


class CronMissing(DtqError):
    """The coordinator cannot read cron expressions."""

    code = "cron-missing"
    exit_code = 78
    text = "the coordinator cannot read the cron expression {0!r}: it runs without the extra dtq[cron]."
    hint = "Install it there (pip install 'dtq[cron]') and restart it; --every and --at work without."


class KeyTaken(KeyConflict):
    """The key of a submission is taken, which the submission makes an error."""

    code = "key-taken"
    text = "the key {0!r} is taken by batch {1}."


class ResultExpired(DtqError, LookupError):
    """The result was kept for its time and is gone."""

    code = "result-expired"
    exit_code = 65
    text = "the result of task {0} is no longer kept."


class ValueGone(DtqError, LookupError):
    """A value in a segment is no longer kept."""

    code = "value-gone"
    exit_code = 65
    text = "a value of {0:#byte} is no longer kept."


class ValueDamaged(DtqError):
    """A value in a segment has changed since it was written."""

    code = "value-damaged"
    exit_code = 74
    text = "a value of {0:#byte} is damaged: {1}."
    hint = "Check the coordinator's disk; submit the task that needs the value again."


class NotFinished(DtqError):
    """The task has no result yet."""

    code = "not-finished"
    exit_code = 75
    retryable = True
    text = "task {0} is still {1}."
    hint = "`dtq wait` waits for it."


class NotDead(DtqError, LookupError):
    """The task is not a dead letter."""

    code = "not-dead"
    exit_code = 65
    text = "task {0} is {1}, not a dead letter."
    hint = "`dtq status` shows any task."


class NotEnded(DtqError, LookupError):
    """The task has not ended, so it cannot be submitted once more."""

    code = "not-ended"
    exit_code = 65
    text = "{0} is {1}: only what has ended can be submitted once more."
    hint = "`dtq status` shows any task."


class NotRepeatable(DtqError, LookupError):
    """The task cannot be submitted once more."""

    code = "not-repeatable"
    exit_code = 65
    text = "{0} cannot be submitted once more: {1}."
    hint = "Submit it as it was submitted at first."


class WaitTimeout(DtqError, TimeoutError):
    """The wait ran out; the task goes on."""

    code = "wait-timeout"
    exit_code = 124
    retryable = True
    text = "{0} did not finish within {1:duration}; it goes on, and can be waited for again."


# -- the store ----------------------------------------------------------------------------------------------------


class StoreError(DtqError):
    """The store cannot be used."""

    code = "store-error"
    exit_code = 74
    text = "the store {0} cannot be used: {1}."


class StoreFull(StoreError):
    """The disk is full; accepted work is safe, new work is refused until there is room."""

    code = "store-full"
    exit_code = 75
    retryable = True
    text = "the disk of the store {0} is full ({1}); accepted work is safe, new work is refused."
    hint = "Make room on that disk; the coordinator goes on by itself."


class StoreUnwritable(StoreError):
    """The store cannot be written at the moment; accepted work is safe, new work is refused."""

    code = "store-unwritable"
    exit_code = 74
    retryable = True
    text = "the store {0} cannot be written ({1}); accepted work is safe, new work is refused."
    hint = "Check its disk; the coordinator tries again by itself."


class StoreLocked(StoreError):
    """Another coordinator uses the store."""

    code = "store-locked"
    exit_code = 73
    text = "the store {0} is in use by another coordinator (pid {1})."
    hint = "One coordinator a store: stop the other one, or pass another --db."


class StoreTooNew(StoreError):
    """The store was written by a newer dtq."""

    code = "store-too-new"
    exit_code = 78
    text = "the store {0} has schema {1}, this dtq knows up to {2}."
    hint = "Install the newer dtq; the file was not touched."


class StoreDamaged(StoreError):
    """The store is not readable as a whole."""

    code = "store-damaged"
    exit_code = 74
    text = "the store {0} is damaged: {1}."
    hint = "The file was not touched; restore a copy of it, or start with another --db."


# -- how a task ended ---------------------------------------------------------------------------------------------


class TaskError(DtqError):
    """A task ended without a result."""

    code = "task-error"
    exit_code = 1


class TaskFailed(TaskError):
    """The task raised an exception in every attempt, and the exception itself cannot be brought back."""

    code = "task-failed"
    text = "task {0} failed: {1}: {2}"


class TaskCrashed(TaskError):
    """The task's process died too often."""

    code = "task-crashed"
    text = "task {0} went to the dead letters: {1}."


class CommandFailed(TaskError):
    """The command of a task (`dtq run`) ended with an exit code other than 0, was killed, or could not be started."""

    code = "command-failed"
    text = "the command {0}."

    #: How it ended, with its output as far as that is kept: a `dtq.client.commands.CommandResult`.
    result: object = None

    @property
    def sentence(self) -> str:
        """How it ended; and the last line of its standard error."""
        last = str(self.args[1]) if len(self.args) > 1 else ""
        return f"the command {self.args[0]}: {last}" if last else super().sentence


class SoftTimeout(TaskError, TimeoutError):
    """A task has reached its ``soft_timeout``; raised in the task, which may catch it."""

    code = "soft-timeout"
    text = "the task has run for {0:duration}, its soft_timeout."


class HookFailed(TaskError):
    """A hook that runs around each task (``@dtq.around_task``) has failed."""

    code = "hook-failed"
    text = "the hook {0}, which runs around each task, failed {1}: {2}."


class TaskTimedOut(TaskError):
    """The task ran into its time limit in every attempt."""

    code = "task-timed-out"
    text = "task {0} went to the dead letters: {1}."


class TaskCancelled(TaskError, CancelledError):
    """The task was cancelled."""

    code = "task-cancelled"
    text = "task {0} was cancelled."

    @property
    def sentence(self) -> str:
        """The cancellation; and its reason, if no user asked for it."""
        return f"task {self.args[0]} was cancelled: {self.args[1]}." if len(self.args) > 1 else super().sentence


class ReturnedFalse(TaskError):
    """The handler of a registered task type returned False."""

    code = "returned-false"
    text = "the handler of {0} returned False, which is a failure."


class WorkerBroken(DtqError):
    """The worker cannot run tasks that other workers can, or its slots do not start: it has left."""

    code = "worker-broken"
    exit_code = 72
    text = "the worker {0} is broken: {1}."
    hint = "It has given its tasks back. Correct its installed modules, or its --path, and start it again."


class OnlyRegistered(TaskError):
    """The worker runs registered task types only."""

    code = "only-registered"
    text = "{0} was not run: {1} runs registered task types only."
    hint = "Submit a registered task type by its name, or start a worker without --only-registered for its queue."


class NotInTask(DtqError, RuntimeError):
    """current_task() was called outside of a task."""

    code = "not-in-task"
    exit_code = 2
    text = "{0} is only known while a task runs in a worker."


def _subclasses(root: type[DtqError]) -> list[type[DtqError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _subclasses(child))]


def to_wire(error: DtqError) -> tuple[str, tuple[Scalar, ...]]:
    """``(code, arguments)``: the form of an error on the wire."""
    return error.code, tuple(a if a is None or isinstance(a, str | int | float | bool) else str(a) for a in error.args)


def from_wire(code: str, args: tuple[Scalar, ...]) -> DtqError:
    """The error of these; an unknown code of a newer peer becomes a plain `DtqError` that names it."""
    for kind in _subclasses(DtqError):
        if kind.code == code:
            return kind(*args)
    return DtqError(f"{code}: {', '.join(map(str, args))}")
