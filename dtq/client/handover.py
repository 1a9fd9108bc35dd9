"""Gathers and sends the state that the slots of a local cluster inherit from their program.

Client, above `inheritance`. `local` sends it, `leash` receives it in the worker's process. It goes through a pipe:
multiprocessing's authentication key is in no argument and no environment.
"""

from __future__ import annotations

import pickle
import subprocess
from collections.abc import Callable
from typing import IO, Any, Final

from dtq.client.by_value import sentence
from dtq.client.inheritance import Inheritance
from dtq.client.payloads import PICKLE, cloudpickle_dumps
from dtq.errors import CannotPickle

#: The options of the interpreter that slots share with their program.
_SHARED: Final = ("-O", "-W", "-X", "-b", "-B")
_LENGTH_BYTES: Final = 8

#: What this process was started with.
_own = Inheritance()


def interpreter_flags() -> tuple[str, ...]:
    """The options of this interpreter that a process of the same program is started with: ``-W``, ``-X``, ``-O``."""
    # What multiprocessing uses, too. The options about paths stay away: a worker has paths of its own.
    words: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    kept: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if word.startswith(_SHARED) or before == "-X":
            kept.append(word)
    return tuple(kept)


def pack_initializer(initializer: Callable[..., object] | None, arguments: tuple[Any, ...]) -> bytes:
    """An initializer as it travels to the slots; empty for None.

    Raises:
        TypeError: it cannot be called.
        CannotPickle: it, or an argument, cannot be pickled.
    """
    if initializer is None:
        return b""
    if not callable(initializer):
        raise TypeError("initializer must be a callable")
    dumps = cloudpickle_dumps() or pickle.dumps
    try:
        return dumps((initializer, arguments), PICKLE)
    except Exception as error:
        raise CannotPickle("the initializer with its arguments", sentence(error)) from error


# -- through a pipe -------------------------------------------------------------------------------------------------


def write(file: IO[bytes], what: Inheritance | dict[str, Any]) -> None:
    """Send something to a process that waits for it.

    Args:
        file: the pipe to that process.
        what: first what it inherits; then its settings; then those that were not known yet when it was started.

    Raises:
        OSError: that process is gone.
    """
    data = pickle.dumps(what, PICKLE)
    file.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
    file.flush()


def receive(file: IO[bytes]) -> None:
    """Wait for what this process inherits. From then on `own` gives it.

    Raises:
        EOFError: the program that started it is gone.
    """
    global _own
    _own = _read(file)


def receive_settings(file: IO[bytes]) -> dict[str, Any]:
    """Wait for settings of this process.

    Raises:
        EOFError: as for `receive`.
    """
    settings: dict[str, Any] = _read(file)
    return settings


def own() -> Inheritance:
    """What this process was started with."""
    return _own


def _read(file: IO[bytes]) -> Any:
    length = int.from_bytes(_exactly(file, _LENGTH_BYTES), "big")
    return pickle.loads(_exactly(file, length))  # from who started this process, and runs it


def _exactly(file: IO[bytes], count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = file.read(count - len(data))
        if not more:
            raise EOFError("the program that started this process is gone")
        data += more
    return data
