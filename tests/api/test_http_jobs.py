"""/jobs and Idempotency-Key over HTTP: a real queue on SQLite, services that echo."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
import pytest_asyncio

from app.api.inference import limits_of
from app.api.job_work import ENDPOINTS, Work
from app.core.errors import Forbidden, InputTooLong, ModelUnavailable
from app.core.job_metrics import JobMetrics
from app.core.metrics import Metrics
from app.core.types import Asker
from app.jobs.open import open_jobs
from app.jobs.runner import Runner, RunnerLimits
from app.jobs.store import Limits
from app.jobs.watch import Watch
from app.schemas.jobs import Endpoint, JobAnswer, JobsAnswer
from app.services.job_service import JobService
from app.storage.database import READERS, Database
from app.storage.engines import open_engines
from app.storage.schema import migrate
from tests.api.serving import EchoService, FailsEach, FakeServices, HangsInInfer, serving, settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
TEXT = {"text": "hello there", "model": "echo"}


class Bench:
    """A server with jobs, and a client of it."""

    def __init__(self, services: FakeServices, client: httpx.AsyncClient) -> None:
        self.services = services
        self.client = client

    async def submit(self, body: Any = TEXT, **headers: str) -> dict[str, Any]:
        answer = await self.client.post("/jobs", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        assert answer.headers["location"] == f"/jobs/{job['id']}"
        return job

    async def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        answer = await self.client.get(f"/jobs/{job['id']}", params={"wait": 10})
        assert answer.status_code == 200, answer.text
        JobAnswer.model_validate_json(answer.content, strict=True)
        ended: dict[str, Any] = answer.json()
        return ended


class Current:
    """Whatever the services have now: tests put others in their places."""

    def __init__(self, services: FakeServices) -> None:
        self._services = services

    def __getattr__(self, name: str) -> Any:
        return getattr(self._services.inference, name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    folder: Path = tmp_path_factory.mktemp("jobs")
    engines = open_engines(f"sqlite:///{folder / 'server.db'}", READERS)
    migrate(engines)
    database, services = Database(engines), FakeServices()
    opened = open_jobs(database, folder, Limits())
    current: Any = Current(services)
    work = Work(current, services.models, limits_of(settings()), lambda: True)
    watch, counted = Watch(), JobMetrics(Metrics().registry)
    runner = Runner(opened.store, work, opened.owner, watch, counted, RunnerLimits())
    services.jobs = JobService(opened.store, runner, watch, counted)
    services.once = opened.once
    services.jobs.start()
    async with serving(services) as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
            yield Bench(services, client)
    await services.jobs.stop(0.0)
    await database.close()


@pytest_asyncio.fixture(loop_scope="module")
async def bench(whole: Bench) -> Bench:
    whole.services.inference = EchoService()
    return whole


async def test_the_document_names_every_endpoint():
    assert list(ENDPOINTS) == list(get_args(Endpoint))


async def test_a_request_is_accepted_now_and_answered_later(bench):
    job = await bench.submit(TEXT, **{"X-Request-ID": "mine", "X-Caller-Id": "shop"})
    assert (job["model"], job["endpoint"], job["result"]) == ("echo", "/infer", None)
    answer = await bench.client.get(
        f"/jobs/{job['id']}", params={"wait": 10}, headers={"X-Caller-Id": "shop"}
    )
    ended = answer.json()
    assert ended["state"] == "succeeded"
    assert ended["result"]["result"] == "hello there"
    assert ended["result"]["request_id"] == "mine" == ended["request_id"]
    (asker,) = bench.services.inference.askers
    assert (asker.caller, asker.is_patient) == ("shop", True)


async def test_a_batch_has_progress_and_wrong_entries_fail_alone(bench):
    entries = [TEXT, {"text": ""}, {**TEXT, "model": "missing"}]
    ended = await bench.ended(await bench.submit({"requests": entries}))
    assert ended["state"] == "succeeded"
    assert ended["progress"] == {"total": 2, "done": 2, "failed": 1}
    assert ended["result"]["summary"] == {"total": 3, "succeeded": 1, "failed": 2}
    codes = [each.get("error", {}).get("code") for each in ended["result"]["results"]]
    assert codes == [None, "invalid_request", "model_not_found"]


async def test_an_entry_may_be_wrong_in_ways_that_no_database_takes(bench):
    entries = [{**TEXT, "parameters": {"seed": 10**40}}, {**TEXT, "model": "echo\0"}]
    ended = [await bench.ended(await bench.submit({"requests": [entry]})) for entry in entries]
    assert [each["state"] for each in ended] == ["succeeded"] * 2
    assert ended[0]["result"]["results"][0]["error"]["code"] == "invalid_request"


async def test_a_request_in_a_frame_may_have_a_deadline_of_its_own(bench):
    job = await bench.submit({"endpoint": "/infer", "body": TEXT, "timeout_s": 60})
    assert job["submitted_at"][:16] != job["deadline_at"][:16]
    shorter = await bench.submit(
        {"endpoint": "/infer", "body": TEXT}, **{"X-Request-Timeout-Ms": "1000"}
    )
    assert shorter["deadline_at"] < job["deadline_at"]


async def test_a_failure_is_told_as_the_live_route_tells_it(bench):
    bench.services.inference = FailsEach(InputTooLong("text has 300 tokens"))
    ended = await bench.ended(await bench.submit())
    assert ended["state"] == "failed" and ended["result"] is None
    assert ended["error"] == {"code": "input_too_long", "message": "text has 300 tokens"}


async def test_a_model_that_is_away_is_no_failure(bench):
    bench.services.inference = FailsEach(ModelUnavailable("loading", retry_after_s=30.0))
    job = await bench.submit()
    async with asyncio.timeout(10):
        while not job["next_attempt_at"]:
            job = (await bench.client.get(f"/jobs/{job['id']}")).json()
            await asyncio.sleep(0.01)
    assert (job["state"], job["attempts"]) == ("queued", 0)
    assert job["error"]["code"] == "model_unavailable"
    await bench.client.delete(f"/jobs/{job['id']}")


@pytest.mark.parametrize(
    ("body", "status", "code", "named"),
    [
        ({"text": "x", "model": "missing"}, 404, "model_not_found", "missing"),
        ({"text": ""}, 422, "invalid_request", "text"),
        ({"text": "x", "colour": 1}, 422, "invalid_request", "colour"),
        ({**TEXT, "stream": True}, 422, "invalid_request", "stream"),
        ({"requests": []}, 422, "invalid_request", "requests"),
        ([], 422, "invalid_request", "object"),
        ({"endpoint": "/jobs", "body": {}}, 422, "invalid_request", "endpoint"),
        ({"endpoint": "/infer"}, 422, "invalid_request", "body"),
        ({"endpoint": "/infer", "body": TEXT, "timeout_s": 0}, 422, "invalid_request", "timeout_s"),
        ({"endpoint": "/infer", "body": TEXT, "colour": 1}, 422, "invalid_request", "colour"),
        (
            {"endpoint": "/v1/embeddings", "body": {"model": "echo", "input": "a"}},
            422,
            "invalid_request",
            "embed",
        ),
        (
            {"endpoint": "/v1/embeddings", "body": {"model": "missing", "input": "a"}},
            404,
            "model_not_found",
            "missing",
        ),
        (
            {
                "endpoint": "/v1/completions",
                "body": {"model": "echo", "prompt": "a", "stream": True},
            },
            422,
            "invalid_request",
            "stream",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_what_is_wrong_is_refused_at_the_submission(bench, body, status, code, named):
    answer = await bench.client.post("/jobs", json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code and named in error["message"]


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [("/infer", TEXT), ("/infer/batch", {"requests": [{**TEXT, "model": "mine"}, TEXT]})],
)
async def test_a_key_cannot_have_a_job_ask_what_it_may_not_ask_itself(bench, endpoint, body):
    work = Work(EchoService(), bench.services.models, limits_of(settings()), lambda: True)
    asker = Asker("key_1", models=frozenset({"mine"}))
    with pytest.raises(Forbidden, match="echo"):
        work.check(endpoint, body, asker)


async def test_jobs_of_others_are_not_found(bench):
    job = await bench.submit(**{"X-Caller-Id": "me"})
    you = {"X-Caller-Id": "you"}
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
        answer = await bench.client.request(method, f"/jobs/{job['id']}{path}", headers=you)
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "job_not_found"
    listed = await bench.client.get("/jobs", headers=you)
    assert listed.json() == {"jobs": [], "next_cursor": None}


@pytest.mark.parametrize("job_id", ["job_x", "x", "job_" + "0" * 32, "job_" + "0" * 31 + "'"])
async def test_what_is_no_job_is_not_found(bench, job_id):
    assert (await bench.client.get(f"/jobs/{job_id}")).status_code == 404


async def test_a_running_job_is_cancelled(bench):
    bench.services.inference = hanging = HangsInInfer()
    job = await bench.submit()
    await hanging.began.wait()
    answer = await bench.client.delete(f"/jobs/{job['id']}")
    assert answer.json()["cancelling"] is True
    ended = await bench.ended(job)
    assert (ended["state"], ended["cancelling"]) == ("cancelled", False)
    assert hanging.cancelled.is_set()
    again = await bench.client.delete(f"/jobs/{job['id']}")
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")


async def test_waiting_ends_when_its_time_is_over(bench):
    bench.services.inference = HangsInInfer()
    job = await bench.submit()
    answer = await bench.client.get(f"/jobs/{job['id']}", params={"wait": "0.05"})
    assert answer.json()["state"] in ("queued", "running")
    await bench.client.delete(f"/jobs/{job['id']}")


async def test_events_tell_of_every_change_and_last_of_the_end(bench):
    bench.services.inference = HangsInInfer()
    job = await bench.submit()
    names = []
    async with bench.client.stream("GET", f"/jobs/{job['id']}/events") as events:
        async for line in events.aiter_lines():
            if line.startswith("event: "):
                names.append(line[7:])
            if len(names) == 1 and line.startswith("data"):
                await bench.client.delete(f"/jobs/{job['id']}")
    assert names[0] == "progress" and names[-1] == "end"
    assert set(names) == {"progress", "end"}


async def test_lists_filter_and_page(bench):
    who = {"X-Caller-Id": "lister"}
    made = [(await bench.submit(TEXT, **who))["id"] for _ in range(5)]
    for job_id in made:
        await bench.client.get(f"/jobs/{job_id}?wait=10", headers=who)
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for _ in range(3):
        answer = await bench.client.get("/jobs", params={"limit": 2, **cursor}, headers=who)
        JobsAnswer.model_validate_json(answer.content, strict=True)
        page = answer.json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = {"cursor": page["next_cursor"]}
    assert page["next_cursor"] is None and set(seen) == set(made) and len(seen) == 5
    for query, count in (("state=succeeded", 5), ("state=failed", 0), ("model=echo", 5)):
        answer = await bench.client.get(f"/jobs?{query}", headers=who)
        assert len(answer.json()["jobs"]) == count


@pytest.mark.parametrize(
    "path",
    [
        "/jobs?limit=0",
        "/jobs?limit=101",
        "/jobs?limit=x",
        "/jobs?state=delayed",
        "/jobs?cursor=job_1",
        "/jobs?limit=1&limit=2",
        "/jobs?model=%00",
        "/jobs?sort=up",
        "/jobs/job_00000000000000000000000000000000?wait=-1",
        "/jobs/job_00000000000000000000000000000000?wait=61",
        "/jobs/job_00000000000000000000000000000000?wait=nan",
    ],
)
async def test_wrong_queries_are_refused(bench, path):
    answer = await bench.client.get(path)
    assert answer.status_code == 422, answer.text


# --- Idempotency-Key -----------------------------------------------------------------------------


async def test_a_job_that_is_submitted_again_is_the_same(bench):
    key = {"Idempotency-Key": "order-1"}
    job = await bench.submit(TEXT, **key)
    again = await bench.client.post("/jobs", json=TEXT, headers=key)
    assert again.json()["id"] == job["id"]
    assert again.headers["idempotent-replayed"] == "true"
    other = await bench.client.post("/jobs", json={**TEXT, "text": "other"}, headers=key)
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "idempotency_key_reused"
    others = await bench.submit(TEXT, **key, **{"X-Caller-Id": "somebody else"[:8]})
    assert others["id"] != job["id"]


async def test_an_answer_is_kept_for_who_asks_again(bench):
    key = {"Idempotency-Key": "infer-1"}
    body = {**TEXT, "text": "only once"}
    first = await bench.client.post("/infer", json=body, headers=key)
    again = await bench.client.post("/infer", json=body, headers=key)
    assert first.status_code == 200 and again.content == first.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    texts = [request.text for request in bench.services.inference.requests]
    assert texts.count("only once") == 1
    other = await bench.client.post("/infer", json={**TEXT, "text": "other"}, headers=key)
    assert other.status_code == 422


async def test_who_asks_again_too_early_is_told(bench):
    bench.services.inference = hanging = HangsInInfer()
    key = {"Idempotency-Key": "infer-2"}
    first = asyncio.create_task(bench.client.post("/infer", json=TEXT, headers=key))
    await hanging.began.wait()
    again = await bench.client.post("/infer", json=TEXT, headers=key)
    assert again.status_code == 409 and again.json()["error"]["code"] == "still_running"
    first.cancel()
    await hanging.cancelled.wait()
    bench.services.inference = EchoService()
    async with asyncio.timeout(10):
        while (answer := await bench.client.post("/infer", json=TEXT, headers=key)).is_error:
            assert answer.status_code == 409  # the first one's leaving has not been noted yet
    assert answer.status_code == 200


async def test_failures_are_not_kept(bench):
    bench.services.inference = FailsEach(ModelUnavailable("loading"))
    key = {"Idempotency-Key": "infer-3"}
    assert (await bench.client.post("/infer", json=TEXT, headers=key)).status_code == 503
    bench.services.inference = EchoService()
    assert (await bench.client.post("/infer", json=TEXT, headers=key)).status_code == 200


@pytest.mark.parametrize("key", ["", "with space", "x" * 256, "é"])
async def test_wrong_keys_are_refused(bench, key):
    headers = {"Idempotency-Key": key.encode()}
    for path in ("/jobs", "/infer"):
        answer = await bench.client.post(path, json=TEXT, headers=headers)
        assert answer.status_code == 400, answer.text


async def test_streams_are_not_kept(bench):
    headers = {"Idempotency-Key": "stream"}
    answer = await bench.client.post("/infer", json={**TEXT, "stream": True}, headers=headers)
    assert answer.status_code == 422


async def test_without_a_database_live_requests_are_served():
    async with serving() as running, httpx.AsyncClient(base_url=running.url) as client:
        assert (await client.post("/infer", json=TEXT)).status_code == 200
        for answer in (
            await client.post("/jobs", json=TEXT),
            await client.get("/jobs"),
            await client.get("/jobs/job_" + "0" * 32),
            await client.get(f"/jobs/job_{'0' * 32}/events"),
            await client.post("/infer", json=TEXT, headers={"Idempotency-Key": "x"}),
        ):
            assert answer.status_code == 503, answer.text
            assert answer.json()["error"]["code"] == "storage_unavailable"
