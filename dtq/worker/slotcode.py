"""Whose code a slot's process runs: the worker's modules, or those of one bundle.

Worker, in the slot's process. Two modules of one name are two modules: a process that has imported the modules of one
bundle (`dtq.client.source_bundles`) runs nothing else, and one that has imported the worker's own runs no bundle. The
slot finds this out before it imports anything; it is replaced, and no task is blamed.
"""

from __future__ import annotations

from typing import Final

from dtq.client.functions import BUNDLE
from dtq.model.options import Function
from dtq.model.values import is_description, rest

#: Functions of dtq's own need no module of the user's.
_OWN: Final = "dtq."


class OtherCode(BaseException):
    """This process has imported other code than a function's, so that another process has to run it.

    No Exception: no code of the user's shall catch it.

    Args:
        name: the function's name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


#: The code of this process: a bundle's digest; empty for the worker's own; None as long as it has imported nothing.
_code: bytes | None = None


def admit(function: Function) -> None:
    """Note that a function is imported in this process now.

    Raises:
        OtherCode: another process has to do that.
    """
    global _code
    code = code_of(function)
    if code is None:
        return
    if _code is not None and _code != code:
        raise OtherCode(function.name)
    _code = code


def code_of(function: Function) -> bytes | None:
    """The code that a function needs: a bundle's digest; empty for the worker's own; None for any."""
    return None if function.name.startswith(_OWN) and not function.body else bundle_of(function)


def bundle_of(function: Function) -> bytes:
    """The digest of a function's bundle; empty for a function without."""
    body = function.body
    if not is_description(body) or not (found := rest(body)).startswith(BUNDLE):
        return b""
    return found[len(BUNDLE) :].partition(b"\n")[0]
