"""The last lines of a slot's output: whole ones, however the bytes arrive."""

from __future__ import annotations

import os

import pytest

from dtq.worker.output import KEPT, Output

LINE = b"line %05d of a task\n"


@pytest.mark.parametrize("sizes", [(60_000,), (KEPT,), (KEPT + 1,), (1000, KEPT), (KEPT, 1000), (KEPT - 1000, 1000)])
def test_last_lines_are_whole_and_all_that_fit(sizes: tuple[int, ...]) -> None:
    # Given output that arrives in pieces of these sizes
    printed = b"".join([LINE % n for n in range(sum(sizes) // len(LINE % 0) + 1)])[-sum(sizes) :]
    output, rest = Output(0, lambda: ("1", 1)), printed
    assert output.writing_end is not None
    for size in sizes:
        os.write(output.writing_end, rest[:size])
        rest = rest[size:]
        output.take()
    # Then
    last = output.last_lines(1).encode()
    assert printed.endswith(last)
    assert len(last) <= KEPT
    if len(printed) > KEPT:
        assert last.startswith(b"line ")
        assert len(last) > KEPT - len(LINE % 0)
    else:
        assert last == printed
    output.given()
    output.close()
