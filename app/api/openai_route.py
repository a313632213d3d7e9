"""What all routes of OpenAI's dialect share: bodies, headers, and failures in its shape."""

from collections.abc import (
    AsyncGenerator,
    Callable,
    Iterable,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic

from starlette.requests import Request
from starlette.responses import Response

from app.api.body import read_json
from app.api.deps import (
    asker_of,
    models_of,
    note,
    services_of,
    settings_of,
    timeout_ms_of,
)
from app.api.dialect_route import AlreadyCounted, DialectRoute
from app.api.dialects import openai_error
from app.api.disconnect import run_unless_gone
from app.api.envelope import JsonResponse
from app.api.errors import headers_of, shown_to_caller, status_of
from app.api.sse import event, opened, sse_response
from app.core.errors import (
    Cancelled,
    InputTooLong,
    InvariantBroken,
    ModelNotFound,
    ModelUnavailable,
    ServingError,
)
from app.core.types import NOBODY, Answer, Asker, Done, Failed
from app.schemas.openai_common import Body, parse_openai
from app.schemas.request import Limits
from app.services.inference_service import InferenceRequest
from app.services.model_service import ServedVersion
from app.services.openai_chunks import Broken, Writer, chunks
from app.services.openai_generation import Asked
from app.services.openai_parameters import in_callers_words
from app.services.visible_models import Models

IGNORED_HEADER = "X-Ignored-Fields"
VALUES_PER_REQUEST = 20_000  # messages, tools and their schemas, with room to spare
_MAX_NAME_CHARS = 64


class OpenAiRoute(DialectRoute):
    """An input that is too long is 400 here, because that is what clients look for."""

    @staticmethod
    def refusal(request: Request, error: ServingError) -> Response:
        error = shown_to_caller(error)
        return JsonResponse(error_body(request, error), openai_status(error), headers_of(error))


@dataclass(frozen=True, slots=True)
class OpenAiCall(Generic[Body]):
    """One request, read. given: its fields that were sent."""

    body: Body
    given: dict[str, Any]
    found: ServedVersion
    timeout_ms: float | None = None
    asker: Asker = NOBODY

    @property
    def key(self) -> str:
        """`name:version` of who answers."""
        return f"{self.found.name}:{self.found.version}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call asks of the service, and how the answers are shown, whoever waits for them."""

    requests: Sequence[InferenceRequest]
    shown: Callable[[list[Answer]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Writing(Wanted):
    """The same of a call that may be streamed. writer: makes the events."""

    asked: Asked
    writer: Callable[[], Writer]


def openai_status(error: ServingError) -> int:
    return 400 if isinstance(error, InputTooLong) else status_of(error)


def error_body(request: Request, error: ServingError) -> dict[str, Any]:
    """error: as it is shown to callers."""
    return error_object(error, request.scope.get("openai_given", ()))


def error_object(error: ServingError, given: Iterable[str]) -> dict[str, Any]:
    """given: names of the fields that were sent."""
    message, param = in_callers_words(error, given)
    param = "model" if isinstance(error, ModelNotFound) else param
    return openai_error(openai_status(error), error.code, message, param)


async def read_call(request: Request, kind: type[Body], *, values: int = 0) -> OpenAiCall[Body]:
    """Raises a CallerError that says what is wrong. values: how many more the body may hold."""
    timeout_ms, asker = timeout_ms_of(request), asker_of(request)
    settings = settings_of(request)
    value = await read_json(
        request, max_bytes=settings.max_body_bytes, max_values=VALUES_PER_REQUEST + values
    )
    body = parse_openai(kind, value)
    given = body.given()
    request.scope["openai_given"] = given
    request.scope["openai_ignored"] = body.ignored()
    return OpenAiCall(body, given, find(request, body.model), timeout_ms, asker)


def find(request: Request, model: str) -> ServedVersion:
    """By `name` or `name:version`. Raises ModelNotFound, Forbidden."""
    return find_in(models_of(request), model)


def find_in(models: Models, model: str) -> ServedVersion:
    name, _, version = model.partition(":")
    return models.find(name, version or None)


def limits_of(request: Request) -> Limits:
    settings = settings_of(request)
    return Limits(settings.max_text_chars, settings.max_request_items)


async def answer(request: Request, call: OpenAiCall[Any], wanted: Wanted) -> Response:
    """Raises AlreadyCounted with the first failure."""
    return answered(request, wanted.shown(await infer(request, call, wanted.requests)))


async def infer(
    request: Request, call: OpenAiCall[Any], wanted: Sequence[InferenceRequest]
) -> list[Answer]:
    """Raises AlreadyCounted with the first failure."""
    work = services_of(request).inference.infer(
        wanted, timeout_ms=call.timeout_ms, asker=call.asker, is_whole=True
    )
    results = await run_unless_gone(request, work)
    if len(results) != len(wanted):
        raise InvariantBroken(f"{len(wanted)} requests got {len(results)} results")
    note(request, model_used=results[0].model_used)
    answers = []
    for result in results:
        match result.outcome:
            case Failed(error=error):
                raise AlreadyCounted(error)
            case Done(answer=answer):
                answers.append(answer)
    return answers


DONE = b"data: [DONE]\n\n"


async def streamed(
    request: Request, call: OpenAiCall[Any], wanted: Writing, *, named: bool
) -> Response:
    """Server-sent events: what its writer makes. named: by their types, without `[DONE]`.

    Raises AlreadyCounted with what fails before the first piece.
    """
    service = services_of(request).inference
    work = service.stream(wanted.requests, timeout_ms=call.timeout_ms, asker=call.asker)
    try:
        pieces = await opened(request, work)
    except Cancelled:
        raise
    except ServingError as error:
        raise AlreadyCounted(error) from None
    note(request, model_used=call.key)
    stopping = ModelUnavailable("the server is stopping; ask another", retry_after_s=5.0)
    return sse_response(
        request,
        _events(request, pieces, wanted.writer(), named=named),
        headers=ignored_headers(request),
        parting=_error_event(request, stopping, named=named),
    )


async def _events(
    request: Request, pieces: AsyncGenerator[Any, None], writer: Writer, *, named: bool
) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        try:
            async for made in chunks(pieces, writer):
                if isinstance(made, Broken):
                    yield _error_event(request, made.failed.error, named=named)
                    return
                yield event(made, made["type"] if named else "")
        except ServingError as error:  # after a long wait for the first piece
            yield _error_event(request, error, named=named)
            return
    if not named:
        yield DONE


def _error_event(request: Request, error: ServingError, *, named: bool) -> bytes:
    note(request, error=error.code)
    shown = error_body(request, shown_to_caller(error))
    return event({**shown["error"], "type": "error"}, "error") if named else event(shown)


def answered(request: Request, shown: Any) -> Response:
    """Raises nothing; tells which fields of the request were without effect."""
    return JsonResponse(shown, 200, ignored_headers(request))


def ignored_headers(request: Request) -> dict[str, str]:
    names = _shown_names(request.scope.get("openai_ignored", ()))
    return {IGNORED_HEADER: names} if names else {}


def _shown_names(names: Iterable[str]) -> str:
    """A header takes no other characters, and no stranger's text at length."""
    shown = (
        "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "?" for c in name)
        for name in names
    )
    return ", ".join(name[:_MAX_NAME_CHARS] for name in shown)
