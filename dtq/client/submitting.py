"""Submits: a function, its arguments and terms become an entry of the outbox.

Client, between the faces and the client core; the same for threads and for an event loop, except that the outbox may
make the caller wait.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple

from dtq.client import current
from dtq.client.after import awaited, few, settled
from dtq.client.batch_handle import BatchHandle, Element
from dtq.client.batch_uploads import Own
from dtq.client.batches import Batch
from dtq.client.client_core import ClientCore
from dtq.client.conditions import NOTHING_ASKED, Asked, ConditionOptions
from dtq.client.functions import Callee, callee
from dtq.client.handle import TaskHandle
from dtq.client.large_payloads import written
from dtq.client.maps import start_reading, submit_whole
from dtq.client.outbox import Awaited, Item
from dtq.client.parents import HandlesMet, collecting
from dtq.client.payloads import Encode
from dtq.client.terms import NO_TERMS, UNSET, Attribution, Span, TaskOptions, Terms, Unset, moment, seconds
from dtq.errors import InvalidValue, StoreReplaced, TooLarge, ValueGone
from dtq.model.fields import MAX_NAME
from dtq.model.messages import Conditions
from dtq.model.options import Function, FunctionKind, Spec, check_delay
from dtq.model.values import MARK, MIN_VALUE, is_description, weight
from dtq.records import replace
from dtq.values.base import Values

#: Room in a message for everything but function and arguments, in bytes.
_ENVELOPE: Final = 4096

#: A callable to submit: a function; or ``module:function`` or a registered name, for one that need not exist here.
Callable_ = Callable[..., Any] | str | Function


class SubmitOptions(TaskOptions, ConditionOptions, total=False):
    """`TaskOptions`, `ConditionOptions`, and options of one submission.

    Attributes:
        delay: time before the task is due, in seconds or as a timedelta. Default 0.
        at: the moment at which it is due, by the coordinator's wall clock: even if that clock is set meanwhile. One
            without a time zone is local time.
        key: the submitter's own key: while a batch with this key is remembered, submitting it again gives a handle of
            that one, and no second task; ``unique`` and ``on_conflict`` change that.
    """

    delay: Span
    at: datetime | None
    key: str | None


class Order(NamedTuple):
    """The terms of a submission.

    Attributes:
        terms: the given options of the task; hashable.
        delay: time before it is due, as given.
        key: the submitter's own key.
        at: the moment at which it is due, as given.
        asked: rare terms.
    """

    terms: Terms = NO_TERMS
    delay: Span | Unset = UNSET
    key: str | Unset | None = UNSET
    at: datetime | Unset | None = UNSET
    asked: Asked = NOTHING_ASKED

    def over(self, below: Order) -> Order:
        """This order; where unset, the one below."""
        return Order(
            self.terms.over(below.terms),
            below.delay if self.delay is UNSET else self.delay,
            below.key if self.key is UNSET else self.key,
            below.at if self.at is UNSET else self.at,
            self.asked.over(below.asked),
        )

    @property
    def delay_s(self) -> float:
        """The delay in seconds.

        Raises:
            InvalidValue: it is invalid.
        """
        return 0.0 if self.delay is UNSET else check_delay(seconds(self.delay, "delay"))

    @property
    def conditions(self) -> Conditions | None:
        """The rare terms; None if all are unset.

        Raises:
            InvalidValue: one of them is invalid: the moment is malformed, or given together with a delay.
        """
        asked = None if self.asked is NOTHING_ASKED else self.asked.conditions(self.own_key)
        if self.at is UNSET or self.at is None:
            return asked
        if self.delay is not UNSET:
            raise InvalidValue("at", str(self.at), "give a delay or a moment, not both")
        return replace(asked or Conditions(), at=moment(self.at, "at"))

    def parents(self, core: ClientCore | None) -> tuple[Awaited, ...]:
        """The given parents, apart from those in the arguments.

        Args:
            core: the submitting client; None for a check of the types only.

        Raises:
            InvalidValue, InvalidId: one of them is invalid.
            DtqError: a parent batch was refused.
        """
        after = self.asked.after
        return () if after is UNSET or after is None else awaited(after, partial(_check_place, core, "after"))

    def settled(self, core: ClientCore | None) -> Conditions | None:
        """The conditions, with the parents; waits until all of those are accepted.

        Args:
            core: as for `parents`.

        Raises:
            As `conditions` and `parents`; and DtqError if a parent task was refused.
        """
        parents = settled(self.parents(core))
        return replace(self.conditions or Conditions(), after=parents) if parents else self.conditions

    @property
    def own_key(self) -> str | None:
        """The key.

        Raises:
            InvalidValue: it is invalid.
        """
        if self.key is UNSET or self.key is None:
            return None
        key: object = self.key  # its type at run time may differ from the annotation
        if not isinstance(key, str) or not 0 < len(key) <= MAX_NAME or not key.isprintable():
            raise InvalidValue("a key", repr(key)[:80], f"it is a text of 1 to {MAX_NAME} printable characters")
        return key


#: Option keywords of `Client.submit`.
OPTIONS: Final = frozenset({*Terms._fields, *Asked._fields, "delay", "at", "key"})
#: All unset.
PLAIN: Final = Order()


def order(
    delay: Span | Unset = UNSET,
    key: str | Unset | None = UNSET,
    at: datetime | Unset | None = UNSET,
    **options: Any,
) -> Order:
    """An order from keywords: those of `SubmitOptions`.

    Raises:
        InvalidValue: ``never_retry`` contains an object that is no exception.
        TypeError: an option is unknown.
    """
    if not options:
        return Order(NO_TERMS, delay, key, at)
    unknown = [name for name in options if name not in Terms._fields and name not in Asked._fields]
    if unknown:
        known = ", ".join(("delay", "at", "key", *Asked._fields, *Terms._fields))
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}; the options of a task are {known}")
    asked = {name: options.pop(name) for name in Asked._fields if name in options}
    return Order(Terms(**options).frozen(), delay, key, at, Asked(**asked) if asked else NOTHING_ASKED)


def divided(keywords: dict[str, Any]) -> tuple[Order, dict[str, Any]]:
    """Divide the keywords of `Client.submit` into its own options and the function's keywords.

    Raises:
        As `order`.
    """
    options = {name: value for name, value in keywords.items() if name in OPTIONS}
    return order(**options), {name: value for name, value in keywords.items() if name not in OPTIONS}


def submit(
    core: ClientCore, function: Callable_, order: Order, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> TaskHandle[Any]:
    """Submit one task.

    Raises:
        CannotPickle, NotImportable, TooLarge, InvalidValue: the task was not submitted.
        Unreachable, WrongKey, ProtocolMismatch: the first connection does not work.
        ClientClosed: the client was closed.
    """
    item = prepare(core, function, order, args, kwargs)
    try:
        core.outbox.put(item)
    except BaseException:  # Ctrl-C, for one
        core.drop(item)
        raise
    return item.handle


def prepare(
    core: ClientCore,
    function: Callable_,
    order: Order,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    make: Callable[[ClientCore, Spec], TaskHandle[Any]] = TaskHandle,
) -> Item:
    """Prepare a submission for the outbox.

    Args:
        core: the client.
        function: the function.
        order: the terms.
        args: its arguments.
        kwargs: its keyword arguments.
        make: makes the handle.

    Raises:
        As `submit`.
    """
    target = callee(function)
    if order is PLAIN:
        delay_s, key, conditions = 0.0, None, None
    else:
        delay_s, key, conditions = order.delay_s, order.own_key, order.conditions
    parents = order.parents(core) if order is not PLAIN else ()
    try:
        if target.large or key is not None:
            blob = encode(core, target, args, kwargs, keyed=key is not None)
        else:
            blob = target.encode(args, kwargs)  # a large call is written by `item_of`
    except HandlesMet:
        blob, given = with_parents(core, target, args, kwargs, keyed=key is not None)
        parents = few((*given, *parents))
    spec, attribution = target.called(order.terms, current.depth_of_submissions())
    core.start()
    if target.by_value:
        spec = core.shared.function(function, spec)
    if len(blob) >= MIN_VALUE and not (target.large or parents or key is not None):
        blob = first_large(core, target, args, kwargs, blob)
    session, size = core.session, len(blob)
    around = len(spec.function.body) + _ENVELOPE
    if not blob[0] or size >= MIN_VALUE or size > session.max_blob or size + around > session.max_message:
        item = item_of(core, make(core, spec), blob, delay_s, key, conditions, parents, attribution)
        target.large = item.described
        return item
    return Item(make(core, spec), spec, blob, size, False, delay_s, key, conditions, parents, attribution)


def with_parents(
    core: ClientCore, target: Callee, args: tuple[Any, ...], kwargs: Any, *, keyed: bool
) -> tuple[bytes, tuple[Awaited, ...]]:
    """Encode a call that contains handles, and return its parents.

    Args:
        core: the client.
        target: the function.
        args: its arguments.
        kwargs: its keyword arguments.
        keyed: see `encode`.

    Raises:
        CannotPickle: an argument cannot be pickled.
        InvalidValue: a handle's task belongs to another coordinator.
        DtqError: the refusal of a task that must be accepted first.
    """
    blob, handles = collecting(target.encode, args, kwargs, keyed=keyed)
    for handle in [handle for handle in handles if not isinstance(handle, Element)]:
        _check_place(core, "a handle among the arguments", handle)
    if any([isinstance(handle, BatchHandle) and handle.accepted() and handle.is_empty for handle in handles]):
        blob, handles = collecting(target.encode, args, kwargs, keyed=keyed)  # there is no parent to wait for
    return blob, tuple([(_given(handle), True) for handle in handles])


def with_own(
    core: ClientCore, target: Callee, args: tuple[Any, ...], kwargs: Any, met: list[Own], *, keyed: bool
) -> bytes:
    """As `with_parents`, for a call of a map; waits until what it waits for is accepted.

    Args:
        core: the client.
        target: the function.
        args: its arguments.
        kwargs: its keyword arguments.
        met: is told what the call waits for.
        keyed: see `encode`.
    """
    blob, given = with_parents(core, target, args, kwargs, keyed=keyed)
    handles = [parent for parent, _ in given if isinstance(parent, TaskHandle)]
    if given:
        met.append(Own(settled(few(given)), tuple(handles)))
    return blob


def _given(handle: Any) -> TaskHandle[Any] | tuple[int, int, int]:
    """The parents of a handle among the arguments; a batch is accepted first."""
    if isinstance(handle, Element):
        return handle.batch, handle.index, handle.index + 1
    return (int(handle.id), 0, 0) if isinstance(handle, BatchHandle) else handle


def _check_place(core: ClientCore | None, what: str, handle: TaskHandle[Any] | BatchHandle[Any]) -> None:
    """Make sure that another client's task belongs to this client's coordinator.

    Args:
        core: this client; None for no check.
        what: its handle's noun in the error's sentence.
        handle: the handle.

    Raises:
        InvalidValue: it belongs to another coordinator.
        StoreReplaced: its store was replaced by another.
        DtqError: its refusal.
    """
    if core is None or handle._desk is core:
        return
    core.start()
    session = getattr(handle._desk, "session", core.session)
    place = session.place
    if place != core.session.place:
        why = f"its task is at {place}, and this client submits to {core.session.place}"
        raise InvalidValue(what, repr(handle), why)
    if session.store and session.store != core.session.store:
        raise StoreReplaced(place)
    handle.accepted()


def encode(core: ClientCore, target: Callee, args: tuple[Any, ...], kwargs: Any, *, keyed: bool) -> bytes:
    """Encode a call as a blob; as a description if it is large. Repeated large arguments are put.

    Args:
        core: the client.
        target: the function.
        args: its arguments.
        kwargs: its keyword arguments.
        keyed: whether it may be compared with another call of its key: then its encoding must be the same each time.

    Raises:
        CannotPickle: an argument cannot be pickled.
        DtqError: the value cannot be written.
    """
    values = core.values
    if target.large and values is not None and not keyed and target.function.kind is not FunctionKind.REGISTERED:
        args, kwargs = core.shared.replaced(target, args, kwargs)
    try:
        blob = target.encode(args, kwargs, values, target.large or keyed)
    except ValueGone:  # the coordinator has lost the value so far
        blob = target.encode(args, kwargs, values, target.large or keyed)
    target.large = blob.startswith(MARK)
    return blob


def first_large(core: ClientCore, target: Callee, args: tuple[Any, ...], kwargs: Any, blob: bytes) -> bytes:
    """The blob of a call of a function that had no large calls so far: if it is large, the call is encoded anew, as the
    next ones will be, with arrays beside the pickle and large arguments put.

    Args:
        core: the client.
        target: the function.
        args: its arguments.
        kwargs: its keyword arguments.
        blob: the call, encoded as a small one.

    Raises:
        As `encode`.
    """
    values = core.values
    if values is None or len(blob) < values.least or is_description(blob):
        return blob
    target.large = True
    try:
        return encode(core, target, args, kwargs, keyed=False)
    except TooLarge as error:  # it has counted only the bytes up to the limit
        what, size, limit = error.args
        raise TooLarge(what, max(size, len(blob)), limit) from None


def _written(blob: bytes, values: Values) -> bytes:
    try:
        return written(blob, values)
    except ValueGone:  # as in `encode`
        return written(blob, values)


def item_of(
    core: ClientCore,
    handle: TaskHandle[Any],
    blob: bytes,
    delay_s: float,
    key: str | None,
    conditions: Conditions | None = None,
    parents: tuple[Awaited, ...] = (),
    attribution: Attribution | None = None,
) -> Item:
    """A submission that has only to be put into the outbox.

    Args:
        core: the client, which is connected.
        handle: its handle.
        blob: its call.
        delay_s: time before the task is due, in seconds.
        key: the submitter's own key.
        conditions: what few submissions ask for.
        parents: what its task waits for.
        attribution: its limits and label.

    Raises:
        TooLarge: it is too large to be sent.
        DtqError: it is too large to be sent, and cannot be written elsewhere.
    """
    spec = handle._spec
    session = core.session
    around = len(spec.function.body) + _ENVELOPE
    if len(blob) >= MIN_VALUE or len(blob) + around > session.max_message or len(blob) > session.max_blob:
        values = core.values
        room = min(session.max_message - around, session.max_blob)
        if values is not None and room > 0 and not is_description(blob) and len(blob) >= min(values.least, room):
            blob = _written(blob, values)
        if len(blob) + around > session.max_message:
            raise TooLarge("a task", len(blob) + around, session.max_message)
        if len(blob) > session.max_blob:
            raise TooLarge("a task's call", len(blob), session.max_blob)
    return Item(handle, spec, blob, weight(blob), is_description(blob), delay_s, key, conditions, parents, attribution)


def over(iterables: tuple[Any, ...]) -> tuple[BatchHandle[Any] | None, ...]:
    """The handles of batches over whose results a map is, in the places of the iterables; None for others.

    Raises:
        TypeError: there are no iterables.
    """
    if not iterables:
        raise TypeError("a map needs at least one iterable")
    found = [getattr(each, "_handle", each) for each in iterables]
    return tuple([each if isinstance(each, BatchHandle) else None for each in found])


def elements(
    core: ClientCore, conditions: Conditions | None, iterables: tuple[Any, ...], *, together: bool = True
) -> tuple[Conditions | None, tuple[Any, ...]]:
    """What a map is over, with something that stands for each result of a batch among it: where all are batches, the
    coordinator is told so, and nothing is left to be encoded. Waits until all of the batches are accepted.

    Args:
        core: the client, which is connected.
        conditions: what few submissions ask for.
        iterables: what the map is over.
        together: whether its calls are one batch, a task each.

    Raises:
        InvalidValue: another coordinator has one of the batches.
        DtqError: one of them was refused.
    """
    handles = over(iterables)
    known = [handle for handle in handles if handle is not None]
    for handle in known:
        _check_place(core, "what a map is over", handle)
    sizes = [handle.completed() for handle in known]
    if together and known and len(known) == len(iterables) and min(sizes):
        each = tuple([(int(handle.id), handle.element(0).is_json) for handle in known])
        return replace(conditions or Conditions(), each=each), ((),) * len(iterables)
    made = [
        iterable if handle is None else map(handle.element, range(handle.size))
        for iterable, handle in zip(iterables, handles, strict=True)
    ]
    return conditions, tuple(made)


def checked(core: ClientCore, function: Callable_, order: Order, iterables: tuple[Any, ...]) -> tuple[Callee, Spec]:
    """The function and spec of a map, once the client is connected.

    Raises:
        As `submit`.
    """
    over(iterables)
    target = callee(function)
    spec = target.spec(order.terms, current.depth_of_submissions())
    core.start()
    return target, core.shared.function(function, spec) if target.by_value else spec


def submit_map(core: ClientCore, function: Callable_, order: Order, iterables: tuple[Any, ...]) -> tuple[Spec, Batch]:
    """Submit a task for each item, as one batch; returns when all items were pulled.

    Raises:
        Exception: of the iterables; the sent part is cancelled.
        CannotPickle, NotImportable, InvalidValue, Unreachable, ...: as `submit`.
    """
    target, spec = checked(core, function, order, iterables)
    key, delay_s = order.own_key, order.delay_s
    conditions, iterables = elements(core, order.settled(core), iterables)
    encode = partial(limited, core, target, spec, keyed=key is not None)
    return spec, submit_whole(core, spec, iterables, encode, delay_s=delay_s, key=key, conditions=conditions)


def read_map(
    core: ClientCore,
    function: Callable_,
    order: Order,
    iterables: tuple[Any, ...],
    *,
    ordered: bool,
    return_exceptions: bool,
    read_ahead: int,
) -> Generator[Any, None, None]:
    """Submit a task for each item, as one batch, while its results are read.

    Raises:
        As `submit`.
    """
    if order.own_key is not None:
        raise InvalidValue("key", order.key, "a map that is read cannot have one; use submit_map")
    target, spec = checked(core, function, order, iterables)
    conditions, iterables = elements(core, order.settled(core), iterables)
    return start_reading(
        core,
        spec,
        iterables,
        partial(limited, core, target, spec),
        delay_s=order.delay_s,
        conditions=conditions,
        read_ahead=read_ahead,
        ordered=ordered,
        return_exceptions=return_exceptions,
    )


def limited(core: ClientCore, target: Callee, spec: Spec, met: list[Own], *, keyed: bool = False) -> Encode:
    """The encoder of a map's calls: large ones become values, too large ones are refused.

    Args:
        core: the client, which is connected.
        target: the function.
        spec: in the form that is sent.
        met: gets the parents of a call with handles among its arguments.
        keyed: see `encode`.
    """
    values = core.values
    encode_call = target.encode
    limit = min(core.session.max_message - len(spec.function.body) - _ENVELOPE, core.session.max_blob)
    small = min(limit + 1, MIN_VALUE)

    def encode_limited(args: tuple[Any, ...], kwargs: Any) -> bytes:
        try:
            if target.large or keyed:
                blob = encode(core, target, args, kwargs, keyed=keyed)
            else:
                blob = encode_call(args, kwargs)
                if len(blob) < small:
                    return blob
                blob = first_large(core, target, args, kwargs, blob)
        except HandlesMet:
            blob = with_own(core, target, args, kwargs, met, keyed=keyed)
            if not (keyed or values is None or len(blob) < values.least or is_description(blob)):
                blob = _written(blob, values)
        if len(blob) > limit:
            if values is not None and limit > 0 and not is_description(blob):
                blob = written(blob, values)
            if len(blob) > limit:
                raise TooLarge("a task", len(blob), limit)
        return blob

    return encode_limited
