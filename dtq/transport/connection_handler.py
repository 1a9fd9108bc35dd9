"""One authenticated connection, on the server's side: calls in, answers out, until either side ends it.

Names are looked up in the wire table (`calls.METHODS`) and nowhere else, so only methods of the service can be called;
and of these only the ones that the roles of the connection's key allow (`permissions`). Calls that change other users'
tasks, or the coordinator, leave a line in the log ``dtq.audit``, allowed or refused.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Final

from dtq.config.keys import Key
from dtq.errors import BadMessage, DtqError, InternalError, NotPermitted, RoleMissing, SessionUnknown, TooLarge
from dtq.model.service import Session
from dtq.model.values import CHUNK
from dtq.model.wire import Method
from dtq.transport import safepickle
from dtq.transport.calls import HELLO, METHODS, RETURN, Answer, error_answer, read_call
from dtq.transport.connection import Connection
from dtq.transport.permissions import AUDITED, act_by_name, act_of, acts_of, refusal
from dtq.values.base import FileRange

log = logging.getLogger("dtq.transport")
audit = logging.getLogger("dtq.audit")

#: Longest description of a call's arguments in the audit's line, in characters.
_SHORT: Final = 200
#: The calls that carry a piece of a value, there and back.
_WRITE: Final = "write_value"
_READ: Final = "read_value"
_WRITE_WORD: Final = _WRITE.encode()
#: Unused memory for arriving pieces, and its bound: reused memory costs a part of new memory. Taking and giving back
#: are single list operations, so threads need no lock.
_rooms: Final[list[bytearray]] = []
_MOST_ROOMS: Final = 4


class ConnectionHandler:
    """The calls of one connection.

    Args:
        connection: the connection.
        session: answers the calls.
        key: the peer's key.
    """

    __slots__ = ("_connection", "_greeted", "_key", "_permitted", "_room", "_session")

    def __init__(self, connection: Connection, session: Session, key: Key) -> None:
        self._connection = connection
        self._session = session
        self._key = key
        self._permitted = acts_of(key)
        self._greeted = False
        #: Memory with the value's piece of the current call.
        self._room: bytearray | None = None

    def turn(self) -> bool:
        """Wait for one call and answer it. No part of the call is kept, so an idle connection holds no message.

        Returns:
            Whether the conversation goes on.

        Raises:
            TooLarge: the peer announced a message over the limit.
            EOFError: the peer is gone.
            OSError: the connection is gone.
        """
        try:
            return self._turn()
        finally:
            room, self._room = self._room, None
            if room is not None and len(_rooms) < _MOST_ROOMS:
                _rooms.append(room)

    def _turn(self) -> bool:
        try:
            name, arguments = read_call(self._connection.recv(self._room_for))
        except BadMessage as refused:
            log.warning("a message from %s was refused, closing: %s", self._connection.peer, refused)
            self._connection.send(error_answer(refused))
            return False
        if name != HELLO and not self._greeted:
            log.warning("%s called %.40r before hello, closing", self._connection.peer, name)
            self._connection.send(error_answer(NotPermitted(f"a call before hello ({name[:40]})")))
            return False
        answer = self._answer(name, arguments)
        if name == HELLO and answer[0] == RETURN:
            self._greeted = True
        try:
            self._send(answer)
        except (TooLarge, BadMessage) as refused:
            log.error("the answer to %s cannot be sent to %s: %s", name, self._connection.peer, refused)
            self._connection.send(error_answer(refused))
        # A forgotten session must say hello again, on a new connection.
        return answer[0] == RETURN or answer[1][0] != SessionUnknown.code

    def _room_for(self, before: bytes, size: int) -> memoryview | None:
        """Memory for a piece of a value; None for any other large content."""
        if size > CHUNK or not self._greeted or _WRITE_WORD not in before:
            return None
        try:
            room = _rooms.pop()
        except IndexError:
            room = bytearray(CHUNK)
        self._room = room
        return memoryview(room)[:size]

    def _send(self, answer: Answer) -> None:
        result = answer[1]
        if type(result) is not FileRange:
            self._connection.send(answer)
            return
        try:
            self._connection.send_around((RETURN, safepickle.FILLER), result)
        finally:
            os.close(result.descriptor)

    def _call(self, name: str, given: tuple[Any, ...], method: Method) -> Any:
        """The answer's result, plain, or as a range of a file."""
        if name == _READ and given[2] >= safepickle.APART:
            return FileRange(*self._session.open_value(*given), given[2])
        return method.encode_result(getattr(self._session, name)(*given))

    def _answer(self, name: str, arguments: Any) -> Answer:
        method = METHODS.get(name)
        if method is None:
            log.warning("%s called %.40r, which is not a method of the service", self._connection.peer, name)
            return error_answer(NotPermitted(f"a call of {name[:40]!r}"))
        act, given = name, ()
        try:
            self._permit(act_by_name(name))  # a refused call is not decoded
            given = _decoded(method, arguments)
            act = act_of(name, given)
            self._permit(act)
            if act not in AUDITED:
                return RETURN, self._call(name, given, method)
            result = getattr(self._session, name)(*given)
            self._put_on_record(act, given, f"done ({result})")
            return RETURN, method.encode_result(result)
        except DtqError as error:
            if act in AUDITED:
                self._put_on_record(act, given, f"refused ({error.code})")
            elif isinstance(error, RoleMissing):
                self._put_on_record(act, (), f"refused ({error.code})")  # arguments may be a task's own data
            return error_answer(error)
        except Exception as error:
            # The edge of the connection's thread. The answer to the peer shows neither paths nor values.
            log.exception("%s failed, called by %s", name, self._connection.peer)
            if act in AUDITED:
                self._put_on_record(act, given, f"failed ({type(error).__name__})")
            return error_answer(InternalError(type(error).__name__))

    def _permit(self, act: str | None) -> None:
        if act is not None and act not in self._permitted:
            raise refusal(self._key, act)

    def _put_on_record(self, act: str, arguments: tuple[Any, ...], outcome: str) -> None:
        """Log one line; a representation has no line breaks, whatever a peer has sent."""
        short = ", ".join(map(repr, arguments))[:_SHORT]
        audit.info("key %s from %s: %s(%s): %s", self._key.name, self._connection.peer, act, short, outcome[:_SHORT])


def _decoded(method: Method, arguments: Any) -> tuple[Any, ...]:
    """The arguments of a call; a value's piece in memory of its own stays there."""
    if method.name == _WRITE and type(arguments) is tuple and len(arguments) == 3:
        segment, offset, data = arguments
        if type(data) is memoryview:
            segment, offset, _ = method.decode_arguments((segment, offset, b""))
            return segment, offset, data
    return method.decode_arguments(arguments)
