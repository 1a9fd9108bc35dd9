"""A schedule that is due while faults happen: each of its due times has to make one submission."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

from dtq.client.payloads import call_encoder
from dtq.errors import DtqError, UnknownSchedule
from dtq.model.options import Function, FunctionKind, Options, Spec
from dtq.model.schedules import CatchUp, Rule, Schedule, ScheduleView
from dtq.model.service import Service
from soak_rig.records import Records
from soak_rig.scene import PATIENCE_S, Scene, Stuck
from soak_rig.verdict import Violation

NAME: Final = "soak"
#: What the keys of its batches begin with.
KEYS: Final = f"schedule/{NAME}/"
#: From one due time to the next, in seconds.
EVERY_S: Final = 0.5
#: How many due times may come between the last look and the pause.
_BETWEEN: Final = 4


class Timetable:
    """Defines the schedule, pauses it in the end, and asks what it has made.

    Attributes:
        view: the schedule as the last coordinator has it.
        paused_at: when it was asked to pause, by the wall clock.
    """

    def __init__(self, scene: Scene) -> None:
        self.view: ScheduleView | None = None
        self.paused_at = 0.0
        self._service = scene.service("timetable")
        # A slot that is killed is nothing to this task: it writes no ledger.
        spec = Spec(function=Function(name="math:sqrt"), options=Options(max_crashes=1000))
        arguments = call_encoder(FunctionKind.IMPORT)((4.0,), {})
        rule = Rule(every_s=EVERY_S)
        self._service.set_schedule(
            Schedule(name=NAME, rule=rule, spec=spec, arguments=arguments, catch_up=CatchUp.ALL), False, False
        )

    def stop(self) -> None:
        """Pause it, once all is made up for that came while nobody was there.

        Raises:
            Stuck: it is not made up for.
        """
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                view = self._service.schedule(NAME)
                if view.paused:
                    return
                if view.upcoming and view.upcoming[0] > time.time():
                    self.paused_at = time.time()
                    self._service.pause_schedule(NAME, True)
                    return
            except UnknownSchedule:
                raise
            except DtqError:
                pass
            time.sleep(0.05)
        raise Stuck(f"schedule {NAME} does not make up for its due times")

    def ask(self, service: Service) -> None:
        """Ask what it has made."""
        self.view = service.schedule(NAME)


def check_due_times(records: Records, timetable: Timetable) -> Iterator[Violation]:
    """Each due time has made one submission."""
    view = timetable.view
    if view is None:
        yield Violation("due times", 0.0, "nobody has asked for them")
        return
    keys = [batch.key for batch in records.batches.values() if batch.key is not None and batch.key.startswith(KEYS)]
    made = Counter(float(key.removeprefix(KEYS)) for key in keys)
    count = int((timetable.paused_at - view.added_at) / EVERY_S)
    expected = [round(view.added_at + EVERY_S * number, 3) for number in range(1, count + 1)]
    for due in expected:
        if due not in made:
            yield Violation("due times", 0.0, f"the due time {due} has made no submission")
    for due, times in made.items():
        if times > 1:
            yield Violation("due times", 0.0, f"the due time {due} has made {times} submissions")
    if not count or not count <= len(made) <= count + _BETWEEN or view.made != len(keys):
        what = f"{len(keys)} batches, {view.made} by the schedule, {count} due times until it was paused"
        yield Violation("due times", 0.0, what)
