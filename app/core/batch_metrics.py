"""Metrics of files and batches, in the server's one registry. No label holds anything a caller
chose."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

ANSWERED, FAILED = "answered", "failed"


class BatchMetrics:
    """Counters and lines in flight are of this server; the other gauges of the database, which
    several servers may share."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, label: str) -> Counter:
            return Counter(name, text, (label,), registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        self.ended = counter("inference_batches_ended", "Batches that ended here.", "status")
        self._lines = counter(
            "inference_batches_lines",
            "Lines of batches whose answer or failure was kept here.",
            "outcome",
        )
        self.in_flight = gauge(
            "inference_batches_lines_in_flight", "Lines of batches that are being answered here."
        )
        self._open = gauge("inference_batches", "Batches that have not ended.", "status")
        self._oldest = gauge(
            "inference_batches_oldest_seconds", "Age of the oldest batch that has not ended."
        )
        self._files = gauge("inference_files", "Files that are kept.", "purpose")
        self._bytes = gauge("inference_files_bytes", "Size of the files that are kept.", "purpose")
        self.kept(0, 0)

    def kept(self, answered: int, failed: int) -> None:
        """So many more lines have their answers on the disk."""
        self._lines.labels(ANSWERED).inc(answered)
        self._lines.labels(FAILED).inc(failed)

    def measured(
        self,
        open_by_status: Mapping[str, int],
        oldest_s: float,
        files: Mapping[str, tuple[int, int]],
    ) -> None:
        """files: how many and of how many bytes, by purpose. Zeros are given, too."""
        for status, count in open_by_status.items():
            self._open.labels(status).set(count)
        self._oldest.set(oldest_s)
        for purpose, (count, size) in files.items():
            self._files.labels(purpose).set(count)
            self._bytes.labels(purpose).set(size)
