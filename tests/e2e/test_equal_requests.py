"""Equal requests through HTTP: together computed once, afterwards kept."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.schemas.response import InferAnswer
from tests.e2e.serving import ServerProcess, catalog_with_caches
from tests.processes import until

PROMPT = "The old lighthouse keeper climbed the stairs and"
LONG = {"temperature": 0, "max_new_tokens": 250, "min_new_tokens": 250}


@pytest.fixture(scope="module")
def caching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("caching")
    catalog = catalog_with_caches(folder, "sentiment", "generator")
    server = ServerProcess(folder, MODEL_CATALOG=catalog, RESPONSE_CACHE_MB=1)
    try:
        server.until_ready()
        yield server
    finally:
        assert server.end() == 0


def figure(server: ServerProcess, name: str, **labels: str) -> float:
    text = server.client.get("/metrics", headers={"Accept": "text/plain"}).text
    wanted = {f'{label}="{value}"' for label, value in labels.items()}
    return sum(
        float(value)
        for found, value in re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
        if wanted <= set(found.split(","))
    )


def test_two_equal_requests_at_once_run_once_and_the_third_is_kept(caching):
    def ask():
        return caching.infer("generator", PROMPT, **LONG)

    with ThreadPoolExecutor() as callers:
        first = callers.submit(ask)
        until(lambda: caching.unanswered("generator") == 1, "the first", 30)
        second = callers.submit(ask)
        until(lambda: figure(caching, "inference_shared_total", model="generator") == 1, "both", 30)
        assert caching.unanswered("generator") == 1
        computed, shared = (call.result().json() for call in (first, second))
    kept = ask().json()

    assert computed["result"] == shared["result"] == kept["result"]
    assert computed["metadata"]["compute_ms"] > 0
    assert shared["metadata"]["compute_ms"] == 0 < shared["metadata"]["queue_ms"]
    assert "cached" not in computed["metadata"] and "cached" not in shared["metadata"]
    assert kept["metadata"]["cached"] is True
    assert (kept["metadata"]["queue_ms"], kept["metadata"]["compute_ms"]) == (0, 0)
    assert kept["metadata"]["usage"] == computed["metadata"]["usage"]
    InferAnswer.model_validate(kept)


def test_sampled_text_is_drawn_for_each_even_with_a_seed(caching):
    lookups = figure(caching, "inference_cache_lookups_total", model="generator")
    parameters = {"max_new_tokens": 3, "seed": 5}
    answers = [caching.infer("generator", PROMPT, **parameters).json() for _ in range(2)]

    assert answers[0]["result"] == answers[1]["result"]
    assert not any("cached" in answer["metadata"] for answer in answers)
    assert figure(caching, "inference_cache_lookups_total", model="generator") == lookups


def test_a_hit_is_counted_and_only_an_equal_request_is_one(caching):
    texts = ["I like it.", "I like it.", "I like it!"]
    answers = [caching.infer("sentiment", text).json() for text in texts]
    shorter = caching.infer("sentiment", texts[0], top_k=1).json()

    said = ["cached" in answer["metadata"] for answer in (*answers, shorter)]
    assert said == [False, True, False, False]
    assert answers[1]["result"] == answers[0]["result"]
    assert answers[1]["metadata"]["scores"] == answers[0]["metadata"]["scores"]
    lookups = "inference_cache_lookups_total"
    assert figure(caching, lookups, model="sentiment", result="hit") == 1
    assert figure(caching, lookups, model="sentiment", result="miss") == 3
    assert figure(caching, "inference_cache_bytes") > 0


def test_a_version_that_does_not_say_so_keeps_nothing(caching):
    answers = [caching.infer("embedder", "hello").json() for _ in range(2)]

    assert not any("cached" in answer["metadata"] for answer in answers)
