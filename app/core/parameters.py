"""Request parameters as data: one declaration checks them, documents them and fills the gaps."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from app.core.errors import InvalidRequest

Kind = Literal["integer", "number", "boolean", "string", "strings", "object"]

_PYTHON_TYPES: Mapping[Kind, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "string": (str,),
    "strings": (list, tuple),
    "object": (dict,),
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One request parameter.

    minimum and maximum bound a number; max_length bounds a string, or each of `strings`, in
    characters; max_items bounds `strings`; choices are the only strings that are taken. What an
    `object` holds is checked by its task. A parameter whose default is None may be null.
    """

    name: str
    kind: Kind
    default: Any
    description: str
    minimum: float | None = None
    maximum: float | None = None
    max_length: int | None = None
    max_items: int | None = None
    choices: tuple[str, ...] | None = None

    def describe(self) -> dict[str, Any]:
        """What `/models` shows: every bound that is set."""
        shown = {"name", "kind", "default", "description"}
        return {
            key: value for key, value in asdict(self).items() if key in shown or value is not None
        }

    def check(self, value: Any) -> Any:
        """The value to use. Raises InvalidRequest naming the field, the bound and the value."""
        if value is None and self.default is None:
            return None
        if not self._has_kind(value):
            raise self._refusal(f"must be {self._kind_words()}, not {type(value).__name__}")
        if self.kind in ("integer", "number"):
            self._check_bounds(value)
        if self.kind == "string":
            self._check_length(value)
            self._check_choice(value)
        if self.kind == "strings":
            self._check_strings(value)
        return float(value) if self.kind == "number" else value

    def _has_kind(self, value: Any) -> bool:
        is_bool = isinstance(value, bool)  # a bool is an int to Python, not to callers
        return isinstance(value, _PYTHON_TYPES[self.kind]) and is_bool == (self.kind == "boolean")

    def _kind_words(self) -> str:
        words = {
            "strings": "a list of strings",
            "integer": "an integer",
            "object": "an object",
        }
        return words.get(self.kind, f"a {self.kind}")

    def _check_bounds(self, value: float) -> None:
        if self.minimum is not None and not value >= self.minimum:
            raise self._refusal(f"must be at least {_shown(self.minimum)}, not {_shown(value)}")
        if self.maximum is not None and not value <= self.maximum:
            raise self._refusal(f"must be at most {_shown(self.maximum)}, not {_shown(value)}")

    def _check_length(self, value: str) -> None:
        if self.max_length is not None and len(value) > self.max_length:
            raise self._refusal(f"has {len(value)} characters, at most {self.max_length} are taken")

    def _check_choice(self, value: str) -> None:
        if self.choices is not None and value not in self.choices:
            raise self._refusal(f"must be one of: {', '.join(self.choices)}")

    def _check_strings(self, values: Iterable[Any]) -> None:
        values = list(values)
        if self.max_items is not None and len(values) > self.max_items:
            raise self._refusal(f"has {len(values)} entries, at most {self.max_items} are taken")
        for value in values:
            if not isinstance(value, str) or not value:
                raise self._refusal("must hold non-empty strings only")
            self._check_length(value)

    def _refusal(self, problem: str) -> InvalidRequest:
        return InvalidRequest(f"parameters.{self.name} {problem}")


def _shown(number: float) -> str:
    """A number in a message. JSON's integers have no limit; Python's `:g` and `str` do."""
    if isinstance(number, float):
        return f"{number:g}"
    return str(number) if abs(number) < 10**20 else "a number of more than 20 digits"


def resolve(declared: Iterable[Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every declared parameter with its given or default value.

    Raises InvalidRequest for an unknown name, a wrong type or a value out of bounds.
    """
    table = {parameter.name: parameter for parameter in declared}
    for name in given:
        if name not in table:
            known = ", ".join(sorted(table)) or "none"
            raise InvalidRequest(f"parameters.{name} is unknown; this version takes: {known}")
    return {
        name: parameter.check(given[name]) if name in given else parameter.default
        for name, parameter in table.items()
    }
