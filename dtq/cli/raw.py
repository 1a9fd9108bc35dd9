"""Results as they are: bytes as bytes, text as text, to a pipe or a file."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from dtq.cli.values import value_text
from dtq.client.commands import CommandResult
from dtq.client.handle import TaskHandle
from dtq.client.import_path import find_modules
from dtq.client.raw_results import streamed


def raw_pieces(handle: TaskHandle[Any]) -> Iterable[bytes]:
    """The bytes of an ended task's result: bytes as they are, a text in UTF-8, of a command its output; of others the
    line that `dtq result` prints.

    Raises:
        DtqError: it is no longer kept, or cannot be read here.
    """
    find_modules()  # the user's modules may define the classes of results
    pieces = streamed(handle)
    return _decoded(handle) if pieces is None else pieces


def _decoded(handle: TaskHandle[Any]) -> Iterator[bytes]:
    value = handle.result()
    if isinstance(value, CommandResult):
        value = value.stdout
    if isinstance(value, bytes | bytearray | memoryview):
        yield bytes(value)
    elif isinstance(value, str):
        yield value.encode(errors="surrogateescape" if _from_os(value) else "backslashreplace")
    else:
        yield f"{value_text(value)}\n".encode(errors="backslashreplace")


def _from_os(text: str) -> bool:
    """Whether the odd characters of a text are those of file names that are no text."""
    with suppress(UnicodeEncodeError):
        text.encode(errors="surrogateescape")
        return True
    return False


def print_raw(pieces: Iterable[bytes]) -> None:
    """Write bytes to standard output, as they are."""
    sys.stdout.flush()
    for piece in pieces:
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def save(pieces: Iterable[bytes], path: str) -> int:
    """Write bytes to a file, which is there only once all of them are; returns their number.

    Raises:
        OSError: the file cannot be written.
    """
    directory = os.path.dirname(path) or "."
    size = 0
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a device or a pipe is written to, and not replaced
            with open(path, "wb") as there:
                return _write(pieces, there)
        descriptor, temporary = tempfile.mkstemp(prefix=".dtq-", dir=directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                size = _write(pieces, file)
                os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    return size


def _write(pieces: Iterable[bytes], file: BinaryIO) -> int:
    return sum([file.write(piece) for piece in pieces])


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
