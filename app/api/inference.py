"""POST /infer and POST /infer/batch, told in the order in which things happen."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api import answers
from app.api.body import read_json
from app.api.deps import asker_of, note, request_id_of, services_of, settings_of, timeout_ms_of
from app.api.disconnect import run_unless_gone
from app.api.documented import documented
from app.api.documented_parameters import INFERENCE, ONCE_KEY
from app.api.documented_streams import Payloads
from app.api.envelope import JsonResponse, error_object, failure
from app.api.errors import error_response, shown_to_caller
from app.api.once import answered_once, once_of
from app.api.plain_route import PlainRoute
from app.api.sse import event, opened, sse_response
from app.core.config import Settings
from app.core.errors import (
    Cancelled,
    InvalidRequest,
    InvariantBroken,
    ModelUnavailable,
    ServingError,
)
from app.core.types import Asker, Failed, Piece
from app.schemas.request import BatchBody, InferBody, Limits, parse_batch, parse_infer
from app.schemas.response import (
    BatchAnswer,
    ErrorAnswer,
    InferAnswer,
    StreamDone,
    StreamPiece,
)
from app.services.inference_service import InferenceRequest, InferenceResult

_VALUES_PER_ENTRY = 1000  # five fields, and parameters with room to spare

STREAM: Payloads = {"piece": StreamPiece, "done": StreamDone, "error": ErrorAnswer}

router = APIRouter(tags=["inference"], route_class=PlainRoute)


@router.post(
    "/infer",
    **documented(InferAnswer, body=InferBody, streams=STREAM, parameters=[*INFERENCE, ONCE_KEY]),
)
async def infer(request: Request) -> Response:
    """Infer one text, or one set of tensors, with one model.

    Of a field that is given twice the last counts. When you close the connection the work is
    dropped. With `stream` the text comes in events `piece`, and last one event `done`, which is
    this answer without the text, or `error`.
    """
    timeout_ms, asker = timeout_ms_of(request), asker_of(request)
    settings = settings_of(request)
    value = await read_json(
        request,
        max_bytes=settings.max_body_bytes,
        max_values=_VALUES_PER_ENTRY + settings.max_tensor_values,
    )
    once = once_of(request, "/infer", asker, value)
    body = parse_infer(value, limits_of(settings))
    wanted = wanted_of(body)
    if body.stream and once is not None:
        raise InvalidRequest("stream does not go with Idempotency-Key: events are not kept")
    if body.stream:
        return await _stream(request, wanted, timeout_ms, asker)
    if once is not None:
        return await answered_once(
            request, once, lambda: _answer(request, wanted, timeout_ms, asker)
        )
    return await _answer(request, wanted, timeout_ms, asker)


async def _answer(
    request: Request, wanted: InferenceRequest, timeout_ms: float | None, asker: Asker
) -> Response:
    (result,) = await _infer(request, [wanted], timeout_ms, asker)
    note(request, model_used=result.model_used)
    if isinstance(result.outcome, Failed):
        return error_response(request, result.outcome.error)
    return JsonResponse(answers.success(result, result.outcome, request_id_of(request)))


@router.post("/infer/batch", **documented(BatchAnswer, body=BatchBody))
async def infer_batch(request: Request) -> Response:
    """Infer many texts, mixed over models as you like.

    The status is 200 whenever the batch as such could be read: each entry has its own `success`.
    Any other status means that no entry was inferred. Entry ids are the batch's request id, a
    dash and the entry's index, counted from 0.
    """
    started = time.perf_counter()
    timeout_ms, asker = timeout_ms_of(request), asker_of(request)
    settings = settings_of(request)
    max_values = _VALUES_PER_ENTRY + 100 * settings.max_request_items + settings.max_tensor_values
    value = await read_json(request, max_bytes=settings.max_body_bytes, max_values=max_values)
    limits = limits_of(settings)
    wanted, problems = sorted_out(parse_batch(value, limits), limits)
    results = await _infer(request, wanted, timeout_ms, asker) if wanted else ()
    latency_ms = 1000 * (time.perf_counter() - started)
    body = answers.batch(problems, results, request_id_of(request), latency_ms)
    note(request, entries=len(problems), failed=body["summary"]["failed"])
    return JsonResponse(body)


async def _stream(
    request: Request, wanted: InferenceRequest, timeout_ms: float | None, asker: Asker
) -> Response:
    work = services_of(request).inference.stream([wanted], timeout_ms=timeout_ms, asker=asker)
    try:
        pieces = await opened(request, work)
    except Cancelled:
        raise
    except ServingError as error:  # the service has counted it
        return error_response(request, error)
    stopping = ModelUnavailable("the server is stopping; ask another", retry_after_s=5.0)
    return sse_response(
        request, _events(request, pieces), parting=event(_told(request, stopping), "error")
    )


async def _events(
    request: Request, pieces: AsyncGenerator[Piece | InferenceResult, None]
) -> AsyncGenerator[bytes, None]:
    """Text that was told in pieces is not told again with the result."""
    told = False
    async with aclosing(pieces):
        try:
            async for each in pieces:
                if isinstance(each, Piece):
                    told = True
                    if each.text:
                        piece = {"text": each.text, "tokens": each.tokens, "index": each.index}
                        yield event(piece, "piece")
                else:
                    note(request, model_used=each.model_used)
                    yield _last(request, each, told=told)
        except ServingError as error:
            yield _error(request, error)


def _last(request: Request, result: InferenceResult, *, told: bool) -> bytes:
    if isinstance(result.outcome, Failed):
        return _error(request, result.outcome.error)
    answer = answers.success(result, result.outcome, request_id_of(request))
    if told:
        del answer["result"]
    return event(answer, "done")


def _error(request: Request, error: ServingError) -> bytes:
    note(request, error=error.code)
    return event(_told(request, error), "error")


def _told(request: Request, error: ServingError) -> dict[str, Any]:
    return failure(error_object(shown_to_caller(error)), request_id_of(request))


def limits_of(settings: Settings) -> Limits:
    return Limits(settings.max_text_chars, settings.max_request_items)


def wanted_of(body: InferBody) -> InferenceRequest:
    return InferenceRequest(
        body.text, body.model, body.version, body.parameters, body.inputs or None
    )


def sorted_out(
    entries: Sequence[Any], limits: Limits
) -> tuple[list[InferenceRequest], list[InvalidRequest | None]]:
    """What can be inferred, and for each entry why it cannot or None."""
    wanted: list[InferenceRequest] = []
    problems: list[InvalidRequest | None] = []
    for index, entry in enumerate(entries):
        try:
            wanted.append(wanted_of(parse_infer(entry, limits, where=f"requests.{index}")))
            problems.append(None)
        except InvalidRequest as problem:
            problems.append(problem)
    return wanted, problems


async def _infer(
    request: Request,
    wanted: Sequence[InferenceRequest],
    timeout_ms: float | None,
    asker: Asker,
) -> Sequence[InferenceResult]:
    work = services_of(request).inference.infer(wanted, timeout_ms=timeout_ms, asker=asker)
    results = await run_unless_gone(request, work)
    if len(results) != len(wanted):
        raise InvariantBroken(f"{len(wanted)} requests got {len(results)} results")
    return results
