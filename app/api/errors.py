"""Which error type answers with which status. Every failure leaves the server through here."""

import math
from collections.abc import Iterable
from http import HTTPStatus

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import InvalidHeader, request_id_of, services_of
from app.api.envelope import JsonResponse, error_object, failure
from app.api.plain_route import methods_of
from app.core.errors import (
    BatchNotFound,
    BodyTooLarge,
    CallerError,
    Cancelled,
    DeadlineExceeded,
    FileInUse,
    Forbidden,
    IdempotencyKeyReused,
    InputTooLong,
    InvalidJson,
    InvalidRequest,
    JobNotFound,
    KeyNotFound,
    ModelNotFound,
    NameTaken,
    NotCancellable,
    Overloaded,
    PoisonInput,
    QuotaExceeded,
    RateLimited,
    ServingError,
    StillRunning,
    StoredFileNotFound,
    Superseded,
    TryLater,
    Unauthenticated,
    UnsupportedMediaType,
)

log = structlog.get_logger("app.api")

_INTERNAL = "The server failed; its log has the reason under this request id."


class InternalError(ServingError):
    """The server failed; its log has the reason under this request id."""


class NoSuchRoute(CallerError):
    """There is nothing at this path; GET / lists the routes."""

    code = "not_found"


class WrongMethod(CallerError):
    """This path does not take this method."""

    code = "method_not_allowed"

    def __init__(self, request: Request, allowed: Iterable[str]) -> None:
        self.allowed = ", ".join(sorted(allowed))
        super().__init__(f"{request.url.path} takes {self.allowed}, not {request.method}.")


_TOLD = (InternalError, PoisonInput)  # of those with status 500; their text gives nothing away

STATUS: dict[type[ServingError], int] = {
    ServingError: 500,
    CallerError: 400,
    InvalidJson: 400,
    InvalidHeader: 400,
    InvalidRequest: 422,
    BodyTooLarge: 413,
    InputTooLong: 413,
    UnsupportedMediaType: 415,
    Forbidden: 403,
    Unauthenticated: 401,
    KeyNotFound: 404,
    NameTaken: 409,
    Superseded: 409,
    ModelNotFound: 404,
    JobNotFound: 404,
    StoredFileNotFound: 404,
    BatchNotFound: 404,
    FileInUse: 409,
    NotCancellable: 409,
    IdempotencyKeyReused: 422,
    StillRunning: 409,
    NoSuchRoute: 404,
    WrongMethod: 405,
    TryLater: 503,
    Overloaded: 429,
    RateLimited: 429,
    QuotaExceeded: 429,
    DeadlineExceeded: 504,
    PoisonInput: 500,
    Cancelled: 499,  # nobody reads it; the log does
}


def status_of(error: ServingError) -> int:
    """The status of the nearest ancestor in the table."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def headers_of(error: ServingError) -> dict[str, str]:
    """Retry-After in whole seconds, never 0; no second request after a body left unread; the
    methods that a path does take."""
    headers: dict[str, str] = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TryLater):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s or 0)))
    if isinstance(error, WrongMethod) and error.allowed:
        headers["Allow"] = error.allowed
    if isinstance(error, BodyTooLarge):
        headers["Connection"] = "close"
    return headers


def shown_to_caller(error: ServingError) -> ServingError:
    """The error itself, or, for a fault of ours, one that tells nothing; the log has the rest."""
    if status_of(error) != 500 or isinstance(error, _TOLD):
        return error
    log.error("request_failed", exc_info=error)
    return ServingError(_INTERNAL)


def error_response(request: Request, error: ServingError) -> Response:
    """The answer of a request that failed as a whole."""
    error = shown_to_caller(error)
    body = failure(error_object(error), request_id_of(request))
    return JsonResponse(body, status_of(error), headers_of(error))


async def answer_serving_error(request: Request, error: Exception) -> Response:
    """What no service has counted, because none was asked or the call failed as a whole."""
    if not isinstance(error, ServingError):
        error = InternalError(
            _INTERNAL
        )  # its traceback is logged by the middleware that it goes on to
    services_of(request).metrics.observe_rejected(error.code)
    return error_response(request, error)


async def answer_framework_error(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself: unknown routes, wrong methods."""
    response = await answer_serving_error(request, _translated(request, error))
    if isinstance(error, HTTPException):
        for name, value in (error.headers or {}).items():
            response.headers.setdefault(name, value)
    return response


def _translated(request: Request, error: Exception) -> Exception:
    match error:
        case HTTPException(status_code=HTTPStatus.NOT_FOUND):
            return NoSuchRoute()
        case HTTPException(status_code=HTTPStatus.METHOD_NOT_ALLOWED):
            return WrongMethod(request, methods_of(request.app.routes, request))
        case HTTPException(status_code=status, detail=detail) if status < 500:
            return CallerError(str(detail))
        case RequestValidationError():
            return InvalidRequest()
        case _:
            return error


def install(app: FastAPI) -> None:
    """Make the application answer every error in our shape."""
    app.add_exception_handler(ServingError, answer_serving_error)
    app.add_exception_handler(HTTPException, answer_framework_error)
    app.add_exception_handler(RequestValidationError, answer_framework_error)
    app.add_exception_handler(Exception, answer_serving_error)
