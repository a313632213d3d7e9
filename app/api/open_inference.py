"""The Open Inference Protocol under /v2: health, metadata, inference, the repository's index."""

from collections.abc import Awaitable, Callable
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import (
    actor_of,
    asker_of,
    caller_of,
    note,
    note_order,
    open_inference_of,
    services_of,
    settings_of,
    timeout_ms_of,
)
from app.api.dialect_route import (
    ANY_METHOD,
    AlreadyCounted,
    DialectRoute,
    nothing_here,
)
from app.api.disconnect import run_unless_gone
from app.api.documented import documented_v2
from app.api.envelope import JsonResponse
from app.api.errors import headers_of, shown_to_caller, status_of
from app.api.open_inference_body import check_wanted, read_call, read_small_json, written
from app.core.errors import InvalidRequest, ServingError
from app.core.types import Failed
from app.schemas.open_inference import (
    V2ControlBody,
    V2IndexBody,
    V2IndexEntry,
    V2InferAnswer,
    V2InferBody,
    V2Live,
    V2Model,
    V2Ready,
    V2Server,
    parse,
)
from app.services.open_inference import EXTENSIONS, OpenInference, version_to_control
from app.services.visible_models import check_model

BODIES = (V2InferBody, V2IndexBody, V2ControlBody)
ControlOrder = Callable[[str, str | None, float | None], Awaitable[None]]
_MODEL = "/v2/models/{model_name}"
_VERSION = f"{_MODEL}/versions/{{model_version}}"
_REPOSITORY = "/v2/repository/models/{model_name}"


class ProtocolRoute(DialectRoute):
    """What is wrong with a request is 400 in this protocol."""

    @staticmethod
    def refusal(request: Request, error: ServingError) -> Response:
        error = shown_to_caller(error)
        status = 400 if isinstance(error, InvalidRequest) else status_of(error)
        return JsonResponse({"error": str(error)}, status, headers_of(error))


router = APIRouter(tags=["open inference protocol"], route_class=ProtocolRoute)


def _protocol(request: Request) -> OpenInference:
    return open_inference_of(services_of(request), settings_of(request), caller_of(request))


def _asked(request: Request) -> tuple[str, str]:
    """Model and version of the path; no version: the model's default."""
    return request.path_params["model_name"], request.path_params.get("model_version", "")


@router.get("/v2", **documented_v2(V2Server))
async def v2_server(request: Request) -> Response:
    """The server's name, version and extensions of the protocol."""
    return JsonResponse(
        {
            "name": request.app.state.name,
            "version": request.app.version,
            "extensions": EXTENSIONS,
        }
    )


@router.get("/v2/health/live", **documented_v2(V2Live, is_probe=True))
async def v2_live(request: Request) -> Response:
    """Whether the server answers at all."""
    return JsonResponse({"live": True})


@router.get("/v2/health/ready", **documented_v2(V2Ready, unready=V2Ready, is_probe=True))
async def v2_ready(request: Request) -> Response:
    """Whether every version serves or has been given up; as `/health/ready`."""
    ready = services_of(request).models.readiness().ready
    return JsonResponse({"ready": ready}, 200 if ready else 503)


@router.get(_MODEL, **documented_v2(V2Model, failures=(404, 503)))
async def v2_model(request: Request) -> Response:
    """Names, types and shapes of what a model takes and gives."""
    return JsonResponse(_protocol(request).metadata(*_asked(request)))


@router.get(_VERSION, **documented_v2(V2Model, failures=(404, 503)))
async def v2_model_version(request: Request) -> Response:
    """The same of one version."""
    return JsonResponse(_protocol(request).metadata(*_asked(request)))


@router.get(f"{_MODEL}/ready", **documented_v2(V2Ready, failures=(404,), unready=V2Ready))
async def v2_model_ready(request: Request) -> Response:
    """Whether the model's default version takes requests."""
    return _readiness(request)


@router.get(f"{_VERSION}/ready", **documented_v2(V2Ready, failures=(404,), unready=V2Ready))
async def v2_model_version_ready(request: Request) -> Response:
    """Whether the version takes requests."""
    return _readiness(request)


def _readiness(request: Request) -> Response:
    name, version = _asked(request)
    ready = _protocol(request).is_ready(name, version)
    return JsonResponse({"name": name, "ready": ready}, 200 if ready else 503)


@router.post(f"{_MODEL}/infer", **documented_v2(V2InferAnswer, body=V2InferBody))
async def v2_infer(request: Request) -> Response:
    """Infer named tensors with a model's default version.

    Text models take `text`, BYTES [n] or [n, 1]; what each gives is in its metadata. With the
    binary tensor data extension raw bytes follow the JSON, in requests and answers.
    """
    return await _infer(request)


@router.post(f"{_VERSION}/infer", **documented_v2(V2InferAnswer, body=V2InferBody))
async def v2_infer_version(request: Request) -> Response:
    """Infer named tensors with one version."""
    return await _infer(request)


async def _infer(request: Request) -> Response:
    timeout_ms, asker = timeout_ms_of(request), asker_of(request)
    call, parsed = await read_call(request, settings_of(request), *_asked(request))
    check_wanted(parsed)
    work = _protocol(request).infer(call, timeout_ms=timeout_ms, asker=asker)
    reply = await run_unless_gone(request, work)
    if isinstance(reply, Failed):
        note(request, model_used=call.model)
        raise AlreadyCounted(reply.error)
    note(request, model_used=f"{reply.model}:{reply.version}")
    return written(reply, parsed)


@router.post("/v2/repository/index", **documented_v2(list[V2IndexEntry], body=V2IndexBody))
async def v2_index(request: Request) -> Response:
    """Every version and its state: READY, LOADING, UNLOADING or UNAVAILABLE."""
    given = await read_small_json(request, settings_of(request).max_body_bytes)
    wanted = parse(V2IndexBody, given)
    return JsonResponse(_protocol(request).index(wanted.ready))


@router.post(
    f"{_REPOSITORY}/load",
    **documented_v2(list[V2IndexEntry], body=V2ControlBody, failures=(403, 409)),
)
async def v2_load(request: Request) -> Response:
    """Load a model, or one version; where MODEL_CONTROL allows it.

    Answers when it is ready, or tells why it is not; the model's part of the index.
    """
    return await _control(request, "model.load", services_of(request).control.load)


@router.post(
    f"{_REPOSITORY}/unload",
    **documented_v2(list[V2IndexEntry], body=V2ControlBody, failures=(403, 409)),
)
async def v2_unload(request: Request) -> Response:
    """Unload a model, or one version; where MODEL_CONTROL allows it.

    Nothing new is taken, what was accepted is answered, and then its memory is given back.
    """
    return await _control(request, "model.unload", services_of(request).control.unload)


async def _control(request: Request, act: str, carry_out: ControlOrder) -> Response:
    services_of(request).control.check_allowed()
    timeout_ms, name = timeout_ms_of(request), request.path_params["model_name"]
    check_model(caller_of(request).models, name)
    given = await read_small_json(request, settings_of(request).max_body_bytes)
    version = version_to_control(parse(V2ControlBody, given).parameters)
    await note_order(services_of(request).keys, actor_of(request), act, name, version)
    await run_unless_gone(request, carry_out(name, version, timeout_ms))
    return JsonResponse(_protocol(request).index(model=name))


@router.api_route("/v2/{rest:path}", methods=ANY_METHOD, include_in_schema=False)
async def v2_nowhere(request: Request) -> Response:
    """What is at no other path of the protocol fails in its shape, too."""
    nothing_here(request, [router])
