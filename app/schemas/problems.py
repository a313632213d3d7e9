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
    "bool_type": "must be true or false, not {got}",
    "int_type": "must be a whole number, not {input}",
    "int_from_float": "must be a whole number, not {input}",
    "float_type": "must be a number, not {got}",
    "finite_number": "must be a finite number",
    "greater_than_equal": "must be at least {ge}, not {input}",
    "greater_than": "must be above {gt}, not {input}",
    "less_than_equal": "must be at most {le}, not {input}",
    "string_type": "must be a string, not {got}",
    "string_too_short": "must have {min_length} characters or more",
    "string_too_long": "must have at most {max_length} characters",
    "dict_type": "must be an object, not {got}",
    "list_type": "must be a list, not {got}",
    "literal_error": "must be {expected}",
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
_MEMBERS = {  # how pydantic names what a field may be, where that is one of several
    "str": "a string",
    "list[any]": "a list",
    "list[str]": "a list of strings",
    "dict[str,any]": "an object",
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
    findings = error.errors(include_url=False)
    problems: list[dict[str, str]] = []
    while findings and len(problems) < _MAX_DETAILS:
        first, *others = findings
        same = [finding for finding in others if _member(first) and _is_beside(finding, first)]
        findings = [finding for finding in others if finding not in same]
        problems.append(_problem(first, where) if not same else _of_members(first, same, where))
    return InvalidFields(problems)


def _member(finding: ErrorDetails) -> str | None:
    """Which of several kinds was tried, where a field of the body takes several."""
    step = finding["loc"][1] if len(finding["loc"]) > 1 else None
    return _MEMBERS.get(step) if isinstance(step, str) else None


def _is_beside(finding: ErrorDetails, first: ErrorDetails) -> bool:
    return finding["loc"][0] == first["loc"][0] and _member(finding) is not None


def _of_members(first: ErrorDetails, others: list[ErrorDetails], where: str) -> dict[str, str]:
    """What lies deeper was of the right kind, and tells more."""
    deeper = next((each for each in others if len(each["loc"]) > 2), None)
    if deeper is not None:
        field, _, *steps = deeper["loc"]
        return _problem({**deeper, "loc": (field, *steps)}, where)
    kinds = dict.fromkeys(kind for each in (first, *others) if (kind := _member(each)))
    problem = f"must be {' or '.join(kinds)}, not {_json_name(first['input'])}"
    return {"field": _field(first["loc"][:1], where), "problem": problem}


def _problem(finding: ErrorDetails, where: str) -> dict[str, str]:
    sentence = _SENTENCES.get(finding["type"])
    return {
        "field": _field(finding["loc"], where),
        "problem": finding["msg"] if sentence is None else _filled(sentence, finding),
    }


def _filled(sentence: str, finding: ErrorDetails) -> str:
    given = finding["input"]
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    shown = given if is_number else _json_name(given)
    return sentence.format(got=_json_name(given), input=shown, **finding.get("ctx", {}))


def _field(loc: tuple[int | str, ...], where: str) -> str:
    steps = [str(step)[:_MAX_NAME_CHARS] for step in loc]
    return ".".join([where, *steps] if where else steps) or "body"


def _json_name(value: Any) -> str:
    return _JSON_NAMES.get(type(value).__name__, type(value).__name__)
