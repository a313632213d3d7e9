"""Figures in, the two reports out."""

import pytest

from app.core.errors import InputTooLong, Overloaded
from app.core.metrics import Metrics
from app.core.types import Answer, Done, Failed, Timings, Usage


@pytest.fixture
def metrics():
    metrics = Metrics()
    metrics.add_version("sentiment", "v1", "minilm")
    metrics.add_version("embedder", "v1", "minilm")
    return metrics


def done(queue_ms: float = 0.0, compute_ms: float = 0.0, tokens=(0, 0)) -> Done:
    return Done(Answer("x", usage=Usage(*tokens)), Timings(queue_ms, compute_ms))


def of(metrics: Metrics, key: str = "sentiment:v1"):
    return metrics.summary()["models"][key]


def lines(metrics: Metrics, name: str) -> list[str]:
    return [line for line in metrics.render().decode().splitlines() if line.startswith(name)]


def test_before_the_first_request_everything_is_there_and_nothing_has_happened(metrics):
    summary = of(metrics)

    assert (summary["requests"], summary["successes"], summary["failures"]) == (0, 0, {})
    assert summary["average_latency_ms"] is None
    assert summary["worker"]["padding_ratio"] is None
    assert summary["ready"] is False
    assert 'code="ok",model="sentiment",version="v1"' in lines(metrics, "inference_requests")[0]


def test_requests_are_counted_by_version_and_by_outcome(metrics):
    metrics.answered("sentiment", "v1", done(), 5.0)
    metrics.answered("sentiment", "v1", done(), 5.0)
    metrics.answered("sentiment", "v1", Failed(InputTooLong()), 1.0)

    summary = of(metrics)
    assert (summary["requests"], summary["successes"]) == (3, 2)
    assert summary["failures"] == {"input_too_long": 1}
    assert of(metrics, "embedder:v1")["requests"] == 0


def test_averages_are_over_successes_only(metrics):
    metrics.answered("sentiment", "v1", done(queue_ms=1.0, compute_ms=4.0), 6.0)
    metrics.answered("sentiment", "v1", done(queue_ms=3.0, compute_ms=8.0), 14.0)
    metrics.answered("sentiment", "v1", Failed(Overloaded()), 1000.0)

    summary = of(metrics)
    assert summary["average_queue_ms"] == pytest.approx(2.0)
    assert summary["average_compute_ms"] == pytest.approx(6.0)
    assert summary["average_latency_ms"] == pytest.approx(10.0)


def test_tokens_are_added_up_by_direction(metrics):
    metrics.answered("sentiment", "v1", done(tokens=(7, 2)), 1.0)
    metrics.answered("sentiment", "v1", done(tokens=(3, 0)), 1.0)

    assert (of(metrics)["tokens_in"], of(metrics)["tokens_out"]) == (10, 2)


def test_what_was_refused_before_a_version_was_found_is_counted_apart(metrics):
    metrics.observe_rejected("model_not_found")
    metrics.observe_rejected("model_not_found")

    assert metrics.summary()["rejected"] == {"model_not_found": 2}
    assert of(metrics)["requests"] == 0


def test_batches_belong_to_the_worker_that_its_versions_share(metrics):
    metrics.batch_ran("minilm", rows=8, real=100, padded=150, ms=10.0, predicted_ms=9.0)
    metrics.batch_ran("minilm", rows=2, real=100, padded=100, ms=5.0, predicted_ms=6.0)

    for key in ("sentiment:v1", "embedder:v1"):
        worker = of(metrics, key)["worker"]
        assert worker["batches"] == 2
        assert worker["average_batch_rows"] == 5
        assert worker["padding_ratio"] == 1.25
        assert worker["cost_model_error"] == pytest.approx(2 / 15)
    assert lines(metrics, "inference_batch_seconds_total") == [
        'inference_batch_seconds_total{worker="minilm"} 0.015'
    ]


def test_a_beat_shows_the_worker_as_it_is_and_its_end_empties_it(metrics):
    metrics.watch_items("minilm", lambda: 3)
    metrics.worker_beat("minilm", waiting_rows=12, resident_bytes=10**8)
    worker = of(metrics)["worker"]
    assert (worker["queue_rows"], worker["queue_items"]) == (12, 3)
    assert worker["resident_bytes"] == 10**8

    metrics.worker_gone("minilm")
    worker = of(metrics)["worker"]
    # What is held for the next one still waits.
    assert (worker["queue_rows"], worker["queue_items"], worker["resident_bytes"]) == (0, 3, 0)


def test_restarts_are_counted_from_the_second_start_on(metrics):
    metrics.worker_loaded("minilm", 1.5)
    assert lines(metrics, "inference_worker_restarts_total") == [
        'inference_worker_restarts_total{worker="minilm"} 0.0'
    ]

    metrics.worker_restarted("minilm")
    metrics.worker_loaded("minilm", 2.5)
    assert of(metrics)["worker"]["restarts"] == 1
    assert of(metrics)["worker"]["load_seconds"] == 2.5


def test_readiness_follows_what_is_said_last(metrics):
    metrics.version_ready("sentiment", "v1", True)
    assert of(metrics)["ready"] is True
    metrics.version_ready("sentiment", "v1", False)
    assert of(metrics)["ready"] is False


def test_version_that_nobody_wants_is_told_from_one_that_fails(metrics):
    assert of(metrics)["wanted"] is True
    metrics.version_wanted("sentiment", "v1", False)
    assert of(metrics)["wanted"] is False
    metrics.add_version("sentiment", "v2", "minilm", is_wanted=False)
    assert lines(metrics, "inference_version_wanted")[-1].endswith('version="v2"} 0.0')


def test_the_cpu_budget_is_shown_with_what_is_leased_of_it(metrics):
    metrics.cpu(budget=4, leased=3)

    assert metrics.summary()["cpu"] == {"budget_threads": 4, "leased_threads": 3}


def test_reuse_is_counted_by_version_and_the_caches_size_is_the_latest(metrics):
    metrics.shared("sentiment", "v1")
    metrics.looked_up("sentiment", "v1", is_hit=False)
    metrics.looked_up("sentiment", "v1", is_hit=True)
    metrics.cache_changed(900, 0)
    metrics.cache_changed(700, 3)

    summary = of(metrics)
    assert (summary["shared"], summary["cache_hits"], summary["cache_misses"]) == (1, 1, 1)
    assert of(metrics, "embedder:v1")["shared"] == 0
    assert metrics.summary()["cache"] == {"bytes": 700, "evictions": 3}
    assert lines(metrics, "inference_cache_bytes") == ["inference_cache_bytes 700.0"]


def test_two_servers_in_one_process_do_not_share_figures(metrics):
    metrics.observe_rejected("invalid_json")

    assert Metrics().summary()["rejected"] == {}


def test_every_series_has_a_help_text_and_a_known_set_of_labels(metrics):
    """A label with a caller's words in it would grow without bound."""
    metrics.answered("sentiment", "v1", done(), 1.0)
    metrics.batch_ran("minilm", 1, 1, 1, 1.0, 1.0)
    ours = [f for f in metrics.registry.collect() if f.name.startswith("inference_")]
    labels = {name for family in ours for sample in family.samples for name in sample.labels}

    assert all(family.documentation for family in ours)
    assert labels <= {"model", "version", "worker", "code", "stage", "direction", "le"}
