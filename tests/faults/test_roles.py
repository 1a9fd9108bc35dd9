"""Least privilege: what a key may do at a real coordinator, what it leaves on record, and how it is revoked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from dtq.config.keys import Key, KeyRole, read_keyring
from dtq.coordinator.connection import Connection
from dtq.coordinator.service import Coordinator, Setup
from dtq.core.queue_state import Rules
from dtq.engines.memory import MemoryEngine
from dtq.errors import BadMessage, DtqError, NotPermitted, RoleMissing, Unreachable, WrongKey
from dtq.model.limits import Limit
from dtq.model.messages import Exchange, Hello, Role, Submission, TaskRange, WorkerOrder
from dtq.model.options import Function, Options, Spec
from dtq.model.pages import pack
from dtq.model.queues import SteeringChange
from dtq.model.schedules import Rule, Schedule
from dtq.model.service import Service
from dtq.model.snapshots import BatchSelection, GroupBy, Selection
from dtq.transport import Proxy, Server
from dtq.transport.calls import METHODS
from dtq.transport.permissions import ACTS
from tests.cluster import Cluster

KEY = b"the key of these tests, 32 bytes"
SUBMIT = Key(name="ci", secret=b"c" * 32, roles=frozenset({KeyRole.SUBMIT}))
WORK = Key(name="lab", secret=b"w" * 32, roles=frozenset({KeyRole.WORK}))
ADMIN = Key(name="ops", secret=b"a" * 32, roles=frozenset({KeyRole.ADMIN}))
CLIENT = Hello(session="c" * 32, role=Role.CLIENT)
WORKER = Hello(session="w" * 32, role=Role.WORKER, slots=1, primary=True, name="one")
SPEC = Spec(function=Function(name="math:sqrt"), options=Options())
SCHEDULE = Schedule(name="daily", rule=Rule(every_s=60.0), spec=SPEC, arguments=b"x")

#: One call of each method; a method without one here makes the table's test fail.
CALLS: dict[str, Callable[[Service], object]] = {
    "hello": lambda service: service.hello(CLIENT),
    "submit": lambda service: service.submit([SPEC], [Submission(spec=0, number=1, arguments=pack([b"x"]))], False),
    "follow": lambda service: service.follow([1]),
    "watch": lambda service: service.watch(0, 0),
    "let_go": lambda service: service.let_go([TaskRange(batch=1, lo=0, hi=1)]),
    "hold": lambda service: service.hold(b"d" * 32, b"", 1.0),
    "release": lambda service: service.release([b"d" * 32]),
    "write_value": lambda service: service.write_value(1, 0, b"x"),
    "read_value": lambda service: service.read_value(1, 0, 1),
    "exchange": lambda service: service.exchange(Exchange()),
    "spec": lambda service: service.spec(1),
    "batch": lambda service: service.batch(1),
    "batches": lambda service: service.batches(BatchSelection()),
    "task": lambda service: service.task(1, 0),
    "results": lambda service: service.results(1, 0, 1),
    "tasks": lambda service: service.tasks(Selection()),
    "cancel": lambda service: service.cancel(Selection(limit=0)),
    "dead_letters": lambda service: service.dead_letters(Selection()),
    "retry_dead": lambda service: service.retry_dead(Selection(limit=0)),
    "purge_dead": lambda service: service.purge_dead(Selection(limit=0)),
    "stats": lambda service: service.stats(),
    "graph": lambda service: service.graph(1, 10),
    "dashboard": lambda service: service.dashboard(0.0),
    "note_slots": lambda service: service.note_slots(0.0, []),
    "queues": lambda service: service.queues(""),
    "workers": lambda service: service.workers("", ""),
    "rerun": lambda service: service.rerun(Selection(limit=0)),
    "dead_summary": lambda service: service.dead_summary(Selection(), GroupBy.EXCEPTION),
    "explain": lambda service: service.explain(1, 0),
    "attempts": lambda service: service.attempts(1, 0, 0),
    "output": lambda service: service.output(1, 0, 0, 0, 0.0),
    "arguments": lambda service: service.arguments([(1, 0)], 100),
    "reprioritize": lambda service: service.reprioritize(Selection(limit=0), 1),
    "order_workers": lambda service: service.order_workers([], WorkerOrder.WORK),
    "steer_queue": lambda service: service.steer_queue("mail", SteeringChange(paused=True)),
    "set_limit": lambda service: service.set_limit(Limit(name="api", concurrency=1)),
    "limits": lambda service: service.limits(""),
    "remove_limit": lambda service: service.remove_limit("api"),
    "set_schedule": lambda service: service.set_schedule(SCHEDULE, False, True),
    "schedules": lambda service: service.schedules(""),
    "schedule": lambda service: service.schedule("daily"),
    "pause_schedule": lambda service: service.pause_schedule("daily", True),
    "run_schedule": lambda service: service.run_schedule("daily"),
    "remove_schedule": lambda service: service.remove_schedule("daily"),
    "stop": lambda service: service.stop(),
    "reload_keys": lambda service: service.reload_keys(),
}
PRODUCING = {
    "hello",
    "submit",
    "follow",
    "watch",
    "let_go",
    "batch",
    "task",
    "results",
    "attempts",
    "output",
    "explain",
    "arguments",
}
PRODUCING |= {"graph", "stats", "queues", "limits", "workers", "write_value", "read_value", "hold", "release"}
OPERATING = {
    "dashboard",
    "tasks",
    "batches",
    "cancel",
    "dead_letters",
    "retry_dead",
    "purge_dead",
    "stop",
    "reload_keys",
}
OPERATING |= {"dead_summary", "reprioritize", "rerun", "steer_queue", "order_workers", "set_limit", "remove_limit"}
OPERATING |= {"schedules", "schedule", "pause_schedule", "run_schedule", "remove_schedule"}
MAY = {
    SUBMIT.name: PRODUCING,
    WORK.name: {"exchange", "spec", "note_slots", "write_value", "read_value"},
    ADMIN.name: (PRODUCING | OPERATING) - {"submit", "let_go", "write_value", "hold", "release"},
}


class House:
    """A coordinator behind a server with a key of each role."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.stops = 0
        self.coordinator = Coordinator(
            MemoryEngine(), Setup(rules=Rules()), on_stop=self._on_stop, on_reload_keys=self._reload
        )
        self.coordinator.start()
        stack.callback(self.coordinator.stop)
        self.server = Server(
            lambda peer: Connection(self.coordinator, peer), port=0, authkeys=[KEY], keys=[SUBMIT, WORK, ADMIN]
        )
        stack.enter_context(self.server)
        stack.callback(self.coordinator.quiesce)

    def _on_stop(self) -> None:
        self.stops += 1

    def _reload(self) -> list[str]:
        return self.server.replace_keys([WORK, ADMIN])

    def proxy(self, key: Key | bytes, hello: Hello = CLIENT) -> Proxy:
        secret = key if isinstance(key, bytes) else key.secret
        return self._stack.enter_context(Proxy([self.server.address], secret, hello, call_timeout_s=20))


@pytest.fixture
def house() -> Iterator[House]:
    with ExitStack() as stack:
        yield House(stack)


def test_every_method_of_the_service_has_somebody_who_may_call_it() -> None:
    assert {act.split(" ")[0] for act in ACTS} == set(METHODS) == set(CALLS)


def test_schedule_is_defined_by_who_may_submit_and_operate(house: House) -> None:
    both = Key(name="both", secret=b"b" * 32, roles=frozenset({KeyRole.SUBMIT, KeyRole.ADMIN}))
    house.server.replace_keys([SUBMIT, ADMIN, both])
    assert house.proxy(both).set_schedule(SCHEDULE, False, False) == "added"
    for key in (SUBMIT, ADMIN):
        with pytest.raises(RoleMissing, match="the roles submit and admin"):
            house.proxy(key, replace(CLIENT, session=key.name * 8)).set_schedule(SCHEDULE, False, False)


@pytest.mark.parametrize("key", [SUBMIT, WORK, ADMIN], ids=lambda key: key.role_names)
def test_key_may_do_what_its_role_says_and_nothing_else(house: House, key: Key) -> None:
    # Given a connection with a key of one role
    hello = WORKER if key is WORK else CLIENT
    allowed: set[str] = set()
    sentences: list[str] = []
    for name, call in CALLS.items():
        proxy = house.proxy(key, replace(hello, session=(name + hello.session)[:32]))
        try:
            # When it calls a method
            call(proxy)
        except RoleMissing as refused:
            sentences.append(str(refused))
            continue
        except DtqError:
            pass  # it was let through: there is no such batch
        allowed.add(name)

    # Then it may, as its role says, or is refused with a sentence that names the key, its role and what it takes
    start = f"the key '{key.name}' (role {key.role_names}) may not do this: "
    assert [sentence for sentence in sentences if not sentence.startswith(start)] == []
    assert allowed == MAY[key.name]
    assert house.stops == int(key is ADMIN)


def test_submit_key_acts_on_ids_only(house: House) -> None:
    # Given a task
    proxy = house.proxy(SUBMIT)
    (receipt,) = proxy.submit([SPEC], [Submission(spec=0, number=1, arguments=pack([b"x"]))], False)
    mine = Selection(ids=((receipt.batch, -1),))

    # When its submitter looks at it and cancels it by its id, Then it may
    assert [view.batch for view in proxy.tasks(mine)] == [receipt.batch]
    assert proxy.cancel(replace(mine, limit=0)).cancelled == 1

    # When it does so with everything that matches, Then it may not
    with pytest.raises(RoleMissing, match="cancel takes the role admin"):
        proxy.cancel(Selection(function="math:*", limit=0))


def test_submit_key_cannot_pass_for_a_worker(house: House) -> None:
    with pytest.raises(RoleMissing, match="hello as worker takes the role work"):
        house.proxy(SUBMIT, WORKER).connect()
    with pytest.raises(RoleMissing, match="hello as client takes the role submit or admin"):
        house.proxy(WORK, CLIENT).connect()
    assert house.proxy(KEY).stats().workers == ()


def test_nobody_can_speak_for_a_workers_session(house: House) -> None:
    # Given a worker, and a producer that sees it in the counts
    worker, producer = house.proxy(WORK, WORKER), house.proxy(SUBMIT)
    worker.exchange(Exchange())
    (seen,) = producer.stats().workers

    # When the producer says hello with what it sees, or with the worker's own session
    assert WORKER.session not in repr(seen)
    house.proxy(SUBMIT, replace(CLIENT, session=seen.session)).stats()
    with pytest.raises(NotPermitted, match="a hello as client in the session of a worker"):
        house.proxy(SUBMIT, replace(CLIENT, session=WORKER.session)).connect()

    # Then the worker goes on
    worker.exchange(Exchange())


def test_administrative_verbs_are_put_on_record(house: House, caplog: pytest.LogCaptureFixture) -> None:
    # Given somebody with all rights, and somebody without
    caplog.set_level(logging.INFO, "dtq.audit")
    admin, producer = house.proxy(ADMIN), house.proxy(SUBMIT, replace(CLIENT, session="p" * 32))

    # When they use administrative verbs
    admin.purge_dead(Selection(queue="a 'queue", limit=0))
    with pytest.raises(BadMessage, match=r"Selection\.queue may hold printable ones only"):
        admin.purge_dead(Selection(queue="a\nqueue", limit=0))
    with pytest.raises(RoleMissing):
        producer.stop()
    producer.submit([SPEC], [Submission(spec=0, number=1, arguments=pack([b"payload"]))], False)

    # Then each leaves one line with the key, the peer, the verb, its arguments and the outcome; others leave none
    lines = [record.getMessage() for record in caplog.records if record.name == "dtq.audit"]
    assert len(lines) == 3
    assert lines[0].startswith("key ops from 127.0.0.1:")
    assert 'purge_dead(Selection(ids=(), state=None, queue="a \'queue"' in lines[0]
    assert lines[0].endswith(": done (0)")
    assert lines[1].endswith(": purge_dead(): refused (bad-message)")
    assert lines[2].startswith("key ci from 127.0.0.1:")
    assert lines[2].endswith(": stop(): refused (role-missing)")
    for text in (*lines, caplog.text):
        assert "payload" not in text
        assert "a\nqueue" not in text


def test_revoked_key_ends_its_connections_and_opens_no_new_one(house: House) -> None:
    # Given connections with a key, one of them in a call that waits, and others
    # (of a session of its own: where another of the same one ends first, the call is answered)
    waiting = house.proxy(SUBMIT, replace(CLIENT, session="waiting"))
    idle, other = house.proxy(SUBMIT), house.proxy(ADMIN)
    idle.stats()
    outcome: list[DtqError] = []

    def wait() -> None:
        try:
            waiting.watch(0, 15)
        except DtqError as error:
            outcome.append(error)

    waiting.connect()
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()

    # When the keyring no longer has it
    assert other.reload_keys() == ["authkey", "lab", "ops"]

    # Then the waiting call ends at once, long before its wait is over; the key opens nothing; others go on
    thread.join(10)
    assert [type(error) for error in outcome] == [Unreachable]
    with pytest.raises(WrongKey):
        idle.stats()
    other.stats()


def test_unknown_key_sees_the_same_as_a_wrong_proof(house: House) -> None:
    with pytest.raises(WrongKey):
        house.proxy(b"a key that nobody knows of at all").connect()


def test_task_sees_no_key(tmp_path: Path) -> None:
    # Given a worker that has its key from a variable
    with Cluster(tmp_path, memory=True) as cluster:
        cluster.coordinator()
        cluster.environment["DTQ_AUTHKEY"] = cluster.key_file.read_text()
        worker = cluster.run("worker", ["worker", "--connect", cluster.address, "--slots", "1"])
        worker.await_line("ready")
        del cluster.environment["DTQ_AUTHKEY"]
        # When a task looks for it, in its environment and as its process began, Then it is not there
        for call in (["os:getenv", "DTQ_AUTHKEY"], ["subprocess:getoutput", "cat /proc/$PPID/environ"]):
            shown = cluster.command("submit", *call, "--wait")
            assert cluster.key_file.read_text().strip() not in shown.stdout + shown.stderr
        assert cluster.command("submit", "os:getenv", "DTQ_AUTHKEY", "--wait").stdout == "null\n"


def test_keys_are_made_used_and_revoked_by_command(tmp_path: Path) -> None:
    # Given a coordinator, and a key for submitting made with a command
    with Cluster(tmp_path, memory=True) as cluster:
        coordinator = cluster.coordinator()
        made = cluster.command("key", "new", "ci", "--role", "submit", "--role", "admin")
        assert (made.returncode, made.stdout) == (0, "")
        assert "wrote ci.key (role submit, admin)" in made.stderr
        (key,) = read_keyring(tmp_path / "authkey.keys")
        secret = key.secret.decode()
        assert (tmp_path / "ci.key").read_text().strip() == secret

        # When it is used, Then it does what it may; a worker with it is refused
        assert cluster.command("submit", "math:sqrt", "4", "--authkey-file", "ci.key").returncode == 0
        worker = cluster.run("worker", ["worker", "--connect", cluster.address, "--authkey-file", "ci.key"])
        assert worker.ended() == 77
        assert "hello as worker takes the role work" in worker.output()

        # When keys are listed, Then names and roles are shown, and no secret
        listed = cluster.command("key", "list")
        assert "ci    submit, admin" in listed.stdout
        assert "secret" not in cluster.command("key", "list", "--json").stdout

        # When it is revoked, Then it opens nothing any more, and both are on record
        assert cluster.command("key", "revoke", "ci").returncode == 0
        assert cluster.command("stats", "--authkey-file", "ci.key").returncode == 77
        log = coordinator.output()
        assert log.count("dtq.audit: key authkey from 127.0.0.1:") == 2
        assert "reload_keys(): done (['authkey', 'ci'])" in log
        for text in (log, worker.output(), listed.stdout, made.stderr):
            assert secret not in text
