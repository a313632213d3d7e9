"""How the server is: one page for people, three probes for orchestrators."""

import time
from collections.abc import Sequence

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import services_of
from app.api.documented import Responses, documented
from app.api.envelope import JsonResponse
from app.api.plain_route import PlainRoute
from app.schemas.response import HealthAnswer, ProbeAnswer
from app.services.model_service import Readiness

router = APIRouter(tags=["health"], route_class=PlainRoute)

_NONE_CAN: Responses = {503: {"model": HealthAnswer, "description": "No version can serve."}}
_NO: Responses = {503: {"model": ProbeAnswer, "description": "No, for these reasons."}}


def status_word(readiness: Readiness) -> str:
    """starting, healthy, degraded or stopping."""
    if readiness.stopping:
        return "stopping"
    if not readiness.started:
        return "starting"
    return "degraded" if readiness.troubles else "healthy"


@router.get("/health", **documented(HealthAnswer, other=_NONE_CAN, is_probe=True))
async def health(request: Request) -> Response:
    """State of the server and of every version."""
    readiness = services_of(request).models.readiness()
    body = {
        "status": status_word(readiness),
        "version": request.app.version,
        "uptime_s": round(time.monotonic() - request.app.state.started_at, 3),
        "models": readiness.versions,
    }
    return JsonResponse(body, 200 if readiness.can_serve else 503)


@router.get("/health/live", **documented(ProbeAnswer, is_probe=True))
async def live(request: Request) -> Response:
    """Whether the process answers at all; restart it if not."""
    return _probe([])


@router.get("/health/ready", **documented(ProbeAnswer, other=_NO, is_probe=True))
async def ready(request: Request) -> Response:
    """Whether to send requests here."""
    readiness = services_of(request).models.readiness()
    if readiness.stopping:
        return _probe(["the server is stopping"])
    return _probe([] if readiness.ready else _not_ready(readiness) or ["nothing is loaded"])


@router.get("/health/startup", **documented(ProbeAnswer, other=_NO, is_probe=True))
async def startup(request: Request) -> Response:
    """Whether the first load of the models is over."""
    readiness = services_of(request).models.readiness()
    return _probe([] if readiness.started else _not_ready(readiness) or ["nothing is loaded"])


def _not_ready(readiness: Readiness) -> list[str]:
    return [
        ": ".join(filter(None, (f"{key} is {version['state']}", version.get("reason"))))
        for key, version in readiness.versions.items()
        if key in readiness.troubles
    ]


def _probe(reasons: Sequence[str]) -> Response:
    return JsonResponse({"ok": not reasons, "reasons": reasons}, 503 if reasons else 200)
