"""A client with a key that remembers what it was promised, and compares it in the end."""

import csv
import json
from collections.abc import Callable
from typing import Any

import httpx

from tests.e2e.serving import ServerProcess
from tests.processes import until

ENDS_S = 120.0
ENDED = {"succeeded", "failed", "cancelled", "expired"}
MODEL = "sentiment"
LONG = 30_000  # characters; many of them fill the log of the database


def refused_for(answer: httpx.Response, *words: str) -> None:
    """Told what is wrong, and that it may pass."""
    assert answer.status_code == 503, answer.text
    error = answer.json()["error"]
    assert error["code"] == "storage_unavailable", error
    assert all(word in error["message"] for word in words), error
    assert int(answer.headers["retry-after"]) >= 1


class Witness:
    """usage_of: of the ledger, as `cli usage` tells it in CSV."""

    def __init__(self, server: ServerProcess, secret: str, usage_of: Callable[[], str]) -> None:
        self._usage_of = usage_of
        self.http = httpx.Client(
            base_url=server.url, headers={"Authorization": f"Bearer {secret}"}, timeout=60
        )
        self.jobs: list[str] = []
        self.batch_id = ""
        self._lines = 0
        self._tokens = 0

    def infer(self, text: str) -> httpx.Response:
        answer = self.http.post("/infer", json={"model": MODEL, "text": text})
        if answer.is_success:
            self._count(answer.json())
        return answer

    def submit(self, text: str) -> httpx.Response:
        answer = self.http.post("/jobs", json={"model": MODEL, "text": text})
        if answer.status_code == 202:
            self.jobs.append(answer.json()["id"])
        return answer

    def refused_submission(self, most: int = 400) -> httpx.Response:
        """A database uses up what room it has before it refuses anything."""
        for number in range(most):
            answer = self.submit(f"Note {number}: good." + " " * LONG)
            if answer.status_code != 202:
                return answer
        raise AssertionError(f"{most} jobs were taken")

    def upload(self, lines: int) -> httpx.Response:
        tasks = [
            {
                "custom_id": f"c{n}",
                "method": "POST",
                "url": "/v1/classify",
                "body": {"model": MODEL, "input": f"Note {n}{', really' * 60}."},
            }
            for n in range(lines)
        ]
        data = "\n".join(map(json.dumps, tasks))
        return self.http.post(
            "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", data)}
        )

    def begin_batch(self, lines: int) -> None:
        """Returns when some of it is answered."""
        file_id = self.upload(lines).json()["id"]
        body = {
            "input_file_id": file_id,
            "endpoint": "/v1/classify",
            "completion_window": "24h",
        }
        self.batch_id = self.http.post("/v1/batches", json=body).json()["id"]
        self._lines = lines
        until(lambda: self.answered() > 5, "the batch's first answers", ENDS_S)
        assert self.answered() < lines, "the batch was too short for this test"

    def answered(self) -> int:
        counts = self.http.get(f"/v1/batches/{self.batch_id}").json()["request_counts"]
        return int(counts["completed"])

    def is_served(self) -> bool:
        return self.submit("good").status_code == 202

    def close(self) -> None:
        self.http.close()

    def settle(self) -> None:
        """All that was promised came true, and the ledger has it to the token."""
        self._settle_batch()
        for job_id in self.jobs:
            job = self.http.get(f"/jobs/{job_id}", params={"wait": 40}).json()
            assert job["state"] == "succeeded", job
            self._count(job["result"])
        until(lambda: self.ledger() == self._tokens, "the same in the ledger", 10)

    def ledger(self) -> int:
        rows = csv.DictReader(self._usage_of().splitlines())
        return sum(int(row["input_tokens"]) + int(row["output_tokens"]) for row in rows)

    def _settle_batch(self) -> None:
        path = f"/v1/batches/{self.batch_id}"
        until(lambda: self.http.get(path).json()["status"] == "completed", "its end", ENDS_S)
        batch = self.http.get(path).json()
        told = self.http.get(f"/v1/files/{batch['output_file_id']}/content").text.splitlines()
        lines = [json.loads(line) for line in told]
        assert sorted(line["custom_id"] for line in lines) == sorted(
            f"c{n}" for n in range(self._lines)
        )
        for line in lines:
            self._tokens += line["response"]["body"]["usage"]["total_tokens"]

    def _count(self, answer: dict[str, Any]) -> None:
        self._tokens += answer["metadata"]["usage"]["total_tokens"]
