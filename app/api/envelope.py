"""The frame around every answer: success, request id, timestamp. Written once, by msgspec."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.responses import Response

from app.core.errors import ServingError

_encode = msgspec.json.Encoder().encode


class JsonResponse(Response):
    """A JSON answer that is serialised once and validated by nobody: we made it ourselves."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return _encode(content)


def timestamp() -> str:
    """Now, in UTC, as RFC 3339 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def error_object(error: ServingError) -> dict[str, Any]:
    """`code` and `message`, with the list of problems and the waiting time where there are any."""
    shown: dict[str, Any] = {"code": error.code, "message": str(error)}
    if details := getattr(error, "details", None):
        shown["details"] = details
    if error.retry_after_s is not None:
        shown["retry_after_s"] = error.retry_after_s
    return shown


def failure(error: Mapping[str, Any], request_id: str) -> dict[str, Any]:
    """The body of every failed request and of every failed entry of a batch."""
    return {
        "success": False,
        "error": error,
        "request_id": request_id,
        "timestamp": timestamp(),
    }
