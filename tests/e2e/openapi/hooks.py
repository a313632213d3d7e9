"""Keeps what Schemathesis makes up within what can be answered in a moment. It imports this file.

Values that are wrong stay as they are: only what the server would take is made small, so that no
request writes a novel or is given less time than its answer takes.
"""

import os
import re
from collections.abc import MutableMapping
from typing import Any

import schemathesis

FEW_TOKENS, FEW_TEXTS = 2, 2
LONG_MS, TIMEOUT = 60_000, "X-Request-Timeout-Ms"
_LIMITS = {  # by what the path ends in; the first that is sent counts
    "/chat/completions": ("max_completion_tokens", "max_tokens"),
    "/completions": ("max_tokens",),
    "/responses": ("max_output_tokens",),
}
_IDS = {  # of what the server has, by names of parameters and fields: nobody makes them up
    "input_file_id": os.environ.get("OPENAPI_FILE", ""),
    "batch_id": os.environ.get("OPENAPI_BATCH", ""),
}
_MADE_UP = re.compile(r"(?:file-|batch_)[0-9a-f]{31}[4-9a-f]", re.ASCII)  # three in four
_COUNTS = ("n", "best_of", "num_return_sequences")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    _give_time(case.headers)
    for given in (case.path_parameters, case.body):
        if isinstance(given, MutableMapping):
            _name_what_is_there(given)
    path, body = _framed(case.operation.path, case.body)
    if isinstance(body, dict):
        _write_little(path, dict(case.path_parameters or {}), body)


def _name_what_is_there(given: MutableMapping[str, Any]) -> None:
    for name, there in _IDS.items():
        made_up = given.get(name)
        if there and isinstance(made_up, str) and _MADE_UP.fullmatch(made_up):
            given[name] = there


def _framed(path: str, body: Any) -> tuple[str, Any]:
    """Whose body it is: a job may hold that of another route."""
    if path == "/jobs" and isinstance(body, dict):
        if isinstance(body.get("endpoint"), str):
            return body["endpoint"], body.get("body")
        return ("/infer/batch" if "requests" in body else "/infer"), body
    return path, body


def _give_time(headers: Any) -> None:
    try:
        given_ms = float(headers.get(TIMEOUT, "nan"))
    except ValueError:
        return
    if 0 < given_ms < LONG_MS:
        headers[TIMEOUT] = str(LONG_MS)


def _write_little(path: str, named: dict[str, Any], body: dict[str, Any]) -> None:
    for entry in _entries(path, body):
        if entry.get("model", named.get("model_name")) == "generator":
            _limit(entry.setdefault("parameters", {}), ("max_new_tokens",))
    limits = next((names for end, names in _LIMITS.items() if path.endswith(end)), ())
    if limits:
        _limit(body, limits)


def _entries(path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """What may be for the generator."""
    if path.startswith("/v1"):
        return []
    entries = body.get("requests") if path == "/infer/batch" else [body]
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, dict)]


def _limit(parameters: Any, names: tuple[str, ...]) -> None:
    if not isinstance(parameters, dict):
        return
    sent = [name for name in names if parameters.get(name) is not None]
    if not sent:
        parameters[names[0]] = FEW_TOKENS
    for name, most in {
        **dict.fromkeys(sent, FEW_TOKENS),
        **dict.fromkeys(_COUNTS, FEW_TEXTS),
    }.items():
        if isinstance(parameters.get(name), int) and parameters[name] > most:
            parameters[name] = most
