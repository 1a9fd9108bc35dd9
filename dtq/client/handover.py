"""Sends the state of a program to the processes of its local cluster: their settings, and the slots' inheritance.

Client, above `inheritance`. `processes` sends it, the launcher receives it. It goes through a pipe: multiprocessing's
authentication key is in no argument and no environment.
"""

from __future__ import annotations

import pickle
import subprocess
from collections.abc import Callable
from typing import IO, Any, Final, NamedTuple

from dtq.client.inheritance import Inheritance
from dtq.errors import CannotPickle

#: The options of the interpreter that slots share with their program.
_SHARED: Final = ("-O", "-W", "-X", "-b", "-B")
_LENGTH_BYTES: Final = 8

#: The inheritance of this process.
_own = Inheritance()


class Start(NamedTuple):
    """The first message to a launcher.

    Attributes:
        coordinator: the coordinator's settings, by the names of the configuration.
        worker: the worker's, without an address.
        inheritance: the slots' inheritance from the program.
        tracker: if no resource tracker runs yet, the reading end of the pipe to it; else -1.
    """

    coordinator: dict[str, Any]
    worker: dict[str, Any]
    inheritance: Inheritance
    tracker: int


class End(NamedTuple):
    """The last message to a launcher.

    Attributes:
        drain: whether running tasks finish first.
        timeout_s: how long that may take, in seconds; None for as long as it needs.
    """

    drain: bool
    timeout_s: float | None


def interpreter_flags() -> tuple[str, ...]:
    """The options of this interpreter for another process of the same program: ``-W``, ``-X``, ``-O``."""
    # The function that multiprocessing uses, too. It omits the options about paths: a worker has paths of its own.
    words: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    kept: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if word.startswith(_SHARED) or before == "-X":
            kept.append(word)
    return tuple(kept)


def pack_initializer(initializer: Callable[..., object] | None, arguments: tuple[Any, ...]) -> bytes:
    """An initializer, pickled for the slots; empty for None.

    Raises:
        TypeError: the initializer cannot be called.
        CannotPickle: the initializer, or an argument, cannot be pickled.
    """
    if initializer is None:
        return b""
    if not callable(initializer):
        raise TypeError("initializer must be a callable")
    from dtq.client.by_value import sentence  # a cluster without an initializer starts the sooner without them
    from dtq.client.payloads import PICKLE, cloudpickle_dumps

    dumps = cloudpickle_dumps() or pickle.dumps
    try:
        return dumps((initializer, arguments), PICKLE)
    except Exception as error:
        raise CannotPickle("the initializer with its arguments", sentence(error)) from error


# -- through a pipe -------------------------------------------------------------------------------------------------


def write(file: IO[bytes], what: Start | End | dict[str, Any]) -> None:
    """Send a message to a process that waits for it.

    Args:
        file: the pipe to that process.
        what: to a launcher, a `Start` and then an `End`; to a part of the cluster, settings.

    Raises:
        OSError: that process is gone.
    """
    data = pickle.dumps(what)
    file.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
    file.flush()


def read(file: IO[bytes]) -> Any:
    """Wait for a message of `write`.

    Raises:
        EOFError: the sending process is gone.
    """
    length = int.from_bytes(_exactly(file, _LENGTH_BYTES), "big")
    return pickle.loads(_exactly(file, length))  # from the process that started this one


def _exactly(file: IO[bytes], count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = file.read(count - len(data))
        if not more:
            raise EOFError("the program that started this process is gone")
        data += more
    return data


def inherit(inheritance: Inheritance) -> None:
    """Set the inheritance of this process: from then on `own` returns it."""
    global _own
    _own = inheritance


def own() -> Inheritance:
    """The inheritance of this process."""
    return _own
