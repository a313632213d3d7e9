"""Every curl line of the product's page, as it stands there, with the real curl."""

import json
import re
import shutil
import subprocess
from datetime import datetime

import pytest

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")

HEALTH = "curl http://localhost:8000/health"
MODELS = "curl http://localhost:8000/models"
METRICS = "curl http://localhost:8000/metrics"
SUMMARIZE = r"""
curl -X POST "http://localhost:8000/infer" \
  -H "Content-Type: application/json" \
  -d '{
    "text": "The quick brown fox jumps over the lazy dog. This is a sample text that needs to be summarized to demonstrate the summarization capabilities of the AI inference backend platform.",
    "model": "summarizer",
    "version": "v1"
  }'
"""  # noqa: E501
SENTIMENT = r"""
curl -X POST "http://localhost:8000/infer" \
  -H "Content-Type: application/json" \
  -d '{
    "text": "I love this AI inference backend! It works perfectly.",
    "model": "sentiment",
    "version": "v1"
  }'
"""
GENERATE = r"""
curl -X POST "http://localhost:8000/infer" \
  -H "Content-Type: application/json" \
  -d '{
    "text": "The future of AI is",
    "model": "generator",
    "version": "v1",
    "parameters": {
      "max_length": 50
    }
  }'
"""
BATCH = r"""
curl -X POST "http://localhost:8000/infer/batch" \
  -H "Content-Type: application/json" \
  -d '{
    "requests": [
      {
        "text": "First text to process",
        "model": "summarizer"
      },
      {
        "text": "Second text to process",
        "model": "sentiment"
      }
    ]
  }'
"""


@pytest.fixture
def curl(server):
    def run(line):
        line = line.replace("http://localhost:8000", server.url).replace("curl", "curl -sSf", 1)
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def product_answer(text, model_used, model_type):
    """The product's response format: these fields, of these types."""
    answer = json.loads(text)
    assert answer["success"] is True
    assert answer["model_used"] == model_used
    assert answer["metadata"]["model_type"] == model_type
    assert answer["latency_ms"] > 0
    assert answer["request_id"]
    assert datetime.fromisoformat(answer["timestamp"]).tzinfo is not None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answer["timestamp"])
    return answer


def test_health(curl):
    answer = json.loads(curl(HEALTH))
    assert answer["status"] == "healthy"
    assert {version["state"] for version in answer["models"].values()} == {"ready"}


def test_models(curl):
    models = json.loads(curl(MODELS))["models"]
    assert [m["name"] for m in models] == ["summarizer", "sentiment", "generator", "embedder"]
    assert {m["default_version"] for m in models} == {"v1"}
    parameters = {m["name"]: {p["name"]: p for p in m["versions"][0]["parameters"]} for m in models}
    assert {"max_length", "min_length"} <= parameters["summarizer"].keys()
    sequences = parameters["generator"]["num_return_sequences"]
    assert (sequences["minimum"], sequences["default"]) == (1, 1)


def test_summary_says_nothing_that_the_text_does_not(curl):
    answer = product_answer(curl(SUMMARIZE), "summarizer:v1", "summarizer")
    sentences = re.split(r"(?<=[.!?])\s+", answer["result"])
    assert sentences and all(sentence in SUMMARIZE for sentence in sentences)


def test_sentiment_of_praise_is_positive_and_sure_of_it(curl):
    answer = product_answer(curl(SENTIMENT), "sentiment:v1", "classifier")
    assert answer["result"] == "positive"
    scores = answer["metadata"]["scores"]
    assert scores.keys() == {"negative", "neutral", "positive"}
    assert sum(scores.values()) == pytest.approx(1)
    assert answer["metadata"]["confidence"] == max(scores.values()) > 0.5


def test_generator_goes_on_from_the_text(curl):
    answer = product_answer(curl(GENERATE), "generator:v1", "generator")
    assert len(answer["result"].split()) > 3
    assert answer["metadata"]["usage"]["total_tokens"] <= 50


def test_batch_is_answered_in_order(curl):
    answer = json.loads(curl(BATCH))
    first, second = answer["results"]
    assert (first["model_used"], second["model_used"]) == ("summarizer:v1", "sentiment:v1")
    assert first["result"] == "First text to process"
    assert second["result"] in {"negative", "neutral", "positive"}
    assert answer["summary"] == {"total": 2, "succeeded": 2, "failed": 0}


def test_metrics_have_every_version_from_the_start(curl):
    text = curl(METRICS)
    for model in ("summarizer", "sentiment", "generator", "embedder"):
        assert f'inference_requests_total{{code="ok",model="{model}",version="v1"}}' in text
        assert f'inference_version_ready{{model="{model}",version="v1"}} 1.0' in text
    assert 'inference_worker_resident_bytes{worker="all-MiniLM-L6-v2"}' in text


def test_metrics_as_json_count_what_was_asked(curl):
    line = METRICS.replace("curl", "curl -H 'Accept: application/json'")
    before = json.loads(curl(line))["models"]["sentiment:v1"]
    curl(SENTIMENT)
    after = json.loads(curl(line))["models"]["sentiment:v1"]
    assert after["successes"] == before["successes"] + 1
    assert after["tokens_in"] == before["tokens_in"] + 14
    assert after["average_latency_ms"] > 0
