"""The scene of the SQLite engine's tests: commits with a number each, and processes that make them and are killed.

Run as a script it makes such commits on a store and says the number of each that has been acknowledged.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dtq.core.changes import ArgumentPage, Change, LeaseEnded, OutputPage, Read, ResultPage, Stored, Totals
from dtq.engines import segments
from dtq.engines.base import Opened
from dtq.engines.sqlite import SqliteEngine
from dtq.errors import StoreError, StoreFull
from dtq.model.snapshots import Selection
from dtq.model.states import State
from dtq.values.local import LocalValues
from tests.contracts.engine_rows import arguments, attempt, batch, described, lease, output, results, spec, stored, task

ROOT = Path(__file__).parents[2]
#: Bytes of each blob of the larger pages.
BLOB = 300


def changes(number: int, last: int | None = None) -> list[Change]:
    """Commit ``number``: batch ``number`` is accepted, and the one before it gets on; every kind of row turns up."""
    before = number - 1
    made: list[Change] = stored(spec(), batch(number, size=2), arguments(number, 0, 2, bytes([number % 256]) * BLOB))
    made += stored(lease(number, number))
    if before > 0:
        finished = 50.0 + before if before % 3 == 0 else None
        made += [LeaseEnded(before), Stored(batch(before, size=2, next=2, finished_at=finished))]
        made += stored(results(before, 0, 1, 50.0 + before, bytes([before % 256]) * BLOB))
        state = State.DEAD if finished else State.PENDING
        made += stored(task(before, 1, state), attempt(before, 1))
        made += stored(output(before, 0), output(before, 1, 2, 1), output(before, 1, 2, 2))
    made.append(Stored(Totals(last_batch=number, submitted=2 * number)))
    return made


def everything(engine: SqliteEngine, count: int) -> dict[str, Any]:
    """All that can be read of a store of so many commits."""
    said: dict[str, Any] = {"restore": list(engine.restore()), "batches": engine.batches(range(1, count + 1))}
    for number in range(1, count + 1):
        row = batch(number)
        said[f"by key {number}"] = engine.batches(keys=[row.key])
        said[f"arguments {number}"] = engine.pages(ArgumentPage, number, 0, 9)
        said[f"results {number}"] = engine.pages(ResultPage, number, 0, 9)
        said[f"output {number}"] = engine.pages(OutputPage, number, 0, 9)
        said[f"attempts {number}"] = engine.attempts(number, 1)
    said["ended"] = engine.ended(Selection(limit=0), 1000.0)
    return said


def last_batch(engine: SqliteEngine, upper: int) -> int:
    """The highest number of a batch, at most ``upper``."""
    return max((found.row.batch for found in engine.batches(range(1, upper + 1))), default=0)


def run(path: Path, *words: str) -> subprocess.Popen[bytes]:
    """A process of this script."""
    command = [sys.executable, "-m", "tests.integration.store_scene", *words, str(path)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def crash(path: Path, commits: int, *, durability: str = "os") -> None:
    """Make a store with so many commits whose process was killed right after the last."""
    child = run(path, "crash", durability, str(commits))
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL


def copy(source: Path, target: Path) -> Path:
    """A copy of a store, all its files; ``target`` is a directory to be made."""
    target.mkdir()
    for file in source.parent.glob(source.name + "*"):
        if file.is_dir():
            shutil.copytree(file, target / file.name)
        else:
            shutil.copyfile(file, target / file.name)
    return target / source.name


def flip(path: Path, bit: int) -> None:
    """Turn one bit of a file over."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def contents(path: Path) -> dict[str, bytes]:
    """What is in the files of a store that hold data; an empty log is as good as none."""
    files = {suffix: Path(f"{path}{suffix}") for suffix in ("", "-wal")}
    return {suffix: raw for suffix, file in files.items() if file.exists() and (raw := file.read_bytes())}


def opened(path: Path, durability: Any = "os") -> tuple[SqliteEngine, Opened]:
    """An open engine; close it."""
    engine = SqliteEngine(path, durability=durability)
    return engine, engine.open()


# -- the script ---------------------------------------------------------------------------------------------------


def _say(value: object) -> None:
    os.write(1, json.dumps(value).encode() + b"\n")


def _commit_for_ever(path: str, durability: Any) -> None:
    engine, said = opened(Path(path), durability)
    number = said.totals.last_batch
    _say(number)
    draw = random.Random(number)
    while True:
        number += 1
        padding = [results(number, 1, 2, 60.0, bytes(draw.randrange(200_000)))]
        engine.commit(changes(number) + stored(*padding))
        _say(number)


def _crash(path: str, durability: Any, commits: int) -> None:
    engine, _ = opened(Path(path), durability)
    for number in range(1, commits + 1):
        engine.commit(changes(number))
    os.kill(os.getpid(), signal.SIGKILL)


class _Dying(SqliteEngine):
    """Kills its process before the n-th statement of its commits."""

    statements_left = 10**9

    def _execute(self, writer: Any, sql: str, parameters: Sequence[Any]) -> None:
        if self.statements_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.statements_left -= 1
        super()._execute(writer, sql, parameters)


def _die_at(path: str, statement: int) -> None:
    engine = _Dying(path, durability="os")
    engine.open()
    engine.commit(changes(1))
    engine.statements_left = statement
    engine.commit([change for number in range(2, 400) for change in changes(number)])
    _say("committed")
    os.kill(os.getpid(), signal.SIGKILL)


def _fill(path: str, durability: Any) -> None:
    """Commit until files may not grow any more, look whether all is in place, and go on when they may again."""
    engine, _ = opened(Path(path), durability)
    numbers: Iterable[int] = range(1, 40)
    for number in numbers:
        engine.commit(changes(number))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(path + "-wal").stat().st_size + 30_000, hard))
    number = 40
    errors: list[tuple[bool, str, bool]] = []
    while len(errors) < 3 and number < 2000:
        before = everything(engine, number)
        try:
            engine.commit(changes(number))
            number += 1
        except StoreError as error:
            errors.append((type(error) is StoreFull, str(error), everything(engine, number) == before))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    for later in range(number, number + 20):
        engine.commit(changes(later))
    engine.close()
    _say({"errors": errors, "commits": number + 19})


def _values(path: str) -> None:
    """Write values until the disk is full, then record small results, remove what names the values, and write on."""
    for name in ("_SWEEP_S", "_SWEEP_SOON_S"):
        setattr(segments, name, 0.0)
    engine, _ = opened(Path(path), "fsync")
    engine.commit(stored(spec(), batch(1, size=10**6)))
    writer = LocalValues(engine.place)

    def put(index: int) -> None:
        draft = writer.draft()
        draft.write(b"v" * 300_000)
        value = draft.finish()
        engine.commit(stored(described(1, value, lo=index, kind=ResultPage)))
        writer.settled([value])

    def fill() -> int:
        count = 0
        with contextlib.suppress(StoreFull):
            for count in range(1000):
                put(count)
        return count

    count = fill()
    small = [results(1, 1000 + n, 1001 + n, blob=b"r" * 500) for n in range(300)]
    for page in small:
        engine.commit(stored(page))
    recorded = engine.pages(ResultPage, 1, 1000, 2000) == small
    writer.close()
    engine.commit([Read(1, 0, 1000)])
    for _ in range(20):
        engine.commit([])
    left = len(engine.place.segments())
    _say({"values": count, "recorded": recorded, "left": left, "again": fill()})
    engine.close()


def _blobs(path: str) -> None:
    """Say by how many MB memory has grown after commits of many sizes, each of 100 kB blobs."""
    engine, _ = opened(Path(path))
    engine.commit(stored(spec(), batch(1, size=10**6)))
    before = _resident_mb()
    for rows in (1, 9, 17, 33, 65, 127, 140, 400):
        engine.commit(stored(*(arguments(1, 2 * n, 2 * n + 1, bytes(100_000)) for n in range(rows))))
    ctypes.CDLL(None).malloc_trim(0)  # what Python has given back counts no longer
    _say(_resident_mb() - before)
    engine.close()


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["commit", durability, path]:
            _commit_for_ever(path, durability)
        case ["crash", durability, commits, path]:
            _crash(path, durability, int(commits))
        case ["die", statement, path]:
            _die_at(path, int(statement))
        case ["fill", durability, path]:
            _fill(path, durability)
        case ["values", path]:
            _values(path)
        case ["blobs", path]:
            _blobs(path)
        case ["hold", path]:
            opened(Path(path))
            _say("held")
            sys.stdin.read()
