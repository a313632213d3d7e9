"""What routes are given: the services behind them, and what the request says about itself."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from starlette.requests import Request

from app.core.config import Settings
from app.core.errors import CallerError
from app.services.inference_service import InferenceRequest, InferenceResult
from app.services.model_service import Readiness

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
MAX_TIMEOUT_MS = 3_600_000
_DECIMAL = re.compile(r"[0-9]{1,7}(?:\.[0-9]{1,6})?", re.ASCII)


class InvalidHeader(CallerError):
    """A request header is malformed or out of bounds."""


class InferenceService(Protocol):
    async def infer(
        self, requests: Sequence[InferenceRequest], *, timeout_ms: float | None
    ) -> Sequence[InferenceResult]:
        """One result per request, in order. Raises only what concerns all of them."""


class ModelService(Protocol):
    def describe(self) -> Sequence[Mapping[str, Any]]:
        """Every version with its parameters, for `/models`."""

    def readiness(self) -> Readiness:
        """What can be served now."""


class Metrics(Protocol):
    def render(self) -> bytes:
        """Prometheus text."""

    def summary(self) -> Mapping[str, Any]:
        """The same as JSON."""

    def observe_rejected(self, code: str) -> None:
        """Count a request that was answered with an error as a whole."""


class AppServices(Protocol):
    @property
    def inference(self) -> InferenceService: ...

    @property
    def models(self) -> ModelService: ...

    @property
    def metrics(self) -> Metrics: ...


def services_of(request: Request) -> AppServices:
    services: AppServices = request.app.state.services
    return services


def settings_of(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def request_id_of(request: Request) -> str:
    """The id that the middleware took over or made."""
    request_id: str = request.scope["request_id"]
    return request_id


def timeout_ms_of(request: Request) -> float | None:
    """The caller's own deadline, if any. Raises InvalidHeader."""
    given = request.headers.getlist(TIMEOUT_HEADER)
    if not given:
        return None
    if len(given) == 1 and _DECIMAL.fullmatch(given[0]):
        timeout_ms = float(given[0])
        if 0 < timeout_ms <= MAX_TIMEOUT_MS:
            return timeout_ms
    raise InvalidHeader(
        f"{TIMEOUT_HEADER} is {', '.join(given)[:100]!r}; send one decimal number of milliseconds "
        f"above 0 and at most {MAX_TIMEOUT_MS}."
    )


def note(request: Request, **fields: Any) -> None:
    """Add fields to the request's line in the log."""
    request.scope["log_fields"].update(fields)
