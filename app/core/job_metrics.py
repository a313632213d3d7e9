"""Metrics of jobs, in the server's one registry. No label holds anything a caller chose."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from app.core.types import Priority


class JobMetrics:
    """Counters are of this server; gauges of the queue, which several servers may share."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        self.submitted = counter("inference_jobs_submitted", "Jobs accepted here.")
        self.claimed = counter("inference_jobs_claimed", "Jobs that this server began to run.")
        self.ended = counter("inference_jobs_ended", "Jobs that ended here, by state.", "state")
        self.leases_lost = counter(
            "inference_jobs_leases_lost", "Jobs that another server took over from this one."
        )
        self.put_off = counter(
            "inference_jobs_put_off", "Times that a job could not be run and was put off."
        )
        self.given_back = counter(
            "inference_jobs_given_back", "Jobs given back because this server stopped."
        )
        self.taken_back = counter(
            "inference_jobs_taken_back", "Jobs of servers that had ended, back in the queue."
        )
        self.dead = counter(
            "inference_jobs_dead_letters", "Jobs failed since too many of their servers had ended."
        )
        self.deleted = counter("inference_jobs_deleted", "Jobs deleted, kept long enough.")
        self.webhooks = counter(
            "inference_job_webhooks", "Tries to tell of a job's end, by what became of them.", "end"
        )
        self._waiting = gauge("inference_jobs_waiting", "Jobs in the queue, by class.", "priority")
        self._oldest = gauge(
            "inference_jobs_oldest_seconds",
            "How long the job whose turn is next has waited, by class.",
            "priority",
        )
        self._running = gauge("inference_jobs_running", "Jobs that some server runs.")
        self.depth({}, {}, 0)

    def depth(
        self, waiting: Mapping[Priority, int], oldest_s: Mapping[Priority, float], running: int
    ) -> None:
        for priority in Priority:
            name = priority.name.lower()
            self._waiting.labels(name).set(waiting.get(priority, 0))
            self._oldest.labels(name).set(oldest_s.get(priority, 0.0))
        self._running.set(running)
