"""Source bundles: files that travel to workers that do not have them.

Client, beside `functions`; the slot uses `unpacking`. A bundle is the Python files of a directory, and data files that
are asked for by pattern; or a single file. It is put as a value, so it is known by its content: it is stored once, and
fetched once by each worker's machine. A function of a bundle travels as the bundle's value and ``module:qualname``.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, NamedTuple

from dtq.client.defaults import TTL_S
from dtq.client.functions import BUNDLE
from dtq.client.references import Reference
from dtq.errors import BadFile, BundleTooLarge, InvalidValue
from dtq.model.options import Function, FunctionKind
from dtq.model.values import describe, named

if TYPE_CHECKING:
    from dtq.client.client_core import ClientCore  # slots import this module, and have no client

#: A bundle's files: relative path, with slashes, and content; in the order of the paths.
Files = tuple[tuple[str, bytes], ...]

#: Most files of a bundle, and most bytes of them together.
MAX_FILES: Final = 2_000
MAX_BYTES: Final = 32 << 20
#: Most entries of directories that are looked at, so that nobody waits for a walk through a home directory.
MAX_ENTRIES: Final = 100_000
#: Names of directories that are left out, beside hidden ones and virtual environments.
LEFT_OUT: Final = frozenset({"__pycache__", "node_modules", "venv", "env", "build", "dist", "site-packages"})
#: The file by which a virtual environment is known.
_ENVIRONMENT: Final = "pyvenv.cfg"
#: Number of files and directories that an error names.
_NAMED: Final = 3


def of_file(path: str) -> Files:
    """The bundle of one file.

    Raises:
        OSError: it cannot be read.
        BundleTooLarge: it is too large.
    """
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    return _bounded([(os.path.basename(path), content)], os.path.dirname(path) or ".")


def of_path(path: str, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Files:
    """The bundle of a directory, as `of_directory`, or of one file, as `of_file`."""
    return of_directory(path, include, exclude) if os.path.isdir(path) else of_file(path)


def of_directory(directory: str, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Files:
    """The bundle of a directory: its Python files, and those below it.

    Hidden files and directories, virtual environments and directories like ``__pycache__`` (`LEFT_OUT`) are left out.
    Links to directories are not followed.

    Args:
        directory: the directory.
        include: patterns of further files, as in ``*.csv`` or ``data/*.json``; a pattern without a slash is that of a
            file's name in any directory.
        exclude: patterns of files and directories to leave out, likewise.

    Raises:
        OSError: a part of it cannot be read.
        BundleTooLarge: it is too large.
        BadFile: it has no such files.
    """
    found: list[tuple[str, bytes]] = []
    size = 0
    for path in _paths(directory, include, exclude):
        with open(os.path.join(directory, path), "rb") as file:
            content = file.read(MAX_BYTES + 1)
        found.append((path, content))
        size += len(content)
        if len(found) > MAX_FILES or size > MAX_BYTES:
            break
    if not found:
        raise BadFile(directory, "there is no Python file in it")
    return _bounded(found, directory)


def _paths(directory: str, include: Sequence[str], exclude: Sequence[str]) -> Iterator[str]:
    seen = 0
    for place, directories, files in os.walk(directory, onerror=_raise):
        below = os.path.relpath(place, directory)
        before = "" if below == "." else f"{below}/"
        seen += len(directories) + len(files)
        if seen > MAX_ENTRIES:
            raise BundleTooLarge(directory, f"it has more than {MAX_ENTRIES:,} files", f"one of them is in {below}")
        directories[:] = sorted(
            name for name in directories if _is_taken(place, name) and not _matches(f"{before}{name}", name, exclude)
        )
        for name in sorted(files):
            path = f"{before}{name}"
            wanted = not name.startswith(".") and (name.endswith(".py") or _matches(path, name, include))
            if wanted and not _matches(path, name, exclude) and os.path.isfile(os.path.join(place, name)):
                yield path


def _raise(error: OSError) -> None:
    raise error


def _is_taken(place: str, name: str) -> bool:
    path = os.path.join(place, name)
    if name.startswith(".") or name in LEFT_OUT or name.endswith(".egg-info") or os.path.islink(path):
        return False
    return not os.path.exists(os.path.join(path, _ENVIRONMENT))


def _matches(path: str, name: str, include: Sequence[str]) -> bool:
    return any(fnmatchcase(path if "/" in pattern else name, pattern) for pattern in include)


def _bounded(found: list[tuple[str, bytes]], directory: str) -> Files:
    """The files, in a fixed order, if they are few and small enough.

    Raises:
        BundleTooLarge: they are not.
    """
    size = sum(len(content) for _, content in found)
    if len(found) > MAX_FILES or size > MAX_BYTES:
        first = sorted(found, key=lambda entry: -len(entry[1]))[:_NAMED]
        largest = ", ".join(f"{path} ({len(content):,} bytes)" for path, content in first)
        most = f"{MAX_FILES:,} files and {MAX_BYTES >> 20} MiB"
        raise BundleTooLarge(directory, f"its files are more than {most}", f"the largest are {largest}")
    for path, _ in found:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise InvalidValue("a file of a bundle", ascii(path), "its name is not UTF-8") from None
    return tuple(sorted(found))


def hidden_names(files: Files) -> list[str]:
    """The top modules of a bundle that workers do not find, because the standard library has modules of these names."""
    tops = {path.partition("/")[0].removesuffix(".py") for path, _ in files}
    return sorted(tops & sys.stdlib_module_names)


class SourceBundle(NamedTuple):
    """Source files that travel with tasks; the coordinator keeps them as it keeps a value that was put. Made by
    `Client.bundle`.

    Attributes:
        reference: keeps it.
        digest: the digest of its content, as text.
    """

    reference: Reference
    digest: str

    def function(self, name: str) -> Function:
        """A function of it, to be submitted.

        Args:
            name: ``module:qualname``; the module is one of the bundle's.
        """
        body = describe(named(self.reference.description), BUNDLE + f"{self.digest}\n{name}".encode())
        return Function(kind=FunctionKind.VALUE, name=name, body=body)


def put(core: ClientCore, files: Files, ttl_s: float = TTL_S) -> SourceBundle:
    """Put a bundle, unless the coordinator has it.

    Args:
        core: the client.
        files: the bundle's.
        ttl_s: how long it is kept when the client has gone and no task needs it, in seconds.

    Raises:
        TooLarge, StoreError, Unreachable: it cannot be written.
        CannotPickle: the coordinator keeps no values.
    """
    return SourceBundle(core.put(files, ttl_s), digest_of(files))


def digest_of(files: Files) -> str:
    """The digest of a bundle's files."""
    sha = hashlib.sha256()
    for path, content in files:
        sha.update(f"{len(path.encode())} {path}{len(content)} ".encode())
        sha.update(content)
    return sha.hexdigest()
