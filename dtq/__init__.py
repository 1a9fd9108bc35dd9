"""dtq: a distributed task queue without a broker.

The public names. Each is imported at its first use: ``import dtq`` alone costs next to nothing, and a worker's slot
never loads the client's threads.
"""

from importlib import import_module

__version__ = "0.1.0"

TYPE_CHECKING = False  # true for type checkers; importing typing itself would be most of the cost of this import

if TYPE_CHECKING:
    from dtq.client.aio import AsyncClient
    from dtq.client.around import around_task
    from dtq.client.async_handle import AsyncBatchHandle, AsyncTaskHandle
    from dtq.client.batch_handle import BatchHandle
    from dtq.client.current import CurrentTask, current_task
    from dtq.client.executor import Executor
    from dtq.client.handle import TaskHandle
    from dtq.client.progress import progress
    from dtq.client.references import Reference
    from dtq.client.source_bundles import SourceBundle
    from dtq.client.sync import Client
    from dtq.client.taskqueue import TaskQueue, TaskStatus
    from dtq.client.tasks import task
    from dtq.client.waiting import as_completed, wait
    from dtq.daemon.program import Worker
    from dtq.errors import (
        CannotPickle,
        ClientClosed,
        DtqError,
        InvalidValue,
        KeyMissing,
        NotImportable,
        NotInTask,
        QueueFull,
        ResultExpired,
        SoftTimeout,
        TaskCancelled,
        TaskCrashed,
        TaskError,
        TaskFailed,
        TaskTimedOut,
        TooLarge,
        UnknownId,
        Unreachable,
        WaitTimeout,
        WrongKey,
    )
    from dtq.model.states import State

#: The module that defines each public name.
_HOMES = {
    "AsyncBatchHandle": "client.async_handle",
    "AsyncClient": "client.aio",
    "AsyncTaskHandle": "client.async_handle",
    "BatchHandle": "client.batch_handle",
    "Client": "client.sync",
    "CurrentTask": "client.current",
    "Executor": "client.executor",
    "Reference": "client.references",
    "SourceBundle": "client.source_bundles",
    "State": "model.states",
    "TaskHandle": "client.handle",
    "TaskQueue": "client.taskqueue",
    "TaskStatus": "client.taskqueue",
    "Worker": "daemon.program",
    "around_task": "client.around",
    "as_completed": "client.waiting",
    "current_task": "client.current",
    "progress": "client.progress",
    "task": "client.tasks",
    "wait": "client.waiting",
}

__all__ = [
    "AsyncBatchHandle",
    "AsyncClient",
    "AsyncTaskHandle",
    "BatchHandle",
    "CannotPickle",
    "Client",
    "ClientClosed",
    "CurrentTask",
    "DtqError",
    "Executor",
    "InvalidValue",
    "KeyMissing",
    "NotImportable",
    "NotInTask",
    "QueueFull",
    "Reference",
    "SourceBundle",
    "ResultExpired",
    "SoftTimeout",
    "State",
    "TaskCancelled",
    "TaskCrashed",
    "TaskError",
    "TaskFailed",
    "TaskHandle",
    "TaskQueue",
    "TaskStatus",
    "TaskTimedOut",
    "TooLarge",
    "UnknownId",
    "Unreachable",
    "WaitTimeout",
    "Worker",
    "WrongKey",
    "around_task",
    "as_completed",
    "current_task",
    "progress",
    "task",
    "wait",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"dtq.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = found  # looked up once
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
