"""GET /models: what can be asked for."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import models_of, settings_of
from app.api.documented import documented
from app.api.envelope import JsonResponse
from app.api.plain_route import PlainRoute
from app.schemas.response import ModelsAnswer

router = APIRouter(tags=["models"], route_class=PlainRoute)


@router.get("/models", **documented(ModelsAnswer))
async def models(request: Request) -> Response:
    """Every version: what it does, its state, and each parameter with type, bounds and default."""
    return JsonResponse(
        {
            "default_model": settings_of(request).default_model,
            "models": models_of(request).describe(),
        }
    )
