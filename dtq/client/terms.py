"""Terms: the options that a caller gave for a task, and the `Options` they add up to.

Client, beside `functions`: a call's own terms override those of `Client.options`, these override those of ``@task``,
these override the defaults of `model.options`. A term that was not given stays `UNSET` until the last step, because
None is a value (``timeout=None`` lifts a time limit).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, NamedTuple, TypedDict

from dtq.errors import InvalidValue
from dtq.model.fields import MAX_MOMENT
from dtq.model.options import Options, check_label, check_limits
from dtq.model.resources import needs


class Unset(Enum):
    """The type of `UNSET`."""

    UNSET = "unset"

    # Enum's own hash is Python code; this one is hashed nine times a submission.
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return "UNSET"


#: Not given.
UNSET: Final = Unset.UNSET

#: An exception class, or its name as `exception_name` returns it.
ExceptionLike = type[BaseException] | str
#: A time span: seconds, or a timedelta.
Span = float | timedelta
#: Amounts of resources, by name: a whole number, or a size (``"4GB"``).
Resources = Mapping[str, int | str] | Iterable[tuple[str, int | str]]


class RunOptions(TypedDict, total=False):
    """Those of `TaskOptions` that concern a task's run."""

    priority: int
    max_retries: int
    max_crashes: int
    timeout: Span | None
    soft_timeout: Span | None
    queue: str
    retry_delay: Span | None
    jitter: bool
    never_retry: ExceptionLike | Iterable[ExceptionLike]
    limits: str | Iterable[str]
    label: str


class TaskOptions(RunOptions, total=False):
    """The terms of a task, as keywords; all may be left out.

    Attributes:
        priority: 1 to 10; 1 is served first (10 first if the coordinator runs with highest_first). Default 5.
        max_retries: how often a failed task is tried again. Default 3.
        max_crashes: number of crashes (its process died, its worker was lost) after which it is given up. Default 3.
        timeout: time limit of one attempt, in seconds or as a timedelta; None for none, the default.
        soft_timeout: after so long, in seconds or as a timedelta, `SoftTimeout` is raised in the task, which may catch
            it and end in order; if it does not, the attempt has failed with it. None for never, the default.
        queue: the queue it waits in. Default ``"default"``.
        retry_delay: time before a retry, in seconds or as a timedelta; None for ``min(300, 2**retry)`` s, the default.
        jitter: whether a backoff is drawn at random from (half, whole]. Default False.
        never_retry: exception classes, or their names, for which there is no second attempt; a subclass counts too.
        keep_results: how long results are kept after the last task of the submission has ended, in seconds or as a
            timedelta; None for as long as the coordinator keeps those of others (``--keep-results``), the default. It
            must be long enough for their readers. The least is about a second, also for 0.
        limits: the name of a limit that it counts against, or several, at most 16. The operator of the queue sets a
            name's limit (`dtq limit set`); a name without a limit bounds nothing. Default none.
        resources: amounts that it needs of its worker's resources (``dtq worker --resource``), by name: ``{"gpu": 1,
            "memory": "4GB"}``. It has them for itself while it runs. Default none.
        slots: how many slots of its worker it takes. Default 1.
        tags: a tag that its worker must have (``dtq worker --tag``), or several. Default none.
        label: a free word by which `dtq list` and other verbs find it. Default none.
    """

    keep_results: Span | None
    resources: Resources
    slots: int
    tags: str | Iterable[str]


class Terms(NamedTuple):
    """The given ones of `TaskOptions`, UNSET for the rest. Hashable once it was `frozen`."""

    priority: int | Unset = UNSET
    max_retries: int | Unset = UNSET
    max_crashes: int | Unset = UNSET
    timeout: Span | Unset | None = UNSET
    soft_timeout: Span | Unset | None = UNSET
    queue: str | Unset = UNSET
    retry_delay: Span | Unset | None = UNSET
    jitter: bool | Unset = UNSET
    never_retry: ExceptionLike | Iterable[ExceptionLike] | Unset = UNSET
    keep_results: Span | Unset | None = UNSET
    limits: str | Iterable[str] | Unset = UNSET
    resources: Resources | Unset = UNSET
    slots: int | Unset = UNSET
    tags: str | Iterable[str] | Unset = UNSET
    label: str | Unset = UNSET

    def over(self, below: Terms) -> Terms:
        """These terms; where unset, those below."""
        given: dict[str, Any] = {name: value for name, value in zip(_FIELDS, self, strict=True) if value is not UNSET}
        return below._replace(**given) if given else below

    def frozen(self) -> Terms:
        """The same, with the names of ``never_retry``, ``limits``, ``resources`` and ``tags``.

        Raises:
            InvalidValue: ``never_retry`` contains an object that is no exception, or another field one that is no name.
        """
        terms = self if self.limits is UNSET else self._replace(limits=limit_names(self.limits))
        if terms.resources is not UNSET:
            terms = terms._replace(resources=amounts(terms.resources))
        if terms.tags is not UNSET:
            terms = terms._replace(tags=tag_names(terms.tags))
        return terms if terms.never_retry is UNSET else terms._replace(never_retry=exception_names(terms.never_retry))

    def options(self) -> Options:
        """The options they add up to.

        Raises:
            InvalidValue: one of them is invalid.
        """
        return Options(**self.given())

    def given(self) -> dict[str, Any]:
        """The fields of `Options` with a given term.

        Raises:
            InvalidValue: one of them is invalid.
        """
        fields: dict[str, Any] = {}
        for name, value in zip(_FIELDS, self, strict=True):
            if value is not UNSET:
                field, convert = _CONVERSIONS[name]
                fields[field] = convert(value, name)
        if not _OF_NEEDS.isdisjoint(fields):
            of_needs = [fields.pop(name, default) for name, default in (("resources", ()), ("slots", 1), ("tags", ()))]
            fields["needs"] = needs(dict(of_needs[0]), of_needs[1], of_needs[2])
        return fields


#: All unset.
NO_TERMS: Final = Terms()


class Attribution(NamedTuple):
    """The part of a submission that is its own, beside a spec that many share."""

    limits: tuple[str, ...]
    label: str


def attribution_of(terms: Terms) -> Attribution | None:
    """The limits and the label that were given; None for neither.

    Raises:
        InvalidValue: they are not what they may be.
    """
    limits = () if terms.limits is UNSET else limit_names(terms.limits)
    label = "" if terms.label is UNSET else _text(terms.label, "label")
    if limits:
        check_limits(limits)
    if label:
        check_label(label)
    return Attribution(limits, label) if limits or label else None


def exception_name(kind: type[BaseException]) -> str:
    """The name of an exception class in its form for the wire: ``module.Class``, builtins bare."""
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def exception_names(kinds: ExceptionLike | Iterable[ExceptionLike], what: str = "never_retry") -> tuple[str, ...]:
    """The names of exception classes; names go through as they are.

    Raises:
        InvalidValue: one of them is neither.
    """
    if isinstance(kinds, str | type):
        kinds = (kinds,)
    try:
        return tuple([_named(kind, what) for kind in kinds])
    except TypeError:
        raise InvalidValue(what, repr(kinds)[:80], "it takes exception classes or their names") from None


def limit_names(names: str | Iterable[str], what: str = "limits") -> tuple[str, ...]:
    """The names of limits, each once.

    Raises:
        InvalidValue: one of them is no name.
    """
    try:
        return tuple(dict.fromkeys(_text(name, what) for name in ((names,) if isinstance(names, str) else names)))
    except TypeError:
        raise InvalidValue(what, repr(names)[:80], "it takes the name of a limit, or several") from None


def tag_names(names: str | Iterable[str], what: str = "tags") -> tuple[str, ...]:
    """Tags, each once.

    Raises:
        InvalidValue: one of them is no tag.
    """
    try:
        return tuple(dict.fromkeys(_text(name, what) for name in ((names,) if isinstance(names, str) else names)))
    except TypeError:
        raise InvalidValue(what, repr(names)[:80], "it takes a tag, or several") from None


def amounts(resources: Resources, what: str = "resources") -> tuple[tuple[str, int | str], ...]:
    """Names of resources, and the amount of each.

    Raises:
        InvalidValue: the argument has another form.
    """
    try:
        pairs = resources.items() if isinstance(resources, Mapping) else resources
        return tuple([(_text(name, what), amount) for name, amount in pairs])
    except (TypeError, ValueError):
        why = "it takes names and amounts, as in {'gpu': 1, 'memory': '4GB'}"
        raise InvalidValue(what, repr(resources)[:80], why) from None


def _named(kind: object, what: str) -> str:
    if isinstance(kind, str):
        return kind
    if isinstance(kind, type) and issubclass(kind, BaseException):
        return exception_name(kind)
    raise InvalidValue(what, repr(kind)[:80], "it takes exception classes or their names")


def seconds(value: Any, what: str) -> float:
    """Seconds of a number or a timedelta.

    Raises:
        InvalidValue: it is neither.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise InvalidValue(what, repr(value)[:80], "it is a number of seconds or a timedelta") from None


def moment(value: Any, what: str) -> float:
    """Seconds of the Unix epoch of a datetime; one without a time zone is local time.

    Raises:
        InvalidValue: it is no datetime, or out of the range of computers' clocks.
    """
    if not isinstance(value, datetime):
        raise InvalidValue(what, repr(value)[:80], "it is a datetime; one without a time zone is local time")
    try:
        seconds = value.timestamp()
    except (OverflowError, ValueError, OSError):
        seconds = -1.0
    if not 0 <= seconds <= MAX_MOMENT:
        raise InvalidValue(what, value.isoformat(), "it is a moment after the beginning of 1970")
    return seconds


def _span(value: Any, what: str) -> float | None:
    return None if value is None else seconds(value, what)


def _whole(value: Any, what: str) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise InvalidValue(what, repr(value)[:80], "it is a whole number") from None


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidValue(what, repr(value)[:80], "it is a name")
    return value


def _flag(value: Any, what: str) -> bool:
    if value is not True and value is not False:
        raise InvalidValue(what, repr(value)[:80], "it is True or False")
    return value


def field_of(name: str) -> str:
    """The field of `Options` for one of the terms."""
    return _CONVERSIONS[name][0]


def is_span(name: str) -> bool:
    """Whether one of the terms is a time span."""
    return name in _CONVERSIONS and _CONVERSIONS[name][1] is _span


_FIELDS: Final = Terms._fields
#: For each of the terms: its field of `Options`, and its conversion.
_CONVERSIONS: Final[dict[str, tuple[str, Callable[[Any, str], Any]]]] = {
    "priority": ("priority", _whole),
    "max_retries": ("max_retries", _whole),
    "max_crashes": ("max_crashes", _whole),
    "timeout": ("timeout_s", _span),
    "soft_timeout": ("soft_timeout_s", _span),
    "queue": ("queue", _text),
    "retry_delay": ("retry_delay_s", _span),
    "jitter": ("jitter", _flag),
    "never_retry": ("never_retry", exception_names),
    "keep_results": ("keep_results_s", _span),
    "limits": ("limits", limit_names),
    "resources": ("resources", amounts),
    "slots": ("slots", _whole),
    "tags": ("tags", tag_names),
    "label": ("label", _text),
}
#: Terms that together become one field, `Options.needs`.
_OF_NEEDS: Final = frozenset(("resources", "slots", "tags"))
