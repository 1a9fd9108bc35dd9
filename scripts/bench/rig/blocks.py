"""A Cholesky factorisation in blocks, with numpy: its tasks, and which waits for which. Importable without dtq."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from rig.graph import Call, Needs


def factored(block: np.ndarray) -> np.ndarray:
    """A block on the diagonal."""
    return np.linalg.cholesky(block)


def solved(block: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    """A block below a factored one."""
    answer: np.ndarray = np.linalg.solve(diagonal, block.T).T
    return answer


def updated(block: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """A block to the right of both."""
    rest: np.ndarray = block - left @ right.T
    return rest


def matrix(size: int) -> np.ndarray:
    """One that can be factored."""
    some = np.random.default_rng(1).random((size, size))
    return some + some.T + 2 * size * np.eye(size)


def graph(whole: np.ndarray, step: int) -> tuple[dict[Hashable, Call], dict[tuple[int, int], Needs]]:
    """The tasks, and which of them make the blocks of the factor."""
    count = len(whole) // step
    at: dict[tuple[int, int], Any] = {
        (i, j): whole[i * step : (i + 1) * step, j * step : (j + 1) * step] for i in range(count) for j in range(i + 1)
    }
    calls: dict[Hashable, Call] = {}

    def put(i: int, j: int, kind: str, k: int, function: Any, *others: Any) -> None:
        calls[kind, i, j, k] = (function, at[i, j], *others)
        at[i, j] = Needs((kind, i, j, k))

    for k in range(count):
        put(k, k, "factored", k, factored)
        for i in range(k + 1, count):
            put(i, k, "solved", k, solved, at[k, k])
        for i in range(k + 1, count):
            for j in range(k + 1, i + 1):
                put(i, j, "updated", k, updated, at[i, k], at[j, k])
    return calls, at


def is_factor(whole: np.ndarray, step: int, blocks: dict[tuple[int, int], np.ndarray]) -> bool:
    """Whether the blocks, times their transpose, make the matrix again."""
    factor = np.zeros_like(whole)
    for (i, j), block in blocks.items():
        factor[i * step : (i + 1) * step, j * step : (j + 1) * step] = block
    vector = np.arange(len(whole)) / len(whole)
    return bool(np.allclose(factor @ (factor.T @ vector), whole @ vector))
