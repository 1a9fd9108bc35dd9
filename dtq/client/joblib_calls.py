"""joblib's batches of calls, as a slot runs them.

Client, beside `bundles`; run in slots, so it imports nothing of the client. A batch arrives as a pickle of its own:
what has to stand before it is opened (an initializer, limits of threads) stands then.
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

#: The initializers that this process has called, by the use of the backend that they belong to.
_begun: set[str] = set()
#: What looks after the thread pools of libraries that are loaded, and how many modules were when it was made.
_controllers: list[tuple[int, Any]] = []


def run_batch(
    packed: bytes, variables: Mapping[str, str], threads: int, initializer: tuple[str, bytes] | None, dumps: bool
) -> Any:
    """Run a batch of calls.

    Args:
        packed: the batch, pickled: to be called without arguments.
        variables: of the environment, while it runs.
        threads: how many threads numerical libraries may use in this process.
        initializer: called in this process before its first batch: which use it is of, and the pickle of
            ``(function, arguments)``.
        dumps: whether arrays in the results that are memory-mapped are to be given as they are in memory.

    Returns:
        What it returns.
    """
    if initializer is not None and initializer[0] not in _begun:
        function, arguments = pickle.loads(initializer[1])
        function(*arguments)
        _begun.add(initializer[0])
    dynamic = importlib.util.find_spec("threadpoolctl") is not None
    call: Callable[[], Any] | None = pickle.loads(packed) if dynamic else None  # its libraries keep their own defaults
    with _environment(variables):
        if call is None:
            call = pickle.loads(packed)
        with _limited(threads) if dynamic else contextlib.nullcontext():
            results = call()
    return [_in_memory(result) for result in results] if dumps else results


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


def _in_memory(result: Any) -> Any:
    """An array that lies in a file which is about to be removed, as it is in memory."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(result, numpy.memmap):
        return result
    return numpy.array(result)
