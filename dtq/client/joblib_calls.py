"""Runs joblib's batches of calls in a slot.

Client, beside `bundles`; run in slots, so it imports only modules that slots have. A batch arrives as a pickle of its
own: its preconditions (an initializer, limits of threads) are met before the pickle is opened.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from dtq.client.payloads import PICKLE, dump_by_value
from dtq.client.references import given

#: The initializers that this process has called, by the use of the backend that they belong to.
_begun: set[str] = set()
#: The controller of loaded libraries' thread pools, and the number of modules when it was made.
_controllers: list[tuple[int, Any]] = []


def run_batch(
    packed: bytes,
    values: tuple[Any, ...],
    variables: Mapping[str, str],
    threads: int,
    initializer: tuple[str, bytes, tuple[Any, ...]] | None,
    mapped: bool,
) -> Any:
    """Run a batch of calls.

    Args:
        packed: the batch, pickled: a callable without arguments.
        values: the values of its references.
        variables: of the environment, while it runs.
        threads: number of threads for numerical libraries in this process.
        initializer: called in this process before its first batch: the use it belongs to, the pickle of ``(function,
            arguments)``, and the values of its references.
        mapped: whether large arrays of it lie in files that are about to be removed.

    Returns:
        Its result; if arrays lie in files, pickled with their content.
    """
    if initializer is not None and initializer[0] not in _begun:
        with given(initializer[2]):
            function, arguments = pickle.loads(initializer[1])
        function(*arguments)
        _begun.add(initializer[0])
    dynamic = _has_limits()
    call: Callable[[], Any] | None = _opened(packed, values) if dynamic else None  # its libraries keep their defaults
    with _environment(variables):
        if call is None:
            call = _opened(packed, values)
        with _limited(threads) if dynamic else contextlib.nullcontext():
            results = call()
    numpy = sys.modules.get("numpy")
    return dump_by_value(results, {numpy.memmap: _in_memory}) if mapped and numpy is not None else results


@cache
def _has_limits() -> bool:
    """Whether a package that sets the thread pools of loaded libraries is installed; looked for once."""
    return importlib.util.find_spec("threadpoolctl") is not None


def _opened(packed: bytes, values: tuple[Any, ...]) -> Callable[[], Any]:
    with given(values):
        call: Callable[[], Any] = pickle.loads(packed)
    return call


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    # Only the variables that differ: the slot checks its environment if a task has set some in it.
    before = {name: old for name, value in variables.items() if (old := os.environ.get(name)) != value}
    for name in before:
        os.environ[name] = variables[name]
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _limited(threads: int) -> Any:
    """Limits the thread pools of the loaded libraries."""
    loaded = len(sys.modules)
    if not _controllers or _controllers[0][0] != loaded:
        _controllers[:] = [(loaded, importlib.import_module("threadpoolctl").ThreadpoolController())]
    return _controllers[0][1].limit(limits=threads)


def _in_memory(array: Any) -> Any:
    """The reduction of an array in a file."""
    return sys.modules["numpy"].array(array).__reduce_ex__(PICKLE)
