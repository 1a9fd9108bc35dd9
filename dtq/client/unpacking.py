"""Source bundles in a slot: unpacked once a machine, and first on the path of a process that runs nothing else.

Client, beside `source_bundles`; only slots use it. A bundle is unpacked into a directory named by its digest, in the
user's cache, under a name of its own first, so that a killed process leaves no half of it, and two processes do not
disturb each other. Each process that enters it compares its files with the bundle: a damaged directory is made anew.
Without a writable cache the bundle is unpacked into a temporary directory of the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from dtq.client import references
from dtq.client.functions import BUNDLE
from dtq.client.source_bundles import MAX_BYTES, MAX_FILES, Files, digest_of
from dtq.config.files import cache_directory
from dtq.errors import CannotUnpickle
from dtq.model.options import Function
from dtq.model.values import describe, named, rest
from dtq.values import directories
from dtq.values.base import Values

#: Bundles that nobody has entered for this long are removed, in seconds.
UNUSED_S: Final = 30 * 86_400.0
#: Unfinished directories of this age belong to killed processes, in seconds.
_ABANDONED_S: Final = 3_600.0
#: First characters of their names.
_UNFINISHED: Final = ".new-"
#: The file that one who unpacks has locked; longest wait for it, and the pause between two tries, in seconds.
_LOCK: Final = ".lock"
_PATIENCE_S: Final = 10.0
_PAUSE_S: Final = 0.02
_OWN: Final = "dtq"
#: Characters of a digest that name a directory: they stand in tracebacks.
_NAME: Final = 32


@contextlib.contextmanager
def entered(function: Function, values: Values | None) -> Iterator[tuple[str, frozenset[str]]]:
    """Make the modules of a function's bundle importable in this process, for good; not if the function's import fails.

    Args:
        function: the function.
        values: reads the bundle.

    Yields:
        The function's name in it, ``module:qualname``; and the names of the bundle's modules, without those below them.

    Raises:
        CannotUnpickle: the bundle is none that dtq makes.
        ValueGone, ValueDamaged: the bundle cannot be read.
        OSError: it cannot be unpacked.
    """
    digest, _, name = rest(function.body)[len(BUNDLE) :].decode().partition("\n")
    value = references.decode(describe(named(function.body)[:1]), values, function.name, _no_pickle)
    files = checked(value, digest, function.name)
    place = _unpacked(files, digest)
    before = list(sys.path)
    tops = frozenset(path.partition("/")[0].removesuffix(".py") for path, _ in files)
    tops -= sys.stdlib_module_names | {_OWN}
    _put_first(place, tops)
    try:
        yield name, tops
    except BaseException:
        sys.path[:] = before
        raise


def _no_pickle(_: bytes, error: Exception) -> Any:
    raise error


def checked(value: Any, digest: str, name: str) -> Files:
    """The files of a bundle, if dtq could have made it: nobody's word is taken for that.

    Args:
        value: the unpickled bundle.
        digest: the digest of its content.
        name: the function's name, for the sentence.

    Raises:
        CannotUnpickle: it is none; says why.
    """
    if type(value) is not tuple or any(type(entry) is not tuple or len(entry) != 2 for entry in value):
        raise _refused(name, "is no list of files")
    size, seen = 0, set[str]()
    for path, content in value:
        if type(path) is not str or type(content) is not bytes:
            raise _refused(name, "is no list of files")
        if not _is_below(path):
            raise _refused(name, f"has the file {path[:200]!r}, which would not be below its own directory")
        seen.add(path)
        size += len(content)
    if len(value) > MAX_FILES or size > MAX_BYTES:
        raise _refused(name, f"is larger than {MAX_FILES:,} files and {MAX_BYTES >> 20} MiB")
    if len(seen) != len(value) or any(str(above) in seen for path in seen for above in Path(path).parents):
        raise _refused(name, "has two files of one name")
    if digest_of(value) != digest:
        raise _refused(name, "is not the one that its digest names")
    return value


def _refused(name: str, why: str) -> CannotUnpickle:
    return CannotUnpickle(name, f"its bundle {why}")


def _is_below(path: str) -> bool:
    parts = path.split("/")
    return "\0" not in path and "\\" not in path and all(part not in ("", ".", "..") for part in parts)


# -- on the disk --------------------------------------------------------------------------------------------------


def _unpacked(files: Files, digest: str) -> str:
    """The directory of a bundle.

    Raises:
        OSError: it cannot be made.
    """
    cache = cache_directory()
    if cache is not None:
        with contextlib.suppress(OSError):  # it may be read-only, or full
            return _in_cache(cache / "bundles", files, digest)
    directories.remove_abandoned(tempfile.gettempdir())
    place, _ = directories.make(tempfile.gettempdir())
    _write(place, files)
    return place


def _in_cache(cache: Path, files: Files, digest: str) -> str:
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = cache / digest[:_NAME]
    if not _is_whole(place, files):
        with _alone(cache):
            if not _is_whole(place, files):
                _make(cache, place, files)
    os.utime(place)
    return str(place)


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Let one process unpack at a time: the others find its work. It is for speed only, so the wait is bounded."""
    with open(cache / _LOCK, "ab") as lock:
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    break  # this file system has no locks
                time.sleep(_PAUSE_S)
            else:
                break
        yield


def _is_whole(place: Path, files: Files) -> bool:
    """Whether a directory has exactly these contents; a kill or a loss of power may have cut it."""
    try:
        return all((place / path).read_bytes() == content for path, content in files)
    except OSError:
        return False


def _make(cache: Path, place: Path, files: Files) -> None:
    _remove_old(cache)
    new = cache / f"{_UNFINISHED}{secrets.token_hex(8)}"
    new.mkdir(mode=0o700)
    try:
        _write(str(new), files)
        for _ in range(3):
            try:
                os.rename(new, place)
            except OSError:  # another process was faster; or a damaged one is there
                if _is_whole(place, files):
                    return
                with contextlib.suppress(OSError):
                    os.rename(place, cache / f"{_UNFINISHED}{secrets.token_hex(8)}")
            else:
                return
        raise OSError(f"{place} cannot be made")
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write(place: str, files: Files) -> None:
    for path, content in files:
        whole = os.path.join(place, path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        with open(whole, "wb") as file:
            file.write(content)


def _remove_old(cache: Path) -> None:
    now = time.time()
    with contextlib.suppress(OSError), os.scandir(cache) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                age = now - entry.stat(follow_symlinks=False).st_mtime
                if entry.name != _LOCK and age > (_ABANDONED_S if entry.name.startswith(_UNFINISHED) else UNUSED_S):
                    shutil.rmtree(entry.path, ignore_errors=True)


# -- in the process -----------------------------------------------------------------------------------------------


def _put_first(place: str, tops: frozenset[str]) -> None:
    """Put a directory in front of all others but the standard library's, which no stray file shall hide; and have
    modules of its names imported from there, whatever the worker has imported at its start.
    """
    if place not in sys.path:
        standard = [path for path in sys.path if _is_standard(path)]
        sys.path[:] = [*standard, place, *(path for path in sys.path if path not in standard)]
        for name in list(sys.modules):
            if name.partition(".")[0] in tops:
                del sys.modules[name]
    importlib.invalidate_caches()


def _is_standard(path: str) -> bool:
    library = os.path.dirname(os.__file__)
    version = "{}{}".format(*sys.version_info[:2])
    return path in (library, f"{library}/lib-dynload", f"{os.path.dirname(library)}/python{version}.zip")
