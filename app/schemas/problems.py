"""pydantic's findings in our words: the field, what is wrong, what would be right."""

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.core.errors import InvalidRequest

_MAX_DETAILS = 16
_MAX_NAME_CHARS = 64

_SENTENCES = {
    "missing": "is missing",
    "extra_forbidden": "is unknown; take it out or check its spelling",
    "string_type": "must be a string, not {got}",
    "dict_type": "must be an object, not {got}",
    "list_type": "must be a list, not {got}",
    "model_type": "must be an object, not {got}",
    "model_attributes_type": "must be an object, not {got}",
}
_JSON_NAMES = {
    "NoneType": "null",
    "bool": "a boolean",
    "int": "a number",
    "float": "a number",
    "str": "a string",
    "list": "a list",
    "dict": "an object",
}


class InvalidFields(InvalidRequest):
    """Several fields may be wrong; the message tells the first, details tell all."""

    def __init__(self, problems: list[dict[str, str]]) -> None:
        first = problems[0]
        more = f" ({len(problems) - 1} more in details)" if len(problems) > 1 else ""
        super().__init__(f"{first['field']} {first['problem']}.{more}")
        self.details = problems if more else []


def refusal(error: ValidationError, where: str = "") -> InvalidFields:
    """What to tell the caller. `where` is the path of the value that was checked."""
    findings = error.errors(include_url=False)[:_MAX_DETAILS]
    return InvalidFields([_problem(finding, where) for finding in findings])


def _problem(finding: ErrorDetails, where: str) -> dict[str, str]:
    steps = [str(step)[:_MAX_NAME_CHARS] for step in finding["loc"]]
    sentence = _SENTENCES.get(finding["type"], finding["msg"])
    return {
        "field": ".".join([where, *steps] if where else steps) or "body",
        "problem": sentence.replace("{got}", _json_name(finding["input"])),
    }


def _json_name(value: Any) -> str:
    return _JSON_NAMES.get(type(value).__name__, type(value).__name__)
