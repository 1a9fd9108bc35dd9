"""The hook for OpenTelemetry that docs/hooks.md shows, with the SDK: spans and metrics as the conventions name them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dtq.client import around, current
from tests.tasks import numbers_work as work

sdk = pytest.importorskip("opentelemetry.sdk.trace")
PAGE = Path(__file__).parents[2] / "docs" / "hooks.md"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the page's hook around one task that succeeds and one that fails; the spans and the points of its metric."""
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider, meters = sdk.TracerProvider(), MeterProvider(metric_readers=[reader])
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    monkeypatch.setattr(metrics, "get_meter", meters.get_meter)
    monkeypatch.setattr(around, "_hooks", {})
    code = re.search(r"```python\n(# tracing\.py\n.*?)```", PAGE.read_text(), re.S)
    assert code is not None
    exec(code[1], {"__name__": "tracing"})  # the page's own words
    current.serve("lab", lambda done, total: None)
    current.lease(0, "numbers_work:square", "sums")
    current.begin(17, 3, False, 2)
    try:
        assert around.hooked(work.square)(3) == 9
        with pytest.raises(ZeroDivisionError):
            around.hooked(lambda: 1 / 0)()
    finally:
        current.end()
    data = reader.get_metrics_data()
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    provider.shutdown()
    meters.shutdown()
    return exporter.get_finished_spans(), metric


def test_example_makes_the_spans_and_the_metric_of_the_conventions(spans: Any) -> None:
    finished, metric = spans
    good, bad = finished
    assert (good.name, good.kind.name, good.status.status_code.name) == ("process sums", "CONSUMER", "UNSET")
    assert dict(good.attributes) == {
        "messaging.system": "dtq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "sums",
        "messaging.message.id": "17.3",
        "code.function.name": "numbers_work:square",
        "dtq.attempt": 2,
    }
    assert (bad.status.status_code.name, bad.attributes["error.type"]) == ("ERROR", "ZeroDivisionError")
    assert [event.name for event in bad.events] == ["exception"]
    assert (metric.name, metric.unit) == ("messaging.process.duration", "s")
    points = [dict(point.attributes) for point in metric.data.data_points]
    assert [point.get("error.type") for point in points] == [None, "ZeroDivisionError"]
