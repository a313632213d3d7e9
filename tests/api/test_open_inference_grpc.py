"""The Open Inference Protocol over gRPC, by a channel of its own library."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from app.core.errors import (
    ConfigurationError,
    DeadlineExceeded,
    InputTooLong,
    ModelUnavailable,
    Overloaded,
    ServingError,
    Superseded,
)
from app.core.parameters import Parameter
from app.core.types import Priority
from app.keys.gate import Gate
from app.keys.key import Scope
from tests.api.serving import (
    ECHO,
    EchoService,
    FailsEach,
    FakeServices,
    FixedModels,
    HangsInInfer,
    Keys,
    RaisesInInfer,
    gate_of,
    settings,
)

grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
from app.api import open_inference_pb2 as messages  # noqa: E402
from app.api.open_inference_grpc import SERVICE, GrpcServer  # noqa: E402
from app.api.open_inference_messages import call_of  # noqa: E402

pytestmark = pytest.mark.asyncio
DECLARED = (Parameter("stop", "strings", (), ""), Parameter("temperature", "number", 1.0, ""))


class Client:
    """Calls methods by name."""

    def __init__(self, channel: Any, services: FakeServices) -> None:
        self._channel = channel
        self.services = services

    def call(self, method: str, request: Any = None, **options: Any) -> Any:
        made = self._channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=getattr(messages, f"{method}Response").FromString,
        )
        return made(request or getattr(messages, f"{method}Request")(), timeout=10, **options)


@asynccontextmanager
async def serving(
    inference: EchoService | None = None, gate: Gate | None = None, **changes: Any
) -> AsyncIterator[Client]:
    services = FakeServices(inference or EchoService(), gate=gate or gate_of(Keys()))
    services.models = FixedModels(services.models.now)
    services.models.versions = [replace(ECHO, parameters=DECLARED)]
    server = GrpcServer(
        services, settings(host="127.0.0.1", grpc_port=0, **changes), "server", "0.1"
    )
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Client(channel, services)
    finally:
        await server.stop()


def infer(*texts: str, **more: Any) -> Any:
    tensor = messages.ModelInferRequest.InferInputTensor(
        name="text",
        datatype="BYTES",
        shape=[len(texts)],
        contents={"bytes_contents": [text.encode() for text in texts]},
    )
    return messages.ModelInferRequest(model_name="echo", inputs=[tensor], **more)


async def refused(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


async def test_health_and_metadata():
    async with serving() as client:
        assert (await client.call("ServerLive")).live
        assert (await client.call("ServerReady")).ready
        assert (await client.call("ModelReady", messages.ModelReadyRequest(name="echo"))).ready
        server = await client.call("ServerMetadata")
        assert (server.name, "binary_tensor_data" in server.extensions) == ("server", True)
        model = await client.call("ModelMetadata", messages.ModelMetadataRequest(name="echo"))
        assert (model.versions, model.inputs[0].name) == (["v1"], "text")
        assert list(model.inputs[0].shape) == [-1]
        (index,) = (await client.call("RepositoryIndex")).models
        assert (index.name, index.state) == ("echo", "READY")


async def test_a_key_is_asked_for_and_opens_the_methods_of_its_scopes():
    keys = Keys()
    secret = keys.add("app", Scope.INFER, max_priority=Priority.BATCH)
    elsewhere = keys.add("other", Scope.INFER, models=frozenset({"other"}))
    async with serving(gate=gate_of(keys)) as client:
        assert (await client.call("ServerLive")).live
        for metadata in ((), (("x-api-key", "wrong"),)):
            error = await refused(client.call("ModelInfer", infer("a"), metadata=metadata))
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        for name, value in (("x-api-key", secret), ("authorization", f"Bearer {secret}")):
            await client.call("ModelInfer", infer("a"), metadata=((name, value),))
        assert client.services.inference.askers[-1].key == "key_app"
        assert client.services.inference.askers[-1].priority is Priority.BATCH
        error = await refused(client.call("RepositoryIndex", metadata=(("x-api-key", secret),)))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        metadata = (("x-api-key", elsewhere),)
        error = await refused(client.call("ModelInfer", infer("a"), metadata=metadata))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED and "'echo'" in error.details()


async def test_typed_contents_and_raw_bytes_mean_the_same():
    async with serving() as client:
        typed = await client.call("ModelInfer", infer("é", "two words", id="mine"))
        raw = infer("x", "y")
        raw.inputs[0].ClearField("contents")
        raw.raw_input_contents.append(
            b"".join(struct.pack("<I", len(t)) + t for t in ("é".encode(), b"two words"))
        )
        by_bytes = await client.call("ModelInfer", raw)
        assert typed.id == "mine"
        assert typed.raw_output_contents == by_bytes.raw_output_contents
        assert [o.name for o in typed.outputs] == ["text", "input_tokens", "output_tokens"]
        assert typed.raw_output_contents[1] == struct.pack("<qq", 1, 2)


async def test_deadline_urgency_caller_and_parameters_reach_the_service():
    service = EchoService()
    async with serving(service) as client:
        parameters = {
            "stop": {"string_param": "."},
            "temperature": {"double_param": 0.5},
            "priority": {"uint64_param": 3},
        }
        metadata = [("x-caller-id", "me")]
        await client.call("ModelInfer", infer("a", parameters=parameters), metadata=metadata)
    (asker,) = service.askers
    assert (asker.caller, asker.priority) == ("me", Priority.BATCH)
    assert service.timeouts_ms[0] is not None and 5000 < service.timeouts_ms[0] < 11_000
    assert service.requests[0].parameters == {"stop": ["."], "temperature": 0.5}


async def test_a_call_that_is_cancelled_withdraws_its_work():
    service = HangsInInfer()
    async with serving(service) as client:
        call = client.call("ModelInfer", infer("a"))
        await service.began.wait()
        call.cancel()
        await asyncio.wait_for(service.cancelled.wait(), 10)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputTooLong("long"), "INVALID_ARGUMENT"),
        (Overloaded("full"), "RESOURCE_EXHAUSTED"),
        (ModelUnavailable("loading"), "UNAVAILABLE"),
        (DeadlineExceeded("late"), "DEADLINE_EXCEEDED"),
        (ConfigurationError("secret"), "INTERNAL"),
    ],
)
async def test_failures_have_codes(error: ServingError, code: str):
    async with serving(FailsEach(error)) as client:
        answer = await refused(client.call("ModelInfer", infer("a")))
    assert answer.code().name == code
    assert answer.details() == (str(error) if code != "INTERNAL" else answer.details())
    assert "secret" not in answer.details()
    if code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE"):
        assert dict(answer.trailing_metadata())["retry-after"] == "1"


async def test_faults_of_ours_tell_nothing():
    async with serving(RaisesInInfer(ValueError("secret"))) as client:
        answer = await refused(client.call("ModelInfer", infer("a")))
    assert (answer.code().name, "secret" in answer.details()) == ("INTERNAL", False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.raw_input_contents.extend([b"", b""]), "raw_input_contents has 2 entries"),
        (lambda r: r.inputs.append(r.inputs[0]), "inputs takes at most 64 tensors of different"),
        (
            lambda r: r.inputs[0].shape.append(2**62),
            "inputs.text.shape is [1, 4611686018427387904]",
        ),
        (lambda r: r.inputs[0].shape.extend([-1]), "inputs.text.shape must be"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP16"), "FP16 goes into raw_input_contents"),
        (lambda r: setattr(r.inputs[0], "name", "z"), "inputs.z is unknown"),
        (lambda r: r.outputs.add(name="z"), "outputs.z is unknown"),
        (
            lambda r: r.inputs[0].contents.bytes_contents.__setitem__(0, b"\xff"),
            "inputs.text.contents[0] is not UTF-8",
        ),
        (lambda r: r.parameters["priority"].MergeFrom(messages.InferParameter()), "priority must"),
    ],
)
async def test_hostile_requests_are_invalid_arguments(change: Any, words: str):
    request = infer("a")
    change(request)
    async with serving() as client:
        answer = await refused(client.call("ModelInfer", request))
    assert (answer.code().name, words in answer.details()) == ("INVALID_ARGUMENT", True), answer


async def test_messages_and_values_are_bounded():
    async with serving(max_body_bytes=1024, max_tensor_values=2) as client:
        many = await refused(client.call("ModelInfer", infer("a", "b", "c")))
        large = await refused(client.call("ModelInfer", infer("a" * 2000)))
    assert "at most 2 are taken (MAX_TENSOR_VALUES)" in many.details()
    assert large.code().name == "RESOURCE_EXHAUSTED"


async def test_unknown_models_are_not_found():
    async with serving() as client:
        missing = await refused(
            client.call("ModelReady", messages.ModelReadyRequest(name="missing"))
        )
    assert missing.code().name == "NOT_FOUND"


async def test_models_are_loaded_and_unloaded_where_that_is_allowed():
    load = messages.RepositoryModelLoadRequest(model_name="echo")
    unload = messages.RepositoryModelUnloadRequest(model_name="echo")
    unload.parameters["unload_dependents"].bool_param = False
    unload.parameters["version"].string_param = "v1"
    async with serving() as client:
        await client.call("RepositoryModelLoad", load)
        await client.call("RepositoryModelUnload", unload)
        load.parameters["file:1/model.onnx"].bytes_param = b"abc"
        more = await refused(client.call("RepositoryModelLoad", load))
        control = client.services.control
        assert [order[:3] for order in control.orders] == [
            ("load", "echo", None),
            ("unload", "echo", "v1"),
        ]
        assert all(0 < (order[3] or 0) < 11_000 for order in control.orders)
        control.error = Superseded("undone")
        undone = await refused(client.call("RepositoryModelUnload", unload))
        control.is_allowed = False
        forbidden = await refused(client.call("RepositoryModelUnload", unload))
    codes = [error.code().name for error in (more, undone, forbidden)]
    assert codes == ["INVALID_ARGUMENT", "ABORTED", "PERMISSION_DENIED"]


async def test_a_port_that_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        chosen = settings(host="127.0.0.1", grpc_port=port)
        with pytest.raises(ConfigurationError, match="another GRPC_PORT"):
            GrpcServer(FakeServices(), chosen, "server", "0.1")


@pytest.mark.parametrize(
    ("datatype", "contents", "expected"),
    [
        ("BOOL", {"bool_contents": [True, False]}, [True, False]),
        ("INT8", {"int_contents": [-1, 300]}, [-1, 300]),  # its range is the model's to check
        ("UINT64", {"uint64_contents": [2**64 - 1, 0]}, [2**64 - 1, 0]),
        ("FP32", {"fp32_contents": [0.5, float("inf")]}, struct.pack("<2f", 0.5, float("inf"))),
        ("FP64", {"fp64_contents": [0.1, 2.0]}, struct.pack("<2d", 0.1, 2.0)),
    ],
)
async def test_typed_numbers_become_values_or_exact_bytes(
    datatype: str, contents: Any, expected: Any
):
    request = messages.ModelInferRequest(model_name="graph")
    request.inputs.add(name="x", datatype=datatype, shape=[2], contents=contents)
    (tensor,) = call_of(request, 2).inputs
    assert (tensor.shape, tensor.data) == ((2,), expected)
