"""Files and batches by OpenAI's own client, over servers that are killed and stopped."""

import json
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.conftest import Start
from tests.e2e.serving import ServerProcess, catalog_of

ENDS = {"completed", "failed", "expired", "cancelled"}
GUARD_S = 120.0
LINES, FEW = 300, 5


class Caller:
    """OpenAI's client of one server, and short words for what tests do with it."""

    def __init__(self, server: ServerProcess) -> None:
        self.client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

    def batch(self, lines: Sequence[dict[str, Any]], endpoint: Any, **fields: Any) -> Any:
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        file = self.client.files.create(file=("in.jsonl", data), purpose="batch")
        return self.client.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h", **fields
        )

    def until(self, batch: Any, is_so: Callable[[Any], bool]) -> Any:
        ends = time.monotonic() + GUARD_S
        while not is_so(now := self.client.batches.retrieve(batch.id)):
            assert time.monotonic() < ends, now
            time.sleep(0.05)
        return now

    def ended(self, batch: Any) -> Any:
        return self.until(batch, lambda now: now.status in ENDS)

    def told(self, file_id: str | None) -> dict[str, Any]:
        """Lines of a file by custom_id, of which each is there once."""
        if file_id is None:
            return {}
        lines = [json.loads(line) for line in self.client.files.content(file_id).iter_lines()]
        by_id = {line["custom_id"]: line for line in lines}
        assert len(by_id) == len(lines)
        return by_id


def line(number: int, url: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": f"c{number}", "method": "POST", "url": url, "body": body}


def reviews(count: int, words: int = 1) -> list[dict[str, Any]]:
    return [
        line(n, "/v1/classify", {"model": "sentiment", "input": f"Note {n}{', really' * words}."})
        for n in range(count)
    ]


@pytest.fixture
def start(start_server: Start, tmp_path: Path) -> Start:
    """Servers of one model, which load fast, over the same data."""
    catalog = catalog_of(tmp_path, "sentiment")

    def started(**settings: object) -> ServerProcess:
        server = start_server(MODEL_CATALOG=catalog, DEFAULT_MODEL="sentiment", **settings)
        server.until_ready()
        return server

    return started


BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "generator",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 4,
    },
    "/v1/completions": {"model": "generator", "prompt": "The old", "max_tokens": 3},
    "/v1/responses": {
        "model": "generator",
        "input": "Hello",
        "max_output_tokens": 16,
        "temperature": 0,
    },
    "/v1/embeddings": {"model": "embedder", "input": ["a cat", "a dog"]},
    "/v1/classify": {"model": "sentiment:v1", "input": "I love it."},
    "/infer": {"model": "summarizer", "text": "One sentence. Another one. A third."},
}


@pytest.mark.parametrize("endpoint", BODIES)
def test_each_endpoint_answers_lines_as_it_answers_requests(server: ServerProcess, endpoint: str):
    caller = Caller(server)
    body = BODIES[endpoint]
    wrong = {**body, "max_tokens": -1, "input": 7, "text": 7}
    batch = caller.batch(
        [line(1, endpoint, body), line(2, endpoint, wrong)], endpoint, metadata={"for": "tests"}
    )
    assert (batch.object, batch.endpoint, batch.metadata["for"]) == ("batch", endpoint, "tests")
    ended = caller.ended(batch)
    assert ended.status == "completed", ended
    counts = ended.request_counts
    assert (counts.total, counts.completed, counts.failed) == (2, 1, 1), ended
    (done,) = caller.told(ended.output_file_id).values()
    live = server.client.post(endpoint, json=body).json()
    assert done["response"]["body"].keys() == live.keys()
    assert done["response"]["body"].get("usage") == live.get("usage")
    (failed,) = caller.told(ended.error_file_id).values()
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("c2", 422)
    assert batch.id in {each.id for each in caller.client.batches.list(limit=1)}
    for file_id in (ended.output_file_id, ended.input_file_id):
        assert caller.client.files.retrieve(file_id).status == "processed"
        assert caller.client.files.delete(file_id).deleted
        with pytest.raises(openai.NotFoundError):
            caller.client.files.retrieve(file_id)


def test_a_killed_server_answers_each_line_once(start: Start):
    first = start()
    caller = Caller(first)
    batch = caller.batch(reviews(LINES, 40), "/v1/classify")
    kept = caller.until(batch, lambda now: now.request_counts.completed > FEW)
    first.process.send_signal(signal.SIGKILL)
    first.wait()
    assert kept.status == "in_progress", "the batch was too short for this test"

    second = Caller(start())
    ended = second.ended(batch)
    assert (ended.status, ended.request_counts.completed) == ("completed", LINES)
    answers = second.told(ended.output_file_id)
    assert answers.keys() == {f"c{n}" for n in range(LINES)}
    assert ended.error_file_id is None
    assert {line["response"]["status_code"] for line in answers.values()} == {200}


def test_a_cancelled_batch_keeps_its_finished_part(start: Start):
    caller = Caller(start())
    batch = caller.batch(reviews(LINES, 40), "/v1/classify")
    caller.until(batch, lambda now: now.request_counts.completed > FEW)
    with pytest.raises(openai.ConflictError):
        caller.client.files.delete(batch.input_file_id)
    assert caller.client.batches.cancel(batch.id).status == "cancelling"
    ended = caller.ended(batch)
    assert (ended.status, ended.cancelled_at is not None) == ("cancelled", True)
    count = ended.request_counts.completed
    assert FEW < count < LINES
    assert len(caller.told(ended.output_file_id)) == count
    with pytest.raises(openai.ConflictError):
        caller.client.batches.cancel(batch.id)
