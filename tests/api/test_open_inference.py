"""The Open Inference Protocol over REST: its shapes, its binary extension, its failures."""

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from app.core.errors import (
    DeadlineExceeded,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
    ServingError,
    Superseded,
)
from app.core.parameters import Parameter
from app.core.types import Answer, Asker, Done, Priority, Timings, Usage
from app.schemas.open_inference import V2Error, V2InferAnswer, V2Model, V2Server
from app.services.inference_service import InferenceRequest, InferenceResult
from app.services.model_service import Readiness
from tests.api.serving import (
    ECHO,
    EchoService,
    FailsEach,
    FixedModels,
    RaisesInInfer,
    Running,
    TakesOrders,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

INFER = "/v2/models/echo/infer"
JSON_LENGTH = "Inference-Header-Content-Length"
SIGNATURE = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
}
TENSORS = replace(ECHO, name="graph", task="tensors", takes="inputs", signature=SIGNATURE)


class AnswersWith(EchoService):
    """Every text gets the same value and metadata."""

    def __init__(self, value: Any, **metadata: Any) -> None:
        super().__init__()
        self._value, self._metadata = value, metadata

    def _echo(self, request: InferenceRequest) -> InferenceResult:
        answer = Answer(self._value, self._metadata, Usage(3, 1))
        return InferenceResult(Done(answer, Timings()), "echo:v1", "echo", 1.0)


@pytest.fixture(autouse=True)
def models(running: Running) -> FixedModels:
    running.services.models = FixedModels(Readiness(True, True, False, {}, True, ()))
    running.services.models.versions = [ECHO, TENSORS]
    return running.services.models


def text(*texts: str, **more: Any) -> dict[str, Any]:
    return {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts), **more}


async def infer(client: httpx.AsyncClient, *inputs: dict[str, Any], **more: Any) -> httpx.Response:
    return await client.post(INFER, json={"inputs": list(inputs), **more})


def framed(head: Mapping[str, Any], *behind: bytes) -> dict[str, Any]:
    encoded = json.dumps(head).encode()
    return {"content": encoded + b"".join(behind), "headers": {JSON_LENGTH: str(len(encoded))}}


def taken_apart(response: httpx.Response) -> tuple[dict[str, Any], bytes]:
    length = int(response.headers[JSON_LENGTH])
    return json.loads(response.content[:length]), response.content[length:]


def by_name(answer: dict[str, Any]) -> dict[str, Any]:
    return {output["name"]: output for output in answer["outputs"]}


def strings(*texts: str) -> bytes:
    encoded = [each.encode() for each in texts]
    return b"".join(struct.pack("<I", len(each)) + each for each in encoded)


async def test_server_says_who_it_is_and_that_it_lives(client: httpx.AsyncClient):
    V2Server.model_validate_json((await client.get("/v2")).content)
    assert (await client.get("/v2/health/live")).json() == {"live": True}
    assert (await client.get("/v2/health/ready")).json() == {"ready": True}


async def test_server_that_is_not_ready_says_503(client: httpx.AsyncClient, models: FixedModels):
    models.now = Readiness(False, True, False, {}, False, ())
    answer = await client.get("/v2/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"ready": False})


async def test_metadata_of_text_and_tensor_models(client: httpx.AsyncClient):
    for path in ("/v2/models/echo", "/v2/models/echo/versions/v1"):
        shown = V2Model.model_validate_json((await client.get(path)).content)
        assert [tensor.name for tensor in shown.inputs] == ["text"]
        assert [t.name for t in shown.outputs] == ["text", "input_tokens", "output_tokens"]
    shown = V2Model.model_validate_json((await client.get("/v2/models/graph")).content)
    assert (shown.inputs[0].name, shown.inputs[0].shape) == ("x", [-1, 2])


async def test_metadata_of_tensors_waits_for_the_graph(
    client: httpx.AsyncClient, models: FixedModels
):
    models.versions = [replace(TENSORS, signature={}, state="loading", reason="reading")]
    answer = await client.get("/v2/models/graph")
    assert (answer.status_code, answer.json()) == (503, {"error": "graph:v1 is loading: reading"})
    assert answer.headers["retry-after"] == "2"
    ready = await client.get("/v2/models/graph/ready")
    assert (ready.status_code, ready.json()) == (503, {"name": "graph", "ready": False})


async def test_texts_go_in_and_out_as_named_tensors(running: Running, client: httpx.AsyncClient):
    response = await infer(client, text("one", "two words"), id="mine")
    V2InferAnswer.model_validate_json(response.content)
    assert response.json() == {
        "id": "mine",
        "model_name": "echo",
        "model_version": "v1",
        "outputs": [
            {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["one", "two words"]},
            {"name": "input_tokens", "datatype": "INT64", "shape": [2], "data": [1, 2]},
            {"name": "output_tokens", "datatype": "INT64", "shape": [2], "data": [1, 2]},
        ],
    }
    assert [r.version for r in running.services.inference.requests] == ["v1", "v1"]


async def test_a_column_of_texts_gives_columns(client: httpx.AsyncClient):
    answer = (await infer(client, text("a", "b", shape=[2, 1], data=[["a"], ["b"]]))).json()
    assert [output["shape"] for output in answer["outputs"]] == [[2, 1]] * 3


async def test_only_the_outputs_that_are_named_come_in_their_order(client: httpx.AsyncClient):
    wanted = [{"name": "input_tokens"}, {"name": "text"}]
    answer = (await infer(client, text("a"), outputs=wanted)).json()
    assert [output["name"] for output in answer["outputs"]] == ["input_tokens", "text"]


@pytest.mark.parametrize(
    ("task", "service", "expected"),
    [
        (
            "classify",
            AnswersWith("good", confidence=0.75, scores={"bad": 0.25, "good": 0.75}),
            {"label": ["good"], "score": [0.75], "labels": ["bad", "good"], "scores": [0.25, 0.75]},
        ),
        ("embed", AnswersWith([0.5, -1.0]), {"embedding": [0.5, -1.0]}),
        ("summarize", AnswersWith("short"), {"text": ["short"]}),
        (
            "generate",
            AnswersWith(["a", "b"], finish_reason=["stop", "length"], seed=7),
            {"text": ["a", "b"], "finish_reason": ["stop", "length"], "seed": [7]},
        ),
        (
            "rerank",
            AnswersWith([{"index": 1, "score": 0.5}, {"index": 0, "score": 0.25}]),
            {"index": [1, 0], "score": [0.5, 0.25]},
        ),
        ("of the future", AnswersWith({"a": 1}), {"result": ['{"a":1}']}),
    ],
)
async def test_each_task_has_outputs_of_its_own(
    running: Running,
    client: httpx.AsyncClient,
    models: FixedModels,
    task: str,
    service: EchoService,
    expected: dict[str, Any],
):
    models.versions = [replace(ECHO, task=task)]
    running.services.inference = service
    outputs = by_name((await infer(client, text("a"))).json())
    del outputs["input_tokens"], outputs["output_tokens"]
    assert {name: output["data"] for name, output in outputs.items()} == expected
    shown = (await client.get("/v2/models/echo")).json()["outputs"]
    for each in shown[:-2]:
        assert outputs[each["name"]]["datatype"] == each["datatype"]
    for name in {"labels", "scores", "embedding"} & set(outputs):
        assert outputs[name]["shape"] == [1, 2]


async def test_documents_to_rank_are_a_tensor_of_their_own(
    running: Running, client: httpx.AsyncClient, models: FixedModels
):
    models.versions = [replace(ECHO, task="rerank")]
    running.services.inference = AnswersWith([{"index": 0, "score": 1.0}])
    await infer(client, text("q"), {**text("a", "b"), "name": "documents"})
    assert running.services.inference.requests[0].parameters == {"documents": ["a", "b"]}
    refused = await infer(client, text("q", "p"))
    assert refused.json() == {"error": "inputs.text has 2 texts, at most 1 are taken"}


async def test_raw_bytes_go_behind_the_json_both_ways(client: httpx.AsyncClient):
    raw = strings("é", "two")
    head = {
        "inputs": [
            {
                "name": "text",
                "datatype": "BYTES",
                "shape": [2],
                "parameters": {"binary_data_size": len(raw)},
            }
        ],
        "outputs": [
            {"name": "input_tokens"},
            {"name": "text", "parameters": {"binary_data": True}},
        ],
    }
    answer, behind = taken_apart(await client.post(INFER, **framed(head, raw)))
    assert answer["outputs"] == [
        {"name": "input_tokens", "datatype": "INT64", "shape": [2], "data": [1, 1]},
        {
            "name": "text",
            "datatype": "BYTES",
            "shape": [2],
            "parameters": {"binary_data_size": len(raw)},
        },
    ]
    assert behind == raw


async def test_all_outputs_may_be_asked_for_as_bytes(client: httpx.AsyncClient):
    response = await infer(client, text("a"), parameters={"binary_data_output": True})
    answer, behind = taken_apart(response)
    assert [o["parameters"]["binary_data_size"] for o in answer["outputs"]] == [5, 8, 8]
    assert behind == strings("a") + struct.pack("<qq", 1, 1)


async def test_tensors_reach_the_model_as_they_came(running: Running, client: httpx.AsyncClient):
    running.services.inference = AnswersWith(
        {"y": {"datatype": "FP32", "shape": [1, 2], "data": np.array([1, 2], "<f4").tobytes()}}
    )
    raw = np.array([[3, 4]], "<f4").tobytes()
    x = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    head = {"inputs": [x], "outputs": [{"name": "y"}]}
    answer = (await client.post("/v2/models/graph/infer", **framed(head, raw))).json()
    assert answer["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
    ]
    (request,) = running.services.inference.requests
    assert request.inputs == {"x": {"datatype": "FP32", "shape": [1, 2], "data": raw}}
    assert request.parameters == {"outputs": ["y"], "binary": True}


async def test_nan_can_be_given_as_bytes_and_not_as_json(
    running: Running, client: httpx.AsyncClient
):
    raw = np.array([np.nan], "<f4").tobytes()
    running.services.inference = AnswersWith({"y": {"datatype": "FP32", "shape": [1], "data": raw}})
    x = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    body: dict[str, Any] = {"inputs": [x]}
    refused = await client.post("/v2/models/graph/infer", json=body)
    assert (refused.status_code, "NaN" in refused.json()["error"]) == (400, True)
    body["parameters"] = {"binary_data_output": True}
    _, behind = taken_apart(await client.post("/v2/models/graph/infer", json=body))
    assert behind == raw


async def test_values_in_json_are_counted_and_raw_numbers_are_not(client: httpx.AsyncClient):
    many = {"name": "x", "datatype": "FP32", "shape": [1, 300_000], "data": [1.0]}
    refused = await client.post("/v2/models/graph/infer", json={"inputs": [many]})
    assert refused.json()["error"].startswith("the inputs have 300000 values, at most 200000")


async def test_time_and_urgency_come_as_parameters_or_headers(
    running: Running, client: httpx.AsyncClient
):
    body = {"inputs": [text("a")], "parameters": {"timeout": 2_500_000, "priority": 1}}
    await client.post(INFER, json=body, headers={"X-Request-Timeout-Ms": "4000"})
    body["parameters"] = {"priority": "batch"}
    await client.post(INFER, json=body, headers={"X-Caller-Id": "me"})
    assert running.services.inference.timeouts_ms == [2500, None]
    first, second = running.services.inference.askers
    assert first.priority is Priority.INTERACTIVE
    assert second == Asker("me", Priority.BATCH)


async def test_parameters_of_the_task_are_single_values(
    running: Running, client: httpx.AsyncClient, models: FixedModels
):
    declared = (Parameter("stop", "strings", (), ""), Parameter("temperature", "number", 1.0, ""))
    models.versions = [replace(ECHO, parameters=declared)]
    await infer(client, text("a"), parameters={"stop": ".", "temperature": "0.5", "n": 1})
    assert running.services.inference.requests[0].parameters == {
        "stop": ["."],
        "temperature": 0.5,
        "n": 1,
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "inputs is missing."),
        ({"inputs": []}, "inputs List should have at least 1 item"),
        ({"inputs": [text("a")], "x": 1}, "x is unknown"),
        ({"inputs": [text("a"), text("b")]}, "inputs has a name twice"),
        ({"inputs": [{**text("a"), "name": "z"}]}, "inputs.z is unknown; the model takes: text"),
        ({"inputs": [text("a", datatype="FP32")]}, "inputs.text.datatype is 'FP32'"),
        ({"inputs": [text("a", shape=[2])]}, "inputs.text.shape is [2], data has 1 texts"),
        ({"inputs": [text("a", shape=[1, 1, 1])]}, "inputs.text.shape is [1, 1, 1], the model"),
        ({"inputs": [text("a", shape=[2**62] * 2)]}, "inputs.text.shape is [46116860"),
        ({"inputs": [text("a", shape=[1] * 40)]}, "inputs.text.shape has 40 dimensions"),
        ({"inputs": [text("a", shape=[-1])]}, "inputs.text.shape must be a list of integers"),
        ({"inputs": [text("a", shape=[2**40])]}, "inputs.text has 1099511627776 texts, at most"),
        ({"inputs": [text(1)]}, "inputs.text.data must be strings"),  # type: ignore[arg-type]
        ({"inputs": [text("a", "  ")]}, "inputs.text[1] is blank"),
        ({"inputs": [text("a\0")]}, "inputs.text[0] holds the character U+0000"),
        ({"inputs": [text("a", data=None)]}, "inputs.text has neither data nor binary_data_size"),
        ({"inputs": [text("a", parameters={"shared_memory_region": "r"})]}, "inputs.text.param"),
        ({"inputs": [text("a")], "outputs": [{"name": "z"}]}, "outputs.z is unknown; there are"),
        (
            {
                "inputs": [text("a")],
                "outputs": [{"name": "text", "parameters": {"classification": 2}}],
            },
            "outputs.text.parameters.classification is not supported",
        ),
        ({"inputs": [text("a")], "parameters": {"timeout": -1}}, "parameters.timeout must be"),
        ({"inputs": [text("a")], "parameters": {"priority": 9}}, "parameters.priority must be"),
        (
            {"inputs": [text("a")], "parameters": {"binary_data_output": 1}},
            "parameters.binary_data_output must be a boolean",
        ),
    ],
)
async def test_what_is_wrong_is_told_in_the_protocols_shape(
    client: httpx.AsyncClient, body: dict[str, Any], message: str
):
    response = await client.post(INFER, json=body)
    V2Error.model_validate_json(response.content)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert response.json()["error"].startswith(message)


@pytest.mark.parametrize(
    ("sizes", "behind", "message"),
    [
        ([5], b"", "0 bytes follow the JSON, and the inputs' binary_data_size add up to 5"),
        ([2**60], b"12345", "5 bytes follow the JSON"),
        ([-1], b"", "inputs.text.parameters.binary_data_size must be a number of bytes"),
        ([3], b"\1\0\0", "inputs.text has 3 bytes; the lengths of 1 strings alone take 4"),
        ([5], b"\2\0\0\0a", "inputs.text ends inside string 0 of 1"),
        ([5], b"\xff\xff\xff\xffa", "inputs.text ends inside string 0 of 1"),
        ([6], b"\1\0\0\0ab", "inputs.text has 1 bytes behind its 1 strings"),
        ([5], b"\1\0\0\0\xff", "inputs.text[0] is not UTF-8"),
    ],
)
async def test_hostile_sizes_of_raw_bytes_are_refused(
    client: httpx.AsyncClient, sizes: list[int], behind: bytes, message: str
):
    tensor = {
        "name": "text",
        "datatype": "BYTES",
        "shape": [1],
        "parameters": {"binary_data_size": sizes[0]},
    }
    response = await client.post(INFER, **framed({"inputs": [tensor]}, behind))
    assert response.status_code == 400
    assert response.json()["error"].startswith(message)


@pytest.mark.parametrize("length", ["-1", "1e3", "99999", "", "1, 2", "9" * 30])
async def test_a_wrong_length_of_the_json_is_refused(client: httpx.AsyncClient, length: str):
    response = await client.post(INFER, content=b"{}", headers={JSON_LENGTH: length})
    assert response.status_code == 400
    assert response.json()["error"].startswith(JSON_LENGTH)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"X-Priority": "now"}, 400),
        ({"X-Request-Timeout-Ms": "0"}, 400),
    ],
)
async def test_headers_that_are_wrong_fail_in_the_protocols_shape(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
):
    content = json.dumps({"inputs": [text("a")]})
    response = await client.post(INFER, content=content, headers=headers)
    assert (response.status_code, list(response.json())) == (status, ["error"])


@pytest.mark.parametrize(
    ("error", "status"), [(Overloaded("full"), 429), (ModelUnavailable("loading"), 503)]
)
async def test_failures_keep_their_statuses(
    running: Running, client: httpx.AsyncClient, error: ServingError, status: int
):
    running.services.inference = FailsEach(error)
    response = await infer(client, text("a"))
    assert (response.status_code, response.json()) == (status, {"error": str(error)})
    assert response.headers["retry-after"] == "1"
    assert running.services.metrics.rejected == []  # the service has counted it


async def test_faults_of_ours_tell_nothing(running: Running, client: httpx.AsyncClient):
    running.services.inference = RaisesInInfer(ValueError("secret"))
    response = await infer(client, text("a"))
    assert response.status_code == 500
    assert "secret" not in response.text and list(response.json()) == ["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/v2/models/missing", 404, None),
        ("GET", "/v2/models/echo/versions/v9", 404, None),
        ("GET", "/v2/models/echo/versions/v9/ready", 404, None),
        ("POST", "/v2/models/missing/infer", 404, None),
        ("GET", "/v2/nothing/here", 404, None),
        ("GET", INFER, 405, "POST"),
        ("DELETE", "/v2/models/echo", 405, "GET"),
    ],
)
async def test_every_path_below_v2_fails_in_the_protocols_shape(
    client: httpx.AsyncClient, method: str, path: str, status: int, allowed: str | None
):
    body = {"inputs": [text("a")]} if method == "POST" else None
    response = await client.request(method, path, json=body)
    assert (response.status_code, list(response.json())) == (status, ["error"])
    assert response.headers.get("allow") == allowed


async def test_index_lists_versions_and_their_states(
    client: httpx.AsyncClient, models: FixedModels
):
    models.versions = [ECHO, replace(TENSORS, state="failed", reason="no file")]
    everything = (await client.post("/v2/repository/index")).json()
    assert everything == [
        {"name": "echo", "version": "v1", "state": "READY", "reason": ""},
        {"name": "graph", "version": "v1", "state": "UNAVAILABLE", "reason": "no file"},
    ]
    models.versions = [replace(ECHO, state="unloaded"), replace(TENSORS, state="unloading")]
    states = [
        (row["state"], row["reason"]) for row in (await client.post("/v2/repository/index")).json()
    ]
    assert states == [("UNAVAILABLE", "unloaded"), ("UNLOADING", "")]
    models.versions = [ECHO]
    ready = await client.post("/v2/repository/index", json={"ready": True})
    assert ready.json() == everything[:1]


REPOSITORY = "/v2/repository/models/echo"


@pytest.fixture
def control(running: Running) -> TakesOrders:
    running.services.control = TakesOrders()
    return running.services.control


@pytest.mark.parametrize("order", ["load", "unload"])
async def test_orders_reach_the_service_and_answer_the_models_part_of_the_index(
    client: httpx.AsyncClient, control: TakesOrders, order: str
):
    path = f"{REPOSITORY}/{order}"
    headers = {"X-Request-Timeout-Ms": "1500"}
    whole = await client.post(path, headers=headers)
    one = await client.post(path, json={"parameters": {"version": "v1"}})
    as_clients_send_it = await client.post(path, json={"parameters": {"unload_dependents": False}})
    assert [answer.status_code for answer in (whole, one, as_clients_send_it)] == [200] * 3
    assert whole.json() == [{"name": "echo", "version": "v1", "state": "READY", "reason": ""}]
    assert control.orders == [
        (order, "echo", None, 1500.0),
        (order, "echo", "v1", None),
        (order, "echo", None, None),
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"parameters": {"config": "{}"}}, "parameters.config is not supported"),
        ({"parameters": {"file:1/model.onnx": "AA=="}}, "parameters.file:1/model.onnx is not"),
        ({"parameters": {"unload_dependents": True}}, "parameters.unload_dependents is not"),
        ({"parameters": {"version": 1}}, "parameters.version must be a version's name"),
        ({"parameters": {"version": ""}}, "parameters.version must be a version's name"),
        ({"version": "v1"}, "version is unknown"),
    ],
)
async def test_orders_that_ask_for_more_are_refused(
    client: httpx.AsyncClient, control: TakesOrders, body: dict[str, Any], message: str
):
    response = await client.post(f"{REPOSITORY}/load", json=body)
    assert response.status_code == 400
    assert message in response.json()["error"]
    assert control.orders == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ModelNotFound("no such model"), 404),
        (Superseded("loaded by a later order"), 409),
        (ModelUnavailable("has failed: no file"), 503),
        (DeadlineExceeded("it goes on"), 504),
    ],
)
async def test_orders_that_cannot_be_carried_out_say_why(
    client: httpx.AsyncClient, control: TakesOrders, error: ServingError, status: int
):
    control.error = error
    response = await client.post(f"{REPOSITORY}/load")
    assert (response.status_code, response.json()) == (status, {"error": str(error)})


async def test_orders_are_refused_where_they_are_not_allowed_whatever_they_say(
    client: httpx.AsyncClient, control: TakesOrders
):
    control.is_allowed = False
    for path in (f"{REPOSITORY}/load", "/v2/repository/models/missing/unload"):
        response = await client.post(path, content=b"nonsense")
        assert (response.status_code, list(response.json())) == (403, ["error"])
        assert "MODEL_CONTROL" in response.json()["error"]
    assert control.orders == []
