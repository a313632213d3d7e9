"""GET /v1/models, and what is at no other path of OpenAI's dialect."""

import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api import (
    openai_batches,
    openai_files,
    openai_generation,
    openai_responses,
    openai_texts,
)
from app.api.deps import models_of
from app.api.dialect_route import ANY_METHOD, nothing_here
from app.api.envelope import JsonResponse
from app.api.openai_documented import documented_openai
from app.api.openai_route import OpenAiRoute, find
from app.schemas.openai_common import OpenAiModel, OpenAiModels
from app.services.model_service import ServedVersion

router = APIRouter(tags=["openai"], route_class=OpenAiRoute)
nowhere = APIRouter(route_class=OpenAiRoute)


@router.get("/v1/models", **documented_openai(OpenAiModels))
async def openai_models(request: Request) -> Response:
    """Each model under its name, for its default version, and under `name:version`."""
    models = models_of(request)
    shown: list[dict[str, Any]] = []
    seen: set[str] = set()
    for served in models.served():
        if served.name not in seen:
            seen.add(served.name)
            shown.append(_model(request, served.name, models.find(served.name, None)))
        shown.append(_model(request, f"{served.name}:{served.version}", served))
    return JsonResponse({"object": "list", "data": shown})


@router.get("/v1/models/{model_name}", **documented_openai(OpenAiModel))
async def openai_model(request: Request) -> Response:
    """One of them."""
    model: str = request.path_params["model_name"]
    return JsonResponse(_model(request, model, find(request, model)))


def _model(request: Request, name: str, served: ServedVersion) -> dict[str, Any]:
    started = time.time() - (time.monotonic() - request.app.state.started_at)
    return {
        "id": name,
        "object": "model",
        "created": int(started),
        "owned_by": request.app.state.name,
        "task": served.task,
        "state": served.state,
    }


@nowhere.api_route("/v1/{rest:path}", methods=ANY_METHOD, include_in_schema=False)
async def openai_nowhere(request: Request) -> Response:
    """What is at no other path fails in OpenAI's shape, too."""
    parts = (openai_generation, openai_responses, openai_texts, openai_files, openai_batches)
    nothing_here(request, [*(part.router for part in parts), router])
