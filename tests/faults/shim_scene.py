"""A short life of a store on the failing file system, again and again, with one fault each time.

Run as a process with the library of `shim` loaded. Each round is a fork: it opens a store, makes numbered commits, with
checkpoints among them, and closes it. Afterwards the store is opened again, and has to say what it would say after the
commits that were acknowledged. Prints what was done and what was wrong, as JSON.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from dtq.core.changes import Change, Read
from dtq.engines import reserve, segments, sqlite
from dtq.engines.sqlite import SqliteEngine
from dtq.errors import StoreError, StoreFull, StoreUnwritable, ValueDamaged
from dtq.model.values import Value
from dtq.values.local import LocalValues
from dtq.values.place import path_of
from tests.contracts.engine_rows import described, results, stored
from tests.faults import shim
from tests.integration.store_scene import changes, everything, last_batch

COMMITS: Final = 9
#: How often a call is tried again that failed.
TRIES: Final = 4


def commit(number: int) -> list[Change]:
    """Commit ``number``: large enough that there is a checkpoint after every third. It names a value, and the value
    before the last is no longer named."""
    made = changes(number) + stored(results(number, 1, 2, 60.0, bytes([number]) * 30_000))
    made += stored(described(number, value(number), lo=5))
    if number > 2:
        made.append(Read(number - 2, 5, 6))
    return made


def value(number: int) -> Value:
    """The value of a commit: three of them in a segment."""
    segment, nth = divmod(number, 3)
    return Value(segment, nth * 5056, len(data(number)), zlib.crc32(data(number)))


def data(number: int) -> bytes:
    return bytes([number]) * 5000


def put(engine: SqliteEngine, number: int) -> Callable[[], object]:
    """Write the value of a commit, and hold it until what is returned is called."""
    at = value(number)
    with contextlib.ExitStack() as closing:
        try:
            file = os.open(path_of(engine.place.paths[0], at.segment), os.O_RDWR | os.O_CREAT, 0o600)
            closing.callback(os.close, file)
            fcntl.flock(file, fcntl.LOCK_SH)
            os.pwritev(file, [data(number)[:2000], data(number)[2000:]], at.offset)
        except OSError as error:
            raise StoreUnwritable("values", str(error)) from error
        return closing.pop_all().close


def look_around(engine: SqliteEngine) -> None:
    """Have what is no longer in use given back."""
    for _ in range(4):
        engine.commit([])


def said_by(engine: SqliteEngine) -> dict[str, Any]:
    """All that can be read of a store, values too."""
    said = everything(engine, COMMITS)
    values = LocalValues(engine.place)
    for number in range(1, COMMITS + 1):
        if engine.holds([value(number)]):
            try:
                said[f"value {number}"] = bytes(memoryview(values.fetch(value(number))))
            except ValueDamaged as error:
                raise StoreError("values", str(error)) from error
    return said


def live(path: Path, say: Callable[[int], object]) -> None:
    """A life that ends with the first fault."""
    try:
        engine = SqliteEngine(path)
        engine.open()
        for number in range(1, COMMITS + 1):
            let_go = put(engine, number)
            engine.commit(commit(number))
            say(number)
            let_go()
            look_around(engine)
        engine.close()
    except StoreError:
        os.kill(os.getpid(), signal.SIGKILL)


def live_with_failures(path: Path) -> None:
    """A life in which calls may fail: what failed has left nothing behind, and works when it is done again."""
    engine = insisted(lambda: opened(path))
    for number in range(1, COMMITS + 1):
        before = insisted(lambda: said_by(engine))
        let_go = insisted(lambda number=number: put(engine, number))

        def attempt(number: int = number, before: dict[str, Any] = before) -> None:
            try:
                engine.commit(commit(number))
            except StoreError as error:
                if not isinstance(error, StoreFull | StoreUnwritable):
                    raise AssertionError(f"commit {number} failed as if for good") from error
                if insisted(lambda: said_by(engine)) != before:
                    raise AssertionError(f"commit {number} failed and left something behind") from error
                raise

        insisted(attempt)
        let_go()
        insisted(lambda: look_around(engine))
    engine.close()


def opened(path: Path) -> SqliteEngine:
    engine = SqliteEngine(path)
    said = engine.open()
    assert said.losses == (), f"said to be lost: {said.losses}"
    return engine


def insisted(call: Callable[[], Any]) -> Any:
    for left in reversed(range(TRIES)):
        try:
            return call()
        except StoreError:
            if not left:
                raise
    return None


def look(path: Path, acknowledged: int, references: list[dict[str, Any]], *, full: bool = False) -> str:
    """What is wrong with a store after so many acknowledged commits; the next one may have got through. If the disk was
    full, what tasks had printed may be left out.
    """
    engine = SqliteEngine(path)
    said = engine.open()
    found = last_batch(engine, COMMITS)
    now = said_by(engine)
    for _ in range(4):
        look_around(engine)
    left = set(engine.place.segments()), set(os.listdir(engine.place.paths[0]))
    put(engine, found + 1)()
    engine.commit(commit(found + 1))
    engine.close()
    used = {value(number).segment for number in range(1, found + 1) if f"value {number}" in now}
    if left[0] != used or len(left[1]) != len(used):
        return f"after {found} commits there are the segments {left}, not {used}"
    if said.losses:
        return f"said to be lost: {said.losses}"
    if found not in (acknowledged, acknowledged + 1):
        return f"{acknowledged} commits were acknowledged, {found} are there"
    then = references[found]
    wrong = [what for what in now if now[what] != then[what]]
    if full:
        wrong = [what for what in wrong if now[what] or not what.startswith("output ")]
    return "".join(f"after {found} commits: {what}: {now[what]}, not {then[what]}" for what in wrong)


def references(place: Path) -> list[dict[str, Any]]:
    """What a store says after each number of commits."""
    engine = opened(clear(place))
    said = [said_by(engine)]
    for number in range(1, COMMITS + 1):
        put(engine, number)()
        engine.commit(commit(number))
        said.append(said_by(engine))
    engine.close()
    return said


def forked(act: Callable[[], object]) -> int:
    """Do something in a fork; how that ended, as `os.waitstatus_to_exitcode` says it."""
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        except BaseException:  # noqa: BLE001  # the edge of a process
            os.write(2, (shim.hit() + "\n" + traceback.format_exc()).encode())
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def clear(place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    return place / "dtq.db"


def fail(place: Path, calls: Iterable[int], error: int, length: int) -> list[str]:
    """Let each of these calls fail, in a life of its own."""
    said = references(place.parent / "reference")
    wrong = []
    for n in calls:
        path = clear(place)

        def act(n: int = n, path: Path = path) -> None:
            shim.arm(n, shim.FAIL, error, length)
            live_with_failures(path)
            shim.arm(0, shim.COUNT)
            problem = look(path, COMMITS, [*said, {}], full=error == errno.ENOSPC)
            assert not problem, problem

        if forked(act) != 0:
            wrong.append(f"call {n}")
    return wrong


def kill(place: Path, calls: Iterable[int], how: int, error: int) -> list[str]:
    """Kill the process before each of these calls, or in the middle of it, or because it failed."""
    said = references(place.parent / "reference")
    wrong = []
    for n in calls:
        path = clear(place)
        reader, writer = os.pipe()

        def act(n: int = n, path: Path = path, writer: int = writer) -> None:
            shim.arm(n, how, error)
            live(path, lambda number: os.write(writer, b"."))

        ended = forked(act)
        os.close(writer)
        acknowledged = len(os.read(reader, 1000))
        os.close(reader)

        def check(path: Path = path, acknowledged: int = acknowledged) -> None:
            problem = look(path, acknowledged, [*said, {}])
            assert not problem, problem

        if ended not in (-signal.SIGKILL, 0 if how == shim.FAIL else None) or forked(check) != 0:
            wrong.append(f"call {n}, after {acknowledged} commits (ended with {ended})")
    return wrong


def calls_of_a_life(place: Path) -> int:
    """How many calls a life without faults makes."""
    reader, writer = os.pipe()
    path = clear(place)

    def act() -> None:
        shim.arm(0, shim.COUNT)
        live(path, lambda number: None)
        os.write(writer, str(shim.count()).encode())

    assert forked(act) == 0
    os.close(writer)
    found = int(os.read(reader, 100))
    os.close(reader)
    return found


def write_down(path: Path, log: Path) -> None:
    """Make a store; then live on with every call written down, up to a kill."""
    opened(path).close()
    for suffix in ("", ".mark"):
        shutil.copyfile(f"{path}{suffix}", f"{path}{suffix}.before")
    shim.log_to(log)
    engine = opened(path)
    for number in range(1, COMMITS + 1):
        let_go = put(engine, number)
        engine.commit(commit(number))
        shim.mark(number)
        let_go()
        look_around(engine)
    os.kill(os.getpid(), signal.SIGKILL)


def quicken() -> None:
    """Have what is no longer in use given back at once, and however little it is."""
    for name in ("_SWEEP_S", "_SWEEP_SOON_S", "_ASKED_S", "_QUIET_S", "_FRESH_S", "GRACE_S", "_WORTHWHILE"):
        setattr(segments, name, 0)
    segments._SLICE = 4096  # type: ignore[misc]


def main() -> None:
    path, terms = Path(sys.argv[1]), json.loads(sys.argv[2])
    place = path.parent
    sqlite._CHECKPOINT_PAGES = 30  # type: ignore[misc]  # so that a short life has several
    reserve._BASE = 2**16  # type: ignore[misc]  # so that it is quickly made
    quicken()
    if terms["do"] == "write down":
        print(json.dumps({"ended": forked(lambda: write_down(path, Path(terms["log"])))}))
        return
    total = calls_of_a_life(place)
    calls = range(1 + terms.get("start", 0), total + 1, max(1, total // terms["rounds"]) if terms["rounds"] else 1)
    if terms["do"] == "fail":
        wrong = fail(place, calls, getattr(errno, terms["error"]), terms.get("length", 1))
    else:
        how = {"die": shim.DIE, "tear": shim.TEAR, "fail and die": shim.FAIL}[terms["do"]]
        wrong = kill(place, calls, how, errno.EIO)
    print(json.dumps({"calls": total, "rounds": len(calls), "wrong": wrong}))


if __name__ == "__main__":
    main()
