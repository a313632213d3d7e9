"""A failure as the protocol writes it that its path belongs to: OpenAI's under /v1, the Open
Inference Protocol's under /v2, our own anywhere else, and where the path is not known."""

from typing import Any

import msgspec

from app.api.envelope import failure

_encode = msgspec.json.Encoder().encode
_CODES = {  # what OpenAI's clients look for
    "input_too_long": "context_length_exceeded",
    "overloaded": "rate_limit_exceeded",
    "rate_limited": "rate_limit_exceeded",
    "quota_exceeded": "insufficient_quota",
    "unauthenticated": "invalid_api_key",
}


def failure_bytes(
    path: str,
    status: int,
    code: str,
    message: str,
    request_id: str,
    retry_after_s: float | None = None,
) -> bytes:
    """For what is refused below the application, and around it."""
    if _is_under(path, "/v1"):
        return _encode(openai_error(status, code, message))
    if _is_under(path, "/v2"):
        return _encode({"error": message})
    error: dict[str, Any] = {"code": code, "message": message}
    if retry_after_s is not None:
        error["retry_after_s"] = retry_after_s
    return _encode(failure(error, request_id))


def openai_error(
    status: int, code: str, message: str, param: str | None = None
) -> dict[str, dict[str, Any]]:
    """code: ours."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    kind = "rate_limit_error" if status == 429 else kind
    shown = {"message": message, "type": kind, "param": param}
    return {"error": {**shown, "code": _CODES.get(code, code)}}


def _is_under(path: str, root: str) -> bool:
    return path == root or path.startswith((f"{root}/", f"{root}?"))
