"""Tasks that wait for others, as one writes them with nothing but futures: the same for every executor."""

from __future__ import annotations

from collections.abc import Hashable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any, NamedTuple, TypeAlias


class Needs(NamedTuple):
    """Stands for the result of another task among the arguments."""

    key: Hashable


#: A function and its arguments, some of which may be `Needs`.
Call: TypeAlias = tuple[Any, ...]


def run(executor: Executor, graph: dict[Hashable, Call]) -> dict[Hashable, Any]:
    """Submit each task when all that it needs have ended.

    Returns:
        All results.
    """
    missing = {key: {needed.key for needed in call if type(needed) is Needs} for key, call in graph.items()}
    wanted_by: dict[Hashable, list[Hashable]] = {}
    for key, needs in missing.items():
        for needed in needs:
            wanted_by.setdefault(needed, []).append(key)
    results: dict[Hashable, Any] = {}
    running: dict[Future[Any], Hashable] = {}
    ready = [key for key, needs in missing.items() if not needs]
    while ready or running:
        for key in ready:
            function, *arguments = graph[key]
            arguments = [results[value.key] if type(value) is Needs else value for value in arguments]
            running[executor.submit(function, *arguments)] = key
        ready = []
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            key = running.pop(future)
            results[key] = future.result()
            for wanting in wanted_by.get(key, ()):
                missing[wanting].discard(key)
                if not missing[wanting]:
                    ready.append(wanting)
    return results
