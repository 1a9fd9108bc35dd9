"""How joblib's batches grow with the backend."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("joblib")

from dtq.joblib import Backend


@pytest.mark.parametrize(
    ("size", "duration_s", "expected"),
    [
        (1, 0.002, 32),  # tiny calls: much faster than joblib's twice
        (64, 0.005, 2048),
        (10, 0.1, 40),  # no further than to what takes as long as joblib wants
        (1, 0.15, 2),
        (1, 0.0, 1),  # nothing has ended yet
        (4, 0.5, 4),  # long enough
        (100, 4.0, 10),  # too long: joblib's own
    ],
)
def test_batches_of_tiny_calls_grow_fast_and_no_further_than_joblib_wants(
    size: int, duration_s: float, expected: int
) -> None:
    backend = Backend()
    backend.parallel = SimpleNamespace(verbose=0)
    backend._effective_batch_size, backend._smoothed_batch_duration = size, duration_s

    assert backend.compute_batch_size() == expected
    assert backend._effective_batch_size == expected
