"""Functions and options: the call of a task, and its terms.

A `Spec` (function and options) is shared by all tasks of a batch, and interned by the coordinator: a million
submissions of one function with one set of options share one object.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Final

from dtq.config.values import check_queue
from dtq.errors import InvalidValue
from dtq.model import fields
from dtq.model.fields import LIMITS, MAX_LABEL, MAX_NAME, MAX_SECONDS, NAMES, PRIORITIES
from dtq.model.resources import Needs, needs_from_json
from dtq.records import asdict, dataclass, replace


class FunctionKind(Enum):
    """How a function travels, which also determines the encoding of its arguments and results."""

    IMPORT = "import"  #: as ``module:qualname``; arguments and results are pickles
    VALUE = "value"  #: by value, pickled with cloudpickle; arguments and results are pickles
    REGISTERED = "registered"  #: as the name of a registered task type; arguments and results are JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function in its form for the wire.

    Attributes:
        kind: how it travels.
        name: ``module:qualname``, or the registered name; for a function sent by value, the name to show.
        body: the pickled function if it travels by value, else empty.
    """

    kind: FunctionKind = FunctionKind.IMPORT
    name: fields.FunctionName
    body: fields.Body = b""

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > MAX_NAME:
            raise InvalidValue("a function's name", self.name[:80], f"it has 1 to {MAX_NAME} characters")
        if self.kind is FunctionKind.IMPORT and not all(self.name.partition(":")):
            raise InvalidValue("a function", self.name, "write module:function, for example mymodule:work")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The terms of a batch.

    Attributes:
        priority: 1 to 10; 1 is served first (10 first if the coordinator runs with highest_first).
        max_retries: how many times a failed task is tried again; 0 for never.
        max_crashes: number of crashes (slot died, worker lost) after which a task is given up; at least 1.
        timeout_s: time limit of one attempt in seconds, None for none. The slot is killed at the limit.
        soft_timeout_s: after this many seconds of an attempt `SoftTimeout` is raised in the task; None for never.
        queue: name of the queue; workers choose the queues they serve.
        retry_delay_s: seconds before a failed task is tried again; None for min(300, 2**retry).
        jitter: whether a backoff is drawn from (half, whole] instead of being exact.
        never_retry: names of exceptions (``module.Class``, builtins bare) for which there is no second attempt; a
            subclass counts as its base.
        depth: how many tasks that submit tasks are above it; among tasks of one priority, deeper ones go first.
        keep_results_s: how many seconds its results are kept after the last task of the batch has ended, None for as
            long as the coordinator keeps those of others. In effect at least a second, and up to a second or an eighth
            longer.
        limits: names of the limits that its tasks count against, at most 16.
        needs: its tasks' needs of a worker beside one slot; None for none.
        label: a free word to find it by; empty for none.
    """

    priority: fields.Priority = 5
    max_retries: fields.Tries = 3
    max_crashes: fields.Tries = 3
    timeout_s: fields.Seconds | None = None
    soft_timeout_s: fields.Seconds | None = None
    queue: fields.Queue = "default"
    retry_delay_s: fields.Seconds | None = None
    jitter: bool = False
    never_retry: Annotated[tuple[fields.ExceptionName, ...], NAMES] = ()
    depth: fields.Depth = 0
    keep_results_s: fields.Seconds | None = None
    limits: Annotated[tuple[fields.LimitName, ...], LIMITS] = ()
    needs: Needs | None = None
    label: fields.Label = ""

    def __post_init__(self) -> None:
        low, high = PRIORITIES
        if not low <= self.priority <= high:
            raise InvalidValue("priority", self.priority, f"it is a whole number from {low} to {high}")
        if not 0 <= self.max_retries <= 1_000_000:
            raise InvalidValue("max_retries", self.max_retries, "it is a whole number from 0 to 1,000,000")
        if not 1 <= self.max_crashes <= 1_000_000:
            raise InvalidValue("max_crashes", self.max_crashes, "it is a whole number from 1 to 1,000,000")
        self._check_spans()
        check_queue(self.queue)
        if len(self.never_retry) > 64 or any(len(name) > MAX_NAME for name in self.never_retry):
            raise InvalidValue("never_retry", len(self.never_retry), "it has at most 64 names of exceptions")
        if self.limits:
            check_limits(self.limits)
        if self.label:
            check_label(self.label)

    def _check_spans(self) -> None:
        if self.timeout_s is not None and not 0 < self.timeout_s <= MAX_SECONDS:
            raise InvalidValue("timeout", self.timeout_s, "it is a number of seconds above 0, or None for no limit")
        if self.soft_timeout_s is not None and not 0 < self.soft_timeout_s <= MAX_SECONDS:
            raise InvalidValue("soft_timeout", self.soft_timeout_s, "it is a number of seconds above 0, or None")
        if self.retry_delay_s is not None and not 0 <= self.retry_delay_s <= MAX_SECONDS:
            raise InvalidValue("retry_delay", self.retry_delay_s, "it is a number of seconds from 0, or None")
        if self.keep_results_s is not None and not 0 <= self.keep_results_s <= MAX_SECONDS:
            why = "it is a number of seconds from 0 to ten years, or None for the coordinator's"
            raise InvalidValue("keep_results", self.keep_results_s, why)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A function and the terms of its calls."""

    function: Function
    options: Options


#: Options that are shown only if set.
_RARE: Final = ("limits", "needs", "label", "soft_timeout_s")


@lru_cache(maxsize=256)
def bare(spec: Spec) -> Spec:
    """A spec without limits and label. Those of tenants differ from submission to submission: each batch has its own,
    and all of them share one spec.
    """
    return replace(spec, options=replace(spec.options, limits=(), label=""))


def whole(spec: Spec, limits: tuple[str, ...], label: str) -> Spec:
    """A spec with these limits and this label, as far as they are not empty."""
    options = spec.options
    if not limits and not label:
        return spec
    return replace(spec, options=replace(options, limits=limits or options.limits, label=label or options.label))


def spec_as_json(spec: Spec) -> dict[str, Any]:
    """A spec as plain values, for storage as JSON."""
    function = spec.function
    options = asdict(spec.options)
    for name in _RARE:
        if not options[name]:
            del options[name]
    return {
        "kind": function.kind.value,
        "name": function.name,
        "body": b64encode(function.body).decode("ascii"),
        "options": options,
    }


def spec_from_json(plain: dict[str, Any]) -> Spec:
    """The spec of these plain values."""
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in plain["options"].items()
    }
    if options.get("needs") is not None:
        options["needs"] = needs_from_json(options["needs"])
    kind, body = FunctionKind(plain["kind"]), b64decode(plain["body"])
    return Spec(function=Function(kind=kind, name=plain["name"], body=body), options=Options(**options))


def same_call(one: Spec, other: Spec, *, urgency: bool = True) -> bool:
    """Whether two submissions have the same function and the same terms, wherever each was made.

    Args:
        one: one spec.
        other: the other spec.
        urgency: whether the priorities must be equal, too; a batch's may have been changed since its submission.
    """
    if one == other:
        return True
    if one.function != other.function:
        return False
    options = replace(one.options, depth=other.options.depth)
    return (options if urgency else replace(options, priority=other.options.priority)) == other.options


def check_limits(names: tuple[str, ...]) -> None:
    """Make sure that a task can count against limits of these names.

    Raises:
        InvalidValue: they are too many, or one of them is no valid name.
    """
    if len(names) > LIMITS.most:
        raise InvalidValue("limits", len(names), f"there are at most {LIMITS.most} of them")
    for name in names:
        wrong = fields.LIMIT_NAME.breach(name)
        if wrong is not None:
            raise InvalidValue("the name of a limit", name[:80], f"it {wrong}")


def check_label(label: str) -> None:
    """Make sure that this can be a label.

    Raises:
        InvalidValue: it is too long, or has characters that cannot be printed.
    """
    if len(label) > MAX_LABEL or not label.isprintable():
        raise InvalidValue("label", label[:80], f"it has at most {MAX_LABEL} characters, printable ones")


def check_delay(delay_s: float) -> float:
    """The delay, if valid.

    Raises:
        InvalidValue: it is negative, not finite, or beyond ten years.
    """
    if not math.isfinite(delay_s) or not 0 <= delay_s <= MAX_SECONDS:
        raise InvalidValue("delay", delay_s, "it is a number of seconds from 0 to ten years")
    return delay_s
