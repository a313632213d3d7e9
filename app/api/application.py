"""The ASGI application: routes, error answers, documentation, and what surrounds them."""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from app.api import (
    admin,
    docs,
    errors,
    health,
    inference,
    jobs,
    metrics,
    models,
    open_inference,
    openai_batches,
    openai_files,
    openai_generation,
    openai_models,
    openai_responses,
    openai_texts,
    usage,
)
from app.api.authentication import API_KEY, AUTHORIZATION, Authentication
from app.api.deps import PRIORITY_HEADER, TIMEOUT_HEADER, AppServices
from app.api.documented import documented
from app.api.documented_admin import with_access
from app.api.documented_jobs import STREAM as STREAM_OF_JOBS
from app.api.documented_parameters import with_path_parameters
from app.api.documented_streams import REF, Payloads, models_of
from app.api.envelope import JsonResponse
from app.api.middleware import RequestContext
from app.api.plain_route import PlainRoute
from app.core.config import Settings
from app.schemas.jobs import JobBody
from app.schemas.openai_batches import FileForm, OpenAiBatchBody
from app.schemas.openai_generation import ChatBody, CompletionBody
from app.schemas.openai_responses import ResponsesBody, ResponsesEvent
from app.schemas.openai_texts import ClassifyBody, EmbeddingsBody, RerankBody, ScoreBody
from app.schemas.request import BatchBody, InferBody
from app.schemas.response import IndexAnswer

NAME = "ai-inference-backend"
VERSION = "0.1.0"

_DESCRIPTION = """\
Summarizers, classifiers, embedders and language models side by side, with versions.

Requests are strict JSON: unknown fields, wrong types and values out of bounds are refused with a
message that names the field, the limit and the remedy. Every answer has a request id.
"""
_TAGS = [
    {"name": "inference", "description": "Ask a model."},
    {"name": "jobs", "description": "Ask now, fetch the answer later."},
    {"name": "open inference protocol", "description": "Version 2, for its own clients."},
    {"name": "openai", "description": "OpenAI's API, for its own clients."},
    {"name": "models", "description": "Which models and versions there are."},
    {"name": "health", "description": "How the server is."},
    {"name": "metrics", "description": "What it has done."},
    {"name": "usage", "description": "What was used, and what it cost."},
    {"name": "admin", "description": "Who may use it."},
]

OPENAI = (
    openai_generation,
    openai_responses,
    openai_texts,
    openai_files,
    openai_batches,
    openai_models,
)
STREAMS: tuple[Payloads, ...] = (
    inference.STREAM,
    STREAM_OF_JOBS,
    openai_generation.CHAT_STREAM,
    openai_generation.COMPLETION_STREAM,
    ResponsesEvent,
)
OPENAI_BODIES = (
    ChatBody,
    CompletionBody,
    ResponsesBody,
    EmbeddingsBody,
    RerankBody,
    ScoreBody,
    ClassifyBody,
    OpenAiBatchBody,
    FileForm,
)

# Keys travel in headers that a page must set itself, so no credentials of the browser's are taken.
_SHARED_WITH_PAGES: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "PATCH", "DELETE"],
    "allow_headers": [AUTHORIZATION, API_KEY, "Content-Type", TIMEOUT_HEADER, PRIORITY_HEADER]
    + ["X-Request-ID"],
    "expose_headers": ["X-Request-ID", "Retry-After", "RateLimit", "RateLimit-Policy"],
    "max_age": 600,
}

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

router = APIRouter(tags=["health"], route_class=PlainRoute)


@router.get("/", **documented(IndexAnswer))
async def index(request: Request) -> Response:
    """Where everything is."""
    paths: dict[str, dict[str, Any]] = request.app.state.openapi["paths"]
    routes = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
    return JsonResponse(
        {"name": NAME, "version": VERSION, "routes": [*routes, "GET /docs", "GET /openapi.json"]}
    )


def build_app(
    services: AppServices, settings: Settings, *, lifespan: Lifespan | None = None
) -> ASGIApp:
    """Everything that a server needs to be given. `lifespan` starts and stops the services."""
    app = FastAPI(
        title="AI inference backend",
        version=VERSION,
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        openapi_url=None,  # served by docs.py, like the page
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # core/metrics.py is ours
        lifespan=lifespan,
    )
    app.state.services = services
    app.state.settings = settings
    app.state.started_at = time.monotonic()
    app.state.name = NAME
    app.state.assets = docs.load_assets()
    parts = (inference, jobs, open_inference, *OPENAI, models, health, metrics, usage, admin, docs)
    for part in parts:
        app.include_router(part.router)
    app.include_router(openai_models.nowhere)
    app.include_router(router)
    errors.install(app)
    app.state.openapi = openapi_document(app, settings)
    guarded = Authentication(app, services.gate, services.metrics.observe_rejected)
    shared: ASGIApp = guarded
    if settings.allowed_origins:
        shared = CORSMiddleware(guarded, settings.allowed_origins, **_SHARED_WITH_PAGES)
    return RequestContext(shared, settings.allowed_host_names)


def openapi_document(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """FastAPI's document, plus the bodies that routes read themselves and this server's limits."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        tags=app.openapi_tags,
        routes=app.routes,
    )
    schemas = document["components"]["schemas"]
    with_path_parameters(document["paths"])
    with_access(document)
    bodies: list[type[BaseModel]] = [
        InferBody,
        BatchBody,
        JobBody,
        *open_inference.BODIES,
        *OPENAI_BODIES,
        *admin.BODIES,
    ]
    for body in bodies + [each for payloads in STREAMS for each in models_of(payloads)]:
        schemas[body.__name__] = body.model_json_schema(ref_template=REF)
        schemas |= schemas[body.__name__].pop("$defs", {})
    schemas["InferBody"]["properties"]["text"]["maxLength"] = settings.max_text_chars
    entries = schemas["BatchBody"]["properties"]["requests"]
    entries["items"] = {"$ref": REF.format(model="InferBody")}
    entries["maxItems"] = settings.max_request_items
    return document
