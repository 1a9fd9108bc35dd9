"""The state of the dashboard: what is shown, where the cursor is, what is typed. Pure data; `keys` changes it."""

from __future__ import annotations

from enum import Enum
from typing import Final

from dtq.dashboard.charts import BLOCKS
from dtq.model.dashboard import Dashboard, History, QueueLine, WorkerLine
from dtq.model.explanations import Explanation
from dtq.model.snapshots import DeadLetter, TaskView
from dtq.model.states import State
from dtq.records import dataclass, field


class Page(Enum):
    """A page, by its key."""

    OVERVIEW = "1"
    QUEUES = "2"
    WORKERS = "3"
    TASKS = "4"
    DEAD = "5"


#: The names of the pages.
TITLES: Final = {
    Page.OVERVIEW: "overview",
    Page.QUEUES: "queues",
    Page.WORKERS: "workers",
    Page.TASKS: "tasks",
    Page.DEAD: "dead letters",
}
#: The states of the tasks on the page of tasks, in the order of the tabs.
TABS: Final = (
    State.RUNNING,
    State.PENDING,
    State.SCHEDULED,
    State.BLOCKED,
    State.SUCCEEDED,
    State.DEAD,
    State.CANCELLED,
)
#: Seconds between two refreshes, of which one is chosen.
REFRESHES: Final = (1.0, 2.0, 5.0, 0.25)
#: The orders of rows on the pages with queues and workers.
SORTS: Final = {
    Page.QUEUES: ("ready", "name", "running", "oldest"),
    Page.WORKERS: ("state", "name", "busy", "cpu", "memory"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The connection to the coordinator.

    Attributes:
        address: its address.
        heard_at: when it last answered, ``time.monotonic()``.
        lost_at: since when it does not answer, likewise; None while it does.
        why: why it does not.
    """

    address: str
    heard_at: float = 0.0
    lost_at: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Something to be done at the coordinator.

    Attributes:
        verb: ``pause``, ``resume``, ``drain``, ``retry``, ``cancel`` or ``purge``.
        names: the queues, or the sessions of workers.
        runs: the tasks: batch, first index, and how many.
        what: the same in words.
    """

    verb: str
    names: tuple[str, ...] = ()
    runs: tuple[tuple[int, int, int], ...] = ()
    what: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A task whose page is open.

    Attributes:
        task: the task, with its history.
        explained: why it is in its state, and what helps; None if the coordinator does not say.
        arguments: its arguments in a line; empty if they are no longer kept.
        printed: what its latest attempt has printed, as far as it is kept here.
    """

    task: TaskView
    explained: Explanation | None = None
    arguments: str = ""
    printed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Everything that a frame shows.

    Attributes:
        link: the connection.
        page: the page.
        seen: the latest snapshot; None before the first.
        history: the history, merged.
        tasks: the tasks on their page; None before they were asked for.
        letters: the dead letters, likewise.
        opened: the task whose page is open; None before it was asked for.
        wanted: that task, by batch and index; None for none.
        tab: which of `TABS` the page of tasks shows.
        period: which of `charts.PERIODS` the chart shows.
        refresh: which of `REFRESHES` is chosen.
        frozen: whether nothing is refreshed.
        filters: the filter of each page.
        typing: the filter that is being typed; None for none.
        sorts: which of `SORTS` the rows of a page have.
        cursors: the row of the cursor on each page.
        marked: the keys of the selected rows of the page.
        scroll: the first line of the open task's page.
        asked: an order that waits for a yes.
        said: the result of the last order, or an error.
        help: whether the keys are shown.
        blocks: the characters of bars.
        monotonic: ``time.monotonic()`` of the frame.
    """

    link: Link
    page: Page = Page.OVERVIEW
    seen: Dashboard | None = None
    history: tuple[History, ...] = ()
    tasks: tuple[TaskView, ...] | None = None
    letters: tuple[DeadLetter, ...] | None = None
    opened: Opened | None = None
    wanted: tuple[int, int] | None = None
    tab: int = 0
    period: int = 0
    refresh: int = 0
    frozen: bool = False
    filters: dict[Page, str] = field(default_factory=dict)
    typing: str | None = None
    sorts: dict[Page, int] = field(default_factory=dict)
    cursors: dict[Page, int] = field(default_factory=dict)
    marked: frozenset[str] = frozenset()
    scroll: int = 0
    asked: Order | None = None
    said: str = ""
    help: bool = False
    blocks: str = BLOCKS
    monotonic: float = 0.0

    @property
    def filter(self) -> str:
        """The filter of the page, as far as it is typed."""
        return self.typing if self.typing is not None else self.filters.get(self.page, "")

    @property
    def cursor(self) -> int:
        """The row of the cursor."""
        return self.cursors.get(self.page, 0)


# -- rows -------------------------------------------------------------------------------------------------------------


def queues(board: Board) -> list[QueueLine]:
    """The queues of the page, filtered and in their order."""
    found = [] if board.seen is None else list(board.seen.queues)
    found = [queue for queue in found if board.filter.lower() in queue.name.lower()]
    order = SORTS[Page.QUEUES][board.sorts.get(Page.QUEUES, 0)]
    if order == "name":
        return sorted(found, key=lambda queue: queue.name)
    if order == "running":
        return sorted(found, key=lambda queue: (-queue.running, queue.name))
    if order == "oldest":
        return sorted(found, key=lambda queue: (-(queue.oldest_s or 0.0), queue.name))
    return found


def workers(board: Board) -> list[WorkerLine]:
    """The workers of the page, filtered and in their order."""
    found = [] if board.seen is None else list(board.seen.workers)
    wanted = board.filter.lower()
    found = [worker for worker in found if wanted in f"{worker.name} {worker.host} {worker.state.value}".lower()]
    order = SORTS[Page.WORKERS][board.sorts.get(Page.WORKERS, 0)]
    if order == "name":
        return sorted(found, key=lambda worker: worker.name)
    if order == "busy":
        return sorted(found, key=lambda worker: (-worker.busy, worker.name))
    if order == "cpu":
        return sorted(found, key=lambda worker: (-(worker.cpu or 0.0), worker.name))
    if order == "memory":
        return sorted(found, key=lambda worker: (-(worker.memory or 0), worker.name))
    return found


def keys_of(board: Board) -> list[str]:
    """The keys of the page's rows, in their order."""
    if board.page is Page.QUEUES:
        return [queue.name for queue in queues(board)]
    if board.page is Page.WORKERS:
        return [worker.session or f"lost {worker.name}" for worker in workers(board)]
    if board.page is Page.TASKS:
        return [f"{task.batch}.{task.index}" for task in board.tasks or ()]
    if board.page is Page.DEAD:
        return [f"{letter.batch}.{letter.index}" for letter in board.letters or ()]
    failures = () if board.seen is None else board.seen.failures
    return [f"{failure.batch}.{failure.index}" for failure in failures]
