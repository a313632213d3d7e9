"""How the routes of administrators, and access to all routes, appear in the OpenAPI document."""

from typing import Any

from pydantic import BaseModel

from app.api.access import ROUTES, Open
from app.api.documented import ANYWHERE, FAILURES, Responses, failure_shown, headers_shown
from app.api.documented_parameters import REQUEST_ID
from app.api.documented_streams import REF
from app.schemas.open_inference import V2Error
from app.schemas.openai_common import OpenAiError
from app.schemas.response import ErrorAnswer

SECURITY = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key: `Authorization: Bearer sk-...` (docs/keys.md). Not asked for "
        "where ALLOW_ANONYMOUS is set, nor on a loopback address before the first key was made.",
    },
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same."},
}
_BODY_FAILURES = (400, 408, 413, 415, 422)


def _query(name: str, what: str, most: int, example: int) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": most}
    shown = {"name": name, "in": "query", "required": False, "description": what}
    return {**shown, "schema": schema, "example": example}


_PAGES = [
    _query("limit", "How many, at most.", 1000, 100),
    _query("before", "Those with a lower id.", 10**18, 17),
]


def documented_admin(
    answer: type[BaseModel],
    *,
    body: type[BaseModel] | None = None,
    made: bool = False,
    pages: bool = False,
    failures: tuple[int, ...] = (),
    may_be_empty: bool = False,
) -> dict[str, Any]:
    """Arguments of a route. made: it answers 201, or 409 where there is such a one."""
    responses: Responses = {201 if made else 200: {"model": answer, "description": "Done."}}
    wrong = {
        *ANYWHERE,
        *failures,
        503,
        *(_BODY_FAILURES if body is not None else ()),
        *((409,) * made),
    }
    responses.update({status: failure_shown(status) for status in sorted(wrong)})
    if 404 in failures:
        responses[404] = {"model": ErrorAnswer, "description": "No such key."}
    extra: dict[str, Any] = {"parameters": [REQUEST_ID, *(_PAGES if pages else ())]}
    if body is not None:
        schema = {"$ref": REF.format(model=body.__name__)}
        content = {"application/json": {"schema": schema}}
        extra["requestBody"] = {"required": not may_be_empty, "content": content}
    return {"response_model": None, "responses": responses, "openapi_extra": extra}


def _words(name: str, what: str, example: str) -> dict[str, Any]:
    shown = {"name": name, "in": "query", "required": False, "description": what}
    return {**shown, "schema": {"type": "string", "minLength": 1}, "example": example}


_USAGE = [
    _words("from", "First day, in UTC; 30 days up to the last where it is left out.", "2027-01-01"),
    _words("to", "Last day; today where it is left out.", "2027-01-31"),
    _words(
        "group_by", "`key`, `model`, `version`, `day`, by commas; usually `model`.", "key,model"
    ),
    _words("key", "A key's name or id; another's needs the scope `admin`.", "shop-frontend"),
    _words("format", "`json` or `csv`.", "csv"),
]


def documented_usage(answer: type[BaseModel]) -> dict[str, Any]:
    """Arguments of the route."""
    shown = documented_admin(answer, failures=(404, 422))
    shown["responses"][200]["content"] = {"text/csv": {"schema": {"type": "string"}}}
    shown["openapi_extra"]["parameters"] += _USAGE
    return shown


def with_access(document: dict[str, Any]) -> None:
    """What each route asks for, from the same table as the server's own checks."""
    document["components"]["securitySchemes"] = SECURITY
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            access = ROUTES[f"{method.upper()} {path}"]
            if access is Open.TO_ALL:
                continue
            operation["security"] = [{name: []} for name in SECURITY]
            if not isinstance(access, Open):
                needs = f"Needs the scope `{access.value}`."
                operation["description"] = f"{operation.get('description', '')}\n\n{needs}".strip()
            for status in (401, 403, 429):
                operation["responses"].setdefault(str(status), _refusal(path, status))


def _refusal(path: str, status: int) -> dict[str, Any]:
    model: type[BaseModel] = ErrorAnswer
    if path.startswith("/v1/"):
        model = OpenAiError
    elif path == "/v2" or path.startswith("/v2/"):
        model = V2Error
    shown: dict[str, Any] = {"schema": {"$ref": REF.format(model=model.__name__)}}
    if model is ErrorAnswer:
        shown |= failure_shown(status)["content"]["application/json"]
    refusal = {"description": FAILURES[status][0], "content": {"application/json": shown}}
    return {**refusal, **headers_shown(status)}
