"""What shall be otherwise about a key, and what became of it: for the change and the audit log."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from app.core.errors import InvalidRequest
from app.keys.key import Terms
from app.keys.shown import terms_object


@dataclass(frozen=True, slots=True)
class Change:
    """Values by the names of their fields; what is not named stays as it is.

    terms: fields of Terms but `limits`; None for all models, or for no expiry. limits: fields of
    KeyLimits; None takes a limit away. Raises InvalidRequest where it is empty.
    """

    terms: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.terms or self.limits):
            raise InvalidRequest("nothing is to be changed; name at least one field")

    def of(self, terms: Terms) -> Terms:
        """They may be wrong: key.checked says so."""
        return replace(terms, **self.terms, limits=replace(terms.limits, **self.limits))


def differences(before: Terms, after: Terms) -> dict[str, dict[str, Any]]:
    """What was and what is, of each field that differs, as callers see it; null: no limit."""
    was, now = _flat(terms_object(before)), _flat(terms_object(after))
    return {
        name: {"was": was.get(name), "is": now.get(name)}
        for name in dict.fromkeys((*was, *now))
        if was.get(name) != now.get(name)
    }


def _flat(shown: Mapping[str, Any]) -> dict[str, Any]:
    limits = {f"limits.{name}": value for name, value in shown["limits"].items()}
    return {name: value for name, value in shown.items() if name != "limits"} | limits
