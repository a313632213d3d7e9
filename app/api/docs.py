"""/docs, /openapi.json and their files, all served from here: no page of ours needs the internet.

The page runs no inline script, so its content security policy can forbid them.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.api.envelope import JsonResponse

_FOLDER = Path(__file__).parent / "static" / "swagger"
_MEDIA_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "init.js": "text/javascript; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it goes over the wire."""

    content: bytes
    media_type: str
    etag: str


def load_assets() -> dict[str, Asset]:
    """The files of the page, by name; names that are not in the table are never opened."""
    assets = {}
    for name, media_type in _MEDIA_TYPES.items():
        content = (_FOLDER / name).read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        assets[name] = Asset(content, media_type, etag)
    return assets


router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def page(request: Request) -> Response:
    return _file(request, "index.html")


@router.get("/docs/{name}")
async def file(request: Request) -> Response:
    return _file(request, request.path_params["name"])


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    return JsonResponse(request.app.state.openapi)


def _file(request: Request, name: str) -> Response:
    asset: Asset | None = request.app.state.assets.get(name)
    if asset is None:
        raise HTTPException(404)
    headers = {**_HEADERS, "ETag": asset.etag}
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers=headers, media_type=asset.media_type)
