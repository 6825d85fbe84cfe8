"""A consumer's progress as Prometheus metrics, served on loopback unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from asof.errors import UsageError
from asof.streams.consumer import Progress

Lag = Callable[[], int | None]


class StreamMetrics(Collector):
    """Reads progress when it is scraped.

    Args:
        progress: Table -> progress of its consumer.
        lags: Table -> a function that counts what waits; None where it cannot be told.
    """

    def __init__(self, progress: Mapping[str, Progress], lags: Mapping[str, Lag]) -> None:
        self.progress, self.lags = progress, lags

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        events = CounterMetricFamily("asof_stream_events", "Events settled.", labels=["table", "outcome"])
        retries = CounterMetricFamily("asof_stream_retries", "Times that a batch was tried again.", labels=["table"])
        lag = GaugeMetricFamily("asof_stream_lag_events", "Unread events.", labels=["table"])
        rate = GaugeMetricFamily("asof_stream_rate", "Events per second, over ten seconds.", labels=["table"])
        fresh = GaugeMetricFamily(
            "asof_stream_freshness_seconds", "From entering the stream to being read, last batch.", labels=["table"]
        )
        for table, progress in self.progress.items():
            for outcome in ("added", "duplicates", "dead", "late"):
                events.add_metric([table, outcome], getattr(progress, outcome))
            retries.add_metric([table], progress.retries)
            rate.add_metric([table], progress.rate)
            if progress.freshness is not None:
                fresh.add_metric([table], progress.freshness)
            if (waiting := self.lags[table]()) is not None:
                lag.add_metric([table], waiting)
        yield from (events, retries, lag, rate, fresh)


def serve(metrics: StreamMetrics, port: int, address: str = "127.0.0.1") -> Callable[[], None]:
    """Serve ``metrics`` at ``http://address:port/metrics``; returns what ends it.

    Raises:
        UsageError: The port is taken or not allowed.
    """
    registry = CollectorRegistry()
    registry.register(metrics)
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise UsageError(
            f"metrics cannot be served at {address}:{port} ({error.strerror}); choose another --metrics-port"
        ) from error

    def end() -> None:
        server.shutdown()
        thread.join()
        server.server_close()

    return end
