"""Permissions: the one table of acts and the roles that they require.

An act is a method of the service, or one of several variants of it that the arguments select. An act outside the table
is refused, so a new method of the service belongs to no role until it is in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from dtq.config.keys import Key, KeyRole
from dtq.errors import RoleMissing
from dtq.model.messages import Role

_SUBMIT, _WORK, _ADMIN = KeyRole.SUBMIT, KeyRole.WORK, KeyRole.ADMIN

#: Every act, and the roles of which a key needs one; of those in `ALL_ROLES` it needs each.
ACTS: Final[Mapping[str, tuple[KeyRole, ...]]] = {
    "hello as client": (_SUBMIT, _ADMIN),
    "hello as worker": (_WORK,),
    # producing: ids are needed, and the holder of an id may follow, read and stop its tasks
    "submit": (_SUBMIT,),
    "follow": (_SUBMIT, _ADMIN),
    "watch": (_SUBMIT, _ADMIN),
    "let_go": (_SUBMIT,),
    "batch": (_SUBMIT, _ADMIN),
    "task": (_SUBMIT, _ADMIN),
    "results": (_SUBMIT, _ADMIN),
    "graph": (_SUBMIT, _ADMIN),
    "attempts": (_SUBMIT, _ADMIN),
    "explain": (_SUBMIT, _ADMIN),
    "output": (_SUBMIT, _ADMIN),
    "arguments": (_SUBMIT, _ADMIN),
    "tasks by id": (_SUBMIT, _ADMIN),
    "cancel by id": (_SUBMIT, _ADMIN),
    "stats": (_SUBMIT, _ADMIN),
    "queues": (_SUBMIT, _ADMIN),
    "workers": (_SUBMIT, _ADMIN),
    "limits": (_SUBMIT, _ADMIN),
    # values of calls and results: whoever can name one may read it
    "write_value": (_SUBMIT, _WORK),
    "read_value": (_SUBMIT, _WORK, _ADMIN),
    "hold": (_SUBMIT,),
    "release": (_SUBMIT,),
    # working
    "exchange": (_WORK,),
    "spec": (_WORK,),
    "note_slots": (_WORK,),
    # operating
    "dashboard": (_ADMIN,),
    "tasks": (_ADMIN,),
    "batches": (_ADMIN,),
    "cancel": (_ADMIN,),
    "reprioritize": (_ADMIN,),
    "rerun": (_ADMIN,),
    "steer_queue": (_ADMIN,),
    "order_workers": (_ADMIN,),
    "set_limit": (_ADMIN,),
    "remove_limit": (_ADMIN,),
    "dead_letters": (_ADMIN,),
    "dead_summary": (_ADMIN,),
    "retry_dead": (_ADMIN,),
    "purge_dead": (_ADMIN,),
    # schedules: they submit on behalf of others, for as long as they exist
    "set_schedule": (_SUBMIT, _ADMIN),
    "schedules": (_ADMIN,),
    "schedule": (_ADMIN,),
    "pause_schedule": (_ADMIN,),
    "run_schedule": (_ADMIN,),
    "remove_schedule": (_ADMIN,),
    "stop": (_ADMIN,),
    "reload_keys": (_ADMIN,),
}
#: Acts that need every role in their list: a key without the right to submit must not submit through a schedule.
ALL_ROLES: Final = frozenset({"set_schedule"})
#: Acts that change other users' submissions, or the coordinator itself: each use is audited.
AUDITED: Final = frozenset(
    {
        "cancel",
        "reprioritize",
        "rerun",
        "steer_queue",
        "order_workers",
        "set_limit",
        "remove_limit",
        "retry_dead",
        "purge_dead",
        "set_schedule",
        "pause_schedule",
        "run_schedule",
        "remove_schedule",
        "stop",
        "reload_keys",
    }
)

#: Methods whose act depends on their arguments.
_BY_ARGUMENTS: Final[Mapping[str, Callable[..., str]]] = {
    "hello": lambda hello: "hello as worker" if hello.role is Role.WORKER else "hello as client",
    "cancel": lambda selection: "cancel by id" if selection.ids else "cancel",
    "tasks": lambda selection: "tasks by id" if selection.ids else "tasks",
}


def act_by_name(method: str) -> str | None:
    """The act of a call, if it does not depend on the arguments."""
    return None if method in _BY_ARGUMENTS else method


def act_of(method: str, arguments: tuple[Any, ...]) -> str:
    """The act of a call."""
    by_arguments = _BY_ARGUMENTS.get(method)
    return method if by_arguments is None else by_arguments(*arguments)


def acts_of(key: Key) -> frozenset[str]:
    """All acts that a key permits."""
    return frozenset(
        act
        for act, roles in ACTS.items()
        if (key.roles.issuperset(roles) if act in ALL_ROLES else not key.roles.isdisjoint(roles))
    )


def refusal(key: Key, act: str) -> RoleMissing:
    """The error for a key that lacks the roles of an act."""
    roles = [role.value for role in ACTS.get(act, ())]
    needed = f"roles {' and '.join(roles)}" if act in ALL_ROLES else f"role {' or '.join(roles)}"
    return RoleMissing(f"{key.name!r} (role {key.role_names})", f"{act} takes the {needed}")
