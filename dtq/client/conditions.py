"""Rare terms of a submission: the moment by which it must start, and the meaning of its key.

Client, beside `terms`: the keywords that become `model.messages.Conditions`, and their checks.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any, Final, Literal, NamedTuple, TypedDict, TypeVar

from dtq.client.terms import UNSET, Span, Unset, seconds
from dtq.errors import InvalidValue
from dtq.model.fields import MAX_SECONDS
from dtq.model.messages import Conditions, Conflict, Unique

E = TypeVar("E", bound=Enum)

#: A start deadline: a time span from the acceptance on, or a moment.
Expires = Span | datetime
#: How long a key stands for an earlier submission: by the state of that one, or for a time span.
UniqueFor = Literal["pending", "unfinished", "kept"] | Span
OnConflict = Literal["existing", "error", "replace"]
#: Dependencies: handles, futures and ids of tasks and batches; one or several.
After = Any
OnFailed = Literal["cancel", "run"]


class ConditionOptions(TypedDict, total=False):
    """Rare terms of a submission, as keywords.

    Attributes:
        expires: tasks that have not started by then are cancelled, with that reason: seconds or a timedelta from the
            acceptance on, or a datetime (of this machine's time zone, where it names none). A task of which an attempt
            has started counts as started: its retries go on. Default: None, at any time.
        unique: for how long ``key`` stands for an earlier submission: "pending", while none of its tasks has started;
            "unfinished", while it has not ended; "kept", as long as it is kept, the default; or seconds or a timedelta
            from its acceptance on, at most as long as it is kept.
        on_conflict: the result of a submission whose key is taken: "existing", the earlier one, the default
            (`KeyConflict` if that is another call, or has other arguments); "error", `KeyTaken`; "replace", a task of
            its own: the earlier one is cancelled, and stopped if it runs.
        after: its dependencies, which must end before it starts: handles, futures and ids of tasks and batches; one or
            several. Handles among its arguments are waited for anyway. At most 10,000; a batch counts once.
        on_failed: its fate if one of those ends without a result: "cancel", it never starts, with that reason, the
            default; "run", it starts all the same, with the exception in the place of a result.
    """

    expires: Expires | None
    unique: UniqueFor | None
    on_conflict: OnConflict | None
    after: After
    on_failed: OnFailed | None


class Asked(NamedTuple):
    """The given ones of `ConditionOptions`, UNSET for the rest."""

    expires: Expires | Unset | None = UNSET
    unique: UniqueFor | Unset | None = UNSET
    on_conflict: OnConflict | Unset | None = UNSET
    after: After = UNSET
    on_failed: OnFailed | Unset | None = UNSET

    def over(self, below: Asked) -> Asked:
        """These conditions; where unset, the ones below."""
        given: dict[str, Any] = {name: value for name, value in self._asdict().items() if value is not UNSET}
        return below._replace(**given) if given else below

    def conditions(self, key: str | None) -> Conditions | None:
        """The conditions; None if all are at their defaults.

        Args:
            key: the submission's key.

        Raises:
            InvalidValue: one of them is invalid.
        """
        fields: dict[str, Any] = {}
        if self.expires is not UNSET and self.expires is not None:
            at_moment = isinstance(self.expires, datetime)
            fields = {"start_by": _moment(self.expires)} if at_moment else {"expires_s": _span(self.expires, "expires")}
        if self.unique is not UNSET and self.unique is not None:
            if isinstance(self.unique, str):
                fields["unique"] = _member(Unique, self.unique, "unique", ", or a time span")
            else:
                fields["unique_s"] = _span(self.unique, "unique")
        if self.on_conflict is not UNSET and self.on_conflict is not None:
            fields["on_conflict"] = _member(Conflict, self.on_conflict, "on_conflict")
        if self.on_failed is not UNSET and self.on_failed is not None:
            if self.on_failed not in ("cancel", "run"):
                raise InvalidValue("on_failed", repr(self.on_failed)[:80], "it is one of 'cancel', 'run'")
            fields["run_anyway"] = self.on_failed == "run"
        for name in ("unique", "on_conflict"):
            if key is None and getattr(self, name) not in (UNSET, None):
                raise InvalidValue(name, getattr(self, name), "it is for submissions with a key")
        return Conditions(**fields) if fields else None


#: All unset.
NOTHING_ASKED: Final = Asked()


def asked_of(given: tuple[Any, ...]) -> Asked:
    """The given conditions, in the order of the fields."""
    asked = Asked(*given)
    return NOTHING_ASKED if asked == NOTHING_ASKED else asked


def _moment(value: Any) -> float:
    try:
        moment: float = value.timestamp()
    except (OverflowError, ValueError, OSError):
        moment = -1.0
    if not 0 <= moment <= 1e11:
        raise InvalidValue("expires", repr(value)[:80], "it is a moment from 1970 on")
    return moment


def _span(value: Any, what: str) -> float:
    span = seconds(value, what)
    if not 0 <= span <= MAX_SECONDS:
        raise InvalidValue(what, span, "it is a number of seconds from 0 to ten years")
    return span


def _member(kind: type[E], value: Any, what: str, other: str = "") -> E:
    try:
        return kind(value)
    except ValueError:
        words = ", ".join(repr(member.value) for member in kind)
        raise InvalidValue(what, repr(value)[:80], f"it is one of {words}{other}") from None
