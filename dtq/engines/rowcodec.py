"""Encodes rows to bytes and back: the blobs of the SQLite engine.

A row becomes one blob that ends with a CRC-32 of its content and its key, so that a damaged row, or one in another
row's place, is detected when it is read. Counts are 4 bytes each unless one of them is too large. Text is UTF-8 with
lone surrogates allowed, because error messages come from user code. Every time is a double.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from operator import attrgetter
from typing import Any, Final, cast
from zlib import crc32

from dtq.core.changes import (
    ArgumentPage,
    AttemptRow,
    BatchFlow,
    BatchRow,
    DefinitionRow,
    HoldRow,
    LeaseRow,
    OutputPage,
    Parent,
    ResultPage,
    SpecRow,
    TaskRow,
)
from dtq.model.messages import Failure
from dtq.model.options import Spec, spec_as_json, spec_from_json
from dtq.model.resources import Portion
from dtq.model.snapshots import Attempt
from dtq.model.states import Outcome, State
from dtq.records import asdict, fields

# Kinds of rows. A kind is part of the blob's checksum, and the first value of a row of the sink.
SPEC: Final = 1
BATCH: Final = 2
TASK: Final = 3
ATTEMPT: Final = 4
LEASE: Final = 5
ARGUMENTS: Final = 6
RESULTS: Final = 7
HOLD: Final = 8
DEFINITION: Final = 9
OUTPUT: Final = 10

#: The CRC-32 of anything that ends with its own CRC-32, whatever the CRC was started with.
_RESIDUE: Final = 0x2144DF1C

STATE_CODE: Final = {
    State.BLOCKED: 7,
    State.SCHEDULED: 1,
    State.PENDING: 2,
    State.RUNNING: 3,
    State.SUCCEEDED: 4,
    State.DEAD: 5,
    State.CANCELLED: 6,
}
_STATES: Final = {code: state for state, code in STATE_CODE.items()}
_OUTCOME_CODE: Final = {
    None: 0,
    Outcome.SUCCEEDED: 1,
    Outcome.FAILED: 2,
    Outcome.CRASHED: 3,
    Outcome.TIMED_OUT: 4,
    Outcome.CANCELLED: 5,
}
_OUTCOMES: Final = {code: outcome for outcome, code in _OUTCOME_CODE.items()}


class DamagedRow(ValueError):
    """A blob is not the one that was stored under its key."""


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _seed(kind: int, key: int, second: int = 0) -> int:
    return (kind + key * 8 + second * 0x9E3779B1) & 0xFFFFFFFF


def seal(payload: bytes, kind: int, key: int, second: int = 0) -> bytes:
    """The payload, followed by a checksum of the payload and its key."""
    return payload + crc32(payload, _seed(kind, key, second)).to_bytes(4, "little")


def sound(body: object, kind: int, key: int, second: int = 0) -> bool:
    """Whether `seal` made this for that key; in a damaged row the key may be of any type."""
    try:
        return type(body) is bytes and crc32(body, _seed(kind, key, second)) == _RESIDUE
    except TypeError:
        return False


def _check(body: object, kind: int, key: int, second: int = 0) -> bytes:
    if not sound(body, kind, key, second):
        raise DamagedRow(f"the checksum of row {key}.{second} of kind {kind} is wrong")
    return cast(bytes, body)


# -- batches ------------------------------------------------------------------------------------------------------

# Flags, eight counts, three times, length of the session's name; if flags say so, the batch's expiry, and its rare
# fields, as JSON behind its length; then the session and the key.
_BATCH: Final = struct.Struct("<B8I3dH")
_BATCH_WIDE: Final = struct.Struct("<B8q3dH")
_COMPLETE: Final = 1
_USER_KEY: Final = 2
_WIDE: Final = 4
_KEY_OF_SESSION: Final = 8
_OWN_EXPIRY: Final = 16
_EXPIRY: Final = struct.Struct("<d")
_FLOW: Final = 32
_FLOW_LENGTH: Final = struct.Struct("<I")
#: So long, in bytes, are rare fields that many batches may have.
_SHORT: Final = 256
_batch_fields = attrgetter(*(field.name for field in fields(BatchRow)))


@lru_cache(maxsize=1024)
def _head_code(head: str) -> int:
    return crc32(_raw(head)) & 0x7FFFFFFF


def key_code(key: str) -> int:
    """The number under which a batch's key is looked up; two keys may share one.

    Keys that end with a number, as those of sessions do, lie next to each other: neighbours in time are neighbours in
    the index, and a commit touches few of its pages.
    """
    head, _, tail = key.rpartition("/")
    if tail.isdecimal() and len(tail) < 10 and tail.isascii():
        return _head_code(head) << 32 | int(tail)
    return int.from_bytes(blake2b(_raw(key), digest_size=8).digest(), "little") >> 1


def encode_batch(row: BatchRow) -> bytes:
    """The blob of a batch."""
    (
        batch, spec, size, complete, next_, cut, due_at, submitted_at, finished_at,
        succeeded, dead, cancelled, purged, key, user_key, session, expires_at, flow,
    ) = _batch_fields(row)  # fmt: skip
    flags = complete + 2 * user_key
    name = _raw(session)
    prefix = len(session) + 1
    if key[:prefix] == session + "/":
        flags += _KEY_OF_SESSION
        key = key[prefix:]
    values = (
        spec, size, next_, 0 if cut is None else cut + 1, succeeded, dead, cancelled, purged,
        math.nan if due_at is None else due_at, submitted_at, math.nan if finished_at is None else finished_at,
        len(name),
    )  # fmt: skip
    if expires_at is not None:
        flags += _OWN_EXPIRY
    if flow is not None:
        flags += _FLOW
    try:
        head = _BATCH.pack(flags, *values)
    except struct.error:
        head = _BATCH_WIDE.pack(flags + _WIDE, *values)
    if expires_at is not None:
        head += _EXPIRY.pack(expires_at)
    if flow is not None:
        head += _encode_flow(flow)
    payload = head + name + _raw(key)
    return payload + crc32(payload, (BATCH + batch * 8) & 0xFFFFFFFF).to_bytes(4, "little")


#: The place of a batch's end in its blob, and the encoding of "not yet".
_END: Final = slice(1 + 8 * 4 + 2 * 8, 1 + 8 * 4 + 3 * 8)
_END_WIDE: Final = slice(1 + 8 * 8 + 2 * 8, 1 + 8 * 8 + 3 * 8)
_NOT_YET: Final = struct.pack("<d", math.nan)


_flow_defaults: Final = {field.name: field.default for field in fields(BatchFlow)}


def _set_of(flow: BatchFlow) -> dict[str, Any]:
    """Its fields that differ from their defaults."""
    return {name: value for name, default in _flow_defaults.items() if (value := getattr(flow, name)) != default}


#: The encodings of rare fields that batches share as one object, by its identity: a hash of all fields takes longer.
_shared: Final[dict[int, tuple[BatchFlow, bytes]]] = {}
_MOST_SHARED: Final = 16_384


def _encode_flow(flow: BatchFlow) -> bytes:
    """The rare fields of a batch, behind their length."""
    known = _shared.get(id(flow))
    if known is not None and known[0] is flow:
        return known[1]
    told = _json(_set_of(flow))
    code = _FLOW_LENGTH.pack(len(told)) + told
    if not flow.has_parents:
        if len(_shared) >= _MOST_SHARED:
            _shared.clear()
        _shared[id(flow)] = flow, code
    return code


def _flow_of(told: bytes) -> BatchFlow:
    fields = json.loads(told)
    return BatchFlow(
        after=_parents_of(fields.pop("after", ())),
        each=tuple([tuple(element) for element in fields.pop("each", ())]),
        given=tuple(fields.pop("given", ())),
        limits=tuple(fields.pop("limits", ())),
        **fields,
    )


def _parents_of(told: Iterable[list[Any]]) -> tuple[Parent, ...]:
    return tuple([cast(Parent, tuple(parent)) for parent in told])


_shared_flow: Final = lru_cache(maxsize=16_384)(_flow_of)


def _decode_flow(told: bytes) -> BatchFlow:
    """The same again; one object for batches that have the same."""
    return _shared_flow(told) if len(told) <= _SHORT else _flow_of(told)


def unfinished(body: bytes) -> bool:
    """Whether a sound blob belongs to an unfinished batch."""
    return body[_END_WIDE if body[0] & _WIDE else _END] == _NOT_YET


class _Draft:
    """A `BatchRow` while its fields are set: the same slots, not frozen.

    A frozen dataclass sets each of its 18 fields with a call, 2 us together; a restart makes a million of them, and so
    sets them here (0.3 us) and turns the draft into the row it is.
    """

    __slots__ = tuple(field.name for field in fields(BatchRow))
    batch: int
    spec: int
    size: int
    complete: bool
    next: int
    cut: int | None
    due_at: float | None
    submitted_at: float
    finished_at: float | None
    succeeded: int
    dead: int
    cancelled: int
    purged: int
    key: str
    user_key: bool
    session: str
    expires_at: float | None
    flow: BatchFlow | None


def decode_batch(batch: int, body: object, names: dict[bytes, str]) -> BatchRow:
    """The row of a batch.

    Args:
        batch: its number.
        body: its blob.
        names: names of sessions seen so far, so that rows of one session share its name.

    Raises:
        DamagedRow: the blob is not that batch's.
    """
    if type(body) is not bytes or crc32(body, (BATCH + batch * 8) & 0xFFFFFFFF) != _RESIDUE:
        raise DamagedRow(f"the checksum of batch {batch} is wrong")
    layout = _BATCH_WIDE if body[0] & _WIDE else _BATCH
    draft = _Draft()
    draft.batch = batch
    (
        flags, draft.spec, draft.size, draft.next, cut, draft.succeeded, draft.dead, draft.cancelled, draft.purged,
        due_at, draft.submitted_at, finished_at, length,
    ) = layout.unpack_from(body)  # fmt: skip
    draft.complete = flags & _COMPLETE != 0
    draft.user_key = flags & _USER_KEY != 0
    draft.cut = cut - 1 if cut else None
    draft.due_at = None if due_at != due_at else due_at
    draft.finished_at = None if finished_at != finished_at else finished_at
    begin = layout.size
    if flags & _OWN_EXPIRY:
        (draft.expires_at,) = _EXPIRY.unpack_from(body, begin)
        begin += _EXPIRY.size
    else:
        draft.expires_at = None
    if flags & _FLOW:
        (size,) = _FLOW_LENGTH.unpack_from(body, begin)
        begin += _FLOW_LENGTH.size + size
        draft.flow = _decode_flow(body[begin - size : begin])
    else:
        draft.flow = None
    end = begin + length
    name = body[begin:end]
    session = names.get(name)
    if session is None:
        session = names[name] = _text(name)
    key = body[end:-4].decode("utf-8", "surrogatepass")
    draft.session = session
    draft.key = f"{session}/{key}" if flags & _KEY_OF_SESSION else key
    draft.__class__ = BatchRow  # type: ignore[assignment]  # same slots, so Python allows it
    return cast(BatchRow, draft)


# -- tasks and leases ---------------------------------------------------------------------------------------------

# State, outcome, cancelling, attempt, failures, crashes, due and end, length of the exception's name. Where the state
# has `_WAITED` added, what the task waits for by itself follows, as JSON behind its length.
_TASK: Final = struct.Struct("<BB?3q2dI")
_WAITED: Final = 1 << 7
_AFTER_LENGTH: Final = struct.Struct("<I")


def final_at(row: TaskRow) -> float | None:
    """When the task came into its final state; None if it has not."""
    return (row.ended_at or 0.0) if row.state.final else None


def encode_task(row: TaskRow) -> bytes:
    """The blob of a task."""
    exception = _raw(row.exception)
    head = _TASK.pack(
        STATE_CODE[row.state] + (_WAITED if row.after else 0),
        _OUTCOME_CODE[row.outcome],
        row.cancelling,
        row.attempt,
        row.failures,
        row.crashes,
        math.nan if row.due_at is None else row.due_at,
        math.nan if row.ended_at is None else row.ended_at,
        len(exception),
    )
    if row.after:
        told = _json(row.after)
        head += _AFTER_LENGTH.pack(len(told)) + told
    return seal(head + exception + _raw(row.message), TASK, row.batch, row.index)


def decode_task(batch: int, index: int, body: object) -> TaskRow:
    """The row of a task.

    Raises:
        DamagedRow: the blob is not that task's.
    """
    raw = _check(body, TASK, batch, index)
    state, outcome, cancelling, attempt, failures, crashes, due_at, ended_at, length = _TASK.unpack_from(raw)
    begin, after = _TASK.size, _parents_of(())
    if state & _WAITED:
        (size,) = _AFTER_LENGTH.unpack_from(raw, begin)
        begin, state = begin + _AFTER_LENGTH.size + size, state - _WAITED
        after = _parents_of(json.loads(raw[begin - size : begin]))
    end = begin + length
    return TaskRow(
        batch=batch,
        index=index,
        state=_STATES[state],
        attempt=attempt,
        failures=failures,
        crashes=crashes,
        due_at=None if math.isnan(due_at) else due_at,
        ended_at=None if math.isnan(ended_at) else ended_at,
        cancelling=cancelling,
        outcome=_OUTCOMES[outcome],
        exception=_text(raw[begin:end]),
        message=_text(raw[end:-4]),
        after=after,
    )


# Batch, lo, hi, attempt, since when, length of the session's name; if `_CALLED` is added to that, the call; if
# `_WITH_UNITS` is added, the lease's units, as JSON behind its length; then the session and the worker. The first
# stores had no calls.
_LEASE: Final = struct.Struct("<4qdH")
_CALL: Final = struct.Struct("<q")
_CALLED: Final = 1 << 15
_WITH_UNITS: Final = 1 << 14
_UNITS_LENGTH: Final = struct.Struct("<I")
_lease_fields = attrgetter("token", "session", "worker", "batch", "lo", "hi", "attempt", "granted_at", "call", "units")


def encode_lease(row: LeaseRow) -> bytes:
    """The blob of a lease."""
    token, session, worker, batch, lo, hi, attempt, granted_at, call, units = _lease_fields(row)
    name = _raw(session)
    head = _LEASE.pack(batch, lo, hi, attempt, granted_at, len(name) + _CALLED) + _CALL.pack(call)
    if units is not None:
        told = _json([(portion.name, portion.units, portion.amount) for portion in units])
        head = _LEASE.pack(batch, lo, hi, attempt, granted_at, len(name) + _CALLED + _WITH_UNITS) + _CALL.pack(call)
        head += _UNITS_LENGTH.pack(len(told)) + told
    return seal(head + name + _raw(worker), LEASE, token)


def decode_lease(token: int, body: object) -> LeaseRow:
    """The row of a lease.

    Raises:
        DamagedRow: the blob is not that lease's.
    """
    raw = _check(body, LEASE, token)
    batch, lo, hi, attempt, granted_at, length = _LEASE.unpack_from(raw)
    begin, call = _LEASE.size, 0
    if length & _CALLED:
        (call,) = _CALL.unpack_from(raw, begin)
        begin, length = begin + _CALL.size, length - _CALLED
    units: tuple[Portion, ...] | None = None
    if length & _WITH_UNITS:
        (size,) = _UNITS_LENGTH.unpack_from(raw, begin)
        begin, length = begin + _UNITS_LENGTH.size + size, length - _WITH_UNITS
        told = json.loads(raw[begin - size : begin])
        units = tuple([Portion(name=name, units=tuple(named), amount=amount) for name, named, amount in told])
    end = begin + length
    return LeaseRow(
        token=token,
        session=_text(raw[begin:end]),
        worker=_text(raw[end:-4]),
        batch=batch,
        lo=lo,
        hi=hi,
        attempt=attempt,
        granted_at=granted_at,
        call=call,
        units=units,
    )


# -- values in use, and holds -------------------------------------------------------------------------------------

# Kind and key of the naming row; segment, start and length.
_USE: Final = struct.Struct("<B5q")
# Its time to live and its end; lengths of the session's name and of the digest; then both, and the description.
_HOLD: Final = struct.Struct("<2dHH")


def use_crc(kind: int, owner: int, lo: int, segment: int, start: int, length: int) -> bytes:
    """The checksum of a record that a row names a value.

    Raises:
        struct.error: no row can have such a key, or no value such a place.
    """
    return crc32(_USE.pack(kind, owner, lo, segment, start, length)).to_bytes(4, "little")


def hold_code(session: str, digest: bytes) -> int:
    """The number under which a hold is stored."""
    return int.from_bytes(blake2b(digest, digest_size=8, key=blake2b(_raw(session)).digest()).digest(), "little") >> 1


def encode_hold(row: HoldRow) -> bytes:
    """The blob of a hold."""
    name = _raw(row.session)
    head = _HOLD.pack(row.ttl_s, math.nan if row.until is None else row.until, len(name), len(row.digest))
    return seal(head + name + row.digest + row.description, HOLD, hold_code(row.session, row.digest))


def decode_hold(hold: int, body: object) -> HoldRow:
    """The row of a hold.

    Raises:
        DamagedRow: the blob is not that hold's.
    """
    raw = _check(body, HOLD, hold)
    ttl_s, until, name, digest = _HOLD.unpack_from(raw)
    end = _HOLD.size + name
    return HoldRow(
        session=_text(raw[_HOLD.size : end]),
        digest=raw[end : end + digest],
        description=raw[end + digest : -4],
        ttl_s=ttl_s,
        until=None if math.isnan(until) else until,
    )


# -- definitions --------------------------------------------------------------------------------------------------


def definition_code(kind: str, name: str) -> int:
    """The number under which a definition is stored."""
    return int.from_bytes(blake2b(_raw(f"{kind}/{name}"), digest_size=8).digest(), "little") >> 1


def encode_definition(row: DefinitionRow) -> bytes:
    """The blob of a definition."""
    payload = _json({"kind": row.kind, "name": row.name, "body": row.body})
    return seal(payload, DEFINITION, definition_code(row.kind, row.name))


def decode_definition(code: int, body: object) -> DefinitionRow:
    """The row of a definition.

    Raises:
        DamagedRow: the blob is not that definition's.
    """
    return DefinitionRow(**json.loads(_check(body, DEFINITION, code)[:-4]))


# -- pages --------------------------------------------------------------------------------------------------------

_PAGE: Final = struct.Struct("<B3qd")


# In front of the worker's name: a byte that no text begins with, the seconds that the tasks took together, and the peak
# memory. Stores before version 5 have the name alone.
_RAN: Final = struct.Struct("<Bdq")
_RAN_MARK: Final = 0xFF


def encode_worker(row: ResultPage) -> bytes:
    """The worker of a page, and its account of the tasks, as the column holds them."""
    seconds, peak = row.seconds, row.peak_memory
    return _RAN.pack(_RAN_MARK, math.nan if seconds is None else seconds, -1 if peak is None else peak) + _raw(
        row.worker
    )


def decode_worker(raw: object) -> tuple[str, float | None, int | None]:
    """The name of a worker, the seconds and the peak memory from its column; undecodable bytes are replaced, as the
    page's checksum covers them.
    """
    if not isinstance(raw, bytes):
        return "", None, None
    if len(raw) < _RAN.size or raw[0] != _RAN_MARK:
        return raw.decode("utf-8", "replace"), None, None
    _, seconds, peak = _RAN.unpack_from(raw)
    name = raw[_RAN.size :].decode("utf-8", "replace")
    # Of a damaged column, any bytes may stand for the numbers.
    return name, seconds if 0 <= seconds < math.inf else None, peak if peak >= 0 else None


def arguments_crc(batch: int, lo: int, hi: int, data: bytes) -> int:
    """The checksum of a page of arguments and of its key."""
    return crc32(data, crc32(_PAGE.pack(ARGUMENTS, batch, lo, hi, 0.0)))


def results_crc(batch: int, lo: int, hi: int, ended_at: float, worker: bytes, data: bytes) -> int:
    """The checksum of a page of results, of its key and of its other columns."""
    return crc32(data, crc32(_PAGE.pack(RESULTS, batch, lo, hi, ended_at) + worker))


def decode_arguments(row: tuple[Any, ...]) -> ArgumentPage:
    """The page in ``(batch, lo, hi, crc, data)``.

    Raises:
        DamagedRow: the checksum is wrong.
    """
    batch, lo, hi, crc, data = row
    try:
        intact = crc == arguments_crc(batch, lo, hi, data)
    except (TypeError, struct.error):
        intact = False
    if not intact:
        raise DamagedRow(f"the checksum of a page of arguments, tasks {lo} to {hi} of batch {batch}, is wrong")
    return ArgumentPage(batch=batch, lo=lo, hi=hi, data=data)


def decode_results(row: tuple[Any, ...]) -> ResultPage:
    """The page in ``(batch, lo, hi, ended_at, worker, crc, data)``.

    Raises:
        DamagedRow: the checksum is wrong.
    """
    batch, lo, hi, ended_at, worker, crc, data = row
    try:
        intact = crc == results_crc(batch, lo, hi, ended_at, worker, data)
    except (TypeError, struct.error):
        intact = False
    if not intact:
        raise DamagedRow(f"the checksum of a page of results, tasks {lo} to {hi} of batch {batch}, is wrong")
    seconds: float | None = None
    peak: int | None = None
    if worker[:1] == b"\xff":
        _, stored_s, stored_peak = _RAN.unpack_from(worker)
        seconds = None if stored_s != stored_s else stored_s
        peak = None if stored_peak < 0 else stored_peak
        worker = worker[_RAN.size :]
    return ResultPage(
        batch=batch,
        lo=lo,
        hi=hi,
        data=data,
        worker=_text(worker),
        ended_at=ended_at,
        seconds=seconds,
        peak_memory=peak,
    )


def output_crc(batch: int, lo: int, hi: int, attempt: int, data: bytes) -> int:
    """The checksum of a page of output and of its key."""
    return crc32(data, crc32(_PAGE.pack(OUTPUT, batch, lo, hi, float(attempt))))


def decode_output(row: tuple[Any, ...]) -> OutputPage:
    """The page in ``(batch, lo, hi, attempt, crc, data)``.

    Raises:
        DamagedRow: the checksum is wrong.
    """
    batch, lo, hi, attempt, crc, data = row
    try:
        intact = crc == output_crc(batch, lo, hi, attempt, data)
    except (TypeError, struct.error):
        intact = False
    if not intact:
        raise DamagedRow(f"the checksum of a page of output, tasks {lo} to {hi} of batch {batch}, is wrong")
    return OutputPage(batch=batch, lo=lo, hi=hi, attempt=attempt, data=data)


# -- rare rows: JSON, readable by people and by later versions ----------------------------------------------------


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def encode_spec(row: SpecRow) -> bytes:
    """The blob of a spec."""
    return seal(_json(spec_as_json(row.spec)), SPEC, row.number)


def decode_spec(number: int, body: object) -> Spec:
    """The spec of a number.

    Raises:
        DamagedRow: the blob is not that spec's.
    """
    return spec_from_json(json.loads(_check(body, SPEC, number)[:-4]))


def encode_attempt(row: AttemptRow) -> bytes:
    """The blob of an attempt."""
    attempt = row.attempt
    plain = asdict(attempt)
    plain["outcome"] = attempt.outcome.value
    plain["failure"]["pickled"] = base64.b64encode(attempt.failure.pickled).decode("ascii")
    return seal(_json(plain), ATTEMPT, row.batch, row.index)


def decode_attempt(batch: int, index: int, body: object) -> Attempt:
    """An attempt of a task.

    Raises:
        DamagedRow: the blob is not of that task.
    """
    fields = json.loads(_check(body, ATTEMPT, batch, index)[:-4])
    failure = fields["failure"]
    failure["bases"] = tuple(failure["bases"])
    failure["pickled"] = base64.b64decode(failure["pickled"])
    fields["outcome"] = Outcome(fields["outcome"])
    fields["failure"] = Failure(**failure)
    return Attempt(**fields)
