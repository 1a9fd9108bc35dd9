"""The submissions to an in-process queue, and a test's assertions about them.

Testing, below the in-process queue. A record is made when the coordinator accepts, so refused submissions have none,
and several submissions of one key have one.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from operator import attrgetter
from typing import Any, Final

from dtq.client import references
from dtq.client.conditions import Asked
from dtq.client.functions import callee
from dtq.client.parents import looking
from dtq.client.payloads import call_decoder, decode_call, encode_call
from dtq.client.sharing import digest_of
from dtq.client.submitting import OPTIONS, order
from dtq.client.terms import UNSET, Terms, field_of
from dtq.errors import DtqError
from dtq.model import pages
from dtq.model.ids import TaskId
from dtq.model.inputs import elements_call
from dtq.model.messages import Conditions, Receipt, Submission
from dtq.model.options import Function, Options, Spec
from dtq.model.values import MIN_VALUE, Value, is_description, named, rest
from dtq.records import dataclass, field, replace
from dtq.values.base import Values

#: A function; or ``module:function`` or a registered name.
Named = Callable[..., Any] | str

#: Submissions shown by a failed assertion.
_SHOWN: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A task that was accepted.

    Attributes:
        id: its id.
        name: its function's name, ``module:function`` or a registered name.
        options: its terms: its function's, and those of the submission.
        delay_s: its delay, in seconds.
        at: the moment of the wall clock at which it was due, in seconds of the Unix epoch; None for none.
        key: the submitter's own key.
        conditions: its rare terms; None if all are at their defaults.
        function: the reference to its function.
        blob: its encoded arguments.
        values: reads them if they are large, or references; until the queue is closed.
    """

    id: str
    name: str
    options: Options
    delay_s: float
    key: str | None
    conditions: Conditions | None
    function: Function
    blob: bytes
    at: float | None = None
    values: Values | None = field(default=None, repr=False, compare=False)

    @property
    def args(self) -> tuple[Any, ...]:
        """Its arguments, as a worker gets them."""
        return self._call[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """Its keyword arguments, as a worker gets them."""
        return self._call[1]

    @property
    def _call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        with looking():
            return call_decoder(self.function.kind)(self.blob, self.values)

    def __str__(self) -> str:
        return f"{self.id}  {_call(self.name, self.args, self.kwargs)}"


def _asked_of(name: str, conditions: Conditions) -> Any:
    """One rare term, in its form for the wire."""
    if name == "expires":
        return conditions.expires_s if conditions.start_by is None else conditions.start_by
    if name == "unique":
        return conditions.unique if conditions.unique_s is None else conditions.unique_s
    if name == "on_failed":
        return conditions.run_anyway
    if name == "after":
        return {parent[:3] for parent in conditions.after if not parent[3]}
    return conditions.on_conflict


def _asked(name: str, task: Submitted) -> Any:
    return _asked_of(name, task.conditions or Conditions())


class Wanted:
    """A test's description of a submission: written as in its submission, with the parts that matter.

    Args:
        function: the function.
        args: its arguments; none of either kind for any.
        kwargs: its keyword arguments, and options of `Client.submit`.
        values: reads the values of references among them.
    """

    def __init__(
        self, function: Named, args: tuple[Any, ...], kwargs: dict[str, Any], values: Values | None = None
    ) -> None:
        given = {name: value for name, value in kwargs.items() if name in OPTIONS}
        how = order(**given)
        self.function = callee(function).function
        self._callable = function
        self._args = args
        self._kwargs = {name: value for name, value in kwargs.items() if name not in OPTIONS}
        self._given = given
        fields = how.terms.given()
        #: By option name, the wanted value: how to read it off a task, and the value.
        self._options: dict[str, tuple[Callable[[Submitted], Any], Any]] = {
            name: (attrgetter(f"options.{field_of(name)}"), fields[field_of(name)])
            for name in given
            if name in Terms._fields
        }
        if "delay" in given:
            self._options["delay"] = attrgetter("delay_s"), how.delay_s
        if "at" in given:
            self._options["at"] = attrgetter("at"), None if how.conditions is None else how.conditions.at
        if "key" in given:
            self._options["key"] = attrgetter("key"), how.own_key
        asked = how._replace(key="any" if how.key is UNSET else how.key).settled(None) or Conditions()
        for name in Asked._fields:
            if name in given:
                self._options[name] = partial(_asked, name), _asked_of(name, asked)
        self._signature = _signature(function)
        self._resolved = _resolved(self._args, self._kwargs, values)

    def digests(self) -> set[bytes]:
        """The possible digests of the function, if it is large and travels by value; none if it is not large."""
        body = self.function.body
        if len(body) < MIN_VALUE:
            return set()
        found = {hashlib.sha256(rest(body) if is_description(body) else body).digest()}
        with contextlib.suppress(DtqError):
            found.add(digest_of(self._callable)[0])
        return found

    def differences(self, task: Submitted) -> list[str]:
        """The differences of a task of this function from the description, in words; empty if it matches."""
        found = []
        if (self._args or self._kwargs) and not self._same_arguments(task):
            found.append("other arguments")
        for name, (of, wanted) in self._options.items():
            if of(task) != wanted:
                found.append(f"{name} is {of(task)!r}, not {wanted!r}")
        return found

    def _same_arguments(self, task: Submitted) -> bool:
        args, kwargs = task.args, task.kwargs
        if _equal((args, kwargs), self._resolved):
            return True
        if self._signature is None:
            return False
        try:  # the same arguments, one by place and one by name
            was, wanted = (self._signature.bind(*a, **k) for a, k in ((args, kwargs), self._resolved))
        except TypeError:
            return False
        return _equal(was.arguments, wanted.arguments)

    def __str__(self) -> str:
        arguments = _call(self.function.name, self._args, self._kwargs)
        text = arguments if self._args or self._kwargs else self.function.name
        terms = [f"{name}={value!r}" for name, value in self._given.items()]
        return f"{text} with {', '.join(terms)}" if terms else text


class Submissions:
    """All accepted submissions of a queue, in their order.

    Args:
        values: reads arguments that are large, or references.
    """

    def __init__(self, values: Values | None = None) -> None:
        self._values = values
        self._lock = threading.Lock()
        self._tasks: dict[tuple[int, int], Submitted] = {}
        #: The digests of clients' put values: a large function by value is known by its own.
        self._digests: dict[Value, bytes] = {}

    def held(self, description: bytes, digest: bytes) -> None:
        """Note that a client has put a value."""
        if description:
            with self._lock:
                self._digests[named(description)[0]] = digest

    def accepted(self, specs: list[Spec], submissions: list[Submission], receipts: list[Receipt]) -> None:
        """Note the coordinator's answer to a submitting call."""
        with self._lock:
            for place, (submission, receipt) in enumerate(zip(submissions, receipts, strict=True)):
                if not receipt.code:
                    self._add(specs[submission.spec], _numbered(submission, place, receipts), receipt)

    def _add(self, spec: Spec, submission: Submission, receipt: Receipt) -> None:
        batch, blobs = receipt.batch, pages.unpack(submission.arguments)
        if submission.conditions is not None and submission.conditions.each:
            blobs = [elements_call([is_json for _, is_json in submission.conditions.each])] * receipt.size
        single = submission.complete and submission.offset == 0 and len(blobs) == 1
        for index, blob in enumerate(blobs, submission.offset):
            if (batch, index) not in self._tasks:  # else its key stands for an earlier one
                self._tasks[batch, index] = Submitted(
                    id=str(TaskId(batch, index, single)),
                    name=spec.function.name,
                    options=submission.called(spec).options,
                    delay_s=submission.delay_s,
                    at=None if submission.conditions is None else submission.conditions.at,
                    key=submission.key,
                    conditions=submission.conditions,
                    function=spec.function,
                    blob=blob,
                    values=self._values,
                )

    def all(self) -> list[Submitted]:
        """All of them."""
        with self._lock:
            return list(self._tasks.values())

    def matching(self, wanted: Wanted) -> list[Submitted]:
        """Those that match a test's description."""
        return [task for task in self._of(wanted) if not wanted.differences(task)]

    def _of(self, wanted: Wanted) -> list[Submitted]:
        """The tasks of a function."""
        function, digests = wanted.function, wanted.digests()

        def is_it(other: Function) -> bool:
            if not digests or not is_description(other.body):
                return other == function
            put = self._digests.get(named(other.body)[0])
            return put in digests and replace(other, body=function.body) == function

        return [task for task in self.all() if is_it(task.function)]

    def why_not(self, wanted: Wanted) -> str:
        """Why no task matches a description, with the actual submissions."""
        tasks = self.all()
        near = self._of(wanted)
        if near:
            lines = [f"  {task}: {', '.join(wanted.differences(task))}" for task in near[:_SHOWN]]
            lines += [f"  and {len(near) - _SHOWN} more"] * (len(near) > _SHOWN)
            return "\n".join([f"{wanted} was not submitted. Of that function there is:", *lines])
        return f"{wanted} was not submitted; {summary(tasks)}"


def summary(tasks: Iterable[Submitted]) -> str:
    """The submissions by function, in words."""
    counts = Counter(task.name for task in tasks)
    if not counts:
        return "nothing was."
    return f"what was: {', '.join(f'{name} ({count})' for name, count in counts.most_common(_SHOWN))}."


def listing(tasks: list[Submitted]) -> str:
    """Tasks, one a line."""
    return "\n".join([f"  {task}" for task in tasks[:_SHOWN]] + ["  ..."] * (len(tasks) > _SHOWN))


def _call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    parts = [repr(value)[:80] for value in args] + [f"{key}={value!r}"[:80] for key, value in kwargs.items()]
    return f"{name}({', '.join(parts)})"


def _signature(function: Named) -> inspect.Signature | None:
    if isinstance(function, str):
        return None
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # many builtins have no signature
        return None


def _numbered(submission: Submission, place: int, receipts: list[Receipt]) -> Submission:
    """A submission with the numbers of its parents that were submitted in the same call."""
    conditions = submission.conditions
    if conditions is None or not conditions.after:
        return submission
    numbers = [(receipts[place + number].batch if number < 0 else number) for number, *_ in conditions.after]
    after = tuple([(number, *parent[1:]) for number, parent in zip(numbers, conditions.after, strict=True)])
    return replace(submission, conditions=replace(conditions, after=after))


def _resolved(
    args: tuple[Any, ...], kwargs: dict[str, Any], values: Values | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments as a worker gets them: with values in the place of references."""
    if references.made:
        with contextlib.suppress(DtqError):  # an unpicklable argument was never submitted, and has no references
            blob = encode_call(args, kwargs)
            if is_description(blob):
                return decode_call(blob, values)
    return args, kwargs


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except ValueError:  # arrays have no single truth value of equality
        try:
            return encode_call((one,)) == encode_call((other,))
        except DtqError:
            return False
