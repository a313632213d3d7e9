"""The Open Inference Protocol over gRPC, on a port of its own: `inference.GRPCInferenceService`.

A call's deadline is the request's, and a call that is cancelled withdraws its inputs. Imported only
where GRPC_PORT is set.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote

import grpc
import grpc.aio
import structlog

from app.api import open_inference_pb2 as messages
from app.api.access import METHODS, Open
from app.api.authentication import API_KEY, AUTHORIZATION, bearer_of
from app.api.deps import (
    CALLER_HEADER,
    PRIORITY_HEADER,
    AppServices,
    asker_from,
    note_order,
    open_inference_of,
)
from app.api.errors import InternalError, headers_of, shown_to_caller, status_of
from app.api.middleware import request_id_from
from app.api.open_inference import ControlOrder
from app.api.open_inference_messages import call_of, response_of, value_of
from app.api.server import tls_context
from app.core.config import Settings
from app.core.errors import ConfigurationError, Overloaded, ServingError
from app.core.tensor_bytes import MAX_OUTPUT_BYTES
from app.core.types import Asker, Failed
from app.keys.audit import Actor
from app.keys.gate import Caller
from app.keys.limits import KeyMeter
from app.services.open_inference import EXTENSIONS, OpenInference, version_to_control
from app.services.visible_models import check_model

log = structlog.get_logger("app.api")

ANYBODY = Caller(frozenset())  # of methods that are open to all
SERVICE = "inference.GRPCInferenceService"
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class Context(Protocol):
    """What is asked of a call; `grpc.aio.ServicerContext` has it."""

    def time_remaining(self) -> float | None: ...

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]] | None: ...

    def peer(self) -> str: ...

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str]]) -> None: ...

    async def abort(self, code: grpc.StatusCode, details: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One call of somebody who is known. protocol: of his models."""

    context: Context
    caller: Caller
    protocol: OpenInference
    meter: KeyMeter | None = None


Method = Callable[[Any, Call], Awaitable[Any]]


def code_of(error: ServingError) -> grpc.StatusCode:
    """The same table of errors, in this protocol's words."""
    return _CODES.get(status_of(error), grpc.StatusCode.INTERNAL)


class Servicer:
    """The protocol's methods; every one answers with its response or raises a ServingError."""

    def __init__(self, services: AppServices, settings: Settings, name: str, version: str) -> None:
        self._services = services
        self._settings = settings
        self._name, self._version = name, version
        self._held_bytes = 0

    def handlers(self) -> dict[str, Any]:
        """For the server, each with what reads and writes its messages."""
        return {
            method.__name__: grpc.unary_unary_rpc_method_handler(
                self._guarded(method),
                request_deserializer=getattr(messages, f"{method.__name__}Request").FromString,
                response_serializer=getattr(
                    messages, f"{method.__name__}Response"
                ).SerializeToString,
            )
            for method in (
                self.ServerLive,
                self.ServerReady,
                self.ModelReady,
                self.ServerMetadata,
                self.ModelMetadata,
                self.ModelInfer,
                self.RepositoryIndex,
                self.RepositoryModelLoad,
                self.RepositoryModelUnload,
            )
        }

    async def ServerLive(self, request: Any, call: Call) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, call: Call) -> Any:
        return messages.ServerReadyResponse(ready=self._services.models.readiness().ready)

    async def ModelReady(self, request: Any, call: Call) -> Any:
        ready = call.protocol.is_ready(request.name, request.version)
        return messages.ModelReadyResponse(ready=ready)

    async def ServerMetadata(self, request: Any, call: Call) -> Any:
        return messages.ServerMetadataResponse(
            name=self._name, version=self._version, extensions=EXTENSIONS
        )

    async def ModelMetadata(self, request: Any, call: Call) -> Any:
        shown = call.protocol.metadata(request.name, request.version)
        return messages.ModelMetadataResponse(**shown)

    async def ModelInfer(self, request: Any, call: Call) -> Any:
        size = request.ByteSize()
        limit = self._settings.max_held_body_bytes
        if self._held_bytes + size > limit:
            raise Overloaded(
                f"All calls together hold {limit} bytes (MAX_HELD_BODY_BYTES); try later.",
                retry_after_s=1.0,
            )
        self._held_bytes += size
        try:
            asked = call_of(request, self._settings.max_tensor_values)
            asker, timeout_ms = _asker(call), _timeout_ms(call.context)
            reply = await call.protocol.infer(asked, timeout_ms=timeout_ms, asker=asker)
        finally:
            self._held_bytes -= size
        if isinstance(reply, Failed):
            return reply
        return response_of(reply, request.id)

    async def RepositoryIndex(self, request: Any, call: Call) -> Any:
        return messages.RepositoryIndexResponse(models=call.protocol.index(request.ready))

    async def RepositoryModelLoad(self, request: Any, call: Call) -> Any:
        await self._control("model.load", self._services.control.load, request, call)
        return messages.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, call: Call) -> Any:
        await self._control("model.unload", self._services.control.unload, request, call)
        return messages.RepositoryModelUnloadResponse()

    async def _control(self, act: str, carry_out: ControlOrder, request: Any, call: Call) -> None:
        self._services.control.check_allowed()
        given = {name: value_of(value) for name, value in request.parameters.items()}
        version = version_to_control(given)
        check_model(call.caller.models, request.model_name)
        actor = Actor(f"key:{call.caller.name}", _request_id(call.context))
        await note_order(self._services.keys, actor, act, request.model_name, version)
        await carry_out(request.model_name, version, _timeout_ms(call.context))

    def _guarded(self, method: Method) -> Callable[[Any, Context], Awaitable[Any]]:
        """One line in the log per call, and every failure with a code."""

        async def handle(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            structlog.contextvars.clear_contextvars()
            structlog.contextvars.bind_contextvars(request_id=_request_id(context))
            code = grpc.StatusCode.CANCELLED
            try:
                answer = await self._answer(method, request, context)
                code = grpc.StatusCode.OK
                if isinstance(answer, Failed):
                    error = shown_to_caller(answer.error)
                    code = code_of(error)
                    await _refuse(context, code, error)
                return answer
            finally:
                log.info(
                    "rpc",
                    method=method.__name__,
                    code=code.name,
                    duration_ms=round(1000 * (time.perf_counter() - started), 3),
                )

        return handle

    async def _answer(self, method: Method, request: Any, context: Context) -> Any:
        """Failed where the method raised, counted here because no service has."""
        try:
            call = await self._admitted(method.__name__, context)
            try:
                return await method(request, call)
            finally:
                if call.meter is not None:
                    call.meter.end()
        except ServingError as error:
            refused = error
        except Exception as error:
            log.error("request_failed", exc_info=error)
            refused = InternalError()
        self._services.metrics.observe_rejected(refused.code)
        return Failed(refused)

    async def _admitted(self, method: str, context: Context) -> Call:
        """Raises Unauthenticated, Forbidden, RateLimited, QuotaExceeded."""
        access, caller, meter = METHODS.get(method, Open.TO_CALLERS), ANYBODY, None
        if access is not Open.TO_ALL:
            caller = await self._services.gate.identify(_credentials(context))
            if caller.key is not None:
                structlog.contextvars.bind_contextvars(key=caller.name)
            if not isinstance(access, Open):
                caller.check(access)
                meter = await self._services.gate.enter(caller, access)
        protocol = open_inference_of(self._services, self._settings, caller)
        return Call(context, caller, protocol, meter)


async def _refuse(context: Context, code: grpc.StatusCode, error: ServingError) -> None:
    context.set_trailing_metadata(
        [(name.lower(), value) for name, value in headers_of(error).items()]
    )
    await context.abort(code, str(error))


def _metadata(context: Context, name: str) -> list[str]:
    return [str(value) for key, value in context.invocation_metadata() or () if key == name.lower()]


def _request_id(context: Context) -> str:
    given = _metadata(context, "X-Request-ID")
    return request_id_from({"x-request-id": given[0]} if given else {})


def _timeout_ms(context: Context) -> float | None:
    left_s = context.time_remaining()
    return None if left_s is None else max(1.0, 1000 * left_s)


def _credentials(context: Context) -> list[str]:
    bearers = [bearer_of(value) for value in _metadata(context, AUTHORIZATION)]
    return bearers + _metadata(context, API_KEY)


def _asker(call: Call) -> Asker:
    """As over HTTP, by metadata of the same names."""
    context = call.context
    peer = unquote(context.peer()).removeprefix("ipv4:").removeprefix("ipv6:")
    host = peer.rpartition(":")[0].strip("[]")
    priorities, callers = _metadata(context, PRIORITY_HEADER), _metadata(context, CALLER_HEADER)
    return call.caller.asks(asker_from(priorities, callers, host))


class GrpcServer:
    """Bound when it is made, so that a port that is taken is told before anything is loaded."""

    def __init__(self, services: AppServices, settings: Settings, name: str, version: str) -> None:
        """Raises ConfigurationError. Needs the running loop."""
        self._grace_s = settings.shutdown_grace_s
        self._stopping: asyncio.Task[None] | None = None
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=settings.max_connections,
            options=[
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                ("grpc.max_send_message_length", MAX_OUTPUT_BYTES + 2**20),
                ("grpc.max_metadata_size", settings.max_header_bytes),
                ("grpc.keepalive_time_ms", round(500 * settings.client_silence_s)),
                ("grpc.keepalive_timeout_ms", round(500 * settings.client_silence_s)),
                ("grpc.so_reuseport", 0),
            ],
        )
        servicer = Servicer(services, settings, name, version)
        handler = grpc.method_handlers_generic_handler(SERVICE, servicer.handlers())
        self._server.add_generic_rpc_handlers((handler,))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            self.port = self._bound(f"{host}:{settings.grpc_port}", settings)
        except RuntimeError:
            raise ConfigurationError(
                f"cannot listen on {host}:{settings.grpc_port}; stop the other server or choose "
                "another GRPC_PORT"
            ) from None

    def _bound(self, address: str, settings: Settings) -> int:
        """The port; with TLS where HTTP has it. Raises ConfigurationError for wrong files."""
        cert_file, key_file = settings.tls_cert_file, settings.tls_key_file
        if cert_file is None or key_file is None:
            return int(self._server.add_insecure_port(address))
        tls_context(cert_file, key_file)  # which says what is wrong; gRPC says it on stderr
        pair = (key_file.read_bytes(), cert_file.read_bytes())
        return int(self._server.add_secure_port(address, grpc.ssl_server_credentials([pair])))

    async def start(self) -> None:
        await self._server.start()
        log.info("grpc_listening", port=self.port)

    def begin_stop(self) -> None:
        """Take no new call; what was taken may end within SHUTDOWN_GRACE_S."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._server.stop(self._grace_s))

    async def stop(self) -> None:
        """Returns when every call has ended."""
        self.begin_stop()
        if self._stopping is not None:
            await self._stopping
