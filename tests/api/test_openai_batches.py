"""/v1/files and /v1/batches over HTTP: a real store and runner on SQLite, services that echo."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from app.api.batch_work import ENDPOINTS, BatchWork
from app.api.openai_route import VALUES_PER_REQUEST
from app.batches.open import open_batches
from app.batches.running import BatchLimits
from app.core.batch_metrics import BatchMetrics
from app.core.errors import InputTooLong
from app.schemas.openai_batches import Endpoint, OpenAiBatch, OpenAiBatches, OpenAiFile, OpenAiFiles
from app.schemas.request import Limits
from app.services.batch_service import BatchService
from app.storage.database import READERS, Database
from app.storage.engines import open_engines
from app.storage.schema import migrate
from tests.api.serving import EchoService, FailsEach, FakeServices, Running, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
MOST_BYTES, MOST_HELD_BYTES, CALLERS_BYTES = 4_000_000, 2_000_000, 28_100_000
URL = "/infer"


class Bench:
    """A server with batches, and a client of it."""

    def __init__(self, running: Running, client: httpx.AsyncClient, folder: Path) -> None:
        self.running = running
        self.services = running.services
        self.client = client
        self.folder = folder

    async def upload(self, data: bytes, **fields: Any) -> httpx.Response:
        fields = {"purpose": "batch", **fields}
        given = {name: value for name, value in fields.items() if value is not None}
        return await self.client.post("/v1/files", files={"file": ("in.jsonl", data)}, data=given)

    async def kept(self, data: bytes) -> dict[str, Any]:
        answer = await self.upload(data)
        assert answer.status_code == 200, answer.text
        OpenAiFile.model_validate_json(answer.content, strict=True)
        file: dict[str, Any] = answer.json()
        return file

    async def create(self, input_file_id: str, **changes: Any) -> httpx.Response:
        body = {"input_file_id": input_file_id, "endpoint": URL, "completion_window": "24h"}
        return await self.client.post("/v1/batches", json={**body, **changes})

    async def ended(self, answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        batch: dict[str, Any] = answer.json()
        async with asyncio.timeout(20):
            while batch["status"] in ("validating", "in_progress", "finalizing", "cancelling"):
                await asyncio.sleep(0.01)
                answer = await self.client.get(f"/v1/batches/{batch['id']}")
                OpenAiBatch.model_validate_json(answer.content, strict=True)
                batch = answer.json()
        return batch

    async def told(self, file_id: str) -> list[dict[str, Any]]:
        answer = await self.client.get(f"/v1/files/{file_id}/content")
        assert answer.status_code == 200, answer.text
        assert int(answer.headers["content-length"]) == len(answer.content)
        return [json.loads(line) for line in answer.content.splitlines()]


class Current:
    """Whatever the services have now: tests put others in their places."""

    def __init__(self, services: FakeServices) -> None:
        self._services = services

    def __getattr__(self, name: str) -> Any:
        return getattr(self._services.inference, name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    folder = tmp_path_factory.mktemp("data")
    engines = open_engines(f"sqlite:///{folder / 'test.db'}", READERS)
    migrate(engines)
    database = Database(engines)
    services = FakeServices()
    current: Any = Current(services)
    work = BatchWork(current, services.models, Limits(1000, 16), VALUES_PER_REQUEST, lambda: True)
    counted = BatchMetrics(CollectorRegistry())
    opened = open_batches(database, folder, work, BatchLimits(8, 100, 10_000), counted)
    services.batches = BatchService(
        opened.store, opened.contents, opened.runner, 7200.0, CALLERS_BYTES
    )
    services.batches.start()
    limits = {"max_file_bytes": MOST_BYTES, "max_held_body_bytes": MOST_HELD_BYTES}
    async with serving(services, max_body_bytes=100_000, **limits) as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=10) as client:
            yield Bench(running, client, folder)
    await services.batches.stop(0)
    await database.close()


@pytest.fixture
def bench(shared: Bench) -> Bench:
    shared.services.inference = EchoService()
    return shared


def line(number: int, body: Any = None, **changes: Any) -> bytes:
    body = body or {"model": "echo", "text": f"text {number}"}
    whole = {"custom_id": f"c{number}", "method": "POST", "url": URL, "body": body, **changes}
    return json.dumps(whole).encode() + b"\n"


async def test_the_document_knows_what_can_be_done():
    assert set(get_args(Endpoint)) == set(ENDPOINTS)


async def test_a_file_comes_back_as_it_was_sent(bench):
    data = bytes(range(256)) * 300
    file = await bench.kept(data)
    assert (file["bytes"], file["filename"], file["purpose"]) == (len(data), "in.jsonl", "batch")
    assert file["expires_at"] - file["created_at"] == 7200
    path = f"/v1/files/{file['id']}"
    content = await bench.client.get(f"{path}/content")
    assert content.content == data
    assert content.headers["content-disposition"] == 'attachment; filename="in.jsonl"'
    assert (await bench.client.get(path)).json() == file
    assert (await bench.client.delete(path)).json()["deleted"] is True
    for answer in (await bench.client.get(path), await bench.client.get(f"{path}/content")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "file_not_found")
    assert not (bench.folder / "files" / file["id"]).exists()


async def test_a_file_may_be_larger_than_what_requests_may_hold(bench):
    await bench.kept(b"x" * MOST_BYTES)


async def test_files_of_others_are_not_there(bench):
    file = await bench.kept(b"x")
    other = {"X-Caller-Id": "somebody-else"}
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        path = f"/v1/files/{file['id']}{path}"
        assert (await bench.client.request(method, path, headers=other)).status_code == 404
    body = {"input_file_id": file["id"], "endpoint": URL, "completion_window": "24h"}
    answer = await bench.client.post("/v1/batches", json=body, headers=other)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "file_not_found")
    assert (await bench.client.get("/v1/files", headers=other)).json()["data"] == []


async def test_a_file_is_kept_as_long_as_its_form_says(bench):
    expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = (await bench.upload(b"x", **expiry)).json()
    assert file["expires_at"] - file["created_at"] == 3600
    whole = {"expires_after": '{"anchor": "created_at", "seconds": 3600}'}
    file = (await bench.upload(b"x", **whole)).json()
    assert file["expires_at"] - file["created_at"] == 3600
    answer = await bench.upload(b"x", fancy="1")
    assert (answer.status_code, answer.headers["x-ignored-fields"]) == (200, "fancy")


WRONG_FORMS = {
    "another purpose": ({"purpose": "assistants"}, 422, "purpose"),
    "no purpose": ({"purpose": None}, 422, "purpose"),
    "a short life": (
        {"expires_after[anchor]": "created_at", "expires_after[seconds]": "59"},
        422,
        "expires_after.seconds",
    ),
    "no seconds": ({"expires_after[anchor]": "created_at"}, 422, "expires_after.seconds"),
    "no object": ({"expires_after": "3600"}, 422, "expires_after is no JSON object"),
    "an empty object": ({"expires_after": "{}"}, 422, "expires_after.anchor"),
    "another anchor": (
        {"expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
        422,
        "expires_after.anchor",
    ),
}


@pytest.mark.parametrize(("fields", "status", "named"), WRONG_FORMS.values(), ids=WRONG_FORMS)
async def test_forms_that_are_wrong_keep_nothing(bench, fields, status, named):
    before = set((bench.folder / "files").iterdir())
    answer = await bench.upload(b"x", **fields)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"].startswith(named)
    assert set((bench.folder / "files").iterdir()) == before


async def test_who_has_no_room_left_is_told_so_as_soon_as_it_is_seen(bench):
    hoarder = {"X-Caller-Id": "hoarder"}

    async def upload(size: int, headers: dict[str, str] = hoarder) -> httpx.Response:
        file, data = {"file": ("in.jsonl", b"x" * size)}, {"purpose": "batch"}
        client: httpx.AsyncClient = bench.client
        return await client.post("/v1/files", files=file, data=data, headers=headers)

    whole, rest = divmod(CALLERS_BYTES, MOST_BYTES)
    kept = [(await upload(MOST_BYTES)).json()["id"] for _ in range(whole)]
    before = set((bench.folder / "files").iterdir())
    refused = await upload(rest + 1)
    assert refused.status_code == 413 and refused.headers["connection"] == "close"
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "caller_files_full")
    assert f"the {CALLERS_BYTES} that" in error["message"]
    assert "MAX_CALLER_FILES_BYTES" in error["message"]

    async def untold() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        yield b"x" * (rest + 1)

    headers = {**hoarder, "Content-Type": "multipart/form-data; boundary=x"}
    answer = await bench.client.post("/v1/files", content=untold(), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "caller_files_full")
    assert set((bench.folder / "files").iterdir()) == before
    assert (await upload(1, headers={"X-Caller-Id": "another"})).status_code == 200
    assert (await upload(rest)).status_code == 200, "to the last byte"
    await bench.client.delete(f"/v1/files/{kept[0]}", headers=hoarder)
    assert (await upload(MOST_BYTES)).status_code == 200


async def test_a_file_that_is_too_large_is_refused_told_or_not(bench):
    before = set((bench.folder / "files").iterdir())
    data = b"x" * (MOST_BYTES + 1)
    answer = await bench.upload(data)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert "MAX_FILE_BYTES" in answer.json()["error"]["message"]

    async def untold() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        yield data

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = await bench.client.post("/v1/files", content=untold(), headers=kind)
    assert answer.status_code == 413
    assert set((bench.folder / "files").iterdir()) == before


async def test_who_leaves_in_the_middle_leaves_nothing(bench):
    before = set((bench.folder / "files").iterdir())
    async with bench.running.connection() as (_, writer):
        writer.write(
            b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
        )
        async with asyncio.timeout(10):
            while set((bench.folder / "files").iterdir()) == before:
                await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        while set((bench.folder / "files").iterdir()) != before:
            await asyncio.sleep(0.01)


async def test_lists_come_in_pages(bench):
    headers = {"X-Caller-Id": "lister"}

    async def page(path: str, **query: Any) -> dict[str, Any]:
        answer = await bench.client.get(path, params=query, headers=headers)
        assert answer.status_code == 200, answer.text
        kind = OpenAiFiles if path == "/v1/files" else OpenAiBatches
        kind.model_validate_json(answer.content, strict=True)
        found: dict[str, Any] = answer.json()
        return found

    ids = []
    for _ in range(3):
        answer = await bench.client.post(
            "/v1/files", files={"file": ("a", b"{")}, data={"purpose": "batch"}, headers=headers
        )
        ids.append(answer.json()["id"])
    first = await page("/v1/files", limit=2)
    assert ([file["id"] for file in first["data"]], first["has_more"]) == (ids[:0:-1], True)
    rest = await page("/v1/files", limit=2, after=first["last_id"])
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (ids[:1], False)
    assert (await page("/v1/files", order="asc"))["first_id"] == ids[0]
    assert (await page("/v1/files", purpose="batch_output"))["data"] == []

    body = {"input_file_id": ids[0], "endpoint": URL, "completion_window": "24h"}
    made = [
        (await bench.client.post("/v1/batches", json=body, headers=headers)).json()["id"]
        for _ in range(2)
    ]
    first = await page("/v1/batches", limit=1)
    assert (first["last_id"], first["has_more"]) == (made[1], True)
    assert (await page("/v1/batches", after=made[1]))["first_id"] == made[0]


@pytest.mark.parametrize(
    ("path", "query", "named"),
    [
        ("/v1/files", "limit=0", "limit"),
        ("/v1/files", "limit=10001", "limit"),
        ("/v1/batches", "limit=101", "limit"),
        ("/v1/files", "after=file-x", "after"),
        ("/v1/batches", "after=file-" + "0" * 32, "after"),
        ("/v1/files", "order=up", "order"),
        ("/v1/files", "purpose=vision", "purpose"),
    ],
)
async def test_lists_that_are_asked_for_wrongly(bench, path, query, named):
    answer = await bench.client.get(f"{path}?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, named), answer.text


async def test_lines_are_answered_as_the_live_route_answers(bench):
    body = {"model": "echo", "text": "hello there"}
    wrong = {"model": "echo", "text": "x", "temperature": 1}
    data = line(1, body) + line(2, wrong) + line(3, {**body, "stream": True})
    file = await bench.kept(data)
    batch = await bench.ended(await bench.create(file["id"], metadata={"a": "b"}))
    assert (batch["status"], batch["metadata"]) == ("completed", {"a": "b"})
    assert batch["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    (done,) = await bench.told(batch["output_file_id"])
    live = (await bench.client.post("/infer", json=body)).json()
    shown = done["response"]["body"]
    differs = {"request_id", "timestamp"}
    assert {name: x for name, x in shown.items() if name not in differs} == {
        name: x for name, x in live.items() if name not in differs
    }
    assert (done["custom_id"], done["error"]) == ("c1", None)
    assert done["id"] == done["response"]["request_id"] == shown["request_id"]
    failed = {
        each["custom_id"]: each["response"] for each in await bench.told(batch["error_file_id"])
    }
    assert {name: each["status_code"] for name, each in failed.items()} == {"c2": 422, "c3": 422}
    assert failed["c2"]["body"]["error"]["message"].startswith("temperature is unknown")
    asker = bench.services.inference.askers[0]
    assert (asker.priority.name, asker.caller, asker.is_patient) == ("BATCH", "/127.0.0.1", True)


async def test_a_line_whose_input_fails_is_in_the_error_file(bench):
    bench.services.inference = FailsEach(InputTooLong("text has 300 tokens"))
    file = await bench.kept(line(1))
    batch = await bench.ended(await bench.create(file["id"]))
    assert batch["output_file_id"] is None
    (failed,) = await bench.told(batch["error_file_id"])
    assert failed["response"]["status_code"] == 413
    assert failed["response"]["body"]["error"]["code"] == "input_too_long"


async def test_a_file_that_is_wrong_fails_the_batch_with_each_line(bench):
    data = line(1) + b"{\n" + line(2, {"model": "missing", "text": "x"}) + line(3, url="/v1/x")
    file = await bench.kept(data)
    batch = await bench.ended(await bench.create(file["id"]))
    assert batch["status"] == "failed" and batch["failed_at"]
    problems = [(each["code"], each["line"], each["param"]) for each in batch["errors"]["data"]]
    assert problems == [
        ("invalid_json_line", 2, None),
        ("model_not_found", 3, "body.model"),
        ("url_mismatch", 4, "url"),
    ]


async def test_a_model_that_cannot_do_it_fails_the_batch(bench):
    url = "/v1/embeddings"
    file = await bench.kept(line(1, {"model": "echo", "input": "x"}, url=url))
    batch = await bench.ended(await bench.create(file["id"], endpoint=url))
    (problem,) = batch["errors"]["data"]
    assert (problem["code"], problem["line"]) == ("invalid_request", 1)
    assert "its task is translate" in problem["message"]


WRONG_BATCHES = {
    "another endpoint": ({"endpoint": "/v1/files"}, 422, "endpoint"),
    "another window": ({"completion_window": "1h"}, 422, "completion_window"),
    "much metadata": ({"metadata": {str(n): "" for n in range(17)}}, 422, "metadata"),
    "long metadata": ({"metadata": {"a": "x" * 513}}, 422, "metadata"),
    "metadata that is no text": ({"metadata": {"a": 1}}, 422, "metadata.a"),
    "no file": ({"input_file_id": "file-" + "0" * 32}, 404, "You have no such file"),
    "a path as file": ({"input_file_id": "../x"}, 404, "You have no such file"),
    "a long life": (
        {"output_expires_after": {"anchor": "created_at", "seconds": 2_592_001}},
        422,
        "output_expires_after.seconds",
    ),
}


@pytest.mark.parametrize(("changes", "status", "named"), WRONG_BATCHES.values(), ids=WRONG_BATCHES)
async def test_batches_that_are_wrong_are_refused(bench, changes, status, named):
    file = await bench.kept(line(1))
    answer = await bench.create(**{"input_file_id": file["id"], **changes})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"].startswith(named)


async def test_outputs_are_no_inputs_and_ended_batches_stay(bench):
    file = await bench.kept(line(1))
    expiry = {"anchor": "created_at", "seconds": 4000}
    batch = await bench.ended(await bench.create(file["id"], output_expires_after=expiry))
    output = (await bench.client.get(f"/v1/files/{batch['output_file_id']}")).json()
    assert output["expires_at"] - output["created_at"] == 4000
    assert (await bench.create(output["id"])).status_code == 422
    answer = await bench.client.post(f"/v1/batches/{batch['id']}/cancel")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "batch_not_cancellable")
    for method, path in (("GET", ""), ("POST", "/cancel")):
        for name in ("batch_x", "batch_" + "0" * 32):
            answer = await bench.client.request(method, f"/v1/batches/{name}{path}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "batch_not_found")
