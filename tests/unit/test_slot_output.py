"""Output of a slot: each task's its own, its first and its last bytes kept, however they arrive."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dtq.model.printed import Printed, cut, last_lines, pack, unpack, whole_lines
from dtq.worker.marked_stream import MAGIC, MARK
from dtq.worker.output import Output

LINE = b"line %05d of a task\n"
KEPT = 4096


class Slot:
    """The writing end, and what the slot says it runs."""

    def __init__(self) -> None:
        self.running = -1
        self.output = Output(1, lambda: self.running, str)
        self.output.keep(KEPT)

    def write(self, data: bytes) -> None:
        assert self.output.writing_end is not None
        os.write(self.output.writing_end, data)

    def marked(self, serial: int, data: bytes) -> bytes:
        return MARK.pack(MAGIC, serial, len(data)) + data

    def printed(self, serial: int, count: int = 1) -> dict[int, bytes]:
        """What tasks have printed, by serial; nothing of it is left out."""
        self.output.drain()
        return {each.index: each.head for each in self.output.printed(serial, serial, count)}


@pytest.fixture
def slot() -> Iterator[Slot]:
    slot = Slot()
    yield slot
    slot.output.given()
    slot.output.close()


@pytest.mark.parametrize("sizes", [(60_000,), (KEPT,), (KEPT + 1,), (1000, KEPT), (KEPT, 1000), (1,) * 5000])
def test_first_and_last_bytes_are_kept_and_the_others_counted(slot: Slot, sizes: tuple[int, ...]) -> None:
    # Given a task that prints in pieces of these sizes
    whole = b"".join([LINE % n for n in range(sum(sizes) // len(LINE % 0) + 1)])[-sum(sizes) :]
    slot.running, rest = 0, whole
    for size in sizes:
        slot.write(rest[:size])
        rest = rest[size:]
        slot.output.take()

    # When it ends
    (printed,) = slot.output.printed(0, 7, 1)

    # Then
    assert printed.index == 7
    assert printed.size == len(whole)
    assert whole.startswith(printed.head)
    assert whole.endswith(printed.tail)
    assert printed.kept == min(KEPT, len(whole))
    assert slot.output.printed(0, 7, 1) == ()


def test_output_of_tiny_tasks_is_theirs_though_it_is_read_when_all_have_ended(slot: Slot) -> None:
    # Given a chunk of tasks of which some print, read only when the last one runs
    slot.write(b"".join([slot.marked(serial, b"I am %d\n" % serial) for serial in (0, 1, 3, 4)]))
    slot.running = 4

    assert slot.printed(0, 4) == {n: b"I am %d\n" % n for n in (0, 1, 3)}
    assert slot.printed(4) == {4: b"I am 4\n"}


def test_marks_are_read_wherever_the_pipe_is_cut(slot: Slot) -> None:
    # Given marked and unmarked output, which arrives byte by byte
    whole = slot.marked(0, b"zero\0") + b"a child of 1\0" + slot.marked(1, b"one") + MAGIC[:3]
    slot.running = 1
    for at in range(len(whole)):
        slot.write(whole[at : at + 1])
        slot.output.take()

    assert slot.printed(0, 2) == {0: b"zero\0", 1: b"a child of 1\0one" + MAGIC[:3]}


@pytest.mark.parametrize("serial", [-1, 0, 3, 1 << 40])
def test_mark_that_cannot_be_true_is_not_believed(slot: Slot, serial: int) -> None:
    # Given that task 1 has printed, and task 2 claims to be an earlier one, or one that has not begun
    slot.running = 2
    slot.write(slot.marked(1, b"mine\n") + slot.marked(serial, b"yours?\n"))

    assert slot.printed(0, 4) == {1: b"mine\n", 2: b"yours?\n"}


def test_output_behind_the_end_of_its_task_is_nobodys_while_no_other_runs(slot: Slot) -> None:
    slot.running = 0
    slot.write(b"in time\n")
    assert slot.printed(0) == {0: b"in time\n"}

    slot.write(b"too late\n")
    assert slot.printed(0) == {}

    slot.running = 1
    slot.write(b"of the next\n")
    assert slot.printed(1) == {1: b"of the next\n"}


def test_nothing_is_kept_where_nothing_is_to_be(slot: Slot) -> None:
    slot.output.keep(0)
    slot.running = 0
    slot.write(b"quiet\n")

    assert slot.printed(0) == {}
    assert slot.output.waits, "it is logged all the same"


def test_pages_of_output_come_back_as_they_were() -> None:
    items = [Printed(index=5, head=b"\xff\0"), Printed(index=9, head=b"a", left_out=1 << 40, tail=b"z" * 9)]
    assert unpack(pack(items, 5), 5) == items


@pytest.mark.parametrize("room", [0, 1, 7, 100])
def test_output_is_cut_to_its_ends(room: int) -> None:
    whole = Printed(index=0, head=bytes(range(60)), left_out=5, tail=bytes(range(60, 100)))
    short = cut(whole, room)
    assert (short.size, short.kept) == (whole.size, min(room, 100))
    assert whole.head.startswith(short.head)
    assert whole.tail.endswith(short.tail)


def test_gap_lies_between_lines_where_that_is_near() -> None:
    cut_anywhere = Printed(index=0, head=b"one\ntw", left_out=10, tail=b"ight\nnine\n")
    assert whole_lines(cut_anywhere) == Printed(index=0, head=b"one\n", left_out=17, tail=b"nine\n")
    assert last_lines(cut_anywhere, 6) == "nine\n"
    # and between characters where no line ends
    long = "é€😀".encode() * 1000
    for first in range(3000, 3010):
        tail = long[-1000 - first % 7 :]
        cut_short = Printed(index=0, head=long[:first], left_out=9000 - first - len(tail), tail=tail)
        within = whole_lines(cut_short)
        assert "\ufffd" not in (within.head.decode("utf-8", "replace") + within.tail.decode("utf-8", "replace"))
        assert within.size == 9000


def test_followers_go_on_behind_what_they_have() -> None:
    printed = Printed(index=0, head=b"first", left_out=90, tail=b"last!")
    assert printed.since(0, 100) == (0, b"first")
    assert printed.since(2, 2) == (2, b"rs")
    assert printed.since(5, 100) == (95, b"last!")
    assert printed.since(98, 100) == (98, b"t!")
    assert printed.since(100, 100) == (100, b"")
