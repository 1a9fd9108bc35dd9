"""Which functions idle slots import before a task of them has come."""

from __future__ import annotations

import pytest

from dtq.model.options import Function, FunctionKind
from dtq.worker.preparing import MAX_BODY, MOST, Preparing


def imported(name: str) -> Function:
    return Function(name=f"work:{name}")


def by_value(name: str, size: int = 1) -> Function:
    return Function(kind=FunctionKind.VALUE, name=name, body=b"x" * size)


def all_of(preparing: Preparing) -> list[Function]:
    """What a new slot is told to import, one after the other."""
    found: list[Function] = []
    number = 0
    while (entry := preparing.after(number)) is not None:
        number, function = entry
        found.append(function)
    return found


def test_functions_that_have_come_are_prepared_once_in_their_order() -> None:
    preparing = Preparing(only_registered=False)
    for name in ("one", "two", "one"):
        preparing.note(imported(name))
    assert all_of(preparing) == [imported("one"), imported("two")]
    assert preparing.latest == 2


def test_slot_goes_on_after_what_it_has() -> None:
    preparing = Preparing(only_registered=False)
    preparing.note(imported("one"))
    number = preparing.latest
    assert preparing.after(number) is None
    preparing.note(imported("two"))
    assert preparing.after(number) == (preparing.latest, imported("two"))


def test_new_slot_imports_those_that_were_new_last() -> None:
    preparing = Preparing(only_registered=False)
    for number in range(MOST + 2):
        preparing.note(imported(str(number)))
    assert all_of(preparing) == [imported(str(number)) for number in range(2, MOST + 2)]


@pytest.mark.parametrize(
    ("function", "only_registered"),
    [
        (Function(kind=FunctionKind.REGISTERED, name="email"), False),
        (imported("one"), True),
        (by_value("lambda", MAX_BODY + 1), False),
    ],
)
def test_what_is_there_or_refused_or_large_is_not_prepared(function: Function, only_registered: bool) -> None:
    preparing = Preparing(only_registered)
    preparing.note(function)
    assert all_of(preparing) == []
    assert preparing.latest == 0


def test_of_functions_by_value_one_of_each_name_is_prepared() -> None:
    preparing = Preparing(only_registered=False)
    preparing.note(by_value("lambda", 1))
    preparing.note(by_value("lambda", 2))
    assert all_of(preparing) == [by_value("lambda", 1)]


def test_function_that_was_given_up_is_not_prepared_again() -> None:
    preparing = Preparing(only_registered=False)
    preparing.note(imported("one"))
    preparing.give_up("work:one")
    preparing.note(imported("one"))
    assert all_of(preparing) == []
