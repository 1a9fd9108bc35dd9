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
from typing import Any

from dtq.client.payloads import PICKLE, dump_by_value
from dtq.client.references import given

#: The initializers that this process has called, by the use of the backend that they belong to.
_begun: set[str] = set()
#: What looks after the thread pools of libraries that are loaded, and how many modules were when it was made.
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
        packed: the batch, pickled: to be called without arguments.
        values: what the references in it stand for.
        variables: of the environment, while it runs.
        threads: how many threads numerical libraries may use in this process.
        initializer: called in this process before its first batch: which use it is of, the pickle of
            ``(function, arguments)``, and what the references in that stand for.
        mapped: whether large arrays of it lie in files, which are about to be removed.

    Returns:
        What it returns; where arrays lie in files pickled, with those as they are in memory.
    """
    if initializer is not None and initializer[0] not in _begun:
        with given(initializer[2]):
            function, arguments = pickle.loads(initializer[1])
        function(*arguments)
        _begun.add(initializer[0])
    dynamic = importlib.util.find_spec("threadpoolctl") is not None
    call: Callable[[], Any] | None = _opened(packed, values) if dynamic else None  # its libraries keep their defaults
    with _environment(variables):
        if call is None:
            call = _opened(packed, values)
        with _limited(threads) if dynamic else contextlib.nullcontext():
            results = call()
    numpy = sys.modules.get("numpy")
    return dump_by_value(results, {numpy.memmap: _in_memory}) if mapped and numpy is not None else results


def _opened(packed: bytes, values: tuple[Any, ...]) -> Callable[[], Any]:
    with given(values):
        call: Callable[[], Any] = pickle.loads(packed)
    return call


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _limited(threads: int) -> Any:
    """Limits the thread pools of the libraries that are loaded."""
    loaded = len(sys.modules)
    if not _controllers or _controllers[0][0] != loaded:
        _controllers[:] = [(loaded, importlib.import_module("threadpoolctl").ThreadpoolController())]
    return _controllers[0][1].limit(limits=threads)


def _in_memory(array: Any) -> Any:
    """How an array that lies in a file is pickled."""
    return sys.modules["numpy"].array(array).__reduce_ex__(PICKLE)
