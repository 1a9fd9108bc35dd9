"""Encoding of a call and its answer, the same for both sides.

A call is ``(name, arguments)``: a method of `model.service.Service`, and its arguments as the wire table encodes them.
The answer is ``("#RETURN", result)`` or ``("#ERROR", (code, arguments))``, in the words of `multiprocessing.managers`.
"""

from __future__ import annotations

from typing import Any, Final

from dtq.errors import BadMessage, DtqError, from_wire, to_wire
from dtq.model.service import Service
from dtq.model.wire import Method, methods

#: The codecs of each method of the service: the one list of callable methods.
METHODS: Final = methods(Service)
#: The first call of every connection.
HELLO: Final = "hello"
RETURN: Final = "#RETURN"
ERROR: Final = "#ERROR"

Answer = tuple[str, Any]


def read_call(message: Any) -> tuple[str, Any]:
    """Name and arguments of a call, the arguments still plain.

    Raises:
        BadMessage: it is not a call.
    """
    if type(message) is not tuple or len(message) != 2 or type(message[0]) is not str:
        raise BadMessage("it is not a call")
    return message


def error_answer(error: DtqError) -> Answer:
    """The answer that raises this error at the caller."""
    return ERROR, to_wire(error)


def read_answer(method: Method, message: Any) -> Any:
    """The result in an answer.

    Raises:
        DtqError: the error in the answer.
        BadMessage: it is not an answer.
    """
    match message:
        case ("#RETURN", result):
            return method.result.decode(result)
        case ("#ERROR", (str(code), tuple(arguments))):
            raise from_wire(code, arguments)
    raise BadMessage("it is not an answer")
