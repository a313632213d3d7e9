"""Jobs outlive the server that took them, however it ends."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.conftest import Start
from tests.e2e.serving import COMMAND, ServerProcess, catalog_of, environment

ENDS = {"succeeded", "failed", "cancelled", "expired"}
WAIT_S = 40


def submit(server: ServerProcess, body: dict[str, Any]) -> str:
    answer = server.client.post("/jobs", json=body)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    assert answer.headers["location"] == f"/jobs/{job_id}"
    return job_id


def ended(server: ServerProcess, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = {"state": ""}
    for _ in range(3):
        if job["state"] not in ENDS:
            job = server.client.get(f"/jobs/{job_id}", params={"wait": WAIT_S}).json()
    assert job["state"] in ENDS, job
    return job


def note(number: int, words: int = 1) -> dict[str, Any]:
    return {"text": f"Note {number}: I love it{', really' * words}.", "model": "sentiment"}


def book(notes: int) -> dict[str, Any]:
    """Takes some seconds."""
    return {"requests": [note(number, 120) for number in range(notes)]}


@pytest.fixture
def start(start_server: Start, tmp_path: Path) -> Start:
    """Servers of one model, which load fast, over the same database."""
    catalog = catalog_of(tmp_path, "sentiment")

    def started(**settings: object) -> ServerProcess:
        server = start_server(MODEL_CATALOG=catalog, DEFAULT_MODEL="sentiment", **settings)
        server.until_ready()
        return server

    return started


def test_a_killed_server_loses_no_job_and_ends_none_twice(start: Start):
    first = start()
    done = submit(first, note(0))
    kept = ended(first, done)
    running = submit(first, book(100))
    queued = [submit(first, note(n)) for n in range(1, 21)]
    framed = submit(first, {"endpoint": "/infer/batch", "body": book(10)})
    first.process.send_signal(signal.SIGKILL)
    first.wait()

    second = start()
    jobs = [ended(second, job_id) for job_id in (*queued, running, framed)]
    assert {job["state"] for job in jobs} == {"succeeded"}
    assert all(job["result"]["success"] for job in jobs)
    assert max(job["attempts"] for job in jobs) == 2
    assert second.client.get(f"/jobs/{done}").json() == kept
    listed = second.client.get("/jobs", params={"limit": 100}).json()["jobs"]
    assert sorted(job["id"] for job in listed) == sorted([done, running, framed, *queued])
    finished = [e["job"] for s in (first, second) for e in s.events if e["event"] == "job_ended"]
    assert sorted(finished) == sorted(set(finished))
    assert any(e["event"] == "jobs_recovered" for e in second.events)


def test_a_server_that_stops_gives_its_jobs_to_the_next(start: Start):
    first = start(SHUTDOWN_GRACE_S=0)
    job_id = submit(first, book(250))
    with httpx.stream("GET", f"{first.url}/jobs/{job_id}/events", timeout=60) as events:
        lines = events.iter_lines()
        while '"state":"running"' not in next(lines):
            pass
    assert first.end() == 0

    second = start()
    job = ended(second, job_id)
    assert (job["state"], job["attempts"]) == ("succeeded", 1)
    assert job["progress"] == {"total": 250, "done": 250, "failed": 0}


def test_a_database_that_cannot_be_used_is_one_line_at_the_start(tmp_path: Path):
    url = "postgresql://user:hidden@127.0.0.1:1/jobs"
    done = subprocess.run(
        COMMAND, cwd=tmp_path, env=environment(DATABASE_URL=url), capture_output=True, text=True
    )
    assert done.returncode == 2 and "DATABASE_URL" in done.stderr and "hidden" not in done.stderr
