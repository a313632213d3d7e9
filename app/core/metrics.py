"""Every metric of the server, declared once, in one registry of the API process.

Figures of requests carry model and version. Figures of forward passes, memory and restarts belong
to a worker, which several versions may share; `inference_version_info` says which version lives
where. No label holds anything a caller chose.
"""

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from app.core.price import NANOS
from app.core.types import Done, Outcome

SECONDS = [0.001 * 2**i for i in range(17)]  # 1 ms to 65 s
ROWS = [1, 2, 4, 8, 16, 32, 64, 128]
OK = "ok"
NO_VERSION = ("", "")  # requests that were refused before a version was found

Version = tuple[str, str]


class Metrics:
    """Counters are fed by the services and by what workers report with their heartbeats."""

    def __init__(self) -> None:
        disable_created: Callable[[], None] = disable_created_metrics  # the library lacks the type
        disable_created()  # a second series beside each, which nobody reads
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        version = ("model", "version")
        self._requests = self._counter(
            "inference_requests",
            "Inputs answered, by outcome; code `ok` is success.",
            *version,
            "code",
        )
        self._seconds = self._histogram(
            "inference_seconds",
            "Time of successful inputs by stage: queue, compute, total.",
            SECONDS,
            *version,
            "stage",
        )
        self._tokens = self._counter(
            "inference_tokens", "Tokens of successful inputs.", *version, "direction"
        )
        self._cost = self._counter(
            "inference_cost", "Cost of inputs at the catalog's prices, in their currency.", *version
        )
        self._version_info = self._gauge(
            "inference_version_info", "Which worker serves a version.", *version, "worker"
        )
        self._version_ready = self._gauge(
            "inference_version_ready", "1 while the version takes requests.", *version
        )
        self._version_wanted = self._gauge(
            "inference_version_wanted", "0 while the version is unloaded, by request.", *version
        )
        self._declare_worker_series()
        self._cpu_budget = self._gauge("inference_cpu_budget_threads", "Threads to share.")
        self._cpu_leased = self._gauge("inference_cpu_leased_threads", "Threads leased out.")
        self._declare_reuse_series()
        self._connections = self._gauge("inference_connections", "Connections being served.")
        self._versions: dict[Version, str] = {}
        self._rejected: dict[str, Counter] = {}

    def _declare_worker_series(self) -> None:
        worker = "worker"
        self._batch_rows = self._histogram(
            "inference_batch_rows", "Rows per forward pass.", ROWS, worker
        )
        self._batch_seconds = self._counter(
            "inference_batch_seconds", "Time spent in forward passes.", worker
        )
        self._predicted_seconds = self._counter(
            "inference_batch_predicted_seconds", "What the cost model said it would be.", worker
        )
        self._mispredicted_seconds = self._counter(
            "inference_batch_mispredicted_seconds",
            "Differences, either way, between measured and predicted times of forward passes.",
            worker,
        )
        self._real_tokens = self._counter(
            "inference_batch_real_tokens", "Tokens of rows in forward passes.", worker
        )
        self._padded_tokens = self._counter(
            "inference_batch_padded_tokens", "The same with padding.", worker
        )
        self._queue_rows = self._gauge("inference_queue_rows", "Rows that wait.", worker)
        self._queue_items = self._gauge(
            "inference_queue_items", "Inputs accepted and not answered yet.", worker
        )
        self._resident = self._gauge(
            "inference_worker_resident_bytes", "Resident memory of the worker.", worker
        )
        self._load_seconds = self._gauge(
            "inference_worker_load_seconds", "Time of the latest load.", worker
        )
        self._restarts = self._counter(
            "inference_worker_restarts", "Worker processes started after the first.", worker
        )

    def _declare_reuse_series(self) -> None:
        version = ("model", "version")
        self._shared = self._counter(
            "inference_shared",
            "Inputs that waited for an equal one in flight instead of being computed.",
            *version,
        )
        self._cache_lookups = self._counter(
            "inference_cache_lookups",
            "Inputs that were looked up in the response cache; result `hit` or `miss`.",
            *version,
            "result",
        )
        self._cache_evictions = self._counter(
            "inference_cache_evictions", "Answers that left the response cache for others."
        )
        self._cache_bytes = self._gauge("inference_cache_bytes", "Size of the response cache.")

    def add_version(self, model: str, version: str, worker: str, *, is_wanted: bool = True) -> None:
        """Declare a version, so that its series exist before its first request."""
        self._versions[model, version] = worker
        self._version_info.labels(model, version, worker).set(1)
        self._version_ready.labels(model, version).set(0)
        self._version_wanted.labels(model, version).set(is_wanted)
        self._requests.labels(model, version, OK)
        self._shared.labels(model, version)

    def costs(self, model: str, version: str, nanos: int) -> None:
        """What a call cost, in billionths."""
        self._cost.labels(model, version).inc(nanos / NANOS)

    def answered(self, model: str, version: str, outcome: Outcome, total_ms: float) -> None:
        """An input of a known version got its outcome after `total_ms` in the server."""
        if not isinstance(outcome, Done):
            self._requests.labels(model, version, outcome.error.code).inc()
            return
        self._requests.labels(model, version, OK).inc()
        timings, usage = outcome.timings, outcome.answer.usage
        for stage, ms in (
            ("queue", timings.queue_ms),
            ("compute", timings.compute_ms),
            ("total", total_ms),
        ):
            self._seconds.labels(model, version, stage).observe(ms / 1000)
        self._tokens.labels(model, version, "in").inc(usage.input_tokens)
        self._tokens.labels(model, version, "out").inc(usage.output_tokens)

    def observe_rejected(self, code: str) -> None:
        """A request was refused before it reached a version."""
        series = self._rejected.get(code)
        if series is None:
            series = self._rejected[code] = self._requests.labels(*NO_VERSION, code)
        series.inc()

    def shared(self, model: str, version: str) -> None:
        """An input waits for an equal one."""
        self._shared.labels(model, version).inc()

    def looked_up(self, model: str, version: str, is_hit: bool) -> None:
        self._cache_lookups.labels(model, version, "hit" if is_hit else "miss").inc()

    def cache_changed(self, held_bytes: int, evicted: int) -> None:
        self._cache_bytes.set(held_bytes)
        self._cache_evictions.inc(evicted)

    def batch_ran(
        self, worker: str, rows: int, real: int, padded: int, ms: float, predicted_ms: float
    ) -> None:
        self._batch_rows.labels(worker).observe(rows)
        self._batch_seconds.labels(worker).inc(ms / 1000)
        self._predicted_seconds.labels(worker).inc(predicted_ms / 1000)
        if predicted_ms:  # 0: nothing was said beforehand
            self._mispredicted_seconds.labels(worker).inc(abs(ms - predicted_ms) / 1000)
        self._real_tokens.labels(worker).inc(real)
        self._padded_tokens.labels(worker).inc(padded)

    def watch_items(self, worker: str, count: Callable[[], int]) -> None:
        """count: inputs that are owed by the worker or its successor; asked at every scrape."""
        self._queue_items.labels(worker).set_function(count)

    def worker_beat(self, worker: str, waiting_rows: int, resident_bytes: int) -> None:
        self._queue_rows.labels(worker).set(waiting_rows)
        self._resident.labels(worker).set(resident_bytes)

    def worker_loaded(self, worker: str, load_s: float) -> None:
        self._load_seconds.labels(worker).set(load_s)
        self._restarts.labels(worker)

    def worker_restarted(self, worker: str) -> None:
        self._restarts.labels(worker).inc()

    def worker_gone(self, worker: str) -> None:
        self.worker_beat(worker, 0, 0)

    def version_ready(self, model: str, version: str, is_ready: bool) -> None:
        self._version_ready.labels(model, version).set(is_ready)

    def version_wanted(self, model: str, version: str, is_wanted: bool) -> None:
        self._version_wanted.labels(model, version).set(is_wanted)

    def cpu(self, budget: int, leased: int) -> None:
        self._cpu_budget.set(budget)
        self._cpu_leased.set(leased)

    def connections(self, count: int) -> None:
        self._connections.set(count)

    def render(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self.registry)

    def summary(self) -> dict[str, Any]:
        """The same figures as one JSON document per version, with averages worked out."""
        return {
            "models": {
                f"{model}:{version}": self._version_summary(model, version, worker)
                for (model, version), worker in self._versions.items()
            },
            "rejected": self._by_code(*NO_VERSION),
            "cache": {
                "bytes": self._value("inference_cache_bytes"),
                "evictions": self._value("inference_cache_evictions_total"),
            },
            "cpu": {
                "budget_threads": self._value("inference_cpu_budget_threads"),
                "leased_threads": self._value("inference_cpu_leased_threads"),
            },
        }

    def _version_summary(self, model: str, version: str, worker: str) -> dict[str, Any]:
        labels = {"model": model, "version": version}
        codes = self._by_code(model, version)
        return {
            "requests": sum(codes.values()),
            "successes": codes.get(OK, 0),
            "failures": {code: count for code, count in codes.items() if code != OK},
            "average_latency_ms": self._average_ms("inference_seconds", **labels, stage="total"),
            "average_queue_ms": self._average_ms("inference_seconds", **labels, stage="queue"),
            "average_compute_ms": self._average_ms("inference_seconds", **labels, stage="compute"),
            "tokens_in": self._value("inference_tokens_total", **labels, direction="in"),
            "tokens_out": self._value("inference_tokens_total", **labels, direction="out"),
            "shared": self._value("inference_shared_total", **labels),
            "cache_hits": self._value("inference_cache_lookups_total", **labels, result="hit"),
            "cache_misses": self._value("inference_cache_lookups_total", **labels, result="miss"),
            "ready": bool(self._value("inference_version_ready", **labels)),
            "wanted": bool(self._value("inference_version_wanted", **labels)),
            "worker": self._worker_summary(worker),
        }

    def _worker_summary(self, worker: str) -> dict[str, Any]:
        def value(name: str) -> float:
            return self._value(name, worker=worker)

        batches, real = value("inference_batch_rows_count"), value(
            "inference_batch_real_tokens_total"
        )
        seconds = value("inference_batch_seconds_total")
        mispredicted = value("inference_batch_mispredicted_seconds_total")
        return {
            "name": worker,
            "batches": batches,
            "average_batch_rows": value("inference_batch_rows_sum") / batches if batches else None,
            "padding_ratio": value("inference_batch_padded_tokens_total") / real if real else None,
            "cost_model_error": mispredicted / seconds if seconds else None,
            "queue_rows": value("inference_queue_rows"),
            "queue_items": value("inference_queue_items"),
            "resident_bytes": value("inference_worker_resident_bytes"),
            "load_seconds": value("inference_worker_load_seconds"),
            "restarts": value("inference_worker_restarts_total"),
        }

    def _by_code(self, model: str, version: str) -> dict[str, float]:
        return {
            sample.labels["code"]: sample.value
            for family in self._requests.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
            and (sample.labels["model"], sample.labels["version"]) == (model, version)
        }

    def _average_ms(self, name: str, **labels: str) -> float | None:
        count = self._value(f"{name}_count", **labels)
        return self._value(f"{name}_sum", **labels) / count * 1000 if count else None

    def _value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(name, text, labels, registry=self.registry, buckets=tuple(buckets))
