"""The models that a caller may know of; of any other he is told that he may not use it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from app.core.errors import Forbidden
from app.services.model_service import ServedVersion


class Models(Protocol):
    def describe(self) -> Sequence[Mapping[str, Any]]: ...

    def find(self, name: str, version: str | None) -> ServedVersion: ...

    def served(self) -> Sequence[ServedVersion]: ...


def check_model(allowed: frozenset[str] | None, name: str) -> None:
    """allowed: None for all. Raises Forbidden, whether or not there is such a model."""
    if allowed is not None and name not in allowed:
        raise Forbidden(f"this API key may not use the model {name[:80]!r}")


class VisibleModels:
    """allowed: names."""

    def __init__(self, models: Models, allowed: frozenset[str]) -> None:
        self._models = models
        self._allowed = allowed

    def describe(self) -> Sequence[Mapping[str, Any]]:
        return [model for model in self._models.describe() if model["name"] in self._allowed]

    def find(self, name: str, version: str | None) -> ServedVersion:
        """Raises Forbidden, ModelNotFound."""
        check_model(self._allowed, name)
        return self._models.find(name, version)

    def served(self) -> Sequence[ServedVersion]:
        return [served for served in self._models.served() if served.name in self._allowed]
